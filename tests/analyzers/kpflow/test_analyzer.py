"""KPFlowAnalyzer: every fitted number against the dense reference, and real runs."""

from __future__ import annotations

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
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, linearize
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers import _verification as verification
from kpflow_sklearn.analyzers._trials import choose_trials
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
from kpflow_sklearn.results import COLUMNS, select
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
every_setup = pytest.mark.parametrize("name", SETUPS)


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
    found = analyzer(trainer(setup.cell, **setup.options), axes=AXES)
    return found.fit(X, Y, mask=setup.mask)


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
        found = {"Err": error, "P*Err": back, "KP*Err": ops.K @ back, "PKP*Err": ops.PKP @ error}
        return found | {"PP*Err": ops.P @ back}


@cache
def dense(name: str, iteration: int) -> Dense:
    """Solve a setup at one snapshot by plain autograd."""
    setup, found = SETUPS[name], analysed(name)
    (snapshot,) = (s for s in found.snapshots_ if s.iteration == iteration)
    network = found.trainer_.network_at(snapshot)
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
                    "flow_agreement")),
        *((ITERATIONS[-1], op, "all", "eigenpair_residual") for op in OPERATORS),
    }  # fmt: skip
    found = list(results[keys].itertuples(index=False, name=None))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert (results["n_trials"] == N_TRIALS).all()


@every_setup
def test_a_value_is_missing_only_with_a_reason(name):
    results = analysed(name).results_
    missing = results["value"].isna()
    assert (missing == (results["reason"] != "")).all()
    assert results[missing][["iteration", "quantity"]].values.tolist() == [
        [ITERATIONS[-1], "flow_agreement"]
    ]
    assert "no later snapshot" in results[missing]["reason"].iloc[0]
    assert (results["method"] == "exact").all()
    assert (results[~missing]["std_error"] == 0).all()


@pytest.mark.parametrize("iteration", [ITERATIONS[0], ITERATIONS[-1]])
@every_setup
def test_every_number_is_that_of_the_dense_operators(name, iteration):
    results = analysed(name).results_
    reference = dense(name, iteration)
    for operator in OPERATORS:
        for axis in AXES:
            gram = reference.gram(operator, axis)
            for quantity, function in QUANTITIES.items():
                found = select(results, operator, quantity, axis)["value"].loc[iteration]
                assert found == pytest.approx(function(gram), rel=1e-8), (operator, axis, quantity)


@pytest.mark.parametrize("iteration", ITERATIONS)
@every_setup
def test_loss_is_that_of_the_analysed_trials(name, iteration):
    found = select(analysed(name).results_, "network", "loss")["value"].loc[iteration]
    assert found == pytest.approx(dense(name, iteration).loss, rel=1e-12)


@every_setup
def test_signal_dimensions_and_direction_agreement(name):
    found, last = analysed(name), ITERATIONS[-1]
    reference = dense(name, last)
    table = found.signal_dimensions_
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
    agreement = select(found.results_, "PKP", "direction_agreement")["value"].loc[last]
    assert agreement == pytest.approx(float(cosine), rel=1e-8)


# -------------------------------------------------------------------------- the fitted attributes


@every_setup
def test_attributes_have_the_shapes_that_are_documented(name):
    found, n_states = analysed(name), SETUPS[name].n_states
    k = min(5, n_states)
    assert found.components_.shape == (k, n_states)
    assert found.n_components_ == k
    assert set(found.singular_values_) == set(found.eigenfunctions_) == set(OPERATORS)
    for operator in OPERATORS:
        assert found.singular_values_[operator].shape == (5,)
        assert found.eigenfunctions_[operator].shape == (5, N_TRIALS, N_STEPS, n_states)
    assert found.lyapunov_exponents_.shape == found.lyapunov_std_error_.shape == (n_states,)
    assert isinstance(found.kaplan_yorke_dimension_, float)
    assert isinstance(found.kaplan_yorke_std_error_, float)
    assert found.loss_curve_.shape == (ITERATIONS[-1],)
    assert found.n_iter_ == ITERATIONS[-1]
    assert [s.iteration for s in found.snapshots_] == ITERATIONS
    assert isinstance(found.network_, RecurrentNetwork)
    assert isinstance(found.trainer_, RecurrentTrainer)
    assert found.n_features_in_ == N_FEATURES
    arrays = [found.components_, *found.eigenfunctions_.values(), found.loss_curve_]
    assert all(isinstance(array, np.ndarray) for array in arrays)


@every_setup
def test_ranks_and_dimensions_are_those_of_the_table(name):
    found, last = analysed(name), ITERATIONS[-1]
    for operator in OPERATORS:
        rank_ = getattr(found, f"{operator.lower()}_rank_")
        assert rank_ == select(found.results_, operator, "rank", "time")["value"].loc[last]
        for axis in AXES:
            dimension = select(found.results_, operator, "effective_dimension", axis)["value"]
            assert found.effective_dimensions_.loc[operator, axis] == dimension.loc[last]
    assert found.effective_dimensions_.shape == (3, 4)


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
    found = analysed(name).components_
    assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-10)
    values, vectors = np.linalg.eigh(dense(name, ITERATIONS[-1]).gram("PKP", "hidden"))
    expected = vectors[:, ::-1].T[: len(found)]
    assert np.diff(values).min() > 1e-8 * values[-1]
    assert_allclose(np.abs((found * expected).sum(1)), 1, atol=1e-6)
    peaks = found[np.arange(len(found)), np.abs(found).argmax(1)]
    assert (peaks > 0).all()


@every_setup
def test_eigenfunctions_belong_to_the_singular_values(name):
    found, reference = analysed(name), dense(name, ITERATIONS[-1])
    for operator in OPERATORS:
        functions = found.eigenfunctions_[operator].reshape(5, -1)
        values = found.singular_values_[operator]
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
            assert np.abs(found.eigenfunctions_[operator][:, ~MASK]).max() < 1e-10


@every_setup
def test_lyapunov_exponents_are_per_unit_of_time(name):
    found = analysed(name)
    exponents, error = lyapunov_exponents(linearize(found.network_, X, SETUPS[name].mask))
    dt = SETUPS[name].options.get("dt", 1.0)
    assert_allclose(found.lyapunov_exponents_, exponents / dt, rtol=1e-8)
    assert_allclose(found.lyapunov_std_error_, error / dt, rtol=1e-8)


def test_weight_maps_are_described_where_there_are_any():
    table = analysed("gru").weight_maps_
    assert table["map"].nunique() == len(table) == 4
    assert (table["K_time_rank"] <= N_STEPS).all()
    assert (table["K_unit_rank"] <= table["K_unit_rank_bound"]).all()
    assert not table.isna().any().any()
    assert analysed("user cell").weight_maps_.empty


# ------------------------------------------------------------------------------- flow of training


@pytest.mark.parametrize("options", [{}, {"learn_initial_state": True}, {"cell": "lstm"}])
def test_small_steps_of_gradient_descent_follow_the_flow(options):
    slow = trainer(optimizer="sgd", learning_rate=1e-4, max_iter=4, snapshots=[0, 2, 4], **options)
    found = analyzer(slow).fit(X, Y, X_analysis=X, y_analysis=Y)
    agreement = select(found.results_, "PKP", "flow_agreement")
    assert agreement["value"].iloc[:-1].min() > 0.999
    assert agreement["reason"].tolist()[:-1] == ["", ""]
    assert agreement["value"].isna().tolist() == [False, False, True]
    assert "no later snapshot" in agreement["reason"].iloc[-1]


def test_flow_agreement_shows_what_is_not_gradient_descent():
    # The flow of other targets on the same trials is another flow.
    slow = trainer(optimizer="sgd", learning_rate=1e-4, max_iter=2, snapshots=2)
    found = analyzer(slow).fit(X, Y, X_analysis=X, y_analysis=-Y)
    assert select(found.results_, "PKP", "flow_agreement")["value"].iloc[0] < 0.9


def test_flow_agreement_is_the_cosine_of_predicted_and_measured_change():
    found = analysed("gru")
    before, after = (dense("gru", i).operators.states.flatten() for i in ITERATIONS[:2])
    predicted = -dense("gru", 0).signals["PKP*Err"]
    expected = torch.cosine_similarity(predicted, after - before, dim=0)
    agreement = select(found.results_, "PKP", "flow_agreement")["value"]
    assert agreement.loc[0] == pytest.approx(float(expected), rel=1e-8)


# ------------------------------------------------------------------------------- transform and co


def test_transform_pools_the_projected_states():
    found = analysed("gru")
    states = found.trajectories(X)
    projected = np.einsum("bth,kh->btk", states, found.components_)
    lengths = MASK.sum(1)
    for pooling, plain, masked in (
        ("last", projected[:, -1], projected[np.arange(N_TRIALS), lengths - 1]),
        ("mean", projected.mean(1), (projected * MASK[..., None]).sum(1) / lengths[:, None]),
        ("flatten", projected.reshape(N_TRIALS, -1),
         (projected * MASK[..., None]).reshape(N_TRIALS, -1)),
    ):  # fmt: skip
        again = analyzer(axes=AXES, pooling=pooling).fit(X, Y)
        assert_allclose(again.transform(X), plain, atol=1e-12)
        assert_allclose(again.transform(X, mask=MASK), masked, atol=1e-12)
        assert again.transform(X).shape[1] == len(again.get_feature_names_out())


@pytest.mark.parametrize("pooling", ["last", "mean", "flatten"])
def test_transform_keeps_single_precision(pooling):
    single = X.astype(np.float32)
    found = analyzer(pooling=pooling).fit(single, Y)
    assert found.transform(single).dtype == np.float32
    assert found.transform(single, mask=MASK).dtype == np.float32


@pytest.mark.parametrize("pooling", ["last", "mean", "flatten"])
def test_fit_transform_is_fit_then_transform(pooling):
    expected = analyzer(pooling=pooling).fit(X, Y, mask=MASK).transform(X, mask=MASK)
    found = analyzer(pooling=pooling).fit_transform(X, Y, mask=MASK)
    np.testing.assert_array_equal(found, expected)
    unmasked = analyzer(pooling=pooling).fit_transform(X, Y)
    assert not np.allclose(found, unmasked)


def test_the_trainer_answers_for_the_analyzer():
    found = analysed("gru, mask")
    own = trainer().fit(X, Y, mask=MASK)
    for options in ({}, {"mask": MASK}):
        np.testing.assert_array_equal(found.predict(X, **options), own.predict(X, **options))
        np.testing.assert_array_equal(
            found.trajectories(X, **options), own.trajectories(X, **options)
        )
        assert found.score(X, Y, **options) == own.score(X, Y, **options)
    np.testing.assert_array_equal(found.loss_curve_, own.loss_curve_)


@pytest.mark.parametrize("setup", ["gru", "lstm", "user cell"])
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
    for operator in OPERATORS:
        assert_allclose(
            long.singular_values_[operator], short.singular_values_[operator], rtol=1e-4
        )


# ---------------------------------------------------------------------------- what it is asked for


@pytest.mark.parametrize("operators", [("K",), ("P", "PKP")])
def test_operators_left_out_are_not_measured(operators):
    found = analyzer(operators=operators, axes=("hidden",)).fit(X, Y)
    assert list(found.effective_dimensions_.index) == list(operators)
    assert set(found.effective_dimensions_) == {"hidden", "time"}
    assert set(found.singular_values_) == set(operators)
    assert found.bottleneck_.empty
    for operator in OPERATORS:
        value = getattr(found, f"{operator.lower()}_rank_")
        assert (value is None) == (operator not in operators)
    # The other numbers are the same as with all of them.
    whole = analyzer().fit(X, Y)
    for operator in operators:
        name = f"{operator.lower()}_rank_"
        assert getattr(found, name) == getattr(whole, name)
    assert found.transform(X).shape == (N_TRIALS, N_UNITS)


def test_the_threshold_moves_the_rank():
    reference = dense("gru", ITERATIONS[-1])
    for threshold in (0.5, 0.9, 1.0):
        found = analyzer(rank_threshold=threshold).fit(X, Y)
        for operator in OPERATORS:
            value = getattr(found, f"{operator.lower()}_rank_")
            if threshold < 1:
                assert value == rank(reference.gram(operator, "time"), threshold)
            else:
                assert value == N_STEPS


def test_gram_and_reduction_reach_the_table():
    reference = dense("gru", ITERATIONS[-1])
    found = analyzer(gram="square", reduction="mean").fit(X, Y)
    for operator, matrix in (("K", reference.operators.K), ("PKP", reference.operators.PKP)):
        square = (matrix @ matrix.T).numpy()
        value = select(found.results_, operator, "trace", "all")["value"].iloc[-1]
        assert value == pytest.approx(np.trace(square), rel=1e-8)
        full = square.reshape(*reference.shape, *reference.shape)
        averaged = full.mean((0, 2, 3, 5))
        value = select(found.results_, operator, "effective_dimension", "time")["value"].iloc[-1]
        assert value == pytest.approx(effective_dimension(averaged), rel=1e-8)
    on_an_axis = found.results_.query("axis in ['time', 'hidden']")
    assert set(on_an_axis["reduction"]) == {"mean"}


def test_estimates_carry_their_error_and_are_near_the_exact_values():
    options = dict(hidden_size=24, max_iter=0, snapshots=1)
    exact = analyzer(trainer(**options), axes=AXES, method="exact").fit(X, Y)
    found = analyzer(trainer(**options), axes=AXES, method="randomized", n_probes=40).fit(X, Y)
    measured = found.results_["quantity"].isin(["trace", "norm", "effective_dimension"])
    estimated, expected = found.results_[measured], exact.results_[measured]
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
    options = {"axes": axes, "method": "randomized"}
    source = trainer(max_iter=0, snapshots=1)
    free, bound = (analyzer(source, memory_limit=m, **options).fit(X, Y) for m in (None, 1))
    keys = ["operator", "axis", "quantity", "method", "reason"]
    pd.testing.assert_frame_equal(bound.results_[keys], free.results_[keys])
    for column in ("value", "std_error"):
        assert_allclose(bound.results_[column], free.results_[column], rtol=1e-6, atol=1e-9)


def test_activity_left_out_of_the_kernel_is_reported():
    source = trainer("tanh", max_iter=0, snapshots=1)
    found = analyzer(source, activity_tol=0.2, operators=("K", "PKP")).fit(X, Y)
    whole = analyzer(source, activity_tol=0, operators=("K", "PKP")).fit(X, Y)

    def value(fitted: KPFlowAnalyzer, operator: str, quantity: str) -> float:
        return select(fitted.results_, operator, quantity, "all")["value"].iloc[0]

    lost = value(found, "PKP", "activity_error")
    lin = linearize(found.network_, X)
    compressed = lin.K.compress(0.2).to_dense().trace()
    assert lost == pytest.approx(1 - float(compressed / lin.K.to_dense().trace()), rel=1e-8)
    assert 1e-6 < lost < 0.2
    assert value(whole, "PKP", "activity_error") == 0
    assert value(found, "K", "trace") == value(whole, "K", "trace")  # K itself is kept whole.
    assert value(found, "PKP", "trace") < value(whole, "PKP", "trace")


def test_more_trials_than_asked_for_are_not_analysed():
    many, targets = np.repeat(X, 5, axis=0), np.repeat(Y, 5, axis=0)
    found = analyzer(analysis_trials=7).fit(many, targets)
    assert (found.results_["n_trials"] == 7).all()
    assert found.eigenfunctions_["K"].shape[1] == 7


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
    # The analyzer's own choice is this one.
    found = analyzer(analysis_trials=9).fit(inputs, targets, tasks=tasks)
    loss = select(found.results_, "network", "loss")["value"].iloc[-1]
    expected = ((found.predict(chosen.X) - targets[index]) ** 2).mean()
    assert loss == pytest.approx(expected, rel=1e-12)


def test_trials_given_for_the_analysis_are_the_ones_analysed():
    other, target = rng.standard_normal((3, 7, 2)), rng.standard_normal((3, 7, 2))
    found = analyzer().fit(X, Y, X_analysis=other, y_analysis=target)
    assert (found.results_["n_trials"] == 3).all()
    assert found.eigenfunctions_["P"].shape == (5, 3, 7, N_UNITS)
    loss = select(found.results_, "network", "loss")["value"].iloc[-1]
    assert loss == pytest.approx(((found.predict(other) - target) ** 2).mean(), rel=1e-12)
    np.testing.assert_array_equal(found.loss_curve_, trainer().fit(X, Y).loss_curve_)


def test_loss_weight_reaches_training_and_analysis():
    weight = rng.uniform(0, 2, (N_TRIALS, N_STEPS))
    found = analyzer().fit(X, Y, loss_weight=weight)
    np.testing.assert_array_equal(
        found.loss_curve_, trainer().fit(X, Y, loss_weight=weight).loss_curve_
    )
    expected = (weight[..., None] * (found.predict(X) - Y) ** 2).mean()
    loss = select(found.results_, "network", "loss")["value"].iloc[-1]
    assert loss == pytest.approx(expected, rel=1e-12)


def test_the_seed_decides_all_numbers():
    source = trainer(hidden_size=16, random_state=None, batch_size=2)
    options = dict(method="randomized", analysis_trials=3)
    first, again, other = (
        analyzer(source, random_state=seed, **options).fit(X, Y) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first.results_, again.results_)
    for operator in OPERATORS:
        np.testing.assert_array_equal(
            first.eigenfunctions_[operator], again.eigenfunctions_[operator]
        )
    np.testing.assert_array_equal(first.components_, again.components_)
    differ = first.results_["quantity"].isin(["loss", "trace", "direction_agreement"])
    assert not np.isclose(first.results_["value"], other.results_["value"])[differ].any()


def test_no_global_state_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    analyzer(random_state=None, method="randomized").fit(X, Y).verify(X, Y)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads


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
    found = analyzer(trainer(activity_l2=0.1)).fit(X, y)
    weight = rng.uniform(0.5, 2, (N_TRIALS, N_STEPS))
    table = found.verify(X, y, mask=MASK, loss_weight=weight)
    assert table["passed"].all(), table


def times(factor: float) -> Callable[[Callable], Callable]:
    """Return what makes a function's result too large."""
    return lambda function: lambda *args, **options: factor * function(*args, **options)


def times_argument(factor: float) -> Callable:
    return lambda function: lambda operator, v, out: function(operator, factor * v, out)


def one_step_early(function: Callable) -> Callable:
    """Take the Jacobians at the step before, as research code is known to have done."""
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

# What is broken, where, how, and the identities that must notice.
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
    found = analysed("gru")
    monkeypatch.setattr(owner, attribute, broken(getattr(owner, attribute)))
    table = found.verify(X, Y).set_index("identity")
    assert set(table.index[~table["passed"]]) == expected


# ------------------------------------------------------------------------------ smallest and dull


@dataclass(frozen=True)
class Extreme:
    """Data or a network at the edge of what makes sense."""

    X: np.ndarray
    y: np.ndarray
    options: dict = field(default_factory=dict)
    mask: np.ndarray | None = None


def silence(network: RecurrentNetwork) -> None:
    """Make all units of a relu network silent for ever."""
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
    "one valid step a trial": Extreme(X, Y, mask=np.repeat([[1, 0, 0, 0, 0]], N_TRIALS, axis=0)),
    "one trial, padded": Extreme(X[:1], Y[:1], mask=np.array([[1, 1, 1, 0, 0]])),
    "constant data": Extreme(np.ones_like(X), np.ones_like(Y)),
    "zeros": Extreme(np.zeros_like(X), np.zeros_like(Y), {"cell": "relu"}),
    "no recurrence": Extreme(X, Y, {"cell": "tanh", "init_scale": 0.0}),
    "no training": Extreme(X, Y, {"max_iter": 0, "snapshots": 1}),
    "silent units": Extreme(X, Y, {"cell": "relu", "constraint": silence}),
    "no error": Extreme(X, np.zeros_like(Y), {"constraint": no_outputs}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the gradient vanished")  # Of silent units it did.
@pytest.mark.parametrize("method", ["auto", "randomized"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_give_numbers_or_reasons(name, method):
    extreme = EXTREMES[name]
    options = {"snapshots": [0, 3], "max_iter": 3} | extreme.options
    found = analyzer(trainer(**options), method=method, axes=AXES)
    found.fit(extreme.X, extreme.y, mask=extreme.mask)
    results = found.results_
    missing = results["value"].isna()
    assert (missing == (results["reason"] != "")).all()
    assert np.isfinite(results["value"][~missing]).all()
    assert (results["value"][results["quantity"].isin(["trace", "norm"])] >= 0).all()
    assert np.isfinite(found.components_).all()
    assert np.isfinite(found.transform(extreme.X)).all()
    for operator in OPERATORS:
        assert np.isfinite(found.singular_values_[operator]).all()
        assert np.isfinite(found.eigenfunctions_[operator]).all()
    assert not np.isnan(found.lyapunov_exponents_).any()
    table = found.verify(extreme.X, extreme.y, mask=extreme.mask)
    assert table["passed"].all(), table


REASONS = {
    "silent units": {
        ("K", "rank"): "the operator is zero",
        ("PKP", "effective_dimension"): "the operator is zero",
        ("PKP", "direction_agreement"): "zero",
    },
    "no error": {("PKP", "direction_agreement"): "the error signal is zero"},
}


@pytest.mark.filterwarnings("ignore:the gradient vanished")
@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_had_says_why(name):
    extreme = EXTREMES[name]
    options = {"snapshots": [0, 3], "max_iter": 3} | extreme.options
    results = analyzer(trainer(**options)).fit(extreme.X, extreme.y).results_
    for (operator, quantity), reason in REASONS[name].items():
        rows = select(results, operator, quantity).loc[3]
        assert np.isnan(np.atleast_1d(rows["value"])).all()
        assert all(reason in text for text in np.atleast_1d(rows["reason"]))


def test_eigenfunctions_are_orthonormal_however_small_the_problem():
    # One step of one trial: K has a single direction for each unit.
    found = analyzer(n_components=8).fit(X[:1, :1], Y[:1, :1])
    for operator in OPERATORS:
        functions = found.eigenfunctions_[operator].reshape(-1, N_UNITS)
        assert_allclose(functions @ functions.T, np.eye(len(functions)), atol=1e-8)
        assert len(functions) == len(found.singular_values_[operator]) == N_UNITS


def test_a_diverged_training_is_analysed_as_far_as_numbers_go():
    steep = trainer(
        "relu", optimizer="sgd", learning_rate=1e6, max_iter=30, snapshots=10, init_scale=1.0
    )
    with pytest.warns(ConvergenceWarning, match="training diverged"):
        results = analyzer(steep).fit(X, Y).results_
    missing = results["value"].isna()
    assert (missing == (results["reason"] != "")).all()
    assert results.query("iteration == 0 and quantity == 'loss'")["value"].notna().all()


def test_fewer_states_than_components():
    found = analyzer(trainer(hidden_size=2), n_components=5).fit(X, Y)
    assert found.n_components_ == 2
    assert found.transform(X).shape == (N_TRIALS, 2)


# -------------------------------------------------------------------------------------- real runs


@cache
def memory_pro(seed: int) -> KPFlowAnalyzer:
    inputs, targets = make_memory_pro(32, stimulus=8, memory=8, response=8, random_state=0)
    source = trainer(
        "gru", hidden_size=16, init_scale=1.0, max_iter=100, snapshots=2, learning_rate=0.02,
        random_state=seed,
    )  # fmt: skip
    angles = make_memory_pro(8, stimulus=8, memory=8, response=8, evenly_spaced=True)
    found = analyzer(source, axes=("time",))
    return found.fit(inputs, targets, X_analysis=angles[0], y_analysis=angles[1])


@pytest.mark.parametrize("seed", range(3))
def test_memory_pro_is_learnt_and_K_is_the_narrow_one(seed):
    found = memory_pro(seed)
    loss = select(found.results_, "network", "loss")["value"]
    assert loss.iloc[-1] < 0.08 < 0.25 < loss.iloc[0]
    inputs, targets = make_memory_pro(16, stimulus=8, memory=8, response=8, random_state=1)
    assert found.score(inputs, targets) > 0.6
    untrained = found.bottleneck_.set_index("iteration").loc[0]
    assert untrained["narrower"] == "K"
    assert untrained["K_rank"] <= 4
    assert untrained["P_rank"] >= 18
    assert untrained["PKP_rank"] <= 5


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images, their rows as steps, in single precision."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    return images[:200], data.target[:200], images[200:400], data.target[200:400]


def digit_trainer(**options) -> RecurrentTrainer:
    defaults = dict(hidden_size=16, init_scale=1.0, max_iter=60, snapshots=3, learning_rate=0.03)
    return trainer("gru", **defaults | options)


@cache
def digits_analysed() -> KPFlowAnalyzer:
    X_train, y_train, _, _ = digits()
    return analyzer(digit_trainer(), analysis_trials=16).fit(X_train, y_train)


def test_digits_are_learnt_and_analysed_in_single_precision():
    found = digits_analysed()
    X_train, y_train, X_test, y_test = digits()
    assert found.loss_curve_[0] > 2.2
    assert found.loss_curve_[-1] < 0.05
    assert found.score(X_train, y_train) > 0.98
    assert found.score(X_test, y_test) > 0.65
    assert found.network_.dtype == torch.float32
    assert found.predict(X_test).dtype == y_test.dtype
    assert found.results_["iteration"].unique().tolist() == [0, 7, 60]
    assert found.bottleneck_["K_rank"].iloc[0] < found.bottleneck_["P_rank"].iloc[0] == 7
    agreement = select(found.results_, "PKP", "flow_agreement")["value"]
    assert agreement.iloc[0] > agreement.iloc[1]
    assert found.verify(X_train, y_train)["passed"].all()


def test_a_pipeline_classifies_the_projections():
    X_train, y_train, X_test, y_test = digits()
    analysis = analyzer(digit_trainer(), analysis_trials=8, n_components=12, operators=("K",))
    pipeline = make_pipeline(analysis, LogisticRegression(max_iter=2000))
    pipeline.fit(X_train, y_train)
    assert pipeline.score(X_train, y_train) > 0.95
    assert pipeline.score(X_test, y_test) > 0.6
    assert pipeline[:-1].get_feature_names_out().tolist() == [
        f"kpflowanalyzer{k}" for k in range(12)
    ]


def test_a_grid_search_reaches_the_gain():
    X_train, y_train, _, _ = digits()
    base = analyzer(
        digit_trainer(max_iter=15), analysis_trials=4, operators=("K",), axes=("time",)
    )
    search = GridSearchCV(base, {"trainer__init_scale": [0.01, 1.0, 30.0]}, cv=2)
    search.fit(X_train, y_train)
    scores = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"trainer__init_scale": 1.0}
    assert scores[1] > 0.4
    assert scores[2] < scores[1]
    assert search.best_estimator_.trainer_.init_scale == 1.0


@pytest.mark.slow
def test_the_default_trainer_learns_memory_pro():
    inputs, targets = make_memory_pro(64, stimulus=8, memory=8, response=8, random_state=0)
    found = KPFlowAnalyzer(random_state=0, analysis_trials=8, axes=("time",)).fit(inputs, targets)
    assert isinstance(found.trainer_, RecurrentTrainer)
    assert found.trainer_.cell == "gru"
    assert found.network_.n_states == 64
    assert found.n_iter_ == 500
    assert len(found.snapshots_) == 10
    assert found.score(inputs, targets) > 0.9
    assert (found.bottleneck_["narrower"] == "K").sum() >= 8
    assert found.verify(inputs, targets)["passed"].all()
