"""The contract of a decoder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mmim.encoders.encoder import Encoder
from mmim.modality import Modality
from mmim.parts import Part
from mmim.records import Latents, Tokens


@dataclass(frozen=True, eq=False)
class Query:
    """What is to be predicted for one modality: its tokens, the places `ids [b m]`, and `valid [b m]` or None (all).

    twice: whether places may be asked for that the encoder saw, so that a place can have a latent and a mask token.
    """

    tokens: Tokens
    ids: Int64[Tensor, "b m"]
    valid: Bool[Tensor, "b m"] | None = None
    twice: bool = False


class DecoderModule(nn.Module, ABC):
    """What a `Decoder` builds."""

    def tie(self, embedders: Mapping[str, nn.Module]) -> None:
        """Look at the trunk's embedders, by modality, once after construction: a head may share their weights.

        What is shared stays the embedder's: it is kept outside of the decoder's own parameters.

        Raises:
            OptionError: they have nothing that it could share.
        """

    @abstractmethod
    def forward(
        self, latents: Latents, tokens: Mapping[str, Tokens], queries: Mapping[str, Query]
    ) -> dict[str, Float[Tensor, "b m p"]]:
        """A prediction for each task at the places its modality asks for.

        tokens: of every modality of the batch, for their positions; queries: by modality, whose tokens are others where
        sentinels give encoder and decoders two sequences. A modality that nobody in the batch has is in neither, and
        its tasks get no prediction. One that is no input is not in `latents.layout`.
        """


class Decoder(Part):
    """The configuration of a decoder."""

    axis: ClassVar[str] = "decoder"
    needs_all: ClassVar[bool] = False
    """Whether it reads its predictions off the encoder's output, which must then hold the hidden places too."""

    @abstractmethod
    def build(
        self, modalities: Mapping[str, Modality], encoder: Encoder, tasks: Mapping[str, tuple[str, int]]
    ) -> DecoderModule:
        """A module with fresh weights, which serves all tasks in one pass.

        encoder: whose output it reads; tasks[task]: its modality, and the numbers to predict per token.

        Raises:
            OptionError: it can't read the output of this encoder, or serve these modalities.
        """
