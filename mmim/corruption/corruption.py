"""The contract of a corruption."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmim.parts import Part


class CorruptionModule(nn.Module, ABC):
    """What a `Corruption` builds."""

    @abstractmethod
    def embedded(self, content: Float[Tensor, "b n d"], hidden: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The embedded content of all tokens, before positions, with the hidden ones replaced."""


class Corruption(Part):
    """The configuration of a corruption: what the encoder gets in the hidden places of one modality."""

    axis: ClassVar[str] = "corruption"
    keeps_all: ClassVar[bool]
    """Whether the encoder sees all places, the hidden ones corrupted, or the visible ones alone."""

    @abstractmethod
    def build(self, width: int) -> CorruptionModule:
        """A module with fresh weights, for contents of so many channels."""
