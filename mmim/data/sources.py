"""Which samples there are: in folders, lists, manifests and tars, and in files that hold several; one or a union."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmim.data.braces import expanded
from mmim.data.folders import readable, walk
from mmim.data.lists import listed, names_files, one_file
from mmim.data.manifest import in_manifest, is_manifest, no_column
from mmim.data.sample import Sample as Sample
from mmim.data.sample import readers_of, samples_of, suffix_of
from mmim.data.table_read import DELIMITERS, read_records
from mmim.data.tars import COMPRESSED, SUFFIX, check_shards, members, shard_names
from mmim.data.union import parse_data
from mmim.errors import DataError, EmptyDataError, ReadError
from mmim.modality import Modality


@dataclass(frozen=True)
class Found:
    """Samples, and what their user should know of them, a line each."""

    samples: list[Sample]
    notes: list[str] = field(default_factory=list)


def find_union(data: Sequence[str], modalities: Mapping[str, Modality]) -> Found:
    """The samples of all `PATH` or `NAME=PATH`, by the order of their names, which stand before the ids.

    A place without anything readable adds nothing, and a note says so.

    Raises:
        OptionError: the names can't be.
        DataError: a place is missing or damaged, or nothing readable is anywhere.
    """
    samples, notes, empty = [], [], []
    for name, path in sorted(parse_data(data).items()):
        try:
            found = find(path, modalities)
        except EmptyDataError as error:
            empty.append(error)
            notes.append(f"{name} adds nothing: {error}")
            continue
        samples += [sample.of(name) if name else sample for sample in found.samples]
        notes += found.notes
    if not samples:
        raise empty[0]
    return Found(samples, notes)


def find_samples(data: Path, modalities: Mapping[str, Modality]) -> list[Sample]:
    """The samples of one place, as `find` finds them."""
    return find(data, modalities).samples


def find(data: Path, modalities: Mapping[str, Modality]) -> Found:
    """All samples of a folder, a list of files, a manifest, of tars, or of a file that holds several.

    A folder is searched through, links followed; files of one stem are one sample. A list is a text file with `path` or
    `path label` lines, a manifest a table with a column for each modality; paths in them are relative to them, and one
    that is missing is met when it is to be read, unless all are. Tars are a folder of them, one, or several by braces.

    Raises:
        DataError: nothing there that any of the modalities reads, or not as it should be.
    """
    suffixes = readers_of(modalities)
    if data.is_dir():
        return _in_folder(data, modalities)
    if not data.exists():
        return _in_shards([Path(path) for path in expanded(str(data))], data, modalities)
    if suffix_of(data.name, suffixes) is None and data.name.lower().endswith((SUFFIX, *COMPRESSED)):
        return _in_shards([data], data, modalities)
    if is_manifest(data, modalities):
        return Found(in_manifest(data, modalities))
    if _holds_samples(data, modalities, suffixes):
        return Found(samples_of(readable({data.name: data}, modalities), modalities))
    return _in_list(data, modalities)


def _in_folder(folder: Path, modalities: Mapping[str, Modality]) -> Found:
    files = dict(walk(folder))
    tars = [] if SUFFIX in readers_of(modalities) else [id for id in files if id.lower().endswith(SUFFIX)]
    samples = samples_of(
        readable({id: path for id, path in files.items() if id not in set(tars)}, modalities), modalities
    )
    if not samples and tars:
        shards = shard_names([files[id] for id in sorted(tars)], folder)
        return _in_tars(shards, folder, modalities)
    if not samples:
        packed = [id for id in files if id.lower().endswith(COMPRESSED)]
        hint = (
            f"Decompress tars such as {packed[0]} first." if packed else "Point --data at the folder that holds them."
        )
        raise EmptyDataError(f"{folder} holds {len(files)} files and none {_that_reads(modalities)}. {hint}")
    beside = f"{folder} holds {len(tars)} tars beside other files, which are left out: name them to read them."
    return Found(samples, [beside] if tars else [])


def _in_shards(paths: Sequence[Path], asked: Path, modalities: Mapping[str, Modality]) -> Found:
    """The samples of tars by their paths, of which there may be none."""
    if not any(path.exists() for path in paths):
        missing = f" (nor {paths[0]} ...)" if len(paths) > 1 else ""
        raise DataError(
            f"There is no {asked}{missing}. Give --data a folder of files, or a text file with a path per line."
        )
    if packed := [path for path in paths if path.name.lower().endswith(COMPRESSED)]:
        raise DataError(f"{packed[0]} is compressed, so that no member has a place in it: decompress it first.")
    check_shards(paths, asked)
    return _in_tars(shard_names(paths), asked, modalities)


def _in_tars(shards: Mapping[str, Path], asked: Path, modalities: Mapping[str, Modality]) -> Found:
    files, notes = members(shards, modalities)
    if not files:
        raise EmptyDataError(
            f"{asked} holds {len(shards)} tars and no member {_that_reads(modalities)}."
            + "".join(f" {note}" for note in notes[:1])
        )
    return Found(samples_of(files, modalities), notes)


def _in_list(file: Path, modalities: Mapping[str, Modality]) -> Found:
    """The samples of a list, each file once."""
    suffixes = readers_of(modalities)
    files = dict(sorted(listed(file, suffixes)))
    samples = samples_of(readable(files, modalities), modalities)
    if not samples:
        if suffix_of(file.name, suffixes):
            raise one_file(file)
        if file.suffix.lower() in DELIMITERS and (columns := _header(file)):
            raise EmptyDataError(no_column(file, columns, modalities))
        first = f"; the first is {next(iter(files))!r}" if files else ""
        raise EmptyDataError(
            f"{file} lists {len(files)} files and none {_that_reads(modalities)}{first}. "
            f"Write `path` or `path label` on each line."
        )
    paths = [source.path for sample in samples for source in sample.sources.values()]
    if not any(os.path.exists(path) for path in paths):
        raise DataError(
            f"None of the {len(samples)} files that {file} lists is there; the first is {paths[0]}. "
            f"Write paths relative to the folder of the list, or absolute ones."
        )
    return Found(samples)


def _header(table: Path) -> list[str]:
    """The columns of a table that has at least two; none of another."""
    try:
        first = read_records(table)[:1]
    except DataError:
        return []
    return list(first[0]) if first and len(first[0]) > 1 else []


def _that_reads(modalities: Mapping[str, Modality]) -> str:
    return f"that {', '.join(modalities)} can read ({', '.join(readers_of(modalities))})"


def _holds_samples(file: Path, modalities: Mapping[str, Modality], suffixes: Collection[str]) -> bool:
    """Whether a file is one with several samples, and no list of other files.

    Raises:
        DataError: it should be one, and can't be read.
    """
    suffix = suffix_of(file.name, suffixes)
    readers = [modality for modality in modalities.values() if suffix in modality.suffixes]
    if not readers or names_files(file, suffixes):
        return False
    try:
        return any(modality.rows_in(file) is not None for modality in readers)
    except ReadError as error:
        raise DataError(f"--data {file} can't be used: {error}.") from error
