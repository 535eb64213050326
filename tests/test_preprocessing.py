"""SequenceScaler and SequenceVectorizer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.preprocessing import StandardScaler

from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer

rng = np.random.default_rng(0)
X = 3 + np.array([1.0, 10.0, 0.0]) * rng.standard_normal((6, 5, 3))
MASK = np.arange(5) < np.array([5, 3, 1, 4, 5, 2])[:, None]
PADDED = np.where(MASK[..., None], X, 1e6)


def test_features_have_mean_zero_and_deviation_one():
    scaled = SequenceScaler().fit_transform(X)
    np.testing.assert_allclose(scaled.mean((0, 1)), 0, atol=1e-13)
    np.testing.assert_allclose(scaled.std((0, 1)), [1, 1, 0], atol=1e-13)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_scaling_is_that_of_the_valid_rows(with_mean, with_std):
    options = {"with_mean": with_mean, "with_std": with_std}
    scaler = SequenceScaler(**options).fit(PADDED, mask=MASK)
    expected = StandardScaler(**options).fit(X[MASK])
    scaled = scaler.transform(PADDED, mask=MASK)
    np.testing.assert_array_equal(scaled[MASK], expected.transform(X[MASK]))
    assert (scaled[~MASK] == 0).all()
    again = scaler.inverse_transform(scaled, mask=MASK)
    np.testing.assert_allclose(again[MASK], X[MASK], rtol=1e-12)
    assert PADDED[2, 1, 0] == 1e6  # The argument stays as it was.


def test_a_table_is_scaled_as_trials_of_one_step():
    flat, deep = SequenceScaler().fit(X[:, 0]), SequenceScaler().fit(X[:, :1])
    np.testing.assert_array_equal(flat.transform(X[:, 0]), deep.transform(X[:, :1])[:, 0])


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_sequences_stay_arrays_whatever_the_output_is_set_to(container):
    expected = SequenceScaler().fit_transform(X)
    with sklearn.config_context(transform_output=container):
        scaled = SequenceScaler().fit_transform(X)
    assert isinstance(scaled, np.ndarray)
    np.testing.assert_array_equal(scaled, expected)
    scaler = SequenceScaler().set_output(transform=container)
    np.testing.assert_array_equal(scaler.fit_transform(X), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(dtype):
    assert SequenceScaler().fit_transform(X.astype(dtype)).dtype == dtype
    assert SequenceVectorizer().fit_transform(X.astype(dtype)).dtype == dtype


def test_names_of_features():
    table = pd.DataFrame(X[:, 0], columns=["a", "b", "c"])
    assert SequenceScaler().fit(table).get_feature_names_out().tolist() == ["a", "b", "c"]
    vectorizer = SequenceVectorizer().fit(X)
    names = vectorizer.get_feature_names_out()
    assert names.tolist()[:4] == ["x0_t0", "x1_t0", "x2_t0", "x0_t1"] and len(names) == 15
    assert vectorizer.get_feature_names_out(["a", "b", "c"])[-1] == "c_t4"
    last = SequenceVectorizer(pooling="last").fit(X)
    assert last.get_feature_names_out().tolist() == ["x0_last", "x1_last", "x2_last"]


def test_columns_are_where_their_names_say():
    table = SequenceVectorizer().set_output(transform="pandas").fit_transform(X)
    np.testing.assert_array_equal(table["x1_t3"], X[:, 3, 1])


def test_poolings_of_valid_steps():
    steps = MASK.sum(1)
    last = SequenceVectorizer(pooling="last").fit_transform(PADDED, mask=MASK)
    np.testing.assert_array_equal(last, X[np.arange(6), steps - 1])
    mean = SequenceVectorizer(pooling="mean").fit_transform(PADDED, mask=MASK)
    expected = [trial[:n].mean(0) for trial, n in zip(X, steps, strict=True)]
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    flat = SequenceVectorizer().fit_transform(PADDED, mask=MASK)
    np.testing.assert_array_equal(flat.reshape(X.shape)[~MASK], 0)


@pytest.mark.parametrize(("size", "with_std"), [(1e160, True), (1e308, True), (1e308, False)])
def test_what_is_too_large_to_be_scaled_is_refused(size, with_std):
    """A variance that overflows must not leave the feature unscaled."""
    large = size * np.clip(X, 1, 1.5)
    with pytest.raises(ValueError, match="X is too large for its mean and variance"):
        SequenceScaler(with_std=with_std).fit(large)


@pytest.mark.parametrize("method", ["transform", "inverse_transform"])
def test_what_overflows_when_scaled_is_refused(method):
    scaler = SequenceScaler().fit(X * (1e-4 if method == "transform" else 1e4))
    with pytest.raises(ValueError, match=f"X is too large for {method} in float64"):
        getattr(scaler, method)(np.full_like(X, 1e306))


def test_a_mean_of_large_numbers_is_one():
    large = np.full((2, 5, 1), 1.5e308)
    pooled = SequenceVectorizer(pooling="mean").fit_transform(large)
    np.testing.assert_allclose(pooled, large[:, 0], rtol=1e-14)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="pooling must be one of 'last', 'mean', 'flatten'"):
        SequenceVectorizer(pooling="max").fit(X)
    with pytest.raises(ValueError, match="needs X with 5 steps as on fit, got 4"):
        SequenceVectorizer().fit(X).transform(X[:, :4])
    with pytest.raises(ValueError, match="mask must have shape"):
        SequenceScaler().fit(X, mask=MASK[:, 1:])
    with pytest.raises(ValueError, match="X has 2 features, but SequenceScaler is expecting 3"):
        SequenceScaler().fit(X).transform(X[..., :2])
