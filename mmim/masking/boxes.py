"""Rectangles drawn on a grid, for policies that hide whole regions."""

import math

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from mmim.draw import Draw
from mmim.errors import expect


def check_sizes(name: str, smallest: int, largest: int, aspect: float) -> None:
    """Refuse sizes of rectangles that can't be; `name` is the policy's.

    Raises:
        OptionError: one of them.
    """
    for field, value in (("smallest", smallest), ("largest", largest)):
        expect(value >= 1, value, "at least 1", f"{name}.{field}")
    expect(smallest <= largest, smallest, f"at most largest, {largest}", f"{name}.smallest")
    expect(0 < aspect <= 1, aspect, "above 0 and at most 1", f"{name}.aspect")


def sides(
    draw: Draw, count: int, smallest: int, largest: int, aspect: float
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Height and width of so many rectangles: areas uniform, height / width log-uniform in [aspect, 1 / aspect]."""
    shares = draw.uniform("block area", count).double()  # in float32 a side might round otherwise on a GPU
    area = smallest + shares * (largest - smallest)
    slant = ((1 - 2 * draw.uniform("block aspect", count).double()) * math.log(aspect)).exp()
    return (area * slant).sqrt(), (area / slant).sqrt()


def covered(extent: int, length: Float[Tensor, "b k"], place: Float[Tensor, "b k"]) -> Bool[Tensor, "b k extent"]:
    """Whether each box covers each step of an axis; `place` in [0, 1) says where it lies between the two ends.

    The length is rounded, and clamped to the axis.
    """
    length = length.round().clamp(1, extent)
    start = (place * (extent - length + 1)).floor()
    steps = torch.arange(extent, device=length.device)
    return (steps >= start[..., None]) & (steps < (start + length)[..., None])


def first_turn(boxes: Bool[Tensor, "b k *grid"]) -> Int32[Tensor, "b n"]:
    """How early a box covers each place: the highest number the first box, 0 none."""
    count, axes = boxes.shape[1], boxes.ndim - 2
    turns = torch.arange(count, 0, -1, dtype=torch.int32, device=boxes.device).reshape(-1, *[1] * axes)
    return (boxes * turns).amax(dim=1).flatten(1)
