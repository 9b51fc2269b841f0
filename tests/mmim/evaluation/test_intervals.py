import numpy as np
import pytest
from scipy.stats import bootstrap

from mmim.evaluation.intervals import accuracy_interval, chance, difference_interval

RIGHT = np.random.default_rng(0).random(250) < 0.7
OTHER = np.where(np.random.default_rng(1).random(250) < 0.8, RIGHT, ~RIGHT)  # paired: it agrees on most rows


def reference(data, statistic):
    found = bootstrap(data, statistic, paired=len(data) > 1, method="percentile", n_resamples=9999, rng=0)
    return found.confidence_interval


def test_the_interval_of_an_accuracy_agrees_with_scipy():
    expected = reference((RIGHT.astype(float),), lambda x, axis: x.mean(axis=axis))
    interval = accuracy_interval(RIGHT)
    assert interval.value == RIGHT.mean()
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_the_paired_interval_of_a_difference_agrees_with_scipy():
    data = RIGHT.astype(float), OTHER.astype(float)
    expected = reference(data, lambda x, y, axis: (x - y).mean(axis=axis))
    interval = difference_interval(RIGHT, OTHER)
    assert interval.value == pytest.approx(RIGHT.mean() - OTHER.mean())
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_the_paired_interval_covers_the_true_difference_about_19_times_of_20():
    covered = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        right = rng.random(200) < 0.7
        other = right & (rng.random(200) < 0.8)  # true accuracies 0.7 and 0.56
        interval = difference_interval(right, other)
        covered.append(interval.low <= 0.14 <= interval.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_pairs_that_agree_narrow_the_interval():
    paired = difference_interval(RIGHT, OTHER)
    unpaired = difference_interval(RIGHT, np.random.default_rng(2).permutation(OTHER))
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_the_order_of_rows_decides_nothing():
    order = np.random.default_rng(3).permutation(len(RIGHT))
    assert accuracy_interval(RIGHT[order]) == accuracy_interval(RIGHT)
    assert difference_interval(RIGHT[order], OTHER[order]) == difference_interval(RIGHT, OTHER)


def test_the_same_seed_gives_the_same_interval():
    assert accuracy_interval(RIGHT, seed=5) == accuracy_interval(RIGHT, seed=5)
    assert difference_interval(RIGHT, OTHER, seed=5) == difference_interval(RIGHT, OTHER, seed=5)


def test_a_difference_with_itself_is_exactly_zero():
    interval = difference_interval(RIGHT, RIGHT)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_chance_of_uneven_classes_is_the_majority():
    guess = chance(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2]))
    assert (guess.value, guess.kind) == (0.5, "majority")


def test_chance_of_balanced_classes_is_uniform_though_the_majority_of_training_is_rare_in_test():
    guess = chance(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert (guess.value, guess.kind) == (0.5, "uniform")


def test_a_tie_for_the_majority_is_shared():
    guess = chance(np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 0, 1]))
    assert (guess.value, guess.kind) == (0.5, "majority")
