import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from mmim.errors import DataError
from mmim.evaluation.standardise import standardise


def rows(seed, n=40, d=6):
    return np.random.default_rng(seed).normal(3, 2, size=(n, d)).astype(np.float32)


def test_it_agrees_with_scikit_learn():
    scaler = StandardScaler().fit(rows(0).astype(np.float64))
    train, test = standardise(rows(0), rows(1))
    np.testing.assert_allclose(train, scaler.transform(rows(0).astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(test, scaler.transform(rows(1).astype(np.float64)), atol=1e-6)


def test_a_column_constant_in_training_becomes_zero_in_both_parts():
    train, test = rows(0), rows(1)
    train[:, 2] = 0.1
    train[:, 3] = 1 + 1e-7 * (np.arange(len(train)) % 2)  # constant but for rounding
    train[:, 4] = 0
    for part in standardise(train, test):
        assert np.isfinite(part).all()
        assert (part[:, 2:5] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_place(value):
    test = rows(1)
    test[7, 0] = value
    with pytest.raises(DataError, match=r"test vectors: 1 of 40 hold NaN or infinity, the first is row 7"):
        standardise(rows(0), test)
