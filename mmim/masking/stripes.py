"""Stripe masking: whole time steps, whole frequency bands, or both. Grids are (time, frequency), time slowest.

Huang et al. 2022 (Audio-MAE), section 3.2 and figure 3, which finds random masking better for pre-training.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.groups import ordinals
from mmim.modality import MaskingPolicy
from mmim.records import Tokens


@dataclass(frozen=True)
class TimeMasking(MaskingPolicy):
    """Hide whole time steps, so that what is left of a moment does not give away the rest of it."""

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        times, bands = _times_and_bands(tokens)
        return ordinals(draw.uniform("time", times)).repeat_interleave(bands, dim=1)

    def group(self, tokens: Tokens) -> int:
        return _times_and_bands(tokens)[1]


@dataclass(frozen=True)
class FrequencyMasking(MaskingPolicy):
    """Hide whole frequency bands for the length of the clip."""

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        times, bands = _times_and_bands(tokens)
        return ordinals(draw.uniform("frequency", bands)).repeat(1, times)

    def group(self, tokens: Tokens) -> int | Int64[Tensor, " b"]:
        times, bands = _times_and_bands(tokens)
        return times if tokens.valid is None else tokens.valid.sum(dim=1) // bands


@dataclass(frozen=True)
class TimeFrequencyMasking(MaskingPolicy):
    """Hide time steps and frequency bands in about equal shares: what stays is where kept times cross kept bands.

    A token's rank is the greater of the two numbers of its stripes, so any cut leaves such a crossing; the last stripe
    to stay is cut where the count asks for it. Audio-MAE's code sets the two shares apart and lets them round freely.
    """

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        times, bands = _times_and_bands(tokens)
        at_time, at_band = draw.uniform("time", times), draw.uniform("frequency", bands)
        count: Tensor | int = times
        if tokens.valid is not None:  # steps behind the end come last, and the others are spread over [0, 1) anew
            there = tokens.valid.reshape(-1, times, bands)[:, :, 0]
            at_time, count = at_time.masked_fill(~there, torch.inf), there.sum(dim=1, keepdim=True).clamp(min=1)
        share_of_time, share_of_band = (ordinals(at_time) + 0.5) / count, (ordinals(at_band) + 0.5) / bands
        return torch.maximum(share_of_time[:, :, None], share_of_band[:, None, :]).flatten(1)


def _times_and_bands(tokens: Tokens) -> tuple[int, int]:
    if tokens.grid is None or len(tokens.grid) != 2:
        raise MaskingError(
            f"Stripes need a grid of time and frequency, and these tokens have {tokens.grid}: use random masking."
        )
    return tokens.grid[0], tokens.grid[1]
