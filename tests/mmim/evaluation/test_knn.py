import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import Normalizer, StandardScaler

from mmim.errors import OptionError
from mmim.evaluation.intervals import accuracy_interval
from mmim.evaluation.knn import knn_correct


def blobs(n, seed, distance=1.0, d=12, classes=4):
    rng = np.random.default_rng(seed)
    which = rng.integers(classes, size=n)
    return distance * np.eye(classes, d)[which] + rng.normal(size=(n, d)), which


@pytest.mark.parametrize("k", [1, 3, 5, 20])
def test_it_agrees_with_scikit_learn(k):
    (train, train_classes), (test, test_classes) = blobs(150, 0), blobs(90, 1)
    scaler, unit = StandardScaler().fit(train), Normalizer()

    def weights(distances):  # equal votes are decided by the sum of cosines
        return 1 + 0.1 / k * (1 - distances**2 / 2)

    reference = KNeighborsClassifier(k, weights=weights).fit(unit.transform(scaler.transform(train)), train_classes)
    expected = reference.predict(unit.transform(scaler.transform(test))) == test_classes
    np.testing.assert_array_equal(knn_correct(train, train_classes, test, test_classes, k=k), expected)


def test_separable_classes_are_all_found():
    assert knn_correct(*blobs(80, 0, distance=40), *blobs(60, 1, distance=40)).all()


def test_noise_is_at_chance():
    interval = accuracy_interval(knn_correct(*blobs(300, 0, distance=0), *blobs(400, 1, distance=0)))
    assert interval.low < 0.25 < interval.high


def test_the_order_of_rows_decides_nothing_even_where_distances_tie():
    rng = np.random.default_rng(0)
    train, test = (rng.integers(2, size=(n, 3)).astype(np.float32) for n in (60, 40))  # eight places: ties everywhere
    train_classes, test_classes = rng.integers(3, size=60), rng.integers(3, size=40)
    expected = knn_correct(train, train_classes, test, test_classes)
    for seed in range(5):
        a, b = (np.random.default_rng(seed).permutation(n) for n in (60, 40))
        correct = knn_correct(train[a], train_classes[a], test[b], test_classes[b])
        np.testing.assert_array_equal(correct, expected[b])


def test_equal_votes_go_to_the_nearer_class():
    train = np.array([[1, 0.1], [1, 0.5], [1, -0.6], [1, -0.2], [-1, 0.0], [-3, 0.2]])
    train_classes = np.array([1, 0, 0, 1, 2, 2])  # four neighbours: two of 0, two of 1, and those of 1 are nearer
    assert knn_correct(train, train_classes, np.array([[1, 0.0]]), np.array([1]), k=4).all()


def test_vectors_that_are_all_equal_give_the_majority():
    train_classes = np.array([0, 1, 1, 2, 1, 2])
    correct = knn_correct(np.ones((6, 4)), train_classes, np.ones((3, 4)), np.array([0, 1, 2]))
    assert correct.tolist() == [False, True, False]


def test_the_chunk_decides_nothing():
    data = *blobs(60, 0), *blobs(50, 1)
    np.testing.assert_array_equal(knn_correct(*data, chunk=7), knn_correct(*data, chunk=1000))


@pytest.mark.parametrize("k", [0, 11])
def test_more_neighbours_than_rows_are_refused(k):
    with pytest.raises(OptionError, match=f"{k} neighbours of 10 training rows: use a k between 1 and 10"):
        knn_correct(*blobs(10, 0), *blobs(5, 1), k=k)
