"""A modality of ids and a recipe of span corruption for it, so that tests need no built-in modality."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmim.corruption.sentinels import Sentinels
from mmim.decoders.causal import CausalDecoder
from mmim.draw import Draw
from mmim.encoders.joint import JointEncoder
from mmim.layers.positions import interleaved_sinusoid
from mmim.masking.budget import Ratio
from mmim.masking.span import SpanMasking
from mmim.modality import Modality, Source, Vocabulary
from mmim.model import Task
from mmim.objectives.reconstruction import Reconstruction
from mmim.parts import register
from mmim.records import Batch, Split, Tokens
from mmim.targets.ids import Ids
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe

PADDING = -1


class Index(nn.Module):
    """A sinusoid of the place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, tokens: Tokens) -> Tensor:
        return interleaved_sinusoid(tokens.coords[..., 0], self.width).to(torch.get_default_dtype())


@register("letters")
@dataclass(frozen=True, kw_only=True)
class Letters(Modality):
    """Up to `longest` ids below `words` from a .npy file, padded with -1; behind the words stand mask and sentinels.

    fixed: the first token is hidden last of all.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    view: ClassVar[tuple[str, ...]] = ("longest",)

    longest: int = 12
    words: int = 10
    sentinels: int = 8
    padded: bool = False
    fixed: bool = False
    vector: bool = False
    axes: int = 1

    @property
    def piece(self) -> tuple[int, ...]:
        return (1,) if self.vector else ()

    @property
    def vocabulary(self) -> Vocabulary | None:
        first = self.words + 1
        return Vocabulary(first + self.sentinels, self.words, tuple(range(first, first + self.sentinels)))

    def blank(self) -> Tensor:
        return torch.zeros(self.longest, dtype=torch.int64)

    def read(self, source: Source, draw: Draw | None) -> Tensor:
        return torch.from_numpy(np.load(source.path))[: self.longest]

    def collate(self, raws: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(raws), batch_first=True, padding_value=PADDING)

    def tokenize(self, raw: Tensor) -> Tokens:
        n = raw.shape[1]
        fixed = (torch.arange(n) == 0).expand(raw.shape) if self.fixed else None
        grid = None if self.axes == 1 else (n, *[1] * (self.axes - 1))
        values = raw.clamp(min=0)
        valid = raw != PADDING if self.padded else None
        return Tokens(
            values[..., None] if self.vector else values,
            torch.arange(n, dtype=torch.float32)[None, :, None],
            valid,
            grid,
            fixed,
        )

    def untokenize(self, values: Tensor, tokens: Tokens) -> Tensor:
        return values

    def raw(self, values: Tensor) -> Tensor:
        return values

    def embedder(self, width: int) -> nn.Module:
        return nn.Embedding(self.vocabulary.size, width)

    def position(self, width: int) -> nn.Module:
        return Index(width)

    def render(self, data: Tensor) -> list[np.ndarray]:
        return [np.zeros((2, 2, 3), np.uint8) for _ in data]

    def features(self, raw: Tensor) -> Tensor:
        return nn.functional.one_hot(raw.clamp(min=0), self.words).float().mean(dim=1)


SPANS = Recipe(
    name="spans",
    modalities={"letters": Letters()},
    masking={"letters": SpanMasking()},
    budget=Ratio(0.4, rounding="hidden_down"),
    corruption={"letters": Sentinels()},
    encoder=JointEncoder(width=16, depth=1, heads=2),
    decoders={"letters": CausalDecoder(width=16, depth=2, heads=2)},
    tasks={"letters": Task(modality="letters", decoder="letters", target=Ids())},
    objective={"reconstruction": Reconstruction()},
    optimiser=AdamW(base_lr=1e-2, per=0),
    epochs=1.0,
    batch=4,
    precision="fp32",
)


def random_letters(b: int, length: int = 12, words: int = 10, seed: int = 0) -> Tensor:
    """Samples of random ids."""
    return torch.randint(0, words, (b, length), generator=torch.Generator().manual_seed(seed))


def batch_of(ids: Tensor, keys: Tensor | None = None, present: Tensor | None = None) -> Batch:
    """A batch of ids."""
    order = torch.arange(len(ids))
    present = torch.ones(len(ids), dtype=torch.bool) if present is None else present
    return Batch(
        {"main": {"letters": ids}}, {"letters": present}, order, order if keys is None else keys, torch.tensor(0)
    )


def hide(*rows: str) -> Split:
    """A split from rows such as `..##.`: # hidden, . visible, _ padding; visible places from the last to the first."""
    n, count = len(rows[0]), max
    kept, masked = ([[i for i in range(n) if row[i] == sign] for row in rows] for sign in ".#")
    k, m = count(map(len, kept)), count(map(len, masked))

    def places(lists: list[list[int]], slots: int) -> tuple[Tensor, Tensor | None]:
        ids = torch.tensor([row[::-1] + [n - 1] * (slots - len(row)) for row in lists]).reshape(len(rows), slots)
        valid = torch.arange(slots) < torch.tensor([len(row) for row in lists])[:, None]
        return ids.long(), None if valid.all() else valid

    (ids_keep, keep_valid), (ids_masked, masked_valid) = places(kept, k), places(masked, m)
    return Split(ids_keep, ids_masked, keep_valid, masked_valid)


def write_letters(folder: Path, count: int, lengths: tuple[int, ...] = (12,)) -> Path:
    """Files 00.npy, 01.npy ... of random ids."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        ids = np.random.default_rng(number).integers(0, 10, lengths[number % len(lengths)])
        np.save(folder / f"{number:02}.npy", ids)
    return folder
