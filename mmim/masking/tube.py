"""Tube masking: the same places in every frame."""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.groups import ordinals
from mmim.modality import MaskingPolicy
from mmim.records import Tokens


@dataclass(frozen=True)
class TubeMasking(MaskingPolicy):
    """Hide the same places in every frame, so that no neighbour in time gives them away.

    Tong et al. 2022 (VideoMAE), section 3.3. A place stays or goes with all its frames.
    """

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        frames, places = _frames_and_places(tokens)
        return ordinals(draw.uniform("tube", places)).repeat(1, frames)  # b (t h w): one number per place

    def group(self, tokens: Tokens) -> int | Int64[Tensor, " b"]:
        frames, places = _frames_and_places(tokens)
        return frames if tokens.valid is None else tokens.valid.sum(dim=1) // places


def _frames_and_places(tokens: Tokens) -> tuple[int, int]:
    if tokens.grid is None or len(tokens.grid) < 2:
        raise MaskingError(
            f"Tubes need a grid of time and places, and these tokens have {tokens.grid}: use random masking."
        )
    return tokens.grid[0], math.prod(tokens.grid[1:])
