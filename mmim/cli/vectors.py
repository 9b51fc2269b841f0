"""Where `probe` and `retrieve` get their vectors: from a checkpoint and files, or from a file of `mmim embed`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from mmim.cli.checks import check_checkpoint, check_numbers, check_output, told
from mmim.data.loader import Loaded, Unreadable
from mmim.data.sources import Sample, find_union
from mmim.embed import check_finite, chosen, embed, having, read, read_as
from mmim.errors import OptionError
from mmim.modality import Modality
from mmim.model import MaskedModel


@dataclass(frozen=True, kw_only=True)
class Source:
    """The options that say where vectors come from; None: not given."""

    checkpoint: Path | None
    data: tuple[str, ...]
    embeddings: Path | None
    use: tuple[str, ...]
    settings: tuple[str, ...]
    batch: int | None
    workers: int | None
    json_out: Path | None

    def check(self) -> None:
        """Refuse options that can't be, or can't be together, before any work."""
        if (self.checkpoint is None) == (self.embeddings is None):
            raise OptionError("Give one of --checkpoint and --embeddings.")
        check_numbers(32 if self.batch is None else self.batch, 1 if self.workers is None else self.workers)
        if self.json_out is not None:
            check_output("json-out", self.json_out)
        given = {"batch": self.batch, "workers": self.workers, "set": self.settings or None, "use": self.use or None}
        unused = [f"--{name}" for name, value in given.items() if value is not None]
        if self.embeddings is not None and unused:
            raise OptionError(f"{' and '.join(unused)} with --embeddings: there is nothing to compute, leave it out.")
        if self.checkpoint is not None:
            if not self.data:
                raise OptionError("--checkpoint needs --data, the files to embed.")
            check_checkpoint(self.checkpoint)


@dataclass(frozen=True)
class Plan:
    """What is to be embedded: the chosen modalities, how all are read, the samples that have a chosen one."""

    names: tuple[str, ...]
    modalities: dict[str, Modality]
    samples: list[Sample]
    without: int
    """How many samples have none of the chosen modalities."""

    def left_out(self, unreadable: Sequence[Unreadable]) -> list[str]:
        """What a command says of the samples and files that it left out."""
        several = len(self.names) > 1
        lines = [f"left out {f'{bad.modality} of ' if several else ''}{bad.id}: {bad.reason}" for bad in unreadable]
        if self.without:
            lines.append(f"{self.without} samples have no {' or '.join(self.names)} and were left out")
        return lines


def find(
    model: MaskedModel, data: Sequence[str], use: Sequence[str], settings: Sequence[str], console: Console
) -> Plan:
    """The samples of `data` and how they are read. Ids are those with all modalities, whichever are chosen."""
    known = model.method.modalities
    names = chosen(known, use)
    modalities = known | read_as({name: known[name] for name in names}, settings)
    found = told(find_union(data, modalities), console)
    samples = having(found, names)
    return Plan(names, modalities, samples, len(found) - len(samples))


@dataclass(frozen=True, eq=False)
class Sets:
    """Vectors of the same samples by the encoder trained and untrained (`joint`, and by modality), and plain features.

    Rows of NaN stand for what a sample lacks.
    """

    ids: list[str]
    trained: dict[str, Float[np.ndarray, "n _"]]
    untrained: dict[str, Float[np.ndarray, "n _"]]
    raw: dict[str, Float[np.ndarray, "n _"]]


def compute(source: Source, trained: MaskedModel, use: Sequence[str], seed: int, console: Console) -> Sets:
    """Embed the files of `source` with a model, and with the same model untrained; say which are left out."""
    plan = find(trained, source.data, use, source.settings, console)
    torch.manual_seed(seed)
    untrained = MaskedModel(trained.method)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def batches() -> Iterator[Loaded]:
        workers = 1 if source.workers is None else source.workers
        return read(plan.samples, plan.modalities, batch=source.batch or 32, workers=workers)

    ours = embed(trained, plan.samples, batches(), device=device, features=True, use=plan.names)
    for line in plan.left_out(ours.unreadable):
        console.print(line, markup=False, highlight=False)
    theirs = embed(untrained, plan.samples, batches(), device=device, use=plan.names)
    for name, vectors in ours.vectors.items():
        check_finite(name, vectors, ours.present.get(name, np.ones(len(ours.ids), dtype=bool)))
    return Sets(ours.ids, ours.vectors, theirs.vectors, ours.features)
