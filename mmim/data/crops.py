"""Crops of pictures, clips and other maps, in a loader's worker: one crop for all frames of a clip.

Each crop is a window and then one resize: `resized_crop(clip, multi_scale_window(height, width, draw), size)`.
"""

import math
from itertools import product
from typing import Literal, NamedTuple

from jaxtyping import Num
from torch import Tensor
from torch.nn.functional import interpolate

from mmim.draw import Draw

Interpolation = Literal["bilinear", "bicubic"]
Filter = Literal["bilinear", "bicubic", "nearest"]
"""Nearest for ids, between which there is nothing."""

TRIES = 10
SHARES = (1.0, 0.875, 0.75, 0.66)  # of the short side
QUARTERS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3))


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def resized_crop(
    clip: Num[Tensor, "t H W c"],
    window: Window,
    size: int | tuple[int, int],
    interpolation: Filter = "bilinear",
) -> Num[Tensor, "t _h _w c"]:
    """The window of every frame at another size, with antialiasing where it shrinks; bytes are rounded to bytes.

    Args:
        clip: the frames, of bytes or floats; a picture is a clip of one.
        window: the part to keep.
        size: (height, width), or the side of a square.
        interpolation: the filter, within rounding that of Pillow and torchvision. `nearest` takes the value under the
            middle of each new pixel.
    """
    top, left, height, width = window
    wanted = (size, size) if isinstance(size, int) else size
    part = clip[:, top : top + height, left : left + width].permute(0, 3, 1, 2)  # a view, channels last: the fast path
    if (height, width) != wanted:
        nearest = interpolation == "nearest"
        part = interpolate(part, wanted, mode="nearest-exact" if nearest else interpolation, antialias=not nearest)
    return part.permute(0, 2, 3, 1)


def centre_window(height: int, width: int, size: tuple[int, int] = (1, 1)) -> Window:
    """The largest window in the middle with the aspect of `size` (height, width): the centre square by default.

    What is left of a resize that just covers `size`, and a centre crop.
    """
    h = min(height, max(1, round(width * size[0] / size[1])))
    w = min(width, max(1, round(height * size[1] / size[0])))
    return Window((height - h) // 2, (width - w) // 2, h, w)


def random_resized_window(
    height: int,
    width: int,
    draw: Draw,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Window:
    """A window of random area and aspect; after ten that don't fit, the middle, its aspect brought into `ratio`.

    Szegedy et al. 2015 (Inception), section 6, by the procedure of torchvision's `RandomResizedCrop`. `draw` has one
    key.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        draw: the randomness.
        scale: lowest and highest area, as shares of the picture's.
        ratio: lowest and highest width / height, drawn uniformly in the logarithm.
    """
    numbers = draw.floats("random resized crop", 2 * TRIES + 2)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area, aspect in zip(numbers[:TRIES], numbers[TRIES : 2 * TRIES], strict=True):
        pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
        shape = math.exp(low + aspect * (high - low))
        h, w = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 0 < h <= height and 0 < w <= width:
            return Window(_pick(height - h + 1, numbers[-2]), _pick(width - w + 1, numbers[-1]), h, w)
    shape = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / shape)), min(width, round(height * shape))
    return Window((height - h) // 2, (width - w) // 2, h, w)


def multi_scale_window(height: int, width: int, draw: Draw) -> Window:
    """A window of one of ten shapes at one of 13 places; `draw` has one key.

    Either side is 1, 0.875, 0.75 or 0.66 of the short side, the two at most one step apart. The places: the window in
    the corners, at the middles of the edges, in the centre, and half-way from the centre to each corner.

    Wang et al. 2016 (TSN), as in VideoMAE's pre-training (Tong et al. 2022, official code). Theirs takes a side within
    2 pixels of the wanted size for that size, which saves a resize; here it is resized.
    """
    shapes = [(a, b) for (i, a), (j, b) in product(enumerate(SHARES), repeat=2) if abs(i - j) <= 1]
    shape, place = draw.floats("multi-scale crop", 2)
    h, w = (max(1, int(min(height, width) * share)) for share in shapes[_pick(len(shapes), shape)])
    down, across = QUARTERS[_pick(len(QUARTERS), place)]
    return Window((height - h) // 4 * down, (width - w) // 4 * across, h, w)


def _pick(count: int, number: float) -> int:
    """One of `count` integers from 0, by a uniform number in [0, 1)."""
    return min(int(number * count), count - 1)
