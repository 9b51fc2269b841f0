"""A learned vector stands there."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmim.corruption.corruption import Corruption, CorruptionModule
from mmim.modality import Modality


@dataclass(frozen=True)
class MaskToken(Corruption):
    """Put one learned vector in place of each hidden token's content; its position is added as for any other.

    Bao et al. 2022 (BEiT), section 2.4; Xie et al. 2022 (SimMIM), section 3.2. The vector is drawn normal with
    deviation 0.02 as in their code.
    """

    keeps_all: ClassVar[bool] = True

    def build(self, width: int, modality: Modality) -> "MaskTokenModule":
        return MaskTokenModule(width)


class MaskTokenModule(CorruptionModule):
    """The module of a `MaskToken`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def embedded(self, content: Float[Tensor, "b n d"], hidden: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return torch.where(hidden[..., None], self.mask_token.to(content.dtype), content)
