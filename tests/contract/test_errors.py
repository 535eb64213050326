"""Bad arguments: the type of the error, and a message that names the argument and its value."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from torch import nn

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, UnsupportedNetworkError
from kpflow_sklearn.preprocessing import SequenceVectorizer

N_TRIALS, N_STEPS, N_FEATURES, N_OUTPUTS = 6, 5, 2, 3
rng = np.random.default_rng(0)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
LABELS = np.array(["a", "b", "c"] * 2)
MASK = np.arange(N_STEPS) < np.array([5, 4, 3, 2, 1, 5])[:, None]


def changed(array: np.ndarray, index: tuple, value: float) -> np.ndarray:
    out = array.copy()
    out[index] = value
    return out


def trainer(**options) -> RecurrentTrainer:
    return RecurrentTrainer(
        **dict(hidden_size=4, max_iter=3, snapshots=2, random_state=0) | options
    )


def analyzer(source=None, **options) -> KPFlowAnalyzer:
    return KPFlowAnalyzer(trainer() if source is None else source, random_state=0, **options)


def make(kind: str) -> RecurrentTrainer | KPFlowAnalyzer:
    return trainer() if kind == "trainer" else analyzer()


@cache
def fitted(kind: str, targets: str = "numbers") -> RecurrentTrainer | KPFlowAnalyzer:
    """Return an estimator fitted once for all tests, which must not change it."""
    return make(kind).fit(X, {"numbers": Y, "labels": LABELS, "none": None}[targets])


both = pytest.mark.parametrize("kind", ["trainer", "analyzer"])


class TwoStates(nn.GRUCell):
    def forward(self, x, h):
        return h, h


class HalfStates(nn.GRUCell):
    label = 7  # An attribute of the user's own, which is not how errors name the cell.

    def forward(self, x, h):
        return h[:, ::2]


# ------------------------------------------------------------------------------------ parameters

# One value per kind of check; tests/tools/bad_input tries many on every parameter.
PARAMETERS = {"trainer": [
    ("cell", "elman", ValueError, "cell must be one of 'gru', .* or a callable .*, got 'elman'"),
    ("cell", lambda n_in, n: None, UnsupportedNetworkError, "cell must be .*Module.* NoneType"),
    ("cell", TwoStates, UnsupportedNetworkError, "the cell TwoStates must return .* got tuple"),
    ("cell", HalfStates, UnsupportedNetworkError, r"HalfStates .* \(6, 4\), got \(6, 2\)"),
    ("hidden_size", 0, ValueError, "hidden_size == 0, must be >= 1"),
    ("hidden_size", 4.0, TypeError, "hidden_size must be an instance of int, not float"),
    ("init_scale", -1.0, ValueError, "init_scale == -1.0, must be >= 0"),
    ("init_scale", float("inf"), ValueError, "init_scale must be finite, got inf"),
    ("dt", 2.0, ValueError, "dt must be at most tau .*, got dt=2.0 and tau=1.0"),
    ("constraint", "positive", ValueError, "constraint must be callable, got 'positive'"),
    ("loss", "mae", ValueError, "loss must be one of 'auto', 'mse', .*, got 'mae'"),
    ("optimizer", "lbfgs", ValueError, "optimizer must be one of 'adam', 'sgd', .*, got 'lbfgs'"),
    ("optimizer", 3, ValueError, "optimizer must be one of 'adam', 'sgd', .*, got 3"),
    ("optimizer", torch.optim.LBFGS, ValueError, "optimizer .*LBFGS"),
    ("learning_rate", 0, ValueError, "learning_rate == 0, must be > 0"),
    ("max_iter", -1, ValueError, "max_iter == -1, must be >= 0"),
    ("snapshots", 0, ValueError, "snapshots must be at least 1, got 0"),
    ("snapshots", [], ValueError, r"snapshots must be an integer or .*, got \[\]"),
    ("snapshots", [0, 9], ValueError, "snapshots must lie .* max_iter=3, got 0 to 9"),
    ("snapshots", [0.5], ValueError, r"snapshots must be .* of integers, got \[0.5\]"),
    ("snapshots", "all", ValueError, "snapshots must be .* of integers, got 'all'"),
    ("dtype", "float16", ValueError, "dtype must be one of 'float32', .*, got 'float16'"),
    ("dtype", np.float32, ValueError, "dtype must be one of 'float32', .*, got <class"),
    ("device", "abacus", ValueError, "device .*abacus"),
    ("random_state", "seed", ValueError, "'seed' cannot be used to seed"),
], "analyzer": [
    ("n_components", 0, ValueError, "n_components == 0, must be >= 1"),
    ("operators", "K", ValueError, "operators must be a sequence .* 'K', 'P', 'PKP', got 'K'"),
    ("operators", ("K", "Q"), ValueError, r"operators must be .*, got \('K', 'Q'\)"),
    ("operators", (), ValueError, r"operators must be .* one or more .*, got \(\)"),
    ("operators", ("K", "K"), ValueError, r"operators must be .*, got \('K', 'K'\)"),
    ("axes", ("time", "unit"), ValueError, r"axes must be .* 'hidden', got \('time', 'unit'\)"),
    ("rank_threshold", 0, ValueError, "rank_threshold == 0, must be > 0"),
    ("gram", "cube", ValueError, "gram must be one of 'natural', 'square', got 'cube'"),
    ("method", "fast", ValueError, "method must be one of 'auto', .*, got 'fast'"),
    ("n_probes", 2, ValueError, "n_probes == 2, must be >= 4"),
    ("memory_limit", 0, ValueError, "memory_limit == 0, must be >= 1"),
    ("memory_limit", 1e9, TypeError, "memory_limit must be an instance of .*int"),
    ("analysis_trials", 0, ValueError, "analysis_trials == 0, must be >= 1"),
    ("pooling", "max", ValueError, "pooling must be one of 'last', .*, got 'max'"),
    ("trainer", "gru", ValueError, "trainer must be a RecurrentTrainer.*, got 'gru'"),
    ("trainer", Ridge(), ValueError, r"trainer must be .*, got Ridge\(\)"),
    ("random_state", "seed", ValueError, "'seed' cannot be used to seed"),
]}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "value", "error", "message"),
    [(kind, *row) for kind, rows in PARAMETERS.items() for row in rows],
    ids=lambda part: str(part)[:20] if isinstance(part, str) else "",
)
def test_parameters(kind, name, value, error, message):
    with pytest.raises(error, match=message):
        make(kind).set_params(**{name: value}).fit(X, Y)


def test_a_callable_cell_has_one_layer():
    with pytest.raises(ValueError, match="n_layers must be 1 for a callable cell, got 2"):
        trainer(cell=nn.GRUCell, n_layers=2).fit(X, Y)


def test_exact_refuses_what_is_too_large_for_it():
    many = np.zeros((2, 91, 1))
    source = trainer(hidden_size=91, max_iter=0, snapshots=1)
    message = r"method='exact' is limited to 8192 .*, got 8281 .* axis 'time'; .*method='auto'"
    with pytest.raises(ValueError, match=message):
        analyzer(source, method="exact", operators=("P",)).fit(many, many)


# -------------------------------------------------------------------------------------- the data

# Further faults of arrays are among the values of tests/tools/bad_input.
DATA = {
    "X of one axis": (X[0, 0], Y, r"X must have shape .*, got an array of 1 .* \(2,\)"),
    "X of four axes": (X[None], Y, r"X must have .*, got an array of 4 .* \(1, 6, 5, 2\)"),
    "NaN in X": (
        changed(X, (2, 3, 0), np.nan),
        Y,
        r"Input X contains NaN: 1 .* at \[2, 3, 0\]\. If .* padded",
    ),
    "no trials": (X[:0], Y[:0], r"0 sample\(s\) \(shape=\(0, 5, 2\)\)"),
    "no steps": (X[:, :0], Y[:, :0], r"X must have at least one time step, got .*\(6, 0, 2\)"),
    "no features": (X[..., :0], Y, r"X must have at least one feature, got .*\(6, 5, 0\)"),
    "NaN in y": (X, changed(Y, (0, 0, 0), np.nan), "Input y contains NaN"),
    "y of other length": (X, Y[:4], "y has 4 trials and X has 6"),
    "y of other steps": (X, Y[:, :3], r"y must have shape \(6, 5, n_outputs\).*\(6, 3, 3\)"),
    "y without its last axis": (X, Y[..., 0], r"y must have .*\(6, 5\)\. .* y\[:, :, None\]"),
}


@pytest.mark.parametrize("name", DATA)
@both
def test_data(kind, name):
    inputs, y, message = DATA[name]
    with pytest.raises(ValueError, match=message):
        make(kind).fit(inputs, y)


ONES = np.ones((N_TRIALS, N_STEPS))
GAP, EMPTY = changed(MASK, (4, 3), True), changed(MASK, (3,), False)
STEPS = {
    "mask, other shape": ({"mask": MASK[:, :3]}, r"mask must .* = \(6, 5\), got \(6, 3\)"),
    "mask, a gap": ({"mask": GAP}, "mask must be a prefix .* trial 4 .* use loss_weight"),
    "mask, no step": ({"mask": EMPTY}, "mask must mark .* first step .* trial 3 is invalid"),
    "mask, counts": ({"mask": 2 * MASK}, "mask must be boolean .*got other values of dtype int64"),
    "weight, negative": ({"loss_weight": ONES - 3 * MASK}, "loss_weight must be .* from -2 to 1"),
    "weight, other shape": ({"loss_weight": ONES[:, 0]}, r"loss_weight must .* got \(6,\)"),
    "weight, on padding alone": (
        {"mask": MASK, "loss_weight": ONES - MASK},
        "loss_weight must .* at least one positive",
    ),
}


@pytest.mark.parametrize("name", STEPS)
@both
def test_mask_and_loss_weight(kind, name):
    options, message = STEPS[name]
    with pytest.raises(ValueError, match=message):
        make(kind).fit(X, Y, **options)


ANALYSIS_DATA = {
    "tasks of other length": ({"tasks": ["a", "b"]}, r"tasks must .* shape \(6,\), got \(2,\)"),
    "tasks of two axes": ({"tasks": np.ones((6, 1))}, r"tasks must .* \(6,\), got \(6, 1\)"),
    "no targets for the trials": ({"X_analysis": X}, "y_analysis is needed .*, got None"),
    "targets alone": ({"y_analysis": Y}, "y_analysis was given without X_analysis"),
    "other features": (
        {"X_analysis": X[..., :1], "y_analysis": Y},
        "X_analysis must have 2 features, as many as X, got 1",
    ),
    "NaN": ({"X_analysis": X * np.nan, "y_analysis": Y}, "Input X_analysis contains NaN"),
    "one axis": (
        {"X_analysis": X[0, 0], "y_analysis": Y},
        r"X_analysis must have shape .*, got an array of 1 .* \(2,\)",
    ),
    "other outputs": (
        {"X_analysis": X, "y_analysis": Y[..., :2]},
        "y.* must have 3 outputs as on fit, got 2",
    ),
    "other length": ({"X_analysis": X, "y_analysis": Y[:4]}, "y.* has 4 trials and X.* has 6"),
    "both forms": (
        {"analysis_set": {"X": X, "y": Y}, "X_analysis": X},
        r"X_analysis and analysis_set were both given; give analysis_set\['X'\] alone",
    ),
    "labels of X": (
        {"analysis_set": {"X": X, "y": Y}, "tasks": [0, 1] * 3},
        r"tasks and analysis_set were both given; give analysis_set\['tasks'\] alone",
    ),
    "no dict": ({"analysis_set": X}, "analysis_set must be a dict .* got a ndarray"),
    "an unknown key": (
        {"analysis_set": {"X": X, "y": Y, "weight": 1}},
        "analysis_set may have the keys 'X', 'y', 'mask', .* got 'weight'",
    ),
    "no trials in the dict": ({"analysis_set": {"y": Y}}, "analysis_set must .* 'X' .* got 'y'"),
    "weights in the dict": (
        {"analysis_set": {"X": X, "y": Y, "loss_weight": -np.ones(X.shape[:2])}},
        "analysis_set: loss_weight must be non-negative",
    ),
    "mask in the dict": (
        {"analysis_set": {"X": X, "y": Y, "mask": MASK[:, :3]}},
        r"mask of analysis_set must .* = \(6, 5\), got \(6, 3\)",
    ),
}


@pytest.mark.parametrize("name", ANALYSIS_DATA)
def test_analysis_data(name):
    options, message = ANALYSIS_DATA[name]
    with pytest.raises(ValueError, match=message):
        analyzer().fit(X, Y, **options)


# ------------------------------------------------------------------------------- after the fitting

CALLS = [
    *(("trainer", name) for name in ("predict", "trajectories", "score")),
    *(("analyzer", name) for name in ("predict", "trajectories", "score", "transform", "verify")),
]


def call(estimator, name: str, inputs, *targets, **options):
    arguments = targets if name in ("score", "verify") else ()
    return getattr(estimator, name)(inputs, *arguments, **options)


LATER = {
    "other features": (X[..., :1], {}, r"X has 1 features, but \w+ is expecting 2 features"),
    "one axis": (X[0, 0], {}, "X must have shape .*, got an array of 1"),
    "mask of other shape": (X, {"mask": MASK[:2]}, r"mask .* = \(6, 5\), got \(2, 5\)"),
}


@pytest.mark.parametrize("problem", LATER)
@pytest.mark.parametrize(("kind", "name"), CALLS)
def test_data_after_the_fit(kind, name, problem):
    inputs, options, message = LATER[problem]
    with pytest.raises(ValueError, match=message):
        call(fitted(kind), name, inputs, Y, **options)


TARGETS_LATER = {
    "none": ("numbers", None, "y is needed, got None"),
    "other form": ("numbers", Y[:, 0, 0], "y must have 3 dimensions as on fit, got 1"),
    "other outputs": ("numbers", Y[..., :2], "y must have 3 outputs as on fit, got 2"),
    "too few": ("numbers", Y[:2], "y has 2 trials and X has 6"),
    "too many": ("numbers", np.concatenate([Y, Y]), "y has 12 trials and X has 6"),
    "only new labels": ("labels", [1, 2, 3] * 2, "y holds labels that were not seen on fit: .*1"),
    "never any": ("none", Y, "y must be None, as it was on fit"),
}


@pytest.mark.parametrize("problem", TARGETS_LATER)
@pytest.mark.parametrize("name", ["score", "verify"])
def test_targets_after_the_fit(name, problem):
    targets, y, message = TARGETS_LATER[problem]
    with pytest.raises(ValueError, match=message):
        getattr(fitted("analyzer", targets), name)(X, y)


def test_flatten_needs_the_steps_of_the_fit():
    flattening = analyzer(pooling="flatten").fit(X, Y)
    with pytest.raises(
        ValueError, match="pooling='flatten' needs X with 5 steps as on fit, got 3"
    ):
        flattening.transform(X[:, :3])


WARM = {
    "outputs": (X, Y[..., :1], "warm_start: y has 1 outputs, .* has 3"),
    "features": (X[..., :1], Y, "warm_start: X has 1 features, .* 2"),
}


@pytest.mark.parametrize("name", WARM)
def test_warm_start_needs_data_that_fit_the_network(name):
    inputs, y, message = WARM[name]
    warm = trainer(warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        warm.fit(inputs, y)


FROZEN = {
    "features": (X[..., :1], Y, "X has 1 features, .* 2"),
    "outputs": (X, Y[..., :1], "y must have 3 outputs as on fit, got 1"),
    "form": (X, LABELS, "y must have 3 dimensions as on fit, got 1"),
    "length": (X[:4], Y, "y has 6 trials and X has 4"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_trainer_needs_data_that_fit_it(name):
    inputs, y, message = FROZEN[name]
    with pytest.raises(ValueError, match=message):
        analyzer(FrozenEstimator(fitted("trainer"))).fit(inputs, y)


def test_a_frozen_trainer_must_be_fitted():
    with pytest.raises(NotFittedError, match="RecurrentTrainer instance is not fitted"):
        analyzer(FrozenEstimator(trainer())).fit(X, Y)


def test_targets_that_the_dtype_of_X_cannot_hold():
    message = r"y must be within the range of float32, .* got .* 1e\+300"
    with pytest.raises(ValueError, match=message):
        trainer().fit(X.astype(np.float32), changed(Y, (0, 0, 0), 1e300))


def test_finite_numbers_are_assumed_on_request():
    broken = changed(X, (0, 0, 0), np.nan)
    with config_context(assume_finite=True):
        assert np.isnan(SequenceVectorizer().fit_transform(broken)).sum() == 1
    with pytest.raises(ValueError, match="Input X contains NaN"):
        SequenceVectorizer().fit_transform(broken)
