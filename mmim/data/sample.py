"""A sample, and how files become samples: read by their suffix, and together where they share a stem."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from mmim.draw import stable_hash
from mmim.errors import DataError, OptionError, ReadError
from mmim.modality import Modality, Source
from mmim.parts import lookup, names


@dataclass(frozen=True)
class Sample:
    """A sample and where its modalities lie; one that lacks a modality has no source for it.

    The id is the path relative to the folder or list it comes from, so that moving the data changes no draw; of a row
    in a file with `#` and its number, from 0. Files that are one sample have their common stem as its id. Of data with
    a name (`--data NAME=PATH`) the name stands before it.
    """

    id: str
    sources: dict[str, Source]
    stem: str = ""
    """The id without suffix, if that isn't all before the id's last dot (`x.depth.png`, or a stem with dots)."""
    origin: str = ""
    """The name of the data it comes from, if they have one."""

    def length(self, modalities: Mapping[str, Modality]) -> int:
        """How long it is, as its longest modality says."""
        return max(_length(modalities[name], source) for name, source in self.sources.items())

    @property
    def hash(self) -> int:
        """What the sample's order and draws depend on: its name without the suffix, which one of several files has."""
        return stable_hash(self.stem or stem_of(self.id))

    def of(self, origin: str) -> "Sample":
        """The same sample among those of several sources."""
        stem = f"{origin}/{self.stem or stem_of(self.id)}"
        return replace(self, id=f"{origin}/{self.id}", stem=stem, origin=origin)


def kinds_of(samples: Sequence[Sample]) -> list[int]:
    """For each sample a number that it shares with those that have the same modalities."""
    kinds = [tuple(sorted(sample.sources)) for sample in samples]
    numbers = {kind: number for number, kind in enumerate(sorted(set(kinds)))}
    return [numbers[kind] for kind in kinds]


def stem_of(id: str) -> str:
    """An id without the file's suffix, all parts of it; the row of a container (`clouds.npz#3`) has none."""
    compound = suffix_of(id, compound_suffixes())
    stem, suffix = (id[: -len(compound)], compound) if compound else os.path.splitext(id)
    return id if "#" in suffix else stem


def _length(modality: Modality, source: Source) -> int:
    return modality.length_of(source) if source.stored is None else modality.length_of_bytes(source.stored.size)


@dataclass(frozen=True, slots=True)
class File:
    """A file, or a member of an archive: its name, the stem by which it finds others, and who reads it."""

    id: str
    stem: str
    source: Source
    readers: tuple[str, ...]


def readers_of(modalities: Mapping[str, Modality]) -> dict[str, tuple[str, ...]]:
    """The names of the modalities that read each suffix."""
    suffixes = sorted({suffix for modality in modalities.values() for suffix in modality.suffixes})
    return {suffix: tuple(n for n, m in modalities.items() if suffix in m.suffixes) for suffix in suffixes}


def suffix_of(name: str, suffixes: Collection[str]) -> str | None:
    """The longest of the suffixes that ends a file's name, in lower case; None: none does."""
    start = name.rfind("/") + 2  # a name is more than a suffix
    lower = name.lower()
    at = lower.find(".", start)
    while at >= 0:
        if lower[at:] in suffixes:
            return lower[at:]
        at = lower.find(".", at + 1)
    return None


def own_suffix(name: str, suffixes: Collection[str], compound: Collection[str]) -> str | None:
    """The longest of the suffixes that ends a file's name, unless a longer one says that it is for somebody else.

    compound: `compound_suffixes()`.
    """
    found = suffix_of(name, {*suffixes, *compound})
    return found if found in suffixes else None


def compound_suffixes() -> frozenset[str]:
    """Suffixes of more than one part, such as `.depth.png`, of all installed modalities: no others take such a file."""
    return _compound(tuple(names("modality")))


@cache
def _compound(installed: tuple[str, ...]) -> frozenset[str]:
    return frozenset(suffix for suffix in _claims(installed) if suffix.count(".") > 1)


@cache
def _claims(installed: tuple[str, ...]) -> dict[str, int]:
    """How many of the installed modalities read files of a suffix."""
    found: dict[str, int] = {}
    for name in installed:
        try:
            part = lookup("modality", name)
        except OptionError:  # a stranger's that can't be imported reads nothing
            continue
        if not issubclass(part, Modality):  # what is registered wrongly is not read with either
            continue
        for suffix in part.suffixes:
            found[suffix] = found.get(suffix, 0) + 1
    return found


def _readable_by(file: File) -> tuple[int, int]:
    """How many of the modalities at hand read a file, and how many of all that are installed read its suffix."""
    claims = _claims(tuple(names("modality")))
    suffix = suffix_of(file.id, claims)
    return len(file.readers), claims[suffix] if suffix is not None else len(file.readers)


def samples_of(files: Iterable[File], modalities: Mapping[str, Modality]) -> list[Sample]:
    """The samples that files make, sorted by id, rows by number. With several modalities, files of one stem are one.

    Raises:
        DataError: two files of one stem are for the same modality.
    """
    if len(modalities) == 1:
        made = {file.id: _alone(file, modalities) for file in files}
    else:
        groups = defaultdict(list)
        for file in files:
            groups[file.stem].append(file)
        made = {
            stem if group[1:] else group[0].id: [_together(stem, group)] if group[1:] else _alone(group[0], modalities)
            for stem, group in groups.items()
        }
    return [sample for id in sorted(made) for sample in made[id]]


def _alone(file: File, modalities: Mapping[str, Modality]) -> list[Sample]:
    """The samples of one file: itself, or its rows. One whose rows can't be told is met when it is to be read."""
    if file.source.stored is not None:
        return [Sample(file.id, {name: replace(file.source, any_row=True) for name in file.readers}, file.stem)]
    rows: dict[int | None, dict[str, Source]] = {}
    for name in file.readers:
        try:
            numbers = modalities[name].rows_in(file.source.path)
        except ReadError:
            numbers = None
        for row in [None] if numbers is None else numbers:
            rows.setdefault(row, {})[name] = replace(file.source, row=row)
    return [_row(file, row, sources) for row, sources in rows.items()]


def _row(file: File, row: int | None, sources: dict[str, Source]) -> Sample:
    id = file.id if row is None else f"{file.id}#{row}"
    return Sample(id, sources, file.stem if row is None else id)


def _together(stem: str, files: Sequence[File]) -> Sample:
    """One sample of several files; of one with several rows any row.

    A file that fewer modalities read comes before one that more do, here or of all that are installed: a sound beside a
    clip stands for the clip's own.
    """
    taken: dict[str, File] = {}
    for file in sorted(files, key=lambda file: (_readable_by(file), file.id)):
        for name in file.readers:
            if name in taken and _readable_by(taken[name]) < _readable_by(file):
                continue
            if name in taken:
                raise DataError(
                    f"{taken[name].id} and {file.id} have one stem, so they are one sample, and both are for {name}. "
                    f"Rename or remove one of them."
                )
            taken[name] = file
    return Sample(stem, {name: replace(file.source, any_row=True) for name, file in taken.items()}, stem)
