"""Budgets: where the ranking is cut."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.parts import Part
from mmim.records import Split, Tokens


class Budget(Part):
    """How many tokens of each modality stay visible."""

    axis: ClassVar[str] = "budget"

    @property
    def cuts_whole_frames(self) -> bool:
        """Whether every step of the first grid axis keeps the same places, as tubes need."""
        return False

    @abstractmethod
    def cut(
        self, ranks: Mapping[str, Float[Tensor, "b n"]], tokens: Mapping[str, Tokens], draw: Draw
    ) -> dict[str, Split]:
        """A split for each modality, all modalities at once, since some budgets are shared between them."""


@dataclass(frozen=True)
class Ratio(Budget):
    """Hide a fixed share of every modality's tokens.

    Published systems round differently (fact: MAE keeps int(n (1 - r)), VideoMAE hides int(r n) places of a frame,
    SimMIM rounds up), so the rounding is part of the recipe.
    """

    ratio: float = 0.75
    """Share of the tokens that is hidden, in [0, 1] (MAE: 0.75; VideoMAE: 0.9)."""
    rounding: Literal["kept_down", "hidden_down", "hidden_up", "nearest"] = "kept_down"
    """Which count is rounded, and where to (MAE: kept_down; VideoMAE: hidden_down; SimMIM: hidden_up)."""
    whole_frames: bool = False
    """Count within one step of the first grid axis and repeat: the way to cut tubes (VideoMAE: yes)."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise OptionError(f"A masking ratio of {self.ratio} can't be: it is a share in [0, 1].")

    @property
    def cuts_whole_frames(self) -> bool:
        return self.whole_frames

    def num_keep(self, n: int, grid: tuple[int, ...] | None = None) -> int:
        """Visible tokens of n.

        Raises:
            MaskingError: nothing would be visible.
        """
        steps = grid[0] if self.whole_frames and grid else 1
        places = n // steps
        kept = self._rounded(places, self.ratio)
        if kept == 0:
            most = math.floor((1 - 1 / places) * 1e4) / 1e4
            most = most if self._rounded(places, most) else most - 1e-4  # int(10 * (1 - 0.9)) is 0
            raise MaskingError(
                f"{self} hides all {n} tokens of grid {grid}, and the encoder needs one. "
                f"Use a ratio <= {most:.4g}, or smaller patches."
            )
        return kept * steps

    def _rounded(self, places: int, ratio: float) -> int:
        match self.rounding:
            case "kept_down":
                return int(places * (1 - ratio))
            case "hidden_down":
                return places - int(places * ratio)
            case "hidden_up":
                return places - math.ceil(places * ratio)
            case "nearest":
                return places - round(places * ratio)

    def cut(
        self, ranks: Mapping[str, Float[Tensor, "b n"]], tokens: Mapping[str, Tokens], draw: Draw
    ) -> dict[str, Split]:
        return {name: self._split(rank, tokens[name]) for name, rank in ranks.items()}

    def _split(self, rank: Float[Tensor, "b n"], tokens: Tokens) -> Split:
        num_keep = self.num_keep(tokens.count, tokens.grid)
        if tokens.valid is None:
            return split_at(rank, num_keep)
        if self.whole_frames:
            raise MaskingError(f"{self} cuts whole frames, which padded tokens do not have. Use a plain ratio.")
        table = [self._rounded(n, self.ratio) for n in range(tokens.count + 1)]  # of every length there may be
        kept = torch.tensor(table, device=rank.device)[tokens.valid.sum(dim=1)]
        return split_padded(rank, num_keep, kept, tokens.valid)


def split_at(rank: Float[Tensor, "b n"], num_keep: int) -> Split:
    """Keep the `num_keep` lowest of each sample; the sort is stable because ranks tie."""
    ids = torch.argsort(rank, dim=1, stable=True)
    return Split(ids[:, :num_keep], ids[:, num_keep:])


def split_padded(
    rank: Float[Tensor, "b n"], num_keep: int, kept: Int64[Tensor, " b"], valid: Bool[Tensor, "b n"]
) -> Split:
    """Keep the `kept` lowest valid tokens of each sample, in `num_keep` slots; the other valid tokens are masked.

    A sample shorter than the longest keeps fewer: its share is that of its own length. Shapes stay static, and the
    validity of the split says which slots are used.
    """
    ids = torch.argsort(torch.where(valid, rank, torch.inf), dim=1, stable=True)  # padding last
    place = torch.arange(ids.shape[1], device=ids.device)
    visible = place < kept[:, None]
    hidden = ~visible & (place < valid.sum(dim=1, keepdim=True))
    return Split(ids[:, :num_keep], ids, visible[:, :num_keep], hidden)
