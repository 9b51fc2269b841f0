"""k nearest neighbours: how often the training vectors around a test vector carry its class."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from mmim.errors import OptionError
from mmim.evaluation.standardise import standardise

_SAME = 1e-9  # cosines closer than this are one: the order in which a product was summed must not decide


def knn_correct(
    train: Float[np.ndarray, "n d"],
    train_classes: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "t d"],
    test_classes: Int[np.ndarray, " t"],
    k: int = 5,
    chunk: int = 128,
) -> Bool[np.ndarray, " t"]:
    """Whether the k nearest training rows name the class of each test row; the mean is the accuracy.

    Near is the cosine after standardisation by the training rows. The order of rows decides nothing: training rows at
    the same distance as the k-th share the places left, equal votes go to the class with the larger sum of cosines,
    and what is equal even then to the smaller class number. Memory grows with `chunk`, the test rows at once, times n.

    Raises:
        OptionError: k < 1, or k > n.
        DataError: a value is NaN or infinite.
    """
    if not 1 <= k <= len(train):
        raise OptionError(
            f"Can't ask {k} neighbours of {len(train)} training rows: use a k between 1 and {len(train)}."
        )
    train, test = (_unit_rows(rows) for rows in standardise(train, test))
    classes, codes = np.unique(train_classes, return_inverse=True)
    one_hot = np.eye(len(classes))[codes]
    parts = [_votes(part @ train.T, one_hot, k) for part in np.split(test, range(chunk, len(test), chunk))]
    predicted: np.ndarray = classes[np.concatenate(parts).round(9).argmax(axis=1)]
    correct: np.ndarray = predicted == test_classes
    return correct


def _unit_rows(rows: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


def _votes(
    cosines: Float64[np.ndarray, "r n"], one_hot: Float64[np.ndarray, "n c"], k: int
) -> Float64[np.ndarray, "r c"]:
    """Votes per class; the cosines count too, but all together less than one vote."""
    farthest = np.partition(cosines, -k, axis=1)[:, [-k]]
    closer = cosines > farthest + _SAME
    tied = ~closer & (cosines >= farthest - _SAME)
    places = k - closer.sum(axis=1, keepdims=True)
    weights = closer + tied * (places / tied.sum(axis=1, keepdims=True))
    votes: np.ndarray = (weights * (1 + 0.1 / k * cosines)) @ one_hot
    return votes
