"""What an analysis says beforehand of its time and memory."""

import logging
import time

import numpy as np
import pytest
import torch

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn.analyzers._forecast import Forecast
from kpflow_sklearn.analyzers.kpflow import _analyzer as kpflow
from kpflow_sklearn.analyzers.kpflow import _planned

NAME = "kpflow_sklearn"
rng = np.random.default_rng(0)
X = rng.standard_normal((6, 5, 2))


def trainer(n_units=4, cell="tanh", **options):
    return RecurrentTrainer(cell, hidden_size=n_units, max_iter=1, snapshots=2, **options)


def forecasts(caplog):
    return [r for r in caplog.records if r.getMessage().startswith("Analysing")]


def test_verbose_fits_begin_with_a_forecast(caplog):
    with caplog.at_level(logging.INFO, logger=NAME):
        KPFlowAnalyzer(trainer(), random_state=0).fit(X, X)
        assert not forecasts(caplog)
        KPFlowAnalyzer(trainer(), random_state=0, verbose=True).fit(X, X)
        TaskAlignmentAnalyzer(trainer(), random_state=0, verbose=True).fit(X, X, tasks=[0, 1] * 3)
        gram = FeedForwardTrainer((4,), max_iter=1, snapshots=2)
        GramFlowAnalyzer(gram, random_state=0, verbose=True).fit(X[:, 0], X[:, 0, 0])
    first, *others = (r.getMessage() for r in forecasts(caplog))
    start = "Analysing 2 snapshots of 6 trials x 5 steps x 4 units takes about "
    assert first.startswith(start) and " s and 1 MB." in first
    assert [o.split(" takes")[0] for o in others] == [
        "Analysing 2 snapshots of 6 trials x 5 steps x 2 sub-tasks",
        "Analysing 2 snapshots of 6 samples",
    ]
    assert {r.levelno for r in forecasts(caplog)} == {logging.INFO}


def test_verbose_is_enough_to_read_it(capsys):
    KPFlowAnalyzer(trainer(), random_state=0, verbose=True).fit(X, X)
    assert capsys.readouterr().err.count("Analysing 2 snapshots") == 1


@pytest.mark.parametrize("seconds, level", [(20, logging.INFO), (61, logging.WARNING)])
@pytest.mark.parametrize("slow_path", ["", "Autodiff is slow."])
def test_what_is_slow_is_said_without_verbose(seconds, level, slow_path, caplog):
    level = logging.WARNING if slow_path else level
    said = Forecast("a network", seconds, 2.04e9, slow_path)
    with caplog.at_level(logging.INFO, logger=NAME):
        said.announce(verbose=False)
        assert len(caplog.records) == (level == logging.WARNING)
        said.announce(verbose=True)
    assert caplog.records[-1].levelno == level
    message = caplog.records[-1].getMessage()
    assert message.startswith("Analysing a network takes about ") and "and 2.0 GB." in message
    assert ("analysis_trials" in message) == (level == logging.WARNING)
    assert slow_path in message


def test_a_step_of_ones_own_is_named_as_the_slow_path(monkeypatch):
    module = torch.nn.ModuleDict({"cell": torch.nn.RNNCell(2, 4), "out": torch.nn.Linear(4, 2)})
    made, original = [], kpflow.forecast
    monkeypatch.setattr(kpflow, "forecast", lambda *a: made.append(original(*a)) or made[-1])
    saved = SavedTraining(module.double(), step="cell", check_outputs=False)
    KPFlowAnalyzer(saved, operators=("K",), axes=("time",), random_state=0).fit(X[:2], X[:2])
    KPFlowAnalyzer(trainer(), operators=("K",), axes=("time",), random_state=0).fit(X, X)
    own, built_in = made
    assert "automatic differentiation" in own.slow_path and "nn.GRU" in own.slow_path
    assert not built_in.slow_path
    assert str(own._replace(seconds=12.0)).count("automatic differentiation") == 1


@pytest.mark.parametrize("analyses, n_products", [(("signals",), 20), (("weight_maps",), 1)])
def test_agreements_are_forecast_only_if_they_are_computed(analyses, n_products, monkeypatch):
    asked = []
    monkeypatch.setattr(_planned, "seconds_of", lambda total, lin: asked.append(total) or 1.0)
    KPFlowAnalyzer(trainer(), analyses=analyses, random_state=0).fit(X, X)
    per_product = 8 * len(X) * X.shape[1] * 4**2  # The recurrent weights of four units.
    assert asked[0].products == 2 * n_products * per_product  # Two snapshots.


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell, n_units, size, axes",
    [
        ("gru", 32, (32, 20), ("all", "time", "hidden")),
        ("tanh", 64, (50, 40), ("all", "time", "hidden")),
        ("lstm", 32, (40, 30), ("time",)),
    ],
)
def test_forecasts_are_right_within_a_factor_of_three(cell, n_units, size, axes, monkeypatch):
    seen, original = [], kpflow.forecast

    def timed(*args):
        start = time.perf_counter()
        said = original(*args)
        seen[:] = said.seconds, time.perf_counter() - start, time.perf_counter()
        return said

    monkeypatch.setattr(kpflow, "forecast", timed)
    inputs = rng.standard_normal((*size, 3))
    source = trainer(n_units, cell, random_state=0, dtype="float32")
    KPFlowAnalyzer(source, axes=axes, random_state=0).fit(inputs, inputs.cumsum(1))
    said, cost, start = seen
    took = time.perf_counter() - start
    assert took / 3 < said < 3 * took
    # The clock also counts what other processes do; quiet machines need a third of this.
    assert cost < max(0.6, 0.02 * took)
