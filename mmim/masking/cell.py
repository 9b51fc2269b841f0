"""Cell masking: square groups of tokens together."""

from dataclasses import dataclass
from math import prod

from jaxtyping import Float
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import MaskingError, expect
from mmim.masking.groups import ordinals
from mmim.modality import MaskingPolicy
from mmim.records import Tokens


@dataclass(frozen=True)
class CellMasking(MaskingPolicy):
    """Hide cells of several tokens along each axis, as if the patches were larger.

    A hidden place is then so large that what is near it does not give it away, and every stage of a hierarchical
    encoder has whole tokens to hide. Xie et al. 2022 (SimMIM), section 3.2: 32 pixels, whatever the patch.
    """

    cell: int = 2
    """Tokens along each axis of a cell (SimMIM, 32 pixels: 2 for a ViT with patch 16, 8 for Swin with patch 4)."""

    def __post_init__(self) -> None:
        expect(self.cell >= 1, self.cell, "at least 1", "CellMasking.cell")

    def rank(self, tokens: Tokens, draw: Draw, hint: Tensor | None = None) -> Float[Tensor, "b n"]:
        cells = self._cells(tokens)
        ranks: Tensor = ordinals(draw.uniform("cell", prod(cells))).reshape(-1, *cells)
        for axis in range(1, ranks.ndim):
            ranks = ranks.repeat_interleave(self.cell, dim=axis)
        return ranks.flatten(1)

    def group(self, tokens: Tokens) -> int:
        size: int = self.cell ** len(self._cells(tokens))
        return size

    def _cells(self, tokens: Tokens) -> tuple[int, ...]:
        """Cells along each axis."""
        grid = tokens.grid
        if grid is None or tokens.valid is not None:
            raise MaskingError(
                f"Cells need a full grid of tokens, and these {'are padded' if grid else 'have none'}: "
                f"use random masking."
            )
        if any(extent % self.cell for extent in grid):
            raise MaskingError(
                f"Cells of {self.cell} tokens do not divide the grid {grid}. Use a cell that divides {grid}, "
                f"or another size of the data."
            )
        return tuple(extent // self.cell for extent in grid)
