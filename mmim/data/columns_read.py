"""Columns of numbers in text, in blocks: as many in each row, between spaces, tabs, commas or semicolons."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64

from mmim.errors import ReadError

BLOCK = 2**22
"""Bytes that are turned into numbers at a time."""
LINE = 4096
"""Bytes of a line, at most."""
_SEPARATORS = bytes.maketrans(b",;\t\r\v\f", b"      ")


def read_columns(path: Path, most: int) -> Float64[np.ndarray, "n c"]:
    """The numbers of a file. What follows a # in a line is left out, and lines that start with //.

    most: rows; further ones are not read.

    Raises:
        ReadError: it is no such text.
    """
    blocks: list[Float64[np.ndarray, "n c"]] = []
    with path.open("rb") as file:
        for text in _blocks(file):
            width = blocks[0].shape[1] if blocks else None
            if (found := _numbers(text, width)) is not None:
                blocks.append(found)
            if sum(map(len, blocks)) > most:
                break
    if not blocks:
        raise ReadError("no points")
    return np.concatenate(blocks)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines without comments, separated by spaces alone."""
    while text := file.read(BLOCK):
        last = file.readline(LINE + 1)
        if len(last) > LINE:
            raise ReadError(f"a line of more than {LINE} characters")
        text += last
        if b"#" in text or b"//" in text:
            lines = (line.partition(b"#")[0] for line in text.split(b"\n"))
            text = b"\n".join(line for line in lines if not line.startswith(b"//"))
        yield text.translate(_SEPARATORS)


def _numbers(text: bytes, width: int | None) -> Float64[np.ndarray, "n c"] | None:
    """The rows of a block; None if there are none."""
    letters = np.frombuffer(text, np.uint8)
    blank = letters <= ord(" ")
    starts = ~blank
    starts[1:] &= blank[:-1]
    widths = np.bincount(np.cumsum(letters == ord("\n"))[starts])
    widths = widths[widths > 0]
    if not len(widths):
        return None
    width = width or int(widths[0])
    if (odd := widths[widths != width]).size:
        raise ReadError(f"rows of {width} and of {odd[0]} columns")
    try:
        values = np.fromstring(text, sep=" ")
    except (ValueError, DeprecationWarning) as error:  # which of them depends on NumPy
        raise ReadError("something else among its numbers") from error
    if len(values) != widths.sum():
        raise ReadError("something else among its numbers")
    return values.reshape(-1, width)
