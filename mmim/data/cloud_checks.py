"""What all readers of point clouds and meshes ask of a file, and how they say that it can't be read."""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from mmim.errors import ReadError

LARGEST = 50_000_000
"""Points of a file, at most: 600 MB as float32, in each of a loader's workers."""
_HALF_READ = "string or file could not be read"
"""How NumPy warns of a text with something else among its numbers, which trimesh would not notice."""


def check_count(count: int, what: str = "points") -> None:
    """Refuse what would not fit into memory, before memory is taken.

    Raises:
        ReadError: there are too many, or less than none.
    """
    if count > LARGEST:
        raise ReadError(f"more than the {LARGEST:,} {what} that are read")
    if count < 0:
        raise ReadError(f"a header that tells of {count} {what}")


def share_of_full(colour: Shaped[np.ndarray, "n c"]) -> Float[np.ndarray, "n 3"]:
    """Red, green and blue of any type as shares in [0, 1]."""
    share = colour[:, :3].astype(np.float32)
    if colour.dtype.kind in "ui" and colour.dtype.itemsize == 2:
        full = 65535.0
    elif colour.dtype.kind in "ui":
        full = 255.0
    else:
        full = 255.0 if share.max(initial=0, where=np.isfinite(share)) > 1 else 1.0
    clipped: Float[np.ndarray, "n 3"] = (share / full).clip(0, 1)
    return clipped


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """The one place where exceptions of the libraries become ours, and where their warnings end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=_HALF_READ)
            if path.stat().st_size == 0:
                raise ReadError("empty file")
            yield
    except ReadError:
        raise
    except zlib.error as error:
        raise ReadError("damaged: it can't be unpacked") from error
    except Exception as error:  # a damaged file makes the libraries raise anything
        raise ReadError(f"can't be read: {_brief(error, path)}") from error


def _brief(error: Exception, path: Path) -> str:
    """What an exception says, in one short line without the path."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    line = " ".join(text.replace(str(path), "it").partition(";")[0].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:100].rstrip(".")
