import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.cross_decomposition import CCA

from mmim.errors import DataError
from mmim.evaluation.cca import cca_vectors, fit_cca
from mmim.evaluation.retrieval import retrieve

RNG = np.random.default_rng(0)
TEST = np.arange(240) % 4 == 3
SHARED = RNG.normal(size=(240, 6))
FIRST = SHARED @ RNG.normal(size=(6, 10)) + 0.3 * RNG.normal(size=(240, 10))
SECOND = SHARED @ RNG.normal(size=(6, 8)) + 0.3 * RNG.normal(size=(240, 8))


def centred(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(axis=0)


def score(first: np.ndarray, second: np.ndarray, test: np.ndarray = TEST) -> float:
    return retrieve(*cca_vectors(first[~test], second[~test], first[test], second[test])).recall[1].value


def test_scores_and_correlations_are_scikit_learns():
    first, second = centred(FIRST), centred(SECOND)
    found = fit_cca(first, second)
    theirs = CCA(n_components=8, tol=1e-12, max_iter=10_000).fit(first, second)
    expected = theirs.transform(first, second)
    for ours, reference in zip((first @ found.first, second @ found.second), expected, strict=True):
        agreement = np.abs([np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, reference.T, strict=True)])
        assert_allclose(agreement, 1, atol=1e-5)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(part.T for part in expected), strict=True)]
    assert_allclose(found.correlations, correlations, atol=1e-6)


def test_scores_have_unit_length_and_are_uncorrelated_without_a_ridge():
    found = fit_cca(centred(FIRST), centred(SECOND))
    for scores in (centred(FIRST) @ found.first, centred(SECOND) @ found.second):
        assert_allclose(scores.T @ scores, np.eye(8), atol=1e-10)


def test_a_ridge_is_that_of_the_covariance():
    first, second = centred(FIRST), centred(SECOND)
    found = fit_cca(first, second, 0.5)
    root = []
    for rows in (first, second):
        values, vectors = np.linalg.eigh(rows.T @ rows)
        root.append(vectors / np.sqrt(values + 0.5 * values.mean()) @ vectors.T)
    assert_allclose(found.correlations, np.linalg.svd(root[0] @ first.T @ second @ root[1], compute_uv=False))


def test_what_two_sets_share_is_found_again_on_rows_kept_apart():
    assert score(FIRST, SECOND) > 0.5


def test_sets_that_share_nothing_stay_at_chance():
    scores = [score(FIRST, np.random.default_rng(seed).normal(size=(240, 8))) for seed in range(8)]
    assert np.mean(scores) < 2.5 / TEST.sum()


def test_training_on_shuffled_pairs_stays_at_chance():
    scores = []
    for seed in range(8):
        second = SECOND.copy()
        second[~TEST] = np.random.default_rng(seed).permutation(second[~TEST])
        scores.append(score(FIRST, second))
    assert np.mean(scores) < 4 / TEST.sum()


def test_more_features_than_rows_are_no_obstacle():
    wide = np.concatenate([FIRST, RNG.normal(size=(240, 400))], axis=1)
    assert score(wide, SECOND) > 5 / TEST.sum()


def test_the_order_of_training_rows_decides_nothing():
    order = np.random.default_rng(1).permutation(240)
    ours = cca_vectors(FIRST[~TEST], SECOND[~TEST], FIRST[TEST], SECOND[TEST])
    again = cca_vectors(FIRST[order][~TEST[order]], SECOND[order][~TEST[order]], FIRST[TEST], SECOND[TEST])
    cosines = [a @ b.T for a, b in (ours, again)]
    assert_allclose(*cosines, atol=1e-9)


def test_the_test_rows_choose_nothing():
    part = np.flatnonzero(TEST)[:10]
    whole = cca_vectors(FIRST[~TEST], SECOND[~TEST], FIRST[TEST], SECOND[TEST])
    few = cca_vectors(FIRST[~TEST], SECOND[~TEST], FIRST[part], SECOND[part])
    for one, other in zip(whole, few, strict=True):
        assert_allclose(one[:10], other, atol=1e-12)


def test_features_that_say_nothing_give_vectors_of_no_length():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = cca_vectors(np.ones((16, 3)), SECOND[:16], np.ones((4, 3)), SECOND[16:20])
    assert retrieve(first, second).recall[1].value == retrieve(first, second).chance[1] == 0.25


def test_few_training_rows_are_refused():
    with pytest.raises(DataError, match=r"has 7 training rows with both sets of features and needs 8"):
        cca_vectors(FIRST[:7], SECOND[:7], FIRST[7:], SECOND[7:])
