"""Relative position bias: what a token thinks of another for where it stands from it."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmim.layers.patches import grid_coords


class RelativeBias(nn.Module):
    """A learned number per head and offset between two places of a 2-D grid, added to the attention logits.

    Shared by all blocks (Bao et al. 2022, BEiT; Xie et al. 2022, SimMIM; official codes). `table` has a row for each
    offset (down, right), from (1 - h, 1 - w) in raster order, and three more: from a global token to a place, from a
    place to a global token, between global tokens. A grid of another size than in training gets the offsets' numbers
    stretched, bicubic.
    """

    def __init__(self, native: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.native = native
        self.table = nn.Parameter(torch.zeros((2 * native[0] - 1) * (2 * native[1] - 1) + 3, heads))

    def forward(self, grid: tuple[int, int], num_globals: int) -> Float[Tensor, "1 heads n n"]:
        """The bias between all tokens of a grid, raster order, and behind them the global tokens."""
        table = self._table_for(grid)
        index = offsets(grid, table.device)
        index = nn.functional.pad(index, (0, num_globals, 0, num_globals), value=len(table) - 1)
        n = grid[0] * grid[1]
        index[n:, :n] = len(table) - 3
        index[:n, n:] = len(table) - 2
        return table[index].permute(2, 0, 1)[None]

    def _table_for(self, grid: tuple[int, int]) -> Float[Tensor, "rows heads"]:
        if grid == self.native:
            return self.table
        (h, w), heads = self.native, self.table.shape[1]
        places = self.table[:-3].T.reshape(1, heads, 2 * h - 1, 2 * w - 1)
        size = (2 * grid[0] - 1, 2 * grid[1] - 1)
        resized = interpolate(places, size, mode="bicubic", align_corners=False).reshape(heads, -1).T
        return torch.cat([resized, self.table[-3:]])


def offsets(grid: tuple[int, int], device: torch.device) -> Int64[Tensor, "n n"]:
    """For every token (row) and every other (column), the raster number of the offset between them."""
    at = grid_coords(grid, device)[0].long()
    down, right = (at[:, None] - at[None, :]).unbind(-1)
    return (down + grid[0] - 1) * (2 * grid[1] - 1) + right + grid[1] - 1
