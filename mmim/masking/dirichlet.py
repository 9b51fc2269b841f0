"""A budget of visible tokens that the modalities of a sample share."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, OptionError, expect
from mmim.masking.budget import Budget, Groups, Presence, split_each
from mmim.masking.groups import ordinals
from mmim.records import Split, Tokens


@dataclass(frozen=True, kw_only=True)
class Dirichlet(Budget):
    """Keep `total` tokens of a sample, spread over its modalities by shares from a Dirichlet distribution.

    Bachmann et al. 2022 (MultiMAE), section 3.2, arXiv:2204.01678; Mizrahi et al. 2023 (4M), section 2.3. Each sample
    draws shares of its own, and what it lacks takes none. The token of ordinal r in its modality gets the key
    (r + 1/2) / share, and the `total` smallest keys stay (Webster's apportionment), so that the sum is exact, no
    modality gives more than it has, and no case needs a rule. We differ from MultiMAE there: it rounds the shares, and
    where these do not add up it trims or fills by random tokens. So counts differ by a token in a quarter of the
    samples, and a modality is left out a little more often (alpha 1: 1.0 % in place of 0.9 %); mean, variance and
    distribution agree (tests/mmim/masking/test_dirichlet.py).

    A sample with fewer tokens than `total` keeps all that it has. Where tokens share a rank (tubes), whole groups stay
    and what is over is not used.
    """

    total: int = 98  # type: ignore[assignment]  # a field here, a property of other budgets
    """Visible tokens of a sample, over all modalities (MultiMAE: 98 of 588; 4M: 128)."""
    alpha: float = 1.0
    """Concentration of the shares; small: mostly one modality at a time, large: even (MultiMAE: 1; 4M: 0.01 to 10)."""
    alphas: dict[str, float] = field(default_factory=dict)
    """The same for single modalities; 0: never an input, though it may be a target."""

    def __post_init__(self) -> None:
        expect(self.total >= 1, self.total, "at least 1", "Dirichlet.total")
        expect(0 < self.alpha < math.inf, self.alpha, "above 0 and finite", "Dirichlet.alpha")
        for name, alpha in self.alphas.items():
            expect(0 <= alpha < math.inf, alpha, "at least 0 and finite", f"Dirichlet.alphas.{name}")

    def check(self, modalities: Collection[str]) -> None:
        if unknown := [name for name in self.alphas if name not in modalities]:
            raise OptionError(f"Dirichlet.alphas names {unknown[0]!r}; there are {', '.join(modalities)}.")
        if not any(self._alpha(name) for name in modalities):
            raise OptionError("Dirichlet.alphas is 0 for every modality: one of them must be an input.")

    def using(self, kept: Sequence[str], fresh: Sequence[str]) -> Budget:
        return replace(self, alphas={name: alpha for name, alpha in self.alphas.items() if name in kept})

    def _alpha(self, name: str) -> float:
        return self.alphas.get(name, self.alpha)

    def cut(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        there = {name: self._there(rank, tokens[name], present.get(name)) for name, rank in ranks.items()}
        kept = self._kept(ranks, there, tuple(present) or tuple(ranks), draw)
        splits = {}
        for name, rank in ranks.items():
            size = groups.get(name, Groups()).size
            room = min(tokens[name].count, self.total) if self._alpha(name) else 0
            if size > max(room, 1):
                raise MaskingError(
                    f"{self} keeps {self.total} tokens, and those of {name!r} stay or go {size} at a time: "
                    "use a larger total, or a masking policy of single tokens."
                )
            splits[name] = split_each(rank, kept[name] // size * size, room, tokens[name].valid)
        return splits

    @staticmethod
    def _there(rank: Float[Tensor, "b n"], tokens: Tokens, present: Bool[Tensor, " b"] | None) -> Bool[Tensor, "b n"]:
        """The tokens that a sample has."""
        flags = torch.ones_like(rank, dtype=torch.bool) if tokens.valid is None else tokens.valid
        return flags if present is None else flags & present[:, None]

    def _kept(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        there: Mapping[str, Bool[Tensor, "b n"]],
        known: tuple[str, ...],
        draw: Draw,
    ) -> dict[str, Int64[Tensor, " b"]]:
        """How many tokens of each modality are among the `total` with the smallest keys of each sample.

        known: all modalities, also those that nobody in the batch has, so that nobody's draws depend on the batch.
        """
        device = next(iter(ranks.values())).device
        shares = draw.log_gamma("shares", torch.tensor([self._alpha(name) for name in known], device=device))
        keys = []
        for name in ranks:
            place = known.index(name)
            ordinal = ordinals(torch.where(there[name], ranks[name], torch.inf))
            key = (ordinal + 0.5).log() - shares[:, place, None]
            keys.append(torch.where(there[name], key, torch.inf))
        joined = torch.cat(keys, dim=1)
        chosen = (ordinals(joined) < self.total) & joined.isfinite()
        parts = chosen.split([key.shape[1] for key in keys], dim=1)
        return {name: part.sum(dim=1) for name, part in zip(ranks, parts, strict=True)}
