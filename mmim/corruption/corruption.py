"""The contract of a corruption: what stands where a token is hidden."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from mmim.draw import Draw
from mmim.modality import Modality
from mmim.parts import Part
from mmim.records import Split, Tokens


@dataclass(frozen=True, eq=False)
class Sides:
    """One modality as the encoder has it, and as the decoders have it: two sequences where sentinels stand for spans.

    tokens, split       of the encoder: the visible tokens
    asked, asked_split  of the decoders: the places that are predicted
    """

    tokens: Tokens
    split: Split
    asked: Tokens
    asked_split: Split


class CorruptionModule(nn.Module):
    """What a `Corruption` builds. Each hook leaves things as they are unless it is replaced."""

    def sides(self, tokens: Tokens, split: Split) -> Sides:
        """New sequences for encoder and decoders (sentinels)."""
        return Sides(tokens, split, tokens, split)

    def content(self, tokens: Tokens, hidden: Bool[Tensor, "b n"], draw: Draw) -> Num[Tensor, "b n *piece"]:
        """The raw content of all tokens, with the hidden ones replaced (BERT's random ids). Only where all are kept."""
        return tokens.values

    def embedded(self, content: Float[Tensor, "b n d"], hidden: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The embedded content of all tokens, before positions, with the hidden ones replaced. Likewise."""
        return content


class Corruption(Part):
    """The configuration of a corruption: what the encoder gets in the hidden places of one modality."""

    axis: ClassVar[str] = "corruption"
    keeps_all: ClassVar[bool]
    """Whether the encoder sees all places, the hidden ones corrupted, or the visible ones alone."""

    @abstractmethod
    def build(self, width: int, modality: Modality) -> CorruptionModule:
        """A module with fresh weights, for contents of so many channels.

        Raises:
            OptionError: it can't corrupt this modality.
        """
