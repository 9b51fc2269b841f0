"""What one encoder learns across modalities, on held-out scenes of the sample world.

    python scripts/crossmodal.py --out results/seed-0.json --seed 0 [--shuffled] [--train 2048] [--steps 500]

trains `recipes/five.py` at the sizes of its demo and prints retrieval from every modality to every other, for
    trained      partners of the same scene
    untrained    the same with the model as it began
    redepicted   the partner drawn anew: the same factors, another background, noise, wording ...
    redrawn      the partner of another scene with the same number: independent factors, so chance is all there is
With --shuffled it trains on partners of different scenes, which must come out at chance.

A candidate is right if all its factors are the query's, whichever scene it is of. Every file is read once, in its
evaluation view, so that training costs what the model costs.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from mmim import demo
from mmim.data.loader import Reader
from mmim.data.order import Layout
from mmim.data.sources import Sample
from mmim.data.world import Scene, ensure_world, train_and_heldout
from mmim.embed import embed, read
from mmim.evaluation.retrieval import Retrieval, retrieve
from mmim.modality import Modality, Source
from mmim.model import MaskedModel
from mmim.options import apply
from mmim.plan import prepared
from mmim.training.loop import Job, fresh_model, train
from mmim.training.recipe import Recipe
from mmim.training.tracker import Tracker
from recipes.five import DEMO, FIVE, SIZES

HELDOUT = 256  # scenes


@dataclass(frozen=True)
class Options:
    """What to run."""

    out: Path
    """JSON file to write."""
    seed: int = 0
    """Of weights, order and masks; the scenes are the same."""
    train: int = 2048
    """Training scenes."""
    steps: int = 500
    """Optimiser steps."""
    batch: int = 64
    """Samples a step."""
    use: tuple[str, ...] = tuple(FIVE.modalities)
    """Modalities."""
    shuffled: bool = False
    """Train on partners of different scenes."""
    centred: bool = True
    """Contrast vectors less their mean over the batch; --no-centred shows what that is good for."""
    threads: int = 1
    """Of torch."""


def recipe_of(options: Options) -> Recipe:
    """The demo of `five` with some of its modalities."""
    recipe = apply(FIVE, SIZES["tiny"] | {path: value for path, value in DEMO.items() if path != "size"})
    parts = {
        part: {name: getattr(recipe, part)[name] for name in options.use} for part in ("modalities", "masking", "tasks")
    }
    recipe = apply(recipe, {"objective.contrastive.centred": options.centred})
    return replace(
        recipe, **parts, seed=options.seed, batch=options.batch, micro_batch=options.batch, steps=options.steps
    )


def samples_of(scenes: Sequence[Scene], modalities: Mapping[str, Modality], split: str) -> list[Sample]:
    """The scenes of a split, drawn on first use, each with a file of every modality."""
    folder = ensure_world(scenes, modalities) / split
    stems = sorted({path.name.split(".")[0] for path in folder.iterdir() if path.name != "index.csv"})
    return [
        Sample(stem, {name: Source(folder / f"{stem}{part.suffix}") for name, part in modalities.items()})
        for stem in stems
    ]


def shuffle(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The same files in samples of different scenes."""
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(len(samples)) for name in samples[0].sources}
    return [
        replace(sample, sources={name: samples[order[name][row]].sources[name] for name in sample.sources})
        for row, sample in enumerate(samples)
    ]


def read_once() -> None:
    """Let every file be read once a process, in its evaluation view."""

    @cache
    def once(modality: Modality, source: Source) -> object:
        return modality.read(source, None)

    Reader._read = lambda self, modality, source, keys: [once(modality, source)] * len(keys)  # type: ignore[assignment, return-value]


def trained(recipe: Recipe, samples: Sequence[Sample]) -> tuple[MaskedModel, MaskedModel]:
    """The model after training, and as it began."""
    with TemporaryDirectory() as folder:
        job = Job(recipe, samples, Layout(recipe.batch, recipe.batch), recipe.steps or 0, Path(folder), 0)
        tracker = Tracker(job.folder, 0, job.steps, main=True, console=Console())
        try:
            model = train(job, Accelerator(cpu=True), tracker)
        finally:
            tracker.stop()
    return model, fresh_model(recipe).eval()


def vectors(model: MaskedModel, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Each modality's vectors."""
    found = embed(model, samples, read(samples, model.method.modalities, batch=64)).vectors
    return {name: found[name] for name in model.method.modalities}


def scores(
    queries: Mapping[str, np.ndarray], candidates: Mapping[str, np.ndarray], groups: Sequence[str] | None, seed: int
) -> dict[str, Retrieval]:
    """Retrieval of every pair in both directions, named `from -> to`."""
    return {
        f"{one} -> {other}": retrieve(queries[one], candidates[other], groups, seed, centred=True)
        for one in queries
        for other in queries
        if one != other
    }


def run(options: Options) -> dict[str, dict[str, Retrieval]]:
    """Train and score."""
    torch.set_num_threads(options.threads)
    recipe, scenes = recipe_of(options), train_and_heldout(options.train, HELDOUT, demo.SEED)
    samples = samples_of(scenes, recipe.modalities, "train")
    recipe = prepared(recipe, samples, options.out.with_suffix(""), Console())
    began = time.perf_counter()
    model, fresh = trained(recipe, shuffle(samples, options.seed) if options.shuffled else samples)
    print(f"trained in {time.perf_counter() - began:.0f} s")
    held = [scene for scene in scenes if scene.number in {int(sample.id) for sample in _heldout(scenes, recipe)}]
    worlds = {
        "same": held,
        "redepicted": [replace(scene, redepict=1) for scene in held],
        "redrawn": [scene.with_factors_drawn_again(1) for scene in held],
    }
    views = {name: samples_of(world, recipe.modalities, "heldout") for name, world in worlds.items()}
    found = {name: vectors(model, view) for name, view in views.items()}
    groups = [" ".join(scene.labels.values()) for scene in held]
    began_as = vectors(fresh, views["same"])
    return {
        "trained": scores(found["same"], found["same"], groups, options.seed),
        "untrained": scores(began_as, began_as, groups, options.seed),
        "redepicted": scores(found["same"], found["redepicted"], groups, options.seed),
        "redrawn": scores(found["same"], found["redrawn"], None, options.seed),
    }


def _heldout(scenes: Sequence[Scene], recipe: Recipe) -> list[Sample]:
    return samples_of(scenes, recipe.modalities, "heldout")


def show(results: Mapping[str, Mapping[str, Retrieval]]) -> None:
    """The results as a table, in %."""
    view = Table(title=f"R@1 and R@5 in %, {HELDOUT} held-out scenes", title_justify="left", box=None)
    view.add_column("from -> to")
    for name in results:
        view.add_column(name, justify="right")
    for pair in next(iter(results.values())):
        cells = [
            f"{100 * of[pair].recall[1].value:.1f} {100 * of[pair].recall[5].value:.1f}" for of in results.values()
        ]
        view.add_row(pair, *cells)
    first = next(iter(results["trained"].values()))
    view.caption = f"chance: {100 * first.chance[1]:.1f} {100 * first.chance[5]:.1f}"
    Console(width=110).print(view)


def as_plain(results: Mapping[str, Mapping[str, Retrieval]]) -> dict[str, dict[str, dict[str, object]]]:
    """Numbers for JSON."""
    return {
        name: {
            pair: {
                **{f"R@{k}": [each.value, each.low, each.high] for k, each in one.recall.items()},
                "median_rank": one.median_rank.value,
                "chance": {f"R@{k}": value for k, value in one.chance.items()},
            }
            for pair, one in of.items()
        }
        for name, of in results.items()
    }


if __name__ == "__main__":
    asked = tyro.cli(Options)
    read_once()
    results = run(asked)
    show(results)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(as_plain(results), indent=1) + "\n")
