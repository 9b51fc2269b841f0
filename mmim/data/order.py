"""The order of training: a position in it is one integer, whatever the workers, processes and micro-batches.

An epoch is the samples ranked by a hash of (seed, epoch, sample), each `repeats` times in a row; epochs follow each
other without a seam, so a folder smaller than a batch trains. Optimiser step s takes places [s B, (s + 1) B).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmim.draw import mix64, stable_hash


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


class Order:
    """The endless order of `hashes` (one per sample).

    lengths: of the samples, where they differ: within an optimiser step, samples of like length share a micro-batch, so
    that little is padding. Which samples a step has, and so its gradient, does not depend on them.
    """

    def __init__(
        self, hashes: Sequence[int], seed: int, repeats: int = 1, lengths: Sequence[int] | None = None
    ) -> None:
        self.hashes = np.array(hashes, dtype=np.uint64)
        self.lengths = lengths if lengths is not None and len(set(lengths)) > 1 else None
        self.seed = seed
        self.repeats = repeats
        self._epoch: tuple[int, np.ndarray] = (-1, self.hashes)

    def visit(self, place: int) -> Visit:
        """Who stands at a place."""
        epoch, rest = divmod(place, len(self.hashes) * self.repeats)
        position, repeat = divmod(rest, self.repeats)
        return Visit(int(self._ranking(epoch)[position]), epoch, repeat)

    def _ranking(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            salt = np.uint64(stable_hash("order", self.seed, epoch))
            self._epoch = (epoch, np.argsort(mix64(mix64(self.hashes) ^ salt), kind="stable"))
        return self._epoch[1]

    def micro_batches(self, layout: Layout, process: int, start: int, stop: int) -> Iterator[list[Visit]]:
        """The micro-batches of one process for optimiser steps start .. stop - 1."""
        for step in range(start, stop):
            first, visits = step * layout.batch, self._step(step, layout) if self.lengths is not None else None
            for turn in range(layout.accumulation):
                places = layout.places(step, process, turn)
                yield [self.visit(place) if visits is None else visits[place - first] for place in places]

    def _step(self, step: int, layout: Layout) -> list[Visit]:
        """All visits of an optimiser step, short samples first; repeats of a sample stay together."""
        lengths = self.lengths
        assert lengths is not None
        places = range(step * layout.batch, (step + 1) * layout.batch)
        return sorted((self.visit(place) for place in places), key=lambda visit: lengths[visit.index])
