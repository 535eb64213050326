"""Exact spectra and leading modes, by every route and in awkward shapes, against dense ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from kpflow_sklearn import KPFlowAnalyzer, Linearization, RecurrentTrainer, linearize
from kpflow_sklearn.lyapunov import lyapunov_exponents
from kpflow_sklearn.networks import RecurrentNetwork, build_network
from kpflow_sklearn.operators import FlowPropagator, LinearOperator
from kpflow_sklearn.results import Estimate, select
from kpflow_sklearn.spectra import (
    Modes,
    OperatorSpectra,
    Spectrum,
    effective_dimension,
    spectrum,
    trace,
)
from kpflow_sklearn.spectra import _modes as modes
from kpflow_sklearn.spectra import _routes as routes
from kpflow_sklearn.spectra import _units as unit_blocks
from kpflow_sklearn.spectra._gramians import propagator_gram
from kpflow_sklearn.spectra._spectrum import compressed_spectrum
from tests.oracles.cases import IDS, N_FEATURES, Case, MyCell, Solved, compare, solve
from tests.oracles.spectrum_checks import (
    AXES,
    MAPPED,
    OPERATORS,
    MatrixOperator,
    check_spectrum,
    count_leading,
    dense_gram,
    descending_eigenvalues,
    leading_modes,
    operator_of,
    reduce,
)

TOLERANCE = 1e-10
EIGENVALUES = 1e-9
every_case = pytest.mark.parametrize("name", IDS)
every_mapped_case = pytest.mark.parametrize("name", MAPPED)


def network_of(
    cell: str | Callable,
    *,
    hidden_size: int = 4,
    n_features: int = N_FEATURES,
    n_layers: int = 1,
    gain: float = 1.3,
    alpha: float = 0.4,
    dtype: torch.dtype = torch.float64,
    seed: int = 3,
) -> RecurrentNetwork:
    return build_network(
        cell,
        n_features,
        1,
        hidden_size=hidden_size,
        n_layers=n_layers,
        init_scale=gain,
        recurrent_init="normal",
        alpha=alpha,
        learn_initial_state=False,
        dtype=dtype,
        seed=seed,
    )


def with_weights(network: RecurrentNetwork, **values: float) -> RecurrentNetwork:
    """Set the parameters whose name begins so: ``weight=0`` sets weight_ih and weight_hh."""
    with torch.no_grad():
        for name, p in network.recurrent.named_parameters():
            for start, value in values.items():
                if name.startswith(start):
                    p.fill_(value)
    return network


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


# ----------------------------------------------------------------------------- awkward networks


@dataclass(frozen=True)
class Awkward:
    """Trials and a network in a shape where formulas tend to break."""

    n_trials: int = 3
    n_timesteps: int = 4
    n_features: int = 2
    hidden_size: int = 3
    identical: bool = False
    constant: bool = False
    edit: Callable[[RecurrentNetwork], RecurrentNetwork] = lambda network: network


def some_dead_units(network: RecurrentNetwork) -> RecurrentNetwork:
    """Push the last two of three units far below their threshold."""
    with torch.no_grad():
        for name, p in network.recurrent.named_parameters():
            if name.startswith("bias_ih"):
                p.view(-1, 3)[:, 1:] = -50
    return network


SHAPES = {
    "one trial": Awkward(n_trials=1),
    "one step": Awkward(n_timesteps=1),
    "one unit": Awkward(hidden_size=1),
    "one feature": Awkward(n_features=1),
    "one of all": Awkward(1, 1, 1, 1),
    "identical trials": Awkward(identical=True),
}
DEGENERATE = {
    "constant input": Awkward(constant=True),
    "one trial, one step": Awkward(1, 1),
    "zero weights": Awkward(edit=lambda network: with_weights(network, weight=0, bias=0)),
    "zero recurrence": Awkward(edit=lambda network: with_weights(network, weight_hh=0)),
    "dead units": Awkward(edit=some_dead_units),
    "identical units": Awkward(edit=lambda network: with_weights(network, weight=0.3, bias=0.1)),
}
AWKWARD = SHAPES | DEGENERATE
KINDS = {
    **{cell: (cell, 1) for cell in ("tanh", "relu", "leaky", "leaky_voltage", "gru", "lstm")},
    "gru-2layers": ("gru", 2),
    "lstm-2layers": ("lstm", 2),
}


# A user's cell has other names for its parameters; two layers add little where one is degenerate.
PAIRS = [
    *product([*KINDS, "user"], SHAPES),
    *product(("tanh", "relu", "leaky_voltage", "gru", "lstm"), DEGENERATE),
]
#: Gates, several parts of a state, several layers and a user's cell, each in every shape once.
QUICK = {*product(("gru", "lstm-2layers", "user"), SHAPES), *product(("relu", "gru"), DEGENERATE)}


def on_pairs(pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    slow = pytest.mark.slow
    marked = [pytest.param(*pair, marks=[] if pair in QUICK else slow) for pair in pairs]
    return pytest.mark.parametrize("kind, shape", marked)


every_awkward = on_pairs(PAIRS)
every_mapped_awkward = on_pairs([pair for pair in PAIRS if pair[0] != "user"])


@cache
def awkward(kind: str, shape: str) -> Solved:
    """Compare a network of a kind in an awkward shape with its dense reference."""
    a = AWKWARD[shape]
    cell, n_layers = (MyCell, 1) if kind == "user" else KINDS[kind]
    network = network_of(
        cell, hidden_size=a.hidden_size, n_features=a.n_features, n_layers=n_layers, seed=4
    )
    X = inputs(a.n_trials, a.n_timesteps, a.n_features)
    if a.identical or a.constant:
        X[1:] = X[0]
    if a.constant:
        X[:] = X[0, 0]
    return compare(Case(f"{kind}, {shape}", cell, n_layers), a.edit(network), X)


def operator_with_gram(solved: Solved, operator: str) -> tuple[LinearOperator, np.ndarray]:
    """Return an operator and its dense natural Gram."""
    return getattr(solved.linearization, operator), dense_gram(solved.dense, operator)


def same_eigenvalues(measured: np.ndarray, expected: np.ndarray) -> None:
    """Compare descending eigenvalues; those that are missing must be zero."""
    n = max(len(measured), len(expected))
    measured, expected = (np.pad(v, (0, n - len(v))) for v in (measured, expected))
    scale = max(expected[0], 1e-300)
    np.testing.assert_allclose(measured, expected, atol=EIGENVALUES * scale, rtol=0)


@on_pairs(list(product(("gru", "lstm-2layers", "user"), SHAPES)))
def test_every_axis_in_awkward_shapes(kind, shape):
    solved = awkward(kind, shape)
    for operator, gram in product(OPERATORS, ("natural", "square")):
        op = getattr(solved.linearization, operator)
        whole = dense_gram(solved.dense, operator, gram)
        if not whole.any():  # A single relu unit may be off.
            assert spectrum(op, gram=gram).trace == Estimate(0.0)
            continue
        for reduction, axes in (("trace", AXES), ("mean", AXES[1:])):
            shared = OperatorSpectra(op, axes=axes, gram=gram, reduction=reduction)
            for axis in axes:
                expected = reduce(whole, op.out_shape, axis, reduction)
                check_spectrum(shared.on(axis), expected, (operator, gram, axis, reduction))


@every_mapped_awkward
def test_structure_in_awkward_shapes(kind, shape, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    solved = awkward(kind, shape)
    for operator in ("K", "P"):
        op, whole = operator_with_gram(solved, operator)
        if not whole.any():
            assert spectrum(op).trace == Estimate(0.0)
            continue
        for axis in AXES:
            measured, expected = spectrum(op, axis), reduce(whole, op.out_shape, axis, "trace")
            assert measured.method == "exact" and measured.complete
            total, square = np.trace(expected), (expected**2).sum()
            assert measured.trace.value == pytest.approx(total, rel=EIGENVALUES)
            assert measured.square.value == pytest.approx(square, rel=EIGENVALUES)
            same_eigenvalues(measured.eigenvalues, descending_eigenvalues(expected))


@on_pairs(list(product(("tanh", "lstm-2layers", "user"), SHAPES)))
def test_hidden_gram_in_awkward_shapes(kind, shape, monkeypatch):
    solved = awkward(kind, shape)
    for operator, limit in product(OPERATORS, (1024, 0)):
        op, whole = operator_with_gram(solved, operator)
        monkeypatch.setattr(routes, "DENSE_LIMIT", limit)
        shared = OperatorSpectra(op)
        if shared.route("hidden") != "sketch":
            expected = reduce(whole, op.out_shape, "hidden", "trace")
            measured = shared.hidden_gram().numpy()
            scale = max(abs(expected).max(), 1e-300)
            np.testing.assert_allclose(measured, expected, atol=EIGENVALUES * scale, rtol=0)


# ------------------------------------------------------------------------- K by its unit blocks

MEMORY = (1, 3000, 2**28)


@every_mapped_case
def test_unit_eigenvalues_and_moments_match_dense(name, monkeypatch):
    op, gram = operator_with_gram(solve(name), "K")
    expected = descending_eigenvalues(gram)
    total, square = np.trace(gram), (gram**2).sum()
    for memory in MEMORY:
        monkeypatch.setattr(unit_blocks, "_MEMORY", memory)
        same_eigenvalues(unit_blocks.unit_eigenvalues(unit_blocks.UnitGrams(op)), expected)
        assert unit_blocks.parameter_moments(op) == pytest.approx((total, square), rel=TOLERANCE)


@every_mapped_awkward
def test_unit_eigenvalues_and_moments_in_awkward_shapes(kind, shape, monkeypatch):
    op, gram = operator_with_gram(awkward(kind, shape), "K")
    expected = descending_eigenvalues(gram)
    for memory in (1, 2**28):
        monkeypatch.setattr(unit_blocks, "_MEMORY", memory)
        values = unit_blocks.unit_eigenvalues(unit_blocks.UnitGrams(op))
        assert (values >= 0).all() and (np.diff(values) <= 0).all()
        same_eigenvalues(values, expected)
        moments = unit_blocks.parameter_moments(op)
        assert moments == pytest.approx((np.trace(gram), (gram**2).sum()), rel=TOLERANCE)


@every_mapped_case
def test_compressed_unit_eigenvalues_and_moments(name, monkeypatch):
    monkeypatch.setattr(unit_blocks, "_MEMORY", 500)
    op = operator_of(name, "K").compress(rank=2)
    gram = op.to_dense().numpy()
    same_eigenvalues(
        unit_blocks.unit_eigenvalues(unit_blocks.UnitGrams(op)), descending_eigenvalues(gram)
    )
    expected = np.trace(gram), (gram**2).sum()
    assert unit_blocks.parameter_moments(op) == pytest.approx(expected, rel=TOLERANCE)


def check_pairs(values: np.ndarray, flat: np.ndarray, gram: np.ndarray, k: int) -> None:
    """Check eigenpairs of a Gram: as many as asked for or as there are, and the leading ones."""
    expected = descending_eigenvalues(gram)
    largest = max(expected[0], 1e-300)
    surely, perhaps = (int((expected > x * largest).sum()) for x in (1e-11, 1e-13))
    assert min(k, surely) <= len(values) <= min(k, perhaps)
    np.testing.assert_allclose(values, expected[: len(values)], atol=EIGENVALUES * largest, rtol=0)
    if not len(values):
        return
    residual = np.linalg.norm(gram @ flat.T - flat.T * values, axis=0)
    assert residual.max() < EIGENVALUES * largest
    # Small ones are orthogonal to the rounding of the largest.
    doubt = 1e-14 * largest / np.sqrt(np.outer(values, values))
    assert (abs(flat @ flat.T - np.eye(len(values))) <= doubt + 1e-12).all()


@every_mapped_case
@pytest.mark.parametrize("k", [1, 7, 200])
def test_unit_modes_match_dense(name, k, monkeypatch):
    op, gram = operator_with_gram(solve(name), "K")
    for memory in (1, 3000):
        monkeypatch.setattr(unit_blocks, "_MEMORY", memory)
        values, functions = unit_blocks.unit_modes(unit_blocks.UnitGrams(op), k)
        assert functions.shape == (len(values), *op.out_shape)
        check_pairs(values, functions.flatten(1).numpy(), gram, k)


@every_mapped_awkward
def test_unit_modes_in_awkward_shapes(kind, shape):
    solved = awkward(kind, shape)
    op, gram = operator_with_gram(solved, "K")
    for k in (1, 6, 200):
        values, functions = unit_blocks.unit_modes(unit_blocks.UnitGrams(op), k)
        check_pairs(values, functions.flatten(1).numpy(), gram, k)
        moved = (functions**2).sum((1, 2)).unflatten(-1, (-1, AWKWARD[shape].hidden_size))
        assert ((moved > 0).any(1).sum(-1) == 1).all()  # Each moves one unit alone.


def test_equal_units_repeat_their_eigenvalues():
    op, gram = operator_with_gram(awkward("tanh", "identical units"), "K")
    values = unit_blocks.unit_eigenvalues(unit_blocks.UnitGrams(op)).reshape(-1, 3)
    np.testing.assert_allclose(values, values[:, :1].repeat(3, 1), atol=1e-15)
    measured, functions, _ = leading_modes(op, 6)
    np.testing.assert_allclose(measured[:3], measured[0], rtol=1e-12)
    assert len({int((f**2).sum((0, 1)).argmax()) for f in functions[:3]}) == 3


def test_dead_units_have_no_modes():
    op = awkward("relu", "dead units").linearization.K
    measured = leading_modes(op, 200)
    assert len(measured.eigenvalues) > 0
    assert not measured.eigenfunctions[..., 1:].any()


@pytest.mark.parametrize("kind", ["tanh", "gru-2layers"])
def test_float32_units_agree_to_rounding(kind):
    solved = awkward(kind, "one feature")
    lin = solved.linearization
    single = linearize(copy.deepcopy(lin.network).float(), lin.X).K
    gram = solved.dense.K.numpy()
    expected = descending_eigenvalues(gram)
    values = unit_blocks.unit_eigenvalues(unit_blocks.UnitGrams(single))
    np.testing.assert_allclose(values[:10], expected[:10], atol=1e-6 * expected[0])
    measured = unit_blocks.parameter_moments(single)
    assert measured == pytest.approx((np.trace(gram), (gram**2).sum()), rel=1e-5)


# ----------------------------------------------------------------------- P by Gramian recursions


def check_propagator_gram(measured: tuple, gram: np.ndarray, shape: tuple, rel: float) -> None:
    hidden, by_trial, square = measured
    expected = reduce(gram, shape, "hidden", "trace")
    scale = abs(expected).max()
    np.testing.assert_allclose(hidden, expected, atol=rel * scale, rtol=0)
    diagonal = reduce(gram, shape, "trial", "trace").diagonal()
    np.testing.assert_allclose(by_trial, diagonal, rtol=rel)
    assert square == pytest.approx((gram**2).sum(), rel=rel)
    assert hidden.dtype == by_trial.dtype == torch.float64


def chunks_of(op: LinearOperator, n: int) -> int:
    """Return the memory in which the recursions hold n trials at a time."""
    _, n_timesteps, n_states = op.in_shape
    return n * 2 * n_timesteps * n_states**2 * op.dtype.itemsize


@every_case
def test_propagator_gram_matches_dense_in_every_chunk(name):
    op, gram = operator_with_gram(solve(name), "P")
    for memory in (1, chunks_of(op, 2), 2**29):
        check_propagator_gram(propagator_gram(op, memory), gram, op.in_shape, TOLERANCE)


@every_awkward
def test_propagator_gram_in_awkward_shapes(kind, shape):
    op, gram = operator_with_gram(awkward(kind, shape), "P")
    for memory in (1, 2**29):
        check_propagator_gram(propagator_gram(op, memory), gram, op.in_shape, TOLERANCE)


@every_case
def test_propagator_gram_in_single_precision(name):
    exact = solve(name).linearization
    single = linearize(copy.deepcopy(exact.network).float(), exact.X, exact.mask).P
    gram = dense_gram(solve(name).dense, "P")
    for memory in (1, 2**29):
        check_propagator_gram(propagator_gram(single, memory), gram, single.in_shape, 1e-5)


def resting(n_timesteps: int, gain: float, dtype: torch.dtype) -> Linearization:
    """Linearize a tanh network at rest, where every Jacobian is the recurrent matrix itself.

    The weights are the same numbers in both precisions.
    """
    network = network_of("tanh", hidden_size=6, gain=gain, dtype=torch.float32)
    with_weights(network, weight_ih=0, bias=0)
    mask = np.arange(n_timesteps) < np.array([[n_timesteps], [3], [n_timesteps // 2]])
    return linearize(network.to(dtype), np.zeros((3, n_timesteps, 2)), mask)


@pytest.mark.parametrize("n_timesteps, memory", [(20, 2**29), (30, 1)])
def test_propagator_gram_that_overflows_single_precision(n_timesteps, memory):
    single = resting(n_timesteps, 8.0, torch.float32).P
    double = resting(n_timesteps, 8.0, torch.float64).P
    expected, measured = propagator_gram(double, memory), propagator_gram(single, memory)
    assert expected[2] > torch.finfo(torch.float32).max  # And in double it does not.
    for a, b in zip(measured, expected, strict=True):
        assert np.isfinite(np.asarray(a)).all()
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * np.max(np.asarray(b)))


def test_relu_network_that_overflows_single_precision():
    double = network_of("relu", hidden_size=12, gain=8.0)
    X = inputs(2, 30, N_FEATURES)
    single = linearize(copy.deepcopy(double).float(), X).P
    expected = propagator_gram(linearize(double.float().double(), X).P)
    assert expected[2] > torch.finfo(torch.float32).max
    for a, b in zip(propagator_gram(single), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.max(np.asarray(b)))


def test_spectrum_of_a_propagator_that_overflows_single_precision(monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    single, double = (
        OperatorSpectra(resting(40, 8.0, d).P) for d in (torch.float32, torch.double)
    )
    for axis in ("trial", "hidden"):
        assert single.route(axis) == "gramians"
        measured, expected = single.on(axis), double.on(axis)
        assert measured.trace.value == pytest.approx(expected.trace.value, rel=1e-9)
        assert measured.effective_dimension.value == pytest.approx(
            expected.effective_dimension.value, rel=1e-9
        )
        assert measured.rank() == expected.rank()


# -------------------------------------------------------------------------- K by its compression


@every_mapped_case
def test_K_by_compression_matches_dense(name, monkeypatch):
    monkeypatch.setattr(routes, "CHEAP", 0)
    op, gram = operator_with_gram(solve(name), "K")
    shared = OperatorSpectra(op)
    assert shared.route("all") == "compression"
    assert [shared.route(axis) for axis in AXES[1:]] == ["units"] * 3
    measured, expected = shared.on("all"), descending_eigenvalues(gram)
    total, square = expected.sum(), (expected**2).sum()
    assert measured.method == "exact"
    for estimate, value in (
        (measured.trace, total),
        (measured.square, square),
        (measured.effective_dimension, total**2 / square),
    ):
        assert estimate.value == pytest.approx(value, rel=EIGENVALUES) and estimate.std_error == 0
    # What was left out is 1e-8 of the squared activity.
    same = np.pad(measured.eigenvalues, (0, max(0, len(expected) - len(measured.eigenvalues))))
    np.testing.assert_allclose(same[: len(expected)], expected, atol=1e-7 * total)
    for threshold in (0.5, 0.8, 0.95, 0.99):
        assert shared.rank("all", threshold) == Estimate(count_leading(expected, threshold))


def test_rank_beyond_the_eigenvalues_of_a_compression_is_bracketed():
    # All eigenvalues: 0.5, 0.3, 0.1 and five of 0.02, of which the compression knows three.
    measured = compressed_spectrum(np.array([0.5, 0.3, 0.1]), 1.0, 0.352)
    rank = measured.rank(0.945)
    assert rank.reason or abs(rank.value - 6) <= 2 * rank.std_error


@every_mapped_awkward
def test_compression_in_awkward_shapes(kind, shape, monkeypatch):
    monkeypatch.setattr(routes, "CHEAP", 0)
    op, gram = operator_with_gram(awkward(kind, shape), "K")
    measured, expected = spectrum(op), descending_eigenvalues(gram)
    if not gram.any():
        assert measured.trace == Estimate(0.0)
        assert (
            measured.rank().reason == measured.effective_dimension.reason == "the operator is zero"
        )
        return
    dimension = expected.sum() ** 2 / (expected**2).sum()
    assert measured.trace.value == pytest.approx(expected.sum(), rel=EIGENVALUES)
    assert measured.effective_dimension.value == pytest.approx(dimension, rel=EIGENVALUES)
    for threshold in (0.5, 0.8, 0.95, 0.99):
        rank, truth = measured.rank(threshold), count_leading(expected, threshold)
        # Where shares lie on the threshold, rounding decides, and the bracket holds both.
        shares = np.cumsum(expected) / expected.sum()
        assert rank == Estimate(truth) or abs(shares - threshold).min() < 1e-6, threshold


def test_compressed_spectrum_brackets_what_was_left_out():
    measured = compressed_spectrum(np.array([5.0, 3.0, 1.0]), 10.0, 36.0)
    assert measured.trace == Estimate(10.0) and measured.square == Estimate(36.0)
    assert measured.effective_dimension == Estimate(100 / 36)
    np.testing.assert_allclose(measured.shares, [0.55, 0.85, 0.95])
    np.testing.assert_allclose(measured.share_std_error, 0.05)
    assert measured.rank(0.4) == Estimate(1.0)  # 0.5 to 0.6 are held by one.
    low, high = measured.rank(0.55), measured.rank(0.82)
    assert low.value == 1 and low.std_error >= 0.5  # Two, if none of the rest belongs to it.
    assert high.value == 2 and high.std_error >= 0.5
    assert measured.rank(0.7) == Estimate(2.0)
    missing = measured.rank(0.97)
    assert np.isnan(missing.value) and "below 97%" in missing.reason


def test_compressed_spectrum_of_nothing():
    for values in (np.empty(0), np.zeros(3)):
        measured = compressed_spectrum(values, 0.0, 0.0)
        assert measured.trace == Estimate(0.0)
        assert (
            measured.effective_dimension.reason == measured.rank().reason == "the operator is zero"
        )
    measured = compressed_spectrum(np.array([np.inf]), np.inf, np.inf)
    for missing in (measured.trace, measured.effective_dimension, measured.rank()):
        assert np.isnan(missing.value) and missing.reason == "the numbers overflow"


# ------------------------------------------------------------------------------- leading modes


def check_modes(measured: Modes, gram: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Check what holds for modes however far they converged; return their residuals."""
    values, functions, residuals = measured
    assert functions.shape == (len(values), *shape) and residuals.shape == values.shape
    flat = functions.reshape(len(values), -1)
    expected = descending_eigenvalues(gram)
    doubt = 1e-14 * expected[0] / np.sqrt(np.outer(values, values))
    assert (abs(flat @ flat.T - np.eye(len(values))) <= doubt + TOLERANCE).all()
    assert (np.diff(values) <= 0).all() and (values > 0).all()
    assert (flat[np.arange(len(flat)), abs(flat).argmax(1)] > 0).all()
    measured = np.linalg.norm(gram @ flat.T - flat.T * values, axis=0) / values
    np.testing.assert_allclose(residuals, measured, atol=1e-9, rtol=1e-6)
    # Ritz values of orthonormal vectors are below the eigenvalues of the same place.
    assert (values <= expected[: len(values)] * (1 + EIGENVALUES)).all()
    return measured


@every_case
@pytest.mark.parametrize("operator", ["P", "PKP"])
def test_reported_residuals_are_those_of_the_dense_matrix(name, operator, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    op, gram = operator_with_gram(solve(name), operator)
    rank = np.linalg.matrix_rank(gram, hermitian=True)
    measured = leading_modes(op, 4, tolerance=0.3, random_state=0)
    assert len(measured.eigenvalues) == min(4, rank)
    check_modes(measured, gram, op.out_shape)


@pytest.mark.parametrize("operator", OPERATORS)
@every_case
def test_small_operators_are_diagonalised(name, operator):
    op, gram = operator_with_gram(solve(name), operator)
    measured = leading_modes(op, 6)
    assert not measured.residuals.any()
    check_modes(measured._replace(residuals=measured.residuals), gram, op.out_shape)
    expected = descending_eigenvalues(gram)[:6]
    np.testing.assert_allclose(measured.eigenvalues, expected, atol=EIGENVALUES * expected[0])


def check_converged(measured: Modes, gram: np.ndarray, k: int, tolerance: float) -> None:
    expected = descending_eigenvalues(gram)
    assert (measured.residuals <= tolerance * 1.01).all()
    np.testing.assert_allclose(
        measured.eigenvalues, expected[:k], atol=(10 * tolerance**2 + 1e-12) * expected[0], rtol=0
    )


@every_case
def test_modes_of_P_converge(name, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    op, gram = operator_with_gram(solve(name), "P")
    for k, tolerance in ((1, 1e-3), (5, 1e-6)):
        measured = leading_modes(op, k, tolerance=tolerance, random_state=0)
        check_modes(measured, gram, op.out_shape)
        check_converged(measured, gram, k, tolerance)


WIDE = {"tanh": 8, "relu": 8, "leaky_voltage": 10, "gru": 6, "lstm": 6}


@cache
def wide(cell: str) -> Linearization:
    """Linearize a network with more parameters than a few steps of the iteration span."""
    return linearize(network_of(cell, hidden_size=WIDE[cell]), inputs(4, 6, N_FEATURES))


@pytest.mark.parametrize(
    "cell",
    [
        "tanh",
        "lstm",
        *(pytest.param(c, marks=pytest.mark.slow) for c in set(WIDE) - {"tanh", "lstm"}),
    ],
)
@pytest.mark.parametrize("operator", ["P", "PKP"])
def test_modes_converge_to_the_tolerance(cell, operator, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    lin = wide(cell)
    op = getattr(lin, operator)
    half = (lin.P @ lin.J_theta).to_dense() if operator == "PKP" else lin.P.to_dense()
    gram = (half @ half.T).numpy() / (lin.n_valid if operator == "PKP" else 1)
    for k, tolerance in product((1, 3), (1e-3, 1e-5, 1e-8)):
        measured = leading_modes(op, k, tolerance=tolerance, random_state=0)
        check_modes(measured, gram, op.out_shape)
        check_converged(measured, gram, k, tolerance)


@pytest.mark.parametrize("cell", ["relu", pytest.param("lstm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("operator", ["P", "PKP"])
def test_modes_do_not_depend_on_the_memory(cell, operator, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    op = getattr(wide(cell), operator)
    whole = leading_modes(op, 3, tolerance=1e-9, random_state=0)
    for memory in (1, 60_000):
        measured = leading_modes(op, 3, tolerance=1e-9, memory_limit=memory, random_state=0)
        np.testing.assert_allclose(measured.eigenvalues, whole.eigenvalues, rtol=1e-10)
        np.testing.assert_allclose(measured.eigenfunctions, whole.eigenfunctions, atol=1e-6)
        assert (measured.residuals < 1e-8).all()


@pytest.mark.parametrize("name", ["gru", "lstm-ragged"])
@pytest.mark.parametrize("operator", ["P", "PKP"])
def test_modes_in_chunks_match_dense(name, operator, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    op, gram = operator_with_gram(solve(name), operator)
    for memory in (1, 5000):
        measured = leading_modes(op, 4, memory_limit=memory, random_state=0)
        check_modes(measured, gram, op.out_shape)
        expected = descending_eigenvalues(gram)
        np.testing.assert_allclose(measured.eigenvalues, expected[:4], atol=1e-4 * expected[0])


@pytest.mark.parametrize("cell, memory", [("gru", 1), ("lstm", None)])
def test_identical_trials_repeat_the_modes_of_P(cell, memory, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    solved = awkward(cell, "identical trials")
    op, gram = operator_with_gram(solved, "P")
    measured = leading_modes(op, 6, tolerance=1e-6, memory_limit=memory, random_state=0)
    check_modes(measured, gram, op.out_shape)
    check_converged(measured, gram, 6, 1e-6)
    np.testing.assert_allclose(measured.eigenvalues[:3], measured.eigenvalues[0], rtol=1e-9)


@on_pairs(list(product([*KINDS, "user"], ("one trial", "one step", "one unit", "one feature"))))
def test_modes_of_P_in_awkward_shapes(kind, shape, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    op, gram = operator_with_gram(awkward(kind, shape), "P")
    measured = leading_modes(op, 3, tolerance=1e-6, random_state=0)
    check_modes(measured, gram, op.out_shape)
    check_converged(measured, gram, 3, 1e-6)


def test_modes_of_what_overflows_are_none():
    for dtype in (torch.float32, torch.float64):
        lin = resting(500, 60.0, dtype)
        for op in (lin.P, lin.PKP):
            measured = leading_modes(op, 3, random_state=0)
            assert [len(x) for x in measured] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_converged_modes_are_the_leading_ones(seed, monkeypatch):
    # Of ragged trials a shorter one may be done before a longer one has shown its own.
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    op, gram = operator_with_gram(solve("relu-ragged"), "P")
    for k in (1, 3, 6):
        check_converged(leading_modes(op, k, random_state=seed), gram, k, 1e-3)


@pytest.mark.parametrize("cell, k", [("tanh", 5), ("relu", 10), ("lstm", 20)])
def test_modes_of_PKP_of_few_parameters_converge(cell, k, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    lin = linearize(network_of(cell, hidden_size=4 - 2 * (cell == "lstm")), inputs(6, 12, 2))
    half = (lin.P @ lin.J_theta).to_dense()
    gram = (half @ half.T / lin.n_valid).numpy()
    measured = leading_modes(lin.PKP, k, random_state=0)
    check_converged(measured, gram, k, 1e-3)


@pytest.mark.parametrize("cell", ["leaky", "leaky_voltage"])
def test_equal_modes_within_a_trial_are_all_found(cell, monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    network = network_of(cell, gain=0.0)  # J = (1 - alpha) I: every mode occurs once a unit.
    lin = linearize(network, inputs(2, 8, N_FEATURES))
    P = lin.P.to_dense()
    measured = leading_modes(lin.P, 6, random_state=0)
    check_converged(measured, (P @ P.T).numpy(), 6, 1e-3)


def test_there_are_no_more_float32_modes_than_the_rank(monkeypatch):
    monkeypatch.setattr(modes, "DENSE_LIMIT", 0)
    lin = linearize(network_of("tanh", dtype=torch.float32), inputs(1, 1, N_FEATURES))
    assert len(leading_modes(lin.PKP, 10, random_state=0).eigenvalues) == 4


# ------------------------------------------------------------------------------------ the routes


@dataclass(frozen=True)
class Route:
    """What is asked for, the limits in force, and the way it should be answered."""

    operator: str
    axes: tuple[str, ...]
    expected: str
    options: tuple[tuple[str, str], ...] = ()
    dense_limit: int = 0
    exact_limit: int = 8192
    cheap: float = 2e10
    name: str = "gru"


EXACT, RANDOM = (("method", "exact"),), (("method", "randomized"),)
SQUARE, MEAN = (("gram", "square"),), (("reduction", "mean"),)
REDUCED = ("trial", "time", "hidden")
ROUTES = [
    # Small operators: the matrix; K is even then its units.
    Route("P", AXES, "matrix", dense_limit=60),
    Route("PKP", AXES, "matrix", dense_limit=60),
    Route("K", AXES, "units", dense_limit=60),
    Route("K", AXES, "matrix", SQUARE, dense_limit=60),
    Route("P", AXES, "matrix", SQUARE, dense_limit=60),
    Route("K", AXES, "matrix", dense_limit=60, name="gru-trained_z0"),
    Route("K", AXES, "matrix", dense_limit=60, name="user"),
    Route("P", AXES, "matrix", dense_limit=60, cheap=0),
    # Larger ones.
    Route("K", AXES, "units"),
    Route("K", ("all",), "compression", cheap=0),
    Route("K", REDUCED, "units", cheap=0),
    Route("K", AXES, "sketch", SQUARE),
    Route("K", AXES, "sketch", name="gru-trained_z0"),
    Route("K", AXES, "sketch", name="user"),
    Route("PKP", AXES, "sketch"),
    Route("P", ("trial", "hidden"), "gramians"),
    Route("P", ("trial", "hidden"), "gramians", SQUARE),
    Route("P", ("trial", "hidden"), "gramians", name="user"),
    Route("P", AXES, "sketch", cheap=0, name="wide"),
    Route("PKP", AXES, "sketch", cheap=0),
    # The average over the other axes is always exact; nothing is averaged on the whole space.
    Route("P", REDUCED, "average", MEAN),
    Route("K", REDUCED, "average", MEAN),
    Route("PKP", REDUCED, "average", MEAN + RANDOM),
    Route("PKP", REDUCED, "average", MEAN + EXACT, exact_limit=0),
    Route("PKP", ("all",), "sketch", MEAN),
    Route("K", ("all",), "units", MEAN),
    # On demand.
    *(Route(op, AXES, "sketch", RANDOM, dense_limit=60) for op in OPERATORS),
    Route("K", AXES, "sketch", RANDOM),
    Route("P", AXES, "matrix", EXACT),
    Route("PKP", AXES, "matrix", EXACT, cheap=0),
    Route("K", AXES, "units", EXACT, cheap=0),
    Route("K", AXES, "units", EXACT, exact_limit=0, cheap=0),
    Route("K", AXES, "matrix", EXACT, name="user"),
    Route("K", AXES, "matrix", EXACT, name="gru-trained_z0"),
    Route("K", AXES, "matrix", EXACT + SQUARE),
    Route("P", ("trial", "hidden"), "gramians", EXACT, exact_limit=0, cheap=0, name="wide"),
    # Too large to be exact.
    Route("P", ("time",), "refused", EXACT, exact_limit=0),
    Route("PKP", AXES, "refused", EXACT, exact_limit=59),
    Route("K", AXES, "refused", EXACT, exact_limit=59, name="user"),
    Route("K", AXES, "refused", EXACT, exact_limit=59, name="gru-trained_z0"),
    Route("K", AXES, "refused", EXACT + SQUARE, exact_limit=59),
]


def route_operator(route: Route) -> LinearOperator:
    if route.name == "wide":  # A sketch costs less than two recursions of its matrices.
        lin = linearize(network_of("tanh", hidden_size=32), inputs(2, 3, N_FEATURES))
        return getattr(lin, route.operator)
    return operator_of(route.name, route.operator)


def label(route: Route) -> str:
    options = " ".join(value for _, value in route.options)
    limits = f"{route.dense_limit} {route.exact_limit} {route.cheap:g}"
    return f"{route.name} {route.operator} {' '.join(route.axes)} {options} {limits}"


@pytest.mark.parametrize("route", ROUTES, ids=label)
def test_routes(route, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", route.dense_limit)
    monkeypatch.setattr(routes, "EXACT_LIMIT", route.exact_limit)
    monkeypatch.setattr(routes, "CHEAP", route.cheap)
    op = route_operator(route)
    shared = OperatorSpectra(op, random_state=0, n_probes=4, n_modes=2, **dict(route.options))
    for axis in route.axes:
        if route.expected == "refused":
            size = op.shape[0] // (op.out_shape[0] if isinstance(op, FlowPropagator) else 1)
            pattern = rf"method='exact' .*{route.exact_limit} .*got {size} .*on axis '{axis}'"
            pattern += (
                "|" + rf"method='exact' .*{route.exact_limit} .*on axis '{axis}', got {size}"
            )
            for refused in (shared.on, shared.rank, shared.route):
                with pytest.raises(ValueError, match=pattern) as error:
                    refused(axis)
                assert "fewer trials or steps, or use method='auto'" in str(error.value)
            continue
        assert shared.route(axis) == route.expected, axis
        measured = shared.on(axis)
        assert measured.method == ("randomized" if route.expected == "sketch" else "exact")
        assert np.isfinite(measured.trace.value) and not measured.trace.reason


def test_a_mask_or_a_composition_changes_no_route(monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    assert OperatorSpectra(operator_of("gru-ragged", "K")).route("all") == "units"
    assert OperatorSpectra(operator_of("gru-ragged", "P")).route("hidden") == "gramians"
    lin = solve("gru").linearization
    for op in (lin.P @ lin.K @ lin.P.T, 2 * lin.K, lin.P.T, lin.J_theta):
        assert {OperatorSpectra(op).route(axis) for axis in AXES} == {"sketch"}
    assert OperatorSpectra(lin.K.compress(rank=2)).route("all") == "units"


# ---------------------------------------------------- known values, and growth beyond all numbers


def random_resolvent(n: int, gain: float, seed: int) -> MatrixOperator:
    """Return (I - J)^-1 for J with independent entries N(0, gain^2 / n), acting on n units."""
    rng = np.random.default_rng(seed)
    J = gain / n**0.5 * rng.standard_normal((n, n))
    return MatrixOperator(np.linalg.inv(np.eye(n) - J), (1, 1, n))


def check_resolvent(n: int, gain: float, seed: int, rel: float) -> None:
    op, expected = random_resolvent(n, gain, seed), (1 - gain**2) ** 2
    exact = effective_dimension(op, method="exact")
    assert exact.std_error == 0
    assert exact.value / n == pytest.approx(expected, rel=rel)
    values = np.linalg.svd(op.matrix.numpy(), compute_uv=False) ** 2
    assert exact.value == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=EIGENVALUES)
    sampled = effective_dimension(op, method="randomized", random_state=seed)
    assert 0 < sampled.std_error < 0.02 * sampled.value
    assert abs(sampled.value - exact.value) < 4 * sampled.std_error
    assert sampled.value / n == pytest.approx(expected, rel=rel + 0.05)


@pytest.mark.parametrize("gain, rel", [(0.3, 0.02), (0.6, 0.06)])
def test_dimension_of_a_random_linear_network(gain, rel):
    check_resolvent(400, gain, 0, rel)


@pytest.mark.slow
@pytest.mark.parametrize("gain, rel", [(0.3, 0.002), (0.6, 0.01)])
@pytest.mark.parametrize("seed", range(3))
def test_dimension_of_a_large_random_linear_network(gain, rel, seed):
    check_resolvent(2000, gain, seed, rel)


def long_run(
    kind: str, dtype: torch.dtype, n_timesteps: int = 2000, hidden_size: int = 16
) -> Linearization:
    """Linearize 2000 steps of a network with gain 3."""
    cell = "relu" if kind.startswith("relu") else "tanh"
    network = network_of(cell, hidden_size=hidden_size, gain=3.0, dtype=dtype, seed=0)
    X = 0.1 * inputs(2, n_timesteps, N_FEATURES)
    if kind == "tanh, at rest":  # Growth by the recurrent matrix, without end.
        with_weights(network, weight_ih=0, bias=0)
    if kind == "relu, decaying":  # One step shrinks what the next would make overflow.
        with torch.no_grad():
            network.recurrent.weight_hh_l0.mul_(0.25)
    return linearize(network, X)


def check_table(op: LinearOperator, axes: tuple[str, ...], **options: object) -> list[Estimate]:
    """Check that no number is NaN or infinite without a reason; return them."""
    shared = OperatorSpectra(op, axes=axes, n_probes=4, n_modes=4, random_state=0, **options)
    measured = []
    for axis in axes:
        on = shared.on(axis)
        numbers = [on.trace, on.square, on.effective_dimension, shared.rank(axis)]
        numbers.append(shared.norm_square())
        for x in numbers:
            if x.reason:
                assert np.isnan(x.value) and np.isnan(x.std_error)
            else:
                assert np.isfinite(x.value) and np.isfinite(x.std_error), (axis, x)
        measured += numbers
    return measured


LONG = ("tanh", "tanh, at rest", "relu, decaying")
SINGLE, DOUBLE = torch.float32, torch.float64
every_long_run = pytest.mark.parametrize(
    "kind, dtype",
    [
        ("tanh", SINGLE),
        ("tanh, at rest", DOUBLE),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in product(LONG, (SINGLE, DOUBLE))
            if pair not in (("tanh", SINGLE), ("tanh, at rest", DOUBLE))
        ),
    ],
    ids=str,
)


@every_long_run
def test_long_products_of_jacobians_have_finite_exponents(kind, dtype):
    lin = long_run(kind, dtype)
    assert lin.states.isfinite().all()
    exponents, errors = lyapunov_exponents(lin, n_exponents=6)
    assert np.isfinite(exponents).all() and np.isfinite(errors).all()
    if kind == "tanh, at rest":  # The logarithms of the eigenvalues.
        W = lin.network.recurrent.weight_hh_l0.detach().double().numpy()
        eigenvalues = np.log(np.sort(abs(np.linalg.eigvals(W)))[::-1])
        np.testing.assert_allclose(exponents, eigenvalues[:6], atol=0.02)
        assert exponents[0] * 2000 > np.log(np.finfo(float).max)


@pytest.mark.slow
@every_long_run
def test_no_number_of_a_long_run_is_missing_without_a_reason(kind, dtype):
    lin = long_run(kind, dtype)
    for op in (lin.P, lin.PKP):
        numbers = check_table(op, ("all", "trial", "hidden"))
        if kind == "tanh, at rest":
            assert {x.reason for x in numbers} == {"the numbers overflow"}
        else:
            assert {x.reason for x in numbers} == {""}


@every_long_run
def test_no_number_on_the_time_axis_is_missing_without_a_reason(kind, dtype):
    lin = long_run(kind, dtype, n_timesteps=80)
    for op in (lin.P, lin.PKP):
        check_table(op, ("time",), method="randomized")


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
def test_no_number_on_a_long_time_axis_is_missing_without_a_reason(kind):
    lin = long_run(kind, torch.float32)
    for op in (lin.P, lin.PKP):
        check_table(op, ("time",))


@pytest.mark.parametrize(
    "dtype, n_timesteps, gain", [(SINGLE, 30, 40.0), (DOUBLE, 60, 600.0)], ids=str
)
@pytest.mark.parametrize("method", ["auto", "randomized"])
def test_growth_beyond_a_precision_is_named(dtype, n_timesteps, gain, method):
    lin = resting(n_timesteps, gain, dtype)
    largest = resting(n_timesteps, gain, DOUBLE).P.to_dense().abs().max().item()
    assert 2 * np.log(largest) > np.log(torch.finfo(dtype).max)
    for op in (lin.P, lin.PKP):
        shared = OperatorSpectra(op, axes=("trial", "hidden"), method=method, random_state=0)
        for axis in shared.axes:
            on = shared.on(axis)
            for x in (on.trace, on.square, on.effective_dimension, shared.rank(axis)):
                assert np.isfinite(x.value) or x.reason == "the numbers overflow"


@pytest.mark.parametrize("operator", ["K", "P"])
def test_exact_eigenvalues_of_what_overflows_are_missing(operator, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    if operator == "P":
        op = resting(60, 60.0, torch.float32).P
    else:
        # States of 1e200, whose squares overflow.
        network = with_weights(network_of("relu"), weight=500.0, bias=1.0)
        op = linearize(network, abs(inputs(2, 60, N_FEATURES))).K
    measured = spectrum(op)
    assert measured.trace.reason == measured.rank().reason == "the numbers overflow"


def test_sampled_eigenvalues_of_what_overflows_are_missing():
    matrix = np.zeros((60, 60))
    matrix[0, 0] = 1e200
    measured = spectrum(MatrixOperator(matrix, (3, 5, 4)), "time", method="randomized")
    assert measured.trace.reason == "the numbers overflow"
    assert measured.effective_dimension.value == pytest.approx(1)
    assert np.isfinite(measured.eigenvalues).all()


def test_dimension_at_the_edge_of_all_numbers():
    values = np.full(8, 4e153)
    measured = compressed_spectrum(values, 8 * 4e153, 8 * 4e153**2)
    assert measured.effective_dimension.value == pytest.approx(8)


def test_spectrum_reports_of_every_exact_route_are_complete(monkeypatch):
    measured: dict[str, Spectrum] = {}
    op = operator_of("lstm", "K")
    measured["units"] = spectrum(op)
    monkeypatch.setattr(routes, "CHEAP", 0)
    measured["compression"] = spectrum(op)
    matrix = solve("lstm").dense.K.numpy()
    root = np.linalg.cholesky(matrix + 1e-14 * np.eye(len(matrix)))
    measured["matrix"] = spectrum(MatrixOperator(root, op.out_shape))
    for route, one in measured.items():
        assert one.complete == (route != "compression") and one.method == "exact", route
        assert one.trace.value == pytest.approx(measured["units"].trace.value, rel=1e-8)
        assert one.rank(0.9) == measured["units"].rank(0.9), route


@pytest.mark.parametrize("method", ["auto", "randomized"])
def test_spectrum_of_a_large_inverse(method, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    measured = trace(solve("gru").linearization.P.inverse(), method=method, random_state=0)
    expected = float((solve("gru").dense.P_inverse ** 2).sum())
    assert abs(measured.value - expected) <= 4 * measured.std_error + 1e-9 * expected


@pytest.mark.slow
def test_an_exact_trace_serves_every_axis(monkeypatch):
    # Partial traces keep it: an estimate beside it would be a second value of one number.
    monkeypatch.setattr(routes, "trial_cost", lambda op, axis: np.inf)
    trials = np.random.default_rng(0).standard_normal((12, 40, 2))
    big = RecurrentTrainer(hidden_size=48, max_iter=1, snapshots=[0], random_state=0)
    measured = KPFlowAnalyzer(big, random_state=0).fit(trials).results_
    traces = measured[measured["quantity"] == "trace"]
    for name in ("K", "P"):
        of_one = traces[traces["operator"] == name]
        assert of_one["value"].nunique() == 1 and (of_one["std_error"] == 0).all()
        assert (of_one["method"] == "exact").all()
    on_time = select(measured, "P", "effective_dimension", "time")
    assert on_time["method"].item() == "randomized"
