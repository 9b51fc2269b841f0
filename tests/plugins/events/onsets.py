"""Onsets: a target for tokens that are several events in a row."""

from dataclasses import dataclass
from math import prod

import torch
from mmim.modality import Modality, Target
from mmim.records import Tokens, gather_tokens
from torch import Tensor


@dataclass(frozen=True)
class Onsets(Target):
    """When each event of a hidden token comes (squared error), and of which kind it is (cross-entropy), added up.

    Pieces are (events, 1 + kinds): the seconds since the token's first event, and a 1 for the kind. Where there is no
    kind there is no event, and nothing is counted.
    """

    kinds: int = 3

    def size(self, modality: Modality) -> int:
        return prod(modality.piece)

    def values(self, tokens: Tokens, ids: Tensor, modality: Modality) -> Tensor:
        return gather_tokens(tokens.values, ids).flatten(2)

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Times [b m events] and kinds [b m events kinds]."""
        events = numbers.float().unflatten(2, (-1, 1 + self.kinds))
        return events[..., 0], events[..., 1:]

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        (guess, scores), (time, kind) = self._parts(pred), self._parts(target)
        there = kind.sum(dim=-1)
        each = there * (guess - time).square() - (kind * scores.log_softmax(dim=-1)).sum(dim=-1)
        return each.sum(dim=-1) / there.sum(dim=-1).clamp(min=1)

    def pieces(self, pred: Tensor, tokens: Tokens, ids: Tensor, modality: Modality) -> Tensor:
        time, scores = self._parts(pred)
        likeliest = torch.nn.functional.one_hot(scores.argmax(dim=-1), self.kinds)
        return torch.cat([time[..., None], likeliest], dim=-1)
