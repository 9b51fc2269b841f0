"""Contrastive alignment of modalities: the two embeddings of a sample are to find each other among all of the batch."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, product
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmim.errors import OptionError, expect
from mmim.modality import Target
from mmim.objectives.gather import gather_rows
from mmim.objectives.term import Asks, Term, TermModule
from mmim.records import LossTerm

LEAST_TEMPERATURE = 0.01
"""A learned temperature does not go below (Radford et al. 2021, CLIP, section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class Contrastive(Term):
    """InfoNCE between the mean visible latents of two modalities, each encoded alone, with all ranks' negatives.

    van den Oord et al. 2018, arXiv:1807.03748; Gong et al. 2023 (CAV-MAE), section 3.3, arXiv:2210.07839; both
    directions and the learned temperature: Radford et al. 2021 (CLIP), section 2.3. A sample that lacks one of the two,
    or of which the encoder sees nothing of one, drops out of that pair, as a row and as a negative.

    The gradient is that of the joint batch of all processes (CAV-MAE's code contrasts what one GPU has). Negatives are
    those of one micro-batch of all processes: accumulation means fewer of them, so the batch is no longer exactly the
    sum of its parts.
    """

    waivers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"parts_of_a_batch_add_up_to_the_whole": "fewer negatives in a part; processes gather theirs"}
    )

    pairs: tuple[tuple[str, str], ...] = ()
    """Which modalities, (rows, candidates); none named means all pairs of the method's, in its order."""
    directions: Literal["one", "both"] = "both"
    """Rows find their candidate (CAV-MAE: pictures their sound), or candidates their row as well, averaged (CLIP)."""
    temperature: float = 0.07
    """Divides the cosines; where learned, to begin with (CAV-MAE: 0.05; CLIP: 0.07)."""
    learned: bool = False
    """Whether the temperature of each pair is a parameter (CLIP: yes)."""
    width: int = 0
    """Channels of a linear projection of each modality before the comparison; 0: none (CAV-MAE: none; CLIP: 512)."""
    centred: bool = False
    """Subtract from the vectors of each modality their mean over the batch of all processes: they begin nearly alike,
    and without it a small model stays there for a long time (CAV-MAE, CLIP: no)."""
    chained: bool = True
    """Whether shared blocks read each other in these passes (CAV-MAE's code: no; the same with one of them)."""
    weight: float = 1.0
    """Factor of each pair's loss (CAV-MAE: 0.01); 0: left out."""

    def __post_init__(self) -> None:
        expect(0 < self.temperature < math.inf, self.temperature, "above 0 and finite", "Contrastive.temperature")
        expect(self.width >= 0, self.width, "at least 0", "Contrastive.width")
        expect(0 <= self.weight < math.inf, self.weight, "at least 0 and finite", "Contrastive.weight")
        for pair in self.pairs:
            expect(pair[0] != pair[1], pair, "two different modalities", "Contrastive.pairs")
        same = len({frozenset(pair) for pair in self.pairs}) < len(self.pairs)
        expect(not same, self.pairs, "pairs that are named once", "Contrastive.pairs")

    def check(self, modalities: Collection[str]) -> None:
        if unknown := [name for pair in self.pairs for name in pair if name not in modalities]:
            raise OptionError(f"Contrastive.pairs names {unknown[0]!r}; there are {', '.join(modalities)}.")
        if len(modalities) < 2:
            raise OptionError(
                f"A contrastive term compares two modalities, and there is {', '.join(modalities)}: "
                "use another one beside it, or a weight of 0."
            )

    def using(self, kept: Sequence[str], fresh: Sequence[str], lost: Sequence[str]) -> Term | None:
        """Where pairs are named, a new modality makes one with each that is in them."""
        if not self.pairs:
            return self if len(kept) + len(fresh) > 1 else None
        known = [name for name in dict.fromkeys(chain(*self.pairs)) if name in kept]
        pairs = [pair for pair in self.pairs if set(pair) <= set(kept)] + list(product(known, fresh))
        return replace(self, pairs=tuple(pairs)) if pairs else None

    def build(
        self, targets: Mapping[str, tuple[Target, float]], width: int, modalities: Collection[str]
    ) -> "ContrastiveModule":
        return ContrastiveModule(self, self.pairs or tuple(combinations(modalities, 2)), width)


class ContrastiveModule(TermModule):
    """The module of a `Contrastive`."""

    def __init__(self, config: Contrastive, pairs: tuple[tuple[str, str], ...], width: int) -> None:
        super().__init__()
        self.config, self.pairs, self.latent_width = config, pairs, width
        self.names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
        projected = self.names if config.width else ()
        self.project = nn.ModuleDict({name: nn.Linear(width, config.width, bias=False) for name in projected})
        learned = pairs if config.learned else ()
        start = math.log(1 / config.temperature)
        self.log_scale = nn.ParameterDict({_title(pair): nn.Parameter(torch.tensor(start)) for pair in learned})

    def counts(self, step: Asks) -> dict[str, Float[Tensor, ""]]:
        return {_title(pair): (step.seen(pair[0]) & step.seen(pair[1])).sum().float() for pair in self.pairs}

    def forward(self, step: Asks) -> dict[str, LossTerm]:
        there = torch.stack([step.seen(name) for name in self.names], dim=1)  # b m
        embeddings = torch.stack([self._embedding(step, name) for name in self.names], dim=1)  # b m d
        with torch.autocast(embeddings.device.type, enabled=False):
            everybody, first = gather_rows(embeddings)
            everywhere, _ = gather_rows(there)
            everybody = self._unit(everybody, everywhere)
            own = slice(first, first + len(there))
            return {_title(pair): self._pair(pair, everybody, everywhere, own) for pair in self.pairs}

    def _embedding(self, step: Asks, name: str) -> Float[Tensor, "b d"]:
        """Vectors; zeros, without a gradient, where nobody in the batch has the modality."""
        kind = torch.promote_types(torch.get_default_dtype(), torch.float32)
        width = self.config.width or self.latent_width
        there = step.seen(name)
        if name not in step.given:
            return torch.zeros(len(there), width, dtype=kind, device=there.device)
        mean = step.latents((name,), own=True, chained=self.config.chained).mean()
        projected: Tensor = self.project[name](mean) if name in self.project else mean
        return projected.to(kind)

    def _unit(self, vectors: Float[Tensor, "B m d"], there: Bool[Tensor, "B m"]) -> Float[Tensor, "B m d"]:
        """Vectors of length 1, of their difference from the mean of those that are there if asked for."""
        if self.config.centred:
            weights = there[..., None].to(vectors.dtype)
            mean = (vectors * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1)
            vectors = vectors - mean
        return F.normalize(vectors, dim=-1, eps=1e-6)

    def _pair(
        self,
        pair: tuple[str, str],
        everybody: Float[Tensor, "B m d"],
        everywhere: Bool[Tensor, "B m"],
        own: slice,
    ) -> LossTerm:
        """The loss of the own rows, with the gradient that all rows give to the own embeddings."""
        one, other = (self.names.index(name) for name in pair)
        both = everywhere[:, one] & everywhere[:, other]
        mine = torch.zeros_like(both)
        mine[own] = True
        cosines = everybody[:, one] @ everybody[:, other].mT
        values = self._losses(self._scaled(pair, cosines, mine), both)
        total = (values * (mine & both)).sum()
        others = (values * (~mine & both)).sum()
        return LossTerm(
            total=self.config.weight * (total + others - others.detach()), count=(mine & both).sum().float()
        )

    def _losses(self, logits: Float[Tensor, "B B"], both: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The loss of each row whose sample has both."""
        allowed = both[None, :] | torch.eye(len(both), dtype=torch.bool, device=both.device)  # no softmax is empty
        rows = _cross_entropy(logits, allowed)
        if self.config.directions == "one":
            return rows
        return (rows + _cross_entropy(logits.mT, allowed)) / 2

    def _scaled(
        self, pair: tuple[str, str], cosines: Float[Tensor, "B B"], mine: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B B"]:
        """Cosines over the temperature, which gets its gradient from the own rows; others see to theirs."""
        if _title(pair) not in self.log_scale:
            return cosines / self.config.temperature
        scale = self.log_scale[_title(pair)].clamp(max=math.log(1 / LEAST_TEMPERATURE)).exp()
        return torch.where(mine[:, None], scale, scale.detach()) * cosines


def _cross_entropy(logits: Float[Tensor, "B B"], allowed: Bool[Tensor, "B B"]) -> Float[Tensor, " B"]:
    """Of each row, with the right answer on the diagonal."""
    return logits.masked_fill(~allowed, -torch.inf).logsumexp(dim=1) - logits.diagonal()


def _title(pair: tuple[str, str]) -> str:
    return f"{pair[0]}_{pair[1]}"
