"""Meshes in .off, .obj, .stl and .ply files, and clouds in .ply files, with trimesh's parsers.

The parsers are called themselves, and not the scenes that trimesh builds of what they give: nothing is merged, turned
or re-indexed, and neither materials nor textures are looked for. What they do not notice is checked here: a .ply or
.off file that ends before its header's numbers, and faces of vertices that there are not. Polygons are cut into fans.

Two things of a file are lost in the parsers: colours in .off, and binary .ply with polygons of different sizes, which
is refused ("PLY is unexpected length").
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int64
from trimesh.exchange.obj import load_obj
from trimesh.exchange.off import load_off
from trimesh.exchange.ply import load_ply
from trimesh.exchange.stl import load_stl

from mmim.data.cloud import Cloud, Mesh
from mmim.data.cloud_checks import check_count, share_of_full
from mmim.errors import ReadError

TEXT = 2**26
"""Bytes of a file in text, at most: some two million triangles. The parsers take twenty times as much."""
BINARY = 2**30
"""Bytes of a binary file, at most."""
HEAD = 1000
"""Lines of a .ply header, at most."""
LINE = 4096
"""Bytes of a line of a header, at most."""

logging.getLogger("trimesh").addHandler(logging.NullHandler())  # or it writes tracebacks to stderr

Vertices = Float[np.ndarray, "v 3"]


def read_mesh(path: Path) -> Cloud | Mesh:
    """The mesh of a file, its parts put together; a cloud where there are no faces."""
    with path.open("rb") as file:
        promised, is_text = _HEADS[path.suffix.lower()](file)
        _check_size(path, is_text)
        file.seek(0)
        found = _PARSERS[path.suffix.lower()](file)
    parts = list(found["geometry"].values()) if "geometry" in found else [found]
    read = [sum(len(part[name]) for part in parts if part.get(name) is not None) for name in ("vertices", "faces")]
    if promised and read[0] < promised[0]:
        raise ReadError("truncated: it holds less than its header says")
    if not read[0]:
        raise ReadError("no points")
    if not read[1] and not (promised and promised[1]):
        return _as_cloud(parts[0])
    if promised and read[1] < promised[1]:
        raise ReadError("truncated: it holds less than its header says")
    return _together([_as_mesh(part) for part in parts if len(part["faces"])])


def _check_size(path: Path, is_text: bool) -> None:
    most, kind = (TEXT, "a mesh in text: save it as binary .ply") if is_text else (BINARY, "a mesh")
    if (size := path.stat().st_size) > most:
        raise ReadError(f"{size / 2**20:,.0f} MiB; at most {most // 2**20} are read of {kind}")


def _as_cloud(part: dict[str, Any]) -> Cloud:
    vertices = _numbers(part["vertices"])
    check_count(len(vertices))
    colour, normals = part.get("vertex_colors"), part.get("vertex_normals")
    return Cloud(
        vertices,
        None if colour is None else share_of_full(colour),
        None if normals is None else _numbers(normals),
    )


def _as_mesh(part: dict[str, Any]) -> Mesh:
    vertices, faces = _numbers(part["vertices"]), _triangles(part["faces"])
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ReadError(f"a face of vertex {max(faces.max(), -faces.min())}, and there are {len(vertices)}")
    corners = vertices[faces]
    there = np.isfinite(corners).all(axis=(1, 2))
    return Mesh(corners[there], _corner_colours(part, faces, there))


def _corner_colours(
    part: dict[str, Any], faces: Int64[np.ndarray, "f 3"], there: np.ndarray
) -> Float[np.ndarray, "g 3 3"] | None:
    """Colours of faces, or of vertices; the parser has lost those of polygons of different sizes."""
    of_faces, of_vertices = part.get("face_colors"), part.get("vertex_colors")
    if of_faces is not None and len(of_faces) == len(part["faces"]):
        of_triangles = np.tile(share_of_full(of_faces), (len(faces) // len(of_faces), 1))
        return np.repeat(of_triangles[there, None], 3, axis=1)
    return None if of_vertices is None else share_of_full(of_vertices)[faces[there]]


def _together(meshes: list[Mesh]) -> Mesh:
    colours = [mesh.colour for mesh in meshes if mesh.colour is not None]
    corners = np.concatenate([mesh.corners for mesh in meshes])
    return Mesh(corners, np.concatenate(colours) if len(colours) == len(meshes) else None)


def _numbers(values: np.ndarray) -> Vertices:
    """As float32 or float64; .ply files may hold coordinates as integers."""
    if values.ndim != 2 or values.shape[1] != 3:
        raise ReadError("a vertex is incomplete")
    return values.astype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64)


def _triangles(faces: np.ndarray) -> Int64[np.ndarray, "f 3"]:
    """Polygons with as many corners each, as fans of triangles."""
    faces = np.asarray(faces).astype(np.int64)
    if faces.ndim != 2 or faces.shape[1] < 3:
        raise ReadError("faces of less than 3 vertices")
    fans = [faces[:, [0, at, at + 1]] for at in range(1, faces.shape[1] - 1)]
    return np.concatenate(fans)


def _parse_off(file: BinaryIO) -> dict[str, Any]:
    try:
        return dict(load_off(file))
    except ValueError as error:  # NumPy speaks of sequences and shapes
        raise ReadError("damaged: a vertex or a face is incomplete, or is no numbers") from error


# What a header tells: (vertices, faces) if it does, and whether the file is text


def _head_of_ply(file: BinaryIO) -> tuple[tuple[int, int], bool]:
    lines = [file.readline(LINE).decode("latin-1").split() for _ in range(2)]
    if lines[0] != ["ply"]:
        raise ReadError("no .ply file")
    counts: dict[str, int] = {}
    for _ in range(HEAD):
        match file.readline(LINE).decode("latin-1").split():
            case ["element", name, number] if re.fullmatch(r"-?\d{1,18}", number):
                counts[name] = int(number)
                check_count(counts[name], "points" if name == "vertex" else "elements")
            case ["end_header"]:
                return (counts.get("vertex", 0), counts.get("face", 0)), "ascii" in lines[1]
    raise ReadError("no .ply header that can be understood")


def _head_of_off(file: BinaryIO) -> tuple[tuple[int, int], bool]:
    head = b"\n".join(line.partition(b"#")[0] for line in file.read(LINE).split(b"\n"))
    found = re.search(rb"OFF\s*(\d{1,18})\s+(\d{1,18})", head)
    if found is None:
        raise ReadError("no .off header that can be understood")
    counts = int(found[1]), int(found[2])
    check_count(max(counts))
    return counts, True


def _head_of_stl(file: BinaryIO) -> tuple[None, bool]:
    head = file.read(84)
    size = file.seek(0, 2)
    if len(head) == 84 and size == 84 + 50 * int.from_bytes(head[80:], "little"):
        return None, False
    if not head.lstrip()[:5].lower() == b"solid":
        raise ReadError("truncated, or no .stl file: its size is not the one that its header says")
    return None, True


def _head_of_obj(file: BinaryIO) -> tuple[None, bool]:
    if b"\0" in file.read(LINE):
        raise ReadError("no .obj file: it is no text")
    return None, True


_HEADS: dict[str, Callable[[BinaryIO], tuple[tuple[int, int] | None, bool]]] = {
    ".ply": _head_of_ply,
    ".off": _head_of_off,
    ".stl": _head_of_stl,
    ".obj": _head_of_obj,
}
_PARSERS: dict[str, Callable[[BinaryIO], dict[str, Any]]] = {
    ".ply": lambda file: load_ply(file, skip_materials=True, fix_texture=False),
    ".off": _parse_off,
    ".stl": load_stl,
    ".obj": lambda file: load_obj(file, skip_materials=True, maintain_order=True),
}
