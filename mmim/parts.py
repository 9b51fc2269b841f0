"""The one table of names: every exchangeable part of a method is found through its entry point.

A part is a frozen dataclass that extends one of the abstract classes below `Part`; its name on an axis is the name of
its entry point in the group `mmim.<axis>` of the distribution that brings it. mmim's own parts stand in mmim's
`pyproject.toml` in the same way as a stranger's in theirs.
"""

import difflib
import keyword
from abc import ABC
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import ClassVar, TypeVar

from torch import nn

from mmim.errors import OptionError

AXES = (
    "modality",
    "masking",
    "budget",
    "corruption",
    "target",
    "encoder",
    "decoder",
    "term",
    "optimiser",
    "schedule",
)
GROUPS = {axis: f"mmim.{axis}" for axis in AXES} | {"modality": "mmim.modalities"}

_REFUSED = frozenset(dir(nn.ModuleDict()))  # torch refuses a child module that is called as an attribute


class Part(ABC):
    """Something a recipe chooses by name. `axis` says on which axis of the literature it lies."""

    axis: ClassVar[str]

    @property
    def waivers(self) -> Mapping[str, str]:
        """Why it can't have properties that `mmim.testing` checks, by the name of the check; none by default.

        Replace it by a class attribute, or by a property where it depends on the fields. One without need fails too.
        """
        return MappingProxyType({})


P = TypeVar("P", bound=Part)
_registered: dict[tuple[str, str], type[Part]] = {}


OTHER_COLUMNS = ("joint", "id", "present")
"""Columns of embeddings beside those of modalities, none of which may be called so."""


def check_name(name: str, reserved: Collection[str] = ()) -> str:
    """The name of a modality, task, decoder or term; as a module's name and an option, not every word will do.

    Raises:
        OptionError: it is no identifier, a word of Python, an attribute of torch's ModuleDict, or `reserved`.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name in _REFUSED or name in reserved:
        known = f" and not {', '.join(sorted(reserved))}" if reserved else ""
        raise OptionError(
            f"The name {name!r} can't be used: use letters, digits and _, no word of Python, "
            f"no attribute of torch's ModuleDict (keys, train, ...){known}."
        )
    return name


def register(name: str) -> Callable[[type[P]], type[P]]:
    """Give a part defined in a script or a notebook a name, as an entry point does for an installed one."""

    def put(part: type[P]) -> type[P]:
        _registered[part.axis, check_name(name)] = part
        return part

    return put


@cache
def _entry_points(axis: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUPS[axis])}


def names(axis: str) -> list[str]:
    """Every name on an axis."""
    return sorted({*_entry_points(axis), *(name for other, name in _registered if other == axis)})


def lookup(axis: str, name: str) -> type[Part]:
    """The part of that name.

    Raises:
        OptionError: there is none; the message says which there are.
    """
    if (axis, name) in _registered:
        return _registered[axis, name]
    if name not in _entry_points(axis):
        close = difflib.get_close_matches(name, names(axis), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Is the package that brings it installed?"
        raise OptionError(f"No {axis} is called {name!r}; there are {', '.join(names(axis)) or 'none'}. {hint}")
    try:
        part: type[Part] = _entry_points(axis)[name].load()
    except Exception as error:  # a stranger's module may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise OptionError(f"The {axis} {name!r} can't be imported ({said}): mend or remove its package.") from error
    if not (isinstance(part, type) and issubclass(part, Part) and part.axis == axis):
        raise OptionError(f"The {axis} {name!r} is {part!r}, and that is no {axis}: mend its package's entry points.")
    return part


def name_of(part: type[Part]) -> str:
    """The name under which a part is found again.

    Raises:
        OptionError: it has none, so a checkpoint could not name it.
    """
    for (axis, name), other in _registered.items():
        if axis == part.axis and other is part:
            return name
    place = f"{part.__module__}:{part.__qualname__}"
    for name, entry in _entry_points(part.axis).items():
        if entry.value == place:
            return name
    raise OptionError(
        f"{place} has no name: add an entry point in the group {GROUPS[part.axis]!r}, or @register(name) in a script."
    )
