"""How a command ends: a user's mistake is one line on stderr and exit code 2."""

import errno
import io
import os
import sys
from collections.abc import Callable

from rich.console import Console

from mmim.errors import MmimError, TrainingError


def is_main_process() -> bool:
    """Whether this process speaks for all, known before the processes meet."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """Where a command speaks: the main process only, in the terminal's width, or 100 columns where there is none.

    File names need be no text: bytes that the terminal can't show are escaped, so that none of them ends a run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Console(quiet=not is_main_process(), width=None if sys.stdout.isatty() else 100)


_SURROUNDINGS = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT}
"""What the machine refuses us: permissions, full and read-only disks."""


def finish(work: Callable[[], None], interrupted: str = "interrupted") -> None:
    """Run a command and exit: 0, or 2 with one line for an error raised on purpose, or 130 when `interrupted`.

    Anything else is a fault of ours and keeps its traceback.
    """
    try:
        work()
    except MmimError as error:
        _say(f"error: {' '.join(str(error).split())}", everywhere=not isinstance(error, TrainingError))
        sys.exit(2)
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        _say(f"error: {error}", everywhere=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _say(interrupted)
        sys.exit(130)


def _say(line: str, everywhere: bool = False) -> None:
    """On the main process; once processes have met, also on another that failed alone."""
    distributed = sys.modules.get("torch.distributed")
    met = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if is_main_process():
        print(line, file=sys.stderr, flush=True)
    elif everywhere and met:
        print(f"[process {os.environ['RANK']}] {line}", file=sys.stderr, flush=True)
