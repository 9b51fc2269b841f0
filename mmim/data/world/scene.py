"""What a scene of the sample world is: six named factors, and a seed for everything else.

Two modalities that depict the same scene share its factors *only*. Whatever is not a factor (background, noise, camera,
speed, wording, speaker ...) is nuisance, and each depiction draws its own: `scene.nuisance("video")` and
`scene.nuisance("sound")` are independent. Every number here is a hash, so that scene 7 is the same scene whatever the
count, the library or the machine.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b
from types import MappingProxyType
from typing import Literal

import numpy as np

from mmim.errors import DataError

VERSION = 1
"""Raise it whenever a depiction of the same scene changes: cached worlds are made anew."""

FACTORS = MappingProxyType(
    {
        "shape": ("sphere", "cube", "cone", "torus", "cylinder", "cross"),
        "colour": ("red", "green", "blue", "yellow", "magenta", "cyan"),
        "motion": ("left", "right", "up", "down", "circle", "still"),
        "size": ("small", "medium", "large"),
        "texture": ("plain", "stripes", "dots"),
        "place": ("middle", "top-left", "top-right", "bottom-left", "bottom-right"),  # where the path has its centre
    }
)

HELDOUT_SHARE = 1 / 3

Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene: who it is, and the value of each factor.

    seed      of the world
    number    of the scene in the world; names its files
    shape ... one of `FACTORS`; `place` is where the path has its centre, so that it says nothing about the motion
    redepict  the same scene with another background, noise, speed ...: enters the seed of the nuisance, nothing else
    """

    seed: int
    number: int
    shape: str
    colour: str
    motion: str
    size: str
    texture: str
    place: str
    redepict: int = 0

    def __post_init__(self) -> None:
        for name, value in self.labels.items():
            if value not in FACTORS[name]:
                raise DataError(f"a scene can't have {name} {value!r}. Use one of {', '.join(FACTORS[name])}.")

    @property
    def labels(self) -> dict[str, str]:
        """The factors by name, in the order of `FACTORS`."""
        return {name: getattr(self, name) for name in FACTORS}

    def nuisance(self, name: str) -> np.random.Generator:
        """The generator of everything that is not a factor, for the depiction called `name`."""
        seed = _hash("nuisance", self.seed, self.number, self.redepict, name)
        return np.random.Generator(np.random.PCG64(seed))

    def with_factors_drawn_again(self, draw: int) -> "Scene":
        """The same scene (number, split, nuisance) with independent factors. A control for retrieval.

        Args:
            draw: which new drawing, from 1; 0 gives the factors the scene was born with.
        """
        return replace(_scene(self.seed, self.number, draw), redepict=self.redepict)


def scenes(count: int, seed: int, start: int = 0) -> list[Scene]:
    """Scenes `start ... start + count - 1` of a world; each factor is independent and uniform."""
    return [_scene(seed, number) for number in range(start, start + count)]


def train_and_heldout(train: int, heldout: int, seed: int) -> list[Scene]:
    """The first `train` training and the first `heldout` held-out scenes of a world, ordered by number.

    A scene never changes sides: asking for more of one split adds scenes and moves none.
    """
    wanted = {"train": train, "heldout": heldout}
    chosen: list[Scene] = []
    number = 0
    while any(wanted.values()):
        scene = _scene(seed, number)
        if wanted[split_of(scene)]:
            wanted[split_of(scene)] -= 1
            chosen.append(scene)
        number += 1
    return chosen


def split_of(scene: Scene) -> Split:
    """The side of a scene: a third is held out. Depends on (seed, number) only, so depicting again keeps it."""
    return "heldout" if _hash("split", scene.seed, scene.number) < HELDOUT_SHARE * 2**128 else "train"


def _scene(seed: int, number: int, draw: int = 0) -> Scene:
    factors = _factors(seed, number, draw)
    return Scene(seed=seed, number=number, **factors)  # type: ignore[arg-type]  # no factor is the int field


def _factors(seed: int, number: int, draw: int) -> dict[str, str]:
    return {
        name: values[_hash("factor", seed, number, draw, name) % len(values)]  # 2 ** 128 numbers: even to 37 digits
        for name, values in FACTORS.items()
    }


def _hash(*parts: str | int) -> int:
    """128 bits that depend on all parts and on nothing else."""
    return int.from_bytes(blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest(), "big")
