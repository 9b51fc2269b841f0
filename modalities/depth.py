"""Depth: how far away each pixel of a picture is, in square patches."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmim.data.crops import Filter, Interpolation
from mmim.data.map_read import read_map
from mmim.data.maps import MapModality, shown
from mmim.data.world import relief
from mmim.errors import ReadError, expect
from mmim.layers.patches import PatchEmbed, cut, from_patches
from mmim.layers.positions import MapPositions
from mmim.modality import Target
from mmim.records import Tokens
from mmim.targets.pixels import Pixels

FLOOR = (24, 24)  # rows, columns of the plain features
STEPS = 2**16
"""Of a 16-bit number."""
FARTHEST = 1e9
"""Beyond it squares no longer fit into float32 safely."""
TRIM, EPS = 0.1, 1e-6  # MultiMAE's standardisation
WIDE = 3.0
"""Deviations from the mean that a picture for a person shows best."""


@dataclass(frozen=True, kw_only=True)
class Depth(MapModality):
    """Maps of distances in square patches.

    Input   [b 1 H W], float32: numbers of 16 bits divided by 2^16, floating-point ones (.npy, .tif) as they stand; one
            type for both, so that they share a batch. 8 bits and colours are refused
    Tokens  n = H / patch * W / patch, row by row from the top left; values [b n 1 patch patch], standardised: of each
            sample by the mean and deviation of its own values without the lowest and the highest tenth (so that `raw`
            gives these units back, not the file's), or with `mean` and `std`; coords (row, column) in tokens
    Holes   pixels without a measurement, 0 in most files, are values like any other, as in MultiMAE; what is not finite
            becomes 0
    Paper   Bachmann et al. 2022 (MultiMAE), sections 3.1 and 4.1, arXiv:2204.01678; the standardisation of its code
    """

    suffixes: ClassVar[tuple[str, ...]] = (".depth.png", ".depth.tif", ".depth.tiff", ".depth.npy")
    view: ClassVar[tuple[str, ...]] = ("size", "interpolation")
    target: ClassVar[Target] = Pixels(error="absolute")

    positions: MapPositions = "sincos_row_first"
    """The position codes (MultiMAE: sincos_row_first)."""
    interpolation: Interpolation = "bilinear"
    """The filter of the resize (MultiMAE: bilinear)."""
    mean: float | None = None
    """Subtracted from depths in the units of the input; None: each sample's own (MultiMAE)."""
    std: float | None = None
    """Divides depths after that; None: each sample's own (MultiMAE)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        together = (self.mean is None) == (self.std is None)
        expect(together, (self.mean, self.std), "two numbers or neither", "Depth.mean, Depth.std")
        if self.mean is not None and self.std is not None:
            expect(isfinite(self.mean), self.mean, "finite", "Depth.mean")
            expect(isfinite(self.std) and self.std > 0, self.std, "above 0 and finite", "Depth.std")

    @property
    def filter(self) -> Filter:
        return self.interpolation

    @property
    def piece(self) -> tuple[int, ...]:
        return (1, self.patch, self.patch)

    def blank(self) -> Float32[Tensor, "1 H W"]:
        return torch.zeros(1, *self.size, dtype=torch.float32)

    def pixels(self, path: Path) -> Float32[Tensor, "h w 1"]:
        numbers = read_map(path)
        if numbers.dtype != np.uint16 and numbers.dtype.kind != "f":
            raise ReadError(f"numbers of type {numbers.dtype}; depths are of 16 bits without sign, or floating-point")
        known = np.isfinite(numbers)
        if not known.any():
            raise ReadError(f"no depth of {numbers.size:,} is finite")
        depths = np.where(known, numbers, 0).astype(np.float64) / (STEPS if numbers.dtype == np.uint16 else 1)
        if np.abs(depths).max() > FARTHEST:
            raise ReadError(f"a depth of {np.abs(depths).max():.3g}; at most {FARTHEST:g} is read")
        return torch.from_numpy(depths.astype(np.float32))[..., None]

    def tokenize(self, raw: Float[Tensor, "b 1 H W"]) -> Tokens:  # type: ignore[override]
        return cut("Depth", self._standardised(raw), self.piece[1:])

    def _standardised(self, raw: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b 1 H W"]:
        depths = raw.to(torch.get_default_dtype())
        if self.mean is not None and self.std is not None:
            return (depths - self.mean) / self.std
        ordered = depths.flatten(1).sort(dim=1).values
        n = ordered.shape[1]
        rest = ordered[:, int(TRIM * n) : int((1 - TRIM) * n)]
        variance, mean = torch.var_mean(rest, dim=1, correction=1)
        return (depths - mean[:, None, None, None]) / (variance + EPS).sqrt()[:, None, None, None]

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b 1 H W"]:
        return from_patches(values, tokens.grid)

    def raw(self, values: Float[Tensor, "b n *piece"]) -> Float[Tensor, "b n *piece"]:
        return values if self.mean is None or self.std is None else values * self.std + self.mean

    def embedder(self, width: int) -> nn.Module:
        return PatchEmbed(self.piece, width, xavier=True)

    def render(self, data: Float[Tensor, "b 1 H W"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Near is dark, grey is the mean; bent by a tanh, so that what is far from the mean keeps its differences."""
        standard = data if self.mean is None or self.std is None else (data - self.mean) / self.std
        return shown((standard / WIDE).tanh() / 2 + 0.5)

    def features(self, raw: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Mean standardised depths of 24 x 24 blocks: p = 576."""
        return adaptive_avg_pool2d(self._standardised(raw), FLOOR).flatten(1)

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as a depth camera takes it, in a 16-bit PNG of millimetres."""
        PIL.Image.fromarray(relief.distances(scene, scene.nuisance("depth"))).save(path, format="PNG")
