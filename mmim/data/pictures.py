"""RGB pictures as tokens: what a modality of pictures has in common with others, wherever its pictures come from."""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmim.data.crops import Filter, Interpolation
from mmim.data.maps import MapModality, shown
from mmim.errors import expect
from mmim.layers.patches import PatchEmbed, cut, from_patches, per_channel
from mmim.modality import Target
from mmim.records import Tokens
from mmim.targets.pixels import Pixels

FLOOR = (24, 24)  # rows, columns of the plain features
NORM_EPS = 1e-5  # of Swin's norm after the patch embedding
FRAMED = ("flat", "learned", "none")  # positions that know a grid (time, row, column)


@dataclass(frozen=True, kw_only=True)
class PictureModality(MapModality):
    """A modality whose sample is an RGB picture, in square patches, or in tubelets as clips are.

    A modality of this kind says which files it reads and how (`pixels`, or `read`), and how it depicts a scene.

    Input   [b 3 H W], uint8; H and W multiples of `patch`, not only those of the fields
    Tokens  n = H / patch * W / patch, row by row from the top left; values [b n 3 patch patch],
            (x / 255 - mean) / std; coords (row, column) in tokens. With `frames` above 1: values
            [b n 3 frames patch patch], each frame the picture; coords (time, row, column)
    View    for evaluation the largest window in the middle with the aspect of `size`. MAE takes the middle 224 of a
            short side resized to 256, so it sees 7/8 of our window
    """

    view: ClassVar[tuple[str, ...]] = ("size", "interpolation")
    target: ClassVar[Target] = Pixels(normalise="token")

    interpolation: Interpolation = "bicubic"
    """The filter of the resize (MAE: bicubic; SimMIM: bilinear)."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue in [0, 1] (ImageNet)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides red, green and blue after that (ImageNet)."""
    embed_norm: bool = False
    """A LayerNorm after the patch embedding (Swin: yes)."""
    frames: int = 1
    """Times that the picture is repeated, as one tubelet of that depth (OmniMAE: 2, with flat positions)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        expect(all(map(isfinite, self.mean)), self.mean, "finite for each colour", f"{name}.mean")
        positive = all(isfinite(deviation) and deviation > 0 for deviation in self.std)
        expect(positive, self.std, "above 0 for each colour, and finite", f"{name}.std")
        expect(self.frames >= 1, self.frames, "at least 1", f"{name}.frames")
        knows = self.frames == 1 or self.positions in FRAMED
        expect(knows, self.positions, f"one of {', '.join(FRAMED)} where frames is above 1", f"{name}.positions")

    @property
    def filter(self) -> Filter:
        return self.interpolation

    @property
    def piece(self) -> tuple[int, ...]:
        depth = (self.frames,) if self.frames > 1 else ()
        return (3, *depth, self.patch, self.patch)

    def grid(self) -> tuple[int, ...]:
        time = (1,) if self.frames > 1 else ()
        return (*time, self.size[0] // self.patch, self.size[1] // self.patch)

    def blank(self) -> UInt8[Tensor, "3 H W"]:
        return torch.zeros(3, *self.size, dtype=torch.uint8)

    def tokenize(self, raw: UInt8[Tensor, "b 3 H W"]) -> Tokens:  # type: ignore[override]
        share = raw.to(torch.get_default_dtype()) / 255
        normalised = (share - per_channel(self.mean, share, 2)) / per_channel(self.std, share, 2)
        if self.frames > 1:
            normalised = repeat(normalised, "b c h w -> b c t h w", t=self.frames)
        return cut(type(self).__name__, normalised, self.piece[1:])

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b 3 *T H W"]:
        return from_patches(values, tokens.grid)

    def raw(self, values: Float[Tensor, "b n *piece"]) -> Float[Tensor, "b n *piece"]:
        axes = len(self.piece) - 1
        return values * per_channel(self.std, values, axes) + per_channel(self.mean, values, axes)

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, xavier=True, norm_eps=NORM_EPS if self.embed_norm else None)

    def render(self, data: Float[Tensor, "b 3 *T H W"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The pictures themselves; of a repeated one the mean of its frames, which a prediction may draw apart."""
        return shown(data.mean(dim=2) if data.ndim > 4 else data)

    def features(self, raw: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Mean colours of 24 x 24 blocks, in [0, 1]: p = 1728."""
        return adaptive_avg_pool2d(raw.to(torch.get_default_dtype()) / 255, FLOOR).flatten(1)
