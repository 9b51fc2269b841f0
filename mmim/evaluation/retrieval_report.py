"""Retrieval by several sets of vectors compared: direction x set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, groupby

import numpy as np
from jaxtyping import Bool, Float
from rich import box
from rich.markup import escape
from rich.table import Table

from mmim.errors import DataError, OptionError
from mmim.evaluation.cca import cca_vectors
from mmim.evaluation.intervals import LEVEL, Interval
from mmim.evaluation.retrieval import PLACES, Retrieval, pairs_of, retrieve

FLOOR = "raw (CCA)"
Sides = tuple[Float[np.ndarray, "t _"], Float[np.ndarray, "t _"]]


@dataclass(frozen=True, slots=True)
class Row:
    """One direction by one set of vectors."""

    query: str
    candidate: str
    features: str
    found: Retrieval


def parse_pairs(asked: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that `FIRST:SECOND` name, or every pair of `names` where none is asked for.

    Raises:
        OptionError: not of that form, an unknown name, a pair with itself, or fewer than two names.
    """
    if len(names) < 2:
        raise OptionError(
            f"Retrieval goes from one modality to another, and there is {names[0] + ' alone' if names else 'none'}. "
            f"Give a checkpoint or a file of embeddings with several."
        )
    pairs = []
    for one in asked:
        first, colon, second = one.partition(":")
        if not (colon and first and second):
            raise OptionError(f"--pairs {one} can't be read: write FIRST:SECOND, of {', '.join(names)}.")
        if unknown := [name for name in (first, second) if name not in names]:
            raise OptionError(f"--pairs {one}: there is no {unknown[0]!r}. Choose of {', '.join(names)}.")
        if first == second:
            raise OptionError(f"--pairs {one}: every sample would find itself. Name two modalities.")
        if (first, second) in pairs or (second, first) in pairs:
            raise OptionError(f"--pairs names {first} and {second} twice: both directions are told anyway.")
        pairs.append((first, second))
    return pairs or list(combinations(names, 2))


def compare(
    sets: Mapping[str, Mapping[str, Float[np.ndarray, "n _"]]],
    raw: Mapping[str, Float[np.ndarray, "n _"]],
    pairs: Sequence[tuple[str, str]],
    test: Bool[np.ndarray, " n"],
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[list[Row], dict[str, str]]:
    """Retrieval among the test rows, by every set of vectors, in both directions of each pair.

    The floor is canonical correlation of plain features, fitted on the rows that are no test rows.

    Args:
        sets: name of the set -> modality -> one vector a row; NaN: absent.
        raw: modality -> plain features, or empty: no floor is asked for.
        pairs: names of two modalities each.
        test: the queries and candidates.
        groups: what counts as the same (`retrieve`).
        seed: of the intervals.

    Returns:
        The rows, and what could not be compared: its name and why.

    Raises:
        DataError: nothing can be compared; the first reason.
    """
    rows: list[Row] = []
    reasons: dict[str, str] = {}
    held = None if groups is None else [group for group, is_test in zip(groups, test, strict=True) if is_test]
    for first, second in pairs:
        sides: dict[str, Sides] = {name: (by[first][test], by[second][test]) for name, by in sets.items()}
        try:
            if raw:
                sides[FLOOR] = _floor(raw[first], raw[second], test)
        except DataError as error:
            reasons[f"{FLOOR} of {first} and {second}"] = str(error)
        try:
            rows += _both_ways(first, second, sides, held, seed)
        except DataError as error:
            reasons[f"{first} and {second}"] = str(error)
    if not rows:
        name, reason = list(reasons.items())[-1]
        raise DataError(f"Nothing to retrieve, {name}: {reason}")
    return rows, reasons


def _both_ways(
    first: str, second: str, sides: Mapping[str, Sides], groups: Sequence[str] | None, seed: int
) -> list[Row]:
    there = [
        Row(first, second, name, retrieve(one, other, groups, seed, centred=True))
        for name, (one, other) in sides.items()
    ]
    back = [
        Row(second, first, name, retrieve(other, one, groups, seed, centred=True))
        for name, (one, other) in sides.items()
    ]
    return there + back


def _floor(first: Float[np.ndarray, "n _"], second: Float[np.ndarray, "n _"], test: Bool[np.ndarray, " n"]) -> Sides:
    """Test rows in the common space of the training rows that have both; NaN where one is absent."""
    both = pairs_of(first, second)
    if test.all():
        raise DataError("it is fitted on samples that are no candidates. Choose these by --split COLUMN=VALUE.")
    fit, held = both & ~test, both & test
    made = cca_vectors(first[fit], second[fit], first[held], second[held])
    whole = [np.full((int(test.sum()), part.shape[1]), np.nan) for part in made]
    for rows, part in zip(whole, made, strict=True):
        rows[held[test]] = part
    return whole[0], whole[1]


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal of 100 columns, shares in per cent, and under each direction what a random order gets."""
    view = Table(
        title=f"Retrieval by cosine of centred vectors, R@k in %, with {100 * LEVEL:g} % intervals",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    view.add_column("query -> candidate", overflow="fold")
    for name in (*(f"R@{k}" for k in PLACES), "median rank"):
        view.add_column(name, justify="right", no_wrap=True)
    for (query, candidate), found in groupby(rows, key=lambda row: (row.query, row.candidate)):
        sets = list(found)
        first = sets[0].found
        view.add_row(f"{escape(query)} -> {escape(candidate)}", f"{first.pairs} pairs")
        for row in sets:
            shares = [_interval(row.found.recall[k], 100, ".1f") for k in PLACES]
            view.add_row(f"  {escape(row.features)}", *shares, _interval(row.found.median_rank, 1, ".0f"))
        chances = [f"{100 * first.chance[k]:.1f}" for k in PLACES]
        view.add_row("  chance", *chances, f"{first.chance_rank:.0f}", end_section=True)
    return view


def as_dict(rows: Sequence[Row]) -> dict[str, object]:
    """The rows as JSON holds them, shares in [0, 1]."""
    return {"level": LEVEL, "rows": [_plain(row) for row in rows]}


def _plain(row: Row) -> dict[str, object]:
    found = row.found
    return {
        "query": row.query,
        "candidate": row.candidate,
        "features": row.features,
        "pairs": found.pairs,
        **{f"R@{k}": asdict(interval) for k, interval in found.recall.items()},
        "median_rank": asdict(found.median_rank),
        "chance": {f"R@{k}": share for k, share in found.chance.items()} | {"median_rank": found.chance_rank},
    }


def _interval(interval: Interval, times: int, form: str) -> str:
    value, low, high = (format(times * number, form) for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
