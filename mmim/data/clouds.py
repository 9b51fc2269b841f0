"""What lies in space: sets of points in groups of neighbours, alike for all such modalities."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from mmim.data.cloud import Cloud, Mesh, in_unit_ball
from mmim.data.cloud_draw import pictures
from mmim.draw import Draw
from mmim.errors import ReadError, expect
from mmim.layers.grouping import grouped, histograms, ungrouped
from mmim.layers.point_embed import CentreEmbed, PointEmbed
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target
from mmim.records import Raw, Tokens
from mmim.targets.chamfer import Chamfer


@dataclass(frozen=True, kw_only=True)
class CloudModality(Modality):
    """A modality whose sample is a set of points, of which nothing but their places matters.

    A modality of this kind says what a file holds (`cloud`); everything else is a default that it may replace.

    Input   [b P 3], float32: `points` points drawn at random, centred on their mean, the farthest at length 1
    Tokens  n = groups around the points farthest from each other; values [b n group_size 3], relative to each group's
            centre; coords (x, y, z) of the centres; no grid
    """

    view: ClassVar[tuple[str, ...]] = ("points", "groups")
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Chamfer()

    points: int = 1024
    """Points of a sample; of a file with fewer, each as often as can be."""
    groups: int = 64
    """Tokens of a sample."""
    group_size: int = 32
    """Points of a token, its centre among them."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        expect(self.points >= 1, self.points, "at least 1", f"{name}.points")
        for field in ("groups", "group_size"):
            value = getattr(self, field)
            expect(1 <= value <= self.points, value, f"1 to the {self.points} points", f"{name}.{field}")

    @abstractmethod
    def cloud(self, path: Path) -> Cloud | Mesh:
        """All of a file, for one with `mmim.data.cloud_read.read_cloud`.

        Raises:
            ReadError: it can't be used; the message is the reason, without the path.
        """

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.group_size, 3)

    def blank(self) -> Float32[Tensor, "P 3"]:
        return torch.zeros(self.points, 3)

    def read(self, source: Source, draw: Draw | None) -> Raw:
        return self._some(self.cloud(source.path), draw)

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        cloud = self.cloud(source.path)  # parsed once
        return [self._some(cloud, draw) for draw in draws]

    def _some(self, cloud: Cloud | Mesh, draw: Draw | None) -> Float32[Tensor, "P 3"]:
        places = in_unit_ball(cloud.take(self.points, draw).places).astype(np.float32)
        if len(np.unique(places, axis=0)) < self.groups:
            raise ReadError(f"too few distinct points: {self.groups} groups need as many")  # how many: the draw decides
        return torch.from_numpy(places)

    def tokenize(self, raw: Float[Tensor, "b P 3"]) -> Tokens:  # type: ignore[override]
        return grouped(raw.to(torch.get_default_dtype()), self.groups, self.group_size)

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b N 3"]:
        """The points of all groups; one that several groups hold comes several times."""
        return ungrouped(values, tokens)

    def embedder(self, width: int) -> nn.Module:
        return PointEmbed(3, width, norm="layer")

    def position(self, width: int) -> nn.Module:
        return CentreEmbed(width)

    def render(self, data: Float[Tensor, "b N 3"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Each cloud from the front and from the upper right, x to the right and z up; what is nearer is darker."""
        return pictures(data)

    def features(self, raw: Float[Tensor, "b P 3"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Histograms of distances between points, from the middle, and along x, y and z: p = 160."""
        return histograms(raw.to(torch.get_default_dtype()))
