"""`mmim check`."""

import dataclasses
import difflib
import itertools
import shutil
import tempfile
import time
import typing
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmim import command
from mmim.cli.checks import told
from mmim.config import from_fields, set_value
from mmim.data.sources import Sample, find_union
from mmim.data.stored import opened
from mmim.errors import CheckError, MmimError, OptionError, ReadError
from mmim.modality import Modality, Source
from mmim.parts import AXES, Part, lookup, names
from mmim.testing import CHECKS, Check, Outcome, depicted, outcomes
from mmim.testing.example import source_of

LEAST, MOST = 3, 4
"""Files that a modality is checked with."""
TRIED = 40
"""Files of --data that are tried, until enough can be read."""
STYLES = {"passed": "green", "waived": "yellow", "failed": "bold red"}
ONLY = "checked"
"""What the modality is called while its files are looked for."""


def check(
    name: tyro.conf.Positional[str],
    axis: Literal["modality", "masking", "target", "decoder", "term"] | None = None,
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
) -> None:
    """Run the conformance checks of a modality, a masking, a target, a decoder or a term: does it keep its contract?

    A modality is checked on files of the sample world, as it depicts them, or on some of --data; the others on toys.

    Args:
        name: what `mmim list` calls the part.
        axis: what the part is, where several have this name.
        data: folder, list, manifest or tars of files that a modality reads; the first few are taken.
        settings: FIELD=VALUE, fields of the part other than by default.
    """
    where = axis or _axis_of(name)
    part = _made(where, name, settings)
    if data and not isinstance(part, Modality):
        raise OptionError(f"--data with the {where} {name!r}: its checks read no files, leave it out.")
    console, begun = command.console(), time.monotonic()
    with _files(part, name, data, console) as files:
        checks, on = CHECKS[where], f" on {len(files)} files" if files else ""
        console.print(f"{where} {name}: {len(checks)} checks{on}", markup=False, highlight=False)
        done = _told(console, checks, outcomes(checks, part, files))
    counts = ", ".join(f"{sum(one.result == result for one in done)} {result}" for result in STYLES)
    console.print(f"{counts} in {time.monotonic() - begun:.0f} s", highlight=False)
    if failed := [one.check for one in done if one.result == "failed"]:
        raise CheckError(f"The {where} {name!r} fails {len(failed)} of {len(done)} checks: {', '.join(failed)}.")


# Which part


def _axis_of(name: str) -> str:
    """The only axis with checks on which there is such a name.

    Raises:
        OptionError: there is none, or several.
    """
    found = [axis for axis in CHECKS if name in names(axis)]
    if len(found) > 1:
        raise OptionError(f"{name!r} is a {' and a '.join(found)}: say which with --axis.")
    if found:
        return found[0]
    if others := [axis for axis in AXES if axis not in CHECKS and name in names(axis)]:
        raise OptionError(f"{name!r} is a part of the axis {others[0]}, and there are checks of {', '.join(CHECKS)}.")
    there = {axis: names(axis) for axis in CHECKS}
    close = difflib.get_close_matches(name, [one for known in there.values() for one in known], n=1)
    said = "; ".join(f"{axis}: {', '.join(known) or 'none'}" for axis, known in there.items())
    hint = f" Did you mean {close[0]!r}?" if close else " Is the package that brings it installed?"
    raise OptionError(f"No part is called {name!r}; there are {said}.{hint}")


def _made(axis: str, name: str, settings: Sequence[str]) -> Part:
    """The part with some fields set.

    Raises:
        OptionError: it can't be imported or made, or lacks such a field.
    """
    try:
        kind = lookup(axis, name)
        return from_fields(kind, _given(kind, name, settings), name)
    except MmimError:
        raise
    except Exception as error:  # a stranger's module or class may raise anything
        raise OptionError(f"The {axis} {name!r} can't be made: {type(error).__name__}: {error}.") from error


def _given(kind: type[Part], name: str, settings: Sequence[str]) -> dict[str, Any]:
    """The fields that are set, as plain data.

    Raises:
        OptionError: not FIELD=VALUE of a field that there is, or one that has no default is left out.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known, hints = ", ".join(fields) or "none", typing.get_type_hints(kind)
    given = {}
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals or field not in fields:
            raise OptionError(f"--set {setting} can't be: write FIELD=VALUE; the fields of {name!r} are {known}.")
        given[field] = set_value(setting, value, several=_takes_several(hints[field]))
    for field, one in fields.items():
        if field not in given and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise OptionError(f"{name!r} has no default for its field {field!r}: give it with --set {field}=VALUE.")
    return given


def _takes_several(hint: Any) -> bool:
    """Whether a field is a tuple, or may be one."""
    return any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))


# Which files


@contextmanager
def _files(part: Part, name: str, data: Sequence[str], console: Console) -> Iterator[list[Path]]:
    """The files to check a modality with, for as long as the block runs; none for other parts."""
    if not isinstance(part, Modality):
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        if data:
            yield _some(part, told(find_union(data, {ONLY: part}), console), Path(folder))
        else:
            yield _depicted(part, name, Path(folder))


def _depicted(modality: Modality, name: str, folder: Path) -> list[Path]:
    """Files of the sample world.

    Raises:
        OptionError: the modality depicts nothing, or breaks while it does.
    """
    if type(modality).depict is Modality.depict:
        raise OptionError(
            f"{name!r} has no method `depict(scene, path)` that would make files to check it with: give --data."
        )
    try:
        return depicted(modality, folder, MOST)
    except Exception as error:  # a stranger's method may raise anything
        raise OptionError(
            f"{type(modality).__name__}.depict breaks ({type(error).__name__}: {error}): mend it, or give --data."
        ) from error


def _some(modality: Modality, samples: Sequence[Sample], folder: Path) -> list[Path]:
    """The first few files that can be read, what is stored in archives and tables as files of their own.

    Raises:
        DataError: nothing can be learnt from them, where the modality must.
        OptionError: there are too few.
    """
    sources = {(one.path, one.stored): one for sample in samples for one in sample.sources.values()}
    first = list(sources.values())[:TRIED]
    paths = [path for number, one in enumerate(first) if (path := _own_file(one, folder, number)) is not None]
    ready = _prepared(modality, paths)
    files = list(itertools.islice((path for path in paths if _reads(ready, path)), MOST))
    if len(files) < LEAST:
        raise OptionError(
            f"--data: of the first {len(first)} files {len(files)} can be read, and the checks need {LEAST}: "
            f"give a place with more."
        )
    return files


def _own_file(source: Source, folder: Path, number: int) -> Path | None:
    """The file of a source, or a copy where it is stored in another one; None if that is damaged."""
    if source.stored is None:
        return source.path
    try:
        with opened(source) as own:
            return Path(shutil.copyfile(own.path, folder / f"{number:02d}-{Path(source.name).name}"))
    except ReadError:
        return None


def _prepared(modality: Modality, paths: Sequence[Path]) -> Modality:
    try:
        return modality.prepare([source_of(modality, path) for path in paths])
    except MmimError:
        raise
    except Exception:  # the checks meet it again, and say where
        return modality


def _reads(modality: Modality, path: Path) -> bool:
    """Whether a file is not refused."""
    try:
        modality.read(source_of(modality, path), None)
    except ReadError:
        return False
    except Exception:  # the checks meet it again, and say where
        return True
    return True


# What is said


def _told(console: Console, checks: Sequence[Check], found: Iterator[Outcome]) -> list[Outcome]:
    """Run the checks, and say what became of each as soon as it is known."""
    width, done = max(len(check.__name__) for check in checks), list[Outcome]()
    for check in checks:
        with console.status(check.__name__), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checks look at what comes out
            done.append(next(found))
        console.print(_line(done[-1], width))
        if done[-1].result == "failed":
            console.print(_details(done[-1]))
    return done


def _line(outcome: Outcome, width: int) -> Table:
    """Name, result, and the reason of a waiver."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=width, no_wrap=True)
    table.add_column(width=6)
    table.add_column()
    table.add_row(outcome.check, Text(outcome.result, STYLES[outcome.result]), Text(outcome.reason))
    return table


def _details(outcome: Outcome) -> Table:
    """What was expected, what came, and where to look."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=12, justify="right")
    table.add_column(overflow="fold")
    for what, said in (("expected", outcome.expected), ("came", outcome.came), ("look at", outcome.look_at)):
        table.add_row(Text(what, "dim"), Text(" ".join(said.split())))
    return table
