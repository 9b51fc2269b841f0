"""Nothing stands there: the encoder sees the visible tokens alone."""

from dataclasses import dataclass
from typing import ClassVar

from mmim.corruption.corruption import Corruption, CorruptionModule
from mmim.modality import Modality


@dataclass(frozen=True)
class Drop(Corruption):
    """Leave hidden tokens out, which makes the encoder as many times cheaper. He et al. 2022 (MAE), section 3."""

    keeps_all: ClassVar[bool] = False

    def build(self, width: int, modality: Modality) -> CorruptionModule:
        return CorruptionModule()
