"""What estimates are made of: random vectors, sketches, Krylov spaces, formulas, and their edges.

How far estimates are from the truth over many seeds is in test_coverage.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from kpflow_sklearn import linearize
from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.results import NOISY, OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra import OperatorSpectra, _routes, spectrum
from kpflow_sklearn.spectra._gramians import gram_factor
from kpflow_sklearn.spectra._half_factor import HalfFactor
from kpflow_sklearn.spectra._krylov import Krylov
from kpflow_sklearn.spectra._lanczos_rank import ritz_rank
from kpflow_sklearn.spectra._moments import axis_moments, whole_moments, widening
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._sketches import Sketch
from kpflow_sklearn.spectra._spectrum import (
    _bracketed_shares,
    _share_errors,
    converged,
    sampled_spectrum,
)
from tests.oracles.cases import solve
from tests.oracles.spectrum_checks import (
    MatrixOperator,
    assert_missing,
    dense_gram,
    matrix_with,
    operator_of,
    randomized,
    reduce,
)

AXES = ("all", "trial", "time", "hidden")
REDUCED = AXES[1:]
SHAPE = (3, 5, 4)
QUANTITIES = ("trace", "square", "effective_dimension")
# A matrix, an operator of each kind, and one whose trials are of different lengths.
NAMES = ("matrix", "gru P", "tanh-ragged P", "user K", "lstm PKP")
every_name = pytest.mark.parametrize("name", NAMES)
every_axis = pytest.mark.parametrize("axis", AXES)


def operator(name: str) -> LinearOperator:
    """Return an operator on trajectories of shape SHAPE; the LSTM has twice the states."""
    if name == "matrix":
        return MatrixOperator(matrix_with(np.arange(1, 61) ** -0.5), SHAPE)
    return operator_of(*name.split())


def gram_of(name: str) -> np.ndarray:
    """Return an operator's dense natural Gram."""
    if name == "matrix":
        matrix = operator(name).matrix.numpy()
        return matrix @ matrix.T
    case, which = name.split()
    return dense_gram(solve(case).dense, which)


def sketcher_of(name: str, gram: str = "natural", memory: int = 2**40, **options) -> Sketcher:
    settings = {"axes": REDUCED, "n_modes": 4, "n_probes": 6, "seed": 5} | options
    allowance = Allowance(memory, 1, "")
    return Sketcher(*gram_factor(operator(name), gram), memory=allowance, **settings)


# ------------------------------------------------------------------------ sketches and modes


def dense_blocks(v: Tensor, n_blocks: int) -> np.ndarray:
    """Return (k, n_blocks, size) as vectors that are zero outside one block, one for each."""
    parts = torch.einsum("knd,nm->knmd", v, torch.eye(n_blocks, dtype=v.dtype))
    return parts.reshape(len(v) * n_blocks, -1).numpy()


@every_name
def test_a_sketch_holds_what_it_says(name):
    sketcher = sketcher_of(name)
    half, measured = sketcher.half, sketcher.draw(0, 6)
    A = half.factor.to_dense().numpy() * half.root
    M = A.T @ A
    V = dense_blocks(sketcher.modes(half)[0], half.n_blocks)
    np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=1e-12)
    w = half.white(range(4, 10)).flatten(1).numpy()
    w = w - (w @ V.T) @ V
    y, exact = A @ w.T, A @ V.T
    np.testing.assert_allclose(measured.inner, y.T @ y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measured.outer, w @ M @ M @ w.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(measured.traces, (y**2).sum(0), rtol=1e-9)
    np.testing.assert_allclose(measured.squares, ((A.T @ y) ** 2).sum(0), rtol=1e-9)
    assert measured.trace0 == pytest.approx((exact**2).sum(), rel=1e-9)
    assert measured.square0 == pytest.approx(((A.T @ exact) ** 2).sum(), rel=1e-9)
    values = np.linalg.eigvalsh(V @ M @ V.T)
    modes = np.sort(measured.mode_values, axis=None)
    np.testing.assert_allclose(modes, values, rtol=1e-9, atol=1e-12)
    if name == "lstm PKP":  # A = P J_theta
        left = solve("lstm").dense.P.numpy()
        np.testing.assert_allclose(measured.middles, ((left.T @ y) ** 2).sum(0), rtol=1e-9)
        assert measured.middle0 == pytest.approx(((left.T @ exact) ** 2).sum(), rel=1e-9)
    for axis in REDUCED:
        one = reduce(np.outer(y[:, 2], y[:, 2]), half.factor.out_shape, axis, "trace")
        if axis == "trial" and half.separable:
            one = np.diag(one.diagonal())
        np.testing.assert_allclose(measured.sampled[axis][2], one, rtol=1e-9, atol=1e-12)
        expected = reduce(exact @ exact.T, half.factor.out_shape, axis, "trace")
        np.testing.assert_allclose(measured.exact[axis], expected, rtol=1e-9, atol=1e-12)


@every_name
def test_modes_lie_near_the_leading_eigenvectors(name):
    # One product with M damps the others by the square of their singular values' ratio.
    values = np.linalg.eigvalsh(gram_of(name))[::-1]
    shared = randomized(operator(name), n_modes=10)
    assert shared.on("all").eigenvalues[0] == pytest.approx(values[0], rel=0.1)
    held = shared.sketch.trace0 * shared.sketch.magnitude**2
    n = 3 * 3 if name.endswith(" P") else 10  # A quarter of it for each trial.
    assert 0.8 * values[:n].sum() < held <= values[:n].sum() * (1 + 1e-9)


@every_name
def test_modes_that_span_the_space_leave_nothing_to_sample(name):
    shared = randomized(operator(name), axes=AXES, n_modes=10_000)
    exact = OperatorSpectra(shared.op, axes=AXES)
    for axis in AXES:
        gram = reduce(gram_of(name), shared.op.out_shape, axis, "trace")
        total, square = np.trace(gram), (gram**2).sum()
        for quantity, expected in zip(QUANTITIES, (total, square, total**2 / square), strict=True):
            estimate = getattr(shared.on(axis), quantity)
            assert estimate.value == pytest.approx(expected, rel=1e-9), axis
            assert estimate.std_error <= 1e-9 * expected, axis
        assert shared.on(axis).rank().value == exact.on(axis).rank().value, axis


@pytest.mark.parametrize("gram", ["natural", "square"])
@pytest.mark.parametrize("which", ["K", "P", "PKP"])
def test_half_factors_of_every_operator_add_up_to_its_gram(which, gram):
    shared = randomized(operator_of("lstm", which), gram=gram, n_modes=10_000)
    expected = dense_gram(solve("lstm").dense, which, gram)
    for axis in REDUCED:
        measured = shared.sketch.exact[axis].numpy() * shared.sketch.magnitude**2
        reduced = reduce(expected, shared.op.out_shape, axis, "trace")
        np.testing.assert_allclose(measured, reduced, atol=1e-9 * abs(reduced).max(), rtol=0)


@pytest.mark.parametrize("name", ["matrix", "gru P", "lstm PKP"])
def test_modes_and_probes_share_out_the_gram_without_cross_terms(name):
    m = 400
    sketch = sketcher_of(name).draw(0, m)
    for axis in REDUCED:
        exact = sketch.exact[axis].numpy() * sketch.magnitude**2
        rest = reduce(gram_of(name), operator(name).out_shape, axis, "trace") - exact
        assert np.linalg.eigvalsh(rest)[0] > -1e-9 * np.trace(exact)
        sampled = sketch.sampled[axis].numpy() * sketch.magnitude**2
        distance = np.linalg.norm(sampled.mean(0) - rest)
        spread = np.sqrt(sampled.var(0).sum() / m)  # Expected of that distance.
        assert distance < 2 * spread


# --------------------------------------------------------------------------------------- seeds


def assert_same(measured: Sketch, expected: Sketch) -> None:
    for what in ("traces", "squares", "middles", "trace0", "square0", "middle0"):
        np.testing.assert_allclose(getattr(measured, what), getattr(expected, what), rtol=1e-9)
    np.testing.assert_allclose(measured.mode_values, expected.mode_values, rtol=1e-6, atol=1e-9)
    assert measured.magnitude == pytest.approx(expected.magnitude, rel=1e-12)
    for axis in expected.exact:
        for mine, other in (
            (measured.exact, expected.exact),
            (measured.sampled, expected.sampled),
        ):
            np.testing.assert_allclose(mine[axis], other[axis], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "axes", [REDUCED, ("time", "hidden"), pytest.param((), marks=pytest.mark.slow)]
)
@every_name
def test_sketches_do_not_depend_on_the_memory(name, axes):
    # P, K and PKP* are cut into trials, the last two not on the trial axis; there, and of what
    # cannot be cut, vectors are processed in groups.
    whole = sketcher_of(name, axes=axes)
    cuttable = name != "matrix" and (whole.half.separable or axes != REDUCED)
    one = whole.bytes_per_chunk
    expected, rank = whole.draw(0, 6), ritz_rank(whole, 0.8, 60)[0]
    cuts = [(whole._chunk, whole._group)]
    for memory in (2 * one, 1):
        part = sketcher_of(name, axes=axes, memory=memory)
        cuts.append((part._chunk, part._group))
        measured = part.draw(0, 6)
        assert_same(measured, expected)
        np.testing.assert_allclose(measured.inner, expected.inner, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(measured.outer, expected.outer, rtol=1e-9, atol=1e-12)
        assert ritz_rank(part, 0.8, 60)[0][:2] == pytest.approx(rank[:2])
    assert cuts == ([(3, 6), (2, 6), (1, 6)] if cuttable else [(3, 6), (3, 2), (3, 1)])


@every_name
def test_more_probes_keep_the_first_ones(name):
    sketcher = sketcher_of(name)
    all_at_once = sketcher.draw(0, 9)
    joined = sketcher.draw(0, 4).joined(sketcher.draw(4, 5))
    assert_same(joined, all_at_once)
    assert joined.n_probes == 9 and len(np.unique(joined.traces)) == 9
    np.testing.assert_array_equal(joined.inner, sketcher.draw(0, 4).inner)
    without = sketcher.draw(0, 4).joined(sketcher.draw(4, 5, squares=False))
    np.testing.assert_allclose(without.traces, all_at_once.traces, rtol=1e-9)
    np.testing.assert_allclose(without.squares, all_at_once.squares[:4], rtol=1e-9)


def test_squares_are_drawn_only_as_long_as_they_are_needed():
    shared = randomized(operator("gru P"), axes=("time",), tol=1e-3)
    assert len(shared.sketch.squares) == 30 < shared.sketch.n_probes
    first = shared.sketch.square0 + shared.sketch.squares.mean()
    expected = first * shared.sketch.magnitude**4
    assert shared.norm_square().value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["gru P", "lstm PKP"])
def test_each_trial_and_vector_has_its_own_seed(name):
    half = HalfFactor(*gram_factor(operator(name)), seed=5)
    whole = half.white(range(6))
    assert len(whole.flatten(0, 1).unique(dim=0)) == 6 * half.n_blocks
    assert torch.equal(half.white(range(2, 4)), whole[2:4])
    if half.separable:
        parts = [part.white(range(6)) for part in half.chunks(2)]
        assert [part.shape[1] for part in parts] == [2, 1]
        assert torch.equal(torch.cat(parts, dim=1), whole)
    other = HalfFactor(*gram_factor(operator(name)), seed=6)
    assert not (other.white(range(6)) == whole).any()
    many = half.white(range(2000)).flatten()
    assert abs(many.mean()) < 4 / len(many) ** 0.5
    assert (many**2).mean() == pytest.approx(1, abs=4 * (2 / len(many)) ** 0.5)


def test_random_vectors_are_the_same_in_single_and_double_precision():
    double, single = (
        HalfFactor(MatrixOperator(torch.eye(60, dtype=dtype), SHAPE), 1.0, seed=5).white(range(4))
        for dtype in (torch.float64, torch.float32)
    )
    assert double.dtype == torch.float64 and torch.equal(double.float(), single)
    assert torch.equal(double, single.double())


def test_one_seed_gives_one_answer_and_another_seed_another():
    first, again, other = (
        randomized(operator("gru P"), random_state=s).on("all") for s in (0, 0, 1)
    )
    assert first.trace == again.trace and first.trace != other.trace


def test_unseeded_answers_differ_and_leave_the_global_generators_alone():
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    measured = [randomized(operator("gru P"), random_state=None).on("all").trace for _ in range(2)]
    assert measured[0] != measured[1]
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())


# -------------------------------------------------------------------------------- Krylov spaces


def problems(spectrum: np.ndarray, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return n symmetric matrices of one spectrum."""
    rng = np.random.default_rng(0)
    size = len(spectrum)
    bases = [np.linalg.qr(rng.standard_normal((size, size))).Q for _ in range(n)]
    return torch.as_tensor(np.stack([(q * spectrum) @ q.T for q in bases])).to(dtype)


def krylov(matrices: Tensor, r: int) -> Krylov:
    start = torch.randn(
        r, *matrices.shape[:2], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(matrices.dtype)
    return Krylov(lambda v: torch.einsum("nij,rnj->rni", matrices, v), start)


@pytest.mark.parametrize("r, n", [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_ritz_values_are_those_of_the_krylov_space(r, n):
    matrices = problems(1 / np.arange(1, 31), n)
    space = krylov(matrices, r)
    start = torch.randn(r, n, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    again = (space.basis[:, :r].mT @ space.start).permute(2, 0, 1)
    np.testing.assert_allclose(again, start, atol=1e-12)
    for _ in range(5):
        assert space.extend()
    values, vectors, residuals = space.ritz()
    assert values.shape == residuals.shape == (n, 5 * r)
    for i, matrix in enumerate(matrices.numpy()):
        # An orthonormal basis of start, M start, .. made anew by NumPy.
        powers = [space.basis[i, :r].numpy()]
        for _ in range(4):
            powers.append(np.linalg.qr((powers[-1] @ matrix).T).Q.T)
        q = np.linalg.qr(np.concatenate(powers).T).Q
        expected, _ = np.linalg.eigh(q.T @ matrix @ q)
        np.testing.assert_allclose(values[i], expected[::-1], atol=1e-9)
        v = vectors[i].numpy().T @ space.basis[i, : 5 * r].numpy()
        np.testing.assert_allclose(v @ v.T, np.eye(5 * r), atol=1e-12)
        exact = np.linalg.norm(v @ matrix - values[i].numpy()[:, None] * v, axis=1)
        np.testing.assert_allclose(residuals[i], exact, atol=1e-12)


@pytest.mark.parametrize(
    "spectrum",
    [np.arange(1.0, 13), np.repeat([3.0, 1.0, 0.1], 4), np.ones(12), np.zeros(12), np.eye(12)[0]],
    ids=["distinct", "repeated", "identity", "zero", "rank one"],
)
@pytest.mark.parametrize("r", [1, 3])
def test_an_exhausted_krylov_space_holds_every_eigenvalue(spectrum, r):
    matrices = problems(spectrum, 2)
    space = krylov(matrices, r)
    steps = 1
    while space.extend():
        steps += 1
    assert steps == 12 // r
    np.testing.assert_allclose(
        space.basis @ space.basis.mT, np.eye(12)[None].repeat(2, 0), atol=1e-12
    )
    values, _, residuals = space.ritz()
    expected = np.sort(spectrum)[::-1]
    np.testing.assert_allclose(values, np.stack([expected] * 2), atol=1e-12)
    np.testing.assert_allclose(residuals, 0, atol=1e-12)


def test_the_last_directions_fill_the_space():
    space = krylov(problems(np.arange(1.0, 12), 1), 3)
    assert [space.extend() for _ in range(4)] == [True, True, True, False]
    assert space.basis.shape == (1, 11, 11)
    values, _, residuals = space.ritz()
    np.testing.assert_allclose(values[0], np.arange(11.0, 0, -1), atol=1e-10)
    np.testing.assert_allclose(residuals, 0, atol=1e-10)


@pytest.mark.parametrize("r", [1, 3])
def test_ritz_values_of_an_earlier_space_are_remembered(r):
    space = krylov(problems(1 / np.arange(1, 31), 2), r)
    space.reach(4 * r)
    earlier = space.ritz()
    space.reach(6 * r)
    assert space.dimension == 6 * r
    for measured, expected in zip(space.ritz(4 * r), earlier, strict=True):
        np.testing.assert_allclose(measured.abs(), expected.abs(), atol=1e-12)


def test_a_new_start_shows_equal_eigenvalues_again():
    space = krylov(problems(np.r_[5.0, 5.0, 1 / np.arange(1.0, 30)], 1), 1)
    space.reach(12)
    assert (space.ritz()[0] > 4.9).sum() == 1
    space.restart()
    space.reach(24)
    assert (space.ritz()[0] > 4.9).sum() == 2
    np.testing.assert_allclose(space.basis @ space.basis.mT, np.eye(25)[None], atol=1e-12)


def test_single_precision_keeps_the_basis_orthonormal():
    space = krylov(problems(0.5 ** np.arange(40), 2, torch.float32), 1)
    while space.extend():
        pass
    gram = space.basis @ space.basis.mT
    np.testing.assert_allclose(gram, np.eye(40)[None].repeat(2, 0), atol=1e-5)
    values = space.ritz()[0]
    np.testing.assert_allclose(values, np.stack([0.5 ** np.arange(40.0)] * 2), atol=1e-6)


def test_an_overflowing_krylov_space_has_no_ritz_values():
    space = krylov(torch.full((1, 4, 4), torch.inf, dtype=torch.float64), 1)
    space.extend()
    assert all(x.isnan().all() for x in space.ritz())


# ------------------------------------------------------------------------------------ formulas


@pytest.mark.parametrize(
    "eigenvalues", [np.ones(1), np.ones(3), 0.5 ** np.arange(8), np.ones(400)]
)
def test_standard_errors_are_widened_by_the_skewness_of_the_samples(eigenvalues):
    m = 400
    w = np.random.default_rng(0).standard_normal((m, len(eigenvalues)))
    skewness = 8 * (eigenvalues**3).sum() ** 2 / (eigenvalues**2).sum() ** 3
    measured = m * (widening((w * eigenvalues) @ w.T) - 1)
    assert measured == pytest.approx(1.71 + 0.96 * skewness, rel=0.1)


def test_widening_uses_pairs_of_different_vectors_alone():
    w = np.random.default_rng(0).standard_normal((40, 3))
    inner = w @ w.T
    measured = widening(inner)
    np.fill_diagonal(inner, 1e9)
    assert widening(inner) == pytest.approx(measured)
    assert widening(np.zeros((40, 40))) == pytest.approx(1 + 1.71 / 40)


def hand_made(sampled: np.ndarray, exact: np.ndarray) -> Sketch:
    """Return a sketch of one axis whose modes and vectors have the given Grams."""
    traces = np.trace(sampled, axis1=1, axis2=2)
    inner = np.diag(traces)
    none = np.zeros(len(traces))
    return Sketch(
        traces=traces,
        squares=none,
        middles=none,
        inner=inner,
        outer=inner,
        sampled={"time": torch.as_tensor(sampled)},
        trace0=np.trace(exact),
        square0=0.0,
        middle0=0.0,
        exact={"time": torch.as_tensor(exact)},
        mode_values=np.empty((1, 0)),
    )


def test_moments_on_an_axis_are_means_over_pairs_of_different_vectors():
    y = np.random.default_rng(0).standard_normal((6, 4, 3))
    sampled, exact = y @ y.swapaxes(1, 2), np.diag([3.0, 2.0, 0.0, 0.0])
    measured = axis_moments(hand_made(sampled, exact), "time")
    grams = exact + sampled
    pairs = [(a, b) for i, a in enumerate(grams) for b in grams[:i]]
    square = np.mean([np.trace(a @ b) for a, b in pairs])
    of_trace = np.mean([np.trace(a) * np.trace(b) for a, b in pairs])
    assert measured.trace.value == pytest.approx(np.trace(grams, axis1=1, axis2=2).mean())
    assert measured.square.value == pytest.approx(square)
    # To first order the mean of a ratio is off by some multiple of 1/m: the correction is small.
    assert measured.effective_dimension.value == pytest.approx(of_trace / square, rel=0.1)
    assert measured.effective_dimension.value != of_trace / square


# --------------------------------------------------------------------------- ranks on the axes


def drawn_parts(n: int = 5, n_probes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return a exact part of a Gram (n, n), and sampled ones of the rest (n_probes, n, n)."""
    exact, *sampled = np.random.default_rng(3).normal(size=(n_probes + 1, n, 2 * n))
    return exact @ exact.T, np.array([np.outer(a[:, 0], a[:, 0]) * 9 for a in sampled])


def test_error_of_a_share_is_that_of_a_ratio_of_sums_over_probes():
    exact, sampled = drawn_parts()
    vectors = np.linalg.eigh(exact + sampled.mean(0))[1][:, ::-1]
    k, n = len(sampled), len(exact)
    expected = np.empty(n)
    for r in range(1, n + 1):
        heads = [sum(v @ (exact + s) @ v for v in vectors.T[:r]) for s in sampled]
        totals = [np.trace(exact + s) for s in sampled]
        share = np.sum(heads) / np.sum(totals)
        off = [head - share * total for head, total in zip(heads, totals, strict=True)]
        expected[r - 1] = np.sqrt(np.sum(np.square(off)) / (k - 1) / k) / np.mean(totals)
    measured = _share_errors(*map(torch.as_tensor, (exact, sampled, vectors.copy())))
    np.testing.assert_allclose(measured, expected, rtol=1e-10, atol=1e-14)
    assert expected[0] > 0.01


def test_shares_lie_between_those_of_all_probes_and_of_crossed_halves():
    exact, sampled = drawn_parts()
    values = np.linalg.eigvalsh(exact + sampled.mean(0))[::-1]
    too_much, too_little = np.cumsum(values) / values.sum(), 0
    even, odd = sampled[0::2].mean(0), sampled[1::2].mean(0)
    for mine, other in ((even, odd), (odd, even)):
        vectors = np.linalg.eigh(exact + mine)[1][:, ::-1]
        along = np.array([v @ (exact + other) @ v for v in vectors.T])
        too_little = too_little + np.cumsum(along) / along.sum() / 2
    assert too_much[0] > too_little[0] + 0.01
    shares, doubt = _bracketed_shares(*map(torch.as_tensor, (exact, sampled, values.copy())))
    np.testing.assert_allclose(shares, (too_much + too_little) / 2, rtol=1e-10)
    np.testing.assert_allclose(doubt, np.abs(too_much - too_little) / 2, atol=1e-12)


@every_axis
def test_a_sampled_spectrum_is_that_of_its_sketch(axis):
    sketch = sketcher_of("gru P").draw(0, 6)
    measured, unit = sampled_spectrum(sketch, axis), sketch.magnitude**2
    if axis == "all":
        every, moments = np.sort(sketch.mode_values, axis=None)[::-1], whole_moments(sketch)
        np.testing.assert_allclose(measured.shares, np.cumsum(every) / moments.trace.value)
        errors = measured.shares / moments.trace.value * moments.trace.std_error
        values = every[: len(measured.eigenvalues)]
        assert not measured.complete and (measured.residuals <= 0.01 * unit * values).all()
    else:
        exact, sampled = sketch.exact[axis].double(), sketch.sampled[axis].double()
        values, vectors = torch.linalg.eigh(exact + sampled.mean(0))
        values, vectors, moments = values.flip(0), vectors.flip(1), axis_moments(sketch, axis)
        shares, doubt = _bracketed_shares(exact, sampled, values)
        errors = np.hypot(widening(sketch.inner) * _share_errors(exact, sampled, vectors), doubt)
        np.testing.assert_allclose(measured.shares, shares, rtol=1e-10)
        assert measured.complete
    np.testing.assert_allclose(measured.eigenvalues, unit * values, rtol=1e-10, atol=1e-12 * unit)
    np.testing.assert_allclose(measured.share_std_error, errors, rtol=1e-8, atol=1e-12)
    for estimate, moment, scale in (
        (measured.trace, moments.trace, unit),
        (measured.square, moments.square, unit**2),
        (measured.effective_dimension, moments.effective_dimension, 1),
    ):
        assert estimate.value == pytest.approx(scale * moment.value, rel=1e-12)
        assert estimate.std_error == pytest.approx(scale * moment.std_error, rel=1e-12)
    assert measured.method == "randomized" and np.max(errors) > 0.01


@every_axis
def test_sampled_eigenvalues_that_overflow_leave_their_ratios(axis):
    sketch = sketcher_of("gru P").draw(0, 6)
    plain, huge = (sampled_spectrum(replace(sketch, magnitude=m), axis) for m in (1.0, 1e160))
    assert len(huge.eigenvalues) == 0 and not huge.complete
    assert huge.trace.reason == huge.square.reason == OVERFLOW
    assert huge.effective_dimension == plain.effective_dimension


@pytest.mark.parametrize("name", ["lstm PKP", "tanh-ragged P"])
@pytest.mark.parametrize("axis", REDUCED)
def test_sampled_ranks_are_off_by_one_at_most(name, axis):
    op = operator(name)
    expected = spectrum(op, axis).rank().value
    for seed in range(4):
        measured = randomized(op, n_modes=10, random_state=seed).rank(axis)
        assert abs(measured.value - expected) <= 1
        assert np.isfinite(measured.std_error)


@pytest.mark.parametrize("which, gain", [("slow", 0.5), ("flat", 0.0)])
def test_an_estimated_rank_is_not_biased_by_the_spread_of_sampled_eigenvalues(which, gain):
    matrix = matrix_with(np.arange(1, 121) ** -gain)
    op = MatrixOperator(matrix, (1, 60, 2))
    exact = spectrum(op, "time", method="exact").rank().value
    measured = [randomized(op, random_state=seed).on("time").rank() for seed in range(8)]
    claimed = np.mean([f.std_error for f in measured])
    assert abs(np.mean([f.value for f in measured]) - exact) <= max(1, claimed)
    assert all(abs(f.value - exact) <= 1.96 * f.std_error for f in measured)


def test_eigenvalues_that_have_not_converged_are_not_counted():
    # Four groups of fifteen: the Krylov space has not seen all of the second one.
    groups = [s * np.random.default_rng(3).uniform(0.7, 1.3, 15) for s in (1, 0.3, 0.1, 0.03)]
    op = MatrixOperator(matrix_with(np.sort(np.concatenate(groups))[::-1] ** 0.5), (1, 30, 2))
    exact = spectrum(op, method="exact").rank(0.6).value
    measured = [randomized(op, random_state=seed) for seed in range(10)]
    assert all("have not converged" in each.on("all").rank(0.6).reason for each in measured)
    ranks = [each.rank("all", 0.6) for each in measured]
    assert sum(abs(r.value - exact) <= 1.96 * r.std_error for r in ranks) >= 9
    # A steep spectrum has converged long before.
    steep = randomized(MatrixOperator(matrix_with(0.5 ** np.arange(60)), (1, 30, 2)))
    assert not steep.on("all").rank(0.99).reason


@pytest.mark.parametrize(
    "n_modes, n_seeds", [(10, 2), *(pytest.param(k, 20, marks=pytest.mark.slow) for k in (4, 20))]
)
@every_name
def test_every_listed_eigenvalue_is_within_its_residual(name, n_modes, n_seeds):
    op, n_outside = operator(name), 0
    of_seeds = [randomized(op, n_modes=n_modes, random_state=seed) for seed in range(n_seeds)]
    for (seed, shared), axis in product(enumerate(of_seeds), AXES):
        shared.rank(axis, 0.99)  # Eigenvalues computed for the rank are listed too.
        exact, measured = exact_eigenvalues(name, axis), shared.on(axis)
        n = min(len(measured.eigenvalues), len(exact))
        distance = abs(measured.eigenvalues[:n] - exact[:n])
        is_within = (distance <= measured.residuals[:n] + 1e-9 * exact[0]).all()
        assert is_within or axis != "all", seed
        n_outside += not is_within
    # On the other axes the residual is a bound at 1.96 standard errors.
    assert n_outside <= binom.isf(1e-3, 3 * n_seeds, 0.05)


@cache
def exact_eigenvalues(name: str, axis: str) -> np.ndarray:
    return spectrum(operator(name), axis, method="exact").eigenvalues


def test_ritz_values_that_have_not_converged_are_not_listed():
    values = np.array([[9.0, 4.0, 1.0, 0.5], [8.0, 3.0, 2.0, 0.2]])
    residuals = np.array([[1e-3, 1e-3, 1e-3, 0.1], [1e-3, 0.02, 0.3, 0.1]])
    listed = converged(values, residuals)
    # The second block ends at 3: its next value, 2 and more, would stand before 1.
    np.testing.assert_array_equal(listed.values, [9, 8, 4, 3])
    np.testing.assert_array_equal(listed.residuals, [1e-3, 1e-3, 1e-3, 0.02])
    np.testing.assert_array_equal(converged(values, residuals, unseen=5.0).values, [9, 8])


def test_leading_eigenvalues_are_doubted_by_their_residuals():
    sketcher = sketcher_of("gru P", n_modes=4)
    half, sketch = sketcher.half, sketcher.draw(0, 6)
    # |M v - v theta| of each mode, by trials.
    V = sketcher.modes(half)[0]
    rest = half.gram(V, len(half.trials)) - torch.as_tensor(sketch.mode_values.T[..., None]) * V
    expected = rest.norm(dim=-1).mT.numpy()
    np.testing.assert_allclose(sketch.mode_residuals, expected, atol=1e-12)
    certain = replace(sketch, mode_residuals=0 * expected, squares=0 * sketch.squares)
    share = 0.9 * sketch.mode_values.max() / sampled_spectrum(certain, "all").trace.value
    assert sampled_spectrum(certain, "all").rank(share).value == 1
    two = 1.1 * share / 0.9
    assert sampled_spectrum(certain, "all").rank(two).value == 2
    doubtful = replace(certain, mode_residuals=0.2 * sketch.mode_values)
    assert "have not converged" in sampled_spectrum(doubtful, "all").rank(two).reason
    # Of equal eigenvalues the modes hold one: as much as it may be left outside of them.
    unseen = replace(certain, squares=0 * sketch.squares + 4 * sketch.mode_values.max() ** 2)
    assert "have not converged" in sampled_spectrum(unseen, "all").rank(two).reason


@pytest.mark.parametrize("threshold", [0.1, pytest.param(0.9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("inputs", [0.0, pytest.param(0.01, marks=pytest.mark.slow)])
def test_equal_eigenvalues_are_not_counted_once(inputs, threshold):
    # By orthogonal recurrent weights each eigenvalue of PP* occurs, nearly, once for every unit.
    torch.manual_seed(0)
    rnn = torch.nn.RNN(3, 16, batch_first=True, dtype=torch.float64)
    torch.nn.init.orthogonal_(rnn.weight_hh_l0, gain=0.9)
    torch.nn.init.zeros_(rnn.bias_ih_l0)
    torch.nn.init.zeros_(rnn.bias_hh_l0)
    net = torch.nn.ModuleDict({"rnn": rnn, "out": torch.nn.Linear(16, 1, dtype=torch.float64)})
    op = linearize(net, inputs * torch.randn(4, 10, 3, dtype=torch.float64)).P
    exact = spectrum(op, method="exact").rank(threshold).value
    measured = [randomized(op, random_state=seed).rank("all", threshold) for seed in range(8)]
    assert sum(abs(r.value - exact) <= 1.96 * r.std_error + 0.5 for r in measured) >= 7


def test_rank_of_too_few_modes_is_counted_in_a_larger_space():
    shared = randomized(operator("matrix"), n_modes=5)
    assert shared.on("all").rank().reason.startswith("the 5 computed eigenvalues hold")
    exact = spectrum(operator("matrix")).rank().value
    assert shared.rank("all").value == exact
    spanned = randomized(operator("matrix"), n_modes=60)
    assert spanned.rank("all") == Estimate(exact, method="randomized")


def test_a_space_that_may_not_grow_gives_no_rank():
    sketcher = randomized(operator("matrix")).sketcher
    for most, reason in ((16, "too many directions"), (32, "the 32 leading directions")):
        rank, _ = ritz_rank(sketcher, 0.999, most, "do better")
        assert rank.reason.startswith(reason) and rank.reason.endswith("; do better")


@pytest.mark.parametrize("limit, remedy", [(8192, "; use method='exact', or an"), (10, "; an")])
def test_the_exact_method_is_advised_only_where_it_is_possible(limit, remedy, monkeypatch):
    monkeypatch.setattr(_routes, "EXACT_LIMIT", limit)
    monkeypatch.setattr(_routes, "KRYLOV_BUDGET", 0.0)
    reason = randomized(operator("matrix"), n_modes=5).rank("all", 0.999).reason
    assert reason.endswith(f"{remedy}alyse fewer trials or steps")


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 0.99])
def test_the_lower_bound_on_a_rank_holds_and_exceeds_that_of_the_effective_dimension(threshold):
    exact = spectrum(operator("matrix"))
    shared = randomized(operator("matrix"), n_modes=5, n_probes=100)
    least = shared.sketch.least_rank(threshold)
    assert threshold**2 * exact.effective_dimension.value < least <= exact.rank(threshold).value


# --------------------------------------------------------------------------------------- edges


def everything(shared: OperatorSpectra, axis: str) -> list[Estimate]:
    measured = shared.on(axis)
    return [measured.trace, measured.square, measured.effective_dimension, shared.rank(axis)]


@pytest.mark.parametrize("n_modes", [0, 5, 60])
def test_zero_operator_is_measured_without_a_warning(n_modes):
    shared = randomized(MatrixOperator(np.zeros((60, 60)), SHAPE), n_modes=n_modes)
    assert_missing(ritz_rank(shared.sketcher, 0.95, 60)[0], ZERO)
    for axis in AXES:
        trace, square, *others = everything(shared, axis)
        assert trace == Estimate(0.0) and square == Estimate(0.0)
        for missing in others:
            assert_missing(missing, ZERO)
        assert np.isfinite(shared.on(axis).eigenvalues).all()


@pytest.mark.parametrize(
    "matrix", [np.full((60, 60), 1e308), torch.full((60, 60), 1e38), np.full((60, 60), np.inf)]
)
def test_numbers_that_overflow_are_missing_and_say_so(matrix):
    shared = randomized(MatrixOperator(matrix, SHAPE), n_modes=5)
    assert_missing(ritz_rank(shared.sketcher, 0.95, 60)[0], OVERFLOW)
    for missing in (estimate for axis in AXES for estimate in everything(shared, axis)):
        assert_missing(missing, OVERFLOW)


@pytest.mark.parametrize("scale", [1e-100, 1e-40, 1e30, 1e100])
def test_effective_dimension_and_rank_do_not_depend_on_the_scale(scale):
    matrix = operator("matrix").matrix
    plain, scaled = (randomized(MatrixOperator(s * matrix, SHAPE)) for s in (1.0, scale))
    for axis in AXES:
        trace, square, *ratios = everything(scaled, axis)
        for mine, other in zip(ratios, everything(plain, axis)[2:], strict=True):
            assert mine == pytest.approx(other)
        of_plain = plain.on(axis)
        assert trace[:2] == pytest.approx(scale**2 * np.array(of_plain.trace[:2]), rel=1e-9)
        if scale == 1e100:
            assert_missing(square, OVERFLOW)
        else:
            assert square.value == pytest.approx(scale**4 * of_plain.square.value, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_no_modes_and_fewest_probes(name):
    shared = randomized(operator(name), n_modes=0, n_probes=4)
    assert len(shared.on("all").eigenvalues) == 0
    for axis in AXES:
        for estimate in everything(shared, axis)[:3]:
            assert np.isfinite(estimate.value) and estimate.std_error > 0


def test_a_square_that_is_not_positive_is_missing():
    # Four vectors on four different steps have no pair with anything in common.
    sampled = np.stack([np.diag(row) for row in np.eye(4)])
    measured = axis_moments(hand_made(sampled, np.zeros((4, 4))), "time")
    assert measured.trace.value == 1 and measured.square.value == 0
    assert_missing(measured.effective_dimension, NOISY)
