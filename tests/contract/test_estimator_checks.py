"""scikit-learn's own checks of the estimators, and what its tools expect beyond them."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import validate_data

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn._common.checks import check_mask
from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer
from tests.tools.bad_input.answers import flat, gaps

TRAINER = RecurrentTrainer(hidden_size=4, max_iter=4, snapshots=2, learning_rate=0.05)
QUICK = clone(TRAINER).set_params(max_iter=2, snapshots=1)
ANALYZER = KPFlowAnalyzer(QUICK, operators=("PKP",), axes=("time",), analyses=("spectra", "modes"))
ALIGNMENT = TaskAlignmentAnalyzer(QUICK)
CLASSIFIER = RecurrentTrainer(
    hidden_size=8, max_iter=25, snapshots=2, learning_rate=0.1, loss="cross_entropy"
)
CLASSIFYING = KPFlowAnalyzer(CLASSIFIER, operators=("PKP",), axes=("time",), analysis_trials=8)
# A high rate, so that few updates suffice for the score that scikit-learn expects.
FEED_FORWARD = FeedForwardTrainer((16,), learning_rate=0.3, max_iter=15, snapshots=3)
GRAM = GramFlowAnalyzer(FeedForwardTrainer((4, 4), max_iter=2, snapshots=1), n_components=2)

single_steps = pytest.mark.filterwarnings("ignore:X of shape:UserWarning")
one_task = pytest.mark.filterwarnings("ignore:there is only one sub-task:UserWarning")

rng = np.random.default_rng(0)
X = rng.standard_normal((12, 5, 3))
Y = X.cumsum(axis=1)[..., :2]
SHORT = np.arange(5) < rng.integers(1, 6, 12)[:, None]


def unfitted(kind: str, **options) -> BaseEstimator:
    """Return an estimator with seeds, ready to fit."""
    trainer = clone(TRAINER).set_params(random_state=0)
    if kind == "trainer":
        return trainer.set_params(**options)
    if kind == "alignment":
        return TaskAlignmentAnalyzer(trainer, random_state=0, **options)
    return KPFlowAnalyzer(trainer, n_components=3, random_state=0, **options)


@cache
def fitted(kind: str, **options) -> BaseEstimator:
    """Return an estimator fitted on X and Y, once for all tests; not to be changed."""
    return unfitted(kind, **options).fit(X, Y)


kinds = pytest.mark.parametrize("kind", ["trainer", "analyzer", "alignment"])


# ------------------------------------------------------- tables read as time, by a subclass


class StepsAreColumns:
    """Read a table as trials of one feature: one per row, one step per column."""

    def _check_trials(self, X, mask=None, *, reset=False):
        trials = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])[..., None]
        return trials, check_mask(mask, trials), False


class TimeTrainer(StepsAreColumns, RecurrentTrainer):
    pass


class TimeAnalyzer(StepsAreColumns, KPFlowAnalyzer):
    pass


class TimeAlignment(StepsAreColumns, TaskAlignmentAnalyzer):
    pass


TIME_TRAINER = TimeTrainer(hidden_size=3, max_iter=2, snapshots=2, learning_rate=0.05)
TIME_ANALYZER = TimeAnalyzer(
    clone(TIME_TRAINER).set_params(snapshots=1), operators=("PKP",), axes=("time",),
    analyses=("modes",), n_components=2, analysis_trials=4,
)  # fmt: skip
TIME_ALIGNMENT = TimeAlignment(TIME_ANALYZER.trainer, analysis_trials=6)

# ------------------------------------------------------------------------- scikit-learn's suite

# Each estimator, and the least number of checks: a tag that says too little would take some away.
SUITES = {
    TRAINER: 40, ANALYZER: 45, ALIGNMENT: 45, FEED_FORWARD: 50, GRAM: 45, SequenceScaler(): 40,
    SequenceVectorizer(): 40, TIME_TRAINER: 40, TIME_ANALYZER: 45, TIME_ALIGNMENT: 45,
    CLASSIFIER: 50,
}  # fmt: skip


# scikit-learn checks on tables, which are taken as trials of a single step, with a warning. Its
# data of scale 100 silence small feed-forward networks, with another.
@single_steps
@one_task
@pytest.mark.filterwarnings("ignore:the gradient vanished")
@parametrize_with_checks([estimator for estimator in SUITES if estimator is not TIME_ALIGNMENT])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@single_steps
@one_task
@parametrize_with_checks(
    [KPFlowAnalyzer(TRAINER), TimeAnalyzer(TIME_TRAINER), TIME_ALIGNMENT, CLASSIFYING]
)
def test_scikit_learns_slow_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", SUITES, ids=lambda value: type(value).__name__)
def test_the_suite_has_not_shrunk(estimator):
    assert len(list(estimator_checks_generator(estimator))) >= SUITES[estimator]
    tags = get_tags(estimator)
    assert not tags.input_tags.allow_nan
    on_tables = estimator in (FEED_FORWARD, GRAM)
    assert tags.target_tags.required == (on_tables or estimator is CLASSIFIER)
    assert on_tables or tags.input_tags.three_d_array
    assert tags.input_tags.two_d_array


def test_a_table_read_as_time_is_analysed_step_by_step():
    labels = ["left", "right", "up"] * 4
    options = {"n_components": 2, "axes": ("time",), "analysis_trials": 4, "random_state": 0}
    given = TimeAnalyzer(TIME_TRAINER, **options).fit(X[..., 0], labels)
    trainer = RecurrentTrainer(**TIME_TRAINER.get_params())
    expected = KPFlowAnalyzer(trainer, **options).fit(X[..., :1], labels)
    assert given.n_features_in_ == 5 and expected.n_features_in_ == 1
    assert given.eigenfunctions_["P"].shape[2] == 5
    pd.testing.assert_frame_equal(given.results_, expected.results_)
    np.testing.assert_array_equal(given.transform(X[..., 0]), expected.transform(X[..., :1]))


# ------------------------------------------------------------------------------ classifiers

BLOCKS = np.repeat(["a", "b", "c"], 4)
classifier = RecurrentTrainer(
    hidden_size=2, max_iter=1, snapshots=2, loss="cross_entropy", random_state=0
)
module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 2), "out": torch.nn.Linear(2, 3)})
CLASSIFIERS = {
    "trainer": classifier,
    "saved": SavedTraining(module, loss="cross_entropy"),
    "analyzer": KPFlowAnalyzer(classifier, axes=("time",), n_components=2, random_state=0),
    "of a frozen trainer": TaskAlignmentAnalyzer(FrozenEstimator(classifier)),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_loss_of_classes_makes_a_classifier(name):
    estimator = CLASSIFIERS[name]
    assert is_classifier(estimator) and is_classifier(make_pipeline(SequenceScaler(), estimator))
    if name != "of a frozen trainer":
        scores = cross_val_score(estimator, X, BLOCKS, cv=3, error_score="raise")
        assert np.isfinite(scores).all()  # Each fold holds each class.
    inner = "trainer__loss" if "analyzer" in name else "loss"
    if name != "of a frozen trainer":
        for other in ("auto", "mse"):
            assert not is_classifier(clone(estimator).set_params(**{inner: other}))


@pytest.mark.parametrize("loss", ["auto", "cross_entropy"])
def test_a_class_that_fit_did_not_see_is_missed(loss):
    trainer = clone(classifier).set_params(loss=loss).fit(X[:8], BLOCKS[:8])
    advice = (
        'StratifiedKFold.*"auto", it is not known' if loss == "auto" else "StratifiedKFold puts"
    )
    with pytest.warns(UserWarning, match=rf"not seen on fit, \['c'\], which .*misses. {advice}"):
        score = trainer.score(X, BLOCKS)
    hits = trainer.predict(X) == BLOCKS
    assert score == hits.mean() and not hits[8:].any()


def test_labels_on_padded_steps_are_not_new():
    classes = rng.integers(0, 2, (12, 5))
    trainer = clone(classifier).fit(X, classes, mask=SHORT)
    score = trainer.score(X, np.where(SHORT, classes, -1), mask=SHORT)
    assert score == trainer.score(X, classes, mask=SHORT)
    classes[0, 0] = 7
    with pytest.warns(UserWarning, match=r"not seen on fit, \[7\]"):
        assert trainer.score(X, classes, mask=SHORT) <= score


# ---------------------------------------------------------- what fitted estimators hold

#: The fitted tables in which a number may be missing without a reason beside it: either results_
#: holds the reason, or no group has two tasks, or no labels can be permuted.
MISSING = ("layer_table_", "grouping_history_")


@one_task
@pytest.mark.parametrize("n", [1, 12])
@pytest.mark.parametrize("name", ["kpflow", "kpflow, one step", "alignment", "gram"])
def test_fitted_attributes_are_finite_or_missing_for_a_reason(name, n):
    estimator, data = {
        "kpflow": (unfitted("analyzer"), (X[:n], Y[:n])),
        "kpflow, one step": (unfitted("analyzer"), (X[:n, :1], Y[:n, :1])),
        "alignment": (unfitted("alignment"), (X[:n], Y[:n])),
        "gram": (clone(GRAM).set_params(random_state=0), (X[:n, 0], Y[:n, 0])),
    }[name]
    answer = flat(estimator.fit(*data))
    assert len(answer) >= 10
    assert gaps(answer, MISSING) == ""
    results = estimator.results_
    assert (results["value"].notna() == (results["reason"] == "")).all()
    assert np.isfinite(results["std_error"][results["value"].notna()]).all()
    if name == "gram":
        reasons = results.set_index(["iteration", "operator", "quantity"])["reason"]
        for (iteration, layer), quantities in estimator.layer_table_.iterrows():
            for quantity in quantities.index[quantities.isna()]:
                assert reasons[iteration, f"K_{layer}", quantity], (layer, quantity)
    if name == "alignment":
        history = estimator.grouping_history_
        assert history["chance"][history["margin"].isna()].isna().all()
    assert np.isfinite(estimator.transform(data[0])).all()
    assert np.isfinite(estimator.predict(data[0])).all()


def test_fit_leaves_the_given_trainer_alone():
    given = unfitted("trainer", random_state=None)
    analyzer = KPFlowAnalyzer(given, random_state=0).fit(X, Y)
    assert analyzer.trainer is given
    assert analyzer.trainer_ is not given
    assert given.random_state is None
    assert not hasattr(given, "network_")


def test_pickled_trainer_continues_its_training():
    original = unfitted("trainer", warm_start=True).fit(X, Y)
    loaded = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(loaded.fit(X, Y).predict(X), original.fit(X, Y).predict(X))
    assert loaded.n_iter_ == 8


@kinds
@single_steps
def test_a_table_is_as_many_trials_of_one_step(kind):
    with pytest.warns(UserWarning, match=r"X of shape \(12, 3\) is read as 12 trials"):
        flat = unfitted(kind).fit(X[:, 0], Y[:, 0])
    deep = unfitted(kind).fit(X[:, :1], Y[:, :1])
    assert flat.n_features_in_ == 3
    np.testing.assert_allclose(flat.predict(X[:, 0]), deep.predict(X[:, :1])[:, 0], atol=1e-12)
    np.testing.assert_allclose(flat.loss_curve_, deep.loss_curve_, atol=1e-12)


@pytest.mark.parametrize(("pooling", "n_out"), [("last", 3), ("mean", 3), ("flatten", 15)])
def test_feature_names_belong_to_the_columns(pooling, n_out):
    analyzer = copy.copy(fitted("analyzer")).set_params(pooling=pooling)
    names = analyzer.get_feature_names_out()
    assert list(names) == [f"kpflowanalyzer{i}" for i in range(n_out)]
    assert analyzer.transform(X).shape == (12, n_out)


def test_set_output_pandas_gives_a_named_table():
    analyzer = copy.copy(fitted("analyzer")).set_output(transform="pandas")
    masked = analyzer.transform(X, mask=SHORT)
    assert list(masked) == list(analyzer.get_feature_names_out())
    np.testing.assert_array_equal(masked.to_numpy(), fitted("analyzer").transform(X, mask=SHORT))


@kinds
def test_labels_may_come_in_any_container(kind):
    labels = np.array(["left", "right", "up"] * 4)
    forms = (labels, list(labels), pd.Series(labels))
    expected, *others = [unfitted(kind).fit(X, form).predict(X) for form in forms]
    for other in others:
        np.testing.assert_array_equal(other, expected)


@kinds
def test_a_refit_forgets_the_last_fit(kind):
    estimator, fresh = unfitted(kind).fit(X, ["a", "b", "c"] * 4), unfitted(kind)
    assert list(estimator.classes_) == ["a", "b", "c"]
    for refitted in (estimator, fresh):
        refitted.fit(X[:, :3, :2], Y[:, :3])
    assert not hasattr(estimator, "classes_")
    assert estimator.n_features_in_ == 2
    np.testing.assert_array_equal(estimator.loss_curve_, fresh.loss_curve_)
    assert estimator.n_iter_ == fresh.n_iter_
    assert [s.iteration for s in estimator.snapshots_] == [s.iteration for s in fresh.snapshots_]


def net_of(n_units: int) -> torch.nn.Module:
    rnn, out = torch.nn.GRU(3, n_units), torch.nn.Linear(n_units, 2)
    return torch.nn.ModuleDict({"rnn": rnn, "out": out})


PUBLIC = {
    "kpflow": (KPFlowAnalyzer(QUICK), Y),
    "alignment": (ALIGNMENT, Y),
    "trainer": (TRAINER, Y),
    "classifier": (CLASSIFIER, (Y[..., 0] > 0).astype(int)),
    "saved": (SavedTraining(net_of(2)), Y),
    "scaler": (SequenceScaler(), None),
    "vectorizer": (SequenceVectorizer(), None),
    "feed-forward": (FEED_FORWARD, Y[:, 0]),
    "gram": (GRAM, Y[:, 0]),
}


@one_task
@pytest.mark.parametrize("name", PUBLIC)
def test_fitted_attributes_say_before_fit_that_fit_sets_them(name):
    estimator, y = PUBLIC[name]
    estimator = clone(estimator)
    inputs = X[:, 0] if name in ("feed-forward", "gram") else X
    fitted = clone(estimator).fit(inputs, y)
    names = {n for n in vars(fitted) if n.endswith("_") and not n.startswith("_")}
    assert len(names) >= 2
    for attribute in names:
        message = f"not fitted yet. Call 'fit' .*: {attribute} is set by fit"
        with pytest.raises(NotFittedError, match=message):
            getattr(estimator, attribute)
        assert not hasattr(estimator, attribute)
    # A name that the class never sets, or that this fit has not set, is a plain error.
    for state, attribute in (
        (estimator, "restults_"),
        (fitted, "restults_"),
        (estimator, "colour"),
    ):
        with pytest.raises(AttributeError, match=f"no attribute '{attribute}'") as raised:
            getattr(state, attribute)
        assert not isinstance(raised.value, NotFittedError)
    if name == "kpflow":
        with pytest.raises(AttributeError, match="no attribute 'classes_'") as raised:
            _ = fitted.classes_
        assert not isinstance(raised.value, NotFittedError)


def test_estimators_are_printed_without_networks_and_checkpoints():
    net = net_of(20)
    states = [net.state_dict() for _ in range(12)]
    saved = SavedTraining(net, states, initial_state=torch.zeros(20))
    short = "checkpoints=12 state_dicts,"
    assert short in repr(saved) and "network=ModuleDict" in repr(saved)
    assert "initial_state=tensor of shape (20,)" in " ".join(repr(saved).split())
    nested = {"weights": states[0], "loss": 0.5}
    assert "checkpoints=1 state_dict," in repr(SavedTraining(net, nested))
    for estimator in (saved, KPFlowAnalyzer(saved), KPFlowAnalyzer(FrozenEstimator(saved))):
        text = " ".join(repr(estimator).split())
        assert text.count("state_dicts") == 1 and "tensor(" not in text and len(text) < 200
        if hasattr(estimator, "_repr_html_"):
            assert "weight_hh_l0" not in estimator._repr_html_()
    # Only what is printed changes.
    assert saved.get_params()["checkpoints"] is states
    assert clone(saved).get_params()["checkpoints"][3].keys() == states[3].keys()
    assert KPFlowAnalyzer(net).trainer is net
    assert repr(RecurrentTrainer("lstm", hidden_size=3)) == (
        "RecurrentTrainer(cell='lstm', hidden_size=3)"
    )
