"""What lies on a plane: the view that a sample shows of it, and where its tokens lie, alike for all such modalities.

Pictures, distances and classes of one sample get the same crop and the same mirroring, since these are drawn under the
same names, as shares of each file's own extent.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn

from mmim.data.crops import Filter, Window, centre_window, random_resized_window, resized_crop
from mmim.draw import Draw
from mmim.errors import expect
from mmim.layers.patches import check_divides
from mmim.layers.positions import MapPositions, map_positions
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source
from mmim.records import Raw


@dataclass(frozen=True, kw_only=True)
class MapModality(Modality):
    """A modality whose sample is a map, cut into square patches.

    A modality of this kind says what a file holds (`pixels`), by which filter it is resized, how it is normalised and
    cut (`tokenize`, with `mmim.layers.patches.cut`), embedded and shown; what is read of it, and where its tokens lie,
    is said here. For evaluation that is the largest window in the middle with the aspect of `size`.
    """

    view: ClassVar[tuple[str, ...]] = ("size",)
    training_view: ClassVar[tuple[str, ...]] = ("crop", "scale", "ratio", "flip")
    masking: ClassVar[MaskingPolicy] = RandomMasking()

    size: tuple[int, int] = (224, 224)
    """Height and width after the crop, in pixels (MAE, MultiMAE: 224 224; SimMIM with Swin: 192 192)."""
    patch: int = 16
    """Height and width of a token, in pixels (MAE, MultiMAE: 16; Swin: 4)."""
    crop: Literal["random_resized", "centre"] = "random_resized"
    """Part of the map to train on (MAE, MultiMAE: random_resized)."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Lowest and highest area of a random_resized crop, as shares of all (MAE, MultiMAE: 0.2, 1; SimMIM: 0.67, 1)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Lowest and highest width / height of a random_resized crop, whatever the aspect of `size` (MAE: 3/4 to 4/3)."""
    flip: bool = True
    """Mirror half of the samples, left to right, in training (MAE, MultiMAE, SimMIM: yes)."""
    positions: MapPositions = "sincos"
    """The position codes (MAE: sincos; MultiMAE: sincos_row_first; BEiT, SimMIM: none, for a relative bias)."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        expect(self.patch >= 1, self.patch, "at least 1", f"{name}.patch")
        expect(min(self.size) >= 1, self.size, "a height and a width of at least 1 each", f"{name}.size")
        check_divides(name, self.size, (self.patch, self.patch))
        for field, most in (("scale", 1.0), ("ratio", float("inf"))):
            low, high = getattr(self, field)
            expect(0 < low <= high <= most, (low, high), f"0 < lowest <= highest <= {most}", f"{name}.{field}")

    @abstractmethod
    def pixels(self, path: Path) -> Num[Tensor, "h w c"]:
        """All of a file, as bytes or float32.

        Raises:
            ReadError: it can't be used; the message is the reason, without the path.
        """

    @property
    @abstractmethod
    def filter(self) -> Filter:
        """How it is resized."""

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of a sample: `size`, unless it is kept at another resolution."""
        return self.size

    def read(self, source: Source, draw: Draw | None) -> Num[Tensor, "c H W"]:
        return self._view(self.pixels(source.path), draw)

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        pixels = self.pixels(source.path)  # decoded once
        return [self._view(pixels, draw) for draw in draws]

    def _view(self, pixels: Num[Tensor, "h w c"], draw: Draw | None) -> Num[Tensor, "c H W"]:
        """A map, cropped, perhaps mirrored."""
        window = self._window(pixels.shape[0], pixels.shape[1], draw)
        view = resized_crop(pixels[None], window, self.extent, self.filter)[0]
        if self.flip and draw is not None and draw.floats("flip", 1)[0] < 0.5:
            view = view.flip(1)
        return view.permute(2, 0, 1).contiguous()

    def _window(self, height: int, width: int, draw: Draw | None) -> Window:
        if draw is None or self.crop == "centre":
            return centre_window(height, width, self.size)
        return random_resized_window(height, width, draw, scale=self.scale, ratio=self.ratio)

    def position(self, width: int) -> nn.Module:
        native = self.grid()
        assert native is not None  # a map's tokens lie on a grid
        return map_positions(self.positions, width, native)


def shown(shares: Float[Tensor, "b c h w"]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Maps of one or three channels, 0 to 1, as pictures in grey or colour."""
    pixels = (shares.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return list(rearrange(pixels, "b c h w -> b h w c").cpu().numpy())
