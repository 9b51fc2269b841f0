"""`mmim new`."""

import ast
import importlib.util
import keyword
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mmim import command
from mmim.errors import OptionError
from mmim.parts import OTHER_COLUMNS, check_name, names

Kind = Literal["image", "series", "points", "tokens"]
KINDS: dict[Kind, tuple[str, str]] = {
    "image": (".png", "pixels"),
    "series": (".csv", "numbers"),
    "points": (".ply", "cloud"),
    "tokens": (".txt", "ids"),
}
"""The suffix of each kind's files, and the method that says what a file holds."""


def new(name: Annotated[str, tyro.conf.Positional], like: Kind, out: Path = Path()) -> None:
    """Write a small project with a modality of your own in one file, which works as it stands.

    The folder NAME holds NAME.py, a test, a README and a pyproject.toml that makes the modality known to mmim.

    Args:
        name: of the modality: lower-case letters, digits and _.
        like: what it resembles: maps beside pictures, numbers over time, points in space, sequences of symbols.
        out: folder in which the folder NAME is made.
    """
    folder = out / name
    check(name, like, folder)
    for file, text in project(name, like).items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    console = command.console()
    for line in (
        f"Wrote {folder}: the modality is {name}.py, and lines marked CHANGE come first. Next:",
        f"  pip install -e {folder}",
        f"  mmim check {name}",
        "  mmim sample-data --out world --scenes 64",
        f"  accelerate launch recipes/multimae.py --use image,{name} --data world/train",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def check(name: str, like: Kind, folder: Path) -> None:
    """Refuse a name that something else has, or would get in the way of.

    Raises:
        OptionError: it can't be used, or the folder exists.
    """
    if (
        not re.fullmatch("[a-z]([a-z0-9_]*[a-z0-9])?", name)
        or keyword.iskeyword(name)
        or keyword.iskeyword(class_name(name))
    ):
        raise OptionError(
            f"The name {name!r} can't be used: use lower-case letters, digits and _, a letter first, no word of Python."
        )
    check_name(name, reserved=OTHER_COLUMNS)
    if name in names("modality"):
        raise OptionError(f"A modality {name!r} is installed already: use another name, or uninstall its package.")
    if _importable(name):
        raise OptionError(f"The name {name!r} is that of a module or package already: use another, my_{name} say.")
    if class_name(name) in _imported(_template(f"like_{like}.py")):
        raise OptionError(
            f"The name {name!r} can't be used: its class {class_name(name)} would be called as one that the file "
            f"imports. Use another, my_{name} say."
        )
    if folder.exists() or folder.is_symlink():
        raise OptionError(f"{folder} exists: use another name, or another --out.")
    if folder.parent.exists() and not folder.parent.is_dir():
        raise OptionError(f"--out {folder.parent} is a file: name a folder.")


def project(name: str, like: Kind) -> dict[str, str]:
    """The files of a project, by name."""
    suffix, method = KINDS[like]
    texts = {
        f"{name}.py": _template(f"like_{like}.py"),
        f"test_{name}.py": _template("test_newname.py"),
        "pyproject.toml": _template("project.toml"),
        "README.md": _template("README.md").replace("SUFFIX", f"7.{name}{suffix}").replace("METHOD", method),
    }
    return {file: text.replace("NewName", class_name(name)).replace("newname", name) for file, text in texts.items()}


def class_name(name: str) -> str:
    """`thermal_cam` as a class is called: ThermalCam."""
    return "".join(part.capitalize() for part in name.split("_"))


def _template(file: str) -> str:
    return (files("mmim.cli.templates") / file).read_text(encoding="utf-8")


def _imported(source: str) -> set[str]:
    """The names that a module imports."""
    imports = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom))
    return {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}


def _importable(name: str) -> bool:
    """Whether something else is imported or installed by this name."""
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        return True
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
