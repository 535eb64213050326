"""Spectra, leading modes and weight-map bounds against the dense reference."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch

from kpflow_sklearn import linearize
from kpflow_sklearn.operators import LinearOperator, ParameterOperator
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra import (
    OperatorSpectra,
    Spectrum,
    effective_dimension,
    rank,
    spectrum,
    trace,
)
from kpflow_sklearn.spectra import _routes as routes
from kpflow_sklearn.spectra._spectrum import (
    compressed_spectrum,
    spectrum_of_eigenvalues,
    spectrum_of_gram,
)
from tests.oracles.cases import CASES, IDS, build, solve
from tests.oracles.spectrum_checks import (
    AXES,
    MAPPED,
    OPERATORS,
    TOLERANCE,
    MatrixOperator,
    check_moments,
    check_spectrum,
    dense_gram,
    descending_eigenvalues,
    leading_modes,
    operator_of,
    reduce,
)

BY_NAME = dict(zip(IDS, CASES, strict=True))
every_case = pytest.mark.parametrize("name", IDS)
every_mapped_case = pytest.mark.parametrize("name", MAPPED)
every_operator = pytest.mark.parametrize("operator", OPERATORS)


# ------------------------------------------------------------------------- the dense reference


# ------------------------------------------------------------------------------ exact spectra


@every_case
@every_operator
@pytest.mark.parametrize("gram", ["natural", "square"])
def test_every_axis_and_reduction_matches_dense(name, operator, gram):
    op = operator_of(name, operator)
    whole = dense_gram(solve(name).dense, operator, gram)
    for reduction in ("trace", "mean"):
        shared = OperatorSpectra(op, axes=AXES, gram=gram, reduction=reduction)
        for axis in AXES:
            expected = reduce(whole, op.out_shape, axis, reduction, solve(name).case.mask)
            check_spectrum(shared.on(axis), expected, (axis, reduction))


@every_mapped_case
def test_K_by_its_units_and_activity_matches_dense(name, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    op, whole = operator_of(name, "K"), dense_gram(solve(name).dense, "K")
    for axis in AXES:
        check_spectrum(spectrum(op, axis), reduce(whole, op.out_shape, axis, "trace"), axis)


@every_case
def test_P_by_gramian_recursions_matches_dense(name, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    monkeypatch.setattr(routes, "EXACT_LIMIT", 0)
    op, whole = operator_of(name, "P"), dense_gram(solve(name).dense, "P")
    shared = OperatorSpectra(op)
    for axis in ("trial", "hidden"):
        check_spectrum(shared.on(axis), reduce(whole, op.out_shape, axis, "trace"), axis)
    measured = shared.on("all")
    check_moments(measured, whole, "all")
    assert len(measured.eigenvalues) == 0
    assert "the 0 computed eigenvalues hold 0.0% of the trace" in measured.rank().reason


@every_case
def test_P_trial_by_trial_matches_dense(name, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    op, whole = operator_of(name, "P"), dense_gram(solve(name).dense, "P")
    shared = OperatorSpectra(op)
    for axis in ("all", "time"):
        assert shared.route(axis) == "trials"
        check_spectrum(shared.on(axis), reduce(whole, op.out_shape, axis, "trace"), axis)


@every_case
@every_operator
def test_structure_is_what_makes_a_large_spectrum_exact(name, operator, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    monkeypatch.setattr(routes, "EXACT_LIMIT", 0)
    exact_axes = {"K": AXES if name in MAPPED else (), "P": ("all", "trial", "hidden"), "PKP": ()}
    shared = OperatorSpectra(operator_of(name, operator), random_state=0)
    for axis in AXES:
        expected = "exact" if axis in exact_axes[operator] else "randomized"
        assert shared.on(axis).method == expected


@every_case
@every_operator
def test_hidden_gram_matches_dense(name, operator):
    op = operator_of(name, operator)
    measured = OperatorSpectra(op).hidden_gram().numpy()
    expected = reduce(dense_gram(solve(name).dense, operator), op.out_shape, "hidden", "trace")
    np.testing.assert_allclose(measured, expected, atol=TOLERANCE * abs(expected).max(), rtol=0)


@every_operator
def test_a_large_operator_may_be_forced_to_be_exact(operator, monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    op, whole = operator_of("gru", operator), dense_gram(solve("gru").dense, operator)
    for axis in AXES:
        expected = reduce(whole, op.out_shape, axis, "trace")
        check_spectrum(spectrum(op, axis, method="exact"), expected, axis)


def test_functions_return_what_the_spectrum_says():
    op = operator_of("lstm", "PKP")
    measured = spectrum(op, "hidden", gram="square")
    assert trace(op, "hidden", gram="square") == measured.trace
    assert effective_dimension(op, "hidden", gram="square") == measured.effective_dimension
    assert rank(op, "hidden", rank_threshold=0.8, gram="square") == measured.rank(0.8)
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
        measured = spectrum(op, axis)
        assert measured.eigenvalues.dtype == np.float64
        assert measured.trace.value == pytest.approx(expected.sum(), rel=1e-5)


def test_trailing_padding_changes_no_spectrum():
    network, X = build(BY_NAME["lstm"])
    padded = np.concatenate([X, np.full((3, 4, X.shape[2]), 9.0)], axis=1)
    mask = np.arange(9) < np.full((3, 1), 5)
    short, long = linearize(network, X), linearize(network, padded, mask)
    for operator, axis in product(OPERATORS, AXES):
        expected = spectrum(getattr(short, operator), axis)
        measured = spectrum(getattr(long, operator), axis)
        assert measured.trace.value == pytest.approx(expected.trace.value, rel=TOLERANCE)
        assert measured.square.value == pytest.approx(expected.square.value, rel=TOLERANCE)
        assert measured.rank() == expected.rank()


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


def leading_part(values: list[float], total: float) -> Spectrum:
    """Return a spectrum of which only the leading values are known."""
    nothing = Estimate.missing("not asked")
    return Spectrum(np.array(values), Estimate(total), nothing, nothing, "exact", False)


def test_rank_counts_against_the_whole_trace():
    measured = leading_part([3.0, 1.0], total=10.0)
    assert measured.rank(0.3) == Estimate(1.0)
    assert measured.rank(0.4) == Estimate(2.0)
    missing = measured.rank(0.95)
    assert np.isnan(missing.value) and np.isnan(missing.std_error)
    assert missing.reason == "the 2 computed eigenvalues hold 40.0% of the trace, below 95%"


def test_rank_of_too_few_modes_is_missing_not_smaller():
    op, truth = operator_of("gru", "P"), spectrum(operator_of("gru", "P"))
    measured = spectrum(op, method="randomized", n_modes=8, random_state=0)
    assert len(measured.shares) == 2 * 3 < truth.rank().value  # Two of each trial.
    assert re.match("the 6 computed eigenvalues hold .*%", measured.rank().reason)


@pytest.mark.parametrize("n", [1, 3, 10, 60])
def test_repeated_eigenvalues_are_counted_exactly(n):
    measured = spectrum_of_eigenvalues(np.full(n, 0.1))
    for r in range(1, n + 1):
        assert measured.rank(r / n) == Estimate(r)
    assert measured.effective_dimension.value == pytest.approx(n)


def test_identity_has_full_rank_and_dimension():
    op = MatrixOperator(np.eye(60), (3, 5, 4))
    for axis, n in zip(AXES, (60, 3, 5, 4), strict=True):
        measured = spectrum(op, axis)
        np.testing.assert_allclose(measured.eigenvalues, 60 / n)
        assert measured.effective_dimension.value == pytest.approx(n)
        assert measured.rank(1.0) == Estimate(n)


def test_one_mode_has_rank_one_on_every_axis():
    mode = np.einsum("b,t,h->bth", [1.0, 2, 3], [1.0, -1, 0, 2, 1], [1.0, 1, 1, -1]).ravel()
    op = MatrixOperator(np.outer(mode, mode), (3, 5, 4))
    for axis in AXES:
        measured = spectrum(op, axis)
        assert measured.rank(0.999) == Estimate(1)
        assert measured.effective_dimension.value == pytest.approx(1)


def test_zero_operator_has_no_dimension_and_says_so():
    op = MatrixOperator(np.zeros((60, 60)), (3, 5, 4))
    for axis, reduction in product(AXES, ("trace", "mean")):
        measured = spectrum(op, axis, reduction=reduction)
        assert measured.trace == Estimate(0.0) and measured.square == Estimate(0.0)
        for missing in (measured.effective_dimension, measured.rank()):
            assert np.isnan(missing.value) and missing.reason == "the operator is zero"


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_K_without_trainable_parameters_is_zero(axis, n_layers):
    lin = solve("tanh" if n_layers == 1 else "tanh-2layers").linearization
    measured = spectrum(ParameterOperator(lin.tangent, []), axis)
    assert measured.trace == Estimate(0.0)
    assert measured.effective_dimension.reason == "the operator is zero"


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
    measured = spectrum(MatrixOperator(1e100 * np.eye(60), (3, 5, 4)))
    assert measured.trace.value == pytest.approx(60e200)
    assert np.isnan(measured.square.value) and measured.square.reason == "the numbers overflow"
    assert measured.effective_dimension.value == pytest.approx(60)


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("axis", AXES)
def test_a_gram_that_overflows_is_missing_and_says_so(axis, method):
    op = MatrixOperator(1e308 * np.ones((60, 60)), (3, 5, 4))
    measured = spectrum(op, axis, method=method, random_state=0)
    for missing in (
        measured.trace,
        measured.square,
        measured.effective_dimension,
        measured.rank(),
    ):
        assert np.isnan(missing.value) and missing.reason == "the numbers overflow"
    assert measured.method == method


def test_a_spectrum_of_which_nothing_is_known_says_so():
    for measured in (
        spectrum_of_gram(np.full((2, 2), np.nan)),
        spectrum_of_eigenvalues(np.array([np.inf, 1.0])),
        compressed_spectrum(np.array([np.inf]), np.inf, np.inf),
    ):
        assert (
            measured.method == "exact" and not measured.complete and len(measured.eigenvalues) == 0
        )
        for missing in (
            measured.trace,
            measured.square,
            measured.effective_dimension,
            measured.rank(),
        ):
            assert missing.reason == "the numbers overflow"


def test_rounding_below_zero_is_no_eigenvalue():
    measured = spectrum_of_gram(np.diag([1.0, -1e-17]))
    np.testing.assert_array_equal(measured.eigenvalues, [1, 0])


def test_rank_and_1_96_of_its_errors_reach_all_that_the_shares_allow():
    values = np.full(10, 0.1)
    nothing = Estimate.missing("not asked")

    def ranked(error, threshold):
        moments = Estimate(1.0), nothing, nothing, "randomized", True
        spectrum = Spectrum(values, *moments, share_std_error=np.full(10, error))
        measured = spectrum.rank(threshold)
        return (
            measured.value,
            measured.value - 1.96 * measured.std_error,
            1.96 * measured.std_error,
        )

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
    power, case = (functions**2).sum(axis=(1, 2)), BY_NAME[name]
    if case.cell == "lstm":  # a layer's state is all h, then all c
        power = power.reshape(N_MODES, -1, 2, case.n_units).sum(2).reshape(N_MODES, -1)
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
    message = "method='exact' is limited to 8192 trajectory entries, got 9000 .* axis 'time'"
    with pytest.raises(ValueError, match=message):
        spectrum(op, "time", method="exact")


def test_exact_refuses_the_time_axis_of_a_large_P_only(monkeypatch):
    monkeypatch.setattr(routes, "DENSE_LIMIT", 0)
    monkeypatch.setattr(routes, "EXACT_LIMIT", 19)  # One trial has 20 entries.
    shared = OperatorSpectra(operator_of("gru", "P"), method="exact")
    for axis in ("all", "trial", "hidden"):
        assert shared.on(axis).method == "exact"
    with pytest.raises(ValueError, match="got 20 .* on axis 'time'; analyse fewer trials"):
        shared.on("time")
