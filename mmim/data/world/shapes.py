"""The six shapes and three textures of the sample world, as functions of a point on the picture plane.

A point (x, y) is measured in radii from the middle of the object, x to the right and y *up* in the object's own frame.
Only `+ - * /`, square roots and comparisons touch pixels: IEEE 754 rounds these alike everywhere, so a picture is the
same on all machines.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

Plane = Float32[np.ndarray, "t s s"]


class Surface(NamedTuple):
    """What is seen of a solid: signed distance to its outline (radii, negative inside) and the normal (x, y, z)."""

    distance: Plane
    normal: tuple[Plane, Plane, Plane]


def sphere(x: Plane, y: Plane) -> Surface:
    """A ball."""
    return Surface(np.sqrt(x * x + y * y) - 1, (x, y, _rest(x, y)))


def cube(x: Plane, y: Plane) -> Surface:
    """A cube seen along its diagonal: three flat faces that meet in the middle of a hexagon."""
    distance = np.maximum(np.abs(x) - 0.92, 0.5 * np.abs(x) + 0.8660254 * np.abs(y) - 0.92)
    top = y > 0.57735 * np.abs(x)
    return Surface(
        distance,
        (
            _choose(top, 0.0, _choose(x > 0, 0.75, -0.75)),
            _choose(top, 0.85, -0.35),
            _choose(top, 0.5, 0.55),
        ),
    )


def cone(x: Plane, y: Plane) -> Surface:
    """A cone on a round foot."""
    half = (1.15 - y) * 0.5  # of its width, at height y
    side = np.maximum((np.abs(x) - half) * 0.894, -0.7 - y)
    across = np.clip(x / np.maximum(half, 0.02), -1, 1)
    return Surface(
        np.minimum(side, _ellipse(x, y + 0.7, 0.925, 0.3)), (across, np.full_like(x, 0.3), _rest(across, 0.3))
    )


def torus(x: Plane, y: Plane) -> Surface:
    """A ring seen along its axis."""
    along = np.maximum(np.sqrt(x * x + y * y), 1e-3)
    tube = (along - 0.72) / 0.34
    return Surface(np.abs(along - 0.72) - 0.34, (tube * x / along, tube * y / along, _rest(tube, 0.0)))


def cylinder(x: Plane, y: Plane) -> Surface:
    """A standing can, its lid in view."""
    side = np.maximum(np.abs(x) - 0.68, np.abs(y) - 0.78)
    lid = _ellipse(x, y - 0.78, 0.68, 0.24)
    foot = _ellipse(x, y + 0.78, 0.68, 0.24)
    across = np.clip(x / 0.68, -1, 1)
    on_lid = lid < 0
    return Surface(
        np.minimum(np.minimum(side, foot), lid),
        (
            _choose(on_lid, 0.0, across),
            _choose(on_lid, 0.9, 0.0),
            _choose(on_lid, 0.44, _rest(across, 0.0)),
        ),
    )


def cross(x: Plane, y: Plane) -> Surface:
    """A thick plus sign, seen a little from the lower right."""
    front, back = _plus(x + 0.08, y - 0.08), _plus(x - 0.1, y + 0.1)
    wall = front > 0
    return Surface(
        np.minimum(front, back),
        (_choose(wall, 0.6, -0.2), _choose(wall, -0.7, 0.3), _choose(wall, 0.1, 0.93)),
    )


def plain(x: Plane, y: Plane) -> Plane:
    """Where the second tone of the texture shows, 0 to 1: nowhere."""
    return np.zeros_like(x)


def stripes(x: Plane, y: Plane) -> Plane:
    """Bands across the object, a little aslant."""
    return smoothstep((_wave(1.45 * y + 0.35 * x) - 0.5) * 3 + 0.5)


def dots(x: Plane, y: Plane) -> Plane:
    """A square grid of round spots."""
    u, v = _wave(1.6 * x) * 2 - 1, _wave(1.6 * y) * 2 - 1  # -1 to 1 and back, twice per cell
    return smoothstep((0.98 - np.sqrt((1 - u) * (1 - u) + (1 - v) * (1 - v))) * 2 + 0.5)


SHAPES: dict[str, Callable[[Plane, Plane], Surface]] = {
    "sphere": sphere,
    "cube": cube,
    "cone": cone,
    "torus": torus,
    "cylinder": cylinder,
    "cross": cross,
}
TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {"plain": plain, "stripes": stripes, "dots": dots}


def smoothstep(x: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """0 below 0, 1 above 1, and smooth between."""
    x = np.clip(x, 0, 1)
    smooth: Float32[np.ndarray, "..."] = x * x * (3 - 2 * x)
    return smooth


def _ellipse(x: Plane, y: Plane, a: float, b: float) -> Plane:
    """Nearly the signed distance to an ellipse with half axes a and b: value over slope, right at the outline."""
    u, v = x / a, y / b
    value = np.sqrt(u * u + v * v)
    slope = np.maximum(np.sqrt(u * u / (a * a) + v * v / (b * b)), 1e-3)
    distance: Plane = value * (value - 1) / slope
    return distance


def _plus(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - 0.32), np.maximum(x - 0.32, y - 0.95))


def _rest(x: Plane, y: Plane | float) -> Plane:
    """The third part of a unit normal."""
    rest: Plane = np.sqrt(np.maximum(1 - x * x - y * y, 0.0))
    return rest


def _wave(x: Plane) -> Plane:
    """A triangle between 0 and 1 with period 1, 1 at whole numbers."""
    wave: Plane = np.abs(x - np.floor(x) - 0.5) * 2
    return wave


def _choose(where: Bool[np.ndarray, "t s s"], yes: Plane | float, no: Plane | float) -> Plane:
    return np.where(where, yes, no).astype(np.float32)
