"""From visits to batches: workers read files, a file that can't be read becomes an absent sample with a reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmim.data.order import Visit
from mmim.data.sample import Sample
from mmim.data.stored import chosen, opened
from mmim.draw import Draw, visit_key
from mmim.errors import ReadError
from mmim.modality import Modality, Source
from mmim.records import Batch, Raw, map_raw


@dataclass(frozen=True)
class Unreadable:
    """A modality of a sample that was left out, and why."""

    id: str
    modality: str
    reason: str


@dataclass(frozen=True, eq=False)
class Loaded:
    """A batch, and what could not be read for it."""

    batch: Batch
    unreadable: tuple[Unreadable, ...]

    def pin_memory(self) -> "Loaded":
        """The same with page-locked memory, called by torch's loader."""
        return replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True, eq=False)
class Row:
    """One visit of a sample, read: what could be, and what could not."""

    visit: Visit
    key: int
    raws: dict[str, Raw]
    unreadable: tuple[Unreadable, ...]


class Reader(Dataset[list[Row]]):
    """Reads a sample for some visits in a row: a file is opened once for all its repeats.

    All modalities of a sample get the same draws, so that frames and sound of one file can be cut from one window.
    """

    def __init__(self, samples: Sequence[Sample], modalities: Mapping[str, Modality], seed: int | None) -> None:
        self.samples = samples
        self.modalities = modalities
        self.seed = seed
        """None: the deterministic views of evaluation."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, visits: list[Visit]) -> list[Row]:  # type: ignore[override]
        sample = self.samples[visits[0].index]
        keys = [visit_key(self.seed or 0, visit.epoch, sample.hash, visit.repeat) for visit in visits]
        raws: list[dict[str, Raw]] = [{} for _ in keys]
        unreadable: list[Unreadable] = []
        for source in dict.fromkeys(sample.sources.values()):  # of a file that serves several modalities once
            names = [name for name, its in sample.sources.items() if its == source]
            for name, views in self._views(source, names, keys).items():
                if isinstance(views, ReadError):
                    unreadable.append(Unreadable(sample.id, name, str(views)))
                    continue
                for row, raw in zip(raws, views, strict=True):
                    row[name] = raw
        return [Row(*row, tuple(unreadable)) for row in zip(visits, keys, raws, strict=True)]

    def _views(self, source: Source, names: Sequence[str], keys: list[int]) -> dict[str, list[Raw] | ReadError]:
        """What each of some modalities reads from a source for all keys, or why it can't."""
        found: dict[str, list[Raw] | ReadError] = {}
        try:
            with opened(source) as file:
                for name in names:
                    try:
                        found[name] = self._read(self.modalities[name], file, keys)
                    except ReadError as error:
                        found[name] = error
        except ReadError as error:
            return dict.fromkeys(names, error)
        return found

    def _read(self, modality: Modality, source: Source, keys: list[int]) -> list[Raw]:
        if self.seed is None:
            return [modality.read(chosen(source, modality, None), None)] * len(keys)
        draws = [Draw(torch.tensor([key])) for key in keys]
        rows = [chosen(source, modality, draw) for draw in draws]
        if len(set(rows)) == 1:
            return modality.read_many(rows[0], draws)
        return [modality.read(row, draw) for row, draw in zip(rows, draws, strict=True)]


def collate(items: list[list[Row]], samples: Sequence[Sample], modalities: Mapping[str, Modality]) -> Loaded:
    """Stack samples into a batch of the modalities that somebody has; where others lack one stand zeros."""
    rows = [row for item in items for row in item]
    raws: dict[str, Raw] = {}
    present: dict[str, Tensor] = {}
    for name, modality in modalities.items():
        column = [row.raws.get(name) for row in rows]
        present[name] = torch.tensor([raw is not None for raw in column])
        there = [raw for raw in column if raw is not None]
        if not there:
            continue
        absent = map_raw(torch.zeros_like, min(there, key=_size))  # no longer than any sample that has it
        raws[name] = modality.collate([absent if raw is None else raw for raw in column])
    batch = Batch(
        views={"main": raws},
        present=present,
        ids=torch.tensor([samples[row.visit.index].hash for row in rows]),
        keys=torch.tensor([row.key for row in rows]),
        step=torch.tensor(0),
    )
    bad = dict.fromkeys(unreadable for row in rows for unreadable in row.unreadable)
    return Loaded(batch, tuple(bad))


def _size(raw: Raw) -> int:
    return raw.numel() if isinstance(raw, Tensor) else sum(leaf.numel() for leaf in raw.values())


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
