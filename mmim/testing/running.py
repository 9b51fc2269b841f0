"""Running checks, with waivers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from mmim.errors import OptionError
from mmim.modality import Modality
from mmim.testing.example import source_of
from mmim.testing.failure import CheckFailure

Check = Callable[[Modality, Sequence[Path]], None]
Waivers = Mapping[str, str]
"""Why a property need not hold, by the name of its check."""
NONE: Waivers = MappingProxyType({})


@dataclass(frozen=True)
class Outcome:
    """What became of one check; `said` is the failure or the reason of the waiver."""

    check: str
    result: Literal["passed", "waived", "failed"]
    said: str = ""


def run(check: Check, modality: Modality, files: Sequence[Path], waivers: Waivers = NONE) -> None:
    """Run one check; if it is waived, see that it fails. Torch's generator is left as it was.

    Raises:
        CheckFailure: the property does not hold, or it holds and is waived.
        Exception: whatever the modality raises by itself.
    """
    with torch.random.fork_rng(devices=[]):  # torch's loader draws a seed whenever it starts
        _run(check, modality.prepare([source_of(modality, file) for file in files]), files, waivers)


def _run(check: Check, modality: Modality, files: Sequence[Path], waivers: Waivers) -> None:
    name = check.__name__
    if name not in waivers:
        check(modality, files)
        return
    if not waivers[name].strip():
        raise OptionError(f"The waiver of {name} gives no reason: say why it can't hold.")
    try:
        check(modality, files)
    except Exception:
        return
    raise CheckFailure(f"{name} to fail, since it is waived ({waivers[name]})", "a pass: remove the waiver", "waivers")


def run_all(
    checks: Sequence[Check], modality: Modality, files: Sequence[Path], waivers: Waivers = NONE
) -> list[Outcome]:
    """Run every check and collect what became of each.

    Raises:
        OptionError: a waiver names no check.
    """
    names = [check.__name__ for check in checks]
    if unknown := [name for name in waivers if name not in names]:
        raise OptionError(f"A waiver names the check {unknown[0]!r}; there are {', '.join(names)}.")
    return [_outcome(check, modality, files, waivers) for check in checks]


def _outcome(check: Check, modality: Modality, files: Sequence[Path], waivers: Waivers) -> Outcome:
    try:
        run(check, modality, files, waivers)
    except Exception as error:  # a part may break in any way, and the table is to say how
        said = str(error) if isinstance(error, CheckFailure) else f"{type(error).__name__}: {error}"
        return Outcome(check.__name__, "failed", said)
    reason = waivers.get(check.__name__)
    return Outcome(check.__name__, "passed") if reason is None else Outcome(check.__name__, "waived", reason)
