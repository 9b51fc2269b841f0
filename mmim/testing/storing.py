"""What every part must survive: a pickle on its way to a worker, and a recipe file. Each axis has checks of these."""

import dataclasses
import json
import pickle
import typing
from typing import Any, TypeVar

import yaml

from mmim.config import from_fields, from_plain, to_plain
from mmim.parts import Part
from mmim.testing.failure import CheckFailure, require

P = TypeVar("P", bound=Part)


def require_pickling(part: P) -> P:
    """The part that comes out of a pickle, and is equal."""
    copy: P = pickle.loads(pickle.dumps(part))
    require(copy == part, "an equal part out of a pickle", copy, part, "__eq__")
    return copy


def require_plain_fields(part: Part) -> None:
    """Equal fields come out of `recipe.yaml` and of `config.json`, each alone and all together."""
    hints = typing.get_type_hints(type(part))
    names = [field.name for field in dataclasses.fields(part)]  # type: ignore[arg-type]
    for name in names:
        _require_field(part, name, hints[name])
    again: Part = from_fields(type(part), {name: to_plain(getattr(part, name)) for name in names})
    require(again == part, f"{part} of its own fields", again, part, "__post_init__")


def _require_field(part: Part, name: str, kind: Any) -> None:
    value = getattr(part, name)
    try:
        found = [from_plain(kind, plain, name) for plain in _written(to_plain(value))]
    except Exception as error:  # a type that plain data know nothing of may break in any way
        said = f"{type(error).__name__}: {error}"
        expected = f"a field of numbers, words, paths, parts, and tuples and dicts of these, not {value!r}"
        raise CheckFailure(expected, said, f"{type(part).__name__}.{name}") from error
    for back in found:
        require(back == value, f"{value!r} out of a recipe file", repr(back), part, name)


def _written(plain: Any) -> tuple[Any, Any]:
    """The same out of a recipe file and out of a checkpoint's."""
    return yaml.safe_load(yaml.safe_dump(plain, sort_keys=False)), json.loads(json.dumps(plain))
