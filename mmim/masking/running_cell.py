"""Running-cell masking: the same part of every frame, another in the next."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.modality import MaskingPolicy
from mmim.records import Tokens

SLOTS = 4  # of a cell of 2 x 2


@dataclass(frozen=True)
class RunningCellMasking(MaskingPolicy):
    """Cells of 2 x 2 tokens, all alike in a frame, of which others go in the next frame.

    Grids are (time, rows, columns), time slowest; rows and columns even. The slots of a cell, row by row, stand on a
    ring of four that turns by one slot from frame to frame, from a start drawn for each sample. What stays at half of
    the tokens is two slots of every cell, and over four frames each place twice; at a quarter, one slot. It says which
    places a decoder is asked for (`DualMasking`).

    Wang et al. 2023 (VideoMAE V2), section 3.2; the ring and its direction as in its code.
    """

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        steps, rows, columns = _even_grid(tokens)
        start = (draw.uniform("start", 1) * SLOTS).floor().reshape(-1, 1, 1, 1)
        device = start.device
        down, across = torch.arange(rows, device=device) % 2, torch.arange(columns, device=device) % 2
        slot = 2 * down[:, None] + across
        time = torch.arange(steps, device=device)[:, None, None]
        return ((slot + time + start) % SLOTS).flatten(1)


def _even_grid(tokens: Tokens) -> tuple[int, int, int]:
    """Time steps, rows and columns.

    Raises:
        MaskingError: the tokens are on no such grid, or cells of 2 x 2 do not divide it.
    """
    grid = tokens.grid
    if grid is None or len(grid) != 3:
        raise MaskingError(
            f"Running cells need a grid of time, rows and columns, and these tokens have {grid}: use random masking."
        )
    steps, rows, columns = grid
    if rows % 2 or columns % 2:
        raise MaskingError(
            f"Running cells of 2 x 2 tokens do not divide the grid {grid}. Use an even number of rows and of columns."
        )
    return steps, rows, columns
