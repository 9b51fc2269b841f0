"""A tree of frozen dataclasses to plain data and back, for `recipe.yaml` and a checkpoint's `config.json`.

A part is written as its name and its fields (`{"kind": "tube", ...}`), so that nothing is ever unpickled.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from mmim.errors import OptionError, expect
from mmim.parts import Part, lookup, name_of

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dicts, lists, strings and numbers for a dataclass tree."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = plain_fields(value)
        return {"kind": name_of(type(value)), **fields} if isinstance(value, Part) else fields
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass alone, so that a part needs no name."""
    return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def set_value(setting: str, value: str, *, several: bool) -> Any:
    """The plain data of the value of a `--set`; where a field takes several, also without brackets: `size=32,64`.

    Raises:
        OptionError: it is no value.
    """
    try:
        return yaml.safe_load(f"[{value}]" if several and not value.startswith("[") else value)
    except yaml.YAMLError as error:
        raise OptionError(f"--set {setting}: {value!r} can't be read as a value.") from error


def from_plain(kind: Any, value: Any, where: str = "") -> Any:
    """The value of an annotated type from plain data.

    Raises:
        OptionError: an unknown field or kind, or a value of another type; the message says where.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return from_plain(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is typing.Literal:
        expect(value in args, value, f"one of {', '.join(map(str, args))}", where)
        return value
    if origin is dict:
        expect(isinstance(value, Mapping), value, "a mapping", where)
        return {key: from_plain(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        expect(isinstance(value, list | tuple), value, "a list", where)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        expect(len(kinds) == len(value), value, f"a list of {len(kinds)}", where)
        return tuple(
            from_plain(item, part, f"{where}.{i}") for i, (item, part) in enumerate(zip(kinds, value, strict=True))
        )
    if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, Part)):
        expect(isinstance(value, Mapping), value, "a mapping", where)
        return _dataclass(kind, dict(value), where)
    if kind is float:
        expect(isinstance(value, int | float) and not isinstance(value, bool), value, "a number", where)
        return float(value)
    if kind in (int, str, bool):
        expect(type(value) is kind, value, f"of type {kind.__name__}", where)
        return value
    if kind is Path:
        expect(isinstance(value, str), value, "a path", where)
    return kind(value)


def _dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    if issubclass(kind, Part):
        if "kind" not in value:
            raise OptionError(f"{where or 'A part'} lacks its 'kind', the name of a {kind.axis}.")
        kind = lookup(kind.axis, value.pop("kind"))
    return from_fields(kind, value, where)


def from_fields(kind: type[T], value: Mapping[str, Any], where: str = "") -> T:
    """A dataclass of this very type from the plain data of its fields.

    Raises:
        OptionError: an unknown field, or a value of another type; the message says where.
    """
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(value) - known):
        raise OptionError(
            f"{where or kind.__name__} has no field {', '.join(unknown)}; there are {', '.join(sorted(known))}."
        )
    return kind(**{name: from_plain(hints[name], item, f"{where}.{name}".lstrip(".")) for name, item in value.items()})


def with_fields(part: T, fields: Mapping[str, Any]) -> T:
    """A copy of a part with some fields replaced; parts are dataclasses, their abstract classes are not."""
    return dataclasses.replace(part, **fields)  # type: ignore[type-var, return-value]


def replace_at(tree: T, path: str, value: Any) -> T:
    """A copy of a dataclass tree with the field at a dotted path replaced (dict keys are steps of the path too).

    Raises:
        OptionError: there is no such field; the message lists those that there are.
    """
    head, _, rest = path.partition(".")
    if isinstance(tree, dict):
        _known(path, head, list(tree))
        return {**tree, head: replace_at(tree[head], rest, value) if rest else value}  # type: ignore[return-value]
    if not dataclasses.is_dataclass(tree):
        raise OptionError(f"{path} can't be set: {tree!r} has no fields.")
    _known(path, head, [field.name for field in dataclasses.fields(tree)])
    inner = replace_at(getattr(tree, head), rest, value) if rest else value
    return dataclasses.replace(tree, **{head: inner})  # type: ignore[type-var, return-value]


def _known(path: str, head: str, there: list[str]) -> None:
    if head not in there:
        raise OptionError(f"There is no field {head!r} to set {path!r}; there are {', '.join(there) or 'none'}.")
