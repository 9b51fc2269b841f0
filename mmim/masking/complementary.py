"""What one modality shows, the others hide."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, expect
from mmim.masking.budget import Budget, Groups, Presence
from mmim.records import Split, Tokens


@dataclass(frozen=True, kw_only=True)
class Complementary(Budget):
    """Modalities on the same grid see different places, so that each must be told from the others.

    Chen et al. 2023 (PiMAE), section 3.2, arXiv:2303.08129, whose points and pixels are matched by projection first.
    Here the modalities lie on one grid (a picture and its depth). The ranking of the first that a sample has decides:
    of its order the first modality of the method sees the first `share` of the places, the second the next, and so on.
    """

    share: float = 0.25
    """Of the places, seen by each modality; together at most 1. Rounded down."""

    def __post_init__(self) -> None:
        expect(0 < self.share <= 1, self.share, "a share in (0, 1]", "Complementary.share")

    def cut(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        first = next(iter(ranks))
        n, grid = tokens[first].count, tokens[first].grid
        for name, part in tokens.items():
            if part.grid is None or part.grid != grid or part.valid is not None:
                raise MaskingError(
                    f"Complementary masks need one full grid for all, and that of {first!r} is {grid}, that of "
                    f"{name!r} {part.grid}{'' if part.valid is None else ', padded'}: use sizes and patches that agree."
                )
        known = tuple(present) or tuple(ranks)
        size = groups.get(first, Groups()).size
        kept = int(n // size * self.share) * size
        if not kept or kept * len(known) > n:
            raise MaskingError(
                f"{self} shows each of {len(known)} modalities {kept} of {n} places: use a share of at least "
                f"{size / n:.4g} and at most {1 / len(known):.4g}."
            )
        leading = ranks[first]
        for name in reversed(tuple(ranks)):
            leading = torch.where(present[name][:, None], ranks[name], leading) if name in present else leading
        order = torch.argsort(leading, dim=1, stable=True)
        splits = {}
        for name in ranks:
            turned = order.roll(-known.index(name) * kept, dims=1)
            splits[name] = Split(turned[:, :kept], turned[:, kept:])
        return splits
