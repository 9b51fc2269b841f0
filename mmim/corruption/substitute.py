"""Another id stands there, or the same."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from mmim.corruption.corruption import Corruption, CorruptionModule
from mmim.draw import Draw
from mmim.errors import OptionError, expect
from mmim.modality import Modality
from mmim.records import Tokens


@dataclass(frozen=True)
class Substitute(Corruption):
    """Put the mask id in place of most hidden ids, a random id in place of some, and leave the rest as they are.

    So an encoder that meets no mask id later has to know every place, and does not trust what it reads. A random id is
    any of the vocabulary, as in the official code, the special ones and the right one among them. Devlin et al. 2019
    (BERT), section 3.1 and appendix A.1.
    """

    keeps_all: ClassVar[bool] = True

    mask: float = 0.8
    """Share of the hidden tokens that become the mask id (BERT: 0.8)."""
    random: float = 0.1
    """Share that become a random id (BERT: 0.1); the others stay."""

    def __post_init__(self) -> None:
        for name in ("mask", "random"):
            expect(0 <= getattr(self, name) <= 1, getattr(self, name), "a share in [0, 1]", f"Substitute.{name}")
        most = 1 - self.mask + 1e-9
        expect(self.random <= most, self.random, f"at most 1 - mask, {1 - self.mask:g}", "Substitute.random")

    def build(self, width: int, modality: Modality) -> "SubstituteModule":
        vocabulary = modality.vocabulary
        if vocabulary is None or vocabulary.mask is None or modality.piece:
            raise OptionError(
                f"The tokens of {type(modality).__name__} are no ids that others could replace: use mask_token."
            )
        return SubstituteModule(self, vocabulary.size, vocabulary.mask)


class SubstituteModule(CorruptionModule):
    """The module of a `Substitute`; it has no parameters."""

    def __init__(self, config: Substitute, size: int, mask: int) -> None:
        super().__init__()
        self.config, self.size, self.mask = config, size, mask

    def content(self, tokens: Tokens, hidden: Bool[Tensor, "b n"], draw: Draw) -> Int64[Tensor, "b n"]:
        kind, which = draw.uniform("substitute", tokens.count), draw.uniform("random id", tokens.count)
        drawn = (which.double() * self.size).long()  # in float32 the last would round to the size
        instead = torch.where(kind < self.config.mask + self.config.random, drawn, tokens.values)
        instead = torch.where(kind < self.config.mask, self.mask, instead)
        return torch.where(hidden, instead, tokens.values)
