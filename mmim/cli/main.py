"""`mmim COMMAND`: one function a command; tyro makes the options from its signature."""

import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import tyro

from mmim import command
from mmim.cli.check import check
from mmim.cli.embed import embed
from mmim.cli.export import export
from mmim.cli.import_ import import_
from mmim.cli.list_ import list_
from mmim.cli.new import new
from mmim.cli.probe import probe
from mmim.cli.retrieve import retrieve
from mmim.cli.sample_data import sample_data
from mmim.one_line import one_line

COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "embed": embed,
    "export": export,
    "import": import_,
    "list": list_,
    "new": new,
    "probe": probe,
    "retrieve": retrieve,
    "sample-data": sample_data,
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    args = list(sys.argv[1:] if argv is None else argv)

    command.finish(lambda: _chosen(args)())


def _chosen(args: list[str]) -> Callable[[], None]:
    """The command with its arguments bound, so that only what tyro itself says is turned into one line."""
    chosen: Callable[[], None] = one_line(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: _bound(function) for name, function in COMMANDS.items()},
            prog="mmim",
            description="Masked modelling over any mixture of modalities. Training: accelerate launch recipes/NAME.py",
            args=args or ["--help"],
        ),
        f"mmim {args[0] if args and args[0] in COMMANDS else ''} --help".replace("  ", " "),
    )
    return chosen


def _bound(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    @wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return partial(function, *args, **kwargs)

    bind.__annotations__ = {**function.__annotations__, "return": Callable[[], None]}
    return bind
