"""The score of feed-forward networks: its weights, and how it refuses others."""

import numpy as np
import pytest

from kpflow_sklearn import FeedForwardTrainer

rng = np.random.default_rng(0)
X = rng.standard_normal((8, 2))
TRAINER = FeedForwardTrainer((4,), max_iter=2, random_state=0).fit(X, X[:, 0])


@pytest.mark.parametrize(
    "weight, message",
    [
        (
            np.ones(3),
            r"sample_weight must hold one weight per sample .*\(8,\), got \(3,\)",
        ),
        (np.ones((8, 1)), r"shape \(8,\), got \(8, 1\)"),
        (1.0, "sample_weight"),
        (["a"] * 8, "sample_weight"),
        (np.full(8, np.nan), "Input sample_weight contains NaN"),
        (np.arange(8) - 1.0, "sample_weight must be >= 0 .*, got -1"),
        (np.zeros(8), "positive for at least one sample, got only zeros"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_named(weight, message):
    with pytest.raises(ValueError, match=message):
        TRAINER.score(X, X[:, 0], sample_weight=weight)


def test_samples_of_weight_zero_do_not_count():
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    y = X[:, 0].copy()
    y[5:] = 100.0
    assert TRAINER.score(X, y, weight) == pytest.approx(TRAINER.score(X[:5], y[:5]))
