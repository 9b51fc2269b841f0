"""What the checks work on: files from the modality itself, a batch through the real loader, a tiny method around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmim.corruption.corruption import Corruption
from mmim.data.loader import Loaded, in_order, load
from mmim.data.sample import Sample, suffix_of
from mmim.data.world.scene import scenes
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.errors import DataError, ReadError
from mmim.masking.budget import Budget, Ratio
from mmim.modality import Modality, Source
from mmim.model import MaskedModel, Method, Step, Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.records import Batch, Raw, Split, Tokens
from mmim.testing.failure import CheckFailure

NAME = "sample"
"""What the modality is called in the batch and in the method."""
HALF = Ratio(0.5, rounding="hidden_down")
"""The budget of the toy method: something stays visible of any sample."""


def source_of(modality: Modality, file: Path) -> Source:
    """The sample of a file; of one that holds several, the first."""
    try:
        rows = modality.rows_in(file)
    except ReadError:
        rows = None
    return Source(file, rows[0] if rows else None)


def depicted(modality: Modality, folder: Path, count: int = 4) -> list[Path]:
    """Files of the first scenes of a sample world, as the modality depicts them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for scene in scenes(count, seed=0):
        files.append(folder / f"{scene.number:05d}{modality.suffix}")
        modality.depict(scene, files[-1])
    return files


def loaded(modality: Modality, files: Sequence[Path], *, seed: int | None = None, workers: int = 0) -> Loaded:
    """The files as one batch through the real loader; those that can't be read are absent.

    seed: of the training views; None for those of evaluation.
    """
    samples = [Sample(path.name, {NAME: source_of(modality, path)}, _stem(modality, path)) for path in files]
    batches = load(samples, {NAME: modality}, in_order(len(files), len(files)), seed=seed, workers=workers)
    return next(batches)


def _stem(modality: Modality, file: Path) -> str:
    """The name without the suffix, which the draws of a sample depend on, whether or not the modality is installed."""
    return file.name.removesuffix(suffix_of(file.name, modality.suffixes) or "")


def example(modality: Modality, files: Sequence[Path], *, seed: int | None = None, workers: int = 0) -> Batch:
    """The same for files that can all be read.

    Raises:
        DataError: there are fewer than three, and a check needs neighbours.
        CheckFailure: one can't be read.
    """
    if len(files) < 3:
        raise DataError(f"The checks need at least 3 files, and there are {len(files)}: give them more.")
    return readable(modality, files, seed=seed, workers=workers)


def readable(modality: Modality, files: Sequence[Path], *, seed: int | None = None, workers: int = 0) -> Batch:
    """The same for any number of files."""
    found = loaded(modality, files, seed=seed, workers=workers)
    for bad in found.unreadable:
        raise CheckFailure("a file that it can read", f"{bad.id}: {bad.reason}", f"{type(modality).__name__}.read")
    return found.batch


def raw_of(batch: Batch) -> Raw:
    """The batch's raw data."""
    return batch.views["main"][NAME]


def leaves(raw: Raw) -> dict[str, Tensor]:
    """Its tensors by name; one without a name is called ""."""
    return {"": raw} if isinstance(raw, Tensor) else raw


def toy_method(
    modality: Modality, *, budget: Budget = HALF, corruption: Corruption | None = None, width: int = 32
) -> Method:
    """A tiny method around the modality, with its default masking and target."""
    return Method(
        modalities={NAME: modality},
        masking={NAME: modality.masking},
        budget=budget,
        corruption={} if corruption is None else {NAME: corruption},
        encoder=JointEncoder(width=width, depth=2, heads=2),
        decoders={NAME: SelfAttentionDecoder(width=width, depth=1, heads=2)},
        tasks={NAME: Task(modality=NAME, decoder=NAME, target=modality.target)},
        objective={"reconstruction": Reconstruction()},
    )


def toy_model(
    modality: Modality, *, budget: Budget = HALF, corruption: Corruption | None = None, width: int = 32
) -> MaskedModel:
    """A model of `toy_method`, always with the same weights; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedModel(toy_method(modality, budget=budget, corruption=corruption, width=width))


def cut(model: MaskedModel, batch: Batch) -> tuple[Tokens, Split]:
    """The batch's tokens, and what of them is visible."""
    step = Step(model, batch)
    return step.tokens[NAME], step.splits[NAME]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward and backward pass: the only term's sum and count, the gradients of its mean or sum by parameter."""

    total: Tensor
    count: Tensor
    gradients: Mapping[str, Tensor | None]

    @property
    def loss(self) -> float:
        """The mean over hidden tokens; 0 where there are none."""
        return float(self.total / self.count.clamp(min=1))

    def not_finite(self) -> list[str]:
        """What is not finite: the loss, or parameters by their gradients."""
        bad = [] if bool(self.total.isfinite()) else ["the loss"]
        return bad + [name for name, g in self.gradients.items() if g is not None and not bool(g.isfinite().all())]


def one_pass(model: MaskedModel, batch: Batch, splits: Mapping[str, Split] | None = None, *, mean: bool = True) -> Pass:
    """A pass in training mode; without `mean` the gradients are those of the sum."""
    model.train().zero_grad()
    (term,) = model(batch, splits).values()
    (term.total / term.count.clamp(min=1) if mean else term.total).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Pass(term.total.detach().float(), term.count.float(), gradients)
