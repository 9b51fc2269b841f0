"""Scenes as clouds of points: a coloured solid, the trail of its motion, and four marks in a square around it.

Coordinates (x, y, z): x to the right and z up, as in the pictures of a scene, y away from who looks. The marks stand
in the corners of the square [-1, 1] of x and z, a tenth of the points altogether, so that size and place can still be
told when a cloud has been centred and scaled.

Fixed by the scene: solid, colour, texture (over x and z of the solid's own front), size, place (of the solid in the
square), and motion: a trail of ever sparser grey points behind the solid, a ring around a circling one, nothing behind
a still one. Nuisance: how the solid is turned about the vertical axis, hue within its class, exact size and place,
length of the trail, the number of points, the scatter of each. A cloud shows neither light, background nor speed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mmim.data.world.picture import CENTRES, COLOURS, DIRECTIONS, second_tone
from mmim.data.world.scene import Scene
from mmim.data.world.shapes import TEXTURES

Places = Float64[np.ndarray, "n 3"]

RADII = {"small": 0.36, "medium": 0.5, "large": 0.7}
"""Of the solids, in the units of the square."""
SHARES = {"marks": 0.1, "trail": 0.15}
"""Of all points."""
GREY = 0.55


class Surface(NamedTuple):
    """Points on a surface, the direction out of it at each, and their colours in [0, 1]."""

    places: Places
    normals: Places
    colours: Places


class Bare(NamedTuple):
    """The same without colours, in radii of the solid around its middle."""

    places: Places
    normals: Places


def solid_cloud(scene: Scene, rng: np.random.Generator) -> Surface:
    """The cloud of a scene: some thousand points in random order."""
    count = int(rng.integers(2400, 3600))
    marks = _marks(rng, round(SHARES["marks"] * count))
    middle = _middle(scene, rng)
    trail = _trail(scene, rng, middle, 0 if scene.motion == "still" else round(SHARES["trail"] * count))
    body = _body(scene, rng, middle, count - len(marks.places) - len(trail.places))
    parts = [np.concatenate(part) for part in zip(body, trail, marks, strict=True)]
    parts[0] += rng.uniform(0.002, 0.008) * rng.standard_normal(parts[0].shape)
    order = rng.permutation(count)
    return Surface(*(part[order] for part in parts))


def _body(scene: Scene, rng: np.random.Generator, middle: Float64[np.ndarray, " 3"], count: int) -> Surface:
    bare = SOLIDS[scene.shape](rng, count)
    first = np.clip(np.array(COLOURS[scene.colour]) + rng.uniform(-0.07, 0.07, 3), 0, 1)
    front = bare.places.astype(np.float32)[:, None, None]
    share = TEXTURES[scene.texture](front[..., 0], front[..., 2]).reshape(-1, 1)
    colours = first + share * (second_tone(scene, first) - first)
    turn = _about_the_vertical(rng.uniform(0, 2 * np.pi))
    radius = RADII[scene.size] * rng.uniform(0.95, 1.05)
    return Surface(radius * bare.places @ turn + middle, bare.normals @ turn, colours)


def _middle(scene: Scene, rng: np.random.Generator) -> Float64[np.ndarray, " 3"]:
    """Where the solid stands."""
    right, down = 2 * (np.array(CENTRES[scene.place]) - 0.5)
    return np.array([right, 0.0, -down]) + rng.uniform(-0.04, 0.04, 3)


def _trail(scene: Scene, rng: np.random.Generator, middle: Float64[np.ndarray, " 3"], count: int) -> Surface:
    """Thin at its far end, which is where the solid was; a circle's is as thin all round."""
    reach = rng.uniform(0.9, 1.2)
    out = _directions(rng, count)
    if scene.motion == "circle":
        ring = _round(rng, count)
        way = 0.95 * reach * np.stack([ring[:, 0], np.zeros(count), ring[:, 1]], axis=1)
    else:
        right, down = DIRECTIONS.get(scene.motion, (0.0, 0.0))
        back = reach * (1 - np.sqrt(rng.random(count)))  # twice as dense at the solid as on the whole
        way = -back[:, None] * np.array([right, 0.0, -down])
    return Surface(middle + way + 0.03 * out, out, np.full((count, 3), GREY))


def _marks(rng: np.random.Generator, count: int) -> Surface:
    corners = np.array([(-1.0, 0.0, -1.0), (-1.0, 0.0, 1.0), (1.0, 0.0, -1.0), (1.0, 0.0, 1.0)])
    out = _directions(rng, count)
    return Surface(corners[np.arange(count) % 4] + 0.04 * out, out, np.full((count, 3), GREY))


# The six solids, evenly covered with points


def sphere(rng: np.random.Generator, count: int) -> Bare:
    """A ball."""
    out = _directions(rng, count)
    return Bare(out, out)


def cube(rng: np.random.Generator, count: int) -> Bare:
    """A cube."""
    return _box(rng, count, (0.7, 0.7, 0.7))


def cone(rng: np.random.Generator, count: int) -> Bare:
    """A cone on its round foot, 1.85 high and 1.85 wide."""
    side = rng.random(count) < 0.691  # the area of the side is 0.925 * 2.068 pi, that of the foot 0.925 ** 2 pi
    down = np.sqrt(rng.random(count))  # from the tip, or from the middle of the foot
    ring, flat = _round(rng, count), 0.925 * down[:, None]
    places = np.column_stack([flat * ring, np.where(side, 1.15 - 1.85 * down, -0.7)])
    normals = np.where(side[:, None], np.column_stack([0.894 * ring, np.full(count, 0.447)]), (0.0, 0.0, -1.0))
    return Bare(places, normals)


def torus(rng: np.random.Generator, count: int) -> Bare:
    """A standing ring, its hole in front."""
    around, across = _round(rng, 4 * count), _round(rng, 4 * count)
    wide = 0.72 + 0.34 * across[:, 0]
    kept = np.flatnonzero(rng.random(4 * count) * 1.06 < wide)[:count]  # the inner side has less area
    around, across, wide = around[kept], across[kept], wide[kept]
    outward = np.stack([around[:, 0], np.zeros(count), around[:, 1]], axis=1)
    aside = np.array([0.0, 1.0, 0.0])
    normals = across[:, :1] * outward + across[:, 1:] * aside
    return Bare(wide[:, None] * outward + 0.34 * across[:, 1:] * aside, normals)


def cylinder(rng: np.random.Generator, count: int) -> Bare:
    """A standing can."""
    side = rng.random(count) < 0.696  # of the area, with a radius of 0.68 and a height of 1.56
    ring, up = _round(rng, count), rng.uniform(-1, 1, count)
    flat = np.where(side, 0.68, 0.68 * np.sqrt(rng.random(count)))
    lid = np.where(up > 0, 1.0, -1.0)
    places = np.column_stack([flat[:, None] * ring, 0.78 * np.where(side, up, lid)])
    normals = np.where(side[:, None], np.column_stack([ring, np.zeros(count)]), np.outer(lid, (0.0, 0.0, 1.0)))
    return Bare(places, normals)


def cross(rng: np.random.Generator, count: int) -> Bare:
    """A thick plus sign: two boxes without what lies inside the other."""
    lying, standing = _box(rng, 2 * count, (0.95, 0.32, 0.32)), _box(rng, 2 * count, (0.32, 0.32, 0.95))
    outer = [
        (np.abs(lying.places[:, 0]) > 0.32) | (lying.normals[:, 1] != 0),  # the shared front and back are its
        np.abs(standing.places[:, 2]) > 0.32,
    ]
    places, normals = (
        np.concatenate([one[outer[0]], other[outer[1]]]) for one, other in zip(lying, standing, strict=True)
    )
    chosen = rng.permutation(len(places))[:count]
    return Bare(places[chosen], normals[chosen])


SOLIDS: dict[str, Callable[[np.random.Generator, int], Bare]] = {
    "sphere": sphere,
    "cube": cube,
    "cone": cone,
    "torus": torus,
    "cylinder": cylinder,
    "cross": cross,
}


def _box(rng: np.random.Generator, count: int, half: tuple[float, ...]) -> Bare:
    """A box by half of its edges."""
    x, y, z = half
    axis = rng.choice(3, count, p=np.array([y * z, x * z, x * y]) / (y * z + x * z + x * y))
    normals = np.eye(3)[axis] * (2 * rng.integers(2, size=count)[:, None] - 1)
    places = np.where(normals == 0, rng.uniform(-1, 1, (count, 3)), normals) * np.array(half)
    return Bare(places, normals)


def _directions(rng: np.random.Generator, count: int) -> Places:
    """Even directions in space."""
    return _unit(rng.standard_normal((count, 3)))


def _round(rng: np.random.Generator, count: int) -> Float64[np.ndarray, "n 2"]:
    """Even directions in a plane."""
    return _unit(rng.standard_normal((count, 2)))


def _unit(vectors: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c"]:
    unit: Float64[np.ndarray, "n c"] = vectors / np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return unit


def _about_the_vertical(angle: float) -> Float64[np.ndarray, "3 3"]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
