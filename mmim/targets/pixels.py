"""Pixels, and any other values that stand in the tokens themselves."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

from mmim.errors import OptionError
from mmim.modality import Modality, Target
from mmim.records import Tokens, gather_tokens


@dataclass(frozen=True)
class Pixels(Target):
    """The content of the hidden tokens, raw or normalised token by token.

    Values of a token are ordered (piece axes, channel), channel last, as in MAE and VideoMAE.

    Paper   He et al. 2022, section 4 ("reconstruction target"); Tong et al. 2022 (VideoMAE), section 3.2
    Traps   VideoMAE: statistics per channel, 1e-6 outside the root, on values in [0, 1]. MAE: over all values of the
            patch, inside the root, on normalised values. OmniMAE: per channel, inside the root, on values in [0, 1].
            All use the unbiased variance
    """

    normalise: Literal["none", "token", "channel"] = "none"
    """Subtract the mean and divide by the deviation: of the whole token, or of each of its channels."""
    eps: float = 1e-6
    """Keeps flat tokens finite; in the variance where `eps_inside`, else added to the deviation."""
    eps_inside: bool = True
    """Whether eps is added inside the square root."""
    units: Literal["normalised", "raw"] = "normalised"
    """Start from what the encoder sees, or from values in the file's range [0, 1]."""
    error: Literal["squared", "absolute"] = "squared"
    """How far a value is off (MAE, VideoMAE: squared; SimMIM: absolute)."""

    @property
    def flatters(self) -> bool:
        return self.normalise != "none"

    def size(self, modality: Modality) -> int:
        if modality.vocabulary is not None:
            raise OptionError(f"{type(modality).__name__} has ids and no pixels: use the target ids.")
        return prod(modality.piece)

    def values(self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality) -> Float[Tensor, "b m p"]:
        values, mean, deviation = self._statistics(tokens, ids, modality)
        return ((values - mean) / deviation).flatten(2)

    def loss(self, pred: Float[Tensor, "b m p"], target: Num[Tensor, "b m p"]) -> Float[Tensor, "b m"]:
        difference = pred.to(target.dtype) - target
        return (difference.square() if self.error == "squared" else difference.abs()).mean(dim=-1)

    def pieces(
        self, pred: Float[Tensor, "b m p"], tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality
    ) -> Float[Tensor, "b m *piece"]:
        values, mean, deviation = self._statistics(tokens, ids, modality)
        drawn = (pred.to(values.dtype).reshape(values.shape) * deviation + mean).movedim(-1, 2)
        return drawn if self.units == "raw" else modality.raw(drawn)

    def _statistics(
        self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality
    ) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Values `[b m *axes c]` at the places, and the mean and deviation to normalise them with."""
        values = gather_tokens(tokens.values, ids)
        values = modality.raw(values) if self.units == "raw" else values
        values = values.movedim(2, -1)
        if self.normalise == "none":
            return values, 0.0, 1.0
        axes = tuple(range(2, values.ndim - (self.normalise == "channel")))
        variance, mean = torch.var_mean(values, dim=axes, correction=1, keepdim=True)
        return values, mean, (variance + self.eps).sqrt() if self.eps_inside else variance.sqrt() + self.eps
