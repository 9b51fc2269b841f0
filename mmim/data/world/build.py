"""The sample world as files: every modality writes its own file of every scene.

    folder/world.json            what the folder holds
    folder/train/index.csv       id, shape, colour, motion, size, texture, place
    folder/train/00012.mp4 ...   the files of a scene share their stem, its number; `id` in index.csv is this stem
    folder/heldout/...           the same, of the scenes that are held out

The world names no modality. It is handed depicters by name, and knows their file suffix.
"""

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, runtime_checkable

from filelock import FileLock

from mmim.data.world.scene import FACTORS, VERSION, Scene, split_of
from mmim.errors import DataError

SPLITS = ("train", "heldout")


@runtime_checkable
class Depicter(Protocol):
    """Whoever can write a file of a scene; a modality, for example. Sent to other processes, so it must pickle."""

    @property
    def suffix(self) -> str:
        """Of its files, with the dot: ".png"."""

    def depict(self, scene: Scene, path: Path) -> None:
        """Write the file: a function of the scene alone, equal to the byte each time."""


def build(folder: Path, scenes: Sequence[Scene], depicters: Mapping[str, Depicter], *, workers: int = 2) -> Path:
    """Write scenes into `folder`, all or nothing, equal to the byte whatever the number of workers.

    A folder that already holds this world is left as it is. With more than one worker the processes are spawned: the
    calling script needs its `if __name__ == "__main__"`.

    Raises:
        DataError: `folder` holds something else, or two files would get the same name.
    """
    passport = _passport(scenes, depicters)
    if _holds(folder, passport):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=_partial_prefix(folder)) as partial_folder:
        made = Path(partial_folder) / "world"
        _write(made, scenes, depicters, workers)
        (made / "world.json").write_text(json.dumps(passport, indent=1) + "\n")
        _move(made, folder, passport)
    return folder


def ensure_world(scenes: Sequence[Scene], depicters: Mapping[str, Depicter], *, workers: int = 2) -> Path:
    """The folder of this world in the cache, built on first use; several processes at once build it once.

    The key is `VERSION`, the scenes, and the names and suffixes of the depicters: a depicter whose files depend on
    options of its own needs a name that says so.
    """
    passport = _passport(scenes, depicters)
    key = blake2b(json.dumps(passport).encode(), digest_size=8).hexdigest()
    folder = cache_folder() / "worlds" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{key}.lock"):
        for left_over in folder.parent.glob(_partial_prefix(folder) + "*"):  # of a process that was killed
            shutil.rmtree(left_over)
        return build(folder, scenes, depicters, workers=workers)


def cache_folder() -> Path:
    """`$MMIM_CACHE`, or `$XDG_CACHE_HOME/mmim`, or `~/.cache/mmim`."""
    if chosen := os.environ.get("MMIM_CACHE"):
        return Path(chosen)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "mmim"
    return Path.home() / ".cache" / "mmim"


def _passport(scenes: Sequence[Scene], depicters: Mapping[str, Depicter]) -> dict[str, object]:
    """What tells one world from another."""
    _check_names(scenes, depicters)
    return {
        "version": VERSION,
        "scenes": len(scenes),
        "scenes_hash": blake2b("\n".join(map(repr, scenes)).encode(), digest_size=16).hexdigest(),
        "depicters": {name: depicters[name].suffix for name in sorted(depicters)},
    }


def _check_names(scenes: Sequence[Scene], depicters: Mapping[str, Depicter]) -> None:
    if len({scene.number for scene in scenes}) < len(scenes):
        raise DataError("two scenes have the same number, and files are named by it. Build them into two folders.")
    suffixes = [depicter.suffix for depicter in depicters.values()]
    if len(set(suffixes)) < len(suffixes):
        raise DataError(
            f"two of {', '.join(depicters)} write {', '.join(suffixes)} alike. Build them into two folders."
        )


def _holds(folder: Path, passport: dict[str, object]) -> bool:
    """Whether the folder is this world already; False if it is free to become it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "world.json").read_text())
    except (OSError, json.JSONDecodeError):
        found = None
    if found != passport:
        raise DataError(
            f"{folder} exists and holds something other than this sample world. Use another folder, or remove it."
        )
    return True


def _write(folder: Path, scenes: Sequence[Scene], depicters: Mapping[str, Depicter], workers: int) -> None:
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        _write_index(folder / split, [scene for scene in scenes if split_of(scene) == split])
    depict = partial(_depict, folder, dict(depicters))
    if workers == 1:
        for scene in scenes:
            depict(scene)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for _ in pool.map(depict, scenes, chunksize=4):  # asking for the results raises what a worker raised
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _depict(folder: Path, depicters: Mapping[str, Depicter], scene: Scene) -> None:
    for depicter in depicters.values():
        depicter.depict(scene, folder / split_of(scene) / f"{_stem(scene)}{depicter.suffix}")


def _write_index(folder: Path, scenes: Sequence[Scene]) -> None:
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *FACTORS])
        writer.writerows([_stem(scene), *scene.labels.values()] for scene in scenes)


def _move(made: Path, folder: Path, passport: dict[str, object]) -> None:
    """Put the finished world in place at once; someone else may have been faster with the same one."""
    try:
        made.replace(folder)
    except OSError:
        if not _holds(folder, passport):
            raise


def _stem(scene: Scene) -> str:
    return f"{scene.number:05d}"


def _partial_prefix(folder: Path) -> str:
    return f".{folder.name}.partial-"
