"""Random masking: every token alone."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.modality import MaskingPolicy
from mmim.records import Tokens


@dataclass(frozen=True)
class RandomMasking(MaskingPolicy):
    """Hide tokens uniformly at random. He et al. 2022 (MAE), section 3."""

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        return draw.uniform("random", tokens.count)
