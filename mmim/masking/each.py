"""A budget for every modality of its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.masking.budget import Budget, Groups, Presence
from mmim.records import Split, Tokens


@dataclass(frozen=True, kw_only=True)
class Each(Budget):
    """Cut each modality by its own budget: OmniMAE hides 75 % of a picture and 90 % of a clip.

    A shared budget in here is shared with nobody.
    """

    of: dict[str, Budget]
    """By the name of the modality."""

    def check(self, modalities: Collection[str]) -> None:
        if bare := [name for name in modalities if name not in self.of]:
            raise OptionError(f"The budget has no part for {bare[0]!r}; there are {', '.join(self.of) or 'none'}.")
        if unknown := [name for name in self.of if name not in modalities]:
            raise OptionError(f"The budget has a part for {unknown[0]!r}; there are {', '.join(modalities)}.")
        for name, budget in self.of.items():
            budget.check([name])

    def using(self, kept: Sequence[str], fresh: Sequence[str]) -> Budget:
        """A modality that it does not know is cut like the first."""
        first = next(iter(self.of.values()))
        return Each(of={name: self.of[name] for name in kept} | dict.fromkeys(fresh, first))

    def cut(
        self,
        ranks: Mapping[str, Float[Tensor, "b n"]],
        tokens: Mapping[str, Tokens],
        draw: Draw,
        groups: Mapping[str, Groups] = MappingProxyType({}),
        present: Presence = MappingProxyType({}),
    ) -> dict[str, Split]:
        splits: dict[str, Split] = {}
        for name, rank in ranks.items():
            own = draw.named(f"part {list(self.of).index(name)}")
            splits |= self.of[name].cut({name: rank}, {name: tokens[name]}, own, groups, present)
        return splits
