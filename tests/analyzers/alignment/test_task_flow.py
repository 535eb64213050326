"""The alignment matrices of sub-tasks against dense operators and autograd."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from kpflow_sklearn.analyzers.alignment._similarity import cosines, matched_cosines, moment_overlap
from kpflow_sklearn.analyzers.alignment._sub_tasks import (
    SubTasks,
    check_tasks,
    tasks_by_label,
    tasks_by_output,
)
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.networks import Objective, Targets
from tests.oracles import oracle
from tests.oracles.cases import (
    IDS,
    N_OUTPUTS,
    N_TIMESTEPS,
    N_TRIALS,
    Solved,
    solve,
)

LABELS = np.array(["b", "a", "b"])  # One trial of a, two of b.
CONDITIONS = np.array([4, 4, 7])
TRIALS = {"label": [[1], [0, 2]], "output": [[0, 1, 2]] * N_OUTPUTS}
TOLERANCE = 1e-10
rng = np.random.default_rng(5)
Y = rng.standard_normal((N_TRIALS, N_TIMESTEPS, N_OUTPUTS))
WEIGHT = rng.uniform(0.5, 2, (N_TRIALS, N_TIMESTEPS))
TARGETS = Targets(Y, WEIGHT)
every_case = pytest.mark.parametrize("name", IDS)
both_divisions = pytest.mark.parametrize("by", ["label", "output"])


@dataclass(frozen=True)
class Expected:
    """The values of the dense reference, by task: (n_tasks, ...)."""

    losses: Tensor
    gradients: Tensor
    changes: Tensor
    trials: list[list[int]]
    states: Tensor
    valid: np.ndarray


def division(by: str, conditions: np.ndarray | None = None) -> SubTasks:
    if by == "output":
        return tasks_by_output(TARGETS, N_OUTPUTS)
    return tasks_by_label(LABELS, TARGETS, conditions)


def valid_steps(solved: Solved) -> np.ndarray:
    mask = solved.case.mask
    return np.ones((N_TRIALS, N_TIMESTEPS), bool) if mask is None else mask


def task_losses(solved: Solved, by: str, states: Tensor, readout: list[Tensor]) -> Tensor:
    """Return each L_j, the mean over its valid steps of w (output - y)^2 / n_outputs."""
    last = states.chunk(solved.case.n_layers, dim=-1)[-1]
    weight, bias = readout
    outputs = oracle.layer_output(solved.case.cell, last) @ weight.T + bias
    each = torch.as_tensor(WEIGHT)[..., None] * (outputs - torch.as_tensor(Y)) ** 2 / N_OUTPUTS
    losses = []
    for j, trials in enumerate(TRIALS[by]):
        steps = torch.as_tensor(valid_steps(solved)[trials]).double()
        of_task = each[trials].sum(-1) if by == "label" else each[..., j]
        losses.append((of_task * steps).sum() / steps.sum())
    return torch.stack(losses)


def readout_of(solved: Solved) -> list[Tensor]:
    return [p.detach().clone() for p in solved.linearization.network.readout.parameters()]


@cache
def expected(name: str, by: str) -> Expected:
    solved = solve(name)
    dense, gradients = solved.dense, []
    for j in range(2):
        loss = lambda states, j=j: task_losses(solved, by, states, readout_of(solved))[j]  # noqa: E731
        by_name = oracle.loss_gradient(*solved.arguments, loss, **solved.options)
        gradients.append(torch.cat([by_name[n].flatten() for n in dense.parameter_names]))
    g = torch.stack(gradients)
    changes = -(g @ dense.J_theta.T @ dense.P.T).reshape(len(g), *dense.states.shape)
    losses = task_losses(solved, by, dense.states, readout_of(solved))
    return Expected(losses, g, changes, TRIALS[by], dense.states, valid_steps(solved))


def flow_of(name: str, by: str, conditions: np.ndarray | None = None) -> TaskFlow:
    return TaskFlow(solve(name).linearization, division(by, conditions), Objective("mse"))


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def assert_matrix(matrix: np.ndarray, entries) -> None:
    n = len(matrix)
    expected = np.array([[entries(i, j) for j in range(n)] for i in range(n)])
    np.testing.assert_allclose(matrix, expected, atol=TOLERANCE * abs(expected).max())


@every_case
@both_divisions
def test_losses_gradients_and_changes(name, by):
    flow, true = flow_of(name, by), expected(name, by)
    np.testing.assert_allclose(flow.losses, true.losses, rtol=TOLERANCE)
    names = flow.lin.J_theta.to_parameters(torch.zeros(flow.lin.J_theta.shape[1]).double())
    assert set(names) == set(solve(name).dense.parameter_names)
    # The order of parameters is ours: inner products do not depend on it.
    gram = flow.gradients @ flow.gradients.T
    np.testing.assert_allclose(gram, true.gradients @ true.gradients.T, rtol=1e-9)
    scale = float(true.changes.abs().max())
    np.testing.assert_allclose(flow.changes, true.changes, atol=TOLERANCE * scale)


@every_case
@both_divisions
def test_interference_gradient_and_flow(name, by):
    matrices, true = flow_of(name, by).matrices, expected(name, by)
    g, d, trials = true.gradients, true.changes, true.trials
    assert_matrix(matrices["interference"], lambda i, j: float(g[i] @ g[j]))
    assert_matrix(matrices["gradient"], lambda i, j: cosine(g[i], g[j]))
    assert_matrix(matrices["flow"], lambda i, j: cosine(d[i, trials[i]], d[j, trials[i]]))


def hidden(states: Tensor, name: str) -> Tensor:
    """Return the states without an LSTM's c."""
    if not name.startswith("lstm"):
        return states
    case = solve(name).case
    layers = states.chunk(case.n_layers, dim=-1)
    return torch.cat([layer[..., : case.n_units] for layer in layers], dim=-1)


@every_case
def test_second_moments_where_nothing_is_matched(name):
    flow, true = flow_of(name, "label"), expected(name, "label")
    assert flow.comparison == "second moments"
    keep = torch.as_tensor(true.valid)[..., None]
    z = hidden(true.states, name) * keep

    def overlap(a: Tensor, b: Tensor) -> float:
        return cosine(*(torch.einsum("bti,btj->ij", s, s) for s in (a, b)))

    d, trials, matrices = true.changes * keep, true.trials, flow.matrices
    assert_matrix(matrices["state"], lambda i, j: overlap(z[trials[i]], z[trials[j]]))
    assert_matrix(matrices["update"], lambda i, j: overlap(d[i, trials[i]], d[j, trials[j]]))


@every_case
def test_matched_conditions(name):
    flow, true = flow_of(name, "label", CONDITIONS), expected(name, "label")
    assert flow.comparison == "matched conditions"
    # Trials 1 (of a) and 0 (of b) share condition 4; b alone has condition 7.
    both = true.valid[1] & true.valid[0]
    z, d = hidden(true.states, name), true.changes
    state, update = cosine(z[1, both], z[0, both]), cosine(d[0, 1, both], d[1, 0, both])
    for kind, value in (("state", state), ("update", update)):
        np.testing.assert_allclose(flow.matrices[kind], [[1, value], [value, 1]], atol=TOLERANCE)


@every_case
def test_outputs_match_themselves_and_have_no_states_of_their_own(name):
    matrices = flow_of(name, "output").matrices
    assert set(matrices) == {"interference", "gradient", "flow", "update"}
    np.testing.assert_allclose(matrices["update"], matrices["flow"], atol=1e-12)


@every_case
@both_divisions
def test_weight_maps_and_periods_sum_to_the_interference(name, by):
    flow = flow_of(name, by)
    total = flow.matrices["interference"]
    maps = flow.interference_by_map()
    states = maps[maps["weight_map"] != "readout"]
    assert list(states["weight_map"].unique()) == list(flow.lin.K.components)
    start = np.arange(N_TIMESTEPS) < 2
    periods = flow.interference_by_period({"start": start, "end": ~start})
    assert len(periods) == 4 * total.size
    for table in (states, periods):
        summed = table.groupby(["task", "other_task"])["value"].sum().unstack().to_numpy()
        np.testing.assert_allclose(summed, total, atol=1e-12 * abs(total).max())


@pytest.mark.parametrize("name", ["gru", "lstm-2layers", "tanh-ragged"])
@both_divisions
def test_readout_interference_is_that_of_autograd(name, by):
    solved = solve(name)
    readout = [p.requires_grad_() for p in readout_of(solved)]
    rows = []
    for loss in task_losses(solved, by, solved.dense.states, readout):
        slopes = torch.autograd.grad(loss, readout, retain_graph=True)
        rows.append(torch.cat([slope.flatten() for slope in slopes]))
    g = torch.stack(rows)
    table = flow_of(name, by).interference_by_map()
    values = table.loc[table["weight_map"] == "readout", "value"].to_numpy()
    np.testing.assert_allclose(values, (g @ g.T).flatten().numpy(), rtol=1e-10)


@pytest.mark.parametrize("name", [n for n in IDS if "relu" not in n])
@both_divisions
def test_interference_predicts_what_a_step_on_one_task_does_to_the_others(name, by):
    # A step on L_j alone changes L_i by -eta <g_i, g_j>, with an error linear in eta.
    flow, solved = flow_of(name, by), solve(name)
    interference = flow.matrices["interference"]
    scale = float(flow.gradients.norm(dim=1).max())

    def measured(j: int, eta: float) -> np.ndarray:
        arguments = list(solved.arguments)
        whole = flow.lin.J_theta.T @ flow.adjoints[j] * flow.lin.n_valid
        step = flow.lin.J_theta.to_parameters(whole)
        arguments[1] = {
            k: p - eta * step.get(k, torch.zeros_like(p)) for k, p in solved.arguments[1].items()
        }
        arguments[3] = solved.arguments[3] - eta * step.get("initial_state", torch.zeros(1))
        states = oracle.run(*arguments, **solved.options)
        losses = task_losses(solved, by, states, readout_of(solved)).numpy()
        return (losses - flow.losses) / eta

    eta = 1e-5 / scale
    for j in range(len(flow.losses)):
        small, large = (
            np.linalg.norm(measured(j, step) + interference[:, j]) for step in (eta, 10 * eta)
        )
        assert small < 1e-3 * np.linalg.norm(interference[:, j])
        assert 8 < large / small < 12


@pytest.mark.parametrize("name", ["gru", "tanh-ragged"])
def test_a_penalty_on_rates_belongs_to_trials_and_to_no_output(name):
    lin, penalised = solve(name).linearization, Objective("mse", activity_l2=0.7)
    by_label = TaskFlow(lin, division("label"), penalised)
    shares = (by_label.counts / by_label.counts.sum()).numpy()
    whole = penalised.value(lin.network, lin.states, TARGETS, lin.mask).detach().item()
    assert by_label.losses @ shares == pytest.approx(whole, rel=1e-12)
    by_output = TaskFlow(lin, division("output"), penalised)
    plain = Objective("mse").value(lin.network, lin.states, TARGETS, lin.mask).detach().item()
    assert by_output.losses.sum() == pytest.approx(plain, rel=1e-12)


def test_classes_at_the_last_step_are_tasks_too():
    lin = solve("gru").linearization
    targets = Targets(np.array([[0] * 5, [1] * 5, [0] * 5]), np.eye(5)[[4, 4, 4]] * 5.0)
    objective = Objective("cross_entropy")
    flow = TaskFlow(lin, tasks_by_label(LABELS, targets), objective)
    logits = lin.network.outputs(lin.states)[:, -1]
    each = torch.nn.functional.cross_entropy(
        logits, torch.tensor([0, 1, 0]), reduction="none"
    ).detach()
    np.testing.assert_allclose(flow.losses, [each[1], each[[0, 2]].mean()], rtol=1e-12)


@every_case
def test_subspaces_hold_their_share_of_each_tasks_own_change(name):
    flow, true = flow_of(name, "label"), expected(name, "label")
    for j, (directions, trials) in enumerate(zip(flow.subspaces(), true.trials, strict=True)):
        d = true.changes[j, trials].flatten(0, 1).numpy()
        np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-12)
        held = ((d @ directions.T) ** 2).sum() / (d**2).sum()
        fewer = np.linalg.svd(d, compute_uv=False)[: len(directions) - 1]
        assert held >= 0.95 - 1e-9 and (fewer**2).sum() / (d**2).sum() < 0.95


# ------------------------------------------------------------------------------- similarities


def test_cosines_of_zero_huge_and_tiny_vectors():
    v = torch.tensor([[1.0, 0], [1e200, 1e200], [-1e-200, 0], [0, 0]], dtype=torch.float64)
    matrix = cosines(v).numpy()
    np.testing.assert_allclose(matrix[0, :3], [1, 0.5**0.5, -1])
    assert np.isnan(matrix[3]).all() and np.isnan(matrix[:, 3]).all()


def test_overlap_of_second_moments_is_0_in_orthogonal_subspaces_and_ignores_the_sign():
    a = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[..., 2] = 0
    b = torch.zeros_like(a)
    b[..., 2] = 1
    overlaps = moment_overlap([a, b, -3 * a], [None] * 3).numpy()
    np.testing.assert_allclose(overlaps[0], [1, 0, 1], atol=1e-12)


def test_trials_of_one_condition_are_averaged():
    signal = torch.randn(
        2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    member = torch.tensor([[True, True, False, False], [False, False, True, True]])
    conditions = torch.tensor([0, 0, 0, 1])
    matched = float(matched_cosines(signal, member, conditions, None)[0, 1])
    assert matched == pytest.approx(cosine(signal[0, :2].mean(0), signal[1, 2]), abs=1e-12)


def test_tasks_that_share_no_condition_are_named():
    with pytest.raises(ValueError, match="got no common label of 'a' and 'b' among the trials"):
        check_tasks(LABELS, np.array([0, 1, 0]), N_TRIALS)
