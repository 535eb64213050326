"""Spectra, leading modes and weight-map bounds against the dense reference."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from kpflow_sklearn import linearize
from kpflow_sklearn.analyzers.kpflow._weight_maps import weight_map_table
from kpflow_sklearn.operators._base import LinearOperator
from kpflow_sklearn.operators._parameter import ParameterOperator
from kpflow_sklearn.results._estimate import Estimate
from kpflow_sklearn.spectra import _operator_spectra as operator_spectra
from kpflow_sklearn.spectra._functions import (
    OperatorSpectra,
    effective_dimension,
    rank,
    spectrum,
    trace,
)
from kpflow_sklearn.spectra._modes import leading_modes
from kpflow_sklearn.spectra._spectrum import (
    Spectrum,
    compressed_spectrum,
    spectrum_of_eigenvalues,
    spectrum_of_gram,
)
from tests import oracle
from tests.cases import CASES, IDS, N_TIMESTEPS, N_UNITS, Case, build, solve

TOLERANCE = 1e-9
OPERATORS = ("K", "P", "PKP")
AXES = ("all", "trial", "time", "hidden")
BY_NAME = dict(zip(IDS, CASES, strict=True))
MAPPED = [c.name for c in CASES if isinstance(c.cell, str) and not c.learn_initial_state]
every_case = pytest.mark.parametrize("name", IDS)
every_mapped_case = pytest.mark.parametrize("name", MAPPED)
every_operator = pytest.mark.parametrize("operator", OPERATORS)


# ------------------------------------------------------------------------- the dense reference


class MatrixOperator(LinearOperator):
    """An operator between trajectories given by its matrix."""

    def __init__(self, matrix: Tensor | np.ndarray, shape: tuple[int, int, int]) -> None:
        self.matrix = torch.as_tensor(matrix)
        super().__init__(shape, shape, self.matrix.dtype, self.matrix.device)

    def _apply(self, q: Tensor) -> Tensor:
        return (q.reshape(-1, self.shape[1]) @ self.matrix.T).reshape(q.shape)

    def _adjoint(self) -> LinearOperator:
        return MatrixOperator(self.matrix.T, self.in_shape)


def operator_of(name: str, operator: str) -> LinearOperator:
    """Return one of a case's operators."""
    return getattr(solve(name).linearization, operator)


def dense_gram(dense: oracle.DenseOperators, operator: str, gram: str = "natural") -> np.ndarray:
    """Return the whole Gram: K, PKP* and PP*, or OO* for all."""
    matrix = getattr(dense, operator).numpy()
    return matrix if gram == "natural" and operator != "P" else matrix @ matrix.T


def reduce(
    gram: np.ndarray, shape: tuple[int, ...], axis: str, reduction: str, mask=None
) -> np.ndarray:
    """Reduce a Gram on (trial, step, unit) to one axis, written index by index."""
    if axis == "all":
        return gram
    six = gram.reshape(*shape, *shape)
    if reduction == "trace":
        pattern = {"trial": "athcth->ac", "time": "bahbch->ac", "hidden": "btabtc->ac"}[axis]
        return np.einsum(pattern, six)
    # The Gram of the signal averaged over its valid entries.
    valid = np.ones(shape) if mask is None else mask[..., None] * np.ones(shape)
    indices = np.indices(shape)[("trial", "time", "hidden").index(axis)]
    averages = [(valid * (indices == i)).ravel() for i in range(indices.max() + 1)]
    averages = np.array([a / max(a.sum(), 1) for a in averages])
    return averages @ gram @ averages.T


def descending_eigenvalues(gram: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(gram)[::-1].clip(min=0)


def count_leading(values: np.ndarray, threshold: float = 0.95) -> int:
    """Return how many of the largest values make up a share of their sum."""
    for r in range(1, len(values) + 1):
        if values[:r].sum() >= threshold * values.sum():
            return r
    raise AssertionError("the values do not make up the share")


def check_spectrum(found: Spectrum, gram: np.ndarray, label: object) -> None:
    """Compare everything a complete and exact spectrum says with the Gram itself."""
    expected = descending_eigenvalues(gram)
    values = found.eigenvalues
    n = max(len(values), len(expected))
    padded = [np.pad(v, (0, n - len(v))) for v in (values, expected)]
    np.testing.assert_allclose(*padded, atol=TOLERANCE * expected[0], rtol=0, err_msg=str(label))
    assert (np.diff(values) <= 0).all(), label
    check_moments(found, gram, label)
    assert found.complete, label
    assert found.rank(0.95) == Estimate(count_leading(expected)), label


def check_moments(found: Spectrum, gram: np.ndarray, label: object) -> None:
    """Compare trace, square and effective dimension, exact ones, with those of the Gram."""
    total, square = np.trace(gram), (gram**2).sum()
    assert found.method == "exact", label
    for estimate, expected in (
        (found.trace, total),
        (found.square, square),
        (found.effective_dimension, total**2 / square),
    ):
        assert estimate.value == pytest.approx(expected, rel=TOLERANCE), label
        assert estimate.std_error == 0 and estimate.reason == "", label


# ------------------------------------------------------------------------------ exact spectra


@every_case
@every_operator
@pytest.mark.parametrize("gram", ["natural", "square"])
def test_every_axis_and_reduction_matches_dense(name, operator, gram):
    op = operator_of(name, operator)
    whole = dense_gram(solve(name).dense, operator, gram)
    for axis, reduction in product(AXES, ("trace", "mean")):
        found = spectrum(op, axis, gram=gram, reduction=reduction)
        expected = reduce(whole, op.out_shape, axis, reduction, solve(name).case.mask)
        check_spectrum(found, expected, (axis, reduction))


@every_mapped_case
def test_K_by_its_units_and_activity_matches_dense(name, monkeypatch):
    monkeypatch.setattr(operator_spectra, "DENSE_LIMIT", 0)
    op, whole = operator_of(name, "K"), dense_gram(solve(name).dense, "K")
    for axis in AXES:
        check_spectrum(spectrum(op, axis), reduce(whole, op.out_shape, axis, "trace"), axis)


@every_case
def test_P_by_gramian_recursions_matches_dense(name, monkeypatch):
    monkeypatch.setattr(operator_spectra, "DENSE_LIMIT", 0)
    monkeypatch.setattr(operator_spectra, "EXACT_LIMIT", 0)
    op, whole = operator_of(name, "P"), dense_gram(solve(name).dense, "P")
    shared = OperatorSpectra(op)
    for axis in ("trial", "hidden"):
        check_spectrum(shared.on(axis), reduce(whole, op.out_shape, axis, "trace"), axis)
    found = shared.on("all")
    check_moments(found, whole, "all")
    assert len(found.eigenvalues) == 0
    assert "the 0 computed eigenvalues hold 0.0% of the trace" in found.rank().reason


@every_case
def test_P_trial_by_trial_matches_dense(name, monkeypatch):
    monkeypatch.setattr(operator_spectra, "DENSE_LIMIT", 0)
    op, whole = operator_of(name, "P"), dense_gram(solve(name).dense, "P")
    shared = OperatorSpectra(op)
    for axis in ("all", "time"):
        assert shared.route(axis) == "trials"
        check_spectrum(shared.on(axis), reduce(whole, op.out_shape, axis, "trace"), axis)


@every_case
@every_operator
def test_structure_is_what_makes_a_large_spectrum_exact(name, operator, monkeypatch):
    monkeypatch.setattr(operator_spectra, "DENSE_LIMIT", 0)
    monkeypatch.setattr(operator_spectra, "EXACT_LIMIT", 0)
    exact_axes = {"K": AXES if name in MAPPED else (), "P": ("all", "trial", "hidden"), "PKP": ()}
    shared = OperatorSpectra(operator_of(name, operator), random_state=0)
    for axis in AXES:
        expected = "exact" if axis in exact_axes[operator] else "randomized"
        assert shared.on(axis).method == expected


@every_case
@every_operator
def test_hidden_gram_matches_dense(name, operator):
    op = operator_of(name, operator)
    found = OperatorSpectra(op).hidden_gram().numpy()
    expected = reduce(dense_gram(solve(name).dense, operator), op.out_shape, "hidden", "trace")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * abs(expected).max(), rtol=0)


@every_operator
def test_a_large_operator_may_be_forced_to_be_exact(operator, monkeypatch):
    monkeypatch.setattr(operator_spectra, "DENSE_LIMIT", 0)
    op, whole = operator_of("gru", operator), dense_gram(solve("gru").dense, operator)
    for axis in AXES:
        expected = reduce(whole, op.out_shape, axis, "trace")
        check_spectrum(spectrum(op, axis, method="exact"), expected, axis)


def test_functions_return_what_the_spectrum_says():
    op = operator_of("lstm", "PKP")
    found = spectrum(op, "hidden", gram="square")
    assert trace(op, "hidden", gram="square") == found.trace
    assert effective_dimension(op, "hidden", gram="square") == found.effective_dimension
    assert rank(op, "hidden", rank_threshold=0.8, gram="square") == found.rank(0.8)
    assert rank(op) == spectrum(op, "time").rank(0.95) == spectrum(op, "time").rank()
    whole = spectrum(op, "all")
    np.testing.assert_array_equal(spectrum(op).eigenvalues, whole.eigenvalues)
    assert trace(op) == whole.trace
    assert effective_dimension(op) == whole.effective_dimension


@every_operator
def test_single_precision_agrees_to_its_rounding(operator):
    single = linearize(build(BY_NAME["gru"])[0].float(), solve("gru").linearization.X)
    op = getattr(single, operator)
    assert op.dtype == torch.float32
    for axis in AXES:
        whole = dense_gram(solve("gru").dense, operator)
        expected = descending_eigenvalues(reduce(whole, op.out_shape, axis, "trace"))
        found = spectrum(op, axis)
        assert found.eigenvalues.dtype == np.float64
        assert found.trace.value == pytest.approx(expected.sum(), rel=1e-5)


def test_trailing_padding_changes_no_spectrum():
    network, X = build(BY_NAME["lstm"])
    padded = np.concatenate([X, np.full((3, 4, X.shape[2]), 9.0)], axis=1)
    mask = np.arange(9) < np.full((3, 1), 5)
    short, long = linearize(network, X), linearize(network, padded, mask)
    for operator, axis in product(OPERATORS, AXES):
        expected = spectrum(getattr(short, operator), axis)
        found = spectrum(getattr(long, operator), axis)
        assert found.trace.value == pytest.approx(expected.trace.value, rel=TOLERANCE)
        assert found.square.value == pytest.approx(expected.square.value, rel=TOLERANCE)
        assert found.rank() == expected.rank()


# --------------------------------------------------------------------------------- reductions


def test_partial_trace_is_not_the_sum_over_all_pairs():
    # One mode: at each step the two units move by the same amount in opposite directions, so
    # that their average stands still although both are moved.
    mode = np.array([[1.0, -1.0], [2.0, -2.0]])
    op = MatrixOperator(np.outer(mode, mode), (1, 2, 2))
    traced, averaged = spectrum(op, "time"), spectrum(op, "time", reduction="mean")
    norm = (mode**2).sum()
    np.testing.assert_allclose(traced.eigenvalues, [norm * 10, 0], atol=1e-12)
    assert traced.trace.value == pytest.approx(norm**2)
    assert averaged.trace.value == pytest.approx(0, abs=1e-12)


def test_mean_reduction_is_the_gram_of_the_averaged_signal():
    # Two units that always move together: averaging over them loses nothing but scale.
    mode = np.array([[1.0, 1.0], [2.0, 2.0]])
    op = MatrixOperator(np.outer(mode, mode), (1, 2, 2))
    averaged = spectrum(op, "time", reduction="mean")
    np.testing.assert_allclose(averaged.eigenvalues, [(mode**2).sum() * 5, 0], atol=1e-12)


def test_whole_space_has_nothing_to_reduce():
    op = operator_of("gru", "P")
    traced, averaged = spectrum(op), spectrum(op, reduction="mean")
    np.testing.assert_array_equal(traced.eigenvalues, averaged.eigenvalues)


# --------------------------------------------------------------------- rank and missing values


def known_part(values: list[float], total: float) -> Spectrum:
    """Return a spectrum of which only the leading values are known."""
    nothing = Estimate.missing("not asked")
    return Spectrum(np.array(values), Estimate(total), nothing, nothing, "randomized", False)


def test_rank_counts_against_the_whole_trace():
    found = known_part([3.0, 1.0], total=10.0)
    assert found.rank(0.3) == Estimate(1.0)
    assert found.rank(0.4) == Estimate(2.0)
    missing = found.rank(0.95)
    assert np.isnan(missing.value) and np.isnan(missing.std_error)
    assert missing.reason == "the 2 computed eigenvalues hold 40.0% of the trace, below 95%"


def test_rank_of_too_few_modes_is_missing_not_smaller():
    op, truth = operator_of("gru", "P"), spectrum(operator_of("gru", "P"))
    found = spectrum(op, method="randomized", n_modes=8, random_state=0)
    assert len(found.eigenvalues) == 2 * 3 < truth.rank().value  # Two of each trial.
    assert re.match("the 6 computed eigenvalues hold .*%", found.rank().reason)


@pytest.mark.parametrize("n", [1, 3, 10, 60])
def test_repeated_eigenvalues_are_counted_exactly(n):
    found = spectrum_of_eigenvalues(np.full(n, 0.1))
    for r in range(1, n + 1):
        assert found.rank(r / n) == Estimate(r)
    assert found.effective_dimension.value == pytest.approx(n)


def test_identity_has_full_rank_and_dimension():
    op = MatrixOperator(np.eye(60), (3, 5, 4))
    for axis, n in zip(AXES, (60, 3, 5, 4), strict=True):
        found = spectrum(op, axis)
        np.testing.assert_allclose(found.eigenvalues, 60 / n)
        assert found.effective_dimension.value == pytest.approx(n)
        assert found.rank(1.0) == Estimate(n)


def test_one_mode_has_rank_one_on_every_axis():
    mode = np.einsum("b,t,h->bth", [1.0, 2, 3], [1.0, -1, 0, 2, 1], [1.0, 1, 1, -1]).ravel()
    op = MatrixOperator(np.outer(mode, mode), (3, 5, 4))
    for axis in AXES:
        found = spectrum(op, axis)
        assert found.rank(0.999) == Estimate(1)
        assert found.effective_dimension.value == pytest.approx(1)


def test_zero_operator_has_no_dimension_and_says_so():
    op = MatrixOperator(np.zeros((60, 60)), (3, 5, 4))
    for axis, reduction in product(AXES, ("trace", "mean")):
        found = spectrum(op, axis, reduction=reduction)
        assert found.trace == Estimate(0.0) and found.square == Estimate(0.0)
        for missing in (found.effective_dimension, found.rank()):
            assert np.isnan(missing.value) and missing.reason == "the operator is zero"


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_K_without_trainable_parameters_is_zero(axis, n_layers):
    lin = solve("tanh" if n_layers == 1 else "tanh-2layers").linearization
    found = spectrum(ParameterOperator(lin.tangent, []), axis)
    assert found.trace == Estimate(0.0)
    assert found.effective_dimension.reason == "the operator is zero"


@pytest.mark.parametrize("scale", [1e-100, 1e-40, 1e40, 1e100])
@pytest.mark.parametrize("axis", AXES)
def test_effective_dimension_and_rank_do_not_depend_on_the_scale(scale, axis):
    matrix = np.diag(np.linspace(1, 3, 60))
    plain, scaled = (
        spectrum(MatrixOperator(m, (3, 5, 4)), axis) for m in (matrix, scale * matrix)
    )
    assert scaled.trace.value == pytest.approx(scale**2 * plain.trace.value)
    expected = plain.effective_dimension.value
    assert scaled.effective_dimension.value == pytest.approx(expected)
    assert scaled.rank() == plain.rank()


def test_a_number_that_overflows_is_missing_and_the_others_are_not():
    found = spectrum(MatrixOperator(1e100 * np.eye(60), (3, 5, 4)))
    assert found.trace.value == pytest.approx(60e200)
    assert np.isnan(found.square.value) and found.square.reason == "the numbers overflow"
    assert found.effective_dimension.value == pytest.approx(60)


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("axis", AXES)
def test_a_gram_that_overflows_is_missing_and_says_so(axis, method):
    op = MatrixOperator(1e308 * np.ones((60, 60)), (3, 5, 4))
    found = spectrum(op, axis, method=method, random_state=0)
    for missing in (found.trace, found.square, found.effective_dimension, found.rank()):
        assert np.isnan(missing.value) and missing.reason == "the numbers overflow"
    assert found.method == method


def test_a_spectrum_of_which_nothing_is_known_says_so():
    for found in (
        spectrum_of_gram(np.full((2, 2), np.nan)),
        spectrum_of_eigenvalues(np.array([np.inf, 1.0])),
        compressed_spectrum(np.array([np.inf]), np.inf, np.inf),
    ):
        assert found.method == "exact" and not found.complete and len(found.eigenvalues) == 0
        for missing in (found.trace, found.square, found.effective_dimension, found.rank()):
            assert missing.reason == "the numbers overflow"


def test_rounding_below_zero_is_no_eigenvalue():
    found = spectrum_of_gram(np.diag([1.0, -1e-17]))
    np.testing.assert_array_equal(found.eigenvalues, [1, 0])


def test_rank_and_1_96_of_its_errors_reach_all_that_the_shares_allow():
    values = np.full(10, 0.1)
    nothing = Estimate.missing("not asked")

    def ranked(error, threshold):
        shares = Estimate(1.0), nothing, nothing, "randomized", True, np.full(10, error)
        found = Spectrum(values, *shares).rank(threshold)
        return found.value, found.value - 1.96 * found.std_error, 1.96 * found.std_error

    # Shares 0.4 + 0.196 and 0.7 - 0.196 reach a half.
    assert ranked(0.1, 0.5) == pytest.approx((5, 3, 2))
    assert ranked(0.1, 1.0) == pytest.approx((10, 9, 1))  # 1.96 errors less are never reached
    assert ranked(0.0, 0.45) == (5, 5, 0)
    # Off by one is within reach, not just beyond it.
    rank, least, reach = ranked(0.02, 0.43)
    assert (rank, least) == (5, pytest.approx(4)) and reach >= 1


# ------------------------------------------------------------------------------ leading modes

N_MODES = 5


def check_modes(values: np.ndarray, functions: np.ndarray, op: LinearOperator) -> np.ndarray:
    """Check what holds for the modes of any operator; return them flat."""
    assert functions.shape == (len(values), *op.out_shape)
    flat = functions.reshape(len(values), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(values)), atol=TOLERANCE)
    assert (np.diff(values) <= 0).all()
    assert (flat[np.arange(len(flat)), abs(flat).argmax(1)] > 0).all()
    return flat


def residual(gram: np.ndarray, values: np.ndarray, flat: np.ndarray) -> float:
    """Return the largest |G v - lambda v| relative to |G|."""
    norms = np.linalg.norm(gram @ flat.T - flat.T * values, axis=0)
    return float(norms.max() / np.linalg.norm(gram, 2))


@every_mapped_case
@pytest.mark.parametrize("k", [1, 5, 12])
def test_modes_of_K_match_dense(name, k):
    op, gram = operator_of(name, "K"), dense_gram(solve(name).dense, "K")
    k = min(k, np.linalg.matrix_rank(gram))
    values, functions, _ = leading_modes(op, k)
    assert len(values) == k
    flat = check_modes(values, functions, op)
    expected = descending_eigenvalues(gram)
    np.testing.assert_allclose(values, expected[:k], atol=TOLERANCE * expected[0], rtol=0)
    assert residual(gram, values, flat) < TOLERANCE


@every_mapped_case
def test_modes_of_K_lie_on_one_unit_each(name):
    op = operator_of(name, "K")
    _, functions, _ = leading_modes(op, N_MODES)
    power = (functions**2).sum(axis=(1, 2))
    if BY_NAME[name].cell == "lstm":  # a layer's state is all h, then all c
        power = power.reshape(N_MODES, -1, 2, N_UNITS).sum(2).reshape(N_MODES, -1)
    np.testing.assert_allclose(power.max(1), 1, atol=TOLERANCE)


@every_case
@pytest.mark.parametrize("operator", ["P", "PKP"])
def test_modes_by_subspace_iteration_are_as_good_as_the_gap_allows(name, operator):
    op, gram = operator_of(name, operator), dense_gram(solve(name).dense, operator)
    values, functions, _ = leading_modes(op, N_MODES, random_state=0)
    flat = check_modes(values, functions, op)
    expected = descending_eigenvalues(gram)
    # Six rounds with 15 guard vectors: the subspace errs by the gap to the sixth power, the
    # eigenvalues by its square.
    gap = (expected[N_MODES + 15] / expected[N_MODES - 1]) ** 6
    assert residual(gram, values, flat) < 3 * gap + TOLERANCE
    bound = (10 * gap**2 + TOLERANCE) * expected[0]
    np.testing.assert_allclose(values, expected[:N_MODES], atol=bound, rtol=0)
    assert (values <= expected[:N_MODES] + TOLERANCE * expected[0]).all()


def test_modes_of_P_are_repeatable_and_hardly_depend_on_the_seed():
    op = operator_of("tanh", "P")
    first, again = leading_modes(op, 3, random_state=0), leading_modes(op, 3, random_state=0)
    other = leading_modes(op, 3, random_state=1)
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_allclose(first[0], other[0], rtol=TOLERANCE)
    np.testing.assert_allclose(first[1], other[1], atol=1e-5)


@pytest.mark.parametrize("name", ["tanh", "gru", "lstm", "relu-ragged"])
@pytest.mark.parametrize("operator", ["K", "PKP"])
def test_there_are_no_more_modes_than_the_rank(name, operator):
    op, gram = operator_of(name, operator), dense_gram(solve(name).dense, operator)
    values, functions, _ = leading_modes(op, 1000, random_state=0)
    check_modes(values, functions, op)
    assert len(values) == np.linalg.matrix_rank(gram, hermitian=True)


@pytest.mark.parametrize("name", ["tanh", "gru", "lstm", "relu-ragged"])
def test_modes_of_K_in_single_precision_are_orthonormal(name):
    solved = solve(name)
    single = linearize(build(BY_NAME[name])[0].float(), solved.linearization.X, solved.case.mask)
    values, functions, _ = leading_modes(single.K, 1000)
    flat = functions.reshape(len(values), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(values)), atol=1e-5)
    assert len(values) <= np.linalg.matrix_rank(solved.dense.K, hermitian=True)


# ---------------------------------------------------------------------------------- weight maps


def exact_rank(matrix: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(matrix, rtol=1e-10))


@every_mapped_case
def test_weight_maps_are_those_of_the_dense_components(name):
    K = operator_of(name, "K")
    table = weight_map_table(K, 0.95).set_index("map")
    assert list(table.index) == list(K.components)
    for map_name, part in K.components.items():
        gram = reduce(part.to_dense().numpy(), part.out_shape, "time", "trace")
        found = table.loc[map_name]
        values = descending_eigenvalues(gram)
        assert found["K_time_rank"] == count_leading(values)
        expected = values.sum() ** 2 / (values**2).sum()
        assert found["K_time_effective_dimension"] == pytest.approx(expected, rel=TOLERANCE)


@every_mapped_case
def test_bounds_of_the_weight_maps_hold(name):
    K = operator_of(name, "K")
    shape = K.out_shape
    table = weight_map_table(K, 0.95).set_index("map")
    assert (table["K_unit_rank"] <= table["K_unit_rank_bound"]).all()
    assert (table["K_time_rank"] <= table["K_time_rank_bound"]).all()
    for map_name, part in K.components.items():
        found, dense = table.loc[map_name], part.to_dense().numpy()
        states = part.jacobian.blocks[0].states
        six = dense.reshape(*shape, *shape)
        unit_ranks = []
        for i in range(N_UNITS):
            own = np.arange(states.start + i, states.stop, N_UNITS)  # LSTM: the pair (h_i, c_i)
            block = six[:, :, own][..., own]
            block = block.reshape(np.prod(block.shape[:3]), -1)
            assert exact_rank(block) <= found["u_exact_rank"]
            values = descending_eigenvalues(block)
            unit_ranks.append(count_leading(values) if values[0] > 0 else 0)
        assert found["K_unit_rank"] == max(unit_ranks)
        over_units = np.einsum("bthcsh->btcs", six).reshape(shape[0] * shape[1], -1)
        assert exact_rank(over_units) <= found["u_exact_rank"] * found["S_exact_rank"]


def test_weight_map_of_a_tanh_layer_from_its_states():
    solved = solve("tanh")
    states, X = solved.dense.states, solved.linearization.X
    previous = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    ones = torch.ones(*X.shape[:2], 2, dtype=X.dtype)
    activity = torch.cat([previous, X, ones], dim=-1).flatten(0, 1).numpy()
    sensitivity = (1 - states**2).flatten(0, 1).numpy()
    found = weight_map_table(solved.linearization.K, 0.95).iloc[0]
    for letter, matrix in (("u", activity), ("S", sensitivity)):
        values = descending_eigenvalues(matrix.T @ matrix)
        dimension = values.sum() ** 2 / (values**2).sum()
        assert found[f"{letter}_effective_dimension"] == pytest.approx(dimension, rel=TOLERANCE)
        assert found[f"{letter}_rank"] == count_leading(values)
        assert found[f"{letter}_exact_rank"] == exact_rank(matrix)


def test_padding_changes_no_weight_map():
    network, X = build(BY_NAME["tanh"])
    mask = np.arange(5) < np.full((3, 1), 3)
    short, long = linearize(network, X[:, :3]), linearize(network, X, mask)
    tables = [weight_map_table(lin.K, 0.95).set_index("map") for lin in (short, long)]
    short, long = (table.drop(columns="K_time_rank_bound") for table in tables)
    np.testing.assert_allclose(long, short, rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["relu", "relu-2layers", "relu-ragged"])
def test_dead_units_do_not_raise_the_bound(name):
    table = weight_map_table(operator_of(name, "K"), 0.95)
    sensitivity = operator_of(name, "K").jacobian.blocks[-1].block.sensitivity
    assert (sensitivity == 0).all(dim=(0, 1, 2)).any()
    assert (table["K_unit_rank_bound"] <= table["u_exact_rank"]).all()


def test_one_input_without_recurrence_moves_as_many_steps_as_there_are_trials():
    # u is a single input and S a constant, so both have rank 1; yet each trial has its own time
    # course, and the time axis sums over trials.
    network, X = build(Case("one input", "leaky_voltage"))
    X[..., 1] = 0
    for name, p in network.recurrent.named_parameters():
        p.requires_grad_(name == "weight_ih_l0")
    K = linearize(network, X).K
    found = weight_map_table(K, 0.99).iloc[0]
    assert found["u_exact_rank"] == found["S_exact_rank"] == 1
    time = reduce(K.to_dense().numpy(), K.out_shape, "time", "trace")
    assert exact_rank(time) == len(X) <= found["K_time_rank_bound"] <= N_TIMESTEPS


@pytest.mark.parametrize("name", ["user", "gru-trained_z0"])
def test_weight_map_table_is_empty_without_weight_maps_alone(name):
    assert len(weight_map_table(operator_of(name, "K"), 0.95)) == 0


# -------------------------------------------------------------------------------------- errors

BAD_OPTIONS = {
    "gram": ("squared", "gram must be one of 'natural', 'square', got 'squared'"),
    "reduction": ("sum", "reduction must be one of 'trace', 'mean', got 'sum'"),
    "method": ("dense", "method must be one of 'auto', 'exact', 'randomized', got 'dense'"),
    "n_probes": (2, "n_probes == 2, must be >= 4"),
    "n_modes": (-1, "n_modes == -1, must be >= 0"),
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_bad_options_are_refused(option):
    value, message = BAD_OPTIONS[option]
    with pytest.raises(ValueError, match=re.escape(message)):
        spectrum(operator_of("gru", "K"), **{option: value})


def test_probes_must_be_a_whole_number():
    with pytest.raises(TypeError, match="n_probes must be an instance of"):
        spectrum(operator_of("gru", "K"), n_probes=30.0)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'probes'"):
        spectrum(operator_of("gru", "K"), probes=30)


@pytest.mark.parametrize("axis", ["units", "All", None, 1])
@pytest.mark.parametrize("function", [spectrum, rank])
def test_bad_axis_is_refused(function, axis):
    message = f"axis must be one of 'all', 'trial', 'time', 'hidden', got {axis!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        function(operator_of("gru", "K"), axis)


@pytest.mark.parametrize("threshold", [0, -0.5, float("nan"), 1.001, 95])
def test_bad_rank_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="rank_threshold"):
        rank(operator_of("gru", "K"), rank_threshold=threshold)


def test_operator_must_map_to_trajectories():
    with pytest.raises(ValueError, match="op must map to trajectories .*ParameterJacobian"):
        spectrum(operator_of("gru", "K").jacobian.T)


def test_exact_refuses_what_is_too_large():
    class Large(LinearOperator):
        """Never applied."""

    op = Large((10, 30, 30), (10, 30, 30), torch.float64, torch.device("cpu"))
    message = "method='exact' is limited to 8192 trajectory entries .*, got 9000 .* axis 'time'"
    with pytest.raises(ValueError, match=message):
        spectrum(op, "time", method="exact")


def test_exact_refuses_the_time_axis_of_a_large_P_only(monkeypatch):
    monkeypatch.setattr(operator_spectra, "DENSE_LIMIT", 0)
    monkeypatch.setattr(operator_spectra, "EXACT_LIMIT", 19)  # One trial has 20 entries.
    shared = OperatorSpectra(operator_of("gru", "P"), method="exact")
    for axis in ("all", "trial", "hidden"):
        assert shared.on(axis).method == "exact"
    with pytest.raises(ValueError, match="got 60 .* on axis 'time'; analyse fewer trials"):
        shared.on("time")
