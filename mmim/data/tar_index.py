"""Where the members of a tar lie: its headers are read once, and kept in the cache as long as the file stays as it is.

Members are then read by their place, in any order, by any number of processes. Compressed tars have no places.
"""

import json
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from mmim.data.world.build import cache_folder
from mmim.errors import DataError
from mmim.modality import Slice

VERSION = 1
"""Of what the cache holds."""
BLOCK = 512  # bytes; a tar ends with blocks of zeros
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of what is no tar yet."""


@dataclass(frozen=True)
class Index:
    """The files in a tar, in its order, and why there are no more if it breaks off."""

    members: list[Slice]
    broken: str | None = None


def read_index(tar: Path) -> Index:
    """The index of a tar, from the cache if it is there.

    Raises:
        DataError: there is no tar, or it is compressed.
    """
    try:
        about = tar.stat()
    except OSError as error:
        raise DataError(f"{tar} can't be read: {error.strerror}.") from error
    key = f"{VERSION} {os.path.abspath(tar)} {about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape")
    kept = cache_folder() / "tars" / f"{blake2b(key, digest_size=16).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):  # damaged, or of another hand: it is made again
        found = json.loads(kept.read_text())
        return Index([Slice(*member) for member in found["members"]], found["broken"])
    index = _scan(tar, about.st_size)
    with suppress(OSError):  # the cache saves time, and nothing else depends on it
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{kept.name}.{os.getpid()}")
        members = [[member.name, member.offset, member.size] for member in index.members]
        partial.write_text(json.dumps({"members": members, "broken": index.broken}))
        partial.replace(kept)
    return index


def _scan(tar: Path, size: int) -> Index:
    """Read all headers. Hidden files, links and files with holes are left out."""
    members: list[Slice] = []
    end, broken = 0, None
    try:
        with tar.open("rb") as file:
            first = file.read(8)
        if kinds := [kind for magic, kind in COMPRESSED.items() if first.startswith(magic)]:
            raise DataError(f"{tar} is compressed with {kinds[0]}, so that no member has a place: decompress it first.")
        with tarfile.open(tar, "r:") as file:
            try:
                for member in file:
                    end = member.offset_data + member.size
                    name = os.path.normpath(member.name)
                    if member.isreg() and not member.issparse() and not os.path.basename(name).startswith("."):
                        members.append(Slice(name, member.offset_data, member.size))
                end = file.offset
            except tarfile.TarError as error:
                broken = str(error)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{tar} is no uncompressed tar ({_reason(error)}). Unpack it, or pack it anew.") from error
    if broken is None and not _ends(tar, end):
        broken = "no end mark"
    whole = [member for member in members if member.offset + member.size <= size]
    if broken is not None or len(whole) < len(members):
        return Index(whole, f"breaks off after {len(whole):,} files ({broken or 'the last is not whole'})")
    return Index(whole)


def _ends(tar: Path, place: int) -> bool:
    """Whether a block of zeros stands where the members end."""
    with tar.open("rb") as file:
        file.seek(place)
        return file.read(BLOCK) == bytes(BLOCK)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:80]
