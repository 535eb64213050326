"""scikit-learn's own checks of the estimators, and what its tools expect beyond them."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import validate_data

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn._common.checks import check_mask
from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer
from kpflow_sklearn.training import Snapshot

TRAINER = RecurrentTrainer(hidden_size=4, max_iter=20, snapshots=2, learning_rate=0.05)
ANALYZER = KPFlowAnalyzer(TRAINER)
ALIGNMENT = TaskAlignmentAnalyzer(TRAINER)
FEED_FORWARD = FeedForwardTrainer((16,), max_iter=200, snapshots=3)
GRAM = GramFlowAnalyzer(FeedForwardTrainer((4, 4), max_iter=20, snapshots=2), n_components=2)
# scikit-learn checks on tables, which are taken as trials of a single step, with this warning.
single_steps = pytest.mark.filterwarnings("ignore:X of shape:UserWarning")

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


@single_steps
@pytest.mark.filterwarnings("ignore:there is a single sub-task:UserWarning")
@parametrize_with_checks([TRAINER, ANALYZER, ALIGNMENT])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@parametrize_with_checks([SequenceScaler(), SequenceVectorizer()])
def test_scikit_learns_checks_of_transformers(estimator, check):
    check(estimator)


# The checks' data of scale 100 silence small networks: training says so, and results stay sound.
@pytest.mark.filterwarnings("ignore:the gradient vanished")
@parametrize_with_checks([FEED_FORWARD, GRAM])
def test_scikit_learns_checks_of_feed_forward_networks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "at_least"),
    [(FEED_FORWARD, 50), (GRAM, 45)],
    ids=["trainer", "analyzer"],
)
def test_the_feed_forward_suite_has_not_shrunk(estimator, at_least):
    assert len(list(estimator_checks_generator(estimator))) >= at_least
    assert get_tags(estimator).target_tags.required
    assert not get_tags(estimator).input_tags.allow_nan


# ------------------------------------------------------- tables read as time, by a subclass


class StepsAreColumns:
    """Reads a table as a trial a row, a step a column, of one feature."""

    def _check_trials(self, X, mask=None, *, reset=False):
        trials = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])[..., None]
        return trials, check_mask(mask, trials), False


class TimeTrainer(StepsAreColumns, RecurrentTrainer):
    pass


class TimeAnalyzer(StepsAreColumns, KPFlowAnalyzer):
    pass


class TimeAlignment(StepsAreColumns, TaskAlignmentAnalyzer):
    pass


TIME_TRAINER = TimeTrainer(hidden_size=3, max_iter=8, snapshots=2, learning_rate=0.05)
TIME_ANALYZER = TimeAnalyzer(TIME_TRAINER, n_components=2, axes=("time",), analysis_trials=4)
TIME_ALIGNMENT = TimeAlignment(TIME_TRAINER, analysis_trials=6)


@pytest.mark.filterwarnings("ignore:there is a single sub-task:UserWarning")
@parametrize_with_checks([TIME_TRAINER, TIME_ANALYZER, TIME_ALIGNMENT])
def test_scikit_learns_checks_on_sequences(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "at_least"),
    [
        (TRAINER, 40),
        (ANALYZER, 45),
        (ALIGNMENT, 45),
        (TIME_TRAINER, 40),
        (TIME_ANALYZER, 45),
        (TIME_ALIGNMENT, 45),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_suite_has_not_shrunk(estimator, at_least):
    # A tag that says too little would silently take checks away.
    assert len(list(estimator_checks_generator(estimator))) >= at_least
    tags = get_tags(estimator).input_tags
    assert tags.two_d_array
    assert tags.three_d_array
    assert not tags.allow_nan


def test_a_table_read_as_time_is_analysed_step_by_step():
    labels = ["left", "right", "up"] * 4
    given = clone(TIME_ANALYZER).set_params(random_state=0).fit(X[..., 0], labels)
    trainer = RecurrentTrainer(**TIME_TRAINER.get_params())
    expected = KPFlowAnalyzer(trainer, n_components=2, axes=("time",), analysis_trials=4)
    expected.set_params(random_state=0).fit(X[..., :1], labels)
    assert given.n_features_in_ == 5 and expected.n_features_in_ == 1
    assert given.eigenfunctions_["P"].shape[2] == 5
    pd.testing.assert_frame_equal(given.results_, expected.results_)
    np.testing.assert_array_equal(given.transform(X[..., 0]), expected.transform(X[..., :1]))


# ---------------------------------------------------------- what fitted estimators hold


#: Where a fitted table may hold a missing number, and why; all else is finite.
MISSING = {
    "results_": "value",  # With the reason beside it.
    "layer_table_": None,  # Where results_ holds a reason.
    "mode_table_": None,  # With the reason beside it.
    "grouping_history_": None,  # No group of two tasks, or no labels to permute.
}


def numbers_in(value) -> list[np.ndarray]:
    """Return all numbers that a fitted attribute holds, at any depth."""
    if isinstance(value, torch.nn.Module):
        return [p.detach().numpy() for p in value.parameters()]
    if isinstance(value, pd.DataFrame | pd.Series):
        table = value.to_frame() if isinstance(value, pd.Series) else value
        return [table.select_dtypes("number").to_numpy(float)]
    if isinstance(value, dict):
        return [n for part in value.values() for n in numbers_in(part)]
    if isinstance(value, list | tuple):
        return [n for part in value for n in numbers_in(part)]
    if isinstance(value, Snapshot):
        return numbers_in([p.numpy() for p in value.state.values()])
    if isinstance(value, BaseEstimator):
        return [n for part in fitted_attributes(value).values() for n in numbers_in(part)]
    array = np.asarray(value)
    return [array.astype(float)] if array.dtype.kind in "fiub" else []


def fitted_attributes(estimator) -> dict:
    return {k: v for k, v in vars(estimator).items() if k.endswith("_") and k[0] != "_"}


@pytest.mark.filterwarnings("ignore:there is a single sub-task:UserWarning")
@pytest.mark.parametrize("n", [1, 12])
@pytest.mark.parametrize("name", ["kpflow", "kpflow, one step", "alignment", "gram"])
def test_fitted_attributes_are_finite_or_missing_for_a_reason(name, n):
    estimator, data = {
        "kpflow": (unfitted("analyzer"), (X[:n], Y[:n])),
        "kpflow, one step": (unfitted("analyzer"), (X[:n, :1], Y[:n, :1])),
        "alignment": (unfitted("alignment"), (X[:n], Y[:n])),
        "gram": (clone(GRAM).set_params(random_state=0), (X[:n, 0], Y[:n, 0])),
    }[name]
    attributes = fitted_attributes(estimator.fit(*data))
    assert len(attributes) >= 10
    for attribute, value in attributes.items():
        if attribute not in MISSING:
            assert all(np.isfinite(part).all() for part in numbers_in(value)), attribute
    results = attributes["results_"]
    assert (results["value"].notna() == (results["reason"] == "")).all()
    assert np.isfinite(results["std_error"][results["value"].notna()]).all()
    if name == "gram":
        modes, layers = attributes["mode_table_"], attributes["layer_table_"]
        known = modes.drop(columns=["next_iteration"]).select_dtypes("number").notna().all(axis=1)
        assert (known | (modes["reason"] != "")).all()
        reasons = results.set_index(["iteration", "operator", "quantity"])["reason"]
        for (iteration, layer), quantities in layers.iterrows():
            for quantity in quantities.index[quantities.isna()]:
                assert reasons[iteration, f"K_{layer}", quantity], (layer, quantity)
    if name == "alignment":
        history = attributes["grouping_history_"]
        grouped = history["margin"].notna()
        assert (history["chance"][~grouped].isna()).all()
    assert np.isfinite(estimator.transform(data[0])).all()
    assert np.isfinite(estimator.predict(data[0])).all()


@kinds
def test_clone_is_unfitted_with_equal_parameters(kind):
    original = fitted(kind)
    copy = clone(original)
    before, after = original.get_params(), copy.get_params()
    assert before.keys() == after.keys()
    for name in before.keys() - {"trainer"}:
        assert before[name] == after[name], name
    assert not any(name.endswith("_") and not name.startswith("_") for name in vars(copy))


def test_fit_leaves_the_given_trainer_alone():
    given = unfitted("trainer", random_state=None)
    analyzer = KPFlowAnalyzer(given, random_state=0).fit(X, Y)
    assert analyzer.trainer is given
    assert analyzer.trainer_ is not given
    assert given.random_state is None
    assert not hasattr(given, "network_")


@kinds
def test_pickle_keeps_the_predictions(kind):
    original = fitted(kind)
    copy = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(copy.predict(X), original.predict(X))
    np.testing.assert_array_equal(copy.trajectories(X), original.trajectories(X))
    assert copy.score(X, Y) == original.score(X, Y)
    if kind != "trainer":
        np.testing.assert_array_equal(copy.transform(X), original.transform(X))
        pd.testing.assert_frame_equal(copy.results_, original.results_)
        pd.testing.assert_frame_equal(copy.verify(X, Y), original.verify(X, Y))


def test_pickled_trainer_continues_its_training():
    original = unfitted("trainer", warm_start=True).fit(X, Y)
    copy = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(copy.fit(X, Y).predict(X), original.fit(X, Y).predict(X))
    assert copy.n_iter_ == 40


@kinds
def test_features_are_counted_on_the_last_axis(kind):
    assert fitted(kind).n_features_in_ == 3


@kinds
@single_steps
def test_a_table_is_as_many_trials_of_one_step(kind):
    flat = unfitted(kind).fit(X[:, 0], Y[:, 0])
    deep = unfitted(kind).fit(X[:, :1], Y[:, :1])
    assert flat.n_features_in_ == 3
    np.testing.assert_allclose(flat.predict(X[:, 0]), deep.predict(X[:, :1])[:, 0], atol=1e-12)
    np.testing.assert_allclose(flat.loss_curve_, deep.loss_curve_, atol=1e-12)


@kinds
def test_a_table_is_announced(kind):
    with pytest.warns(UserWarning, match=r"X of shape \(12, 3\) is taken as 12 trials"):
        unfitted(kind).fit(X[:, 0], Y[:, 0])


@pytest.mark.parametrize(
    ("options", "n_out"),
    [({}, 3), ({"pooling": "mean"}, 3), ({"pooling": "flatten"}, 15)],
    ids=["last", "mean", "flatten"],
)
def test_feature_names_belong_to_the_columns(options, n_out):
    analyzer = fitted("analyzer", **options)
    names = analyzer.get_feature_names_out()
    assert list(names) == [f"kpflowanalyzer{i}" for i in range(n_out)]
    assert analyzer.transform(X).shape == (12, n_out)


def test_set_output_pandas_gives_a_named_table():
    analyzer = unfitted("analyzer").set_output(transform="pandas")
    found = analyzer.fit_transform(X, Y)
    assert isinstance(found, pd.DataFrame)
    assert list(found) == list(analyzer.get_feature_names_out())
    np.testing.assert_array_equal(found.to_numpy(), fitted("analyzer").transform(X))
    masked = analyzer.transform(X, mask=SHORT)
    assert isinstance(masked, pd.DataFrame)
    np.testing.assert_array_equal(masked.to_numpy(), fitted("analyzer").transform(X, mask=SHORT))


@pytest.mark.parametrize("container", [list, pd.Series], ids=["list", "Series"])
@kinds
def test_labels_may_come_in_any_container(kind, container):
    labels = np.array(["left", "right", "up"] * 4)
    found = unfitted(kind).fit(X, container(labels))
    np.testing.assert_array_equal(found.predict(X), unfitted(kind).fit(X, labels).predict(X))


@kinds
def test_a_refit_forgets_the_last_fit(kind):
    estimator = unfitted(kind).fit(X, ["a", "b", "c"] * 4)
    assert list(estimator.classes_) == ["a", "b", "c"]
    estimator.fit(X[:, :3, :2], Y[:, :3])
    assert not hasattr(estimator, "classes_")
    assert estimator.n_features_in_ == 2
    fresh = unfitted(kind).fit(X[:, :3, :2], Y[:, :3])
    np.testing.assert_array_equal(estimator.loss_curve_, fresh.loss_curve_)
    assert estimator.n_iter_ == fresh.n_iter_
    assert [s.iteration for s in estimator.snapshots_] == [s.iteration for s in fresh.snapshots_]
