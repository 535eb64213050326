"""KPFlowAnalyzer: every fitted number against the dense reference, and real runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, linearize, report
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers import _verification as verification
from kpflow_sklearn.analyzers._trials import choose_trials
from kpflow_sklearn.analyzers.kpflow._analyzer import ANALYSES
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.lyapunov import lyapunov_exponents
from kpflow_sklearn.networks import Objective, RecurrentNetwork, TargetEncoder
from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.operators import (
    FlowPropagator,
    InversePropagator,
    ParameterJacobian,
    ParameterOperator,
)
from kpflow_sklearn.plotting import LyapunovDisplay
from kpflow_sklearn.results import COLUMNS, select
from kpflow_sklearn.training import Snapshot
from tests.oracles import oracle
from tests.oracles.cases import MyCell

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS, N_OUTPUTS = 4, 5, 2, 3, 2
ITERATIONS = [0, 2, 6]
AXES = ("all", "trial", "time", "hidden")
OPERATORS = ("K", "P", "PKP")
rng = np.random.default_rng(2)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
MASK = np.arange(N_STEPS) < np.array([5, 3, 1, 4])[:, None]


@dataclass(frozen=True)
class Setup:
    """A trainer and the trials that it is fitted and analysed on."""

    cell: str | Callable
    options: dict = field(default_factory=dict)
    mask: np.ndarray | None = None
    n_parts: int = 1

    @property
    def n_states(self) -> int:
        return N_UNITS * self.n_parts * self.options.get("n_layers", 1)


SETUPS = {
    "gru": Setup("gru"),
    "gru, mask": Setup("gru", mask=MASK),
    "lstm": Setup("lstm", n_parts=2),
    "relu": Setup("relu"),
    "tanh, 2 layers": Setup("tanh", {"n_layers": 2}),
    "leaky, trained z0": Setup("leaky", {"learn_initial_state": True, "dt": 0.5, "tau": 2.0}),
    "user cell": Setup(MyCell),
    "user cell, trained z0, mask": Setup(MyCell, {"learn_initial_state": True}, MASK),
}
every_setup = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "user cell")) for n in SETUPS]
)


def trainer(cell: str | Callable = "gru", **options) -> RecurrentTrainer:
    defaults = dict(
        hidden_size=N_UNITS, max_iter=ITERATIONS[-1], snapshots=ITERATIONS, learning_rate=0.05,
        batch_size=None, init_scale=1.3, random_state=0,
    )  # fmt: skip
    return RecurrentTrainer(cell, **defaults | options)


def analyzer(source=None, **options) -> KPFlowAnalyzer:
    source = trainer() if source is None else source
    return KPFlowAnalyzer(source, **{"random_state": 0} | options)


@cache
def analysed(name: str) -> KPFlowAnalyzer:
    """Fit a setup on all axes, once for all tests; not to be changed."""
    setup = SETUPS[name]
    fitted = analyzer(trainer(setup.cell, **setup.options), axes=AXES)
    return fitted.fit(X, Y, mask=setup.mask)


@dataclass(frozen=True)
class Dense:
    """The reference of one snapshot: loss, error signal, and the Grams of all operators."""

    operators: oracle.DenseOperators
    shape: tuple[int, int, int]
    loss: float
    error: torch.Tensor

    @property
    def grams(self) -> dict[str, torch.Tensor]:
        ops = self.operators
        return {"K": ops.K, "P": ops.P @ ops.P.T, "PKP": ops.PKP}

    def gram(self, operator: str, axis: str) -> np.ndarray:
        """Return a Gram, reduced to one axis by the partial trace over the others."""
        gram = self.grams[operator]
        if axis == "all":
            return gram.numpy()
        indices = {"trial": "bthsth->bs", "time": "bthbsh->ts", "hidden": "bthbts->hs"}[axis]
        return np.einsum(indices, gram.reshape(*self.shape, *self.shape).numpy())

    @property
    def signals(self) -> dict[str, torch.Tensor]:
        ops, error = self.operators, self.error.flatten()
        back = ops.P.T @ error
        signals = {"Err": error, "P*Err": back, "KP*Err": ops.K @ back, "PKP*Err": ops.PKP @ error}
        return signals | {"PP*Err": ops.P @ back}


@cache
def dense(name: str, iteration: int) -> Dense:
    """Solve a setup at one snapshot by plain autograd."""
    setup, fitted = SETUPS[name], analysed(name)
    (snapshot,) = (s for s in fitted.snapshots_ if s.iteration == iteration)
    network = fitted.trainer_.network_at(snapshot)
    cell = setup.cell if isinstance(setup.cell, str) else network.recurrent
    weights = {n: p.detach().clone() for n, p in network.recurrent.named_parameters()}
    z0 = network.initial_state.detach().clone()
    mask = torch.ones(X.shape[:2], dtype=bool) if setup.mask is None else torch.as_tensor(MASK)
    options = dict(
        mask=mask,
        n_layers=setup.options.get("n_layers", 1),
        alpha=setup.options.get("dt", 1.0) / setup.options.get("tau", 1.0),
        learn_initial_state=setup.options.get("learn_initial_state", False),
    )
    operators = oracle.dense_operators(cell, weights, torch.as_tensor(X), z0, **options)
    states = operators.states.clone().requires_grad_()
    top = states.chunk(options["n_layers"], dim=-1)[-1]
    outputs = network.readout(oracle.layer_output(cell, top))
    squares = ((outputs - torch.as_tensor(Y)) ** 2).mean(-1)[mask]
    (error,) = torch.autograd.grad(squares.sum(), states)
    return Dense(operators, tuple(states.shape), float(squares.detach().mean()), error)


def check_reasons(results: pd.DataFrame) -> pd.Series:
    """Check that values are missing exactly if they have a reason; return which are missing."""
    missing = results["value"].isna()
    assert (missing == (results["reason"] != "")).all()
    return missing


def value_of(fitted: KPFlowAnalyzer, operator: str, quantity: str, axis: str = "all") -> float:
    """Return a number of the last snapshot."""
    return select(fitted.results_, operator, quantity, axis)["value"].iloc[-1]


def loss_of(fitted: KPFlowAnalyzer) -> float:
    return value_of(fitted, "network", "loss", "")


def effective_dimension(gram: np.ndarray) -> float:
    return np.trace(gram) ** 2 / (gram**2).sum()


def rank(gram: np.ndarray, threshold: float = 0.95) -> int:
    values = np.linalg.eigvalsh(gram)[::-1]
    return int(np.argmax(np.cumsum(values) >= threshold * values.sum())) + 1


QUANTITIES = {
    "trace": np.trace,
    "norm": lambda gram: np.sqrt((gram**2).sum()),
    "effective_dimension": effective_dimension,
    "rank": rank,
}


# -------------------------------------------------------------------------------- the whole table


@every_setup
def test_results_have_one_row_for_each_number(name):
    results = analysed(name).results_
    assert {column: str(results[column].dtype) for column in COLUMNS} == {
        column: str(pd.Series(dtype=kind).dtype) for column, kind in COLUMNS.items()
    }
    keys = ["iteration", "operator", "axis", "quantity"]
    expected = {
        *((i, op, axis, q) for i in ITERATIONS for op in OPERATORS for axis in AXES
          for q in QUANTITIES),
        *((i, "network", "", "loss") for i in ITERATIONS),
        *((i, "PKP", "all", q) for i in ITERATIONS
          for q in ("direction_agreement", "operator_agreement", "activity_error",
                    "flow_agreement", "interval_agreement")),
        *((ITERATIONS[-1], op, "all", "eigenpair_residual") for op in OPERATORS),
    }  # fmt: skip
    entries = list(results[keys].itertuples(index=False, name=None))
    assert len(entries) == len(set(entries))
    assert set(entries) == expected
    assert (results["n_trials"] == N_TRIALS).all()


@every_setup
def test_a_value_is_missing_only_with_a_reason(name):
    results = analysed(name).results_
    missing = check_reasons(results)
    assert results[missing][["iteration", "quantity"]].values.tolist() == [
        [ITERATIONS[-1], "flow_agreement"],
        [ITERATIONS[-1], "interval_agreement"],
    ]
    assert "training ended" in results[missing]["reason"].iloc[0]
    assert "no later snapshot" in results[missing]["reason"].iloc[1]
    assert (results["method"] == "exact").all()
    assert (results[~missing]["std_error"] == 0).all()


@pytest.mark.parametrize("iteration", [ITERATIONS[0], ITERATIONS[-1]])
@every_setup
def test_every_number_is_that_of_the_dense_operators(name, iteration):
    results = analysed(name).results_
    reference = dense(name, iteration)
    loss = select(results, "network", "loss")["value"].loc[iteration]
    assert loss == pytest.approx(reference.loss, rel=1e-12)
    for operator in OPERATORS:
        for axis in AXES:
            gram = reference.gram(operator, axis)
            for quantity, function in QUANTITIES.items():
                value = select(results, operator, quantity, axis)["value"].loc[iteration]
                assert value == pytest.approx(function(gram), rel=1e-8), (operator, axis, quantity)


@every_setup
def test_signal_dimensions_and_direction_agreement(name):
    fitted, last = analysed(name), ITERATIONS[-1]
    reference = dense(name, last)
    table = fitted.signal_dimensions_
    assert list(table.index) == ITERATIONS
    assert list(table) == ["Err", "P*Err", "KP*Err", "PKP*Err", "Z"]
    signals = reference.signals
    for signal in table.columns[:-1]:
        flat = signals[signal].reshape(-1, SETUPS[name].n_states).numpy()
        expected = effective_dimension(flat.T @ flat)
        assert table.loc[last, signal] == pytest.approx(expected, rel=1e-8), signal
    states = reference.operators.states.numpy()
    valid = states.reshape(-1, states.shape[-1])
    if SETUPS[name].mask is not None:
        valid = states[MASK]
    assert table.loc[last, "Z"] == pytest.approx(effective_dimension(valid.T @ valid), rel=1e-8)
    cosine = torch.cosine_similarity(signals["PKP*Err"], signals["PP*Err"], dim=0)
    agreement = select(fitted.results_, "PKP", "direction_agreement")["value"].loc[last]
    assert agreement == pytest.approx(float(cosine), rel=1e-8)


# -------------------------------------------------------------------------- the fitted attributes


@every_setup
def test_attributes_have_the_shapes_that_are_documented(name):
    fitted, n_states = analysed(name), SETUPS[name].n_states
    k = min(5, n_states)
    assert fitted.components_.shape == (k, n_states)
    assert fitted.n_components_ == k
    assert set(fitted.singular_values_) == set(fitted.eigenfunctions_) == set(OPERATORS)
    for operator in OPERATORS:
        assert fitted.singular_values_[operator].shape == (5,)
        assert fitted.eigenfunctions_[operator].shape == (5, N_TRIALS, N_STEPS, n_states)
    assert fitted.lyapunov_exponents_.shape == fitted.lyapunov_std_error_.shape == (n_states,)
    assert isinstance(fitted.kaplan_yorke_dimension_, float)
    assert isinstance(fitted.kaplan_yorke_std_error_, float)
    assert len(fitted.loss_curve_) == fitted.n_iter_ == ITERATIONS[-1]
    assert [s.iteration for s in fitted.snapshots_] == ITERATIONS
    assert isinstance(fitted.network_, RecurrentNetwork)
    assert isinstance(fitted.trainer_, RecurrentTrainer)
    assert fitted.n_features_in_ == N_FEATURES
    arrays = [fitted.components_, *fitted.eigenfunctions_.values(), fitted.loss_curve_]
    assert all(isinstance(array, np.ndarray) for array in arrays)


@every_setup
def test_ranks_and_dimensions_are_those_of_the_table(name):
    fitted, last = analysed(name), ITERATIONS[-1]
    for operator in OPERATORS:
        rank_ = getattr(fitted, f"{operator.lower()}_rank_")
        assert rank_ == select(fitted.results_, operator, "rank", "time")["value"].loc[last]
        for axis in AXES:
            dimension = select(fitted.results_, operator, "effective_dimension", axis)["value"]
            assert fitted.effective_dimensions_.loc[operator, axis] == dimension.loc[last]
    assert fitted.effective_dimensions_.shape == (3, 4)


@every_setup
def test_bottleneck_compares_the_time_ranks(name):
    table = analysed(name).bottleneck_
    assert table["iteration"].tolist() == ITERATIONS
    for row in table.itertuples():
        k, p, both = (
            select(analysed(name).results_, operator, "rank", "time")["value"].loc[row.iteration]
            for operator in OPERATORS
        )
        assert (row.K_rank, row.P_rank, row.PKP_rank) == (k, p, both)
        assert row.ratio == max(k, p) / min(k, p)
        expected = "undecided" if k == p else "K" if k < p else "P"
        assert row.narrower == ("neither" if both > max(k, p) else expected)


@every_setup
def test_components_are_the_leading_directions_of_the_tangent_kernel(name):
    components = analysed(name).components_
    assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-10)
    values, vectors = np.linalg.eigh(dense(name, ITERATIONS[-1]).gram("PKP", "hidden"))
    expected = vectors[:, ::-1].T[: len(components)]
    assert np.diff(values).min() > 1e-8 * values[-1]
    assert_allclose(np.abs((components * expected).sum(1)), 1, atol=1e-6)
    peaks = components[np.arange(len(components)), np.abs(components).argmax(1)]
    assert (peaks > 0).all()


@every_setup
def test_eigenfunctions_belong_to_the_singular_values(name):
    fitted, reference = analysed(name), dense(name, ITERATIONS[-1])
    for operator in OPERATORS:
        functions = fitted.eigenfunctions_[operator].reshape(5, -1)
        values = fitted.singular_values_[operator]
        gram = reference.gram(operator, "all")
        largest = np.linalg.eigvalsh(gram)[::-1][:5]
        eigenvalues = values**2 if operator == "P" else values
        # Those of P crowd together, and the subspace iteration that finds them is a short one.
        assert_allclose(eigenvalues, largest, rtol=5e-3)
        assert_allclose(functions @ functions.T, np.eye(5), atol=1e-8)
        residual = functions @ gram - eigenvalues[:, None] * functions
        assert np.abs(residual).max() < 2e-2 * largest[0]
        peaks = functions[np.arange(5), np.abs(functions).argmax(1)]
        assert (peaks > 0).all()
        if SETUPS[name].mask is not None:
            assert np.abs(fitted.eigenfunctions_[operator][:, ~MASK]).max() < 1e-10


@every_setup
def test_lyapunov_exponents_are_per_unit_of_time(name):
    fitted = analysed(name)
    exponents, error = lyapunov_exponents(linearize(fitted.network_, X, SETUPS[name].mask))
    dt = SETUPS[name].options.get("dt", 1.0)
    assert_allclose(fitted.lyapunov_exponents_, exponents / dt, rtol=1e-8)
    assert_allclose(fitted.lyapunov_std_error_, error / dt, rtol=1e-8)


def test_weight_maps_are_described_where_there_are_any():
    table = analysed("gru").weight_maps_
    assert table["map"].nunique() == len(table) == 4
    assert (table["K_time_rank"] <= N_STEPS).all()
    assert (table["K_unit_rank"] <= table["K_unit_rank_bound"]).all()
    assert not table.isna().any().any()
    assert analysed("user cell, trained z0, mask").weight_maps_.empty


# ------------------------------------------------------------------------------- flow of training


def agreement(fitted: KPFlowAnalyzer, quantity: str) -> pd.DataFrame:
    return select(fitted.results_, "PKP", quantity)


@pytest.mark.parametrize("options", [{}, {"learn_initial_state": True}, {"cell": "lstm"}])
def test_small_steps_of_gradient_descent_follow_the_flow(options):
    slow = trainer(optimizer="sgd", learning_rate=1e-4, max_iter=4, snapshots=[0, 2, 4], **options)
    fitted = analyzer(slow, analyses=("signals",)).fit(X, Y, X_analysis=X, y_analysis=Y)
    for quantity in ("flow_agreement", "interval_agreement"):
        assert agreement(fitted, quantity)["value"].iloc[:-1].min() > 0.999


def test_flow_agreement_shows_what_is_not_gradient_descent():
    # The flow of other targets on the same trials is another flow.
    slow = trainer(optimizer="sgd", learning_rate=1e-4, max_iter=2, snapshots=2)
    fitted = analyzer(slow, analyses=("signals",)).fit(X, Y, X_analysis=X, y_analysis=-Y)
    assert agreement(fitted, "flow_agreement")["value"].iloc[0] < 0.9


def test_agreement_is_the_cosine_of_predicted_and_measured_change():
    # The update from iteration 0 is kept, though the next snapshot is at iteration 2.
    fitted = analysed("gru")
    before, later = (dense("gru", i).operators.states.flatten() for i in ITERATIONS[:2])
    kept = fitted.snapshots_[0]
    with torch.no_grad():
        updated = fitted.trainer_.network_after(kept).states(torch.as_tensor(X)).flatten()
    predicted = -dense("gru", 0).signals["PKP*Err"]
    for quantity, after in (("flow_agreement", updated), ("interval_agreement", later)):
        expected = float(torch.cosine_similarity(predicted, after - before, dim=0))
        assert agreement(fitted, quantity)["value"].loc[0] == pytest.approx(expected, rel=1e-8)
    # A run with a snapshot there knows the same state.
    every = trainer(snapshots=[0, 1, ITERATIONS[-1]]).fit(X, Y)
    for name, value in every.snapshots_[1].state.items():
        torch.testing.assert_close(kept.updated[name], value, rtol=0, atol=0)


def test_exact_gradient_descent_agrees_with_its_next_update_far_from_the_next_snapshot():
    long = trainer(optimizer="sgd", learning_rate=0.3, max_iter=400, snapshots=[0, 20, 400])
    fitted = analyzer(long, analyses=("signals",)).fit(X, Y, X_analysis=X, y_analysis=Y)
    assert agreement(fitted, "flow_agreement")["value"].iloc[:-1].min() > 0.95
    assert agreement(fitted, "interval_agreement")["value"].loc[20] < 0.9


def test_a_change_below_the_rounding_of_the_states_has_no_direction():
    tiny = trainer(optimizer="sgd", learning_rate=1e-7, max_iter=1, snapshots=2, dtype="float32")
    of_signals = {"analyses": ("signals",)}
    row = agreement(analyzer(tiny, **of_signals).fit(X, Y), "flow_agreement").iloc[0]
    assert row["reason"] == "the change of the states is close to the rounding of float32"
    double = analyzer(tiny.set_params(dtype="float64"), **of_signals)
    double.fit(X, Y, X_analysis=X, y_analysis=Y)
    assert agreement(double, "flow_agreement")["value"].iloc[0] > 0.99999


def test_no_motion_says_what_is_zero():
    relu = trainer("relu", max_iter=0, snapshots=[0]).fit(X, Y)
    with torch.no_grad():  # All units are off, and the error signal is not zero.
        for bias in (relu.network_.recurrent.bias_ih_l0, relu.network_.recurrent.bias_hh_l0):
            bias.fill_(-100)
    relu.snapshots_ = [Snapshot.take(0, relu.network_)]
    silent = analyzer(FrozenEstimator(relu), analyses=("signals",))
    reason = agreement(silent.fit(X, Y), "direction_agreement")["reason"].iloc[0]
    assert reason == "KP*Err is zero: no parameter responds to the error signal"
    solved = silent.fit(X, silent.predict(X))
    reason = agreement(solved, "direction_agreement")["reason"].iloc[0]
    assert reason == "the error signal is zero"


@pytest.mark.parametrize("operators", [("P",), ("K", "P")])
def test_an_exact_analysis_needs_no_kernel_that_was_not_asked_for(operators):
    large = np.random.default_rng(0).standard_normal((40, 12, N_FEATURES))
    tanh = trainer("tanh", hidden_size=20, max_iter=0, snapshots=[0])
    options = {"method": "exact", "operators": operators, "axes": ("time",)}
    assert (analyzer(tanh, **options).fit(large, None).results_["reason"] != "").sum() == 2


# ---------------------------------------------------------------------- the trainer answers


@pytest.mark.parametrize("pooling", ["last", "mean", "flatten"])
def test_transform_pools_the_projected_states(pooling):
    options = {"operators": ("PKP",), "axes": ("time",), "analyses": ("modes",)}
    fitted = analyzer(pooling=pooling, **options).fit(X, Y)
    projected = np.einsum("bth,kh->btk", fitted.trajectories(X), fitted.components_)
    for mask, about in ((np.ones_like(MASK), {}), (MASK, {"mask": MASK})):
        lengths, valid = mask.sum(1), projected * mask[..., None]
        expected = {
            "last": projected[np.arange(N_TRIALS), lengths - 1],
            "mean": valid.sum(1) / lengths[:, None],
            "flatten": valid.reshape(N_TRIALS, -1),
        }[pooling]
        assert_allclose(fitted.transform(X, **about), expected, atol=1e-12)
    assert fitted.transform(X).shape[1] == len(fitted.get_feature_names_out())
    # Both steps at once are the same, and single precision stays.
    masked = analyzer(pooling=pooling, **options)
    projected = masked.fit_transform(X, Y, mask=MASK)
    np.testing.assert_array_equal(projected, masked.transform(X, mask=MASK))
    assert not np.allclose(projected, fitted.transform(X))
    single = X.astype(np.float32)
    fitted.fit(single, Y)
    assert fitted.transform(single).dtype == np.float32
    assert fitted.transform(single, mask=MASK).dtype == np.float32


def test_the_trainer_answers_for_the_analyzer():
    fitted = analysed("gru, mask")
    alone = trainer().fit(X, Y, mask=MASK)
    for options in ({"mask": np.ones_like(MASK)}, {"mask": MASK}):
        np.testing.assert_array_equal(fitted.predict(X, **options), alone.predict(X, **options))
        np.testing.assert_array_equal(
            fitted.trajectories(X, **options), alone.trajectories(X, **options)
        )
        assert fitted.score(X, Y, **options) == alone.score(X, Y, **options)
    np.testing.assert_array_equal(fitted.loss_curve_, alone.loss_curve_)


@pytest.mark.parametrize(
    "setup", ["lstm", *(pytest.param(s, marks=pytest.mark.slow) for s in ("gru", "user cell"))]
)
def test_trailing_padding_changes_nothing(setup):
    source = trainer(SETUPS[setup].cell)
    longer = [(0, 0), (0, 3), (0, 0)]
    X_long = np.pad(X, longer, constant_values=9.0)
    Y_long, mask_long = np.pad(Y, longer), np.pad(MASK, longer[:2])
    short = analyzer(source, axes=AXES).fit(X, Y, mask=MASK)
    long = analyzer(source, axes=AXES).fit(X_long, Y_long, mask=mask_long)
    pd.testing.assert_frame_equal(long.results_, short.results_, rtol=1e-8)
    pd.testing.assert_frame_equal(long.signal_dimensions_, short.signal_dimensions_, rtol=1e-8)
    assert_allclose(long.components_, short.components_, atol=1e-8)
    assert_allclose(long.lyapunov_exponents_, short.lyapunov_exponents_, rtol=1e-8)
    assert_allclose(
        long.transform(X_long, mask=mask_long), short.transform(X, mask=MASK), atol=1e-8
    )
    for operator, values in short.singular_values_.items():
        assert_allclose(long.singular_values_[operator], values, rtol=1e-4)


# ---------------------------------------------------------------------------- what it is asked for


@pytest.mark.parametrize("operators", [("K",), ("P", "PKP")])
def test_operators_left_out_are_not_measured(operators):
    fitted = analyzer(operators=operators, axes=("hidden",)).fit(X, Y)
    assert list(fitted.effective_dimensions_.index) == list(operators)
    assert set(fitted.effective_dimensions_) == {"hidden", "time"}
    assert set(fitted.singular_values_) == set(operators)
    assert fitted.bottleneck_.empty
    for operator in OPERATORS:
        value = getattr(fitted, f"{operator.lower()}_rank_")
        assert (value is None) == (operator not in operators)
    # The other numbers are the same as with all of them.
    whole = analyzer().fit(X, Y)
    for operator in operators:
        name = f"{operator.lower()}_rank_"
        assert getattr(fitted, name) == getattr(whole, name)
    if "PKP" in operators:
        assert fitted.transform(X).shape == (N_TRIALS, N_UNITS)
    else:
        for ask in (lambda: fitted.transform(X), fitted.get_feature_names_out):
            with pytest.raises(ValueError, match=r"add what is missing and fit again"):
                ask()


OF_ANALYSES = {
    "spectra": {"trace", "norm", "rank", "effective_dimension", "activity_error",
                "operator_agreement"},
    "modes": {"eigenpair_residual"},
    "lyapunov": set(),
    "weight_maps": set(),
    "signals": {"direction_agreement", "flow_agreement", "interval_agreement"},
}  # fmt: skip


@pytest.mark.parametrize("wanted", ["spectra", "lyapunov", ("signals", "modes", "weight_maps")])
def test_analyses_left_out_are_not_computed(wanted, tmp_path):
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    fitted, whole = analyzer(analyses=wanted, axes=AXES).fit(X, Y), analysed("gru")
    expected = {"loss"}.union(*(OF_ANALYSES[name] for name in wanted))
    rows = whole.results_[whole.results_["quantity"].isin(expected)]
    pd.testing.assert_frame_equal(
        fitted.results_, rows.reset_index(drop=True), check_categorical=False
    )
    for name, attributes in ANALYSES.items():
        for attribute in attributes:
            if name in wanted:
                getattr(fitted, attribute)
                continue
            with pytest.raises(AttributeError, match=f"{attribute} was not computed.*'{name}'"):
                getattr(fitted, attribute)
    if "lyapunov" not in wanted:
        with pytest.raises(AttributeError, match="lyapunov_exponents_ was not computed"):
            LyapunovDisplay.from_estimator(fitted)
    with pytest.raises(ValueError, match="fitted with all of its analyses, .* got analyses="):
        report(fitted, tmp_path / "report.html")
    if "modes" not in wanted:
        with pytest.raises(ValueError, match="'modes' among the analyses"):
            fitted.transform(X)
    assert pickle.loads(pickle.dumps(fitted)).results_.equals(fitted.results_)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_the_threshold_moves_the_rank(threshold):
    fitted = analyzer(rank_threshold=threshold).fit(X, Y)
    for operator in OPERATORS:
        expected = rank(dense("gru", ITERATIONS[-1]).gram(operator, "time"), threshold)
        value = getattr(fitted, f"{operator.lower()}_rank_")
        assert value == (expected if threshold < 1 else N_STEPS)


def test_gram_and_reduction_reach_the_table():
    reference = dense("gru", ITERATIONS[-1])
    fitted = analyzer(gram="square", reduction="mean").fit(X, Y)
    for operator, matrix in (("K", reference.operators.K), ("PKP", reference.operators.PKP)):
        square = (matrix @ matrix.T).numpy()
        trace = value_of(fitted, operator, "trace")
        assert trace == pytest.approx(np.trace(square), rel=1e-8)
        averaged = square.reshape(*reference.shape, *reference.shape).mean((0, 2, 3, 5))
        dimension = value_of(fitted, operator, "effective_dimension", "time")
        assert dimension == pytest.approx(effective_dimension(averaged), rel=1e-8)
    on_an_axis = fitted.results_.query("axis in ['time', 'hidden']")
    assert set(on_an_axis["reduction"]) == {"mean"}


def test_estimates_carry_their_error_and_are_near_the_exact_values():
    options = dict(hidden_size=24, max_iter=0, snapshots=1)
    exact = analyzer(trainer(**options), axes=AXES, method="exact").fit(X, Y)
    fitted = analyzer(trainer(**options), axes=AXES, method="randomized", n_probes=40).fit(X, Y)
    measured = fitted.results_["quantity"].isin(["trace", "norm", "effective_dimension"])
    estimated, expected = fitted.results_[measured], exact.results_[measured]
    assert (estimated["method"] == "randomized").all()
    off = (estimated["value"] - expected["value"]).abs()
    # Small Grams are exact up to rounding even then, so a floor in units of the value.
    floor = 1e-6 * expected["value"].abs()
    assert (off <= 5 * estimated["std_error"] + floor).all()
    assert (off > 0).any()
    assert (estimated.query("operator == 'P'")["std_error"] > 0).all()
    assert (estimated["std_error"] < 0.2 * estimated["value"]).all()


@pytest.mark.parametrize("axes", [("all", "time", "hidden"), AXES])
def test_numbers_do_not_depend_on_the_memory_limit(axes):
    # One trial, or one random vector where the trial axis is asked for, at a time.
    options = {"axes": axes, "method": "randomized", "n_probes": 4}
    source = trainer(max_iter=0, snapshots=1)
    free, bound = (analyzer(source, memory_limit=m, **options).fit(X, Y) for m in (None, 1))
    keys = ["operator", "axis", "quantity", "method", "reason"]
    pd.testing.assert_frame_equal(bound.results_[keys], free.results_[keys])
    for column in ("value", "std_error"):
        assert_allclose(bound.results_[column], free.results_[column], rtol=1e-6, atol=1e-9)


def test_activity_left_out_of_the_kernel_is_reported():
    source = trainer("tanh", max_iter=0, snapshots=1)
    fitted = analyzer(source, activity_tol=0.2, operators=("K", "PKP")).fit(X, Y)
    whole = analyzer(source, activity_tol=0, operators=("K", "PKP")).fit(X, Y)

    lost = value_of(fitted, "PKP", "activity_error")
    lin = linearize(fitted.network_, X)
    compressed = lin.K.compress(0.2).to_dense().trace()
    assert lost == pytest.approx(1 - float(compressed / lin.K.to_dense().trace()), rel=1e-8)
    assert 1e-6 < lost < 0.2
    assert value_of(whole, "PKP", "activity_error") == 0
    # K itself is not compressed.
    assert value_of(fitted, "K", "trace") == value_of(whole, "K", "trace")
    assert value_of(fitted, "PKP", "trace") < value_of(whole, "PKP", "trace")


def test_tasks_are_analysed_in_equal_share():
    n = 40
    tasks = np.array(["common"] * 34 + ["rare"] * 4 + ["single"] * 2)
    inputs, targets = rng.standard_normal((n, 3, 2)), rng.standard_normal((n, 3, 1))
    encoder = TargetEncoder().fit(inputs, targets)
    options = dict(mask=None, loss_weight=None, n_trials=9, single_step=False)
    seed = draw_seed(0)
    chosen = choose_trials(encoder, inputs, targets, tasks=tasks, seed=seed, **options)
    index = [int(np.flatnonzero((inputs == x).all((1, 2)))[0]) for x in chosen.X]
    assert index == sorted(set(index))
    labels, counts = np.unique(tasks[index], return_counts=True)
    assert dict(zip(labels, counts, strict=True)) == {"common": 4, "rare": 3, "single": 2}
    other = choose_trials(encoder, inputs, targets, tasks=tasks, seed=seed + 1, **options)
    assert not np.array_equal(other.X, chosen.X)
    # The analyzer chooses the same trials.
    fitted = analyzer(analysis_trials=9).fit(inputs, targets, tasks=tasks)
    assert (fitted.results_["n_trials"] == 9).all() and fitted.eigenfunctions_["K"].shape[1] == 9
    expected = ((fitted.predict(chosen.X) - targets[index]) ** 2).mean()
    assert loss_of(fitted) == pytest.approx(expected, rel=1e-12)


def test_trials_given_for_the_analysis_are_the_ones_analysed():
    other, target = rng.standard_normal((3, 7, 2)), rng.standard_normal((3, 7, 2))
    fitted = analyzer().fit(X, Y, X_analysis=other, y_analysis=target)
    assert (fitted.results_["n_trials"] == 3).all()
    assert fitted.eigenfunctions_["P"].shape == (5, 3, 7, N_UNITS)
    expected = ((fitted.predict(other) - target) ** 2).mean()
    assert loss_of(fitted) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(fitted.loss_curve_, trainer().fit(X, Y).loss_curve_)


def test_loss_weight_reaches_training_and_analysis():
    weight = rng.uniform(0, 2, (N_TRIALS, N_STEPS))
    fitted, alone = (model.fit(X, Y, loss_weight=weight) for model in (analyzer(), trainer()))
    np.testing.assert_array_equal(fitted.loss_curve_, alone.loss_curve_)
    expected = (weight[..., None] * (fitted.predict(X) - Y) ** 2).mean()
    assert loss_of(fitted) == pytest.approx(expected, rel=1e-12)


# ----------------------------------------------------------------------------------------- verify


@every_setup
def test_verify_passes_on_every_network(name):
    table = analysed(name).verify(X, Y, mask=SETUPS[name].mask)
    assert list(table) == ["identity", "error", "tolerance", "passed"]
    assert table["passed"].all(), table
    assert (table["error"] <= table["tolerance"]).all()
    # Blocks of units exist only where K is made of weight maps alone.
    with_units = not SETUPS[name].options.get("learn_initial_state") and name[:4] != "user"
    assert len(table) == (8 if with_units else 7)
    assert table["identity"].is_unique


@pytest.mark.parametrize(
    "y", [["a", "b", "a", "c"], rng.integers(0, 2, (N_TRIALS, N_STEPS)), None, X[:, 0, 0]]
)
def test_verify_passes_for_every_form_of_y(y):
    fitted = analyzer(trainer(activity_l2=0.1)).fit(X, y)
    weight = rng.uniform(0.5, 2, (N_TRIALS, N_STEPS))
    table = fitted.verify(X, y, mask=MASK, loss_weight=weight)
    assert table["passed"].all(), table


def times(factor: float) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a function's result too large."""
    return lambda function: lambda *args, **options: factor * function(*args, **options)


def times_argument(factor: float) -> Callable:
    return lambda function: lambda operator, v, out: function(operator, factor * v, out)


def one_step_early(function: Callable) -> Callable:
    """Take the Jacobians at the step before, as published research code did."""
    return lambda tangent, t, q, push, out: function(tangent, max(t - 1, 0), q, push, out)


def into_other_units(function: Callable) -> Callable:
    def leaking(operator, v, out):
        function(operator, v, out)
        out += 0.1 * out.roll(1, dims=-1)

    return leaking


def without_the_first(components: property) -> property:
    return property(lambda op: dict(list(components.fget(op).items())[1:]))


GRADIENT, ADJOINT = "gradient = J_theta* P* Err", "<p, P q> = <P* p, q>"
SYMMETRY, INVERSE, SUM = "<p, K q> = <K p, q>", "P^-1 P q = q", "sum of the K_j = K"
STEP = "gradient step moves states by -eta PKP* Err"
TRACE = "tr K by weight maps = by random vectors (in std. errors)"
UNITS = "blocks of K between different units = 0"

LEAKING = {SYMMETRY, STEP, UNITS, TRACE}

# The class, its attribute, how it is broken, and the identities that must fail.
BREAKS = {
    "P": (FlowPropagator, "_forward", times(1.01), {ADJOINT, INVERSE, STEP}),
    "P*": (FlowPropagator, "_backward", times(1.01), {GRADIENT, ADJOINT}),
    "J_t": (NetworkTangent, "jacobian_forward", one_step_early, {ADJOINT, STEP}),
    "J_t^T": (NetworkTangent, "jacobian_adjoint", one_step_early, {GRADIENT, ADJOINT}),
    "P^-1": (InversePropagator, "_apply", times(1.01), {INVERSE}),
    "J_theta": (ParameterJacobian, "write", times_argument(1.01), {STEP, TRACE}),
    "J_theta*": (ParameterJacobian, "_apply_adjoint", times(1.01), {GRADIENT}),
    "unit blocks": (ParameterJacobian, "write", into_other_units, LEAKING),
    "one map left out": (ParameterOperator, "components", without_the_first, {SUM}),
    "Err": (Objective, "error", times(1.01), {GRADIENT}),
    "tr K": (verification, "parameter_gram", times(1.01), {TRACE}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_verify_notices_a_broken_formula(name, monkeypatch):
    owner, attribute, broken, expected = BREAKS[name]
    fitted = analysed("gru")
    monkeypatch.setattr(owner, attribute, broken(getattr(owner, attribute)))
    table = fitted.verify(X, Y).set_index("identity")
    assert set(table.index[~table["passed"]]) == expected


# --------------------------------------------------------------------------- extreme inputs


@dataclass(frozen=True)
class Extreme:
    """Degenerate data or a degenerate network."""

    X: np.ndarray
    y: np.ndarray
    options: dict = field(default_factory=dict)
    mask: np.ndarray | None = None


def silence(network: RecurrentNetwork) -> None:
    """Silence all units of a relu network permanently."""
    for name, p in network.named_parameters():
        p.fill_(-1.0 if "bias" in name else 0.0)


def no_outputs(network: RecurrentNetwork) -> None:
    for p in network.readout.parameters():
        p.zero_()


EXTREMES = {
    "one trial": Extreme(X[:1], Y[:1]),
    "one step": Extreme(X[:, :1], Y[:, :1]),
    "two steps": Extreme(X[:, :2], Y[:, :2]),
    "one unit": Extreme(X, Y, {"hidden_size": 1}),
    "one unit, relu": Extreme(X, Y, {"hidden_size": 1, "cell": "relu"}),
    "one feature": Extreme(X[..., :1], Y),
    "one of everything": Extreme(X[:1, :1, :1], Y[:1, :1, :1], {"hidden_size": 1}),
    "one valid step per trial": Extreme(X, Y, mask=np.repeat([[1, 0, 0, 0, 0]], N_TRIALS, axis=0)),
    "one trial, padded": Extreme(X[:1], Y[:1], mask=np.array([[1, 1, 1, 0, 0]])),
    "constant data": Extreme(np.ones_like(X), np.ones_like(Y)),
    "zeros": Extreme(np.zeros_like(X), np.zeros_like(Y), {"cell": "relu"}),
    "no recurrence": Extreme(X, Y, {"cell": "tanh", "init_scale": 0.0}),
    "no training": Extreme(X, Y, {"max_iter": 0, "snapshots": 1}),
    "silent units": Extreme(X, Y, {"cell": "relu", "constraint": silence}),
    "no error": Extreme(X, np.zeros_like(Y), {"constraint": no_outputs}),
}  # fmt: skip


# Quantities that are missing after training, with parts of their reasons.
REASONS = {
    "silent units": {
        ("K", "rank"): "the operator is zero",
        ("PKP", "effective_dimension"): "the operator is zero",
        ("PKP", "direction_agreement"): "zero",
    },
    "no error": {("PKP", "direction_agreement"): "the error signal is zero"},
}


@pytest.mark.filterwarnings("ignore:the gradient vanished")  # As it does for silent units.
@pytest.mark.parametrize("method, snapshots", [("auto", [0, 3]), ("randomized", [3])])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_give_numbers_or_reasons(name, method, snapshots):
    extreme = EXTREMES[name]
    options = {"snapshots": snapshots, "max_iter": 3} | extreme.options
    fitted = analyzer(trainer(**options), method=method, n_probes=6, axes=AXES)
    fitted.fit(extreme.X, extreme.y, mask=extreme.mask)
    results = fitted.results_
    missing = check_reasons(results)
    for keys, reason in REASONS.get(name, {}).items():
        rows = select(results[results["iteration"] == 3], *keys)
        assert rows["reason"].str.contains(reason).all() and len(rows)
    assert np.isfinite(results["value"][~missing]).all()
    assert (results["value"][results["quantity"].isin(["trace", "norm"])] >= 0).all()
    assert np.isfinite(fitted.components_).all()
    assert np.isfinite(fitted.transform(extreme.X)).all()
    for operator in OPERATORS:
        assert np.isfinite(fitted.singular_values_[operator]).all()
        assert np.isfinite(fitted.eigenfunctions_[operator]).all()
    assert not np.isnan(fitted.lyapunov_exponents_).any()
    table = fitted.verify(extreme.X, extreme.y, mask=extreme.mask)
    assert table["passed"].all(), table


def test_eigenfunctions_are_orthonormal_in_small_problems():
    # One step of one trial: K has a single direction per unit.
    fitted = analyzer(n_components=8).fit(X[:1, :1], Y[:1, :1])
    for operator in OPERATORS:
        functions = fitted.eigenfunctions_[operator].reshape(-1, N_UNITS)
        assert_allclose(functions @ functions.T, np.eye(len(functions)), atol=1e-8)
        assert len(functions) == len(fitted.singular_values_[operator]) == N_UNITS


def test_a_diverged_training_is_analysed_as_far_as_numbers_go():
    steep = trainer(
        "relu", optimizer="sgd", learning_rate=1e6, max_iter=30, snapshots=10, init_scale=1.0
    )
    with pytest.warns(ConvergenceWarning, match="training diverged"):
        results = analyzer(steep).fit(X, Y).results_
    check_reasons(results)
    assert results.query("iteration == 0 and quantity == 'loss'")["value"].notna().all()


# -------------------------------------------------------------------------------------- real runs


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_memory_pro_is_learnt_and_K_is_the_narrow_one(seed):
    settings = {"stimulus": 8, "memory": 8, "response": 8}
    inputs, targets = make_memory_pro(32, **settings, random_state=0)
    angles = make_memory_pro(8, **settings, evenly_spaced=True)
    source = trainer(
        "gru", hidden_size=16, init_scale=1.0, max_iter=100, snapshots=2, learning_rate=0.02,
        random_state=seed,
    )  # fmt: skip
    fitted = analyzer(source, axes=("time",), analyses=("spectra",))
    fitted.fit(inputs, targets, X_analysis=angles[0], y_analysis=angles[1])
    loss = select(fitted.results_, "network", "loss")["value"]
    assert loss.iloc[-1] < 0.08 < 0.25 < loss.iloc[0]
    assert fitted.score(*make_memory_pro(16, **settings, random_state=1)) > 0.6
    untrained = fitted.bottleneck_.set_index("iteration").loc[0]
    assert untrained["narrower"] == "K"
    assert untrained["K_rank"] <= 4
    assert untrained["P_rank"] >= 18
    assert untrained["PKP_rank"] <= 5


def test_digits_are_learnt_and_analysed_in_single_precision():
    """The rows of an image are the steps of a trial."""
    data = load_digits()
    images, labels = (data.images / 16).astype(np.float32), data.target
    X_train, y_train, X_test, y_test = images[:200], labels[:200], images[200:400], labels[200:400]
    source = trainer(hidden_size=16, init_scale=1.0, max_iter=60, snapshots=3, learning_rate=0.03)
    fitted = analyzer(source, analysis_trials=16, n_components=12).fit(X_train, y_train)
    classifier = LogisticRegression(max_iter=2000).fit(fitted.transform(X_train), y_train)
    assert classifier.score(fitted.transform(X_test), y_test) > 0.6
    assert fitted.loss_curve_[0] > 2.2
    assert fitted.loss_curve_[-1] < 0.05
    assert fitted.score(X_train, y_train) > 0.98
    assert fitted.score(X_test, y_test) > 0.65
    assert fitted.network_.dtype == torch.float32
    assert fitted.predict(X_test).dtype == y_test.dtype
    assert fitted.results_["iteration"].unique().tolist() == [0, 7, 60]
    assert fitted.bottleneck_["K_rank"].iloc[0] < fitted.bottleneck_["P_rank"].iloc[0] == 7
    agreement = select(fitted.results_, "PKP", "flow_agreement")["value"]
    assert agreement.iloc[0] > agreement.iloc[1]
    assert fitted.verify(X_train, y_train)["passed"].all()


@pytest.mark.slow
def test_the_default_trainer_learns_memory_pro():
    inputs, targets = make_memory_pro(64, stimulus=8, memory=8, response=8, random_state=0)
    fitted = KPFlowAnalyzer(random_state=0, analysis_trials=8, axes=("time",)).fit(inputs, targets)
    assert isinstance(fitted.trainer_, RecurrentTrainer)
    assert fitted.trainer_.cell == "gru"
    assert fitted.network_.n_states == 64
    assert fitted.n_iter_ == 500
    assert len(fitted.snapshots_) == 10
    assert fitted.score(inputs, targets) > 0.9
    assert (fitted.bottleneck_["narrower"] == "K").sum() >= 8
    assert fitted.verify(inputs, targets)["passed"].all()
