"""Budgets: where the ranking is cut."""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError
from mmim.modality import MaskingPolicy
from mmim.parts import Part
from mmim.records import Split, Tokens


@dataclass(frozen=True, eq=False)
class Groups:
    """Tokens that share a rank: how many in a full sample; `valid [b]`, how many of them are no padding, or None."""

    size: int = 1
    valid: Int64[Tensor, " b"] | None = None


def groups_of(policy: MaskingPolicy, tokens: Tokens) -> Groups:
    """The groups that a policy keeps together."""
    size = policy.group(replace(tokens, valid=None))
    assert isinstance(size, int)
    if tokens.valid is None:
        return Groups(size)
    valid = policy.group(tokens)
    return Groups(size, valid if isinstance(valid, Tensor) else tokens.valid[:, 0].long() * 0 + valid)


Presence = Mapping[str, Bool[Tensor, " b"]]
"""Who has a modality."""


class Budget(Part):
    """How many tokens of each modality stay visible."""

    axis: ClassVar[str] = "budget"

    @abstractmethod
    def cut(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        """A split for each modality, all modalities at once, since some budgets are shared between them.

        groups: which tokens share a rank; a modality without an entry has tokens that go one by one. present: who has
        it, since who lacks it takes no part of a shared budget, also of modalities that nobody in this
        batch has; empty: everybody has all.
        """

    @property
    def total(self) -> int | None:
        """Tokens of a sample that are visible at most, over all modalities, where they share a number; None: no such.

        The encoder's shared blocks run on so many places, however they are spread.
        """
        return None

    def check(self, modalities: Collection[str]) -> None:
        """Raise an OptionError if it can't cut these modalities."""

    def using(self, kept: Sequence[str], fresh: Sequence[str]) -> "Budget":
        """The budget for some of the modalities that it knows, and others that it does not."""
        return self


@dataclass(frozen=True)
class Ratio(Budget):
    """Hide a fixed share of every modality's tokens, or of their groups where tokens share a rank.

    So tubes are counted in places of a frame, SimMIM's cells in cells. Published systems round differently (fact: MAE
    keeps int(n (1 - r)), VideoMAE hides int(r n) places of a frame, SimMIM rounds up), so the rounding is part of the
    recipe.
    """

    ratio: float = 0.75
    """Share of the tokens that is hidden, in [0, 1] (MAE: 0.75; VideoMAE: 0.9)."""
    rounding: Literal["kept_down", "hidden_down", "hidden_up", "nearest"] = "kept_down"
    """Which count is rounded, and where to (MAE: kept_down; VideoMAE: hidden_down; SimMIM: hidden_up)."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise OptionError(f"A masking ratio of {self.ratio} can't be: it is a share in [0, 1].")

    def num_keep(self, n: int, grid: tuple[int, ...] | None = None, group: int = 1) -> int:
        """Visible tokens of n, in groups of so many; the grid is for the message.

        Raises:
            MaskingError: nothing would be visible.
        """
        places = n // group
        kept = self._rounded(places, self.ratio)
        if kept == 0:
            most = math.floor((1 - 1 / places) * 1e4) / 1e4
            most = most if self._rounded(places, most) else most - 1e-4  # int(10 * (1 - 0.9)) is 0
            raise MaskingError(
                f"{self} hides all {n} tokens of grid {grid}, and the encoder needs one. "
                f"Use a ratio <= {most:.4g}, or smaller patches."
            )
        return kept * group

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
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        return {name: self._split(rank, tokens[name], groups.get(name, Groups())) for name, rank in ranks.items()}

    def _split(self, rank: Float[Tensor, "b n"], tokens: Tokens, groups: Groups) -> Split:
        if tokens.valid is None:
            return split_at(rank, self.num_keep(tokens.count, tokens.grid, groups.size))
        if self.ratio == 1:
            self.num_keep(tokens.count, tokens.grid, groups.size)  # which refuses it
        num_keep = max(self._rounded(tokens.count // groups.size, self.ratio), 1) * groups.size  # as a short sample
        lengths = range(tokens.count + 1)  # of every length there may be; one that hides all keeps a group
        table = [max(self._rounded(places, self.ratio), min(places, 1)) for places in lengths]
        per_group = 1 if groups.valid is None else groups.valid.clamp(min=1)
        kept = torch.tensor(table, device=rank.device)[tokens.valid.sum(dim=1) // per_group] * per_group
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
    n = ids.shape[1]
    visible = torch.arange(num_keep, device=ids.device) < kept[:, None]
    place = kept[:, None] + torch.arange(n - num_keep, device=ids.device)  # a shorter sample hides no more than a full
    hidden = place < valid.sum(dim=1, keepdim=True)
    return Split(ids[:, :num_keep], ids.gather(1, place.clamp(max=n - 1)), visible, hidden)


def split_each(
    rank: Float[Tensor, "b n"], kept: Int64[Tensor, " b"], room: int, valid: Bool[Tensor, "b n"] | None
) -> Split:
    """Keep the `kept` lowest valid tokens of each sample, in `room` slots; all other valid tokens are masked.

    Any number of tokens may be kept, from none to the smaller of `room` and the sample's, so that there are as many
    slots for masked tokens as there are tokens.
    """
    everybody = torch.ones_like(rank, dtype=torch.bool) if valid is None else valid
    ids = torch.argsort(torch.where(everybody, rank, torch.inf), dim=1, stable=True)  # padding last
    n = ids.shape[1]
    slot = torch.arange(n, device=ids.device)
    hidden = slot + kept[:, None] < everybody.sum(dim=1, keepdim=True)
    masked = ids.gather(1, (slot + kept[:, None]).clamp(max=n - 1))
    return Split(ids[:, :room], masked, slot[:room] < kept[:, None], hidden)
