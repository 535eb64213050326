"""K, P and PKP* against dense matrices: one checker for every operator of every case."""

from __future__ import annotations

import copy
import re
from functools import cache

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from kpflow_sklearn import linearize
from kpflow_sklearn.operators import FlowPropagator, LinearOperator, TangentKernel
from tests.oracles import oracle
from tests.oracles.cases import CASES, IDS, RAGGED, Solved, build, distance, solve
from tests.oracles.operator_checks import (
    BASIC,
    TOLERANCE,
    Known,
    check_matrices,
    check_operator,
    in_coordinates_of,
    random,
)

BUILT_IN = [case for case in CASES if isinstance(case.cell, str)]
every_case = pytest.mark.parametrize("name", IDS)


# --------------------------------------------------------------------- operators against dense

COMPOSED = {
    "P @ K @ P.T": Known(lambda lin: lin.P @ lin.K @ lin.P.T, lambda d: d.P @ d.K @ d.P.T),
    "2 P - K / 3": Known(lambda lin: 2 * lin.P - lin.K * (1 / 3), lambda d: 2 * d.P - d.K / 3),
    "-P.T": Known(lambda lin: -lin.P.T, lambda d: -d.P.T),
    "J @ J.T": Known(lambda lin: lin.J_theta @ lin.J_theta.T, lambda d: d.K),
}
VARIED = ["gru", "lstm-3layers-ragged-trained_z0", "user-ragged-trained_z0"]
varied_cases = pytest.mark.parametrize("name", VARIED)


def check(name: str, op: LinearOperator, matrix: Tensor, adjoint_scale: float = 1.0) -> None:
    """Check an operator of a case: all its uses for one network, its matrices for the others.

    What a product does with the layout of its argument, `test_products` checks for every case.
    """
    (check_operator if name == "gru" else check_matrices)(op, matrix, adjoint_scale)


@every_case
@pytest.mark.parametrize("operator", BASIC)
def test_operator_matches_dense(name, operator):
    solved, tested = solve(name), BASIC[operator]
    check(name, tested.operator(solved.linearization), tested.dense(solved.dense))


@varied_cases
@pytest.mark.parametrize("operator", COMPOSED)
def test_composition_matches_dense(name, operator):
    solved, tested = solve(name), COMPOSED[operator]
    check(name, tested.operator(solved.linearization), tested.dense(solved.dense))


@every_case
def test_J_theta_matches_dense(name):
    solved = solve(name)
    J, N = solved.linearization.J_theta, solved.dense.n_valid
    matrix = in_coordinates_of(J, solved.dense)
    check(name, J, matrix, 1 / N)


@varied_cases
def test_compositions_with_J_theta_match_dense(name):
    solved = solve(name)
    J, N = solved.linearization.J_theta, solved.dense.n_valid
    matrix = in_coordinates_of(J, solved.dense)
    check(name, solved.linearization.P @ J, solved.dense.P @ matrix, 1 / N)
    check(name, 2 * J - J * 0.5, 1.5 * matrix, 1 / N)


@every_case
def test_components_match_dense(name):
    solved = solve(name)
    components = solved.linearization.K.components
    expected = dense_components(solved)
    assert set(components) == set(expected)
    for component, matrix in expected.items():
        if name == "gru":
            check_operator(components[component], matrix)
        else:
            assert distance(dense_matrix(name, component), matrix) < TOLERANCE


# The weight map that each block of rows of torch's weights belongs to, in torch's order.
LSTM_MAPS = ("input_gate", "forget_gate", "cell_candidate", "output_gate")
MAPS = {
    "gru": {
        "ih": ("reset", "update", "candidate_input"),
        "hh": ("reset", "update", "candidate_state"),
    },
    "lstm": {"ih": LSTM_MAPS, "hh": LSTM_MAPS},
}


def dense_components(solved: Solved) -> dict[str, Tensor]:
    """Return every K_j from the columns of the reference's J_theta that belong to it."""
    owners = np.array(column_owners(solved))
    components = {}
    for owner in dict.fromkeys(owners):
        block = solved.dense.J_theta[:, owners == owner]
        components[str(owner)] = block @ block.T / solved.dense.n_valid
    return components


def column_owners(solved: Solved) -> list[str]:
    """Return the component that each column of the reference's J_theta belongs to."""
    case, dense = solved.case, solved.dense
    maps = MAPS.get(case.cell, {"ih": ("recurrent",), "hh": ("recurrent",)})
    owners = []
    for name, size in zip(dense.parameter_names, dense.parameter_sizes, strict=True):
        if name == oracle.INITIAL_STATE or not isinstance(case.cell, str):
            owners += [name] * size
            continue
        stem, layer = name.split("_l")
        blocks = maps[stem[-2:]]
        prefix = f"layer{layer}." if case.n_layers > 1 else ""
        owners += [prefix + block for block in blocks for _ in range(size // len(blocks))]
    return owners


# ------------------------------------------------------------------------------ their structure


OPERATORS = {
    "K": lambda lin: lin.K,
    "P": lambda lin: lin.P,
    "P.T": lambda lin: lin.P.T,
    "inverse": lambda lin: lin.P.inverse(),
    "inverse.T": lambda lin: lin.P.inverse().T,
    "PKP": lambda lin: lin.PKP,
}


@cache
def dense_matrix(name: str, operator: str) -> Tensor:
    """Return the matrix of one of our operators, or of a component of K, once for all tests."""
    lin = solve(name).linearization
    op = OPERATORS[operator](lin) if operator in OPERATORS else lin.K.components[operator]
    return op.to_dense()


def dense_blocks(name: str, operator: str) -> Tensor:
    """Return the matrix with its axes apart: (B, T, H, B, T, H)."""
    return dense_matrix(name, operator).reshape(solve(name).linearization.states.shape * 2)


def unit_labels(solved: Solved) -> Tensor:
    """Return the number of the unit that each state belongs to, distinct between layers."""
    labels, start = [], 0
    for layer in solved.linearization.network.layers:
        units = torch.arange(start, start + layer.n_units)
        labels.append(units.repeat(layer.n_states // layer.n_units))
        start += layer.n_units
    return torch.cat(labels)


@every_case
def test_states_match_unrolled_network(name):
    solved = solve(name)
    assert distance(solved.linearization.states, solved.dense.states) < 1e-12


@every_case
def test_PKP_is_the_tangent_kernel_of_the_unrolled_network(name):
    solved = solve(name)
    kernel = oracle.unrolled_tangent_kernel(*solved.arguments, **solved.options)
    assert distance(dense_matrix(name, "PKP"), kernel) < TOLERANCE


@every_case
def test_components_sum_to_K(name):
    components = solve(name).linearization.K.components
    total = sum(dense_matrix(name, component) for component in components)
    assert distance(total, dense_matrix(name, "K")) < TOLERANCE


@pytest.mark.parametrize("name", [c.name for c in BUILT_IN if not c.learn_initial_state])
def test_K_is_exactly_zero_between_units(name):
    solved = solve(name)
    units, K = unit_labels(solved), dense_blocks(name, "K")
    different = units[:, None] != units[None, :]
    between = K.permute(2, 5, 0, 1, 3, 4)[different]
    assert different.any() and torch.count_nonzero(between) == 0


@pytest.mark.parametrize("name", [c.name for c in CASES if c.learn_initial_state])
def test_trained_initial_state_acts_on_the_first_step_alone(name):
    part = dense_blocks(name, "initial_state")
    assert part[:, 0, :, :, 0].abs().max() > 0
    assert torch.count_nonzero(part[:, 1:]) == torch.count_nonzero(part[..., 1:, :]) == 0


@every_case
def test_K_and_PKP_are_positive_semidefinite(name):
    for operator in ("K", "PKP", *solve(name).linearization.K.components):
        eigenvalues = torch.linalg.eigvalsh(dense_matrix(name, operator))
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@every_case
def test_inverse_undoes_P_on_valid_steps(name):
    lin = solve(name).linearization
    identity = torch.eye(lin.P.shape[0], dtype=torch.float64)
    if lin.mask is not None:
        identity *= lin.mask[..., None].expand(lin.states.shape).flatten()
    for a, b in (("P", "inverse"), ("inverse", "P"), ("P.T", "inverse.T")):
        product = dense_matrix(name, a) @ dense_matrix(name, b)
        assert distance(product, identity) < TOLERANCE


@every_case
def test_P_is_block_diagonal_over_trials(name):
    for operator in ("P", "P.T", "inverse"):
        blocks = dense_blocks(name, operator)
        for b in range(len(blocks)):
            others = [a for a in range(len(blocks)) if a != b]
            assert torch.count_nonzero(blocks[b][:, :, others]) == 0


@every_case
def test_P_is_causal(name):
    P = dense_blocks(name, "P")
    for t in range(P.shape[1]):
        assert torch.count_nonzero(P[:, t, :, :, t + 1 :]) == 0


@pytest.mark.parametrize("name", [case.name for case in CASES if case.mask is not None])
def test_masked_rows_and_columns_are_exactly_zero(name):
    lin = solve(name).linearization
    absent = ~lin.mask
    for operator in (*OPERATORS, *lin.K.components):
        blocks = dense_blocks(name, operator)
        assert torch.count_nonzero(blocks[absent]) == 0
        assert torch.count_nonzero(blocks.permute(3, 4, 5, 0, 1, 2)[absent]) == 0


@every_case
def test_trailing_padding_changes_nothing(name):
    lin = solve(name).linearization
    n_trials, n_steps, _ = lin.X.shape
    mask = torch.ones(n_trials, n_steps) if lin.mask is None else lin.mask
    X = torch.cat([lin.X, 10 * random(n_trials, 2, lin.X.shape[2])], dim=1)
    padded = linearize(lin.network, X, torch.nn.functional.pad(mask, (0, 2)).numpy())
    assert padded.n_valid == lin.n_valid
    for operator in ("P", "K", "PKP"):
        blocks = OPERATORS[operator](padded).to_dense().reshape(padded.states.shape * 2)
        kept = blocks[:, :n_steps, :, :, :n_steps]
        assert distance(kept, dense_blocks(name, operator)) < 1e-14
        assert torch.count_nonzero(blocks) == torch.count_nonzero(kept)


@pytest.mark.parametrize("name", ["gru", "lstm-2layers", "user"])
def test_what_stands_at_masked_steps_is_ignored(name):
    network, X = build(CASES[IDS.index(name)])
    other = np.where(RAGGED[..., None], X, 1e3)
    a, b = linearize(network, X, RAGGED), linearize(network, other, RAGGED)
    assert torch.equal(a.PKP.to_dense(), b.PKP.to_dense())


# --------------------------------------------------------------------------- precision and use


@every_case
def test_float32_agrees_with_float64(name):
    exact = solve(name).linearization
    single = linearize(copy.deepcopy(exact.network).float(), exact.X, exact.mask)
    assert single.states.dtype == single.K.dtype == torch.float32
    tolerance = torch.finfo(torch.float32).eps * exact.K.shape[0]
    for operator in ("K", "P", "PKP"):
        op = OPERATORS[operator](single)
        matrix = op.to_dense()
        assert matrix.dtype == torch.float32
        assert distance(matrix.double(), dense_matrix(name, operator)) < tolerance
        assert op.to_scipy().dtype == np.float32
        assert (op @ np.ones(op.in_shape, np.float32)).dtype == np.float32


def test_eigsh_finds_the_spectrum_of_K():
    solved = solve("gru-trained_z0")
    eigenvalues = eigsh(solved.linearization.K.to_scipy(), k=4, return_eigenvectors=False)
    expected = torch.linalg.eigvalsh(solved.dense.K)[-4:]
    assert distance(np.sort(eigenvalues), expected) < TOLERANCE


@varied_cases
def test_zero_size_batches(name):
    lin = solve(name).linearization
    for op in (lin.K, lin.P, lin.P.T, lin.P.inverse(), lin.PKP, lin.J_theta, lin.J_theta.T):
        for leading in ((0,), (2, 0), (0, 3)):
            q = torch.empty(*leading, *op.in_shape, dtype=op.dtype)
            for out in (op @ q, op.apply_(q)):
                assert out.shape == (*leading, *op.out_shape) and out.dtype == op.dtype


@pytest.mark.parametrize("chunk_size", [1, 7, 60, 1000, 10**30])
def test_to_dense_in_chunks(chunk_size):
    P = solve("gru").linearization.P
    assert distance(P.to_dense(chunk_size=chunk_size), solve("gru").dense.P) < TOLERANCE


def test_numpy_arguments_that_torch_cannot_share():
    P = solve("gru").linearization.P
    read_only = random(*P.in_shape).numpy()
    read_only.setflags(write=False)
    for q in (read_only, read_only[:, ::-1]):
        assert distance(P @ q, P @ q.copy()) == 0


@varied_cases
def test_operators_outlive_a_change_of_the_weights(name):
    case = CASES[IDS.index(name)]
    network, X = build(case)
    lin = linearize(network, X, case.mask)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.5)
    assert distance(lin.P.to_dense(), solve(name).dense.P) < TOLERANCE
    assert distance(lin.K.to_dense(), solve(name).dense.K) < TOLERANCE


# -------------------------------------------------------------------------------------- errors

SHAPE = (3, 5, 4)
BAD_ARGUMENTS = {
    "wrong shape": (torch.zeros(3, 5, 3), "(..., 3, 5, 4), got shape (3, 5, 3)"),
    "axes swapped": (torch.zeros(5, 3, 4), "(..., 3, 5, 4), got shape (5, 3, 4)"),
    "too few axes": (torch.zeros(5, 4), "(..., 3, 5, 4), got shape (5, 4)"),
    "batch last": (torch.zeros(3, 5, 4, 2), "(..., 3, 5, 4), got shape (3, 5, 4, 2)"),
    "wrong dtype": (torch.zeros(SHAPE), "dtype torch.float64 on cpu, got torch.float32"),
    "integers": (torch.zeros(SHAPE, dtype=int), "dtype torch.float64 on cpu, got torch.int64"),
}


@pytest.mark.parametrize("argument, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused(argument, message):
    lin = solve("gru").linearization
    ops = [tested.operator(lin) for tested in (BASIC | COMPOSED).values()]
    for product in (p for op in ops for p in (op.__matmul__, op.apply_, op.T.__matmul__)):
        with pytest.raises(ValueError, match=re.escape(message)):
            product(argument)


PART = "trials must be a slice of integers that selects at least one of 3 entries"
REFUSED = {
    "K, trials": (lambda lin: lin.K.on_trials(slice(3, 4)), PART),
    "P, trials": (lambda lin: lin.P.on_trials(slice(3, 4)), PART),
    "P inverse, trials": (lambda lin: lin.P.inverse().on_trials(slice(3, 4)), PART),
    "J_theta, trials": (lambda lin: lin.J_theta.on_trials(slice(3, 4)), PART),
    "tolerance": (lambda lin: lin.K.compress(tolerance=2), "tolerance == 2, must be <= 1"),
    "rank": (lambda lin: lin.K.compress(rank=0), "rank == 0, must be >= 1"),
    "K of PKP": (
        lambda lin: TangentKernel(lin.P, lin.P),
        "parameter_operator must be a ParameterOperator, got a FlowPropagator",
    ),
    "P of PKP": (
        lambda lin: TangentKernel(lin.K, lin.K),
        "propagator must be a FlowPropagator, got a ParameterOperator",
    ),
    "tangent": (lambda lin: FlowPropagator(lin), "tangent must be a NetworkTangent"),
    "shape, array": (lambda lin: lin.P @ np.zeros((3, 5, 3)), "got shape (3, 5, 3)"),
    "shape, J_theta": (lambda lin: lin.J_theta @ torch.zeros(7), "(..., 96), got shape (7,)"),
    "direction": (
        lambda lin: lin.J_theta.to_parameters(torch.zeros(7)),
        "v must be a dense tensor of shape {shape}, got torch.strided (7,)",
    ),
    "no direction": (lambda lin: lin.J_theta.to_parameters([1.0]), "{shape}, got list"),
    "sparse": (
        lambda lin: lin.P @ torch.zeros(SHAPE).to_sparse(),
        "FlowPropagator acts on dense tensors, got a torch.sparse_coo layout",
    ),
    "complex": (
        lambda lin: lin.P @ np.zeros(SHAPE, complex),
        "FlowPropagator acts on real numbers, got dtype complex128",
    ),
    "words": (lambda lin: lin.P @ np.full(SHAPE, "a", object), "FlowPropagator"),
    "factor": (lambda lin: lin.P * np.nan, "the factor of FlowPropagator must be finite"),
    "chunk_size": (lambda lin: lin.P.to_dense(0), "chunk_size == 0, must be >= 1"),
}


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED)
def test_refusals_name_what_is_wrong(call, message):
    lin = solve("gru").linearization
    message = message.format(shape=lin.J_theta.in_shape)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(lin)


def test_operators_that_do_not_fit_are_refused():
    lin, other = solve("gru").linearization, solve("lstm").linearization
    single = linearize(copy.deepcopy(lin.network).float(), lin.X)
    for wrong in (other.P, single.P, lin.J_theta.T @ lin.K):
        with pytest.raises(ValueError, match="cannot compose .*do not match"):
            lin.K @ wrong
    for wrong in (other.K, single.K, lin.J_theta):
        with pytest.raises(ValueError, match="cannot add .*do not match"):
            lin.K + wrong


@pytest.mark.parametrize(
    "expression",
    [lambda P: P @ [1.0], lambda P: P @ 2, lambda P: P * P, lambda P: P + 1, lambda P: P - 1],
)
def test_operators_do_not_act_on_other_types(expression):
    with pytest.raises(TypeError, match="unsupported operand"):
        expression(solve("gru").linearization.P)


def test_overflowing_inputs_are_named_by_their_largest_magnitude():
    net = torch.nn.ModuleDict(
        {"rnn": torch.nn.RNN(2, 4, nonlinearity="relu"), "out": torch.nn.Linear(4, 1)}
    )
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(1e20).mul_(-1)
    X = np.ones((2, 5, 2), dtype=np.float32)
    X[1, 2, 0] = -3e30
    with pytest.raises(ValueError, match=r"entry of largest magnitude is -3e\+30\. Scale down X"):
        linearize(net, X)
