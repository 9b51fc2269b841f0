"""From visits to batches: workers read files, a file that can't be read becomes an absent sample with a reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmim.data.order import Visit
from mmim.data.sources import Sample
from mmim.draw import Draw, visit_key
from mmim.errors import ReadError
from mmim.modality import Modality
from mmim.records import Batch, Raw, map_raw


@dataclass(frozen=True)
class Unreadable:
    """A sample that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """A batch, and what could not be read for it."""

    batch: Batch
    unreadable: tuple[Unreadable, ...]
    anyone: bool
    """Whether any sample has anything, known without asking the device."""

    def pin_memory(self) -> "Loaded":
        """The same with page-locked memory, called by torch's loader."""
        return replace(self, batch=self.batch.pin_memory())


Views = dict[str, Raw] | Unreadable


class Reader(Dataset[list[tuple[Visit, int, Views]]]):
    """Reads a sample for some visits in a row: a file is opened once for all its repeats."""

    def __init__(self, samples: Sequence[Sample], modalities: Mapping[str, Modality], seed: int | None) -> None:
        self.samples = samples
        self.modalities = modalities
        self.seed = seed
        """None: the deterministic views of evaluation."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, visits: list[Visit]) -> list[tuple[Visit, int, Views]]:  # type: ignore[override]
        sample = self.samples[visits[0].index]
        keys = [visit_key(self.seed or 0, visit.epoch, sample.hash, visit.repeat) for visit in visits]
        return [(visit, key, views) for visit, key, views in zip(visits, keys, self._read(sample, keys), strict=True)]

    def _read(self, sample: Sample, keys: list[int]) -> list[Views]:
        views: list[dict[str, Raw]] = [{} for _ in keys]
        try:
            for name, source in sample.sources.items():
                modality = self.modalities[name]
                if self.seed is None:
                    raws = [modality.read(source, None)] * len(keys)
                else:
                    raws = modality.read_many(source, [Draw(torch.tensor([key])).named(name) for key in keys])
                for view, raw in zip(views, raws, strict=True):
                    view[name] = raw
        except ReadError as error:
            return [Unreadable(sample.id, str(error))] * len(keys)
        return list(views)


def collate(
    items: list[list[tuple[Visit, int, Views]]], samples: Sequence[Sample], modalities: Mapping[str, Modality]
) -> Loaded:
    """Stack samples into a batch whose key set is always all modalities; absent data are zeros."""
    rows = [row for item in items for row in item]
    raws: dict[str, Raw] = {}
    present: dict[str, Tensor] = {}
    for name, modality in modalities.items():
        column = [None if isinstance(views, Unreadable) else views.get(name) for _, _, views in rows]
        present[name] = torch.tensor([raw is not None for raw in column])
        blank = modality.blank()
        raws[name] = map_raw(lambda *tensors: torch.stack(tensors), *(blank if raw is None else raw for raw in column))
    batch = Batch(
        views={"main": raws},
        present=present,
        ids=torch.tensor([samples[visit.index].hash for visit, _, _ in rows]),
        keys=torch.tensor([key for _, key, _ in rows]),
        step=torch.tensor(0),
    )
    bad = {views.id: views for _, _, views in rows if isinstance(views, Unreadable)}
    return Loaded(batch, tuple(bad.values()), any(bool(flags.any()) for flags in present.values()))


def _one_file_each(micro_batches: Iterator[list[Visit]]) -> Iterator[list[list[Visit]]]:
    for visits in micro_batches:
        yield [list(group) for _, group in groupby(visits, key=lambda visit: (visit.index, visit.epoch))]


class _Batches:
    """A batch sampler over an iterator that is made when iteration starts."""

    def __init__(self, micro_batches: Iterator[list[Visit]]) -> None:
        self.micro_batches = micro_batches

    def __iter__(self) -> Iterator[list[list[Visit]]]:
        return _one_file_each(self.micro_batches)


def load(
    samples: Sequence[Sample],
    modalities: Mapping[str, Modality],
    micro_batches: Iterator[list[Visit]],
    *,
    seed: int | None,
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Loaded]:
    """Batches in the order of `micro_batches`, read by `workers` processes (0: this one).

    seed: None asks for the deterministic views of evaluation.
    """
    loader = DataLoader(
        Reader(samples, modalities, seed),
        batch_sampler=_Batches(micro_batches),  # type: ignore[arg-type]
        collate_fn=partial(collate, samples=samples, modalities=modalities),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
    )
    return iter(loader)


def in_order(count: int, size: int) -> Iterator[list[Visit]]:
    """Every sample once, in batches, for evaluation."""
    for start in range(0, count, size):
        yield [Visit(index, 0, 0) for index in range(start, min(start + size, count))]
