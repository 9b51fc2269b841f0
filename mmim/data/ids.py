"""What is a sequence of symbols out of a fixed set, in windows, alike for all such modalities."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn

from mmim.data.text_draw import page
from mmim.draw import Draw
from mmim.errors import ReadError, expect
from mmim.layers.patches import grid_coords
from mmim.layers.positions import FlatSinusoid
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target, Vocabulary
from mmim.records import Raw, Tokens
from mmim.targets.ids import Ids


@dataclass(frozen=True, kw_only=True)
class IdsModality(Modality):
    """A modality whose sample is a sequence of symbols, each a token.

    A modality of this kind says which symbols there are (`symbols`; the id of one is its place there) and what a file
    holds (`ids`); everything else is a default that it may replace.

    Input   ids [b L] int64, the id after the last symbol's behind the end; length [b], symbols before the end
    Tokens  n = L; values [b n], the ids; coords index; valid before the end. The id after the last symbol's is also
            that of a hidden token, where a corruption wants one
    Window  starts uniformly where a whole one still fits; the middle one for evaluation
    """

    view: ClassVar[tuple[str, ...]] = ("length",)
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Ids()

    length: int = 128
    """Symbols of a window."""

    def __post_init__(self) -> None:
        expect(self.length >= 2, self.length, "at least 2", f"{type(self).__name__}.length")

    @property
    @abstractmethod
    def symbols(self) -> Sequence[str]:
        """What each id is called, in pictures and messages."""

    @abstractmethod
    def ids(self, path: Path) -> Sequence[int] | np.ndarray:
        """All of a file, at least one id.

        Raises:
            ReadError: it can't be used; the message is the reason, without the path.
        """

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(len(self.symbols) + 1, mask=len(self.symbols))

    @property
    def piece(self) -> tuple[int, ...]:
        return ()

    def grid(self) -> tuple[int, ...]:
        return (self.length,)

    def blank(self) -> dict[str, Tensor]:
        return {"ids": torch.full((self.length,), len(self.symbols)), "length": torch.tensor(self.length)}

    def read(self, source: Source, draw: Draw | None) -> Raw:
        return self._window(self.ids(source.path), draw)

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        ids = self.ids(source.path)  # parsed once
        return [self._window(ids, draw) for draw in draws]

    def _window(self, ids: Sequence[int] | np.ndarray, draw: Draw | None) -> dict[str, Tensor]:
        """A part of the sequence, padded."""
        found = np.asarray(ids)
        if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
            came = f"{found.dtype} {found.shape}" if found.size else "no symbols"
            raise ReadError(f"{came}; a row of ids, whole numbers, is read")
        if found.min() < 0 or found.max() >= len(self.symbols):
            raise ReadError(f"ids from {found.min()} to {found.max()}; there are 0 to {len(self.symbols) - 1}")
        start = int((0.5 if draw is None else draw.floats("clip", 1)[0]) * max(len(ids) - self.length + 1, 1))
        shown, window = found[start : start + self.length].astype(np.int64), self.blank()
        window["ids"][: len(shown)] = torch.from_numpy(shown)
        window["length"] = torch.tensor(len(shown))
        return window

    def tokenize(self, raw: dict[str, Tensor]) -> Tokens:  # type: ignore[override]
        ids = raw["ids"]
        coords = grid_coords((ids.shape[1],), ids.device)
        return Tokens(ids, coords, coords[..., 0] < raw["length"][:, None].clamp(min=1), (ids.shape[1],))

    def untokenize(self, values: Num[Tensor, "b n"], tokens: Tokens) -> Num[Tensor, "b n"]:
        return values

    def position(self, width: int) -> nn.Module:
        return FlatSinusoid(width)

    def render(self, data: Num[Tensor, "b n"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The symbols in lines, a grey box for each that is none."""
        names = dict(enumerate(self.symbols))
        return [page([names.get(id) for id in row]) for row in data.long().tolist()]

    def features(self, raw: dict[str, Tensor]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """The share of each symbol, and of the end, in the window: p = symbols + 1."""
        return nn.functional.one_hot(raw["ids"], self.vocabulary.size).to(torch.get_default_dtype()).mean(dim=1)
