"""How a command ends: a user's mistake is one line on stderr and exit code 2."""

import os
import sys
from collections.abc import Callable

from rich.console import Console

from mmim.errors import MmimError


def is_main_process() -> bool:
    """Whether this process speaks for all, known before the processes meet."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """Where a command speaks: the main process only, in the terminal's width, or 100 columns where there is none."""
    return Console(quiet=not is_main_process(), width=None if sys.stdout.isatty() else 100)


def finish(work: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Run a command and exit: 0, or 2 with one line for an error raised on purpose, or 130 when `interrupted`.

    Anything else is a fault of ours and keeps its traceback.
    """
    try:
        work()
    except MmimError as error:
        _say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say(interrupted)
        sys.exit(130)


def _say(line: str) -> None:
    if is_main_process():
        print(line, file=sys.stderr, flush=True)
