"""Ids: which of the vocabulary stands there."""

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmim.errors import OptionError
from mmim.modality import Modality, Target
from mmim.records import Tokens, gather_tokens

NO_ID = -1
"""Stands in a token where there is no id: it is not predicted."""


@dataclass(frozen=True)
class Ids(Target):
    """The ids of a hidden token, told among all of the vocabulary; the loss is the mean of their cross-entropies.

    A token holds one id (a word) or a map of them (a patch of classes). The numbers predicted for a token are ordered
    (id of the vocabulary, *piece), as MultiMAE's are. All ids of the vocabulary compete, also those that never stand in
    the data. A place of a token whose id is `NO_ID` is left out of the mean; a token of nothing else has a loss of 0.

    Devlin et al. 2019 (BERT), section 3.1; Bachmann et al. 2022 (MultiMAE), section 3.3.
    """

    def size(self, modality: Modality) -> int:
        if modality.vocabulary is None:
            raise OptionError(
                f"The tokens of {type(modality).__name__} are no ids that could be predicted: use pixels."
            )
        return modality.vocabulary.size * prod(modality.piece)

    def values(self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality) -> Int64[Tensor, "b m *piece"]:
        return gather_tokens(tokens.values, ids)

    def loss(self, pred: Float[Tensor, "b m p"], target: Int64[Tensor, "b m *piece"]) -> Float[Tensor, "b m"]:  # type: ignore[override]
        wanted = target.flatten(2) if target.ndim > 2 else target[..., None]  # b m places
        scores = pred.to(torch.promote_types(pred.dtype, torch.float32))
        scores = scores.unflatten(2, (-1, wanted.shape[2])).transpose(2, 3)  # b m places vocabulary
        each = cross_entropy(scores.flatten(0, 2), wanted.flatten(), ignore_index=NO_ID, reduction="none")
        return each.view(wanted.shape).sum(dim=2) / (wanted != NO_ID).sum(dim=2).clamp(min=1)

    def pieces(
        self, pred: Float[Tensor, "b m p"], tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality
    ) -> Int64[Tensor, "b m *piece"]:
        """The likeliest."""
        likeliest: Tensor = pred.unflatten(2, (-1, prod(modality.piece))).argmax(dim=2)
        return likeliest.reshape(*ids.shape, *modality.piece)
