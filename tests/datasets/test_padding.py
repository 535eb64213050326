"""Trials of unequal lengths: the amount of padding changes nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from kpflow_sklearn import (
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    linearize,
)
from kpflow_sklearn.datasets import pad_sequences, trials_first
from kpflow_sklearn.preprocessing import SequenceScaler
from kpflow_sklearn.results import select
from tests.oracles.cases import distance

LENGTHS = [7, 4, 5, 1, 6]
rng = np.random.default_rng(2)
TRIALS = [rng.standard_normal((n, 3)) for n in LENGTHS]
VALUES = [rng.standard_normal((n, 2)) for n in LENGTHS]
CLASSES = [rng.integers(0, 3, n) for n in LENGTHS]
WEIGHTS = [np.where(np.arange(n) < 2, 0.2, 1.0 + np.arange(n)) for n in LENGTHS]


def trainer(cell: str = "gru", **options) -> RecurrentTrainer:
    settings = {"hidden_size": 4, "max_iter": 6, "snapshots": 2, "learning_rate": 0.02}
    return RecurrentTrainer(cell, random_state=0, **settings | options)


def test_shapes_and_dtypes():
    X, y, weight, mask = pad_sequences(TRIALS, CLASSES, WEIGHTS, n_timesteps=9)
    assert X.shape == (5, 9, 3) and y.shape == weight.shape == mask.shape == (5, 9)
    assert y.dtype.kind == "i" and X.dtype == np.float64 and mask.dtype == bool
    assert mask.sum(1).tolist() == LENGTHS
    for b, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(X[b, :n], TRIALS[b])
        np.testing.assert_array_equal(y[b, :n], CLASSES[b])
        assert not X[b, n:].any() and not y[b, n:].any() and not mask[b, n:].any()
    assert pad_sequences([t.astype(np.float32) for t in TRIALS])[0].dtype == np.float32


BAD = {
    "no trial": (([],), {}, "needs at least one trial"),
    "an empty trial": (([np.ones((0, 3))],), {}, r"\[0\]\[0\] must have at least one step"),
    "lengths": ((TRIALS, VALUES[::-1]), {}, r"sequences\[1\]\[0\] has 6 steps, but .* has 7"),
    "trials": ((TRIALS, VALUES[:2]), {}, r"sequences\[1\] has 2 trials, but sequences\[0\] has 5"),
    "features": (([np.ones((2, 3)), np.ones((2, 4))],), {}, r"\[1\] has shape \(4,\) at a step"),
    "too short": ((TRIALS,), {"n_timesteps": 6}, "n_timesteps must be at least 7, got 6"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_padded(name):
    arguments, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        pad_sequences(*arguments, **options)


@pytest.mark.parametrize(("cell", "targets"), [("gru", VALUES), ("lstm", CLASSES)])
def test_padding_changes_nothing(cell, targets):
    tables, networks = [], []
    for n_timesteps in (7, 15):
        X, y, weight, mask = pad_sequences(TRIALS, targets, WEIGHTS, n_timesteps=n_timesteps)
        options = {"mask": mask, "loss_weight": weight}
        model = KPFlowAnalyzer(trainer(cell, batch_size=2), method="exact", random_state=0)
        model.fit(X, y, **options)
        tables.append(model.results_)
        networks.append(model.snapshots_[-1].state)
        states = model.trajectories(X, mask=mask)
        assert not states[~mask].any()
        assert model.verify(X, y, **options)["passed"].all()
    # Rounding, grown over twelve updates by Adam, whose steps divide by small numbers.
    for name, value in networks[1].items():
        torch.testing.assert_close(value, networks[0][name], rtol=1e-9, atol=1e-11)
    pd.testing.assert_frame_equal(*tables, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "gap", "hidden_by"), [("float32", 1e20, "mask"), ("float64", 1e300, "loss_weight")]
)
def test_values_in_a_gap_change_nothing(dtype, gap, hidden_by):
    """Missing values are often marked by 1e20, whose square overflows float32."""
    X, y, weight, mask = pad_sequences(TRIALS, VALUES, WEIGHTS)
    cost = weight[..., None] * [1.0, 0.0] if hidden_by == "loss_weight" else weight
    counts = mask[..., None] if hidden_by == "mask" else cost > 0
    marked = (np.where(mask[..., None], X, gap), np.where(counts, y, gap))
    curves, tables = [], []
    for data in ((X, y), marked):
        fitted = trainer(dtype=dtype).fit(*data, mask=mask, loss_weight=cost)
        analyzer = KPFlowAnalyzer(
            FrozenEstimator(fitted), method="exact", axes=("time",), random_state=0
        )
        tables.append(analyzer.fit(*data, mask=mask, loss_weight=cost).results_)
        curves.append(fitted.loss_curve_)
    np.testing.assert_array_equal(*curves)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_the_next_input_of_a_gap_changes_nothing():
    X, mask = pad_sequences(TRIALS)
    fitted = trainer().fit(np.where(mask[..., None], X, 1e300), mask=mask)
    np.testing.assert_array_equal(fitted.loss_curve_, trainer().fit(X, mask=mask).loss_curve_)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_P_is_that_of_the_trials_one_by_one(cell):
    X, y, mask = pad_sequences(TRIALS, VALUES, n_timesteps=9)
    network = trainer(cell).fit(X, y, mask=mask).network_
    together = linearize(network, X, mask)
    n_states = together.states.shape[-1]
    blocks = together.P.to_dense().reshape(5, 9, n_states, 5, 9, n_states)
    for b, (n, trial) in enumerate(zip(LENGTHS, TRIALS, strict=True)):
        alone = linearize(network, trial[None]).P.to_dense()
        assert distance(blocks[b, :n, :, b, :n].reshape(alone.shape), alone) < 1e-13


def test_loss_weight_is_the_cost_mask_of_plain_torch():
    X, y, weight, mask = pad_sequences(TRIALS, CLASSES, WEIGHTS)
    fitted = trainer().fit(X, y, mask=mask)
    analyzer = KPFlowAnalyzer(FrozenEstimator(fitted), random_state=0)
    loss = select(analyzer.fit(X, y, mask=mask, loss_weight=weight).results_, "network", "loss")
    total = 0.0
    for trial, labels, w in zip(TRIALS, CLASSES, WEIGHTS, strict=True):
        with torch.no_grad():
            logits = fitted.network_(torch.as_tensor(trial)[None])[0]
        entropy = nn.functional.cross_entropy(logits, torch.as_tensor(labels), reduction="none")
        total += float((torch.as_tensor(w) * entropy).sum())
    assert loss["value"].iloc[-1] == pytest.approx(total / sum(LENGTHS), rel=1e-12)


def test_trials_first():
    X, y, mask = pad_sequences(TRIALS, CLASSES)
    turned = trials_first(*(torch.as_tensor(a.swapaxes(0, 1).copy()) for a in (X, y, mask)))
    for array, expected in zip(turned, (X, y, mask), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(trials_first(X), X.swapaxes(0, 1))
    with pytest.raises(ValueError, match=r"arrays\[1\] must have shape .* got \(7, 5\) beside"):
        trials_first(X, y.T)
    with pytest.raises(ValueError, match="needs at least one"):
        trials_first()


def test_a_network_with_steps_first_and_its_data():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        core, out = nn.GRU(3, 4).double(), nn.Linear(4, 2).double()
    steps_first = torch.as_tensor(rng.standard_normal((6, 5, 3)))
    with torch.no_grad():
        expected = out(core(steps_first)[0])
    X, y = trials_first(steps_first, expected)
    saved = SavedTraining(nn.ModuleDict({"core": core, "out": out})).fit(X, y)
    np.testing.assert_allclose(saved.predict(X), y, rtol=1e-12)


AS_LISTS = [trial.tolist() for trial in TRIALS]
TAKERS = [
    RecurrentTrainer(max_iter=1),
    KPFlowAnalyzer(RecurrentTrainer(max_iter=1)),
    TaskAlignmentAnalyzer(RecurrentTrainer(max_iter=1)),
    SequenceScaler(),
]


@pytest.mark.parametrize("trials", [TRIALS, AS_LISTS], ids=["arrays", "lists"])
@pytest.mark.parametrize("estimator", TAKERS, ids=lambda e: type(e).__name__)
def test_trials_of_unequal_length_are_sent_to_pad_sequences(estimator, trials):
    words = r"^X must be one array, .*from 1 to 7 steps. Give .* mask .*pad_sequences\(X\)"
    with pytest.raises(ValueError, match=words):
        estimator.fit(trials)
    if isinstance(estimator, TaskAlignmentAnalyzer):
        with pytest.raises(ValueError, match=words):
            estimator.fit(trials, tasks=["a", "b", "a", "b", "b"])


def test_targets_of_unequal_length_are_sent_to_pad_sequences():
    with pytest.raises(ValueError, match=r"^y must be one array, .*pad_sequences\(y\)"):
        RecurrentTrainer(max_iter=1).fit(pad_sequences(TRIALS)[0], AS_LISTS)


def test_strings_are_no_trials():
    with pytest.raises(ValueError, match="could not convert"):
        RecurrentTrainer(max_iter=1).fit([["one", "two"], ["a", "b"]])
