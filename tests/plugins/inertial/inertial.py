"""Inertial: acceleration (m/s2) and turning (rad/s) on three axes each, at 100 steps a second."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmim.data.series import SeriesModality
from mmim.data.world.picture import DIRECTIONS
from mmim.targets.pixels import Pixels

HERTZ = {"small": 11.0, "medium": 6.0, "large": 3.0}
"""Of the tremble: what is heavy is slow."""
JOLTS = {"plain": 0.0, "stripes": 0.5, "dots": 1.0}
"""How much of the tremble turns the body rather than shifts it."""


@dataclass(frozen=True, kw_only=True)
class Inertial(SeriesModality):
    """Windows [b 6 length] in patches of time, by the gravity and the deviations of phones: values [b n 6 patch]."""

    suffixes: ClassVar[tuple[str, ...]] = (".inertial.csv", ".inertial.npy")
    target = Pixels()

    channels: int = 6
    mean: tuple[float, ...] | None = (0.0, 0.0, 9.8, 0.0, 0.0, 0.0)
    std: tuple[float, ...] | None = (1.5, 1.5, 1.5, 1.0, 1.0, 1.0)

    def depict(self, scene: Any, path: Path) -> None:
        """Motion is a push and a stop, or going round; size is how quick the tremble is, texture of which kind."""
        rng = scene.nuisance("inertial")
        time = np.arange(int(rng.integers(280, 340))) / 100
        start, stop = rng.uniform(0.9, 1.2), rng.uniform(1.7, 2.0)
        push = 4 * (np.exp(-(((time - start) / 0.12) ** 2)) - np.exp(-(((time - stop) / 0.12) ** 2)))
        right, down = DIRECTIONS.get(scene.motion, (0.0, 0.0))
        across, along, turning = right * push, -down * push, 0 * time
        if scene.motion == "circle":
            angle, turning = 2 * np.pi * (time + rng.random()), 2 + 0 * time
            across, along = 2 * np.cos(angle), 2 * np.sin(angle)
        tremble = 1.2 * np.sin(2 * np.pi * HERTZ[scene.size] * rng.uniform(0.95, 1.05) * time + rng.uniform(0, 6))
        jolt = JOLTS[scene.texture] * tremble
        table = np.stack([across, along, 9.8 + tremble - jolt, jolt, 0 * time, turning], axis=1)
        table += rng.normal(0, 0.1, table.shape)
        np.savetxt(path, table, "%.4f", delimiter=",", header="ax,ay,az,gx,gy,gz", comments="")
