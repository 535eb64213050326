"""Progress through scikit-learn's callbacks, where it has them (1.9 and later)."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn.preprocessing import SequenceScaler

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has no callbacks")

X = np.random.default_rng(0).standard_normal((8, 4, 2))
LABELS = ["a", "b"] * 4
N_ITER, N_SNAPSHOTS = 6, 3
OPTIONS = {"max_iter": N_ITER, "snapshots": N_SNAPSHOTS, "random_state": 0}
TRAINER = RecurrentTrainer(hidden_size=3, **OPTIONS)
ESTIMATORS = {
    "recurrent": TRAINER,
    "feedforward": FeedForwardTrainer((3,), **OPTIONS),
    "kpflow": KPFlowAnalyzer(TRAINER, axes=("time",), analyses=("spectra",), random_state=0),
    "alignment": TaskAlignmentAnalyzer(TRAINER, random_state=0),
    "gram": GramFlowAnalyzer(FeedForwardTrainer((3,), **OPTIONS), random_state=0),
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
ITERATIONS = ["iteration"] * N_ITER
ANALYSIS = ["training", "analysis", *["snapshot"] * N_SNAPSHOTS]


@dataclass(eq=False)
class Recorder:
    """Writes down the tasks as they begin and end; stops at an iteration, if told."""

    stop_at: int | None = None
    begun: list = field(default_factory=list)
    ended: list = field(default_factory=list)
    scores: list = field(default_factory=list)
    n_setups: int = 0

    def setup(self, estimator, context):
        self.n_setups += 1

    def teardown(self, estimator, context):
        self.n_setups -= 1

    def on_fit_task_begin(self, estimator, context):
        self.begun.append(context.task_name)

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.ended.append(context.task_name)
        if context.task_name == "iteration":
            self.scores.append(fitted_estimator.score(X, y))
            return context.task_id == self.stop_at
        return False


class ForAll(Recorder):
    """The same, for the estimators within as well."""

    max_propagation_depth = None


def fit(estimator):
    if isinstance(estimator, FeedForwardTrainer | GramFlowAnalyzer):
        return estimator.fit(X[:, 0], X[:, 0].sum(1))
    return estimator.fit(X, LABELS)


@every_estimator
def test_callbacks_hear_of_every_step_and_change_no_number(name):
    recorder = Recorder()
    plain = fit(clone(ESTIMATORS[name]))
    told = fit(clone(ESTIMATORS[name]).set_callbacks(recorder))
    inner = ITERATIONS if name in ("recurrent", "feedforward") else ANALYSIS
    assert recorder.begun == ["fit", *inner]
    assert sorted(recorder.ended) == sorted(recorder.begun) and recorder.ended[-1] == "fit"
    assert recorder.n_setups == 0
    np.testing.assert_array_equal(told.loss_curve_, plain.loss_curve_)
    for a, b in zip(told.snapshots_, plain.snapshots_, strict=True):
        assert all(torch.equal(a.state[key], b.state[key]) for key in b.state)
    if hasattr(plain, "results_"):
        assert told.results_.equals(plain.results_)
    assert vars(told).keys() - vars(plain).keys() == {"_skl_callbacks"}


@every_estimator
def test_callbacks_reach_the_trainer_of_an_analyzer(name):
    recorder = ForAll()
    fit(clone(ESTIMATORS[name]).set_callbacks(recorder))
    assert recorder.begun.count("iteration") == recorder.ended.count("iteration") == N_ITER
    assert not hasattr(fit(clone(ESTIMATORS[name])), "_skl_callbacks")


def test_what_callbacks_see_is_the_network_so_far():
    recorder = Recorder()
    trainer = clone(TRAINER).set_params(snapshots=list(range(N_ITER + 1)))
    trainer.set_callbacks(recorder).fit(X, LABELS)
    for iteration, score in enumerate(recorder.scores, start=1):
        shorter = clone(TRAINER).set_params(max_iter=iteration).fit(X, LABELS)
        assert score == shorter.score(X, LABELS)


class Dropping(torch.nn.Module):
    """A cell whose step is random while it trains."""

    def __init__(self, n_features, hidden_size):
        super().__init__()
        self.drop, self.step = torch.nn.Dropout(0.5), torch.nn.GRUCell(n_features, hidden_size)

    def forward(self, x, h):
        return self.step(self.drop(x), h)


@pytest.mark.filterwarnings("ignore:init_scale")
def test_what_callbacks_see_is_ready_to_predict_while_training_goes_on():
    seen = []

    class Keeper(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "iteration":
                seen.append((fitted_estimator.network_.training, estimator.network_.training))

    clone(TRAINER).set_params(cell=Dropping).set_callbacks(Keeper()).fit(X, LABELS)
    assert seen == [(False, True)] * N_ITER


def test_a_callback_may_stop_the_training():
    trainer = clone(TRAINER).set_callbacks(Recorder(stop_at=2)).fit(X, LABELS)
    assert trainer.n_iter_ == len(trainer.loss_curve_) == 3
    assert trainer.snapshots_[-1].iteration == 3
    expected = clone(TRAINER).set_params(max_iter=3).fit(X, LABELS)
    np.testing.assert_array_equal(trainer.predict(X), expected.predict(X))


def break_third_update(module):
    """Make a weight infinite, once it was constrained twice before."""
    module.n_constrained = getattr(module, "n_constrained", 0) + 1
    if module.n_constrained == 3:
        module.readout.bias.fill_(torch.inf)


class Predicting(Recorder):
    """Predicts at the end of every task, which fails where a network's states overflow."""

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.scores.append(fitted_estimator.predict(X))
        self.ended.append(context.task_name)


def test_a_diverging_training_is_restored_before_callbacks_predict():
    trainer = RecurrentTrainer("relu", hidden_size=3, optimizer="sgd", **OPTIONS)
    trainer.set_params(snapshots=range(N_ITER + 1), constraint=break_third_update)
    recorder, message = Predicting(), "diverged.* last snapshot before, at iteration 2"
    with pytest.warns(ConvergenceWarning, match=message):
        told = clone(trainer).set_callbacks(recorder).fit(X, X)
    # The update that failed was begun, and never ended; the fit ends with the network kept.
    assert recorder.begun == ["fit", *["iteration"] * 3]
    assert recorder.ended == [*["iteration"] * 2, "fit"] and recorder.n_setups == 0
    assert np.isfinite(recorder.scores).all()
    with pytest.warns(ConvergenceWarning, match=message):
        plain = clone(trainer).fit(X, X)
    assert told.n_iter_ == plain.n_iter_ == 2 == told.snapshots_[-1].iteration
    np.testing.assert_array_equal(told.predict(X), plain.predict(X))


@pytest.mark.parametrize("learning_rate", [1e-3, 1e200], ids=["finite", "diverged"])
def test_an_error_of_a_callback_is_raised_whatever_became_of_the_loss(learning_rate):
    class Failing(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise ArithmeticError("mine")

    trainer = RecurrentTrainer("relu", hidden_size=3, optimizer="sgd", **OPTIONS)
    trainer.set_params(learning_rate=learning_rate).set_callbacks(Failing())
    with pytest.raises(ArithmeticError, match="mine"):
        trainer.fit(X, X)
    assert not hasattr(trainer, "network_")


@pytest.mark.parametrize("kind", ["saved", "module", "frozen", "feedforward"])
def test_networks_that_are_not_trained_are_one_step(kind):
    if kind == "feedforward":
        module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        recorder = ForAll()
        GramFlowAnalyzer(module.double()).set_callbacks(recorder).fit(X[:, 0], X[:, 0, 0])
    else:
        module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 3), "out": torch.nn.Linear(3, 2)})
        given = {
            "module": module,
            "saved": SavedTraining(module),
            "frozen": FrozenEstimator(clone(TRAINER).fit(X, LABELS)),
        }[kind]
        recorder = ForAll()
        KPFlowAnalyzer(given).set_callbacks(recorder).fit(X, LABELS)
    # The fit of the trainer is a part named "fit". A frozen trainer is not fitted.
    training, n = ("training", N_SNAPSHOTS) if kind == "frozen" else ("fit", 1)
    assert recorder.begun == ["fit", training, "analysis", *["snapshot"] * n]
    assert sorted(recorder.ended) == sorted(recorder.begun)


def test_a_failed_fit_leaves_nothing_behind():
    recorder = Recorder()
    analyzer = KPFlowAnalyzer(clone(TRAINER)).set_callbacks(recorder)
    with pytest.raises(ValueError, match="y"):
        analyzer.fit(X, LABELS[:3])
    assert recorder.n_setups == 0 and "fit" not in recorder.ended
    analyzer.fit(X, LABELS)
    assert recorder.ended[-1] == "fit"


@every_estimator
def test_progress_bars(name, capsys):
    pytest.importorskip("rich")
    estimator = clone(ESTIMATORS[name]).set_callbacks(callback.ProgressBar(None))
    fit(estimator)
    out = capsys.readouterr().out
    assert f"{type(estimator).__name__} - fit" in out and "100%" in out
    assert ("analysis" in out) == hasattr(estimator, "trainer")
    assert "tqdm" not in out and "it/s" not in out
    fit(pickle.loads(pickle.dumps(estimator)))


def test_progress_of_a_pipeline_reaches_the_training():
    recorder = ForAll()
    analyzer = KPFlowAnalyzer(clone(TRAINER), analyses=("modes",), random_state=0)
    steps = make_pipeline(SequenceScaler(), analyzer)
    steps.set_callbacks(recorder)
    with pytest.warns(UserWarning, match="SequenceScaler does not support callbacks"):
        steps.fit(X, LABELS)
    assert recorder.ended.count("iteration") == N_ITER
    assert recorder.ended.count("snapshot") == N_SNAPSHOTS


def test_scores_are_monitored():
    monitor = callback.ScoringMonitor(scoring="accuracy")
    trainer = clone(TRAINER).set_callbacks(monitor).fit(X, LABELS)
    table = monitor.get_logs().data_as_pandas
    scores = table.loc[table["task_name"] == "iteration", "accuracy"]
    assert len(scores) == N_ITER and scores.iloc[-1] == trainer.score(X, LABELS)
