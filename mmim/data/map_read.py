"""Files with one number per pixel, as they are stored: distances, temperatures, ids of classes.

The content decides what a file is, not its suffix: a PNG or TIFF of one channel, or a NumPy array of two axes. What the
numbers mean is for the modality to say; here nothing is scaled or clipped:

- 8-bit grey as uint8, and of a palette the indices; 16-bit grey as uint16; floating-point TIFF as float32.
- Grey of 2 and 4 bits is refused, since Pillow stretches it to 8; so are colours, transparency and 32-bit integers.
- Arrays are integers or floats of any width; nothing is unpickled.
- A turn that a camera wrote into EXIF is carried out, as it is for pictures.
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from PIL import Image

from mmim.data.cloud_arrays import read_header
from mmim.data.image_read import check_not_empty, check_plain_grey, check_size, translated, turn_of
from mmim.errors import ReadError

FORMATS = ("PNG", "TIFF")
"""Those that keep numbers as they are."""
ARRAY = b"\x93NUMPY"
"""How a NumPy array begins."""
_PNG = b"\x89PNG\r\n\x1a\n"


def read_map(path: Path) -> Num[np.ndarray, "H W"]:
    """The numbers of a file, upright.

    Raises:
        ReadError: it is no map of one number per pixel, damaged, too large, or of a kind that is not read. The message
            is a short reason without the path.
    """
    with translated((*FORMATS, "NPY")):
        check_not_empty(path)
        with path.open("rb") as file:
            first = file.read(26)
        if first.startswith(ARRAY):
            return _array(path)
        if first.startswith(_PNG) and first[24:26] in (b"\2\0", b"\4\0"):  # IHDR: bits, and grey
            raise ReadError(f"{first[24]}-bit grey, which is stretched to 8 bits when decoded: save it with 8")
        return _pixels(path)


def _pixels(path: Path) -> Num[np.ndarray, "H W"]:
    with Image.open(path, formats=FORMATS) as picture:
        check_size(*picture.size)
        if picture.mode not in ("1", "L", "P", "F") and not picture.mode.startswith("I;16"):
            raise ReadError(
                f"pixels of the kind {picture.mode}; a map has one number for each, of 8 or 16 bits or float"
            )
        picture.load()
        if picture.mode.startswith("I;16"):
            check_plain_grey(picture)
        turn = turn_of(picture)
        stored = np.asarray(picture if turn is None else picture.transpose(turn))
    return stored.astype(np.uint8) if stored.dtype == bool else stored.astype(stored.dtype.newbyteorder("="))


def _array(path: Path) -> Num[np.ndarray, "H W"]:
    with path.open("rb") as file:
        shape, dtype = read_header(file, "map")
        _check_array(shape, dtype)
        if path.stat().st_size < file.tell() + prod(shape) * dtype.itemsize:
            raise ReadError("truncated: it holds less than its header says")
        file.seek(0)
        array: Num[np.ndarray, "H W"] = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
    return array.astype(dtype.newbyteorder("="), order="C")


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiu" or dtype.hasobject:
        raise ReadError(f"an array of type {str(dtype)[:40]}; a map is of numbers")
    if len(shape) != 2 or 0 in shape:
        raise ReadError(f"an array of shape {shape}; a map is (rows, columns)")
    check_size(shape[1], shape[0])
