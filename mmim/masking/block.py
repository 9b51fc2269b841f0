"""Block masking: rectangles of tokens."""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int32
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.boxes import check_sizes, covered, first_turn, sides
from mmim.masking.groups import ordinals
from mmim.modality import MaskingPolicy
from mmim.records import Tokens

ROUNDS = 8
"""How often the drawn blocks could cover the grid: all but a few corners are covered, and a cut goes no further."""


@dataclass(frozen=True)
class BlockMasking(MaskingPolicy):
    """Hide rectangles one after the other, so that whole objects go.

    The earlier a block covers a token, the sooner it goes; tokens of the same block go in random order, and those
    that no block covers go last. Blocks lie uniformly inside the grid, so a corner goes less often than the middle.

    Bao et al. 2022 (BEiT), section 2.3 and algorithm 1. We differ from its code in that the budget cuts exactly (BEiT
    may stop short of its 75 tokens), that no block is rejected: of the last a random part is hidden (BEiT draws ever
    smaller blocks until one fits, and gives up after ten), and one too long for the grid is clamped to it.
    """

    smallest: int = 16
    """Tokens of the smallest block (BEiT: 16)."""
    largest: int = 75
    """Tokens of the largest block (BEiT: 75, all that it hides of 196; of a small grid take fewer)."""
    aspect: float = 0.3
    """Lowest height / width of a block, and lowest width / height (BEiT: 0.3)."""

    def __post_init__(self) -> None:
        check_sizes("BlockMasking", self.smallest, self.largest, self.aspect)

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        if tokens.grid is None or len(tokens.grid) != 2:
            raise MaskingError(
                f"Blocks need a grid of two axes, and these tokens have {tokens.grid}: use random masking"
                f"{', or tube masking' if tokens.grid and len(tokens.grid) > 2 else ''}."
            )
        turns = self._turns(draw, tokens.grid)
        return ordinals(turns.double() + draw.uniform("in block", tokens.count))  # in float32 they would tie

    def _turns(self, draw: Draw, grid: tuple[int, ...]) -> Int32[Tensor, "b n"]:
        """How early a block covers each token: the highest number the first block, 0 none."""
        rows, columns = grid
        count = math.ceil(ROUNDS * rows * columns / (0.5 * (self.smallest + self.largest)))
        height, width = sides(draw, count, self.smallest, self.largest, self.aspect)
        down = covered(rows, height, draw.uniform("block top", count))
        across = covered(columns, width, draw.uniform("block left", count))
        return first_turn(down[:, :, :, None] & across[:, :, None, :])
