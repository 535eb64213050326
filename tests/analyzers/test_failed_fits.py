"""A fit that fails leaves the estimator unchanged: never a mix of two fits."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn.analyzers.alignment import _analyzer as task_analyzer
from kpflow_sklearn.analyzers.gram import _analyzer as gram_analyzer
from kpflow_sklearn.analyzers.kpflow import _analyzer as analyzer
from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer

X = np.random.default_rng(0).standard_normal((10, 6, 2))
Y = X.cumsum(1)
WIDER = np.concatenate([X, X[..., :1]], axis=-1)  # One feature more.
TASKS = np.arange(10) % 2
TANH = partial(
    RecurrentTrainer, "tanh", hidden_size=4, max_iter=3, snapshots=[0, 3], random_state=0
)
LAYER = partial(FeedForwardTrainer, (4,), max_iter=3, snapshots=[0, 3], random_state=0)
MODULE = torch.nn.ModuleDict({"rnn": torch.nn.RNN(2, 4), "out": torch.nn.Linear(4, 2)})


class Broken(Exception):
    pass


def break_in(monkeypatch, module, name: str, n_calls: int, how: type = Broken) -> None:
    """Let a function of a module fail after some calls."""
    whole, count = getattr(module, name), iter(range(10**9))

    def fail(*args, **options):
        if next(count) == n_calls:
            raise how
        return whole(*args, **options)

    monkeypatch.setattr(module, name, fail)


def assert_unchanged(estimator, before: dict) -> None:
    after = vars(estimator)
    assert set(after) == set(before)
    assert [name for name in after if after[name] is not before[name]] == []


@pytest.mark.parametrize(
    ("estimator", "first", "second"),
    [
        (TANH(), (X, Y), (WIDER, Y[:5])),
        (SavedTraining(MODULE.double()), (X, Y), (WIDER, Y)),
        (LAYER(), (X[:, 0], Y[:, 0]), (WIDER[:, 0], Y[:5, 0])),
        (KPFlowAnalyzer(TANH(), random_state=0), (X, Y), (WIDER, Y[:5])),
        (GramFlowAnalyzer(LAYER(), random_state=0), (X[:, 0], Y[:, 0]), (WIDER[:, 0], Y[:5, 0])),
        (SequenceScaler(), (X,), (1e200 * WIDER,)),
        (SequenceVectorizer(), (X,), (WIDER, None, np.zeros((2, 2), dtype=bool))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_that_are_refused_change_nothing(estimator, first, second):
    def fit(X, y=None, mask=None):
        return estimator.fit(X, y, **({} if mask is None else {"mask": mask}))

    before = dict(vars(fit(*first)))
    with pytest.raises(ValueError, match=r"X|y|mask"):
        fit(*second)
    assert_unchanged(estimator, before)


def test_labels_that_are_refused_change_nothing():
    fitted = TaskAlignmentAnalyzer(TANH(), random_state=0).fit(X, Y, tasks=TASKS)
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match="tasks"):
        fitted.fit(WIDER, Y, tasks=TASKS[:3])
    assert_unchanged(fitted, before)


@pytest.mark.parametrize(("make", "step"), [(TANH, ()), (LAYER, (0,))])
def test_a_training_that_fails_changes_nothing(make, step, monkeypatch):
    where = (slice(None), *step)
    trainer = make().fit(X[where], Y[where])
    before = dict(vars(trainer))
    break_in(monkeypatch, torch.Tensor, "backward", 2)
    with pytest.raises(Broken):
        trainer.fit(WIDER[where], Y[where])
    assert_unchanged(trainer, before)


def test_a_warm_start_that_fails_does_not_move_the_network(monkeypatch):
    trainer = TANH(warm_start=True).fit(X, Y)
    predicted, optimizer = trainer.predict(X), copy.deepcopy(trainer._optimizer_state)
    break_in(monkeypatch, torch.Tensor, "backward", 2)
    with pytest.raises(Broken):
        trainer.fit(X, Y)
    np.testing.assert_array_equal(trainer.predict(X), predicted)
    torch.testing.assert_close(trainer._optimizer_state, optimizer, rtol=0, atol=0)


@pytest.mark.parametrize("how", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("make", "module", "name", "data"),
    [
        (partial(KPFlowAnalyzer, TANH()), analyzer, "lyapunov_spectrum", (WIDER, Y)),
        (partial(TaskAlignmentAnalyzer, TANH()), task_analyzer, "AlignmentHistory", (WIDER, Y)),
        (partial(GramFlowAnalyzer, LAYER()), gram_analyzer, "mode_rows", (WIDER[:, 0], Y[:, 0])),
    ],
    ids=["kpflow", "alignment", "gram"],
)
def test_an_analysis_that_fails_leaves_the_training_alone(make, module, name, data, how):
    """The training is kept, and no result of an earlier analysis stays beside it."""
    wider, y = data
    fitted = make(random_state=0).fit(wider[..., :2], y)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(how):
        break_in(patch, module, name, 0, how)
        fitted.fit(wider, y)
    assert fitted.n_features_in_ == fitted.trainer_.n_features_in_ == 3
    assert fitted.predict(wider).shape == y.shape
    assert not hasattr(fitted, "results_") and not hasattr(fitted, "components_")
    with pytest.raises(ValueError, match="not fitted yet"):
        fitted.transform(wider)
    expected = make(random_state=0).fit(wider, y)
    assert fitted.fit(wider, y).results_.equals(expected.results_)
    check_is_fitted(fitted, "results_")


def test_an_interrupted_feedforward_training_says_so(monkeypatch):
    assert LAYER().fit(X[:, 0], Y[:, 0]).interrupted_ is False
    break_in(monkeypatch, torch.Tensor, "backward", 2, KeyboardInterrupt)
    with pytest.warns(ConvergenceWarning, match="interrupted at iteration 3"):
        fitted = LAYER().fit(X[:, 0], Y[:, 0])
    assert fitted.interrupted_ and fitted.n_iter_ == 0


class Named(KPFlowAnalyzer):
    """Sets an additional attribute before it fits."""

    def fit(self, X, y=None, **options):
        self.name_ = "of a subclass"
        return super().fit(X, y, **options)


def test_what_a_subclass_sets_stays_and_what_a_fit_found_goes():
    fitted = Named(TANH(), axes=("time",), random_state=0).fit(X, Y)
    assert fitted.name_ == "of a subclass" and hasattr(fitted, "results_")
    fitted.set_params(operators=("K",), trainer=TANH(max_iter=1, snapshots=[1])).fit(WIDER, Y)
    assert fitted.name_ == "of a subclass" and fitted.n_features_in_ == 3
    assert set(fitted.results_["iteration"]) == {1}
