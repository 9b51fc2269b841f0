"""Toy modalities for the checks of the other axes: tokens of noise, without files."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmim.draw import Draw
from mmim.errors import ReadError
from mmim.layers.patches import cut, from_patches
from mmim.layers.positions import FlatSinusoid
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target, Vocabulary
from mmim.records import Batch, Raw, Tokens, map_raw
from mmim.targets.chamfer import Chamfer
from mmim.targets.ids import Ids
from mmim.targets.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class Toy(Modality):
    """What all of them share: batches are made, not read, and values are raw as they are."""

    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Pixels()

    @abstractmethod
    def make(self, b: int, generator: torch.Generator) -> Raw:
        """Raw data of so many samples, all others."""

    def blank(self) -> Raw:
        return map_raw(lambda leaf: torch.zeros_like(leaf[0]), self.make(1, torch.Generator()))

    def read(self, source: Source, draw: Draw | None) -> Raw:
        raise ReadError("a toy reads no files")

    def raw(self, values: Tensor) -> Tensor:
        return values

    def render(self, data: Tensor) -> list[np.ndarray]:
        return [np.zeros((2, 2, 3), np.uint8) for _ in data]

    def features(self, raw: Raw) -> Tensor:
        values = self.tokenize(raw).values
        return values.flatten(1).to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class Patches(Toy):
    """Patches on a grid of any number of axes, slowest first. Raw data are `[b c *size]`, normal.

    Where they are `padded` each sample is shorter than the one before along the first axis: raw data are `data` and
    `steps`, the length in tokens.
    """

    axes: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int = 3
    padded: bool = False

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.channels, *self.patch)

    def make(self, b: int, generator: torch.Generator) -> Raw:
        size = [extent * step for extent, step in zip(self.axes, self.patch, strict=True)]
        data = torch.randn(b, self.channels, *size, generator=generator)
        steps = (self.axes[0] - torch.arange(b) * 2).clamp(min=1)
        return {"data": data, "steps": steps} if self.padded else data

    def tokenize(self, raw: Raw) -> Tokens:
        if isinstance(raw, Tensor):
            return cut("a toy", raw, self.patch)
        there = torch.arange(self.axes[0]) < raw["steps"][:, None]
        return cut("a toy", raw["data"], self.patch, there.repeat_interleave(prod(self.axes[1:]), dim=1))

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return from_patches(values, tokens.grid)

    def position(self, width: int) -> nn.Module:
        return FlatSinusoid(width)


@dataclass(frozen=True, kw_only=True)
class Groups(Toy):
    """Groups of points around centres, on no grid. Raw data are `[b n points 3]`."""

    target: ClassVar[Target] = Chamfer()

    groups: int = 12
    points: int = 8

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.points, 3)

    def make(self, b: int, generator: torch.Generator) -> Tensor:
        centres = torch.randn(b, self.groups, 1, 3, generator=generator)
        return centres + 0.3 * torch.randn(b, self.groups, self.points, 3, generator=generator)

    def tokenize(self, raw: Tensor) -> Tokens:  # type: ignore[override]
        centres = raw.mean(dim=2)
        return Tokens(raw - centres[:, :, None], centres)

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return values + tokens.coords[:, :, None]

    def position(self, width: int) -> nn.Module:
        return CentreCode(width)


class CentreCode(nn.Module):
    """Position codes that are a linear map of coordinates in space."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(3, width)

    def forward(self, tokens: Tokens) -> Tensor:
        codes: Tensor = self.proj(tokens.coords)
        return codes


@dataclass(frozen=True, kw_only=True)
class Words(Toy):
    """A sequence of ids of a small vocabulary, the last two of which stand for hidden ones. Raw data are `[b n]`."""

    target: ClassVar[Target] = Ids()

    length: int = 12
    ids: int = 10

    @property
    def piece(self) -> tuple[int, ...]:
        return ()

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.ids + 2, mask=self.ids, sentinels=(self.ids + 1,))

    def make(self, b: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.ids, (b, self.length), generator=generator)

    def tokenize(self, raw: Tensor) -> Tokens:  # type: ignore[override]
        return Tokens(raw, torch.arange(self.length, dtype=torch.float32)[None, :, None], grid=(self.length,))

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return values

    def embedder(self, width: int) -> nn.Module:
        return nn.Embedding(self.ids + 2, width)

    def position(self, width: int) -> nn.Module:
        return FlatSinusoid(width)


TOYS: Mapping[str, Toy] = MappingProxyType(
    {
        "maps": Patches(axes=(4, 4), patch=(8, 8)),
        "clips": Patches(axes=(4, 4, 4), patch=(2, 8, 8)),
        "series": Patches(axes=(12,), patch=(4,), channels=2),
        "padded_series": Patches(axes=(12,), patch=(4,), channels=2, padded=True),
        "padded_maps": Patches(axes=(8, 4), patch=(2, 2), padded=True),
        "groups": Groups(),
        "ids": Words(),
    }
)
"""One of each kind: maps and clips on a grid, series, padded ones, groups of points on no grid, ids."""


def toy_batch(
    names: Sequence[str], b: int = 4, *, absent: Mapping[str, Sequence[int]] = MappingProxyType({}), seed: int = 0
) -> Batch:
    """Samples of some of the toys, by their names; `absent` names the samples that lack one. Zeros stand there."""
    generator = torch.Generator().manual_seed(seed)
    present = {
        name: torch.ones(b, dtype=torch.bool).index_fill(0, _rows(absent.get(name, ())), False) for name in names
    }
    made = {name: TOYS[name].make(b, generator) for name in names}
    views = {
        name: map_raw(lambda leaf, there=there: leaf * there.reshape(-1, *[1] * (leaf.ndim - 1)), made[name])
        for name, there in present.items()
        if there.any()
    }
    numbers = torch.arange(b)
    return Batch({"main": views}, present, numbers, numbers + 1000 * seed, torch.tensor(0))


def toy_tokens(name: str, b: int = 4, seed: int = 0) -> Tokens:
    """Tokens of one of the toys."""
    return TOYS[name].tokenize(toy_batch([name], b, seed=seed).views["main"][name])


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some samples of a batch."""
    return batch.map(lambda leaf: leaf[_rows(rows)] if leaf.ndim else leaf)


def some_tokens(tokens: Tokens, rows: Sequence[int]) -> Tokens:
    """Tokens of some samples."""
    index = _rows(rows)

    def taken(part: Tensor | None) -> Tensor | None:
        return part if part is None or len(part) != len(tokens.values) else part[index]

    coords = tokens.coords if len(tokens.coords) == 1 else tokens.coords[index]
    return Tokens(tokens.values[index], coords, taken(tokens.valid), tokens.grid, taken(tokens.fixed))


def _rows(rows: Sequence[int]) -> Tensor:
    return torch.tensor(list(rows), dtype=torch.int64)
