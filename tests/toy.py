"""A modality of a few numbers and a recipe for it, so that tests of the core need no built-in modality."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmim.data.sources import Sample, find_samples
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.draw import Draw
from mmim.encoders.joint import JointEncoder
from mmim.errors import ReadError
from mmim.layers.patches import grid_coords
from mmim.layers.positions import FlatSinusoid
from mmim.masking.budget import Ratio
from mmim.masking.tube import TubeMasking
from mmim.modality import Modality, Source
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.parts import register
from mmim.records import Tokens
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe


@register("toy")
@dataclass(frozen=True, kw_only=True)
class Toy(Modality):
    """`rows` tokens of `columns` numbers from a .npy file, on a grid (rows / 2, 2); a draw shifts all of them."""

    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    view: ClassVar[tuple[str, ...]] = ("rows",)

    rows: int = 8
    columns: int = 4
    scale: float = 1.0

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.columns,)

    def blank(self) -> Tensor:
        return torch.zeros(self.rows, self.columns)

    def read(self, source: Source, draw: Draw | None) -> Tensor:
        try:
            numbers = torch.from_numpy(np.load(source.path))
        except (OSError, ValueError, EOFError) as error:
            raise ReadError("not an array") from error
        return numbers if draw is None else numbers + draw.uniform("shift", 1)

    def tokenize(self, raw: Tensor) -> Tokens:
        grid = (raw.shape[1] // 2, 2)
        return Tokens(raw, grid_coords(grid), grid=grid)

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return values

    def raw(self, values: Tensor) -> Tensor:
        return values * 2 * self.scale + 1

    def embedder(self, width: int) -> nn.Module:
        return nn.Linear(self.columns, width)

    def position(self, width: int) -> nn.Module:
        return FlatSinusoid(width)

    def render(self, data: Tensor) -> list[np.ndarray]:
        return [np.zeros((2, 2, 3), np.uint8) for _ in data]

    def features(self, raw: Tensor) -> Tensor:
        return raw.flatten(1)


TOY = Recipe(
    name="toy",
    modalities={"toy": Toy()},
    masking={"toy": TubeMasking()},
    budget=Ratio(0.5, rounding="hidden_down"),
    encoder=JointEncoder(width=8, depth=2, heads=2),
    decoders={"toy": SelfAttentionDecoder(width=8, depth=1, heads=2)},
    tasks={"toy": Task(modality="toy", decoder="toy", target=Pixels())},
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-2, per=0),
    epochs=1.0,
    batch=8,
    precision="fp32",
)


def write_samples(folder: Path, count: int) -> list[Sample]:
    """Files 00.npy, 01.npy ... of noise, as samples."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        np.save(folder / f"{number:02}.npy", np.random.default_rng(number).normal(size=(8, 4)).astype(np.float32))
    return find_samples(folder, TOY.modalities)


def tokens(b: int = 2, grid: tuple[int, ...] = (4, 2, 3), valid: Tensor | None = None) -> Tokens:
    """Tokens without content on a grid."""
    coords = grid_coords(grid)
    return Tokens(torch.zeros(b, coords.shape[1], 1), coords, valid, grid)


def branch(trunk, name, tokens, split):
    """A trunk's branch of one modality that every sample has."""
    b = len(split.ids_keep)
    return trunk.branch(name, tokens, split, torch.ones(b, dtype=torch.bool), Draw(torch.arange(b)))
