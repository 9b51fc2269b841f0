"""Shards: tars whose members are the files of samples, in two layouts.

webdataset  `KEY.jpg, KEY.wav, KEY.depth.png` are one sample: the key is a member's path up to the first dot of its name
4M          a folder of tars for each modality, called like it (`image/00.tar`, `depth/00.tar`): members of one key in
            tars of one name are one sample

With one modality every member that it reads is a sample. Of several tars a sample's id has the tar's name before it.
Members `.json` and `.cls` are labels, and left alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmim.data.sample import File, compound_suffixes, own_suffix, readers_of, suffix_of
from mmim.data.tar_index import read_index
from mmim.errors import DataError
from mmim.modality import Modality, Slice, Source

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABELS = (".json", ".cls")


def check_shards(paths: Sequence[Path], asked: Path) -> None:
    """See that all paths of a pattern are tars, and there.

    Raises:
        DataError: one is not.
    """
    other = [path for path in paths if path.suffix.lower() != SUFFIX]
    if other:
        raise DataError(
            f"--data {asked} stands for {other[0]}, which is no .tar: braces are for uncompressed tars. Name a folder "
            f"or a list for other files."
        )
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(paths)} files of --data {asked} are not there; the first is {missing[0]}. "
            f"Write only those that there are."
        )


def shard_names(paths: Sequence[Path], root: Path | None = None) -> dict[str, Path]:
    """The tars by their names: paths without suffix, relative to `root` or to the folder that all have in common.

    A single one without a root has no name.
    """
    if root is None and len(paths) == 1:
        return {"": paths[0]}
    root = root or Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(root).as_posix()[: -len(SUFFIX)]: path for path in paths}


def members(shards: Mapping[str, Path], modalities: Mapping[str, Modality]) -> tuple[list[File], list[str]]:
    """The members of tars that a modality reads; and of each tar that breaks off, that it does.

    Raises:
        DataError: one is no uncompressed tar.
    """
    found: list[File] = []
    notes = []
    for name, tar in shards.items():
        index = read_index(tar)
        found += _of_shard(name, tar, index.members, modalities)
        if index.broken is not None:
            notes.append(f"{tar} {index.broken}; what is before is used.")
    return found, notes


def _of_shard(name: str, tar: Path, stored: Sequence[Slice], modalities: Mapping[str, Modality]) -> Iterator[File]:
    """The members of one tar that a modality reads."""
    folder, _, inside = name.partition("/")
    if inside and folder in modalities and len(modalities) > 1:  # all in there is this one's
        yield from (File(f"{name}/{one.name}", f"{inside}/{_key(one.name)}", Source(tar, stored=one), (folder,))
                    for one in stored if _is_data(one.name, modalities[folder].suffixes))  # fmt: skip
        return
    suffixes, before = readers_of(modalities), f"{name}/" if name else ""
    compound = compound_suffixes()
    for one in stored:
        if suffix := own_suffix(one.name, suffixes, compound):
            stem = _key(one.name) if len(modalities) > 1 else one.name[: -len(suffix)]
            yield File(f"{before}{one.name}", f"{before}{stem}", Source(tar, stored=one), suffixes[suffix])


def _is_data(name: str, suffixes: Sequence[str]) -> bool:
    return suffix_of(name, suffixes) is not None or suffix_of(name, LABELS) is None


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}" if folder else base.partition(".")[0]
