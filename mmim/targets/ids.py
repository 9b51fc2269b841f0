"""Ids: which of the vocabulary stands there."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmim.errors import OptionError
from mmim.modality import Modality, Target
from mmim.records import Tokens, gather_tokens


@dataclass(frozen=True)
class Ids(Target):
    """The id of a hidden token, told among all of the vocabulary; the loss is the cross-entropy.

    Devlin et al. 2019 (BERT), section 3.1. All ids of the vocabulary compete, also those that never stand in a corpus.
    """

    def size(self, modality: Modality) -> int:
        if modality.vocabulary is None:
            raise OptionError(
                f"The tokens of {type(modality).__name__} are no ids that could be predicted: use pixels."
            )
        return modality.vocabulary.size

    def values(self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality) -> Int64[Tensor, "b m"]:
        return gather_tokens(tokens.values, ids)

    def loss(self, pred: Float[Tensor, "b m p"], target: Int64[Tensor, "b m"]) -> Float[Tensor, "b m"]:  # type: ignore[override]
        scores = pred.to(torch.promote_types(pred.dtype, torch.float32))
        return cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)

    def pieces(
        self, pred: Float[Tensor, "b m p"], tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality
    ) -> Int64[Tensor, "b m"]:
        """The likeliest."""
        return pred.argmax(dim=-1)
