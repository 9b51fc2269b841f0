"""Nothing stands there: the encoder sees the visible tokens alone."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from mmim.corruption.corruption import Corruption, CorruptionModule


@dataclass(frozen=True)
class Drop(Corruption):
    """Leave hidden tokens out, which makes the encoder as many times cheaper. He et al. 2022 (MAE), section 3."""

    keeps_all: ClassVar[bool] = False

    def build(self, width: int) -> "DropModule":
        return DropModule()


class DropModule(CorruptionModule):
    """The module of a `Drop`; it is handed visible tokens only, and has nothing to do."""

    def embedded(self, content: Float[Tensor, "b n d"], hidden: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return content
