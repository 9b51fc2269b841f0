"""Which samples there are: folders and lists of files. Nothing is opened here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmim.draw import stable_hash
from mmim.errors import DataError
from mmim.modality import Modality, Source


@dataclass(frozen=True)
class Sample:
    """A sample and where its modalities lie; one that lacks a modality has no source for it.

    The id is the path relative to the folder or list it comes from, so that moving the data changes no draw.
    """

    id: str
    sources: dict[str, Source]

    @property
    def hash(self) -> int:
        """What the sample's order and draws depend on."""
        return stable_hash(self.id)


def find_samples(data: Path, modalities: Mapping[str, Modality]) -> list[Sample]:
    """All samples of a folder (searched through, links followed) or of a text file with `path` or `path label` lines.

    Paths in a list are relative to the list. Samples come sorted by id, each once.

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
    files = dict(_listed(data) if data.is_file() else _walk(data))
    samples = [
        Sample(id, {name: Source(path) for name in suffixes[path.suffix.lower()]})
        for id, path in sorted(files.items())
        if path.suffix.lower() in suffixes
    ]
    if not samples:
        raise DataError(
            f"{data} holds {len(files)} files and none that {', '.join(modalities)} can read "
            f"({', '.join(sorted(suffixes))}). Point --data at the folder that holds them."
        )
    return samples


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


def _listed(file: Path) -> list[tuple[str, Path]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not a text file ({error.reason}). --data takes a folder, or a list with a path per line."
        ) from error
    return [(path, file.parent / path) for path in map(listed_path, lines) if path]


def listed_path(line: str) -> str:
    """What precedes the trailing numbers of a line.

    Lines are `path`, `path label`, `path,label` or (frame lists) `path start total label`. Spaces belong to the path.
    """
    words = line.strip().replace("\t", " ").split(" ")
    if len(words) == 1 and _is_number(words[0].rpartition(",")[2]):
        words = words[0].rsplit(",", 1)
    while len(words) > 1 and _is_number(words[-1]):
        words.pop()
    return " ".join(words)


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdigit()
