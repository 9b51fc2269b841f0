import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import tyro

from mmim.errors import OptionError
from mmim.one_line import one_line

HELP = "`clip --help` lists the options."


@dataclass
class Options:
    depth: int = 2
    """Of the encoder."""
    width: int = 8
    """Of a token."""


@dataclass
class Needs:
    size: int
    """Of a frame."""


def ask(kind: type, *args: str) -> object:
    return tyro.cli(kind, args=args, prog="clip")


@contextlib.contextmanager
def boxes(encoding: str) -> Iterator[None]:
    """tyro draws its boxes with lines where stdout can show them, else with dashes and blanks.

    No fixture, since pytest sets stdout anew before each test.
    """
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding=encoding)):
        with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit):
            ask(Options, "--nonsense", "1")
        assert said.getvalue().isascii() == (encoding == "ascii")
        yield


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (Options, ["--dpeth", "1"], f"Unrecognized options: --dpeth, 1. Did you mean --depth? {HELP}"),
        (Options, ["--nonsense", "1"], f"Unrecognized options: --nonsense, 1. {HELP}"),
        (Options, ["stray"], f"Unrecognized options: stray. {HELP}"),
        (
            Options,
            ["--depth", "two"],
            f"Error parsing --depth: invalid literal for int() with base 10: 'two'. {HELP}",
        ),
        (
            Options,
            ["--depth", "a value of so many words that they do not fit on one line"],
            "Error parsing --depth: invalid literal for int() with base 10: "
            f"'a value of so many words that they do not fit on one line'. {HELP}",
        ),
    ],
    ids=["misspelt", "unknown", "stray", "value", "longer than a line"],
)
def test_what_tyro_says_becomes_one_line(kind, args, message, encoding):
    with boxes(encoding), contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(OptionError) as error:
        one_line(lambda: ask(kind, *args), "clip --help")
    assert str(error.value) == message
    assert said.getvalue() == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_option_that_is_missing_is_named(encoding):
    with boxes(encoding), pytest.raises(OptionError, match=r"^Missing from clip: --size INT[^\n]*$"):
        one_line(lambda: ask(Needs), "clip --help")


def test_what_tyro_understands_comes_back():
    assert one_line(lambda: ask(Options, "--depth", "5"), "clip --help") == Options(depth=5)


def test_help_exits_as_it_does():
    with pytest.raises(SystemExit, match="0"):
        one_line(lambda: ask(Options, "--help"), "clip --help")


def test_help_whose_reader_has_read_enough_ends_without_a_word():
    code = "from mmim.cli.main import main; main(['check', '--help'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
