"""Canonical correlation: two sets of plain features brought into one space, the floor that retrieval has to beat."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from mmim.draw import stable_hash
from mmim.errors import DataError
from mmim.evaluation.retrieval import retrieve
from mmim.evaluation.standardise import standardise

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Regularisations to choose from, in units of the mean variance along a direction of the training rows."""
FEWEST = 8
"""Training rows, at least: a quarter of them chooses the ridge."""
_FLAT = 1e-9  # of the largest singular value: directions in which rows do not differ


@dataclass(frozen=True, slots=True)
class Canonical:
    """Pairs of directions, one in each set of features, with the largest correlations over the training rows."""

    first: Float64[np.ndarray, "d c"]
    second: Float64[np.ndarray, "e c"]
    correlations: Float64[np.ndarray, " c"]


def fit_cca(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n e"], ridge: float = 0.0) -> Canonical:
    """Canonical correlation analysis of two centred sets of features of the same samples (Hotelling 1936).

    Each set is whitened in its singular directions, then the cross products have the answer as their singular vectors.
    A ridge keeps directions of little variance from being blown up (Vinod 1976); with 0 the scores have unit length.
    """
    (first_white, first_scores), (second_white, second_scores) = _whiten(first, ridge), _whiten(second, ridge)
    left, correlations, right = np.linalg.svd(first_scores.T @ second_scores, full_matrices=False)
    return Canonical(first_white @ left, second_white @ right.T, correlations)


def cca_vectors(
    first_train: Float[np.ndarray, "n d"],
    second_train: Float[np.ndarray, "n e"],
    first_test: Float[np.ndarray, "t d"],
    second_test: Float[np.ndarray, "t e"],
) -> tuple[Float64[np.ndarray, "t c"], Float64[np.ndarray, "t c"]]:
    """Test rows of both sets in the common space that the training rows of both span, for retrieval by cosine.

    Features are standardised by the training rows, and directions weighted by their correlation. The ridge is the one
    of `RIDGES` with the largest R@10 (both directions added up) on a quarter of the training rows, left out for that;
    the test rows choose nothing.

    Raises:
        DataError: fewer than 8 training rows, or a value is NaN or infinite.
    """
    if len(first_train) < FEWEST:
        raise DataError(
            f"Canonical correlation has {len(first_train)} training rows with both sets of features and needs {FEWEST}:"
            f" leave more rows out of the test."
        )
    apart = _quarter(first_train, second_train)
    inner = first_train[~apart], second_train[~apart], first_train[apart], second_train[apart]
    scores = [_recall(*_project(*inner, ridge)) for ridge in RIDGES]
    return _project(first_train, second_train, first_test, second_test, RIDGES[int(np.argmax(scores))])


def _whiten(
    rows: Float[np.ndarray, "n d"], ridge: float
) -> tuple[Float64[np.ndarray, "d r"], Float64[np.ndarray, "n r"]]:
    """A matrix that makes the singular directions of rows equally long (with a ridge: nearly so), and those scores."""
    left, spread, directions = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    kept = spread > _FLAT * spread.max(initial=0.0)
    left, spread, directions = left[:, kept], spread[kept], directions[kept]
    length = np.sqrt(np.square(spread) + ridge * np.square(spread).mean()) if len(spread) else spread
    return directions.T / length, left * (spread / length)


def _project(
    first_train: Float[np.ndarray, "n d"],
    second_train: Float[np.ndarray, "n e"],
    first_test: Float[np.ndarray, "t d"],
    second_test: Float[np.ndarray, "t e"],
    ridge: float,
) -> tuple[Float64[np.ndarray, "t c"], Float64[np.ndarray, "t c"]]:
    (first, first_test), (second, second_test) = (
        standardise(train, test) for train, test in ((first_train, first_test), (second_train, second_test))
    )
    found = fit_cca(first, second, ridge)
    return first_test @ found.first * found.correlations, second_test @ found.second * found.correlations


def _recall(first: Float64[np.ndarray, "t c"], second: Float64[np.ndarray, "t c"]) -> float:
    return sum(retrieve(*sides).recall[10].value for sides in ((first, second), (second, first)))


def _quarter(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n e"]) -> Bool[np.ndarray, " n"]:
    """A quarter of the rows, chosen by their content: the order of rows is free."""
    hashes = np.array([stable_hash((a.tobytes() + b.tobytes()).hex()) for a, b in zip(first, second, strict=True)])
    apart = np.zeros(len(first), dtype=bool)
    apart[np.argsort(hashes, kind="stable")[: len(first) // 4]] = True
    return apart
