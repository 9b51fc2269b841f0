"""Several budgets, one of them drawn for each sample."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from mmim.draw import Draw
from mmim.errors import expect
from mmim.masking.budget import Budget, Groups, Presence
from mmim.records import Split, Tokens


@dataclass(frozen=True, kw_only=True)
class Mixture(Budget):
    """Cut each sample by one of several budgets, drawn by their weights.

    Mizrahi et al. 2023 (4M), section 2.3 and official configurations: half of the samples see one modality alone, half
    any mixture. All budgets are cut and one is chosen, so that shapes are those of the largest.
    """

    budgets: tuple[Budget, ...]
    """The budgets to draw from."""
    weights: tuple[float, ...] = ()
    """How often each is drawn, as shares of their sum; none given means equally."""

    def __post_init__(self) -> None:
        expect(len(self.budgets) >= 1, self.budgets, "one budget at least", "Mixture.budgets")
        count = len(self.budgets)
        expect(len(self.weights) in (0, count), self.weights, f"a weight for each of {count}", "Mixture.weights")
        positive = all(0 <= weight < math.inf for weight in self.weights) and (any(self.weights) or not self.weights)
        expect(positive, self.weights, "at least 0, finite, and not all 0", "Mixture.weights")

    @property
    def total(self) -> int | None:
        totals = [budget.total for budget in self.budgets]
        return None if None in totals else max(total for total in totals if total is not None)

    def check(self, modalities: Collection[str]) -> None:
        for budget in self.budgets:
            budget.check(modalities)

    def using(self, kept: Sequence[str], fresh: Sequence[str]) -> Budget:
        return replace(self, budgets=tuple(budget.using(kept, fresh) for budget in self.budgets))

    def cut(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        weights = torch.tensor(self.weights or (1.0,) * len(self.budgets), device=draw.keys.device)
        ends = (weights / weights.sum()).cumsum(0)[:-1]
        chosen = (draw.uniform("budget", 1) >= ends).sum(dim=1)  # b
        cuts = [
            budget.cut(ranks, tokens, draw.named(f"budget {number}"), groups, present)
            for number, budget in enumerate(self.budgets)
        ]
        return {
            name: reduce(
                lambda one, other: _where(chosen == other[0], other[1], one),
                enumerate([cut[name] for cut in cuts[1:]], start=1),
                cuts[0][name],
            )
            for name in ranks
        }


def _where(second: Bool[Tensor, " b"], one: Split, other: Split) -> Split:
    """Row by row the first split, where the flag is set, or the other."""
    keep, keep_valid = _choose(second, (one.ids_keep, one.keep_valid), (other.ids_keep, other.keep_valid))
    masked, masked_valid = _choose(second, (one.ids_masked, one.masked_valid), (other.ids_masked, other.masked_valid))
    counted = None
    if one.counted is not None or other.counted is not None:
        _, counted = _choose(second, (one.ids_masked, one.counted), (other.ids_masked, other.counted))
    return Split(keep, masked, keep_valid, masked_valid, counted)


Slots = tuple[Tensor, Bool[Tensor, "_b _k"] | None]
"""Places, and which of them are valid, or None."""


def _choose(first: Bool[Tensor, " b"], one: Slots, other: Slots) -> Slots:
    room = max(one[0].shape[1], other[0].shape[1])
    if one[1] is None and other[1] is None and one[0].shape == other[0].shape:
        return torch.where(first[:, None], one[0], other[0]), None
    (ids, valid), (ids2, valid2) = (_widened(slots, room) for slots in (one, other))
    return torch.where(first[:, None], ids, ids2), torch.where(first[:, None], valid, valid2)


def _widened(slots: Slots, room: int) -> tuple[Tensor, Tensor]:
    """As many slots as asked for; those that are added are not valid."""
    ids, valid = slots
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    lack = room - ids.shape[1]
    return pad(ids, (0, lack)), pad(valid, (0, lack), value=False)
