"""Checks of `read`, `read_many`, `blank` and `collate`."""

import random
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mmim.config import with_fields
from mmim.draw import Draw
from mmim.errors import MmimError, ReadError
from mmim.modality import Modality, Source
from mmim.records import Raw
from mmim.testing.example import example, leaves, loaded, raw_of, source_of
from mmim.testing.failure import CheckFailure, require
from mmim.testing.storing import require_pickling, require_plain_fields

KEYS = 8
"""How many draws of a file are looked at."""
SHARES = (2, 4, 8, 16)
"""By what a sample is made smaller where a file fits whole into it."""


def reading_depends_on_the_draw_alone(modality: Modality, files: Sequence[Path]) -> None:
    """The same draw gives the same view to the bit, also among others, and whatever other generators are at."""
    for file in files:
        source, draws = source_of(modality, file), [_draw(key) for key in range(KEYS)]
        first = [_read(modality, source, draw, state=1) for draw in draws]
        again = [_read(modality, source, draw, state=2) for draw in draws]
        together = modality.read_many(source, draws)
        for before, after in zip(first, again, strict=True):
            require(equal(before, after), "the same view of the same draw", f"another of {file.name}", modality, "read")
        for before, after in zip(first, together, strict=True):
            require(equal(before, after), "the views of `read`", f"others of {file.name}", modality, "read_many")


def the_evaluation_view_is_always_the_same(modality: Modality, files: Sequence[Path]) -> None:
    """Without a draw nothing is random."""
    for file in files:
        first, again = (_read(modality, source_of(modality, file), None, state) for state in (1, 2))
        require(equal(first, again), "the same view without a draw", f"another of {file.name}", modality, "read")


def another_draw_gives_another_view(modality: Modality, files: Sequence[Path]) -> None:
    """Some file has several views. A modality that crops and moves nothing has this check waived.

    Files that fit whole into a sample have but one, so that less of them is read, as the fields of `view` allow.
    """
    for less in (modality, *_of_less(modality)):
        for file in files:
            views = less.read_many(source_of(less, file), [_draw(key) for key in range(KEYS)])
            if not all(equal(views[0], view) for view in views[1:]):
                return
    require(False, "views that differ with the draw", f"one view for {KEYS} draws of every file", modality, "read")


def _of_less(modality: Modality) -> Iterator[Modality]:
    """The modality with ever smaller samples, where it says by which field."""
    for name in modality.view:
        value = getattr(modality, name)
        for share in SHARES if type(value) is int else ():
            try:
                yield with_fields(modality, {name: value // share})
            except MmimError:  # one that it can't have
                continue


def an_absent_sample_stands_among_others(modality: Modality, files: Sequence[Path]) -> None:
    """`blank` has the types of what is read, and collates with it."""
    blank, view = modality.blank(), modality.read(source_of(modality, files[0]), None)
    require(
        _types(blank) == _types(view), f"tensors of {_types(view)}, as `read` gives", _types(blank), modality, "blank"
    )
    lengths = {len(leaf) for leaf in leaves(modality.collate([blank, view])).values()}
    require(lengths == {2}, "a batch of 2", f"first axes of {lengths}", modality, "collate")


def a_file_that_is_not_there_is_left_out(modality: Modality, files: Sequence[Path]) -> None:
    """A missing file and a folder are ReadErrors, which leave the sample absent, with a reason without the path."""
    folder = files[0].parent
    bad = loaded(modality, [folder / f"missing{modality.suffix}", folder, *files])
    require(len(bad.unreadable) == 2, "2 files left out with a reason", bad.unreadable, modality, "read")
    for left_out in bad.unreadable:
        _require_reason(modality, left_out.reason, folder)


def a_damaged_file_is_read_or_refused(modality: Modality, files: Sequence[Path]) -> None:
    """Of an empty file, half of one, and noise `read` makes a view of the usual types, or a ReadError: nothing else."""
    suffix, whole = _suffix(modality, files[0]), files[0].read_bytes()
    noise = np.random.default_rng(0).bytes(max(64, min(len(whole), 4096)))
    kinds = _types(modality.blank())
    with _folder() as folder:
        for name, data in (("empty", b""), ("half", whole[: len(whole) // 2]), ("noise", noise)):
            file = folder / f"{name}{suffix}"
            file.write_bytes(data)
            for draw in (None, _draw(0)):
                view = _view_or_none(modality, file, draw)
                if view is not None:
                    came = _types(view)
                    require(
                        came == kinds, f"tensors of {kinds}, as of other files, or a ReadError", came, modality, "read"
                    )


def reading_does_not_depend_on_where_the_file_lies(modality: Modality, files: Sequence[Path]) -> None:
    """Under another name in another folder it is the same sample."""
    with _folder() as folder:
        for number, file in enumerate(files):
            other = folder / f"renamed {number}{_suffix(modality, file)}"
            shutil.copyfile(file, other)
            for draw in (None, _draw(0)):
                here, there = (modality.read(source_of(modality, path), draw) for path in (file, other))
                require(equal(here, there), "the same view of a copy elsewhere", "another", modality, "read")


def a_worker_reads_the_same(modality: Modality, files: Sequence[Path]) -> None:
    """The modality survives pickling, and another process reads the same views."""
    copy = require_pickling(modality)
    here, there = example(modality, files, seed=0), example(copy, files, seed=0, workers=1)
    require(equal(raw_of(here), raw_of(there)), "the views of this process", "others in a worker", modality, "read")


def its_fields_survive_a_recipe_file(modality: Modality, files: Sequence[Path]) -> None:
    """Equal fields come out of `recipe.yaml` and of a checkpoint's `config.json`."""
    require_plain_fields(modality)


def equal(first: Raw, second: Raw) -> bool:
    """Whether raw data are the same to the bit."""
    one, other = leaves(first), leaves(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone afterwards, in which libraries may warn of what they find."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Path(folder)


def _suffix(modality: Modality, file: Path) -> str:
    """The suffix by which a modality knows a file, as it is written there."""
    ends = [end for end in modality.suffixes if file.name.lower().endswith(end)]
    longest = len(max(ends, key=len, default=file.suffix))
    return file.name[len(file.name) - longest :]


def _view_or_none(modality: Modality, file: Path, draw: Draw | None) -> Raw | None:
    """The view of a damaged file; None where it is refused as it should be."""
    try:
        return modality.read(source_of(modality, file), draw)
    except ReadError as error:
        _require_reason(modality, str(error), file.parent)
        return None
    except Exception as error:
        came = f"{type(error).__name__} of {_told(file.stem)}: {error}"
        raise CheckFailure("a view or a ReadError", came, f"{type(modality).__name__}.read") from error


def _told(name: str) -> str:
    return {"empty": "an empty file", "half": "the first half of a file", "noise": "a file of noise"}[name]


def _require_reason(modality: Modality, reason: str, folder: Path) -> None:
    short = 0 < len(reason) <= 200 and str(folder) not in reason and "\n" not in reason
    require(short, "a reason in one short line without the path", repr(reason), modality, "read")


def _read(modality: Modality, source: Source, draw: Draw | None, state: int) -> Raw:
    """A view, read with the generators of torch, NumPy and Python in some state, and these as they were after it."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state)
        np.random.seed(state)
        random.seed(state)
        view = modality.read(source, draw)
    np.random.set_state(numpy_state)
    random.setstate(python_state)
    return view


def _draw(key: int) -> Draw:
    return Draw(torch.tensor([key]))


def _types(raw: Raw) -> dict[str, torch.dtype]:
    return {name: leaf.dtype for name, leaf in leaves(raw).items()}
