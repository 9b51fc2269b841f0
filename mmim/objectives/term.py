"""The contract of a term of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
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

    def predicts(self, task: str) -> bool:
        """Whether somebody in the batch has what a task predicts, so that there are a prediction and a target."""

    def prediction(self, task: str) -> Float[Tensor, "b m p"]:
        """The decoder's prediction."""

    @property
    def given(self) -> Collection[str]:
        """The modalities that somebody in the batch has."""

    @property
    def present(self) -> Mapping[str, Bool[Tensor, " b"]]:
        """Who has a modality, of all modalities of the recipe."""

    def seen(self, name: str) -> Bool[Tensor, " b"]:
        """Of whom the encoder sees a token of a modality: who has it, and did not have all of it hidden."""

    def latents(self, modalities: tuple[str, ...] | None = None, *, own: bool = False, chained: bool = True) -> Latents:
        """The joint pass over some modalities that somebody in the batch has, all of these by default.

        own, chained: see `mmim.encoders.encoder.Pass`.
        """

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
    """The configuration of a term. With a weight of 0 it is left out, and decoders that no other term asks for too."""

    axis: ClassVar[str] = "term"

    weight: float
    """Factor of its losses."""

    def tasks_of(self, tasks: Collection[str]) -> Collection[str]:
        """Those of the method's tasks that it asks predictions for."""
        return ()

    def check(self, modalities: Collection[str]) -> None:
        """Raise an OptionError if it names a modality that there is not, or needs more of them."""

    def using(self, kept: Sequence[str], fresh: Sequence[str], lost: Sequence[str]) -> "Term | None":
        """The term in a method that keeps some of its modalities and gets others; None: nothing of it is left.

        kept: modalities; fresh: modalities that are new, each with a task of its name; lost: tasks that are gone.
        """
        return self

    @abstractmethod
    def build(self, targets: Mapping[str, tuple[Target, float]], width: int, modalities: Collection[str]) -> TermModule:
        """A module; `targets[task]` = (target, weight), `width` that of the latents, `modalities` all of the method's.

        Raises:
            OptionError: it asks for a task that there is not.
        """
