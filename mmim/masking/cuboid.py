"""Cuboid masking: boxes of cells in space and time."""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int32
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, expect
from mmim.masking.boxes import check_sizes, covered, first_turn, sides
from mmim.masking.groups import ordinals
from mmim.modality import MaskingPolicy
from mmim.records import Tokens

ROUNDS = 8
"""How often the drawn cuboids could cover the grid."""


@dataclass(frozen=True)
class CuboidMasking(MaskingPolicy):
    """Hide cuboids one after the other: a rectangle of cells for some time steps, each cell several tokens wide.

    Grids are (time, rows, columns), time slowest. The earlier a cuboid covers a cell, the sooner it goes; cells of the
    same cuboid go in random order, and those that none covers go last. A budget counts cells, which are hidden whole.

    Wei et al. 2022 (MaskFeat), section 4.2 ("cube" masking) and official code, for the grid of cells, the areas and the
    aspects. Ours: how many steps a cuboid lasts (uniform), where it lies (uniform inside the grid), and that the last
    one is cut exactly where the budget asks.
    """

    cell: int = 2
    """Rows and columns of tokens in a cell (MaskFeat: 2, so 7 x 7 cells of a grid of 14 x 14)."""
    smallest: int = 9
    """Cells of the smallest rectangle (MaskFeat: 9)."""
    largest: int = 49
    """Cells of the largest rectangle (MaskFeat: 49, the whole grid; of a small grid take fewer)."""
    aspect: float = 0.3
    """Lowest height / width of a rectangle, and lowest width / height (MaskFeat: 0.3)."""
    frames: tuple[int, int] = (1, 8)
    """Least and most time steps of a cuboid, each as likely; more than there are is all (8 steps of 2 frames each)."""

    def __post_init__(self) -> None:
        expect(self.cell >= 1, self.cell, "at least 1", "CuboidMasking.cell")
        check_sizes("CuboidMasking", self.smallest, self.largest, self.aspect)
        expect(1 <= self.frames[0] <= self.frames[1], self.frames, "1 <= least <= most", "CuboidMasking.frames")

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        cells = self._cells(tokens)
        in_cuboid = draw.uniform("in block", math.prod(cells))
        ranks = ordinals(self._turns(draw, cells).double() + in_cuboid)  # in float32 they would tie
        places = ranks.reshape(-1, *cells)
        for axis in (2, 3):
            places = places.repeat_interleave(self.cell, dim=axis)
        return places.flatten(1)

    def group(self, tokens: Tokens) -> int:
        self._cells(tokens)
        return self.cell**2

    def _turns(self, draw: Draw, cells: tuple[int, int, int]) -> Int32[Tensor, "b n"]:
        """How early a cuboid covers each cell: the highest number the first, 0 none."""
        steps, rows, columns = cells
        least, most = (min(bound, steps) for bound in self.frames)
        usual = 0.5 * (self.smallest + self.largest) * 0.5 * (least + most)
        count = math.ceil(ROUNDS * math.prod(cells) / usual)
        height, width = sides(draw, count, self.smallest, self.largest, self.aspect)
        lasting = (least + draw.uniform("block frames", count).double() * (most - least + 1)).floor()
        along = covered(steps, lasting, draw.uniform("block start", count))
        down = covered(rows, height, draw.uniform("block top", count))
        across = covered(columns, width, draw.uniform("block left", count))
        return first_turn(along[:, :, :, None, None] & down[:, :, None, :, None] & across[:, :, None, None, :])

    def _cells(self, tokens: Tokens) -> tuple[int, int, int]:
        """Time steps, and rows and columns of cells.

        Raises:
            MaskingError: the tokens are on no such grid.
        """
        grid = tokens.grid
        if grid is None or len(grid) != 3 or tokens.valid is not None:
            raise MaskingError(
                f"Cuboids need a full grid of time, rows and columns, and these tokens have {grid}"
                f"{', padded' if tokens.valid is not None else ''}: use random masking."
            )
        steps, rows, columns = grid
        if rows % self.cell or columns % self.cell:
            raise MaskingError(
                f"Cells of {self.cell} x {self.cell} tokens do not divide the grid {grid}. Use a cell of "
                f"{math.gcd(rows, columns)}, or a divisor of it."
            )
        return steps, rows // self.cell, columns // self.cell
