"""Lines of UTF-8 files, read one at a time from anywhere in a file of any size.

A file is scanned once, in blocks, for where its non-blank lines start; the places are kept (8 bytes a line) for as long
as the file stays as it is. Lines end at a line feed, with or without a carriage return before it, and nowhere else
(`str.splitlines` would also break at U+2028). A byte order mark is skipped. Nothing is normalised here: whoever cuts a
line into words says in which form (NFC, lower case) it wants it.

A line that is not UTF-8 spoils itself alone; a file with a zero byte near its beginning is no text at all (git's rule,
which also finds UTF-16).
"""

import codecs
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from mmim.errors import ReadError

LONGEST = 1_000_000
"""Bytes of a line, or of a file that is read whole: the complete works of Shakespeare have five times as many."""
BLOCK = 2**20  # bytes that are scanned at a time
BINARY = 8000  # bytes in which a zero byte makes a file binary, as in git
KEPT = 2**26  # places of lines in memory, over all files; the newest file stays whatever its size

_BLANK = np.isin(np.arange(256), np.frombuffer(b" \t\n\r\v\f", np.uint8))
_BOM = codecs.BOM_UTF8
_FEED = ord("\n")

Starts = Int64[np.ndarray, " lines_and_end"]
"""Where each non-blank line starts, in bytes, and the end of the file."""

_indices: OrderedDict[tuple[str, int, int], Starts] = OrderedDict()


def count_lines(path: Path) -> int:
    """The non-blank lines of a file.

    Raises:
        ReadError: it can't be read, is empty, blank or binary.
    """
    with _translated():
        return len(_index(path)) - 1


def line_bytes(path: Path, row: int) -> int:
    """About how long a line is, blank lines behind it included; 0 if it can't be told."""
    try:
        with _translated():
            starts = _index(path)
    except ReadError:
        return 0
    return int(starts[row + 1] - starts[row]) if row < len(starts) - 1 else 0


def read_line(path: Path, row: int | None) -> str:
    """Non-blank line `row` from 0, or the only one of a file (None), without the space around it.

    Raises:
        ReadError: there is no such line, it is longer than `LONGEST`, not UTF-8, or holds a zero byte; or the file is
            as in `count_lines`.
    """
    with _translated():
        starts = _index(path)
        count = len(starts) - 1
        if row is None and count > 1:
            raise ReadError(f"{count:,} lines, and no one of them is asked for")
        if not 0 <= (row or 0) < count:
            raise ReadError(f"no line {row}: there are {count:,}, counted from 0")
        start, end = starts[row or 0 : (row or 0) + 2].tolist()
        with path.open("rb") as file:
            file.seek(start)
            line = file.read(min(end - start, LONGEST + 2)).split(b"\n", 1)[0].removesuffix(b"\r")
        if len(line) > LONGEST:
            raise ReadError(f"a line of more than {LONGEST:,} bytes")
        return _decoded(line)


def read_whole(path: Path) -> str:
    """All of a file.

    Raises:
        ReadError: as `read_line`.
    """
    with _translated():
        _check_size(path.stat().st_size)
        with path.open("rb") as file:
            data = file.read(LONGEST + len(_BOM) + 1).removeprefix(_BOM)
        if len(data) > LONGEST:
            raise ReadError(f"more than {LONGEST:,} bytes: read it line by line")
        _check_text(data)
        found = _decoded(data)
        if not found:
            raise ReadError("nothing but blank lines")
        return found


def field_of(line: str, name: str) -> str:
    """A field of a line that holds a JSON object.

    Raises:
        ReadError: it holds none, the field is not there, or is no string of Unicode characters.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ReadError(f"not JSON: {str(error)[:80]}") from error
    if not isinstance(found, dict):
        raise ReadError(f"a JSON {type(found).__name__} where an object with the field {name!r} should be")
    if name not in found:
        there = ", ".join(map(repr, found))
        raise ReadError(f"no field {name!r}; there are {there[:80] or 'none'}")
    value = found[name]
    if not isinstance(value, str):
        raise ReadError(f"the field {name!r} is of type {type(value).__name__}, not a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ReadError(f"the field {name!r} holds half of a surrogate pair, which is no character")
    if not value.strip():
        raise ReadError(f"the field {name!r} is blank")
    return value.strip()


def _index(path: Path) -> Starts:
    """The places of a file's lines, remembered."""
    about = path.stat()
    _check_size(about.st_size)
    key = (os.path.abspath(path), about.st_mtime_ns, about.st_size)
    if key in _indices:
        _indices.move_to_end(key)
        return _indices[key]
    _indices[key] = starts = _scan(path)
    while len(_indices) > 1 and sum(map(len, _indices.values())) > KEPT:
        _indices.popitem(last=False)
    return starts


def _scan(path: Path) -> Starts:
    """Where the non-blank lines start; never more than a block in memory."""
    found, place, line, blank = [], 0, 0, True
    with path.open("rb") as file:
        while data := file.read(BLOCK):
            if place == 0:
                _check_text(data[:BINARY])
                line = place = len(_BOM) if data.startswith(_BOM) else 0
                data = data[place:]
            starts, line, blank = _lines_of(np.frombuffer(data, np.uint8), place, line, blank)
            found.append(starts)
            place += len(data)
    if not blank:
        found.append(np.array([line], np.int64))
    starts = np.concatenate([*found, np.array([place], np.int64)])
    if len(starts) == 1:
        raise ReadError("nothing but blank lines")
    return starts


def _lines_of(
    data: UInt8[np.ndarray, " n"], place: int, line: int, blank: bool
) -> tuple[Int64[np.ndarray, " lines"], int, bool]:
    """The non-blank lines that end in a block, and of the one that does not: its start, and whether it is blank so far.

    place: of the block in the file; line, blank: the same of the line that the block goes on with.
    """
    ends = np.flatnonzero(data == _FEED)
    ink = np.concatenate([[0], np.cumsum(~_BLANK[data])])  # bytes that are no space, up to each place
    starts = np.concatenate([[line - place], ends + 1])
    inked = ink[np.concatenate([ends, [len(data)]])] > ink[np.maximum(starts, 0)]
    inked[0] |= not blank
    return starts[:-1][inked[:-1]] + place, int(starts[-1]) + place, not inked[-1]


def _check_size(size: int) -> None:
    if size == 0:  # of a pipe, too: nobody waits for its writer
        raise ReadError("empty file")


def _check_text(data: bytes) -> None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ReadError("not UTF-8: it begins as UTF-16 does")
    if b"\0" in data:
        raise ReadError(f"binary: byte {data.index(0)} is zero")


def _decoded(data: bytes) -> str:
    if b"\0" in data:
        raise ReadError(f"byte {data.index(0)} is zero")
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ReadError(f"not UTF-8: byte {error.start} ({data[error.start]:#04x}), {error.reason}") from error


@contextmanager
def _translated() -> Iterator[None]:
    """The one place where the system's errors become ours."""
    try:
        yield
    except OSError as error:
        raise ReadError(f"can't be read: {error.strerror or type(error).__name__}") from error
    except ValueError as error:  # a zero byte in the name
        raise ReadError(f"can't be read: {error}") from error
