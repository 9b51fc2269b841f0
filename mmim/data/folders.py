"""The files of a folder, and who reads them."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmim.data.sample import File, compound_suffixes, own_suffix, readers_of, suffix_of
from mmim.modality import Modality, Source


def walk(folder: Path) -> list[tuple[str, Path]]:
    """All files below a folder, with their paths relative to it; links followed, hidden files and folders left out."""
    found = []
    above = {str(folder): {os.path.realpath(folder)}}  # on the way to each folder; a link back to one would not end
    for root, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(root, name)) for name in folders if not name.startswith(".")}
        folders[:] = sorted(name for name, place in real.items() if place not in above[root])
        above |= {os.path.join(root, name): above[root] | {real[name]} for name in folders}
        paths = [Path(root, name) for name in names if not name.startswith(".")]
        found += [(path.relative_to(folder).as_posix(), path) for path in paths]
    return found


def readable(files: Mapping[str, Path], modalities: Mapping[str, Modality]) -> Iterator[File]:
    """Those of the files that a modality reads, by their suffix.

    With several modalities, a folder called like one of them is this one's: it gets all files in there, whatever their
    suffix, and they find files of the same relative path in other such folders.
    """
    suffixes, compound = readers_of(modalities), compound_suffixes()
    for id, path in files.items():
        folder, _, inside = id.partition("/")
        if inside and folder in modalities and len(modalities) > 1:
            suffix = suffix_of(inside, modalities[folder].suffixes) or os.path.splitext(inside)[1]
            yield File(id, inside[: len(inside) - len(suffix)], Source(path), (folder,))
        elif (matched := own_suffix(id, suffixes, compound)) is not None:
            yield File(id, id[: -len(matched)], Source(path), suffixes[matched])
