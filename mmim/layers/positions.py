"""Position codes: functions of (coords, grid), computed in float64 as the MAE family does."""

from abc import ABC, abstractmethod
from math import prod
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmim.errors import OptionError
from mmim.layers.patches import grid_coords
from mmim.records import Tokens

MapPositions = Literal["sincos", "sincos_row_first", "sincos_transposed", "flat", "learned", "none"]
"""Codes of a 2-D grid.

sincos             half of the channels from the column, half from the row (MAE, I-JEPA)
sincos_row_first   the halves exchanged (MultiMAE, 4M; CAV-MAE's spectrograms, which it lays out mel x time)
sincos_transposed  the table of the transposed grid, read in this grid's order (Audio-MAE's released weights; fact: its
                   code builds the table for mel x time, while tokens come time x mel)
flat               one sinusoid over the flattened grid (VideoMAE; OmniMAE also for pictures)
learned            a table of parameters
none               zeros
"""


def interleaved_sinusoid(index: Float[Tensor, "*n"], width: int) -> Float64[Tensor, "*n {width}"]:
    """The 1-D code of Vaswani et al. 2017, section 3.5: (sin, cos) pairs side by side.

    Channel j has the frequency 10000 ** (-2 (j // 2) / width).
    """
    j = torch.arange(width, device=index.device, dtype=torch.float64)
    angle = index.double()[..., None] * 10000.0 ** (-2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos())


def half_sinusoid(index: Float[Tensor, "*n"], width: int) -> Float64[Tensor, "*n {width}"]:
    """The 1-D code of MAE (He et al. 2022, official code): all sines, then all cosines.

    Frequency i of width / 2 is 10000 ** (-i / (width / 2)).
    """
    i = torch.arange(width // 2, device=index.device, dtype=torch.float64)
    angle = index.double()[..., None] * 10000.0 ** (-i / (width / 2))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class GridCode(nn.Module, ABC):
    """A code for every place of a grid, also of another grid than that of training.

    native   the grid of training. None: every grid gets its own codes
    extends  the axes along which a longer grid goes on (time). Along the others another extent means the same content
             at another resolution, so the native codes are stretched, bicubic, as MAE does for fine-tuning (official
             code)
    """

    def __init__(self, width: int, native: tuple[int, ...] | None = None, extends: tuple[bool, ...] = ()) -> None:
        super().__init__()
        self.width, self.native = width, native
        self.extends = extends or (False,) * len(native or ())

    @abstractmethod
    def codes(self, coords: Float[Tensor, "_b1 n axes"], grid: tuple[int, ...]) -> Float[Tensor, "_b1 n d"]:
        """The codes of a grid's places."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "_b1 n d"]:
        grid = tokens.grid
        if grid is None:
            raise OptionError(f"{type(self).__name__} needs tokens on a grid.")
        native = self._native_for(grid)
        if native == grid:
            code = self.codes(tokens.coords, grid)
        else:
            code = self.codes(grid_coords(native, tokens.coords.device), native)
            code = stretched(code.reshape(*native, self.width), grid).reshape(1, -1, self.width)
        if tokens.values.is_floating_point():
            return code.to(tokens.values.dtype)
        return code if isinstance(self, LearnedTable) else code.to(torch.get_default_dtype())  # ids have no precision

    def _native_for(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """The grid of training, continued along the axes that go on."""
        if self.native is None:
            return grid
        return tuple(
            extent if extends else trained
            for extent, trained, extends in zip(grid, self.native, self.extends, strict=True)
        )


def stretched(table: Float[Tensor, "*native d"], grid: tuple[int, ...]) -> Float[Tensor, "*grid d"]:
    """A table on a grid, resampled to another extent of the last two axes; axes before them must agree already."""
    planes = table.flatten(0, -4) if table.ndim > 3 else table[None]
    resized = interpolate(planes.movedim(-1, 1), grid[-2:], mode="bicubic", align_corners=False)
    return resized.movedim(1, -1).reshape(*grid, table.shape[-1])


class FlatSinusoid(GridCode):
    """One sinusoid over the flattened grid index, as VideoMAE has it (Tong et al. 2022; official code, not the paper).

    At another number of frames (the slowest axis) the codes stay, unless `extends` says otherwise.
    """

    def __init__(
        self, width: int, native: tuple[int, ...] | None = None, extends: tuple[bool, ...] | None = None
    ) -> None:
        if extends is None:
            extends = (True, *[False] * (len(native) - 1)) if native else ()
        super().__init__(width, native, extends)
        if width % 2:
            raise OptionError(f"A sinusoid needs an even width, not {width}.")

    def codes(self, coords: Float[Tensor, "_b1 n axes"], grid: tuple[int, ...]) -> Float[Tensor, "_b1 n d"]:
        index = coords[..., 0]
        for axis, extent in enumerate(grid[1:], start=1):
            index = index * extent + coords[..., axis]
        return interleaved_sinusoid(index, self.width)


class SinCos(GridCode):
    """Half of the channels from one coordinate, half from the other. See `MapPositions` for the three orders."""

    def __init__(
        self, width: int, native: tuple[int, int], extends: tuple[bool, ...], order: MapPositions = "sincos"
    ) -> None:
        super().__init__(width, native, extends)
        if width % 4:
            raise OptionError(f"A 2-D sine-cosine code needs a width that 4 divides, not {width}.")
        self.order = order

    def codes(self, coords: Float[Tensor, "_b1 n axes"], grid: tuple[int, ...]) -> Float[Tensor, "_b1 n d"]:
        row, column = coords.unbind(-1)
        if self.order == "sincos_transposed":
            rows = (self.native or grid)[0]  # columns of the transposed table: they stay when a longer grid goes on
            index = row * grid[1] + column
            row, column = index.div(rows, rounding_mode="floor"), index % rows
        first, second = (row, column) if self.order == "sincos_row_first" else (column, row)
        return torch.cat([half_sinusoid(first, self.width // 2), half_sinusoid(second, self.width // 2)], dim=-1)


class LearnedTable(GridCode):
    """A parameter per place, normal with deviation 0.02 (Dosovitskiy et al. 2021).

    Another grid stretches it; along an axis that goes on a shorter one has its beginning, and a longer one can't be.
    """

    def __init__(self, width: int, native: tuple[int, ...], extends: tuple[bool, ...] = ()) -> None:
        super().__init__(width, native, extends)
        self.table = nn.Parameter(0.02 * torch.randn(1, prod(native), width))

    def codes(self, coords: Float[Tensor, "_b1 n axes"], grid: tuple[int, ...]) -> Float[Tensor, "_b1 n d"]:
        native = self.native or grid
        if any(extent > trained for extent, trained in zip(grid, native, strict=True)):
            raise OptionError(f"A learned table of {native} places can't go on to {grid}: read less at a time.")
        table = self.table.reshape(*native, -1)
        return table[tuple(slice(extent) for extent in grid)].reshape(1, prod(grid), -1)


class CoordSinusoid(nn.Module):
    """A sinusoid of coordinates that lie on no grid, such as times of events; each axis has its share of the channels.

    unit: what counts as 1, in the units of the coordinates: differences well below it are not told apart. Half of the
        channels of an axis are sines, half cosines, with wavelengths from 2 pi to 20,000 pi units
    """

    def __init__(self, width: int, *, unit: float = 1.0, axes: int = 1) -> None:
        super().__init__()
        if width % (2 * axes):
            raise OptionError(f"A sinusoid of {axes} axes needs a width that {2 * axes} divides, not {width}.")
        self.width, self.unit, self.axes = width, unit, axes

    def forward(self, tokens: Tokens) -> Float[Tensor, "_b1 n d"]:
        codes = half_sinusoid(tokens.coords / self.unit, self.width // self.axes).flatten(2)  # b n axes channels
        values = tokens.values
        return codes.to(values.dtype if values.is_floating_point() else torch.get_default_dtype())


class NoPosition(nn.Module):
    """Zeros, where the encoder knows places by itself (relative bias, windows)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, tokens: Tokens) -> Float[Tensor, "1 n d"]:
        return tokens.coords.new_zeros(1, tokens.count, self.width)


def map_positions(kind: MapPositions, width: int, native: tuple[int, ...], extends: tuple[bool, ...] = ()) -> nn.Module:
    """The codes of a 2-D grid: images, spectrograms, depth. `flat`, `learned` and `none` know grids of any axes.

    Raises:
        OptionError: 4 does not divide the width of a sine-cosine code, or its grid is not 2-D.
    """
    if kind == "none":
        return NoPosition(width)
    if kind == "learned":
        return LearnedTable(width, native, extends)
    if kind == "flat":
        return FlatSinusoid(width, native, extends)
    if len(native) != 2:
        raise OptionError(f"{kind} codes lie on a grid of two axes, not on {native}: use flat, learned or none.")
    return SinCos(width, (native[0], native[1]), extends, kind)
