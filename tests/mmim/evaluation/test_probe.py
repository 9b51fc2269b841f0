import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmim.evaluation import probe
from mmim.evaluation.intervals import accuracy_interval
from mmim.evaluation.probe import probe_correct


def blobs(n, seed, distance=1.0, d=12, classes=4):
    rng = np.random.default_rng(seed)
    which = rng.integers(classes, size=n)
    return distance * np.eye(classes, d)[which] + rng.normal(size=(n, d)), which


@pytest.mark.parametrize("d", [12, 300], ids=["narrow", "wider than its rows"])
def test_it_agrees_with_scikit_learn(monkeypatch, d):
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    (train, train_classes), (test, test_classes) = blobs(150, 0, d=d), blobs(90, 1, d=d)
    scaler = StandardScaler().fit(train)
    reference = LogisticRegression(C=1e-2, tol=1e-8, max_iter=5000).fit(scaler.transform(train), train_classes)
    expected = reference.predict(scaler.transform(test)) == test_classes
    np.testing.assert_array_equal(probe_correct(train, train_classes, test, test_classes), expected)


def test_separable_classes_are_all_found():
    assert probe_correct(*blobs(80, 0, distance=20), *blobs(60, 1, distance=20)).all()


def test_noise_is_at_chance():
    interval = accuracy_interval(probe_correct(*blobs(300, 0, distance=0), *blobs(400, 1, distance=0)))
    assert interval.low < 0.25 < interval.high


def test_the_order_of_rows_decides_nothing():
    (train, train_classes), (test, test_classes) = blobs(120, 0), blobs(90, 1)
    expected = probe_correct(train, train_classes, test, test_classes)
    a, b = (np.random.default_rng(2).permutation(n) for n in (120, 90))
    correct = probe_correct(train[a], train_classes[a], test[b], test_classes[b])
    np.testing.assert_array_equal(correct, expected[b])


def test_constant_columns_change_nothing():
    (train, train_classes), (test, test_classes) = blobs(120, 0), blobs(90, 1)
    more = (np.column_stack([rows, np.full(len(rows), 7.0)]) for rows in (train, test))
    train_more, test_more = more
    np.testing.assert_array_equal(
        probe_correct(train_more, train_classes, test_more, test_classes),
        probe_correct(train, train_classes, test, test_classes),
    )


def test_noise_is_met_with_more_regularisation_than_signal(monkeypatch):
    chosen = []
    fit = probe._fit
    monkeypatch.setattr(probe, "_fit", lambda *args: (chosen.append(args[-1]), fit(*args))[1])
    probe_correct(*blobs(200, 0, distance=0), *blobs(10, 1, distance=0))
    probe_correct(*blobs(200, 0, distance=20), *blobs(10, 1, distance=20))
    noise, signal = chosen[len(chosen) // 2 - 1], chosen[-1]
    assert noise < signal


def test_two_classes_and_classes_of_one_row_are_fitted():
    assert probe_correct(*blobs(30, 0, distance=20, classes=2), *blobs(20, 1, distance=20, classes=2)).all()
    assert probe_correct(10 * np.eye(4), np.arange(4), 9 * np.eye(4), np.arange(4)).all()


def test_vectors_that_are_all_equal_are_no_error():
    correct = probe_correct(np.ones((12, 5)), np.arange(12) % 3, np.ones((6, 5)), np.arange(6) % 3)
    assert correct.sum() == 2


def test_a_fit_that_stops_early_is_still_scored(monkeypatch):
    stopped = LogisticRegression(C=1.0, max_iter=1)
    monkeypatch.setattr(probe, "LogisticRegression", lambda **options: stopped.set_params(C=options["C"]))
    assert probe_correct(*blobs(80, 0, distance=20), *blobs(60, 1, distance=20)).mean() > 0.9


def test_512_rows_of_384_take_seconds():
    start = time.perf_counter()
    probe_correct(*blobs(512, 0, d=384, classes=10), *blobs(256, 1, d=384, classes=10))
    assert time.perf_counter() - start < 30  # 0.3 s on an idle core
