"""Files of point clouds and meshes as clouds and meshes in memory. The suffix decides what a file is.

    .ply  points, or a mesh where it has faces      .off .obj .stl  meshes          (`mesh_read`, with trimesh)
    .pcd  points                                                                     (`pcd_read`, with open3d)
    .npy .npz  an array of points, or of many clouds                                 (`cloud_arrays`)
    .xyz  text: `x y z`, with 3 or 6 further columns, separated by spaces, tabs, commas or semicolons

- Points with a NaN or an infinite number are dropped, as depth sensors write them where nothing came back.
- Colours come as 0 to 1, as 0 to 255 or as 16-bit integers. In bare columns three numbers are a normal where in
  all points they have the length 1 and in some one is negative; else they are a colour.
- A mesh has the normals of its triangles. Those of a cloud without any are estimated with open3d, and point away from
  the middle of the cloud.
- Materials and textures are never opened; no file leads to another one.
- Nothing is read of more than 50 million points. Where a header tells their number, it is asked first.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmim.data.cloud import Cloud, Mesh
from mmim.data.cloud_arrays import read_table, rows_of
from mmim.data.cloud_checks import LARGEST, check_count, share_of_full, translated
from mmim.data.columns_read import read_columns
from mmim.data.mesh_read import read_mesh
from mmim.data.pcd_read import estimated_normals, read_pcd
from mmim.errors import ReadError

ARRAYS = (".npy", ".npz")
"""The suffixes of files that may hold several clouds."""
UNIT = 0.02
"""How far the length of a normal in bare columns may be from 1."""


def count_rows(path: Path) -> range | None:
    """The rows of a file that holds several clouds; None for one that holds one.

    Raises:
        ReadError: it can't be told.
    """
    if path.suffix.lower() not in ARRAYS:
        return None
    with translated(path):
        return rows_of(path)


def read_cloud(path: Path, row: int | None = None, *, colour: bool = False, normals: bool = False) -> Cloud | Mesh:
    """What a file holds, with colours and normals where they are asked for.

    Raises:
        ReadError: it can't be read, is too large, or has no colours. The message is a short reason without the path.
    """
    with translated(path):
        solid = _read(path, row)
        if colour and solid.colour is None:
            raise ReadError("no colours, which are asked for")
        if isinstance(solid, Mesh):
            return solid
        if normals and solid.normals is None:
            solid = replace(solid, normals=estimated_normals(solid.places))
        return solid


def _read(path: Path, row: int | None) -> Cloud | Mesh:
    if path.suffix.lower() in ARRAYS:
        return _finite(_from_columns(read_table(path, row)))
    if row is not None:
        raise ReadError(f"one cloud, and row {row} of it is asked for")
    found = _READERS[path.suffix.lower()](path)
    return _finite(found) if isinstance(found, Cloud) else found


def _finite(cloud: Cloud) -> Cloud:
    """Those of its points that are all numbers; normals that are not become zeros."""
    there = np.isfinite(cloud.places).all(axis=1)
    if cloud.colour is not None:
        there &= np.isfinite(cloud.colour).all(axis=1)
    if not there.any():
        raise ReadError("no points" if not len(there) else f"no point of {len(there):,} is finite")
    cloud = cloud if there.all() else cloud.rows(there)
    return cloud if cloud.normals is None else replace(cloud, normals=_unit(cloud.normals))


def _unit(normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Normals at length 1; zeros for those that have no direction."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    unit: Float[np.ndarray, "n 3"] = np.divide(normals, length, out=np.zeros_like(normals), where=known)
    return unit


def _from_columns(table: Float[np.ndarray, "n c"]) -> Cloud:
    """Rows `x y z` with one or two further triples; other columns have no known meaning and are left aside."""
    triples = [table[:, at : at + 3] for at in (3, 6)] if table.shape[1] == 9 else []
    triples = [table[:, 3:]] if table.shape[1] == 6 else triples
    normals = next((triple for triple in triples if _are_normals(triple)), None)
    colour = next((triple for triple in triples if triple is not normals), None)
    return Cloud(table[:, :3], None if colour is None else share_of_full(colour), normals)


def _are_normals(triple: Float[np.ndarray, "n 3"]) -> bool:
    """Whether these can't be colours and have the length of a normal; zeros and what is no number say nothing."""
    length = np.linalg.norm(triple, axis=1)
    known = np.isfinite(length) & (length > 0)
    return bool(known.any() and np.abs(length[known] - 1).max() < UNIT and triple[known].min() < 0)


def _read_text(path: Path) -> Cloud:
    table = read_columns(path, LARGEST)
    check_count(len(table))
    if table.shape[1] < 3:
        raise ReadError(f"{table.shape[1]} column{'s' if table.shape[1] > 1 else ''}; a point has at least 3")
    return _from_columns(table)


_READERS: dict[str, Callable[[Path], Cloud | Mesh]] = {
    ".ply": read_mesh,
    ".off": read_mesh,
    ".obj": read_mesh,
    ".stl": read_mesh,
    ".pcd": read_pcd,
    ".xyz": _read_text,
}

SUFFIXES = (*_READERS, *ARRAYS)
"""All that are read."""
