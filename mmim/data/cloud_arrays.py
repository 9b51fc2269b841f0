"""Arrays of points in .npy and .npz files: one cloud `[points, 3 or more]`, or many `[clouds, points, 3 or more]`.

Of an .npz file the array `points` is read, or the only floating-point array with as many axes. A .npy file is read
through a memory map, so that a row costs a row. A compressed array must be unpacked whole: the last few are kept in
each process, and none of more than 1 GiB is taken. Nothing is ever unpickled.
"""

import os
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmim.data.cloud_checks import check_count
from mmim.errors import ReadError

UNPACKED = 2**30
"""Bytes of an array in an .npz file, at most, and of all that are kept."""
KEPT = 4
"""Unpacked arrays that are kept in a process."""
CLOUDS = 10_000_000
"""Clouds in a file, at most: each becomes a sample in a list."""
HEADER = 2**16
"""Bytes of an array's header, at most; a usual one has a hundred."""
MEMBERS = 1000
"""Arrays in an .npz file, at most."""
NAME = "points.npy"
"""What an .npz file calls its array of points."""

Kind = tuple[tuple[int, ...], np.dtype[Any]]
"""The shape of an array and its type."""
_kept: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()


def rows_of(path: Path) -> range | None:
    """The rows of an array of many clouds; None for that of one."""
    shape, _ = _kind_of_npz(path) if path.suffix.lower() == ".npz" else _kind_of(_mapped(path))
    return range(shape[0]) if len(shape) == 3 else None


def read_table(path: Path, row: int | None) -> Float[np.ndarray, "n c"]:
    """The points of a file, or of one of its clouds, as float32 or float64."""
    array = _unpacked(path) if path.suffix.lower() == ".npz" else _mapped(path)
    if array.ndim == 2 and row is not None:
        raise ReadError(f"one cloud, and row {row} of it is asked for")
    if array.ndim == 3:
        array = array[_row_of(len(array), row)]
    check_count(len(array))
    table: Float[np.ndarray, "n c"] = array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    return table


def _row_of(count: int, row: int | None) -> int:
    if row is None and count > 1:
        raise ReadError(f"{count:,} clouds: a sample is one of its rows")
    if row is not None and not 0 <= row < count:
        raise ReadError(f"{count:,} clouds, and row {row} is asked for")
    return row or 0


def _mapped(path: Path) -> np.ndarray:
    """The array of a .npy file, in place."""
    with path.open("rb") as file:
        kind = read_header(file, "points")
        start = file.tell()
    shape, dtype = _checked(kind)
    if path.stat().st_size < start + prod(shape) * dtype.itemsize:
        raise ReadError("truncated: it holds less than its header says")
    return np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call, no-any-return]


def read_header(file: Any, name: str) -> Kind:
    """What the first bytes of an array in NumPy's format tell of it: shape and type; the file is left at the data."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    if version not in read:
        raise ReadError(f"the array {name!r} is none of numbers")
    width = 2 if version == (1, 0) else 4  # NumPy would read a header of any length before it looks at it
    length = file.read(width)
    if int.from_bytes(length, "little") > HEADER:
        raise ReadError(f"the array {name!r} has a header of more than {HEADER:,} bytes")
    file.seek(-len(length), os.SEEK_CUR)
    shape, _, dtype = read[version](file)  # type: ignore[no-untyped-call]
    return shape, dtype


def _kind_of(array: np.ndarray) -> Kind:
    return array.shape, array.dtype


def _checked(kind: Kind) -> Kind:
    """The kind of an array that holds points."""
    shape, dtype = kind
    if dtype.kind not in "fiu" or dtype.hasobject:
        raise ReadError(f"an array of type {str(dtype)[:40]}; points are numbers")
    if len(shape) not in (2, 3) or shape[-1] < 3:
        raise ReadError(f"an array of shape {shape}; it must be (points, 3 or more) or (clouds, points, 3 or more)")
    if 0 in shape:
        raise ReadError("no points")
    check_count(shape[-2])
    if len(shape) == 3 and shape[0] > CLOUDS:
        raise ReadError(f"{shape[0]:,} clouds; at most {CLOUDS:,} are read")
    return kind


def _kind_of_npz(path: Path) -> Kind:
    with zipfile.ZipFile(path) as archive:
        return _chosen(archive)[1]


def _chosen(archive: zipfile.ZipFile) -> tuple[str, Kind]:
    """The array of points in an .npz file, by its headers alone."""
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    if len(names) > MEMBERS:
        raise ReadError(f"{len(names):,} arrays; at most {MEMBERS:,} are looked at")
    kinds: dict[str, Kind] = {}
    for name in [NAME] if NAME in names else names:
        with archive.open(name) as file:
            kinds[name] = read_header(file, name.removesuffix(".npy"))
    if NAME in kinds:
        name = NAME
    else:
        name = _only([name for name, (shape, dtype) in kinds.items() if dtype.kind == "f" and len(shape) == 3]) or (
            _only([name for name, (shape, dtype) in kinds.items() if dtype.kind == "f" and len(shape) == 2])
        )
    if not name:
        raise ReadError("no array of points")
    return name, _small_enough(_checked(kinds[name]))


def _only(names: list[str]) -> str:
    """The name, if there is one; "" for none."""
    if len(names) > 1:
        found = ", ".join(name.removesuffix(".npy") for name in names)
        raise ReadError(f"several arrays that may be points ({found[:60]}): call one of them `points`")
    return names[0] if names else ""


def _small_enough(kind: Kind) -> Kind:
    shape, dtype = kind
    if prod(shape) * dtype.itemsize > UNPACKED:
        gibibytes = prod(shape) * dtype.itemsize / 2**30
        raise ReadError(
            f"an array of {gibibytes:.3g} GiB in an .npz file, where 1 is unpacked at most: save it as .npy"
        )
    return kind


def _unpacked(path: Path) -> np.ndarray:
    """The array of an .npz file, out of the last few if it is among them."""
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    with zipfile.ZipFile(path) as archive:
        name = _chosen(archive)[0]
        with archive.open(name) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
            more = file.read(1)  # which also has the checksum tested
    if more:
        raise ReadError("damaged: it holds more than its header says")
    array.flags.writeable = False
    _kept[key] = array
    while len(_kept) > KEPT or sum(kept.nbytes for kept in _kept.values()) > UNPACKED:
        _kept.popitem(last=False)
    return array  # type: ignore[no-any-return]
