"""Braces in paths, as a shell expands them: `{000..012}` keeps its zeros, `{x,y}` is either."""

import re
from collections.abc import Iterator

from mmim.errors import DataError

MOST = 100_000
"""Paths that one pattern may stand for."""
_GROUP = re.compile(r"\{([^{}]*,[^{}]*|-?\d+\.\.-?\d+)\}")


def expanded(pattern: str) -> list[str]:
    """All paths that a pattern stands for, in its order; itself, if there are no braces in it.

    Raises:
        DataError: they are more than `MOST`.
    """
    done, left = [], [pattern]
    while left:
        path = left.pop()
        group = _GROUP.search(path)
        if group is None:
            done.append(path)
        else:
            choices = [f"{path[: group.start()]}{choice}{path[group.end() :]}" for choice in _choices(group[1])]
            left += reversed(choices)
        if len(done) + len(left) > MOST:
            raise DataError(f"--data {pattern} stands for more than {MOST:,} paths: name fewer shards.")
    return list(dict.fromkeys(done))


def _choices(inside: str) -> Iterator[str]:
    if "," in inside:
        yield from inside.split(",")
        return
    first, last = inside.split("..")
    padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-").startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for count, number in enumerate(range(int(first), int(last) + step, step)):
        if count > MOST:
            return
        yield f"{number:0{width}d}"
