"""Clouds of points as binary .ply files, equal to the byte for equal clouds."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

_POINT = [
    *((name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")),
    *((name, "u1") for name in ("red", "green", "blue")),
]
_TYPES = {"<f4": "float", "u1": "uchar"}


def write_cloud(
    path: Path,
    places: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    colour: Float[np.ndarray, "n 3"],
) -> None:
    """Write points with their normals, and colours in [0, 1]."""
    properties = "".join(f"property {_TYPES[kind]} {name}\n" for name, kind in _POINT)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(places)}\n{properties}end_header\n"
    table = np.empty(len(places), np.dtype(_POINT))
    levels = (colour.clip(0, 1) * 255).round()
    for (name, _), column in zip(_POINT, np.concatenate([places, normals, levels], axis=1).T, strict=True):
        table[name] = column
    path.write_bytes(head.encode("ascii") + table.tobytes())
