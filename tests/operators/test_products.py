"""Products in place, parts of operators, and compression of K, against dense matrices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from functools import reduce as fold
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.operators import LinearOperator, ParameterOperator, TangentKernel
from tests.oracles.cases import CASES, IDS, RAGGED, Solved, build, distance, solve
from tests.oracles.operator_checks import in_coordinates_of, random

TOLERANCE = 1e-10
BY_NAME = dict(zip(IDS, CASES, strict=True))
BUILT_IN = [c.name for c in CASES if isinstance(c.cell, str)]
MAPPED = [c.name for c in CASES if isinstance(c.cell, str) and not c.learn_initial_state]
TRAINED_Z0 = [name for name in BUILT_IN if name not in MAPPED]
USER = [name for name in IDS if name not in BUILT_IN]
VARIED = ("gru", "lstm-3layers-ragged-trained_z0", "user-ragged-trained_z0")
every_built_in = pytest.mark.parametrize("name", BUILT_IN)
every_mapped_case = pytest.mark.parametrize("name", MAPPED)
varied_cases = pytest.mark.parametrize("name", VARIED)


@dataclass(frozen=True)
class WithMatrix:
    """An operator of a linearization, its matrix, and whether it keeps trials apart."""

    operator: Callable[[Linearization], LinearOperator]
    dense: Callable[[Solved], Tensor]
    separable: bool = False


def jacobian(solved: Solved) -> Tensor:
    """Return the reference's J_theta in our order of the parameters."""
    return in_coordinates_of(solved.linearization.J_theta, solved.dense)


OPERATORS = {
    "K": WithMatrix(lambda lin: lin.K, lambda s: s.dense.K),
    "P": WithMatrix(lambda lin: lin.P, lambda s: s.dense.P, True),
    "P.T": WithMatrix(lambda lin: lin.P.T, lambda s: s.dense.P.T, True),
    "inverse": WithMatrix(lambda lin: lin.P.inverse(), lambda s: s.dense.P_inverse, True),
    "inverse.T": WithMatrix(lambda lin: lin.P.inverse().T, lambda s: s.dense.P_inverse.T, True),
    "J": WithMatrix(lambda lin: lin.J_theta, jacobian),
    "J.T": WithMatrix(lambda lin: lin.J_theta.T, lambda s: jacobian(s).T / s.dense.n_valid),
    "PKP": WithMatrix(lambda lin: lin.PKP, lambda s: s.dense.PKP),
    "PKP.T": WithMatrix(lambda lin: lin.PKP.T, lambda s: s.dense.PKP),
    "P @ K @ P.T": WithMatrix(lambda lin: lin.P @ lin.K @ lin.P.T, lambda s: s.dense.PKP),
    "K @ P": WithMatrix(lambda lin: lin.K @ lin.P, lambda s: s.dense.K @ s.dense.P),
    "P @ K": WithMatrix(lambda lin: lin.P @ lin.K, lambda s: s.dense.P @ s.dense.K),
    "P @ P.T": WithMatrix(lambda lin: lin.P @ lin.P.T, lambda s: s.dense.P @ s.dense.P.T, True),
    "(P @ P).T": WithMatrix(
        lambda lin: (lin.P @ lin.P).T, lambda s: (s.dense.P @ s.dense.P).T, True
    ),
    "P.T @ inverse": WithMatrix(
        lambda lin: lin.P.T @ lin.P.inverse(), lambda s: s.dense.P.T @ s.dense.P_inverse, True
    ),
    "P @ J": WithMatrix(lambda lin: lin.P @ lin.J_theta, lambda s: s.dense.P @ jacobian(s)),
    "(P @ J).T": WithMatrix(
        lambda lin: (lin.P @ lin.J_theta).T,
        lambda s: (s.dense.P @ jacobian(s)).T / s.dense.n_valid,
    ),
    "P + K": WithMatrix(lambda lin: lin.P + lin.K, lambda s: s.dense.P + s.dense.K),
    "P @ (K - 2 P.T)": WithMatrix(
        lambda lin: lin.P @ (lin.K - 2 * lin.P.T),
        lambda s: s.dense.P @ (s.dense.K - 2 * s.dense.P.T),
    ),
    "(P / 3) @ K": WithMatrix(
        lambda lin: (lin.P * (1 / 3)) @ lin.K, lambda s: s.dense.P @ s.dense.K / 3
    ),
    "P - P.T / 2": WithMatrix(
        lambda lin: lin.P - 0.5 * lin.P.T, lambda s: s.dense.P - s.dense.P.T / 2, True
    ),
    "2 P @ J - J": WithMatrix(
        lambda lin: 2 * lin.P @ lin.J_theta - lin.J_theta,
        lambda s: 2 * s.dense.P @ jacobian(s) - jacobian(s),
    ),
}
BASIC = ("K", "P", "P.T", "inverse", "inverse.T", "J", "J.T", "PKP")
every_operator = pytest.mark.parametrize("operator", OPERATORS)
ON_CASES = [(n, o) for n in IDS for o in OPERATORS if o in BASIC or n in VARIED]
every_pair = pytest.mark.parametrize("name, operator", ON_CASES)


@cache
def matrix_of(name: str, operator: str) -> Tensor:
    """Return the matrix of one of the operators of a case."""
    return OPERATORS[operator].dense(solve(name))


# -------------------------------------------------------------------------- products in place


@pytest.fixture
def fresh_memory_is_nan() -> Iterator[None]:
    """Fill what torch allocates without a value with NaN, so that nobody can rely on it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


def arguments(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return arguments with 0, 1 and 2 leading axes, in the layouts that occur."""
    layouts = {f"contiguous {len(k)}": random(*k, *shape) for k in ((), (1,), (2, 3))}
    layouts["every other entry"] = random(3, *shape[:-1], 2 * shape[-1])[..., ::2]
    layouts["vectors last"] = random(*shape, 2, 3).movedim((-2, -1), (0, 1))
    if len(shape) == 3:
        b, t, h = shape
        layouts["steps first"] = random(t, b, h).transpose(0, 1)
        layouts["steps first of all vectors"] = random(t, 3, b, h).movedim(0, 2)
        layouts["steps first of each vector"] = random(3, t, b, h).transpose(1, 2)
        layouts["steps first of two axes"] = random(t, 2, 3, b, h).movedim(0, 3)
        layouts["steps first of swapped axes"] = random(t, 3, 2, b, h).permute(2, 1, 3, 0, 4)
    return layouts


# The layouts for every case: a user's cell takes one pass of autograd for each vector.
FEW = ("contiguous 0", "contiguous 2", "steps first of all vectors", "steps first of two axes")


@every_pair
def test_products_in_place_are_the_products(name, operator, fresh_memory_is_nan):
    op, dense = OPERATORS[operator].operator(solve(name).linearization), matrix_of(name, operator)
    assert op.shape == dense.shape
    layouts = arguments(op.in_shape)
    for layout in layouts if name in VARIED[:2] else FEW:
        q = layouts.get(layout)
        if q is None:  # Parameters have no steps.
            continue
        leading = q.shape[: q.ndim - len(op.in_shape)]
        expected = (q.reshape(-1, dense.shape[1]) @ dense.T).reshape(*leading, *op.out_shape)
        before = q.clone(memory_format=torch.contiguous_format)
        assert distance(op @ q, expected) < TOLERANCE, layout
        if name in VARIED:
            op @ q.numpy()
        assert torch.equal(q, before), layout
        assert distance(op.apply_(q), expected) < TOLERANCE, layout


@pytest.mark.parametrize("operator", ["P", "P.T", "K", "PKP", "P @ K @ P.T"])
@pytest.mark.parametrize("name", ["gru", "lstm-2layers", "tanh-ragged", "leaky-trained_z0"])
def test_products_in_place_allocate_no_second_trajectory(name, operator):
    op = OPERATORS[operator].operator(solve(name).linearization)
    b, t, h = op.in_shape
    for q in (random(b, t, h), random(4, b, t, h), random(t, 4, b, h).movedim(0, 2)):
        memory = q.untyped_storage().data_ptr()
        assert op.apply_(q).untyped_storage().data_ptr() == memory


@pytest.mark.parametrize("operator", ["K", "P", "P.T", "PKP", "inverse"])
@pytest.mark.parametrize("name", ["gru", "lstm-2layers"])
def test_arguments_that_share_memory_are_not_overwritten_silently(name, operator):
    # An expanded argument is one vector seen twice: writing into it must fail or not happen.
    op = OPERATORS[operator].operator(solve(name).linearization)
    q = random(*op.in_shape)
    expected = op @ q
    assert distance(op @ q.expand(2, *q.shape), expected.expand(2, *q.shape)) < TOLERANCE
    try:
        product = op.apply_(q.clone().expand(2, *q.shape))
    except RuntimeError as error:
        assert "single memory location" in str(error)
    else:
        assert distance(product, expected.expand(2, *q.shape)) < TOLERANCE


class Identity(LinearOperator):
    """A user-defined operator that returns its argument itself."""

    def _apply(self, q: Tensor) -> Tensor:
        return q

    def _adjoint(self) -> LinearOperator:
        return self


@pytest.mark.parametrize("operator", ["K", "P", "P.T", "PKP"])
def test_products_with_an_identity_do_not_change_their_argument(operator):
    op = OPERATORS[operator].operator(solve("gru").linearization)
    composed = op @ Identity(op.in_shape, op.in_shape, op.dtype, op.device)
    q = random(*op.in_shape)
    composed @ q
    assert torch.equal(q, random(*op.in_shape))


# ----------------------------------------------------------------------------- parts by trials

BOUNDS = ((0, 1), (1, 2), (1, 3), (None,), (2, 9), (-2, None), (0, 3, 2), (None, -1))
SLICES = [slice(*bounds) for bounds in BOUNDS]


def blocks_between_trials(matrix: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return all entries of a matrix on trajectories that lead from one trial to another."""
    b, t, h = shape
    six = matrix.reshape(b, t * h, b, t * h)
    return torch.stack([six[i, :, j] for i in range(b) for j in range(b) if i != j])


@varied_cases
def test_separable_says_whether_trials_are_kept_apart(name):
    for operator, tested in OPERATORS.items():
        op = tested.operator(solve(name).linearization)
        assert op.separable == tested.separable, operator
        if op.separable:
            assert op.in_shape == op.out_shape == (3, 5, op.in_shape[-1])
            for matrix in (op.to_dense(), matrix_of(name, operator)):
                assert not blocks_between_trials(matrix, op.in_shape).any(), operator
        elif len(op.in_shape) == len(op.out_shape) == 3:
            assert blocks_between_trials(matrix_of(name, operator), op.in_shape).any(), operator


CUTTABLE = [o for o in OPERATORS if OPERATORS[o].separable or o in ("J", "P @ J", "2 P @ J - J")]


def cut_matrix(name: str, operator: str, trials: slice) -> Tensor:
    """Return the rows, and of a separable operator the columns, of some of the trials."""
    dense = matrix_of(name, operator)
    rows = torch.arange(len(dense)).reshape(3, -1)[trials].flatten()
    return dense[rows][:, rows] if OPERATORS[operator].separable else dense[rows]


@pytest.mark.parametrize("name, operator", [pair for pair in ON_CASES if pair[1] in CUTTABLE])
def test_part_on_some_trials_holds_the_rows_of_the_matrix(name, operator):
    solved, is_separable = solve(name), OPERATORS[operator].separable
    op = OPERATORS[operator].operator(solved.linearization)
    # The adjoint of J_theta keeps the number N of all valid steps.
    scale = 1 if is_separable else 1 / solved.dense.n_valid
    for trials in SLICES if name in VARIED[:2] else SLICES[1:3]:
        part, expected = op.on_trials(trials), cut_matrix(name, operator, trials)
        assert part.shape == expected.shape and part.separable == is_separable
        assert distance(part.to_dense(), expected) < TOLERANCE, trials
        q = random(2, *part.in_shape)
        products = (q.flatten(1).reshape(2, -1) @ expected.T).reshape(2, *part.out_shape)
        assert distance(part.apply_(q), products) < TOLERANCE, trials
        assert distance(part.T.to_dense(), scale * expected.T) < TOLERANCE, trials
        w = random(expected.shape[0], seed=2).numpy()
        assert distance(part.to_scipy().rmatvec(w), expected.T.numpy() @ w) < TOLERANCE
        for factor in part.factors:
            tangent = getattr(factor, "tangent", None)
            assert tangent is None or tangent.n_valid == solved.dense.n_valid


@varied_cases
def test_what_mixes_trials_is_not_cut(name):
    for operator in ("K", "PKP", "J.T", "P + K", "(P @ J).T", "K @ P"):
        op = OPERATORS[operator].operator(solve(name).linearization)
        assert op.on_trials(slice(0, 1)) is None, operator


@varied_cases
def test_parts_of_parts(name):
    lin = solve(name).linearization
    for op in (lin.P, lin.P @ lin.P.T, lin.J_theta, lin.P @ lin.J_theta):
        twice, once = op.on_trials(slice(1, 3)).on_trials(slice(1, 2)), op.on_trials(slice(2, 3))
        assert distance(twice.to_dense(), once.to_dense()) < 1e-14
        q = random(*once.out_shape)
        assert distance(twice.T @ q, once.T @ q) < 1e-14
    names = [block.name for block in lin.J_theta.blocks]
    assert [block.name for block in lin.J_theta.on_trials(slice(1, 3)).blocks] == names


@varied_cases
def test_gradients_of_the_parts_sum_to_the_gradient(name):
    lin = solve(name).linearization
    q = random(*lin.J_theta.out_shape)
    for op in (lin.J_theta, lin.P @ lin.J_theta):
        parts = [op.on_trials(s).T @ q[s] for s in (slice(0, 2), slice(2, 3))]
        assert distance(sum(parts), op.T @ q) < TOLERANCE
    part = lin.J_theta.on_trials(slice(1, 3))
    named = part.to_parameters(part.T @ q[1:3])
    others = q.clone()
    others[0] = 0
    expected = lin.J_theta.to_parameters(lin.J_theta.T @ others)
    assert set(named) == set(expected)
    for key, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-300)
        assert float((named[key] - gradient).abs().max()) < TOLERANCE * scale


@varied_cases
def test_parts_share_out_a_ragged_set_of_trials(name):
    # Wholly new trials: what is masked in the part is what was masked in the whole.
    case = BY_NAME[name]
    network, X = build(case)
    lin = linearize(network, X, RAGGED)
    part = lin.P.on_trials(slice(1, 3))
    alone = linearize(network, X[1:], RAGGED[1:])
    assert distance(part.to_dense(), alone.P.to_dense()) < 1e-13
    assert alone.n_valid == 4 and part.tangent.n_valid == lin.n_valid == 9
    rows = lin.J_theta.on_trials(slice(1, 3))
    assert distance(rows.to_dense(), alone.J_theta.to_dense()) < 1e-13
    assert distance(rows.T.to_dense() * 9, alone.J_theta.T.to_dense() * 4) < 1e-13


# ---------------------------------------------------------------------------------- factors


def test_factors_are_what_was_composed():
    lin = solve("gru").linearization
    P, K, J = lin.P, lin.K, lin.J_theta
    assert P.factors == (P,) and K.factors == (K,) and lin.PKP.factors == (lin.PKP,)
    assert (P @ K).factors == (P, K)
    assert ((P @ K) @ J).factors == (P @ (K @ J)).factors == (P, K, J)
    for whole in (2 * P, P + K, P.T):
        assert whole.factors == (whole,)
    scaled = 2 * P
    assert (scaled @ K).factors == (scaled, K)


@every_operator
def test_product_of_the_factors_is_the_operator(operator):
    op = OPERATORS[operator].operator(solve("gru-2layers").linearization)
    for whole in (op, op.T):
        matrices = [factor.to_dense() for factor in whole.factors]
        assert distance(fold(torch.matmul, matrices), whole.to_dense()) < TOLERANCE


# -------------------------------------------------------------------------------- compression

# (tolerance, rank)
SETTINGS = [(0.01, None), (0.2, None), (0.0, 3), (0.05, 2)]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def map_parts(K: ParameterOperator) -> list:
    """Return the blocks of K that weight maps make up."""
    return [b for b in K.jacobian.blocks if hasattr(b, "block") and hasattr(b.block, "features")]


def directions(u: np.ndarray, tolerance: float = 0.0, rank: int | None = None) -> np.ndarray:
    """Return the leading right singular vectors of u: no more than the tolerance needs."""
    _, s, vt = np.linalg.svd(u, full_matrices=False)
    rest = [np.sqrt((s[r:] ** 2).sum()) for r in range(len(s) + 1)]
    bound = tolerance * rest[0] + 1e-7 * rest[0] * (tolerance == 0)
    r = max(1, next(i for i, left in enumerate(rest) if left <= bound))
    return vt[: r if rank is None else min(r, rank)].T


@cache
def compressed_matrices(
    name: str, tolerance: float = 0.0, rank: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return J_theta and K with the activity of each map projected, from the reference."""
    solved = solve(name)
    K = solved.linearization.K
    J, start = jacobian(solved).clone(), 0
    for block in K.jacobian.blocks:
        columns = slice(start, start + block.n_parameters)
        start = columns.stop
        if block in map_parts(K):
            u = block.block.features.flatten(0, 1).numpy()
            basis = torch.as_tensor(directions(u, tolerance, rank))
            dW = J[:, columns].unflatten(1, (block.block.n_units, u.shape[1]))
            J[:, columns] = (dW @ basis @ basis.T).flatten(1)
    return J, J @ J.T / solved.dense.n_valid


@every_built_in
@every_setting
def test_compressed_K_matches_dense(name, setting):
    solved = solve(name)
    J, expected = compressed_matrices(name, *setting)
    compressed = solved.linearization.K.compress(*setting)
    matrix = compressed.to_dense()
    assert distance(matrix, expected) < TOLERANCE
    q = random(2, *compressed.in_shape)
    product = (q.flatten(1) @ expected).reshape(q.shape)
    assert distance(compressed @ q, product) < TOLERANCE
    assert distance(compressed.apply_(q), product) < TOLERANCE
    # Its Jacobian acts on fewer coordinates, but on the same trajectories.
    jacobian = compressed.jacobian
    assert jacobian.shape[1] <= J.shape[1]
    assert distance((jacobian @ jacobian.T).to_dense(), expected) < TOLERANCE
    # The part left out is positive semidefinite, and its trace is a share of the weight maps'.
    before, after = torch.linalg.eigvalsh(solved.dense.K), torch.linalg.eigvalsh(matrix)
    assert torch.linalg.eigvalsh(solved.dense.K - matrix)[0] > -1e-12 * before[-1]
    assert after[0] > -1e-12 * before[-1]
    assert (after <= before + 1e-12 * before[-1]).all()
    uncompressed = solved.dense.per_parameter("initial_state") if name in TRAINED_Z0 else 0
    traces = [float((K - uncompressed).trace()) for K in (expected, solved.dense.K)]
    share = 1 - traces[0] / traces[1]
    assert compressed.activity_error == pytest.approx(share, rel=1e-8, abs=1e-12)
    assert solved.linearization.K.activity_error == 0


@every_mapped_case
@every_setting
def test_activity_is_cut_within_the_tolerance_and_no_further(name, setting):
    K, tolerance, most = solve(name).linearization.K, setting[0], setting[1] or np.inf
    for full, part in zip(map_parts(K), map_parts(K.compress(*setting)), strict=True):
        u, basis = full.block.features.flatten(0, 1), part.block.basis
        kept = basis.shape[1]
        eye = torch.eye(kept, dtype=basis.dtype)
        assert distance(basis.T @ basis, eye) < TOLERANCE
        assert distance(u @ basis, part.block.features.flatten(0, 1)) < TOLERANCE
        assert kept <= most
        s = torch.linalg.svdvals(u)
        lost = [float(s[r:].norm() / s.norm()) for r in range(len(s) + 1)]
        if kept < most:
            assert float((u - u @ basis @ basis.T).norm() / u.norm()) <= tolerance + 1e-7
        assert kept == 1 or lost[kept - 1] > tolerance


@every_mapped_case
def test_less_tolerance_leaves_out_less(name):
    K = solve(name).linearization.K
    for option, values in (
        ("tolerance", [0.7, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-6, 0.0]),
        ("rank", [1, 2, 3, 4, 5, 100]),
    ):
        parts = [K.compress(**{option: value}) for value in values]
        errors = [part.activity_error for part in parts]
        sizes = [part.jacobian.shape[1] for part in parts]
        assert all(a >= b - 1e-15 for a, b in pairwise(errors)) and errors[0] > 0.01
        assert errors[-1] < 1e-14 and all(a <= b for a, b in pairwise(sizes))
        assert len(set(sizes)) > 1
    assert all(part.block.n_columns == 1 for part in map_parts(K.compress(1.0)))


@every_built_in
def test_no_tolerance_changes_nothing(name):
    solved = solve(name)
    K = solved.linearization.K
    for same_K in (K.compress(), K.compress(0.0, None), K.compress(0.0, 10_000)):
        assert distance(same_K.to_dense(), solved.dense.K) < 1e-13
        assert 0 <= same_K.activity_error < 1e-14
        q = random(*K.in_shape)
        full, part = K.jacobian, same_K.jacobian
        gradient, same = full.to_parameters(full.T @ q), part.to_parameters(part.T @ q)
        for key in gradient:
            assert float((same[key] - gradient[key]).abs().max()) < 1e-12


@every_built_in
@every_setting
def test_compressed_gradient_is_the_gradient_to_the_tolerance(name, setting):
    solved = solve(name)
    K, q = solved.linearization.K, random(*solved.linearization.K.in_shape)
    compressed = K.compress(*setting)
    full = K.jacobian.to_parameters(K.jacobian.T @ q)
    part = compressed.jacobian.to_parameters(compressed.jacobian.T @ q)
    assert {n: g.shape for n, g in part.items()} == {n: g.shape for n, g in full.items()}
    projected = compressed_matrices(name, *setting)[0].T @ q.flatten() / solved.dense.n_valid
    expected = K.jacobian.to_parameters(projected)
    for key, gradient in expected.items():
        assert float((part[key] - gradient).abs().max()) < TOLERANCE * float(projected.abs().max())
    # |dW - dW_kept| <= |S q| |u - u_kept| / N, map by map.
    bound = 0.0
    for before, after in zip(map_parts(K), map_parts(compressed), strict=True):
        u, basis = before.block.features, after.block.basis
        lost = (u - u @ basis @ basis.T).norm()
        if setting[1] is None:
            assert lost <= setting[0] * u.norm() * (1 + 1e-12)
        steps = q.movedim(1, 0)[..., before.states].unflatten(-1, (-1, before.block.n_units))
        weighted = (before.block.sensitivity * steps).sum(2)
        bound += float((weighted.norm() * lost / solved.dense.n_valid) ** 2)
    apart = sum(float(((full[n] - part[n]) ** 2).sum()) for n in full)
    assert apart <= bound * (1 + 1e-9) + 1e-25


def test_compressed_gradient_is_that_of_autograd():
    solved = solve("lstm-2layers")
    lin = solved.linearization
    q = random(*lin.K.in_shape)
    network = copy.deepcopy(lin.network)
    pulled = lin.P.T @ q
    (network.states(lin.X) * q).sum().backward()
    jacobian = lin.K.compress(1e-9).jacobian
    gradient = jacobian.to_parameters(jacobian.T @ pulled)
    for key, p in network.recurrent.named_parameters():
        assert distance(gradient[key] * lin.n_valid, p.grad) < 1e-7


@every_mapped_case
def test_compressing_twice(name):
    solved = solve(name)
    K = solved.linearization.K
    once = K.compress(rank=3)
    twice = once.compress(rank=2)
    # Leading directions are nested.
    assert distance(twice.to_dense(), compressed_matrices(name, 0.0, 2)[1]) < TOLERANCE
    share = 1 - float(twice.to_dense().trace() / once.to_dense().trace())
    assert twice.activity_error == pytest.approx(share, rel=1e-9, abs=1e-13)
    assert distance(once.compress().to_dense(), once.to_dense()) < 1e-13
    q = random(*K.in_shape)
    direct = K.compress(rank=2).jacobian
    expected = direct.to_parameters(direct.T @ q)
    actual = twice.jacobian.to_parameters(twice.jacobian.T @ q)
    for key, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-300)
        assert float((actual[key] - gradient).abs().max()) < TOLERANCE * scale + 1e-15
    assert distance(K.to_dense(), solved.dense.K) < TOLERANCE  # And K is still what it was.


@every_built_in
@every_setting
def test_components_of_a_compressed_K_sum_to_it(name, setting):
    solved = solve(name)
    K = solved.linearization.K
    components = K.compress(*setting).components
    assert list(components) == list(K.components)
    total = sum(part.to_dense() for part in components.values())
    assert distance(total, compressed_matrices(name, *setting)[1]) < TOLERANCE
    if setting == SETTINGS[0]:
        for key, full in K.components.items():
            before, after = full.to_dense(), components[key].to_dense()
            values = torch.linalg.eigvalsh(before - after)
            assert values[0] > -1e-12 * before.abs().max() * len(before)


@pytest.mark.parametrize("name", TRAINED_Z0)
@every_setting
def test_a_trained_initial_state_is_not_compressed(name, setting):
    solved = solve(name)
    K = solved.linearization.K
    compressed = K.compress(*setting)
    expected = solved.dense.per_parameter("initial_state")
    assert distance(compressed.components["initial_state"].to_dense(), expected) < TOLERANCE
    q = random(*K.in_shape)
    gradient, full = (
        op.jacobian.to_parameters(op.jacobian.T @ q)["initial_state"] for op in (compressed, K)
    )
    assert torch.equal(gradient, full)


@pytest.mark.parametrize("name", USER)
@every_setting
def test_a_users_cell_is_not_compressed(name, setting):
    K = solve(name).linearization.K
    compressed = K.compress(*setting)
    assert compressed.activity_error == 0 and compressed.jacobian.shape == K.jacobian.shape
    q = random(2, *K.in_shape)
    assert torch.equal(compressed @ q, K @ q)


@varied_cases
@every_setting
def test_tangent_kernel_of_a_compressed_K(name, setting):
    solved = solve(name)
    lin, P = solved.linearization, solved.dense.P
    op = TangentKernel(lin.K.compress(*setting), lin.P)
    dense = P @ compressed_matrices(name, *setting)[1] @ P.T
    assert distance(op.to_dense(), dense) < TOLERANCE
    largest = torch.linalg.eigvalsh(solved.dense.PKP)[-1]
    assert torch.linalg.eigvalsh(solved.dense.PKP - dense)[0] > -1e-12 * largest


@every_mapped_case
def test_parts_of_a_compressed_jacobian(name):
    solved = solve(name)
    whole = solved.linearization.K.compress(rank=2).jacobian
    matrix = whole.to_dense().unflatten(0, (3, -1))
    for trials in SLICES:
        part = whole.on_trials(trials)
        assert distance(part.to_dense(), matrix[trials].flatten(0, 1)) < 1e-13
        assert part.tangent.n_valid == solved.dense.n_valid
    q = random(*whole.out_shape)
    part = whole.on_trials(slice(1, 2))
    other = q.clone()
    other[[0, 2]] = 0
    expected = whole.to_parameters(whole.T @ other)
    for key, gradient in part.to_parameters(part.T @ q[1:2]).items():
        assert float((gradient - expected[key]).abs().max()) < 1e-13


@every_mapped_case
def test_compression_in_single_precision(name):
    exact = solve(name).linearization
    single = linearize(copy.deepcopy(exact.network).float(), exact.X, exact.mask)
    for setting in SETTINGS:
        compressed, expected = single.K.compress(*setting), exact.K.compress(*setting)
        assert compressed.dtype == torch.float32
        assert compressed.activity_error == pytest.approx(expected.activity_error, rel=1e-4)
        assert distance(compressed.to_dense().double(), expected.to_dense()) < 1e-5
