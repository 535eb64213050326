"""Weight Grams of pairs of samples: all of them, or drawn ones with a standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.feedforward._fields import forward_fields
from kpflow_sklearn.feedforward._weight_grams import (
    choose_pairs,
    every_gram,
    mean_over_pairs,
    pairwise_grams,
)
from kpflow_sklearn.results import Estimate, select

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 5))
Y = rng.standard_normal(40)


def fit(hidden_sizes=(8, 7), gram_pairs=None, **options):
    given = FeedForwardTrainer(hidden_sizes, max_iter=2, snapshots=1, random_state=0, **options)
    return GramFlowAnalyzer(given, gram_pairs=gram_pairs, random_state=0).fit(X, Y)


def grams_of(network, pairs, x=X):
    slopes = forward_fields(network, torch.as_tensor(x)).D[1]
    return pairwise_grams(network.hidden[1].weight.detach(), slopes, pairs)


def quantity(analyzer, name):
    return select(analyzer.results_, "K_2", name).iloc[0]


def test_pairs_are_of_two_samples():
    pairs, complete = choose_pairs(5, 10, 0)
    assert complete
    assert sorted(map(tuple, pairs.tolist())) == [
        (m, n) for m in range(5) for n in range(m + 1, 5)
    ]
    pairs, complete = choose_pairs(40, 500, 0)
    assert not complete and pairs.shape == (500, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert set(pairs.flatten().tolist()) == set(range(40))


def test_all_pairs_are_the_default_unless_they_are_much_work(monkeypatch):
    assert choose_pairs(2000, None, 0, width=64)[1]
    assert choose_pairs(500, None, 0, width=256)[1]
    assert len(choose_pairs(1000, None, 0, width=64)[0]) == 499_500
    pairs, complete = choose_pairs(1000, None, 0, width=1000)
    assert not complete and len(pairs) == 10_000
    # Pairs are also drawn for many samples in narrow layers, and without any such layer.
    for n_samples, width in ((100_000, 2), (2000, 0)):
        assert len(choose_pairs(n_samples, None, 0, width)[0]) == 10_000
    default = fit()
    assert quantity(default, "gram_trace")["method"] == "exact"
    monkeypatch.setattr("kpflow_sklearn.feedforward._weight_grams._UNIT_PAIRS", 7)
    chunked = fit()
    for name in ("gram_trace", "gram_norm", "gram_effective_dimension"):
        assert quantity(chunked, name)["value"] == pytest.approx(quantity(default, name)["value"])


def test_all_pairs_at_once_are_those_one_by_one(monkeypatch):
    network = fit(activation="gelu").network_
    slopes = forward_fields(network, torch.as_tensor(X)).D[1]
    weight = network.hidden[1].weight.detach()
    together = every_gram(weight, slopes)
    monkeypatch.setattr("kpflow_sklearn.feedforward._weight_grams._CHUNK", 7)
    one_by_one = pairwise_grams(weight, slopes, choose_pairs(40, None, 0, 7)[0])
    np.testing.assert_allclose(together.trace, one_by_one.trace, atol=1e-13)
    np.testing.assert_allclose(together.square, one_by_one.square, atol=1e-13)


def test_drawn_grams_have_the_error_of_their_mean():
    analyzer = fit(gram_pairs=100)
    pairs, _ = choose_pairs(40, 100, draw_seed(0))
    traces = grams_of(analyzer.network_, pairs).trace.numpy()
    row = quantity(analyzer, "gram_trace")
    assert row["method"] == "randomized"
    assert row["value"] == pytest.approx(traces.mean(), rel=1e-10)
    wider = stats.t.ppf(0.975, 99) / 1.96
    assert row["std_error"] == pytest.approx(wider * traces.std(ddof=1) / 10, rel=1e-10)


@pytest.mark.parametrize(
    ("n_pairs", "hidden_sizes", "activation"),
    [(30, (16, 16), "relu"), (60, (16, 2), "relu"), (400, (8, 3), "relu"), (30, (9, 9), "tanh")],
)
def test_the_error_covers_the_mean_over_all_pairs(n_pairs, hidden_sizes, activation):
    x = np.random.default_rng(1).standard_normal((100, 4))
    given = FeedForwardTrainer(hidden_sizes, activation=activation, max_iter=0, random_state=3)
    network = given.fit(x, x[:, 0]).network_

    def measured(pairs, complete):
        grams = grams_of(network, pairs, x)
        return [mean_over_pairs(v, complete) for v in (grams.trace, grams.square.sqrt())]

    truth = [mean.value for mean in measured(choose_pairs(100, None, 0)[0], True)]
    draws = [measured(choose_pairs(100, n_pairs, seed)[0], False) for seed in range(200)]
    for true, estimates in zip(truth, zip(*draws, strict=True), strict=True):
        present = [mean for mean in estimates if not mean.reason]
        assert len(present) > 150
        hits = sum(abs(mean.value - true) <= 1.96 * mean.std_error for mean in present)
        assert hits >= stats.binom.ppf(1e-3, len(present), 0.95)


def test_too_few_or_equal_drawn_pairs_give_no_error():
    few = mean_over_pairs(torch.tensor([0.0] * 970 + [1.0, 2.0] * 14), complete=False)
    assert (
        "only 28 of the drawn pairs share an active unit, but a standard error needs 30"
        in few.reason
    )
    alike = mean_over_pairs(torch.ones(50), complete=False)
    assert "all alike" in alike.reason
    assert mean_over_pairs(torch.ones(50), complete=True) == Estimate(1.0)
    assert "overflow" in mean_over_pairs(torch.tensor([1.0, torch.inf]), complete=True).reason
    with pytest.raises(ValueError, match="gram_pairs == 29, must be >= 30"):
        fit(gram_pairs=29)


def test_the_identity_has_one_gram_for_all_pairs():
    drawn = quantity(fit(gram_pairs=30, activation="identity"), "gram_trace")
    assert (drawn["method"], drawn["std_error"]) == ("exact", 0.0)
    exact = quantity(fit(activation="identity"), "gram_trace")
    assert drawn["value"] == pytest.approx(exact["value"])


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_indefinite_grams_have_no_effective_dimension(activation):
    analyzer = fit(activation=activation)
    assert (forward_fields(analyzer.network_, torch.as_tensor(X)).D[1] < 0).any()
    row = quantity(analyzer, "gram_effective_dimension")
    assert "indefinite" in row["reason"]
    assert quantity(analyzer, "gram_norm")["reason"] == ""
    for definite in ("relu", "tanh"):
        assert quantity(fit(activation=definite), "gram_effective_dimension")["value"] >= 1
