"""How sure an accuracy is, how sure a difference is, and what guessing gets."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

LEVEL = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A share or a difference of shares with its 95 % bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Chance:
    """What guessing gets on the test rows, and which guess that is."""

    value: float
    kind: Literal["majority", "uniform"]


def accuracy_interval(correct: Bool[np.ndarray, " t"], seed: int = 0) -> Interval:
    """The accuracy, and its interval over resampled test rows. The training rows are fixed: their choice is not in it.

    Resampling rows with replacement makes the number of correct ones binomial, so that is what is drawn.
    """
    return share_interval(int(correct.sum()) / len(correct), len(correct), seed)


def share_interval(share: float, n: int, seed: int = 0) -> Interval:
    """A share of n rows, and its interval over resampled rows; a row may have counted in part, as after a tie."""
    return _percentiles(share, np.random.default_rng(seed).binomial(n, share, _RESAMPLES) / n)


def median_interval(found: Float64[np.ndarray, " k"], n: int, seed: int = 0) -> Interval:
    """The median of numbers 1, 2, ... of n rows, and its interval over resampled rows.

    It is the lower median: the smallest number that at least half of the rows do not exceed. Of n rows drawn anew from
    a distribution it is the distribution's inverse at the median of n uniform numbers, so that is what is drawn.

    Args:
        found: the share of rows with a number of at most 1, 2, ..., the last of them 1.
        n: number of rows.
        seed: of the resampling.
    """
    middle = (n + 1) // 2
    drawn = np.random.default_rng(seed).beta(middle, n + 1 - middle, _RESAMPLES)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    places = [int(np.searchsorted(found, share)) + 1 for share in (0.5, low, high)]
    return Interval(*map(float, places))


def difference_interval(correct: Bool[np.ndarray, " t"], other: Bool[np.ndarray, " t"], seed: int = 0) -> Interval:
    """The accuracy of `correct` minus that of `other` on the same test rows, resampled as pairs."""
    n = len(correct)
    wins, losses = int((correct & ~other).sum()), int((other & ~correct).sum())
    shares = np.array([wins, losses, n - wins - losses]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, _RESAMPLES)
    return _percentiles((wins - losses) / n, (drawn[:, 0] - drawn[:, 1]) / n)


def chance(train_classes: Int[np.ndarray, " n"], test_classes: Int[np.ndarray, " t"]) -> Chance:
    """The better of two guesses that look at no vector: the commonest training class, or any class alike.

    The second is not always the worse: with balanced classes, the commonest one in training is the rarest in test.
    Training classes that are equally common get the mean of their test shares.
    """
    classes, counts = np.unique(train_classes, return_counts=True)
    commonest = classes[counts == counts.max()]
    majority = float(np.isin(test_classes, commonest).mean()) / len(commonest)
    uniform = float(np.isin(test_classes, classes).mean()) / len(classes)
    return Chance(majority, "majority") if majority > uniform else Chance(uniform, "uniform")


def _percentiles(value: float, resampled: Float64[np.ndarray, " r"]) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
