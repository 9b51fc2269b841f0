import contextlib
import io
import sys
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


@pytest.fixture(params=["utf-8", "ascii"], autouse=True)
def boxes(request, monkeypatch):
    """tyro draws its boxes with lines where stdout can show them, else with dashes and blanks (under capsys too)."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=request.param))
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit):
        ask(Options, "--nonsense", "1")
    assert said.getvalue().isascii() == (request.param == "ascii")


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
            [f"--nonsense-{i}" for i in range(20)],
            f"Unrecognized options: {', '.join(f'--nonsense-{i}' for i in range(20))}. {HELP}",
        ),
    ],
    ids=["misspelt", "unknown", "stray", "value", "longer than a line"],
)
def test_what_tyro_says_becomes_one_line(kind, args, message):
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(OptionError) as error:
        one_line(lambda: ask(kind, *args), "clip --help")
    assert str(error.value) == message
    assert said.getvalue() == ""


def test_an_option_that_is_missing_is_named():
    with pytest.raises(OptionError, match=r"^Missing from clip: --size INT[^\n]*$"):
        one_line(lambda: ask(Needs), "clip --help")


def test_what_tyro_understands_comes_back():
    assert one_line(lambda: ask(Options, "--depth", "5"), "clip --help") == Options(depth=5)


def test_help_exits_as_it_does():
    with pytest.raises(SystemExit, match="0"):
        one_line(lambda: ask(Options, "--help"), "clip --help")
