"""Images: RGB pictures in square patches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import PIL.Image
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmim.data.image_read import read_picture
from mmim.data.pictures import PictureModality
from mmim.data.world import picture


@dataclass(frozen=True, kw_only=True)
class Image(PictureModality):
    """RGB pictures in square patches, or in tubelets as clips are.

    Input   [b 3 H W], uint8; H and W multiples of `patch`, not only those of the fields
    Tokens  n = H / patch * W / patch, row by row from the top left; values [b n 3 patch patch],
            (x / 255 - mean) / std; coords (row, column) in tokens. With `frames` above 1: values
            [b n 3 frames patch patch], each frame the picture; coords (time, row, column)
    Paper   He et al. 2022 (MAE), sections 3 and 4, arXiv:2111.06377; Girdhar et al. 2023 (OmniMAE), section 3, for
            pictures as clips, arXiv:2206.08356
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    )  # fmt: skip

    def pixels(self, path: Path) -> UInt8[Tensor, "h w 3"]:
        return torch.from_numpy(read_picture(path))

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as a photograph, in PNG."""
        PIL.Image.fromarray(picture.still(scene, scene.nuisance("image"))).save(path, format="PNG")
