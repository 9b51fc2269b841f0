"""How a union of data is written: `PATH`, or several `NAME=PATH`, and `NAME=NUMBER` for their weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmim.data.order import Mixture, apportioned
from mmim.data.sample import Sample
from mmim.errors import OptionError


def parse_data(data: Sequence[str]) -> dict[str, Path]:
    """The places by their names; a single one may have none ("").

    Raises:
        OptionError: one of several has no name, or two have the same; or a place is not said.
    """
    found: dict[str, Path] = {}
    for item in data:
        name, path = _split(item)
        if not name and len(data) > 1:
            raise OptionError(
                f"--data {item} is one of {len(data)} and has no name: write --data NAME={item}, where NAME is a word "
                f"of letters, digits and underscores, another for each."
            )
        if name in found:
            raise OptionError(f"--data {item} and --data {name}={found[name]} have the same name: rename one.")
        if not path.strip():
            raise OptionError(
                f"--data {item} names nothing: give a folder or a list of files, or leave --data out for the demo."
            )
        found[name] = Path(path).expanduser() if name else Path(path)
    return found


def _split(item: str) -> tuple[str, str]:
    """Name and path. A path that looks like both is written `./fold=3`."""
    name, equals, path = item.partition("=")
    return (name, path) if equals and name.isidentifier() else ("", item)


def resolved(data: Sequence[str]) -> tuple[str, ...]:
    """The same places wherever one stands, by the order of their names."""
    places = {name: str(path.resolve()) for name, path in sorted(parse_data(data).items())}
    return tuple(f"{name}={path}" if name else path for name, path in places.items())


def parse_weights(weight: Sequence[str], data: Sequence[str]) -> dict[str, float]:
    """The weights by the names of the data; none at all, or one for each.

    Raises:
        OptionError: not NAME=NUMBER, an unknown name, one twice or left out, or no number above 0.
    """
    names, found = list(parse_data(data)), dict[str, float]()
    for item in weight:
        name, equals, number = item.partition("=")
        known = f"the names of --data are {', '.join(filter(None, names)) or 'none'}"
        if not equals:
            raise OptionError(f"--weight {item} can't be read: write --weight NAME=NUMBER; {known}.")
        if name not in names or not name:
            raise OptionError(f"--weight {item}: there are no data called {name!r}; {known}.")
        if name in found:
            raise OptionError(f"--weight {item}: {name} has the weight {found[name]:g} already. Give it one.")
        found[name] = _number(item, number)
    if found and (left := [name for name in names if name not in found]):
        raise OptionError(f"--weight says nothing of {', '.join(left)}: give all data a weight, or none of them.")
    return found


def _number(item: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise OptionError(f"--weight {item}: {text!r} is no number above 0 and finite.")
    return number


def mixture(samples: Sequence[Sample], weights: Mapping[str, float]) -> Mixture | None:
    """Which samples share which weight; None without weights. Data without samples have no share.

    Raises:
        OptionError: a share is too small.
    """
    if not weights:
        return None
    there = sorted({sample.origin for sample in samples})
    numbers = {name: number for number, name in enumerate(there)}
    apportioned([weights[name] for name in there])
    return Mixture([numbers[sample.origin] for sample in samples], [weights[name] for name in there])
