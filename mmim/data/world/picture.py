"""Scenes as RGB frames: a shaded, textured object moves over a random background.

Fixed by the scene: outline, colour, texture, size, place and kind of motion of the object. Nuisance: the background,
the camera (drift and tremble), brightness, light, speed, phase, orientation, hue within its class, sensor noise. Places
and lengths are shares of the frame, time is a share of the clip, so one `rng` gives the same clip at any size and
number of frames, but for the sensor noise.

Per pixel there is only `+ - * /` and square roots (see `shapes`); sines are taken of a few numbers, in float64.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from mmim.data.world.scene import Scene
from mmim.data.world.shapes import SHAPES, TEXTURES, smoothstep

SECONDS = 2.0
"""How long a clip lasts."""

COLOURS = {
    "red": (0.90, 0.12, 0.10),
    "green": (0.12, 0.70, 0.18),
    "blue": (0.14, 0.28, 0.95),
    "yellow": (0.95, 0.88, 0.10),
    "magenta": (0.90, 0.20, 0.82),
    "cyan": (0.10, 0.82, 0.88),
}
RADII = {"small": 0.11, "medium": 0.155, "large": 0.21}
CENTRES = {
    "middle": (0.5, 0.5),
    "top-left": (0.35, 0.35),
    "top-right": (0.65, 0.35),
    "bottom-left": (0.35, 0.65),
    "bottom-right": (0.65, 0.65),
}
DIRECTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}  # (x, y), y down the picture
MARGIN = 0.1  # how far the camera may look past the frame


@dataclass(frozen=True)
class Take:
    """Where everything is at t moments of a clip, in shares of the frame, and how it is lit.

    centres  of the object in the frame, camera motion included
    camera   where the frame has moved to, for the background
    angles   of the object, radians
    gains    brightness of the whole picture
    """

    centres: Float64[np.ndarray, "t 2"]
    camera: Float64[np.ndarray, "t 2"]
    angles: Float64[np.ndarray, " t"]
    gains: Float64[np.ndarray, " t"]
    radius: float
    colour: Float64[np.ndarray, " 3"]
    light: Float64[np.ndarray, " 3"]
    noise: float


def frames(scene: Scene, rng: np.random.Generator, *, size: int = 96, count: int = 32) -> UInt8[np.ndarray, "t h w 3"]:
    """A clip of a scene: `count` frames at even steps over its two seconds, `size` pixels high and wide."""
    return _expose(scene, rng, np.arange(count) / count, size)


def still(scene: Scene, rng: np.random.Generator, *, size: int = 96) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph of a scene at a random moment; how the object moves can't be seen."""
    photograph: UInt8[np.ndarray, "h w 3"] = _expose(scene, rng, np.array([rng.random()]), size)[0]
    return photograph


def _expose(
    scene: Scene, rng: np.random.Generator, times: Float64[np.ndarray, " t"], size: int
) -> UInt8[np.ndarray, "t h w 3"]:
    take = direct(scene, rng, times)
    canvas = _backdrop(rng, size)
    corners, cover, paint = _object(scene, take, size)
    film = np.empty((len(times), size, size, 3), np.uint8)
    for index, frame in enumerate(film):  # one at a time: a frame stays in the cache
        picture = _view(canvas, take.camera[index], size)
        _paste(picture, corners[index], cover[index], paint[index])
        picture *= float(take.gains[index]) * 255
        picture += _grain(rng, picture.shape, take.noise)
        frame[:] = np.clip(picture, 0, 255, out=picture)
    return film


def direct(scene: Scene, rng: np.random.Generator, times: Float64[np.ndarray, " t"]) -> Take:
    """Draw what the scene leaves open at these moments of a clip."""
    drift = rng.uniform(-0.05, 0.05, 2) * (times[:, None] - 0.5)
    tremble = rng.uniform(0.001, 0.005) * _sway(rng, times, 2)
    camera = drift + tremble
    tilt = rng.uniform(-0.3, 0.3) + rng.uniform(0, 0.2) * _sway(rng, times, 1)[:, 0]
    light = np.array([rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.7), 0.65])
    return Take(
        centres=_path(scene, rng, times) - camera,
        camera=camera,
        angles=tilt,
        gains=rng.uniform(0.75, 1.15) * (1 + 0.04 * _sway(rng, times, 1)[:, 0]),
        radius=RADII[scene.size] * rng.uniform(0.93, 1.07),
        colour=np.clip(np.array(COLOURS[scene.colour]) + rng.uniform(-0.07, 0.07, 3), 0, 1),
        light=light / np.sqrt((light * light).sum()),
        noise=rng.uniform(2, 7),
    )


def _path(scene: Scene, rng: np.random.Generator, times: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, "t 2"]:
    """Centres of the object in the world: straight through its place, around it, or at rest there."""
    middle = np.array(CENTRES[scene.place]) + rng.uniform(-0.04, 0.04, 2)
    speed, phase, turn = rng.uniform(0.8, 1.2), rng.random(), 1 - 2 * rng.integers(2)
    if scene.motion == "still":
        return np.broadcast_to(middle, (len(times), 2))
    if scene.motion == "circle":
        angle = 2 * np.pi * (phase + turn * speed * times)
        return middle + 0.12 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = 0.34 * speed * (times - 0.5 + 0.1 * (phase - 0.5))
    path: Float64[np.ndarray, "t 2"] = middle + along[:, None] * np.array(DIRECTIONS[scene.motion])
    return path


def _sway(rng: np.random.Generator, times: Float64[np.ndarray, " t"], axes: int) -> Float64[np.ndarray, "t a"]:
    """A smooth random wobble between -1 and 1, for each axis its own."""
    rates, phases = rng.uniform(0.5, 3.5, (2, axes)), rng.random((2, axes))
    sway: Float64[np.ndarray, "t a"] = np.sin(2 * np.pi * (rates * times[:, None, None] + phases)).mean(axis=1)
    return sway


def _backdrop(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    """Smooth colour noise of four scales around a random colour, a little larger than the frame."""
    extent = size + 2 * _margin(size)
    canvas = np.broadcast_to(rng.uniform(0.3, 0.6, 3).astype(np.float32), (extent, extent, 3)).copy()
    for cells, contrast in ((2, 0.22), (5, 0.18), (11, 0.13), (24, 0.08)):
        coloured, grey = (rng.uniform(-0.5, 0.5, (cells + 2, cells + 2, c)).astype(np.float32) for c in (3, 1))
        rows = _stretch(contrast * (coloured + grey), extent, cells)
        canvas += _stretch(np.ascontiguousarray(rows.swapaxes(0, 1)), extent, cells)
    return np.clip(canvas, 0.02, 0.98)


def _stretch(knots: Float32[np.ndarray, "g ..."], extent: int, cells: int) -> Float32[np.ndarray, "e ..."]:
    """Interpolate along the first axis, smoothly."""
    at = (np.arange(extent) * cells / extent).astype(np.float32)
    low = at.astype(np.intp)
    share = smoothstep((at - low).astype(np.float32))[:, None, None]
    stretched: Float32[np.ndarray, "e ..."] = knots[low] + share * (knots[low + 1] - knots[low])
    return stretched


def _view(
    canvas: Float32[np.ndarray, "H W 3"], camera: Float64[np.ndarray, " 2"], size: int
) -> Float32[np.ndarray, "h w 3"]:
    """What the camera sees of the canvas: a window at a fraction of a pixel."""
    corner = np.clip(camera, -MARGIN, MARGIN) * size + _margin(size)
    x, y = corner.astype(np.intp)
    right, down = (corner - (x, y)).astype(np.float32)
    window = canvas[y : y + size + 1, x : x + size + 1]
    rows = window[:-1] + down * (window[1:] - window[:-1])
    view: Float32[np.ndarray, "h w 3"] = rows[:, :-1] + right * (rows[:, 1:] - rows[:, :-1])
    return view


@dataclass(frozen=True)
class Outline:
    """The object in a box that holds it, at t moments, in pixels.

    corners   of the box (x, y)
    x, y      of each pixel of the box, in the object's own frame and in its radii
    distance  of each to the outline, in radii, negative inside
    normal    of the surface that is seen there, (x, y, z)
    radius    of the object
    """

    corners: Int64[np.ndarray, "t 2"]
    x: Float32[np.ndarray, "t s s"]
    y: Float32[np.ndarray, "t s s"]
    distance: Float32[np.ndarray, "t s s"]
    normal: tuple[Float32[np.ndarray, "t s s"], Float32[np.ndarray, "t s s"], Float32[np.ndarray, "t s s"]]
    radius: float


def outline(scene: Scene, take: Take, size: int) -> Outline:
    """Where the object is in frames of `size` pixels."""
    radius = take.radius * size
    box = min(size, int(2 * 1.35 * radius) + 4)
    centres = take.centres * size
    corners = np.clip(np.floor(centres - box / 2), 0, size - box).astype(np.int64)

    pixels = np.arange(box) + 0.5
    right = ((corners[:, :1] + pixels - centres[:, :1]) / radius).astype(np.float32)[:, None, :]
    up = -((corners[:, 1:] + pixels - centres[:, 1:]) / radius).astype(np.float32)[:, :, None]
    cos, sin = (f(take.angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    x, y = cos * right + sin * up, cos * up - sin * right
    return Outline(corners, x, y, *SHAPES[scene.shape](x, y), radius)


def _object(
    scene: Scene, take: Take, size: int
) -> tuple[Int64[np.ndarray, "t 2"], Float32[np.ndarray, "t s s 1"], Float32[np.ndarray, "t s s 3"]]:
    """The corner of the object's box, the object's cover and its colour there."""
    there = outline(scene, take, size)
    nx, ny, nz = there.normal
    lx, ly, lz = take.light.astype(np.float32)
    shade = 0.42 + 0.68 * np.maximum(lx * nx + ly * ny + lz * nz, 0.0)
    first, second = take.colour.astype(np.float32), second_tone(scene, take.colour).astype(np.float32)
    paint = (first + TEXTURES[scene.texture](there.x, there.y)[..., None] * (second - first)) * shade[..., None]
    cover = smoothstep(0.5 - there.distance * (there.radius / 1.6))  # the edge is 1.6 pixels wide
    return there.corners, cover[..., None], paint


def second_tone(scene: Scene, colour: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, " 3"]:
    """Stripes are a darker shade of the colour; dots are white, or black on a colour too light for that."""
    if scene.texture == "stripes":
        return 0.4 * colour
    red, green, blue = colour
    return np.full(3, 0.06 if 0.3 * red + 0.59 * green + 0.11 * blue > 0.55 else 0.98)


def _paste(
    picture: Float32[np.ndarray, "h w 3"],
    corner: Int64[np.ndarray, " 2"],
    cover: Float32[np.ndarray, "s s 1"],
    paint: Float32[np.ndarray, "s s 3"],
) -> None:
    left, top = corner
    window = picture[top : top + len(cover), left : left + len(cover)]
    window += cover * (paint - window)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], strength: float) -> Float32[np.ndarray, "h w 3"]:
    """Sensor noise that deviates by `strength` grey levels, and the half that makes the cut to uint8 a rounding."""
    one, other = np.frombuffer(rng.bytes(2 * math.prod(shape)), np.int8).reshape(2, *shape)
    grain: Float32[np.ndarray, "h w 3"] = np.multiply(
        (one >> 1) + (other >> 1), strength / 52.3, dtype=np.float32
    )  # the sum deviates by 52.3
    grain += 0.5
    return grain


def _margin(size: int) -> int:
    return int(np.ceil(MARGIN * size)) + 1
