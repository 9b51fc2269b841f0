"""Linear probe: what a linear classifier on frozen vectors gets right."""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mmim.draw import stable_hash
from mmim.evaluation.standardise import standardise

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, strongest regularisation first


def probe_correct(
    train: Float[np.ndarray, "n d"],
    train_classes: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "t d"],
    test_classes: Int[np.ndarray, " t"],
) -> Bool[np.ndarray, " t"]:
    """Whether a logistic regression on the training rows names the class of each test row; the mean is the accuracy.

    Features are standardised by the training rows. The regularisation is the one of `STRENGTHS` with the largest
    likelihood on a quarter of the training rows of each class, left out for that; the test rows choose nothing.
    Differs from the usual linear probing of images (SGD on augmented views): frozen vectors, a convex problem, no seed.

    Raises:
        DataError: a value is NaN or infinite.
    """
    left_out = _quarter(train, train_classes)
    train, test = _narrow(*standardise(train, test))
    scores = [_likelihood(train, train_classes, left_out, strength) for strength in STRENGTHS]
    model = _fit(train, train_classes, STRENGTHS[int(np.argmax(scores))])
    predicted: np.ndarray = model.predict(test)
    correct: np.ndarray = predicted == test_classes
    return correct


def _quarter(rows: Float[np.ndarray, "n d"], classes: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """A quarter of each class, one of two rows, none of one; chosen by their content: the order of rows is free."""
    hashes = np.array([stable_hash(row.tobytes().hex()) for row in rows])
    left_out = np.zeros(len(rows), dtype=bool)
    for one in np.unique(classes):
        members = np.flatnonzero(classes == one)
        count = max(1, len(members) // 4) if len(members) > 1 else 0
        left_out[members[np.argsort(hashes[members], kind="stable")[:count]]] = True
    return left_out


def _narrow(
    train: Float64[np.ndarray, "n d"], test: Float64[np.ndarray, "t d"]
) -> tuple[Float64[np.ndarray, "n r"], Float64[np.ndarray, "t r"]]:
    """The coordinates within the span of the training rows, where there are fewer rows than features.

    The solution lies in that span and an L2 penalty does not see rotations, so nothing changes but the time.
    """
    if train.shape[0] >= train.shape[1]:
        return train, test
    basis = np.linalg.qr(train.T)[0]  # d n
    return train @ basis, test @ basis


def _likelihood(
    rows: Float64[np.ndarray, "n d"], classes: Int[np.ndarray, " n"], left_out: Bool[np.ndarray, " n"], strength: float
) -> float:
    """The log likelihood of the rows left out under a fit to the others; zero where none is left out."""
    if not left_out.any():
        return 0.0
    model = _fit(rows[~left_out], classes[~left_out], strength)
    column = np.searchsorted(model.classes_, classes[left_out])
    shares = model.predict_proba(rows[left_out])[np.arange(len(column)), column]
    return float(np.log(np.maximum(shares, np.finfo(np.float64).tiny)).sum())


def _fit(rows: Float64[np.ndarray, "n d"], classes: Int[np.ndarray, " n"], strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # A fit that stops at 5000 steps is a linear classifier all the same, and the rows left out judge it as one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=5000).fit(rows, classes)
