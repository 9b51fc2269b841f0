"""The contract of a term of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from mmim.decoders.decoder import Query
from mmim.modality import Target
from mmim.parts import Part
from mmim.records import Latents, LossTerm


@runtime_checkable
class Asks(Protocol):
    """What a term may ask the Step for. Each answer is computed once, whoever asks."""

    def query(self, task: str) -> tuple[Query, Bool[Tensor, "b m"]]:
        """What the task predicts, and which of it counts (present and valid)."""

    def prediction(self, task: str) -> Float[Tensor, "b m p"]:
        """The decoder's prediction."""

    def latents(self, modalities: tuple[str, ...] | None = None) -> Latents:
        """The joint pass over some modalities, all by default."""

    def target(self, task: str) -> Num[Tensor, "b m *p"]:
        """What it should have been."""


class TermModule(nn.Module, ABC):
    """What a `Term` builds: heads and temperatures are its parameters."""

    @abstractmethod
    def counts(self, step: Asks) -> dict[str, Float[Tensor, ""]]:
        """The count of each loss it gives, from splits and presence alone: no embedder, encoder or decoder runs."""

    @abstractmethod
    def forward(self, step: Asks) -> dict[str, LossTerm]:
        """The losses, weighted, under the same names."""


class Term(Part):
    """The configuration of a term."""

    axis: ClassVar[str] = "term"

    @abstractmethod
    def build(self, targets: Mapping[str, tuple[Target, float]], width: int) -> TermModule:
        """A module; `targets[task]` = (target, weight), `width` that of the latents.

        Raises:
            OptionError: it asks for a task that there is not.
        """
