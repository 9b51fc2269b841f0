"""Clouds of points and meshes in memory, and how a number of points is taken of either by a draw."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from mmim.draw import Draw
from mmim.errors import ReadError

EVALUATION = Draw(torch.tensor([0]))
"""The draw of everybody who has none, so that evaluation always takes the same points."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points in space, all of them finite.

    places   (x, y, z), in the units of the file
    colour   red, green, blue in [0, 1], or None
    normals  of unit length, zeros where there is none; or None
    """

    places: Float[np.ndarray, "n 3"]
    colour: Float[np.ndarray, "n 3"] | None = None
    normals: Float[np.ndarray, "n 3"] | None = None

    def take(self, count: int, draw: Draw | None) -> "Cloud":
        """`count` different points in random order; where there are fewer, each as often as any other, or once more."""
        total = len(self.places)
        return self.rows(np.resize(subset(total, min(count, total), draw or EVALUATION), count))

    def rows(self, at: np.ndarray) -> "Cloud":
        """The points of these numbers or flags."""
        return Cloud(self.places[at], *(None if part is None else part[at] for part in (self.colour, self.normals)))


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in space, all of them finite.

    corners  (x, y, z) of the three corners of each
    colour   red, green, blue in [0, 1] at the corners, or None
    """

    corners: Float[np.ndarray, "f 3 3"]
    colour: Float[np.ndarray, "f 3 3"] | None = None

    def take(self, count: int, draw: Draw | None) -> Cloud:
        """`count` points, spread over the surface evenly by area, with the normals of their triangles.

        Raises:
            ReadError: no triangle has an area.
        """
        numbers = (draw or EVALUATION).uniform("surface", 3 * count)[0].double().numpy().reshape(3, count)
        across = self._across()
        area = np.linalg.norm(across, axis=1)
        reached = np.cumsum(area / area.sum())
        face = np.searchsorted(reached, numbers[0] * reached[-1], side="right")
        weights = _inside(numbers[1], numbers[2])[..., None]
        places = (self.corners[face].astype(np.float64) * weights).sum(axis=1)
        colour = None if self.colour is None else (self.colour[face] * weights).sum(axis=1)
        return Cloud(places, colour, across[face] / area[face, None])

    def _across(self) -> Float[np.ndarray, "f 3"]:
        """A vector across each triangle whose length is its share of the area, whatever the unit of length."""
        corners = self.corners / (np.abs(self.corners).max(initial=0) or 1)
        edges: np.ndarray = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        longest = np.abs(edges).max(initial=0)
        if longest == 0:
            raise ReadError("a mesh without area")
        shares: Float[np.ndarray, "f 3"] = edges / longest
        return shares


def _inside(u: Float[np.ndarray, " n"], v: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Even numbers in a square as weights of three corners, even over the triangle: one half is turned onto the other.

    Osada et al. 2002, Shape distributions, section 3.1, takes a square root instead.
    """
    beyond = u + v > 1
    u, v = np.where(beyond, 1 - u, u), np.where(beyond, 1 - v, v)
    return np.stack([1 - u - v, u, v], axis=1)


def subset(total: int, count: int, draw: Draw) -> Int64[np.ndarray, " {count}"]:
    """`count` different numbers below `total` in random order.

    Few of many are drawn one by one, so that a large file costs no more than what is taken of it.
    """
    if total <= 8 * count:
        return np.argsort(draw.uniform("subset", total)[0].numpy(), kind="stable")[:count]
    fine, coarse = draw.uniform("subset", 4 * count + 32)[0].double().numpy().reshape(2, -1)
    drawn = ((coarse + fine * 2.0**-24) * total).astype(np.int64)  # 24 bits alone would not reach every point
    first = np.sort(np.unique(drawn, return_index=True)[1])[:count]
    return drawn[first]


def in_unit_ball(places: Float[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Centred on the mean, the farthest at length 1; in two steps, since the squares of large numbers overflow."""
    centred = places.astype(np.float64) / (np.abs(places).max() or 1)
    centred = centred - centred.mean(axis=0)
    scaled: Float64[np.ndarray, "n 3"] = centred / (np.linalg.norm(centred, axis=1).max() or 1)
    return scaled
