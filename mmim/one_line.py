"""tyro's boxed messages as one line."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from typing import TypeVar

from mmim.errors import OptionError

T = TypeVar("T")


def one_line(parse: Callable[[], T], help_command: str) -> T:
    """Run tyro; what it says of a wrong command line becomes an OptionError. `--help` exits as it does.

    Raises:
        OptionError: the first paragraph of the message, and the options that it proposes.
    """
    said = io.StringIO()
    try:
        with _wide(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return parse()
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise OptionError(f"{_first_paragraph(said.getvalue())} `{help_command}` lists the options.") from None
    try:
        return parse()  # --help, once more in the terminal's own width
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """A terminal so wide that tyro breaks no word at its edge."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _first_paragraph(box: str) -> str:
    """What stands between the title of the box and its first rule; tyro draws it in Unicode or in ASCII."""
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]
    text = " ".join("\n" if re.fullmatch("[─╰╯-]+", line) else line for line in lines)
    paragraphs = [" ".join(part.split()) for part in text.split("\n") if part.strip()]
    proposed = re.findall(r"(--[\w.-]+)", paragraphs[1]) if len(paragraphs) > 1 and "meant" in paragraphs[1] else []
    nearest = sorted(dict.fromkeys(proposed), key=lambda option: -SequenceMatcher(None, paragraphs[0], option).ratio())
    hint = f" Did you mean {' or '.join(nearest[:3])}?" if nearest else ""
    return f"{paragraphs[0].rstrip('.')}.{hint}"
