"""Clouds in .pcd files, and estimated normals: what open3d is needed for.

open3d's wheel does not import on a machine without the system's libusb-1.0, and takes a second and much memory to
import elsewhere, so this is the one library that is imported where it is used. Its reader believes a header whatever
it promises, so that the header is compared with the size of the file first.
"""

import importlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from mmim.data.cloud import Cloud
from mmim.data.cloud_checks import check_count
from mmim.errors import ReadError

NEIGHBOURS = 30
"""Points around each that a normal is estimated from (open3d's own default)."""
HEAD = 100
"""Lines of a header, at most."""
LINE = 4096
"""Bytes of such a line, at most."""


def read_pcd(path: Path) -> Cloud:
    """The points of a .pcd file, with colours and normals if it has them."""
    _check_header(path)
    open3d = _open3d(".pcd files are read")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(str(path), format="pcd")
    if not cloud.has_points():
        raise ReadError("can't be read: open3d finds no points in it")
    colour = np.asarray(cloud.colors) if cloud.has_colors() else None
    normals = np.asarray(cloud.normals) if cloud.has_normals() else None
    return Cloud(np.asarray(cloud.points), colour, normals)


def estimated_normals(places: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Normals of the planes through the points around each, turned away from the middle of the cloud."""
    open3d = _open3d("normals are estimated where a file has none")
    centred = places.astype(np.float64) / (np.abs(places).max() or 1)
    centred = centred - centred.mean(axis=0)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(centred))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(NEIGHBOURS))
    normals = np.asarray(cloud.normals)
    outward: Float[np.ndarray, "n 3"] = normals * np.where((normals * centred).sum(axis=1, keepdims=True) < 0, -1, 1)
    return outward


def _open3d(what: str) -> Any:
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:  # OSError: a system library is missing
        raise ReadError(
            f"{what} with open3d, which can't be imported: pip install open3d, and on Debian apt install libusb-1.0-0"
        ) from error


def _check_header(path: Path) -> None:
    """Refuse a file that holds less than its header says."""
    with path.open("rb") as file:
        fields = _header(file)
        start = file.tell()
    there = path.stat().st_size - start
    try:
        sizes, counts = ([int(word) for word in fields.get(name, ["1"])] for name in ("SIZE", "COUNT"))
        count = int(fields["POINTS"][0]) if "POINTS" in fields else int(fields["WIDTH"][0]) * int(fields["HEIGHT"][0])
        form = fields["DATA"][0].lower()
    except (KeyError, ValueError, IndexError) as error:
        raise ReadError("no .pcd header that can be understood") from error
    check_count(count)
    if min(sizes + counts) < 1 or len(counts) not in (1, len(sizes)):
        raise ReadError("no .pcd header that can be understood")
    row = sum(size * times for size, times in zip(sizes, counts * (len(sizes) // len(counts)), strict=True))
    least = {"ascii": 2 * count, "binary": row * count}.get(form, 8)
    if form == "binary_compressed":
        _check_packed(path, start, row * count)
    if there < least:
        raise ReadError("truncated: it holds less than its header says")


def _check_packed(path: Path, start: int, promised: int) -> None:
    with path.open("rb") as file:
        file.seek(start)
        packed, unpacked = (int.from_bytes(file.read(4), "little") for _ in range(2))
    if unpacked != promised:
        raise ReadError("damaged: its size when unpacked is not that of its points")
    if path.stat().st_size < start + 8 + packed:
        raise ReadError("truncated: it holds less than its header says")


def _header(file: BinaryIO) -> dict[str, list[str]]:
    """The words of each line by the first, up to that of the data."""
    fields: dict[str, list[str]] = {}
    for _ in range(HEAD):
        name, *words = file.readline(LINE).decode("latin-1").split() or [""]
        fields[name] = words
        if name == "DATA":
            return fields
    raise ReadError("no .pcd header that can be understood")
