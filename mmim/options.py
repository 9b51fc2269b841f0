"""From a recipe and a command line to a checked recipe.

Precedence, lowest first: the recipe, `--size`, the demo (without --data), `--config FILE`, the command line.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml

from mmim.config import from_plain, replace_at, to_plain
from mmim.errors import OptionError
from mmim.one_line import one_line
from mmim.parts import Part, lookup, names
from mmim.training.recipe import Recipe

Overrides = Mapping[str, Any]
"""Values by dotted path, such as {"encoder.width": 384}."""


def parse(recipe: Recipe, argv: Sequence[str], sizes: Mapping[str, Overrides], demo: Overrides) -> Recipe:
    """The recipe that a command line asks for.

    Raises:
        OptionError: an option that is unknown or can't be; one line.
    """
    args = list(argv)
    plain = _config(_peek(args, "config"))
    size = _peek(args, "size") or plain.get("size")
    data = _peek(args, "data") or plain.get("data")
    size = size or (recipe.size if data else demo.get("size", recipe.size))
    recipe = apply(recipe, _size(sizes, size) | {"size": size})
    if not data:
        recipe = apply(recipe, {path: value for path, value in demo.items() if path != "size"})
    if plain:
        recipe = from_plain(type(recipe), merge(to_plain(recipe), plain))
    recipe, args = exchange(recipe, args)
    recipe = _cli(recipe, args, sizes)
    recipe.check()
    return recipe


def apply(recipe: Recipe, overrides: Overrides) -> Recipe:
    """A recipe with some of its fields replaced."""
    for path, value in overrides.items():
        recipe = replace_at(recipe, path, value)
    return recipe


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data over plain data, field by field; a part of another kind replaces the whole part."""
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        same_kind = (
            isinstance(old, dict)
            and isinstance(value, Mapping)
            and old.get("kind") == value.get("kind", old.get("kind"))
        )
        merged[key] = merge(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def parts_of(tree: Any, path: str = "") -> Iterator[tuple[str, Part]]:
    """Every exchangeable part of a recipe with its dotted path."""
    if isinstance(tree, Part):
        yield path, tree
    if isinstance(tree, dict):
        inner = tree.items()
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        inner = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}.items()
    else:
        return
    for name, value in inner:
        yield from parts_of(value, f"{path}.{name}".lstrip("."))


def exchange(recipe: Recipe, args: list[str]) -> tuple[Recipe, list[str]]:
    """Carry out every `--path NAME` that names another part (`--budget ratio`); the options that are left come back."""
    rest = list(args)
    for path, part in parts_of(recipe):
        name = _take(rest, path)
        if name is not None:
            kind = lookup(part.axis, name)
            try:
                recipe = replace_at(recipe, path, kind())
            except TypeError as error:
                raise OptionError(f"--{path} {name} can't stand alone: {error}. Set it in a recipe file.") from error
    return recipe, rest


def _cli(recipe: Recipe, args: list[str], sizes: Mapping[str, Overrides]) -> Recipe:
    script = Path(sys.argv[0]).name
    about = _description(recipe, sizes)
    return one_line(
        lambda: tyro.cli(type(recipe), default=recipe, args=args, description=about, prog=script),
        f"python {script} --help",
    )


def _description(recipe: Recipe, sizes: Mapping[str, Overrides]) -> str:
    lines = [f"{recipe.name}: every field below is an option.", ""]
    if sizes:
        lines += [f"--size {{{','.join(sizes)}}} sets widths, depths and heads together.", ""]
    lines += ["Parts to exchange by name:"]
    lines += [
        f"  --{path} {{{','.join(names(part.axis))}}}" for path, part in parts_of(recipe) if part.axis != "modality"
    ]
    return "\n".join(lines)


def _config(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        plain = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"--config {file} can't be read: {' '.join(str(error).split())}.") from error
    if not isinstance(plain, dict):
        raise OptionError(
            f"--config {file} holds {type(plain).__name__}, not fields: "
            "give it `name: value` lines, such as a run's recipe.yaml."
        )
    return plain


def _size(sizes: Mapping[str, Overrides], size: str) -> dict[str, Any]:
    if size and size not in sizes:
        raise OptionError(f"--size {size} is not one of {', '.join(sizes)}.")
    return dict(sizes[size]) if size else {}


def _peek(args: list[str], option: str) -> str | None:
    """The value of an option, left where it is."""
    return _take(list(args), option)


def _take(args: list[str], option: str) -> str | None:
    """Remove every `--option VALUE` and `--option=VALUE`; the last value wins. Dashes and underscores are alike."""
    found, flag, i = None, option.replace("_", "-"), 0
    while i < len(args):
        word, equals, value = args[i].partition("=")
        if word.replace("_", "-") != f"--{flag}":
            i += 1
        elif equals:
            found = value
            del args[i]
        elif i + 1 < len(args) and not args[i + 1].startswith("--"):
            found = args[i + 1]
            del args[i : i + 2]
        else:
            raise OptionError(f"--{option} needs a value.")
    return found
