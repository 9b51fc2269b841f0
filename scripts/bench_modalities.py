"""What a training step costs against the modalities that a model knows and those that a batch has.

    python scripts/bench_modalities.py [--batch 32] [--rounds 5]

times forward and backward of `recipes/five.py` at the sizes of its demo on noise: models that know one to five
modalities, on batches in which everybody has one or all of them, and on samples of which each has one of the five
(sorted into micro-batches by what they have, as training does, and mixed). Rounds alternate; the smallest time is told.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import tyro
from rich.console import Console
from rich.table import Table

from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Batch, map_raw
from recipes.five import DEMO, FIVE, SIZES


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch: int = 32
    """Samples a step."""
    rounds: int = 5
    """Times each case is measured."""
    threads: int = 1
    """Of torch."""


def model_of(known: Sequence[str]) -> MaskedModel:
    """The demo's model of some modalities. A text needs no tokenizer here: its ids are noise."""
    recipe = apply(FIVE, SIZES["tiny"] | {path: value for path, value in DEMO.items() if path != "size"})
    parts = {part: {name: getattr(recipe, part)[name] for name in known} for part in ("modalities", "masking", "tasks")}
    objective = {name: term for name, term in recipe.objective.items() if name != "contrastive" or len(known) > 1}
    torch.manual_seed(0)
    return MaskedModel(replace(recipe, **parts, objective=objective))


def batch_of(model: MaskedModel, present: dict[str, list[bool]]) -> Batch:
    """Noise of the modalities that somebody has."""
    b = len(next(iter(present.values())))
    flags = {name: torch.tensor(present.get(name, [False] * b)) for name in model.method.modalities}
    generator = torch.Generator().manual_seed(0)

    def noise(leaf: torch.Tensor) -> torch.Tensor:
        if leaf.ndim == 0:
            return leaf.expand(b)  # a length
        high = 200 if leaf.dtype in (torch.uint8, torch.int16, torch.int64) else 2
        return torch.randint(0, high, (b, *leaf.shape), generator=generator).to(leaf.dtype) + (
            torch.rand(b, *leaf.shape, generator=generator) if leaf.is_floating_point() else 0
        )

    raws = {name: map_raw(noise, part.blank()) for name, part in model.method.modalities.items() if flags[name].any()}
    ids = torch.arange(b)
    return Batch({"main": raws}, flags, ids, ids + 1, torch.tensor(0))


def seconds(model: MaskedModel, batches: Sequence[Batch]) -> float:
    """Of one forward and backward pass of each."""
    model.zero_grad()
    began = time.perf_counter()
    for batch in batches:
        sum(term.total for term in model(batch).values()).backward()  # type: ignore[union-attr]
    return time.perf_counter() - began


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    names, b = tuple(FIVE.modalities), options.batch
    models = {known: model_of(names[:known]) for known in range(1, len(names) + 1)}
    cases: dict[str, tuple[int, int, list[Batch]]] = {}
    for known, model in models.items():
        for there in {1, known}:
            batch = batch_of(model, {name: [True] * b for name in names[:there]})
            cases[f"knows {known}, everybody has {there}"] = (known, there, [batch])
    every, fifth = models[5], max(b // 5, 1)
    each = {name: [row % 5 == place for row in range(5 * fifth)] for place, name in enumerate(names)}
    cases["knows 5, each sample has one, sorted"] = (5, 1, [batch_of(every, {name: [True] * fifth}) for name in names])
    cases["knows 5, each sample has one, mixed"] = (5, 1, [batch_of(every, each)])
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(options.rounds):
        for case, (known, _, batches) in cases.items():
            best[case] = min(best[case], seconds(models[known], batches))
    view = Table(box=None)
    for column in ("case", "visible tokens", "ms", "visible tokens/s"):
        view.add_column(column, justify="left" if column == "case" else "right")
    for case, (known, _, batches) in cases.items():
        visible = sum(int(Step(models[known], batch).fullness()[0]) for batch in batches)
        view.add_row(case, f"{visible}", f"{1000 * best[case]:.0f}", f"{visible / best[case]:,.0f}")
    Console(width=100).print(view)


if __name__ == "__main__":
    main(tyro.cli(Options))
