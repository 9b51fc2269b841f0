"""Tables of numbers over time as people have them: a row for each time step, a column for each channel.

The content decides what a file is, not its suffix: an array in NumPy's format (.npy), an archive with one such array
(.npz), or text (.csv, .tsv, .txt).

- Arrays are (steps, channels), or (steps) for one channel, of integers or floats; nothing is unpickled. Of an .npy file
  only what is used is read.
- Text is UTF-8. Cells stand between semicolons, tabs or commas, whichever the first line has, or else between spaces.
  The first line may be a header; blank lines and those that start with # are left out. All of it is parsed at every
  visit: convert long series to .npy.
- A gap is an empty cell, or a number that is not finite (nan, inf). It stays here; `without_gaps` fills it.
"""

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Num

from mmim.data.cloud_arrays import read_header
from mmim.errors import ReadError

ARRAY, ARCHIVE = b"\x93NUMPY", b"PK"
"""How the files of NumPy begin."""
LARGEST = 2**30
"""Bytes of a text, or of an array in an archive, at most."""
FARTHEST = 1e9
"""Beyond it squares no longer fit into float32 safely."""
DELIMITERS = (";", "\t", ",")


def read_series(path: Path, channels: int) -> Num[np.ndarray, "steps {channels}"]:
    """The numbers of a file.

    Raises:
        ReadError: it holds something else. The message is a short reason without the path.
    """
    with _translated():
        with path.open("rb") as file:
            first = file.read(len(ARRAY))
        if not first:
            raise ReadError("empty file")
        if first == ARRAY:
            return _array(path, channels)
        table = _archived(path, channels) if first.startswith(ARCHIVE) else _text(path)
    if table.shape[1] != channels:
        raise ReadError(f"{table.shape[1]} column{'s' if table.shape[1] > 1 else ''}; {channels} are read")
    return table


def without_gaps(window: Num[np.ndarray, "n c"]) -> Float32[np.ndarray, "n c"]:
    """The same with gaps on the straight line between their neighbours, or level with the nearest one at an end.

    Raises:
        ReadError: a channel has nothing but gaps, or a number is too large.
    """
    numbers = window.astype(np.float64)
    known = np.isfinite(numbers)
    if not known.any(axis=0).all():
        channel = int(known.any(axis=0).argmin())
        raise ReadError(f"channel {channel} of {len(known[0])} has no number in {len(numbers):,} steps")
    steps = np.arange(len(numbers))
    for channel in np.flatnonzero(~known.all(axis=0)).tolist():
        there = known[:, channel]
        numbers[:, channel] = np.interp(steps, steps[there], numbers[there, channel])
    if np.abs(numbers).max() > FARTHEST:
        raise ReadError(f"a number of {np.abs(numbers).max():.3g}; at most {FARTHEST:g} is read")
    return numbers.astype(np.float32)


def _array(path: Path, channels: int) -> Num[np.ndarray, "steps c"]:
    """An array on the disk: pages are read when they are used."""
    with path.open("rb") as file:
        _check(*read_header(file, "series"), channels)
    array: np.ndarray = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    return array.reshape(len(array), -1)


def _archived(path: Path, channels: int) -> Num[np.ndarray, "steps c"]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ReadError(f"{len(names)} arrays; an archive holds one series")
        with archive.open(names[0]) as file:
            shape, dtype = read_header(file, "series")
            _check(shape, dtype, channels)
            if math.prod(shape) * dtype.itemsize > LARGEST:
                raise ReadError(f"an array of more than {LARGEST >> 20} MiB in an archive: save it as .npy")
        with archive.open(names[0]) as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
    return array.reshape(len(array), -1)


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], channels: int) -> None:
    if dtype.kind not in "fiu" or dtype.hasobject:
        raise ReadError(f"an array of type {str(dtype)[:40]}; a series is of numbers")
    if shape[1:] != (channels,) and (channels > 1 or len(shape) != 1):
        raise ReadError(f"an array of shape {shape}; a series is (steps, {channels})")
    if not shape[0]:
        raise ReadError("no steps")


def _text(path: Path) -> Num[np.ndarray, "steps c"]:
    if path.stat().st_size > LARGEST:
        raise ReadError(f"text of more than {LARGEST >> 20} MiB: save it as .npy")
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise ReadError("neither text nor an array of NumPy's")
    lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip() and not line.startswith("#")]
    delimiter = next((mark for mark in DELIMITERS if lines and mark in lines[0][1]), None)
    rows = [(at, [cell.strip(' \t"') for cell in line.split(delimiter)]) for at, line in lines]
    if rows and not all(map(_is_number, rows[0][1])):
        rows = rows[1:]  # the header
    if not rows:
        raise ReadError("no rows of numbers")
    if odd := next((at for at, cells in rows if len(cells) != len(rows[0][1])), 0):
        raise ReadError(f"line {odd} has another number of columns than the {len(rows[0][1])} of those before")
    return np.array([_numbers(at, cells) for at, cells in rows])


def _numbers(at: int, cells: Sequence[str]) -> list[float]:
    """The numbers of a line."""
    try:
        return [float(cell or "nan") for cell in cells]
    except ValueError:
        wrong = next(cell for cell in cells if not _is_number(cell))
        hint = ", but for its decimal comma: write a point" if _is_number(wrong.replace(",", ".", 1)) else ""
        raise ReadError(f"line {at}: {wrong[:20]!r} is no number{hint}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


@contextmanager
def _translated() -> Iterator[None]:
    """The one place where the exceptions of NumPy, zipfile and the system become ours."""
    try:
        yield
    except ReadError:
        raise
    except UnicodeDecodeError as error:
        raise ReadError("neither UTF-8 text nor an array of NumPy's") from error
    except Exception as error:  # a damaged archive makes zipfile and zlib raise anything
        text = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ReadError(f"can't be read: {text[:120].rstrip('.')}") from error
