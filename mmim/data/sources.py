"""Which samples there are: folders and lists of files, and the rows of files that hold several samples."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from mmim.draw import stable_hash
from mmim.errors import DataError, ReadError
from mmim.modality import Modality, Source

LONGEST = 2**16
"""Characters of a line in a list, at most: a path has up to 4096 bytes, and a label stands behind it."""
FIRST = 20
"""Lines of a file that tell a list of files from a file of samples."""


@dataclass(frozen=True)
class Sample:
    """A sample and where its modalities lie; one that lacks a modality has no source for it.

    The id is the path relative to the folder or list it comes from, so that moving the data changes no draw; of a row
    in a file with `#` and its number, from 0.
    """

    id: str
    sources: dict[str, Source]

    def length(self, modalities: Mapping[str, Modality]) -> int:
        """How long it is, as its longest modality says."""
        return max(modalities[name].length_of(source) for name, source in self.sources.items())

    @property
    def hash(self) -> int:
        """What the sample's order and draws depend on: its name without the suffix, which one of several files has."""
        stem, suffix = os.path.splitext(self.id)
        return stable_hash(self.id if "#" in suffix else stem)


def find_samples(data: Path, modalities: Mapping[str, Modality]) -> list[Sample]:
    """All samples of a folder (searched through, links followed), of a list of files, or of a file that holds several.

    A list is a text file with `path` or `path label` lines. Paths in it are relative to it; one that is missing is met
    when it is to be read, unless all are. Samples come sorted by id, each once.

    Raises:
        DataError: nothing there that any of the modalities reads.
    """
    suffixes = {
        suffix: [n for n, m in modalities.items() if suffix in m.suffixes]
        for m in modalities.values()
        for suffix in m.suffixes
    }
    if not data.exists():
        raise DataError(f"There is no {data}. Give --data a folder of files, or a text file with a path per line.")
    is_list = data.is_file() and not _holds_samples(data, modalities, suffixes)
    files = {data.name: data} if data.is_file() else {}
    if is_list or not files:
        files = dict(_listed(data, suffixes) if is_list else _walk(data))
    samples = [
        sample
        for id, path in sorted(files.items())
        if path.suffix.lower() in suffixes
        for sample in _in_file(id, path, {name: modalities[name] for name in suffixes[path.suffix.lower()]})
    ]
    readable = f"that {', '.join(modalities)} can read ({', '.join(sorted(suffixes))})"
    if not samples and is_list:
        if data.suffix.lower() in suffixes:
            raise _one_file(data)
        first = f"; the first is {next(iter(files))!r}" if files else ""
        raise DataError(
            f"{data} lists {len(files)} files and none {readable}{first}. Write `path` or `path label` on each line."
        )
    if not samples:
        raise DataError(
            f"{data} holds {len(files)} files and none {readable}. Point --data at the folder that holds them."
        )
    paths = [next(iter(sample.sources.values())).path for sample in samples]
    if is_list and not any(os.path.exists(path) for path in paths):
        raise DataError(
            f"None of the {len(samples)} files that {data} lists is there; the first is {paths[0]}. "
            f"Write paths relative to the folder of the list, or absolute ones."
        )
    return samples


def _holds_samples(file: Path, modalities: Mapping[str, Modality], suffixes: Collection[str]) -> bool:
    """Whether a file is one with several samples, and no list of other files.

    Raises:
        DataError: it should be one, and can't be read.
    """
    readers = [modality for modality in modalities.values() if file.suffix.lower() in modality.suffixes]
    if not readers or _names_files(file, suffixes):
        return False
    try:
        return any(modality.rows_in(file) is not None for modality in readers)
    except ReadError as error:
        raise DataError(f"--data {file} can't be used: {error}.") from error


def _names_files(file: Path, suffixes: Collection[str]) -> bool:
    """Whether a file is a list: one of its first lines is the path of a file, or most of them look like one."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            first = [listed_path(line, suffixes) for line in islice(_lines(lines), FIRST) if line.strip()]
    except (OSError, ValueError):
        return False
    if any(os.path.isfile(file.parent / path) for path in first):  # Path.is_file raises for a long line
        return True
    return 2 * sum(os.path.splitext(path)[1].lower() in suffixes for path in first) > len(first)


def _in_file(id: str, path: Path, modalities: Mapping[str, Modality]) -> list[Sample]:
    """The samples of one file: itself, or its rows. One whose rows can't be told is met when it is to be read."""
    rows: dict[int | None, dict[str, Source]] = {}
    for name, modality in modalities.items():
        try:
            numbers = modality.rows_in(path)
        except ReadError:
            numbers = None
        for row in [None] if numbers is None else numbers:
            rows.setdefault(row, {})[name] = Source(path, row)
    return [Sample(id if row is None else f"{id}#{row}", sources) for row, sources in rows.items()]


def _walk(folder: Path) -> list[tuple[str, Path]]:
    found = []
    above = {str(folder): {os.path.realpath(folder)}}  # on the way to each folder; a link back to one would not end
    for root, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(root, name)) for name in folders if not name.startswith(".")}
        folders[:] = sorted(name for name, place in real.items() if place not in above[root])
        above |= {os.path.join(root, name): above[root] | {real[name]} for name in folders}
        paths = [Path(root, name) for name in names if not name.startswith(".")]
        found += [(path.relative_to(folder).as_posix(), path) for path in paths]
    return found


def _listed(file: Path, suffixes: Collection[str]) -> list[tuple[str, Path]]:
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:  # str.splitlines would also break at U+2028
            paths = [listed_path(line, suffixes) for line in _lines(lines)]
    except ValueError as error:
        if file.suffix.lower() in suffixes:
            raise _one_file(file) from error
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


def _one_file(file: Path) -> DataError:
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
