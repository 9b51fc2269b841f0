"""Cutting maps into windows, and who may attend to whom inside one."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Shaped
from torch import Tensor

Pair = tuple[int, int]
"""(rows, columns)."""


def whole_windows(grid: Pair, window: Pair) -> Pair:
    """The smallest grid of whole windows that holds a grid."""
    return cast("Pair", tuple(-(-extent // side) * side for extent, side in zip(grid, window, strict=True)))


def shift_within(grid: Pair, window: Pair, shift: Pair) -> Pair:
    """A shift, but 0 along an axis that one window covers: there is no neighbour to meet (Liu et al. 2021, code)."""
    return cast("Pair", tuple(s if g > w else 0 for g, w, s in zip(grid, window, shift, strict=True)))


def to_windows(x: Shaped[Tensor, "b h w *d"], window: Pair) -> Shaped[Tensor, "b windows area *d"]:
    """Windows in raster order, the tokens of each likewise."""
    return rearrange(x, "b (h r) (w c) ... -> b (h w) (r c) ...", r=window[0], c=window[1])


def from_windows(x: Shaped[Tensor, "b windows area *d"], grid: Pair, window: Pair) -> Shaped[Tensor, "b h w *d"]:
    """The inverse of `to_windows`."""
    return rearrange(x, "b (h w) (r c) ... -> b (h r) (w c) ...", h=grid[0] // window[0], r=window[0])


def rolled(x: Shaped[Tensor, "b h w *d"], shift: Pair) -> Shaped[Tensor, "b h w *d"]:
    """A map moved up and left; what leaves it comes back on the other side."""
    return x.roll((-shift[0], -shift[1]), dims=(1, 2)) if any(shift) else x


def window_mask(
    grid: Pair, window: Pair, shift: Pair, known: Bool[Tensor, "b h w"] | None, device: torch.device
) -> Bool[Tensor, "_b windows area area"] | None:
    """True where a token of a rolled map may attend to another of its window; None where everybody may to everybody.

    Not across the seam, where the two ends of the map meet (Liu et al. 2021, section 3.2), nor to an unknown token; any
    token to itself, so that no softmax is empty.
    """
    if known is None and not any(shift):
        return None
    side = torch.zeros(1, *grid, dtype=torch.int64, device=device)
    side[:, grid[0] - shift[0] :] += 1
    side[:, :, grid[1] - shift[1] :] += 2
    sides = to_windows(side, window)
    allowed = sides[..., :, None] == sides[..., None, :]
    if known is not None:
        allowed = allowed & to_windows(rolled(known, shift), window)[..., None, :]
    return allowed | torch.eye(allowed.shape[-1], dtype=torch.bool, device=device)
