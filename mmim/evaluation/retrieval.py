"""Retrieval: how far up a list of all candidates, sorted by their cosine to a query, the right one stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from mmim.errors import DataError
from mmim.evaluation.intervals import Interval, median_interval, share_interval

PLACES = (1, 5, 10)
"""R@k is told for these k."""
_SAME = 1e-9  # cosines closer than this are one: the order in which a product was summed must not decide


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One direction, from queries to candidates.

    pairs:        samples that have both; each is one query and one candidate
    recall:       k -> share of the queries with a right candidate among the first k
    median_rank:  the smallest k at which that share is a half
    chance, chance_rank:  the same, expected of a random order of the candidates
    """

    pairs: int
    recall: Mapping[int, Interval]
    median_rank: Interval
    chance: Mapping[int, float]
    chance_rank: float


def retrieve(
    queries: Float[np.ndarray, "n _"],
    candidates: Float[np.ndarray, "m _"],
    groups: Sequence[str] | None = None,
    seed: int = 0,
    *,
    centred: bool = False,
) -> Retrieval:
    """Rank all candidates by their cosine to each query; right is the one in the same row.

    The first right candidate counts. Candidates as close as each other stand in a random order, and what is told is the
    expectation over it, so that vectors which are all the same score exactly chance. Intervals resample the queries;
    the candidates are fixed.

    Args:
        queries: one vector a sample; a row of NaN: the sample lacks it, and is left out of both sides.
        candidates: the same samples in the same order.
        groups: what a sample shows, as far as both sides can tell; every candidate of the query's group is right.
        seed: of the resampling.
        centred: subtract from each side the mean of its rows first: what all vectors of a modality have in common tells
            no sample from another, and lies elsewhere for each (Liang et al. 2022, arXiv:2203.02053).

    Raises:
        DataError: shapes differ, a vector is not finite, fewer than two samples have both, or all are of one group.
    """
    _check_shapes(queries, candidates, groups)
    both = pairs_of(queries, candidates)
    num = int(both.sum())
    if num < 2:
        raise DataError(f"{num} of {len(both)} samples have both vectors, and a retrieval needs 2: give more samples.")
    named = np.arange(num) if groups is None else np.unique(np.array(groups)[both], return_inverse=True)[1]
    if named.max() == 0:
        raise DataError(f"All {num} samples are of one group, so every candidate is right. Group them more finely.")
    first, second = (_unit_rows(_centred(side[both]) if centred else side[both]) for side in (queries, candidates))
    found = _found(_places(first, second, named), num)
    right = np.bincount(named)[named]
    guessed = _found(np.stack([np.zeros_like(right), num - right, right], axis=1), num)
    at = {k: min(k, num) - 1 for k in PLACES}
    return Retrieval(
        pairs=num,
        recall={k: share_interval(float(found[place]), num, seed) for k, place in at.items()},
        median_rank=median_interval(found, num, seed),
        chance={k: float(guessed[place]) for k, place in at.items()},
        chance_rank=float(np.searchsorted(guessed, 0.5)) + 1,
    )


def pairs_of(queries: Float[np.ndarray, "n _"], candidates: Float[np.ndarray, "n _"]) -> Bool[np.ndarray, " n"]:
    """The samples that have both: a row of NaN stands for a vector that there is not."""
    both: Bool[np.ndarray, " n"] = ~(_absent(queries) | _absent(candidates))
    return both


def _absent(rows: Float[np.ndarray, "n _"]) -> Bool[np.ndarray, " n"]:
    absent: Bool[np.ndarray, " n"] = np.isnan(rows).all(axis=1) & (rows.shape[1] > 0)
    return absent


def _check_shapes(
    queries: Float[np.ndarray, "n _"], candidates: Float[np.ndarray, "m _"], groups: Sequence[str] | None
) -> None:
    if queries.shape != candidates.shape or (groups is not None and len(groups) != len(queries)):
        grouped = "" if groups is None else f" and {len(groups)} groups"
        raise DataError(
            f"Can't compare {len(queries)} vectors of {queries.shape[1]} numbers with {len(candidates)} of "
            f"{candidates.shape[1]}{grouped}: give one of each per sample, in one order and of one width."
        )
    for rows in (queries, candidates):
        bad = ~np.isfinite(rows).all(axis=1) & ~_absent(rows)
        if bad.any():
            raise DataError(
                f"Can't rank vectors: {bad.sum()} of {len(rows)} hold NaN or infinity, the first is row {bad.argmax()}."
                " Drop these rows, or go back to a checkpoint that is sound."
            )


def _centred(rows: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    """The rows less their mean; what is left of equal ones by rounding is nothing."""
    mean = rows.astype(np.float64).mean(axis=0)
    apart = rows - mean
    return np.where(np.abs(apart) <= 1e-6 * np.abs(mean).max(initial=0), 0, apart)


def _unit_rows(rows: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


def _places(
    queries: Float64[np.ndarray, "n d"],
    candidates: Float64[np.ndarray, "n d"],
    named: Int64[np.ndarray, " n"],
    chunk: int = 256,
) -> Int64[np.ndarray, "n 3"]:
    """Of each query: the wrong candidates before the first right one, the wrong ones beside it, and the right ones.

    Memory grows with `chunk`, the queries at once, times n.
    """
    parts = []
    for start in range(0, len(queries), chunk):
        cosines = queries[start : start + chunk] @ candidates.T
        right = named[start : start + chunk, None] == named
        best = np.where(right, cosines, -np.inf).max(axis=1, keepdims=True)
        before, beside = cosines > best + _SAME, np.abs(cosines - best) <= _SAME
        parts.append(np.stack([before.sum(1), (beside & ~right).sum(1), (beside & right).sum(1)], axis=1))
    return np.concatenate(parts)


def _found(places: Int64[np.ndarray, "n 3"], num: int) -> Float64[np.ndarray, " {num}"]:
    """The share of queries that have found a right candidate among the first 1, 2, ... `num`."""
    found = np.zeros(num)
    for (before, wrong, right), count in zip(*np.unique(places, axis=0, return_counts=True), strict=True):
        drawn = np.arange(wrong)
        missed = np.cumprod((wrong - drawn) / (wrong + right - drawn))  # without any right one among the first
        found[before : before + wrong] += count * (1 - missed)
        found[before + wrong :] += count
    return (found / len(places)).round(12)  # a half is a half, in whatever order it was added up
