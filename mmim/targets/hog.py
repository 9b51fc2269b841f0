"""Histograms of oriented gradients."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int64, Num
from torch import Tensor
from torch.nn import functional as F

from mmim.errors import OptionError, expect
from mmim.modality import Modality, Target
from mmim.records import Tokens, gather_tokens

EPS = 1e-12  # of a cell's norm (official code)


@dataclass(frozen=True)
class HOG(Target):
    """Histograms of the directions of gradients in square cells, each channel and cell normalised alone.

    Computed on whole normalised maps, so that a token's edge knows what is beyond; of pieces that are several maps deep
    (the frames of a tubelet) on the first. Values of a token are ordered (channel, bin, cell row, cell column).

    Paper   Wei et al. 2022 (MaskFeat), section 3.1; the rest is its code, which is no textbook HOG
    Traps   Sobel kernels, cross-correlated, so that a rise to the right is negative; the map is mirrored at its border;
            a pixel's whole magnitude goes to bin floor(bins atan2(across, down) / pi) mod bins, the arguments in this
            order and no two bins sharing it; cells are not normalised in blocks
    Note    a direction on the edge between two bins is put where rounding falls, so float32 and float64 may disagree
            there; along the border, where one difference is exactly 0, they do not. A flat cell is zero
    """

    bins: int = 9
    """Directions of a histogram, over half a turn (MaskFeat: 9)."""
    cell: int = 8
    """Height and width of a cell, in steps of the map (MaskFeat: 8 pixels, so 2 x 2 cells in a patch of 16)."""

    def __post_init__(self) -> None:
        for name in ("bins", "cell"):
            expect(getattr(self, name) >= 1, getattr(self, name), "at least 1", f"HOG.{name}")

    def size(self, modality: Modality) -> int:
        rows, columns = self._cells(modality)
        return modality.piece[0] * self.bins * rows * columns

    def values(self, tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality) -> Float[Tensor, "b m p"]:
        rows, columns = self._cells(modality)
        if tokens.grid is None:
            raise OptionError(
                f"HOG needs maps, and the tokens of {type(modality).__name__} are on no grid: use pixels."
            )
        maps = _first_maps(modality.untokenize(tokens.values, tokens), modality.piece)
        histograms = self._histograms(rearrange(maps, "b c f h w -> (b f) c h w"))
        whole = rearrange(histograms, "(b f) c (h r) (w s) k -> b (f h w) (c k r s)", b=len(maps), r=rows, s=columns)
        return gather_tokens(whole, ids)

    def loss(self, pred: Float[Tensor, "b m p"], target: Num[Tensor, "b m p"]) -> Float[Tensor, "b m"]:
        return (pred.to(target.dtype) - target).square().mean(dim=-1)

    def pieces(
        self, pred: Float[Tensor, "b m p"], tokens: Tokens, ids: Int64[Tensor, "b m"], modality: Modality
    ) -> Float[Tensor, "b m *piece"]:
        """The edges that a histogram tells of, as strokes through the middle of each cell, on the data's darkest."""
        rows, columns = self._cells(modality)
        histograms = pred.float().clamp(0, 1).unflatten(-1, (modality.piece[0], self.bins, rows, columns))
        drawn = torch.einsum("bmckrs,kij->bmcrisj", histograms, strokes(self.bins, self.cell).to(pred.device))
        maps = drawn.clamp(max=1).flatten(3, 4).flatten(4, 5)
        if len(modality.piece) == 4:
            maps = maps[:, :, :, None].expand(*maps.shape[:3], *modality.piece[1:])
        raw = modality.raw(tokens.values).flatten(1)
        low, high = (edge.reshape(-1, *[1] * (maps.ndim - 1)) for edge in (raw.amin(dim=1), raw.amax(dim=1)))
        return low + (high - low) * maps

    def _histograms(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c r s k"]:
        """The normalised histogram of every cell."""
        across, down = sobel(maps)
        magnitude = torch.hypot(across, down)
        chosen = (self.bins * torch.atan2(across, down) / math.pi).floor().remainder(self.bins)
        cells = "n c (r i) (s j) -> n c r s (i j)"
        magnitude, chosen = (rearrange(part, cells, i=self.cell, j=self.cell) for part in (magnitude, chosen))
        sums = [torch.where(chosen == number, magnitude, 0).sum(dim=-1) for number in range(self.bins)]
        return F.normalize(torch.stack(sums, dim=-1), dim=-1, eps=EPS)

    def _cells(self, modality: Modality) -> tuple[int, int]:
        """Rows and columns of cells in a piece.

        Raises:
            OptionError: pieces are no parts of a map, or cells do not divide them.
        """
        piece, name = modality.piece, type(modality).__name__
        if len(piece) not in (3, 4):
            raise OptionError(
                f"HOG needs pieces of (channels, rows, columns), maybe several deep, and those of {name} are {piece}: "
                "use the target pixels."
            )
        if any(side % self.cell for side in piece[-2:]):
            raise OptionError(
                f"HOG's cells of {self.cell} x {self.cell} do not divide the pieces of {name}, {piece[-2:]}: use a "
                f"cell of {math.gcd(*piece[-2:])}, or a divisor of it."
            )
        return piece[-2] // self.cell, piece[-1] // self.cell


def sobel(maps: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """Differences across and down, each smoothed along the other axis, falls positive; the map goes on mirrored."""
    around = F.pad(maps, (1, 1, 1, 1), mode="reflect")
    across = around[..., :-2] - around[..., 2:]
    down = around[..., :-2, :] - around[..., 2:, :]
    return (
        across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :],
        down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:],
    )


def strokes(bins: int, cell: int) -> Float[Tensor, "{bins} {cell} {cell}"]:
    """A line through the middle of a cell for each bin, along the edge whose gradient falls into the bin."""
    angle = (torch.arange(bins) + 0.5)[:, None, None] * math.pi / bins
    at = torch.arange(cell) - (cell - 1) / 2
    off = at * angle.sin() + at[:, None] * angle.cos()  # along the gradient
    within = at.square() + at[:, None].square() <= (cell / 2) ** 2
    return (1 - off.abs()).clamp(min=0) * within


def _first_maps(data: Float[Tensor, "b c *axes"], piece: tuple[int, ...]) -> Float[Tensor, "b c f h w"]:
    """The first map of every piece: all of them, where pieces are one map deep."""
    return data[:, :, None] if len(piece) == 3 else data[:, :, :: piece[1]]
