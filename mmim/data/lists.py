"""Lists of files: text with `path` or `path label` lines, paths relative to the list."""

import os
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from mmim.data.sample import suffix_of
from mmim.errors import DataError

LONGEST = 2**16
"""Characters of a line in a list, at most: a path has up to 4096 bytes, and a label stands behind it."""
FIRST = 20
"""Lines of a file that tell a list of files from a file of samples."""


def names_files(file: Path, suffixes: Collection[str]) -> bool:
    """Whether a file is a list: one of its first lines is the path of a file, or most of them look like one."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            first = [listed_path(line, suffixes) for line in islice(_lines(lines), FIRST) if line.strip()]
    except (OSError, ValueError):
        return False
    if any(os.path.isfile(file.parent / path) for path in first):  # Path.is_file raises for a long line
        return True
    return 2 * sum(suffix_of(path, suffixes) is not None for path in first) > len(first)


def listed(file: Path, suffixes: Collection[str]) -> list[tuple[str, Path]]:
    """The paths of a list as they are written, and where they lie.

    Raises:
        DataError: it is no text.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:  # str.splitlines would also break at U+2028
            paths = [listed_path(line, suffixes) for line in _lines(lines)]
    except ValueError as error:
        if suffix_of(file.name, suffixes):
            raise one_file(file) from error
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise DataError(
            f"{file} is not a text file ({reason}). --data takes a folder, or a list with a path per line."
        ) from error
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}.") from error
    return [(path, file.parent / path) for path in paths if path]


def _lines(lines: TextIO) -> Iterator[str]:
    """The lines of a list, of which none is read further than a path can be long.

    Raises:
        ValueError: that is no list of paths.
    """
    for number, line in enumerate(iter(lambda: lines.readline(LONGEST + 1), ""), start=1):
        if len(line) > LONGEST:
            raise ValueError(f"line {number} has more than {LONGEST:,} characters")
        if "\0" in line:
            raise ValueError(f"line {number} holds a zero byte")
        yield line


def one_file(file: Path) -> DataError:
    """The error of a file of data that should be a list."""
    return DataError(
        f"--data {file} is one file: give the folder that holds it ({file.parent}), or a list with a path per line."
    )


def listed_path(line: str, suffixes: Collection[str]) -> str:
    """The path of a line: up to the first of the suffixes that ends a word; without one, up to the trailing numbers.

    Lines are `path`, `path label`, `path,label` or (frame lists) `path start total label`. Spaces belong to the path.
    """
    endings = "|".join(map(re.escape, suffixes))
    found = re.match(rf"\s*(.+?(?:{endings}))(?=[\s,]|\Z)", line, re.IGNORECASE) if suffixes else None
    if found:
        return found[1]
    words = line.strip().replace("\t", " ").split(" ")
    if len(words) == 1 and _is_number(words[0].rpartition(",")[2]):
        words = words[0].rsplit(",", 1)
    while len(words) > 1 and _is_number(words[-1]):
        words.pop()
    return " ".join(words)


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdigit()
