"""Scenes as stereo sound.

Fixed by the scene: shape is timbre, size is register (small is high), motion is where the sound goes: left and right
pan, up and down glide in pitch, a circle goes round the listener and trembles, still stays. Nuisance: onset, loudness,
tuning, phases, room, noise floor, exact speed. Colour, texture and place make no sound.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from mmim.data.world.scene import Scene

Wave = Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class Timbre:
    """How a shape sounds: loudness of each partial (multiple of the base pitch: share), and an envelope in time."""

    partials: dict[float, float]
    envelope: Callable[[Wave], Wave]


def _sustained(time: Wave) -> Wave:
    return np.ones_like(time)


def _struck(time: Wave) -> Wave:
    """Three strokes a second, each dying away."""
    return np.exp(-7 * (time % 0.34))


def _beating(time: Wave) -> Wave:
    return 0.55 + 0.45 * np.cos(2 * np.pi * 6 * time)


def _swelling(time: Wave) -> Wave:
    return 0.15 + 0.85 * np.sin(np.pi * np.clip(time / 1.6, 0, 1)) ** 2


def _chopped(time: Wave) -> Wave:
    """Eight short tones a second."""
    return np.clip(12 * (np.sin(2 * np.pi * 8 * time) + 0.15), 0, 1)


TIMBRES = {
    "sphere": Timbre({1.0: 1.0, 2.0: 0.08}, _sustained),  # nearly a sine
    "cube": Timbre({k: 1 / k for k in (1.0, 3.0, 5.0, 7.0, 9.0)}, _sustained),  # a square wave
    "cone": Timbre({float(k): 1 / k for k in range(1, 9)}, _swelling),  # a saw
    "torus": Timbre({1.0: 0.7, 2.0: 1.0, 4.0: 0.5}, _beating),  # an organ with tremolo
    "cylinder": Timbre({1.0: 1.0, 2.76: 0.6, 5.4: 0.35}, _struck),  # a bar of metal
    "cross": Timbre(dict.fromkeys((2.0, 3.0, 4.0, 5.0, 6.0), 0.6), _chopped),  # a buzzer without its base
}
PITCHES = {"small": 520.0, "medium": 260.0, "large": 130.0}  # hertz
GLIDES = {"up": 10.0, "down": -10.0}  # semitones in a clip
PANS = {"left": -0.9, "right": 0.9}  # where it ends; it starts opposite


def sound(
    scene: Scene, rng: np.random.Generator, *, rate: int = 16000, seconds: float = 2.0
) -> Float32[np.ndarray, "2 n"]:
    """The sound of a scene, left and right, within [-1, 1]."""
    time = np.arange(round(rate * seconds)) / rate
    share = time / seconds - 0.5
    semitones, pan = _travel(scene, rng, time, share)
    pitch = PITCHES[scene.size] * 2 ** ((semitones + rng.uniform(-1.5, 1.5)) / 12)
    start = rng.uniform(0, 0.25)
    tone = _tone(TIMBRES[scene.shape], pitch, time, rng) * np.clip((time - start) / 0.02, 0, 1)
    tone *= rng.uniform(0.12, 0.5) / np.abs(tone).max()

    angle = (pan + 1) * np.pi / 4  # equal power
    both = _room(np.stack([np.cos(angle) * tone, np.sin(angle) * tone]), rng, rate)
    both += 10 ** rng.uniform(-3.2, -1.8) * rng.standard_normal(both.shape)
    played: Float32[np.ndarray, "2 n"] = np.clip(both, -1, 1).astype(np.float32)
    return played


def _travel(scene: Scene, rng: np.random.Generator, time: Wave, share: Wave) -> tuple[Wave, Wave]:
    """Pitch in semitones from the base, and pan from -1 (left) to 1 (right)."""
    speed, phase = rng.uniform(0.8, 1.1), rng.random()
    rest, still = rng.uniform(-0.25, 0.25), np.zeros_like(share)
    if scene.motion == "circle":
        around = 2 * np.pi * (speed * (share + 0.5) + phase)
        return 0.7 * np.sin(2 * np.pi * 5.5 * time), 0.85 * np.cos(around)
    semitones = GLIDES.get(scene.motion, 0.0) * speed * share
    pan = 2 * PANS[scene.motion] * speed * share if scene.motion in PANS else still
    return semitones, np.clip(pan + rest, -1, 1)


def _tone(timbre: Timbre, pitch: Wave, time: Wave, rng: np.random.Generator) -> Wave:
    """The partials that the rate can carry, each from a phase of its own."""
    rate = 1 / time[1]
    turns = np.cumsum(pitch) / rate
    tone = np.zeros_like(time)
    for (multiple, loudness), phase in zip(timbre.partials.items(), rng.random(len(timbre.partials)), strict=True):
        if multiple * pitch.max() < rate / 2:
            tone += loudness * np.sin(2 * np.pi * (multiple * turns + phase))
    tone *= timbre.envelope(time)
    return tone


def _room(both: Float64[np.ndarray, "2 n"], rng: np.random.Generator, rate: int) -> Float64[np.ndarray, "2 n"]:
    """A few echoes, each ear its own."""
    wet = both.copy()
    level = rng.uniform(0.05, 0.4)
    for ear in range(2):
        for delay, weight in zip(rng.uniform(0.01, 0.2, 6), rng.uniform(0.3, 1.0, 6), strict=True):
            late = round(delay * rate)
            wet[ear, late:] += level * weight * np.exp(-delay / 0.08) * both[ear, :-late]
    return wet
