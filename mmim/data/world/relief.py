"""Scenes as bodies in space: how far away each pixel is, and whose it is.

A body stands before a wall that leans a little. Its outline is that of the picture (see `shapes`), and it swells from
the outline inwards as a ball does: a sphere is one, all others are cushions of their shape.

Fixed by the scene: outline, size and place of the body, as in a photograph; colour and texture don't show. Nuisance:
moment, orientation, exact size and place as there, and of the distances: how far the wall is, how it leans, how
far before it the body stands, the noise of the sensor.
"""

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from mmim.data.world.picture import Outline, direct, outline
from mmim.data.world.scene import FACTORS, Scene


def distances(scene: Scene, rng: np.random.Generator, *, size: int = 96) -> UInt16[np.ndarray, "h w"]:
    """A scene in millimetres from the camera, `size` pixels high and wide, at a random moment."""
    body = _moment(scene, rng, size)
    far, (across, down) = rng.uniform(2000, 3500), rng.uniform(-0.1, 0.1, 2)
    ahead, noise = rng.uniform(0.2, 0.35), rng.uniform(1, 5)
    steps = (np.arange(size) + 0.5) / size - 0.5
    space = (far * (1 + across * steps[None, :] + down * steps[:, None])).astype(np.float32)
    front = np.float32(far * (1 - ahead)) - np.float32(far) * _swelling(body, size)
    seen = _whole(front, space, body)
    seen += noise * rng.uniform(-1, 1, seen.shape).astype(np.float32)
    millimetres: UInt16[np.ndarray, "h w"] = np.rint(seen).astype(np.uint16)
    return millimetres


def classes(scene: Scene, rng: np.random.Generator, *, size: int = 96) -> UInt8[np.ndarray, "h w"]:
    """A scene as a map of classes at a random moment: 0 behind, and the body's shape, counted from 1."""
    body = _moment(scene, rng, size)
    shape = np.uint8(1 + FACTORS["shape"].index(scene.shape))
    return _whole(np.full(body.distance.shape[1:], shape), np.zeros((size, size), np.uint8), body)


def _moment(scene: Scene, rng: np.random.Generator, size: int) -> Outline:
    return outline(scene, direct(scene, rng, np.array([rng.random()])), size)


def _swelling(body: Outline, size: int) -> Float32[np.ndarray, "s s"]:
    """How far the body comes out towards the camera, in shares of the frame's width."""
    out = 1 + np.clip(body.distance[0], -1, 0)  # 0 in the middle, 1 at the outline
    swelling: Float32[np.ndarray, "s s"] = np.sqrt(1 - out * out) * np.float32(body.radius / size)
    return swelling


def _whole(inside: np.ndarray, behind: np.ndarray, body: Outline) -> np.ndarray:
    """The frame: the body where it is, in its box, and what is behind it elsewhere."""
    left, top = body.corners[0]
    frame = behind.copy()
    window = frame[top : top + len(inside), left : left + len(inside)]
    covered: Bool[np.ndarray, "s s"] = body.distance[0] < 0
    window[covered] = inside[covered]
    return frame
