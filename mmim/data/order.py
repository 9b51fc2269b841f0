"""The order of training: a position in it is one integer, whatever the workers, processes and micro-batches.

An epoch is the samples ranked by a hash of (seed, epoch, sample), each `repeats` times in a row; epochs follow each
other without a seam, so a folder smaller than a batch trains. Optimiser step s takes places [s B, (s + 1) B).

With a mixture each source has an endless order of its own, and blocks of places say whose turn it is: in each block a
source has the same number of places, shuffled by a hash of (seed, block). So the place says everything here too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from mmim.draw import mix64, stable_hash
from mmim.errors import OptionError

LEAST = 64
"""Places in a block of the source with the smallest share, if blocks of at most `LARGEST` places allow it."""
SMALLEST, LARGEST = 2**8, 2**16
"""Places in a block."""


@dataclass(frozen=True)
class Visit:
    """One place of the order: a sample, its epoch, and which repeat of it."""

    index: int
    epoch: int
    repeat: int


@dataclass(frozen=True)
class Layout:
    """How the samples of an optimiser step are spread: `batch` = processes x accumulation x micro."""

    batch: int
    micro: int
    processes: int = 1

    @property
    def accumulation(self) -> int:
        """Micro-batches per process and step."""
        return self.batch // (self.micro * self.processes)

    def places(self, step: int, process: int, turn: int) -> range:
        """The places of one micro-batch."""
        start = step * self.batch + (turn * self.processes + process) * self.micro
        return range(start, start + self.micro)


@dataclass(frozen=True)
class Mixture:
    """Which source each sample is from, and the weight of each source: its share of the places is proportional."""

    origins: Sequence[int]
    weights: Sequence[float]


class Order:
    """The endless order of `hashes` (one per sample).

    lengths, kinds: of the samples, where they differ: within an optimiser step, samples of one kind (those with the
    same modalities) and of like length share a micro-batch, so that little is padding. Which samples a step has, and so
    its gradient, does not depend on them.
    mixture: shares of several sources; without it every sample comes once an epoch.
    """

    def __init__(
        self,
        hashes: Sequence[int],
        seed: int,
        repeats: int = 1,
        lengths: Sequence[int] | None = None,
        kinds: Sequence[int] | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        self.repeats = repeats
        self._groups = list(zip(kinds or [0] * len(hashes), lengths or [0] * len(hashes), strict=True))
        self._grouped = len(set(self._groups)) > 1
        origins = np.array(mixture.origins if mixture else [0] * len(hashes))
        numbers = np.array(hashes, dtype=np.uint64)
        self._blocks = _Blocks(mixture.weights, seed) if mixture else None
        self._epochs = [
            _Epochs(np.flatnonzero(origins == origin), numbers, seed)
            for origin in range(len(mixture.weights) if mixture else 1)
        ]

    def visit(self, place: int) -> Visit:
        """Who stands at a place."""
        place, repeat = divmod(place, self.repeats)
        origin, place = self._blocks.turn(place) if self._blocks else (0, place)
        index, epoch = self._epochs[origin].at(place)
        return Visit(index, epoch, repeat)

    def micro_batches(self, layout: Layout, process: int, start: int, stop: int) -> Iterator[list[Visit]]:
        """The micro-batches of one process for optimiser steps start .. stop - 1."""
        for step in range(start, stop):
            first, visits = step * layout.batch, self._step(step, layout) if self._grouped else None
            for turn in range(layout.accumulation):
                places = layout.places(step, process, turn)
                yield [self.visit(place) if visits is None else visits[place - first] for place in places]

    def _step(self, step: int, layout: Layout) -> list[Visit]:
        """All visits of an optimiser step, by kind, short samples first; repeats of a sample stay together."""
        places = range(step * layout.batch, (step + 1) * layout.batch)
        return sorted((self.visit(place) for place in places), key=lambda visit: self._groups[visit.index])


class _Epochs:
    """The endless order of some samples: each once an epoch."""

    def __init__(self, indices: Int64[np.ndarray, " n"], hashes: np.ndarray, seed: int) -> None:
        self._indices, self._hashes, self._seed = indices, hashes[indices], seed
        self._epoch: tuple[int, np.ndarray] = (-1, indices)

    def at(self, place: int) -> tuple[int, int]:
        """The sample at a place, and its epoch."""
        epoch, position = divmod(place, len(self._indices))
        return int(self._ranking(epoch)[position]), epoch

    def _ranking(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            salt = np.uint64(stable_hash("order", self._seed, epoch))
            ranks = np.argsort(mix64(mix64(self._hashes) ^ salt), kind="stable")
            self._epoch = (epoch, self._indices[ranks])
        return self._epoch[1]


class _Blocks:
    """Whose turn it is."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._counts, self._seed = apportioned(weights), seed
        self._size = int(self._counts.sum())
        self._block: tuple[int, np.ndarray, np.ndarray] = (-1, self._counts, self._counts)

    def turn(self, place: int) -> tuple[int, int]:
        """The source whose turn it is, and which of its own places this is."""
        block, rest = divmod(place, self._size)
        if self._block[0] != block:
            self._block = (block, *self._shuffled(block))
        _, origins, before = self._block
        origin = int(origins[rest])
        return origin, block * int(self._counts[origin]) + int(before[rest])

    def _shuffled(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The sources in the order of a block, and how often each came before in it."""
        salt = np.uint64(stable_hash("block", self._seed, block))
        order = np.argsort(mix64(mix64(np.arange(self._size, dtype=np.uint64)) ^ salt), kind="stable")
        origins = np.repeat(np.arange(len(self._counts)), self._counts)[order]
        before = np.empty_like(origins)
        before[np.argsort(origins, kind="stable")] = np.concatenate([np.arange(count) for count in self._counts])
        return origins, before


def apportioned(weights: Sequence[float]) -> Int64[np.ndarray, " sources"]:
    """The places of each source in a block: shares rounded down, the rest to those that lost most by it.

    Raises:
        OptionError: one would get none.
    """
    shares = np.array(weights, dtype=np.float64) / sum(weights)
    size = SMALLEST
    while size < LARGEST and size * shares.min() < LEAST:
        size *= 2
    counts = np.floor(size * shares).astype(np.int64)
    lost = np.argsort(counts - size * shares, kind="stable")
    counts[lost[: size - counts.sum()]] += 1
    if not counts.all():
        raise OptionError(
            f"The smallest --weight has a share of {shares.min():.2g}, less than a place in {LARGEST:,}: raise it, or "
            "leave its data out."
        )
    return counts
