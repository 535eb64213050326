"""compare: networks of different cells and sizes on the same trials."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, SavedTraining, compare, linearize
from kpflow_sklearn.runs._compare import gram_cosine
from kpflow_sklearn.runs._trial_time_gram import trial_time_gram
from tests.oracles.cases import RAGGED

rng = np.random.default_rng(3)
X = rng.standard_normal((3, 5, 2))
Y = rng.standard_normal((3, 5, 2))


def trained(cell="gru", hidden_size=4, seed=0, **options) -> RecurrentTrainer:
    settings = {"max_iter": 5, "learning_rate": 0.05, "init_scale": 1.5} | options
    trainer = RecurrentTrainer(cell, hidden_size=hidden_size, random_state=seed, **settings)
    return trainer.fit(X, Y)


RUNS = {
    "gru": trained(),
    "lstm": trained("lstm", 6),
    "tanh": trained("tanh", 5, n_layers=2, learn_initial_state=True),
}


def dense_gram(run, operator: str, mask) -> torch.Tensor:
    """Return the Gram over trials and steps from the operator's matrix, by its definition."""
    lin = linearize(run.network_, X, mask)
    B, T, H = lin.states.shape
    if operator == "states":
        z = lin.states if mask is None else lin.states * torch.as_tensor(mask)[..., None]
        return torch.einsum("bth,csh->btcs", z, z).reshape(B * T, B * T)
    matrix = getattr(lin, operator).to_dense()
    gram = matrix @ matrix.T if operator == "P" else matrix
    return torch.einsum("bhch->bc", gram.reshape(B * T, H, B * T, H))


@pytest.mark.parametrize("mask", [None, RAGGED], ids=["whole", "ragged"])
def test_small_networks_exactly(mask):
    table = compare(RUNS, X, mask=mask)
    assert (table["method"] == "exact").all() and not table["std_error"].any()
    assert len(table) == 4 * 6
    cosines = table.set_index(["run", "other_run", "operator"])["value"]
    for a, b in combinations(RUNS, 2):
        for operator in ("states", "K", "P", "PKP"):
            g, h = (dense_gram(RUNS[name], operator, mask) for name in (a, b))
            expected = float((g * h).sum() / (g.norm() * h.norm()))
            assert cosines[a, b, operator] == pytest.approx(expected, abs=1e-12)
            assert cosines[a, a, operator] == 1


@pytest.mark.parametrize("n_probes", [8, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operator", ["K", "P", "PKP"])
def test_intervals_hold_the_truth(operator, n_probes):
    a, b = (linearize(RUNS[name].network_, X) for name in ("gru", "lstm"))
    exact = gram_cosine(
        *(trial_time_gram(lin, operator, exact=True, n_probes=0, seed=0) for lin in (a, b))
    ).value
    n_seeds = 200
    scores = []
    for seed in range(n_seeds):
        estimate = gram_cosine(
            trial_time_gram(a, operator, exact=False, n_probes=n_probes, seed=2 * seed),
            trial_time_gram(b, operator, exact=False, n_probes=n_probes, seed=2 * seed + 1),
        )
        scores.append((estimate.value - exact) / estimate.std_error)
    assert (np.abs(scores) <= 1.96).sum() >= binom.ppf(1e-3, n_seeds, 0.93)
    assert abs(np.mean(scores)) < 1  # A ratio of estimates is biased if they are few.


def test_large_networks_are_estimated():
    larger = {"a": trained(hidden_size=80), "b": trained("tanh", 70)}
    table = compare(larger, X, n_probes=32)
    assert set(table[table["operator"] != "states"]["method"]) == {"randomized"}
    assert (table[table["run"] != table["other_run"]]["value"].between(-0.2, 1.2)).all()
    again = compare(larger, X, n_probes=32)
    np.testing.assert_array_equal(table["value"], again["value"])


def test_the_order_of_units_does_not_matter():
    first = trained("tanh")
    second = trained("tanh")
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        w = second.network_.recurrent
        w.weight_hh_l0.copy_(w.weight_hh_l0[order][:, order])
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(w, name).copy_(getattr(w, name)[order])
    table = compare({"a": first, "b": second}, X)
    np.testing.assert_allclose(table["value"], 1, rtol=1e-12)


def test_analyzers_and_their_networks_too():
    analyzer = KPFlowAnalyzer(trained(), axes=("time",), random_state=0).fit(X, Y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.ModuleDict({"core": nn.GRU(2, 3), "out": nn.Linear(3, 2)}).double()
    table = compare({"a": analyzer, "b": SavedTraining(module).fit(X, Y)}, X, operators=["P"])
    assert table["operator"].tolist() == ["P"] * 3


BAD = {
    "a list": (([trained()], X), {}, "runs must map names to fitted estimators, got a list"),
    "nothing": (({}, X), {}, "runs must map names to fitted estimators, got a dict of length 0"),
    "features": ((RUNS, X[..., :1]), {}, "X has 1 features, but run 'gru' takes 2"),
    "operators": ((RUNS, X), {"operators": ["Q"]}, "operators must be a sequence"),
    "not fitted": (({"a": RecurrentTrainer()}, X), {}, "not fitted"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared(name):
    arguments, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        compare(*arguments, **options)


def test_a_network_without_response_is_missing_with_a_reason():
    silent = trained("relu")
    with torch.no_grad():
        for p in silent.network_.recurrent.parameters():
            p.zero_()
    table = compare({"a": trained(), "b": silent}, X, operators=["states"])
    assert table["run"].tolist() == ["a", "a", "b"]
    assert table["value"].isna().tolist() == [False, True, True]
    assert (table["reason"] != "").equals(table["value"].isna())
