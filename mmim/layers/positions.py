"""Position codes: functions of (coords, grid), computed in float64 as the MAE family does."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmim.errors import OptionError
from mmim.records import Tokens


def interleaved_sinusoid(index: Float[Tensor, "*n"], width: int) -> Float[Tensor, "*n {width}"]:
    """The 1-D code of Vaswani et al. 2017, section 3.5: (sin, cos) pairs side by side.

    Channel j has the frequency 10000 ** (-2 (j // 2) / width).
    """
    j = torch.arange(width, device=index.device, dtype=torch.float64)
    angle = index.double()[..., None] * 10000.0 ** (-2 * (j // 2) / width)
    return torch.where(j % 2 == 0, angle.sin(), angle.cos())


class FlatSinusoid(nn.Module):
    """One sinusoid over the flattened grid index, as VideoMAE has it (Tong et al. 2022; official code, not the paper).

    The code of a place depends on the grid's extent: at another frame size the same corner gets another code. At
    another number of frames (the slowest axis) the codes stay.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 2:
            raise OptionError(f"A sinusoid needs an even width, not {width}.")
        self.width = width

    def forward(self, tokens: Tokens) -> Float[Tensor, "_b1 n d"]:
        if tokens.grid is None:
            raise OptionError("FlatSinusoid needs tokens on a grid.")
        index = tokens.coords[..., 0]
        for axis, extent in enumerate(tokens.grid[1:], start=1):
            index = index * extent + tokens.coords[..., axis]
        code = interleaved_sinusoid(index, self.width)
        return code.to(tokens.values.dtype if tokens.values.is_floating_point() else torch.float32)
