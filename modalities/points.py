"""Points: clouds of points in groups of neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from mmim.data.cloud import Cloud, in_unit_ball
from mmim.data.cloud_draw import pictures
from mmim.data.cloud_read import SUFFIXES, count_rows, read_cloud
from mmim.data.cloud_write import write_cloud
from mmim.data.world.solids import solid_cloud
from mmim.draw import Draw
from mmim.errors import ReadError, expect
from mmim.layers.grouping import grouped, histograms, ungrouped
from mmim.layers.point_embed import CentreEmbed, PointEmbed
from mmim.masking.random import RandomMasking
from mmim.modality import MaskingPolicy, Modality, Source, Target
from mmim.records import Raw, Tokens
from mmim.targets.chamfer import Chamfer


@dataclass(frozen=True, kw_only=True)
class Points(Modality):
    """Clouds of points, and meshes sampled to points, in groups of neighbours.

    Input   [b P c], float32; (x, y, z) centred and scaled into the unit ball, then colours in [-1, 1], then normals, if
            asked for; P points, not only `points`
    Tokens  n = groups around the points farthest from each other; values [b n group_size c], each group's nearest
            first, (x, y, z) relative to its centre and not scaled; coords (x, y, z) of the centres; no grid
    Take    `points` points drawn at random, *then* the mean is subtracted and the farthest is scaled to length 1, then
            augmented. Of fewer points all are repeated as evenly as can be
    Paper   Pang et al. 2022 (Point-MAE), section 3.1, arXiv:2203.06604; order and augmentation as in its code
    """

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    view: ClassVar[tuple[str, ...]] = ("points", "groups")
    training_view: ClassVar[tuple[str, ...]] = ("augment", "scale", "shift", "sees_hidden")
    masking: ClassVar[MaskingPolicy] = RandomMasking()
    target: ClassVar[Target] = Chamfer()

    points: int = 1024
    """Points of a sample (Point-MAE: 1024)."""
    groups: int = 64
    """Tokens of a sample (Point-MAE: 64; fine-tuned on 2048 points: 128)."""
    group_size: int = 32
    """Points of a token, its centre among them (Point-MAE: 32)."""
    colour: bool = False
    """Whether red, green and blue are three further channels (Point-MAE: no); files without are then refused."""
    normals: bool = False
    """Whether normals are three further channels (Point-MAE: no); those of clouds without are estimated by open3d."""
    augment: bool = True
    """Scale each axis and shift each cloud at random in training (Point-MAE: yes)."""
    scale: tuple[float, float] = (2 / 3, 3 / 2)
    """Lowest and highest factor of an axis, uniform between (Point-MAE: 2/3 to 3/2)."""
    shift: float = 0.2
    """Largest shift along an axis either way, in radii of the cloud (Point-MAE: 0.2)."""
    norm: Literal["batch", "layer"] = "batch"
    """The norm of the group embedding: over all points of the batch, or of each point alone (Point-MAE: batch)."""
    sees_hidden: bool = True
    """Whether hidden groups enter the batch norm's statistics, a leak (Point-MAE: yes); without effect on layer."""
    skip_near_origin: bool = True
    """Whether points within 0.03 of the middle are never taken as centres (Point-MAE: yes, by its sampler)."""

    def __post_init__(self) -> None:
        for name, most in (("points", None), ("groups", self.points), ("group_size", self.points)):
            value, bound = getattr(self, name), "" if most is None else f" and at most the {most} points"
            expect(1 <= value <= (most or value), value, f"at least 1{bound}", f"Points.{name}")
        low, high = self.scale
        expect(0 < low <= high < float("inf"), self.scale, "0 < lowest <= highest", "Points.scale")
        expect(0 <= self.shift < float("inf"), self.shift, "at least 0 and finite", "Points.shift")

    @property
    def waivers(self) -> Mapping[str, str]:
        if self.norm == "layer":
            return {}
        apart = {"parts_of_a_batch_add_up_to_the_whole": "batch norms, as published: statistics of a part are others"}
        leak = {"hidden_content_stays_hidden_in_training": "batch norms over hidden groups too, as published"}
        return apart | leak if self.sees_hidden else apart

    @property
    def channels(self) -> int:
        """Numbers of a point: its place, perhaps its colour, perhaps its normal."""
        return 3 * (1 + self.colour + self.normals)

    @property
    def piece(self) -> tuple[int, ...]:
        return (self.group_size, self.channels)

    def grid(self) -> None:
        return None

    def blank(self) -> Float32[Tensor, "P c"]:
        return torch.zeros(self.points, self.channels)

    def rows_in(self, path: Path) -> Sequence[int] | None:
        return count_rows(path)

    def read(self, source: Source, draw: Draw | None) -> Float32[Tensor, "P c"]:
        return self._read(source, [draw])[0]

    def read_many(self, source: Source, draws: Sequence[Draw]) -> list[Raw]:
        return list(self._read(source, draws))

    def _read(self, source: Source, draws: Sequence[Draw | None]) -> list[Float32[Tensor, "P c"]]:
        found = read_cloud(source.path, source.row, colour=self.colour, normals=self.normals)
        return [self._view(found.take(self.points, draw), draw) for draw in draws]

    def _view(self, cloud: Cloud, draw: Draw | None) -> Float32[Tensor, "P c"]:
        """Some points as a sample: in the unit ball, perhaps augmented."""
        places, factors = in_unit_ball(cloud.places), np.ones(3)
        distinct = len(np.unique(places.astype(np.float32), axis=0))
        if distinct < self.groups:
            few = "1 distinct point" if distinct == 1 else "too few distinct points"  # how many depends on the draw
            raise ReadError(f"{few}: {self.groups} groups need as many")
        if self.augment and draw is not None:
            low, high = self.scale
            factors = low + (high - low) * np.array(draw.floats("scale", 3))
            places = places * factors + self.shift * (2 * np.array(draw.floats("shift", 3)) - 1)
        parts = [places]
        if self.colour and cloud.colour is not None:
            parts.append(2 * cloud.colour - 1)
        if self.normals and cloud.normals is not None:
            turned = cloud.normals / factors
            parts.append(turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12))
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def tokenize(self, raw: Float[Tensor, "b P c"]) -> Tokens:  # type: ignore[override]
        return grouped(
            raw.to(torch.get_default_dtype()), self.groups, self.group_size, skip_near_origin=self.skip_near_origin
        )

    def untokenize(self, values: Float[Tensor, "b n *piece"], tokens: Tokens) -> Float[Tensor, "b N c"]:
        """The points of all groups; one that several groups hold comes several times."""
        return ungrouped(values, tokens)

    def embedder(self, width: int) -> nn.Module:
        return PointEmbed(self.channels, width, sees_hidden=self.sees_hidden, norm=self.norm)

    def position(self, width: int) -> nn.Module:
        return CentreEmbed(width)

    def render(self, data: Float[Tensor, "b N c"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Each cloud from the front and from the upper right, x to the right and z up; what is nearer is darker."""
        colour = (data[..., 3:6] + 1) / 2 if self.colour else None
        return pictures(data[..., :3], colour)

    def features(self, raw: Float[Tensor, "b P c"]) -> Float[Tensor, "b p"]:  # type: ignore[override]
        """Histograms of distances between points, from the middle, and along x, y and z: p = 160."""
        return histograms(raw[..., :3].to(torch.get_default_dtype()))

    def depict(self, scene: Any, path: Path) -> None:
        """The scene as a coloured cloud with normals, in binary .ply."""
        write_cloud(path, *solid_cloud(scene, scene.nuisance("points")))
