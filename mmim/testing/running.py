"""Running checks, with waivers."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mmim.errors import OptionError
from mmim.modality import Modality
from mmim.parts import Part
from mmim.testing.example import source_of
from mmim.testing.failure import CheckFailure

Check = Callable[..., None]
"""`check(modality, files)`, or `check(part)` of any other axis."""
Waivers = Mapping[str, str]
"""Why a property need not hold, by the name of its check."""


@dataclass(frozen=True)
class Outcome:
    """What became of one check.

    reason   of the waiver
    expected, came, look_at  of a failure, as in `CheckFailure`; an exception of the part itself came with its type and
             text, and `look_at` is the line that raised it
    """

    check: str
    result: Literal["passed", "waived", "failed"]
    reason: str = ""
    expected: str = ""
    came: str = ""
    look_at: str = ""


def run(check: Check, part: Part, files: Sequence[Path] = (), waivers: Waivers | None = None) -> None:
    """Run one check; if it is waived, see that it fails. Torch's generator is left as it was.

    files: of a modality, three or more; other parts need none. waivers: None means the part's own.

    Raises:
        CheckFailure: the property does not hold, or it holds and is waived.
        OptionError: a waiver without a reason, or files for a part that reads none.
        Exception: whatever the part raises by itself.
    """
    waivers = part.waivers if waivers is None else waivers
    with torch.random.fork_rng(devices=[]):  # torch's loader draws a seed whenever it starts
        _run(check, *_handed(part, files), waivers=waivers)


def _handed(part: Part, files: Sequence[Path]) -> tuple[Any, ...]:
    """What a check is called with: a modality has learnt what it must of the files."""
    if isinstance(part, Modality):
        return part.prepare([source_of(part, file) for file in files]), files
    if files:
        raise OptionError(f"The checks of a {part.axis} read no files, and {len(files)} are given: leave them out.")
    return (part,)


def _run(check: Check, *handed: Any, waivers: Waivers) -> None:
    name = check.__name__
    if name not in waivers:
        check(*handed)
        return
    if not waivers[name].strip():
        raise OptionError(f"The waiver of {name} gives no reason: say why it can't hold.")
    try:
        check(*handed)
    except Exception:
        return
    raise CheckFailure(f"{name} to fail, since it is waived ({waivers[name]})", "a pass: remove the waiver", "waivers")


def run_all(
    checks: Sequence[Check], part: Part, files: Sequence[Path] = (), waivers: Waivers | None = None
) -> list[Outcome]:
    """Run every check and collect what became of each.

    Raises:
        OptionError: a waiver names no check.
    """
    return list(outcomes(checks, part, files, waivers))


def outcomes(
    checks: Sequence[Check], part: Part, files: Sequence[Path] = (), waivers: Waivers | None = None
) -> Iterator[Outcome]:
    """The same one after the other, as soon as each is known."""
    waivers = part.waivers if waivers is None else waivers
    names = [check.__name__ for check in checks]
    if unknown := [name for name in waivers if name not in names]:
        raise OptionError(f"A waiver names the check {unknown[0]!r}; there are {', '.join(names)}.")
    for check in checks:
        yield _outcome(check, part, files, waivers)


def _outcome(check: Check, part: Part, files: Sequence[Path], waivers: Waivers) -> Outcome:
    name = check.__name__
    try:
        run(check, part, files, waivers)
    except CheckFailure as failure:
        return Outcome(name, "failed", expected=failure.expected, came=str(failure.came), look_at=failure.look_at)
    except (Exception, SystemExit) as error:  # a part may break in any way, and the table is to say how
        came = f"{type(error).__name__}: {error}"
        return Outcome(name, "failed", expected="no exception", came=came, look_at=_raised_at(error, part))
    return Outcome(name, "passed") if name not in waivers else Outcome(name, "waived", waivers[name])


def _raised_at(error: BaseException, part: Part) -> str:
    """The innermost line of the part's own module that the exception passed, or else the one that raised it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [found for found in frames if found[0].f_globals.get("__name__") == type(part).__module__]
    frame, line = (own or frames)[-1]
    return f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
