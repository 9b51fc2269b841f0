"""From a recipe and a command line to a checked recipe.

Precedence, lowest first: the recipe, the size, the demo (without --data), `--config FILE`, the command line. A size
asked for on the command line sets its widths, depths and heads above the demo and the config; what else it brings (the
published batch) stays below them.
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
from mmim.using import using

Overrides = Mapping[str, Any]
"""Values by dotted path, such as {"encoder.width": 384}."""


def parse(recipe: Recipe, argv: Sequence[str], sizes: Mapping[str, Overrides], demo: Overrides) -> Recipe:
    """The recipe that a command line asks for.

    Raises:
        OptionError: an option that is unknown or can't be; one line.
    """
    args = list(argv)
    plain = _config(_peek(args, "config"))
    if "use" in plain:
        plain["use"] = _names_in(plain["use"])
    asked, length = _peek(args, "size"), _length(args)
    about = _demo(demo)
    if _data(args, plain) or {"-h", "--help"} & set(args):  # the help shows the paper's values
        demo = {}
    size = asked if asked is not None else plain.get("size") or demo.get("size", recipe.size)
    preset = _size(sizes, size) if size or asked is not None else {}
    recipe = apply(recipe, preset | {"size": size})
    recipe = apply(recipe, {path: value for path, value in demo.items() if path != "size"})
    whole, use = recipe, _words(args, "use")
    recipe = _using(recipe, plain.get("use") or ())
    if plain:
        recipe = from_plain(type(recipe), merge(to_plain(recipe), _one_length(plain)))
    recipe = _using(recipe, use, whole)
    preset = {path: value for path, value in preset.items() if not _left_out(path, whole, recipe)}
    before = dict(parts_of(recipe))
    recipe, args = exchange(recipe, args)
    if asked is not None:
        exchanged = [path for path, part in parts_of(recipe) if path in before and type(part) is not type(before[path])]
        recipe = _resized(recipe, preset, size, exchanged)
    renewed = {name: () for name in ("data", "weight") if _peek(args, name) is not None}  # not behind the config's
    recipe = _cli(apply(recipe, length | renewed), args, _description(recipe, sizes) + about)
    recipe.check()
    return recipe


def _names_in(use: Any) -> list[str]:
    """The modalities that a config names under `use`: a list, or names between commas.

    Raises:
        OptionError: they are something else.
    """
    names = use.split(",") if isinstance(use, str) else use or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise OptionError(f"The --config has `use: {use}`: it must be a list of names, such as [one, other].")
    return [name.strip() for name in names if name.strip()]


def _using(recipe: Recipe, use: Sequence[str], whole: Recipe | None = None) -> Recipe:
    """The recipe with the modalities that `--use` names.

    Raises:
        OptionError: as `using`; or `whole`, the recipe before its config, has a modality that the config leaves out.
    """
    if not use:
        return recipe
    if gone := [name for name in use if whole and name in whole.modalities and name not in recipe.modalities]:
        raise OptionError(f"--use {gone[0]}: the --config leaves it out. Name it in the file's `use` as well.")
    chosen = using(recipe, use)
    everything = list(chosen.modalities) == list((whole or recipe).modalities)
    return dataclasses.replace(chosen, use=() if everything else tuple(chosen.modalities))


def _left_out(path: str, whole: Recipe, recipe: Recipe) -> bool:
    """Whether a dotted path leads to something that `--use` leaves out."""
    field, _, rest = path.partition(".")
    before, name = getattr(whole, field), rest.split(".")[0]
    return isinstance(before, dict) and name in before and name not in getattr(recipe, field)


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
    """Carry out every `--path NAME` that names another part (`--budget ratio`); the options that are left come back.

    A part of the kind that is there already keeps its fields; one of another kind gets those that both have from the
    same class below them (a frame of a video is cut as the picture was). A part inside of one that was exchanged is
    looked at too.
    """
    rest, asked = list(args), set[str]()
    while fresh := [(path, part) for path, part in parts_of(recipe) if path not in asked]:
        path, part = fresh[0]  # the outer ones come first
        asked.add(path)
        name = _take(rest, path)
        if name is not None and (kind := lookup(part.axis, name)) is not type(part):
            try:
                recipe = replace_at(recipe, path, kind(**_in_common(part, kind)))
            except TypeError as error:
                raise OptionError(f"--{path} {name} can't stand alone: {error}. Set it in a recipe file.") from error
    return recipe, rest


def _in_common(part: Part, kind: type[Part]) -> dict[str, Any]:
    """The fields of a part that it has from a class which another kind extends as well."""
    shared = [base for base in kind.__mro__ if dataclasses.is_dataclass(base) and isinstance(part, base)]
    names = {field.name for base in shared for field in dataclasses.fields(base)}
    return {name: getattr(part, name) for name in names}


def _cli(recipe: Recipe, args: list[str], about: str) -> Recipe:
    script = Path(sys.argv[0]).name
    return one_line(
        lambda: tyro.cli(type(recipe), default=recipe, args=args, description=about, prog=script),
        f"python {script} --help",
    )


def _description(recipe: Recipe, sizes: Mapping[str, Overrides]) -> str:
    lines = [f"{recipe.name}: every field below is an option.", ""]
    if sizes:
        lines += [f"--size {{{','.join(sizes)}}} sets widths, depths, heads and, if nothing else does, the batch.", ""]
    lines += ["Parts to exchange by name:"]
    lines += [
        f"  --{path} {{{','.join(names(part.axis))}}}" for path, part in parts_of(recipe) if part.axis != "modality"
    ]
    return "\n".join(lines)


def _demo(demo: Overrides) -> str:
    if not demo:
        return ""
    values = ", ".join(f"--{path.replace('_', '-')} {value}" for path, value in demo.items())
    return f"\n\nWithout --data the demo runs, with other defaults than those below: {values}."


def as_now(plain: dict[str, Any]) -> dict[str, Any]:
    """A recipe.yaml as it is written now; earlier ones had one place of data or none, and no weights."""
    data = plain.get("data", ())
    several = data if isinstance(data, list | tuple) else [] if data is None else [data]
    return {**plain, "data": list(several), "weight": plain.get("weight") or []}


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
    return as_now(plain) if "data" in plain else plain


def _size(sizes: Mapping[str, Overrides], size: Any) -> dict[str, Any]:
    if str(size) not in sizes:
        raise OptionError(f"--size {size or repr(size)} is not one of {', '.join(sizes)}.")
    return dict(sizes[size])


def _resized(recipe: Recipe, preset: Overrides, size: str, exchanged: list[str]) -> Recipe:
    """The recipe with what a size says of the parts, the batch aside.

    Raises:
        OptionError: another option exchanges one of these parts for one that has no such field.
    """
    for path, value in preset.items():
        chosen = next((part for part in exchanged if f"{path}.".startswith(f"{part}.")), None)
        clash = OptionError(f"--size {size} sets {path}, and --{chosen} chooses another part: leave one of them out.")
        if isinstance(value, Part) and chosen:
            raise clash
        try:
            recipe = replace_at(recipe, path, value) if "." in path or isinstance(value, Part) else recipe
        except OptionError:
            if chosen is None:
                raise
            raise clash from None
    return recipe


def _data(args: list[str], plain: Mapping[str, Any]) -> Sequence[str]:
    """Where the data are, if the command line or the config says it."""
    data = _peek_all(args, "data") or [str(place) for place in plain.get("data", ())]
    if any(str(place).strip() in ("", "None") for place in data):
        raise OptionError("--data names nothing: give a folder or a list of files, or leave --data out for the demo.")
    return data


def _length(args: list[str]) -> dict[str, Any]:
    """Epochs asked for on the command line are not to be outranked by steps from below."""
    steps, epochs = _peek(args, "steps"), _peek(args, "epochs")
    if epochs is None:
        return {}
    if steps not in (None, "None"):
        raise OptionError(f"--steps {steps} and --epochs {epochs} are two lengths of one run: give one of them.")
    return {"steps": None}


def _one_length(plain: dict[str, Any]) -> dict[str, Any]:
    """The same for a config that names epochs alone."""
    return {"steps": None, **plain} if "epochs" in plain else plain


def _peek(args: list[str], option: str) -> str | None:
    """The value of an option, left where it is."""
    return _take(list(args), option)


def _peek_all(args: list[str], option: str) -> list[str]:
    """All values of an option that may come several times."""
    return _take_all(list(args), option)


def _take(args: list[str], option: str) -> str | None:
    """Remove every `--option VALUE` and `--option=VALUE`; the last value wins."""
    return next(reversed(_take_all(args, option)), None)


def _take_all(args: list[str], option: str) -> list[str]:
    """Remove every `--option VALUE` and `--option=VALUE`. Dashes and underscores are alike.

    As for tyro, a word that starts with a dash is a value only if it is a number, or after `=`.

    Raises:
        OptionError: the value is missing.
    """
    found, flag, i = list[str](), option.replace("_", "-"), 0
    while i < len(args):
        word, equals, value = args[i].partition("=")
        if word.replace("_", "-") != f"--{flag}":
            i += 1
        elif equals:
            found.append(value)
            del args[i]
        elif i + 1 < len(args) and (not args[i + 1].startswith("-") or _is_number(args[i + 1])):
            found.append(args[i + 1])
            del args[i : i + 2]
        else:
            dash = f" One that starts with a dash is written --{flag}=-..." if i + 1 < len(args) else ""
            raise OptionError(f"--{flag} needs a value.{dash}")
    return found


def _words(args: list[str], option: str) -> tuple[str, ...]:
    """Remove every `--option ONE,OTHER` and `--option ONE OTHER`; the last one's words.

    Raises:
        OptionError: there are none behind it.
    """
    found: list[list[str]] = []
    i = 0
    while i < len(args):
        word, equals, value = args[i].partition("=")
        if word.replace("_", "-") != f"--{option}":
            i += 1
            continue
        stop = next((j for j in range(i + 1, len(args)) if equals or args[j].startswith("-")), len(args))
        words = [value] if equals else args[i + 1 : stop]
        del args[i : i + 1 if equals else stop]
        found.append([name for each in words for name in each.split(",") if name])
        if not found[-1]:
            raise OptionError(f"--{option} needs names, such as --{option} one,other.")
    return tuple(found[-1]) if found else ()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
