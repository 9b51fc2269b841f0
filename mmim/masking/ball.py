"""Ball masking: a token and those around it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.masking.groups import ordinals
from mmim.modality import MaskingPolicy
from mmim.records import Tokens


@dataclass(frozen=True)
class BallMasking(MaskingPolicy):
    """Hide the tokens nearest to one of them, drawn uniformly, so that a whole region goes.

    Any tokens with coordinates; padding is never the centre. Of tokens equally near the later ones go first.

    Yu et al. 2022 (Point-BERT), section 3.3; Pang et al. 2022 (Point-MAE), section 4.3, "block".
    """

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        chance = draw.uniform("centre", 1).double()
        coords = tokens.coords.double().expand(len(chance), -1, -1)  # in float32 a tie might break otherwise on a GPU
        valid = torch.ones_like(coords[..., 0], dtype=torch.bool) if tokens.valid is None else tokens.valid
        number = (chance * valid.sum(dim=1, keepdim=True)).long()  # of the centre among the valid tokens, from 0
        is_centre = valid & (valid.cumsum(dim=1) == number + 1)
        centre = (coords * is_centre[..., None]).sum(dim=1, keepdim=True)
        return ordinals(-(coords - centre).square().sum(dim=-1))
