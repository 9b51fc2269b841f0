"""What is stored in an archive or in a cell of a manifest, as a file of its own for as long as it is read.

A modality is handed a path, so that its readers, and those of a stranger, need not know of archives. The file lies in
memory where the system has a place for that (/dev/shm), and keeps the end of its name, since suffixes tell formats.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mmim.draw import Draw
from mmim.errors import ReadError
from mmim.modality import Inline, Modality, Slice, Source

MEMORY = Path("/dev/shm")
SPARE = 4
"""How many times the size of a file must be free in memory: other workers write theirs at the same time."""
KEPT = 40
"""Characters of the file's name that stay, its suffix among them."""


@contextmanager
def opened(source: Source) -> Iterator[Source]:
    """The source as a file of its own, or a row of one, for as long as the block runs.

    Raises:
        ReadError: what it should be made of can't be read. The message is a short reason without the path.
    """
    if source.stored is None:
        yield source
        return
    content = _content(source.path, source.stored)
    ending = PurePosixPath(source.stored.name).name[-KEPT:]
    with tempfile.NamedTemporaryFile(prefix="mmim-", suffix=f"-{ending}", dir=_place(len(content))) as file:
        file.write(content)
        file.flush()
        yield Source(Path(file.name), source.row, source.any_row)


def chosen(source: Source, modality: Modality, draw: Draw | None) -> Source:
    """The row that a draw picks of a source that is any of its rows: the first for evaluation.

    Raises:
        ReadError: the rows can't be told.
    """
    if not source.any_row:
        return source
    rows = modality.rows_in(source.path)
    if rows is None:
        return Source(source.path)
    return Source(source.path, rows[0 if draw is None else int(draw.floats("row", 1)[0] * len(rows))])


def every_row(source: Source, modality: Modality) -> list[Source]:
    """Each row that a source may be; itself, where that can't be told before it is opened or read."""
    if not source.any_row or source.stored is not None:
        return [source]
    try:
        rows = modality.rows_in(source.path)
    except ReadError:
        return [Source(source.path)]
    return [Source(source.path)] if rows is None else [Source(source.path, row) for row in rows]


def _content(path: Path, stored: Slice | Inline) -> bytes:
    if isinstance(stored, Inline):
        return stored.text.encode(errors="surrogateescape")
    try:
        with path.open("rb") as file:
            file.seek(stored.offset)
            content = file.read(stored.size)
    except OSError as error:
        raise ReadError(f"can't be read: {error.strerror or type(error).__name__}") from error
    if len(content) < stored.size:
        raise ReadError(f"the archive breaks off after {len(content):,} of its {stored.size:,} bytes")
    return content


def _place(size: int) -> str | None:
    """Where a file of this size is best kept for a moment; None: in the system's folder for such files."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > SPARE * size:
        return str(MEMORY)
    return None
