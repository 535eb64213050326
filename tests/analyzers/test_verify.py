"""The method verify of the analyzers of tasks and layers, and the methods in results_."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.analyzers.gram._snapshot import GramSnapshot
from kpflow_sklearn.feedforward import FeedForwardKernel
from tests.oracles.cases import MyCell

rng = np.random.default_rng(0)
X = rng.standard_normal((9, 6, 2))
Y = X.cumsum(1)
MASK = np.arange(6) < rng.integers(2, 7, 9)[:, None]
WEIGHT = rng.uniform(0.5, 2, (9, 6))
TASKS = np.repeat(["a", "b", "c"], 3)
ROWS, VALUES = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))


def recurrent(cell: Any = "gru", **options) -> RecurrentTrainer:
    settings = {"hidden_size": 5, "max_iter": 4, "snapshots": 2, "random_state": 0}
    return RecurrentTrainer(cell, **settings | options)


def tasks_of(cell: Any = "gru", y=Y, tasks=TASKS, fit=None, **options) -> pd.DataFrame:
    source, fit = recurrent(cell, **options), fit or {}
    fitted = TaskAlignmentAnalyzer(source, random_state=0).fit(X, y, tasks=tasks, **fit)
    return fitted.verify(X, y, tasks=tasks, **fit)


def layers_of(sizes: tuple = (6, 5), **options) -> pd.DataFrame:
    settings = {"max_iter": 5, "snapshots": 2, "random_state": 0}
    source = FeedForwardTrainer(sizes, **settings | options)
    return GramFlowAnalyzer(source, random_state=0).fit(ROWS, VALUES).verify(ROWS, VALUES)


N_OPERATORS = 8  # Rows on the operators, where K is made of weight maps.
OF_TASKS: dict[str, tuple[Callable[[], pd.DataFrame], int]] = {
    "gru": (tasks_of, 13),
    "lstm": (lambda: tasks_of("lstm", n_layers=2), 13),
    "user's cell": (lambda: tasks_of(MyCell), 12),
    "trained initial state": (lambda: tasks_of(learn_initial_state=True), 12),
    "mask and weight": (lambda: tasks_of(fit={"mask": MASK, "loss_weight": WEIGHT}), 13),
    "rate penalty": (lambda: tasks_of(activity_l2=0.3), 13),
    "outputs": (lambda: tasks_of(tasks=None), 13),
    "outputs, mask, penalty": (
        lambda: tasks_of(tasks=None, fit={"mask": MASK}, activity_l2=0.3),
        13,
    ),
    "classes": (lambda: tasks_of(y=TASKS, tasks=None), 13),
    "float32": (lambda: tasks_of(dtype="float32"), 13),
}


def check_verified(table: pd.DataFrame, n_rows: int) -> None:
    assert list(table) == ["identity", "error", "tolerance", "passed"]
    assert table["passed"].all(), table
    assert table["identity"].is_unique and len(table) == n_rows


@pytest.mark.parametrize("name", OF_TASKS)
def test_tasks_verify_on_every_network(name):
    make, n_rows = OF_TASKS[name]
    check_verified(make(), n_rows)


def test_without_sub_tasks_the_operators_alone_are_verified():
    classes = (X[..., 0] > 0).astype(int)
    source = TaskAlignmentAnalyzer(recurrent(), random_state=0).fit(X, classes, tasks=TASKS)
    assert len(source.verify(X, classes)) == N_OPERATORS
    assert len(source.verify(X, classes, tasks=TASKS)) == 13


OF_LAYERS = {
    "two layers": {},
    "one layer": {"sizes": (7,)},
    "trained readout": {"train_readout": True},
    "no bias": {"bias": False},
    "tanh": {"activation": "tanh", "sizes": (5, 4, 3)},
    "adam": {"optimizer": "adam", "batch_size": 8},
    "float32": {"dtype": "float32"},
    "one snapshot": {"snapshots": [0]},
}


@pytest.mark.parametrize("name", OF_LAYERS)
def test_layers_verify_on_every_network(name):
    check_verified(layers_of(**OF_LAYERS[name]), 6)


def test_verify_takes_other_rows_and_refuses_those_that_do_not_fit():
    fitted = GramFlowAnalyzer(FeedForwardTrainer((5,), max_iter=3)).fit(ROWS, VALUES)
    other = rng.standard_normal((300, 4)), rng.standard_normal((300, 2))
    assert fitted.verify(*other)["passed"].all()
    with pytest.raises(ValueError, match=r"y must have 2 output"):
        fitted.verify(ROWS, VALUES[:, 0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fitted.verify(other[0], VALUES)


def times(factor: float) -> Callable[[Callable], Callable]:
    return lambda function: lambda *args, **options: _scaled(function(*args, **options), factor)


def _scaled(result: Any, factor: float) -> Any:
    if isinstance(result, dict):
        return {name: factor * value for name, value in result.items()}
    return factor * result


GRADIENTS, MAPS = "interference = <grad", "interference = its sum over weight maps"
SUM, FLOWS = "sum of the interferences", "sum of the tasks' flows"
STATES = "flow of each task"


def without_one(by_map: Any) -> Any:
    return property(lambda flow: torch.cat(list(flow.by_map.values())[1:], 1))


def with_changes_of(another: Callable) -> Callable[[Callable], Callable]:
    def broken(init: Callable) -> Callable:
        def changed(flow: TaskFlow, *args: Any) -> None:
            init(flow, *args)
            flow.changes = another(flow.changes)

        return changed

    return broken


OF_TASKS_BROKEN = {
    "gradients": (TaskFlow, "_gradients", times(1.01), {GRADIENTS, SUM, STATES, FLOWS}),
    "counts": (TaskFlow, "_count_steps", times(1.01), {GRADIENTS, SUM, STATES, FLOWS}),
    "a map left out": (TaskFlow, "gradients", without_one, {GRADIENTS, SUM, MAPS}),
    # Tasks of as many trials each: the sum over them cannot tell them apart.
    "tasks exchanged": (TaskFlow, "__init__", with_changes_of(lambda c: c.flip(0)), {STATES}),
    "sign": (TaskFlow, "__init__", with_changes_of(torch.neg), {STATES, FLOWS}),
    "one step late": (
        TaskFlow,
        "__init__",
        with_changes_of(lambda c: c.roll(1, 2)),
        {STATES, FLOWS},
    ),
}


@pytest.mark.parametrize("name", OF_TASKS_BROKEN)
def test_verify_notices_what_is_wrong_with_tasks(name, monkeypatch):
    owner, attribute, broken, expected = OF_TASKS_BROKEN[name]
    fitted = TaskAlignmentAnalyzer(recurrent(), random_state=0).fit(X, Y, tasks=TASKS)
    monkeypatch.setattr(owner, attribute, broken(getattr(owner, attribute)))
    table = fitted.verify(X, Y, tasks=TASKS)
    failed = set(table["identity"][~table["passed"]])
    starts = (GRADIENTS, SUM, STATES, FLOWS, MAPS)
    assert {start for start in starts if any(f.startswith(start) for f in failed)} == expected


OF_LAYERS_BROKEN = {
    "quadratic forms": (FeedForwardKernel, "quadratic_forms", {"r^T K_l r"}),
    "traces": (FeedForwardKernel, "traces", {"tr K_l"}),
    "J^T": (FeedForwardKernel, "pull", {"r^T K_l r", "u^T K v", "sum of", "gradient step"}),
    "J": (FeedForwardKernel, "push", {"u^T K v", "sum of", "gradient step"}),
    "the matrix": (FeedForwardKernel, "dense", {"sum of"}),
}


def layers_that_fail() -> set[str]:
    """Return the identities of layers that fail."""
    table = layers_of()
    return set(table["identity"][~table["passed"]])


@pytest.mark.parametrize("name", OF_LAYERS_BROKEN)
def test_verify_notices_what_is_wrong_with_layers(name, monkeypatch):
    owner, attribute, expected = OF_LAYERS_BROKEN[name]
    monkeypatch.setattr(owner, attribute, times(1.01)(getattr(owner, attribute)))
    failed = layers_that_fail()
    assert all(any(f.startswith(start) for f in failed) for start in expected), failed
    assert len(failed) == len(expected)


def test_verify_notices_a_wrong_attribution(monkeypatch):
    step = GramSnapshot.step
    scaled = lambda *args: tuple(_scaled(d, 1.01) for d in step(*args))  # noqa: E731
    monkeypatch.setattr(GramSnapshot, "step", scaled)
    assert layers_that_fail() == {"layers' shares of the change of the loss sum to it"}


# ------------------------------------------------------------------------- exact or estimated


def kpflow(**options) -> pd.DataFrame:
    return KPFlowAnalyzer(recurrent(), random_state=0, **options).fit(X, Y).results_


def alignment() -> pd.DataFrame:
    return TaskAlignmentAnalyzer(recurrent(), random_state=0).fit(X, Y, tasks=TASKS).results_


def gram(**options) -> pd.DataFrame:
    source = FeedForwardTrainer((6, 5), max_iter=3)
    return GramFlowAnalyzer(source, random_state=0, **options).fit(ROWS, VALUES).results_


ANALYSES: dict[str, Callable[[], pd.DataFrame]] = {
    "KPFlowAnalyzer": kpflow,
    "KPFlowAnalyzer, randomized": lambda: kpflow(method="randomized", n_probes=4),
    "TaskAlignmentAnalyzer": alignment,
    "GramFlowAnalyzer": gram,
    "GramFlowAnalyzer, pairs drawn": lambda: gram(gram_pairs=40),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_every_row_says_whether_it_is_exact(name):
    table = ANALYSES[name]()
    assert set(table["method"]) <= {"counted", "exact", "interval", "randomized"}
    has_value = table["reason"] == ""
    assert (table["std_error"][has_value & (table["method"] == "exact")] == 0).all()
    # An estimate may turn out to have no error; but a number that has one is an estimate.
    assert (table["method"][table["std_error"] > 0] != "exact").all()
    estimated = "randomized" in name or "drawn" in name
    assert ("randomized" in set(table["method"])) is estimated
    assert (table["std_error"] > 0).any() == estimated
