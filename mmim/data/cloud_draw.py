"""Pictures of clouds of points, for a person to look at."""

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

SIZE = 96
"""Pixels of a view, which is square."""
HALF = 1.1
"""From the middle of a view to its edge, in radii of the cloud."""
CUBE = 1.3
"""Points of which a coordinate is larger are not drawn."""
NEAR, FAR = (24, 58, 110), (196, 214, 234)
"""Colours of what is at the front and at the back of a cloud without colours."""
DOT = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row * column == 0)
"""Pixels of a point, from its middle one: a plus sign."""


def _view(turn: float, lean: float) -> Float64[np.ndarray, "3 3"]:
    """Rows (right, up, away) of a look from so far to the right and from above, in degrees."""
    a, b = np.radians([turn, lean])
    right = [np.cos(a), np.sin(a), 0.0]
    away = [-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), -np.sin(b)]
    return np.stack([right, np.cross(right, away), away])


VIEWS = (_view(0.0, 0.0), _view(40.0, 30.0))


def pictures(
    places: Float[Tensor, "b n 3"], colour: Float[Tensor, "b n 3"] | None = None
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Each cloud from the front (x to the right, z up) and, beside it, from the upper right, without perspective.

    places: in the unit ball, more or less.
    colour: red, green, blue in [0, 1]; without, nearer is darker.
    """
    drawn = []
    for index, cloud in enumerate(places.detach().to("cpu", torch.float64).numpy()):
        paint = None if colour is None else colour[index].detach().to("cpu", torch.float64).numpy()
        drawn.append(np.concatenate([_drawn(cloud, paint, view) for view in VIEWS], axis=1))
    return drawn


def _drawn(
    places: Float64[np.ndarray, "n 3"], colour: Float64[np.ndarray, "n 3"] | None, view: Float64[np.ndarray, "3 3"]
) -> UInt8[np.ndarray, "s s 3"]:
    there = (np.abs(places) <= CUBE).all(axis=1)
    right, up, away = view @ places[there].T
    order = np.argsort(-away, kind="stable")  # what is nearer is painted over what is farther
    share = ((away + 1) / 2).clip(0, 1)[:, None]
    paint = (1 - share) * NEAR + share * FAR
    if colour is not None:
        paint = 255 * colour[there].clip(0, 1) * (1 - 0.45 * share)
    canvas = np.full((SIZE, SIZE, 3), 255, np.uint8)
    rows, columns = (((HALF + along) / (2 * HALF) * SIZE).astype(np.int64)[order, None] for along in (-up, right))
    rows, columns = rows + [row for row, _ in DOT], columns + [column for _, column in DOT]
    seen = (rows >= 0) & (rows < SIZE) & (columns >= 0) & (columns < SIZE)
    dots = np.repeat(paint[order][:, None], len(DOT), axis=1)
    canvas[rows[seen], columns[seen]] = dots[seen].round()
    return canvas
