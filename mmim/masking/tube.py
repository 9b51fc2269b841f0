"""Tube masking: the same places in every frame."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.modality import MaskingPolicy
from mmim.records import Tokens


@dataclass(frozen=True)
class TubeMasking(MaskingPolicy):
    """Hide the same places in every frame, so that no neighbour in time gives them away.

    Tong et al. 2022 (VideoMAE), section 3.3. All tokens of a place share one number and ties go in token order, so
    the cut must keep whole places: `Ratio(whole_frames=True)`.
    """

    whole_frames: ClassVar[bool] = True

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        if tokens.grid is None or len(tokens.grid) < 2:
            raise MaskingError(
                f"Tubes need a grid of time and places, and these tokens have {tokens.grid}: use random masking."
            )
        frames, places = tokens.grid[0], math.prod(tokens.grid[1:])
        return draw.uniform("tube", places).repeat(1, frames)  # b (t h w): one number per place, repeated over time
