"""NewName: numbers over time. What to change first is marked CHANGE."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmim.data.series import SeriesModality
from mmim.data.series_read import read_series
from mmim.data.world.picture import direct
from mmim.targets.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class NewName(SeriesModality):
    """Windows [b channels length] of series in patches of time: values [b n channels patch].

    SeriesModality cuts windows, pads, embeds and shows; any method of it can be replaced here.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".newname.csv", ".newname.npy")  # CHANGE
    target = Pixels()  # the numbers of the hidden patches, unless a recipe says otherwise

    channels: int = 2  # CHANGE: columns of your tables
    length: int = 256  # CHANGE: rows of a window
    patch: int = 16  # CHANGE: rows of a token
    mean: tuple[float, ...] | None = (0.5, 0.5)  # CHANGE: of each channel; None for each sample's own,
    std: tuple[float, ...] | None = (0.1, 0.1)  # which forgets how high and how strong its signal is

    def numbers(self, path: Path) -> np.ndarray:  # CHANGE: all of a file as [steps channels]; ReadError for any other
        return read_series(path, self.channels)  # of tables with a column of times: read_series(path, 3)[:, 1:]

    def depict(self, scene: Any, path: Path) -> None:  # CHANGE: what your device makes of a scene of the sample world
        rng = scene.nuisance("newname")
        time = np.arange(rng.integers(300, 400)) / 400
        take = direct(scene, rng, time)  # where the object is, in shares of the frame, and how large
        tremble = 0.3 * take.radius * np.sin(2 * np.pi * 24 * time + rng.uniform(0, 6))
        table = take.centres + tremble[:, None] + rng.normal(0, 0.005, (len(time), 2))
        np.savetxt(path, table, "%.5f", delimiter=",", header="right,down", comments="")
