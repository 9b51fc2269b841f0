"""Images: RGB pictures in square patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmim.data.crops import Interpolation, Window, centre_window, random_resized_window, resized_crop
from mmim.data.image_read import read_picture
from mmim.data.world import picture
from mmim.draw import Draw
from mmim.errors import expect
from mmim.layers.patches import PatchEmbed, check_divides, cut, from_patches, per_channel
from mmim.layers.positions import MapPositions, map_positions
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target
from mmim.records import Raw, Tokens
from mmim.targets.pixels import Pixels

FLOOR = (24, 24)  # rows, columns of the plain features
NORM_EPS = 1e-5  # of Swin's norm after the patch embedding


@dataclass(frozen=True, kw_only=True)
class Image(Modality):
    """RGB pictures in square patches.

    Input   [b 3 H W], uint8; H and W multiples of `patch`, not only those of the fields
    Tokens  n = H / patch * W / patch, row by row from the top left; values [b n 3 patch patch],
            (x / 255 - mean) / std; coords (row, column) in tokens
    View    for evaluation the largest window in the middle with the aspect of `size`. MAE takes the middle 224 of a
            short side resized to 256, so it sees 7/8 of our window
    Paper   He et al. 2022 (MAE), sections 3 and 4, arXiv:2111.06377
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    )  # fmt: skip
    view: ClassVar[tuple[str, ...]] = ("size", "interpolation")
    training_view: ClassVar[tuple[str, ...]] = ("crop", "scale", "ratio", "flip")
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Pixels(normalise="token")

    size: tuple[int, int] = (224, 224)
    """Height and width after the crop, in pixels (MAE: 224 224; SimMIM with Swin: 192 192)."""
    patch: int = 16
    """Height and width of a token, in pixels (MAE: 16; Swin: 4)."""
    crop: Literal["random_resized", "centre"] = "random_resized"
    """Part of the picture to train on (MAE: random_resized)."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Lowest and highest area of a random_resized crop, as shares of the picture's (MAE: 0.2, 1; SimMIM: 0.67, 1)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Lowest and highest width / height of a random_resized crop, whatever the aspect of `size` (MAE: 3/4 to 4/3)."""
    interpolation: Interpolation = "bicubic"
    """The filter of the resize (MAE: bicubic; SimMIM: bilinear)."""
    flip: bool = True
    """Mirror half of the pictures, left to right, in training (MAE, SimMIM: yes)."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue in [0, 1] (ImageNet)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides red, green and blue after that (ImageNet)."""
    positions: MapPositions = "sincos"
    """The position codes (MAE: sincos; BEiT, SimMIM: none, their encoders know places by a relative bias)."""
    embed_norm: bool = False
    """A LayerNorm after the patch embedding (Swin: yes)."""

    def __post_init__(self) -> None:
        expect(self.patch >= 1, self.patch, "at least 1", "Image.patch")
        expect(min(self.size) >= 1, self.size, "a height and a width of at least 1 each", "Image.size")
        check_divides("Image", self.size, self.piece[1:])
        for name, most in (("scale", 1.0), ("ratio", float("inf"))):
            low, high = getattr(self, name)
            expect(0 < low <= high <= most, (low, high), f"0 < lowest <= highest <= {most}", f"Image.{name}")
        expect(all(map(isfinite, self.mean)), self.mean, "finite for each colour", "Image.mean")
        positive = all(isfinite(deviation) and deviation > 0 for deviation in self.std)
        expect(positive, self.std, "above 0 for each colour, and finite", "Image.std")

    @property
    def piece(self) -> tuple[int, ...]:
        return (3, self.patch, self.patch)

    def grid(self) -> tuple[int, int]:
        return self.size[0] // self.patch, self.size[1] // self.patch

    def blank(self) -> UInt8[Tensor, "3 H W"]:
        return torch.zeros(3, *self.size, dtype=torch.uint8)

    def read(self, source: Source, draw: Draw | None) -> UInt8[Tensor, "3 H W"]:
        return self._view(torch.from_numpy(read_picture(source.path)), draw)

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        pixels = torch.from_numpy(read_picture(source.path))  # decoded once
        return [self._view(pixels, draw) for draw in draws]

    def _view(self, pixels: UInt8[Tensor, "h w 3"], draw: Draw | None) -> UInt8[Tensor, "3 H W"]:
        """A picture, cropped, perhaps mirrored."""
        window = self._window(pixels.shape[0], pixels.shape[1], draw)
        view = resized_crop(pixels[None], window, self.size, self.interpolation)[0]
        if self.flip and draw is not None and draw.floats("flip", 1)[0] < 0.5:
            view = view.flip(1)
        return view.permute(2, 0, 1).contiguous()

    def _window(self, height: int, width: int, draw: Draw | None) -> Window:
        if draw is None or self.crop == "centre":
            return centre_window(height, width, self.size)
        return random_resized_window(height, width, draw, scale=self.scale, ratio=self.ratio)

    def tokenize(self, raw: UInt8[Tensor, "b 3 H W"]) -> Tokens:  # type: ignore[override]
        share = raw.to(torch.get_default_dtype()) / 255
        normalised = (share - per_channel(self.mean, share, 2)) / per_channel(self.std, share, 2)
        return cut("Image", normalised, self.piece[1:])

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b 3 H W"]:
        return from_patches(values, tokens.grid)

    def raw(self, values: Float[Tensor, "b n *piece"]) -> Float[Tensor, "b n *piece"]:
        return values * per_channel(self.std, values, 2) + per_channel(self.mean, values, 2)

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, xavier=True, norm_eps=NORM_EPS if self.embed_norm else None)

    def position(self, width: int) -> nn.Module:
        return map_positions(self.positions, width, self.grid())

    def render(self, data: Float[Tensor, "b 3 H W"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The pictures themselves."""
        shown = (data.clamp(0, 1) * 255).round().to(torch.uint8)
        return list(rearrange(shown, "b c h w -> b h w c").cpu().numpy())

    def features(self, raw: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Mean colours of 24 x 24 blocks, in [0, 1]: p = 1728."""
        return adaptive_avg_pool2d(raw.to(torch.get_default_dtype()) / 255, FLOOR).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as a photograph, in PNG."""
        PIL.Image.fromarray(picture.still(scene, scene.nuisance("image"))).save(path, format="PNG")
