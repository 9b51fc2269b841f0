"""NewName: sets of points in space. What to change first is marked CHANGE."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmim.data.cloud import Cloud, Mesh
from mmim.data.cloud_read import read_cloud
from mmim.data.cloud_write import write_cloud
from mmim.data.clouds import CloudModality
from mmim.data.world.solids import solid_cloud
from mmim.targets.chamfer import Chamfer


@dataclass(frozen=True, kw_only=True)
class NewName(CloudModality):
    """Points [b points 3] in groups of neighbours: values [b groups group_size 3] as seen from the group's centre.

    CloudModality draws points, scales, groups, embeds and shows; any method of it can be replaced here.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".newname.ply", ".newname.xyz")  # CHANGE
    target = Chamfer()  # what is predicted, unless a recipe says otherwise

    points: int = 1024  # CHANGE: points of a sample
    groups: int = 64  # CHANGE: tokens of a sample
    group_size: int = 32  # CHANGE: points of a token

    def cloud(self, path: Path) -> Cloud | Mesh:  # CHANGE: all of a file; raises ReadError for any other file
        return read_cloud(path)  # or Cloud(places), of an array [n 3] of your own

    def depict(self, scene: Any, path: Path) -> None:  # CHANGE: what your device makes of a scene of the sample world
        write_cloud(path, *solid_cloud(scene, scene.nuisance("newname")))
