"""The alignment matrices of sub-tasks against dense operators and autograd."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from kpflow_sklearn.analyzers.alignment._similarity import cosines, matched_cosines, moment_overlap
from kpflow_sklearn.analyzers.alignment._sub_tasks import SubTasks, tasks_by_label, tasks_by_output
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.networks import Objective, Targets
from tests.oracles import oracle
from tests.oracles.cases import (
    CASES,
    IDS,
    N_OUTPUTS,
    N_TIMESTEPS,
    N_TRIALS,
    N_UNITS,
    Solved,
    solve,
)

LABELS = np.array(["b", "a", "b"])  # One trial of a, two of b.
CONDITIONS = np.array([4, 4, 7])
TOLERANCE = 1e-10
rng = np.random.default_rng(5)
Y = rng.standard_normal((N_TRIALS, N_TIMESTEPS, N_OUTPUTS))
WEIGHT = rng.uniform(0.5, 2, (N_TRIALS, N_TIMESTEPS))
TARGETS = Targets(Y, WEIGHT)
every_case = pytest.mark.parametrize("name", IDS)
both_divisions = pytest.mark.parametrize("by", ["label", "output"])


@dataclass(frozen=True)
class Expected:
    """What the dense reference says, by task: (n_tasks, ...)."""

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


def step_losses(solved: Solved, states: Tensor) -> Tensor:
    """Return w (output - y)^2 / n_outputs, (B, T, n_outputs), from the readout's weights."""
    case, readout = solved.case, solved.linearization.network.readout
    last = states.chunk(case.n_layers, dim=-1)[-1]
    rates = oracle.layer_output(case.cell, last)
    outputs = rates @ readout.weight.detach().T + readout.bias.detach()
    return torch.as_tensor(WEIGHT)[..., None] * (outputs - torch.as_tensor(Y)) ** 2 / N_OUTPUTS


@cache
def expected(name: str, by: str) -> Expected:
    solved = solve(name)
    dense, case = solved.dense, solved.case
    valid = np.ones((N_TRIALS, N_TIMESTEPS), bool) if case.mask is None else case.mask
    trials = [[1], [0, 2]] if by == "label" else [[0, 1, 2]] * N_OUTPUTS
    losses, gradients = [], []
    for j, own in enumerate(trials):
        steps = np.zeros_like(valid)
        steps[own] = valid[own]
        outputs = slice(None) if by == "label" else slice(j, j + 1)

        def loss(states, steps=steps, outputs=outputs):
            each = step_losses(solved, states)[..., outputs].sum(-1)
            return (each * torch.as_tensor(steps)).sum() / steps.sum()

        losses.append(loss(dense.states))
        found = oracle.loss_gradient(*solved.arguments, loss, **solved.options)
        gradients.append(torch.cat([found[n].flatten() for n in dense.parameter_names]))
    g = torch.stack(gradients)
    changes = -(g @ dense.J_theta.T @ dense.P.T).reshape(len(g), *dense.states.shape)
    return Expected(torch.stack(losses), g, changes, trials, dense.states, valid)


def flow_of(name: str, by: str, conditions: np.ndarray | None = None) -> TaskFlow:
    return TaskFlow(solve(name).linearization, division(by, conditions), Objective("mse"))


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def assert_matrix(found: np.ndarray, entries) -> None:
    n = len(found)
    wanted = np.array([[entries(i, j) for j in range(n)] for i in range(n)])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * abs(wanted).max())


@every_case
@both_divisions
def test_losses_gradients_and_changes(name, by):
    flow, true = flow_of(name, by), expected(name, by)
    np.testing.assert_allclose(flow.losses, true.losses, rtol=TOLERANCE)
    names = flow.lin.J_theta.to_parameters(torch.zeros(flow.lin.J_theta.shape[1]).double())
    assert set(names) == set(solve(name).dense.parameter_names)
    # The order of parameters is ours: inner products do not depend on it.
    found = flow.gradients @ flow.gradients.T
    np.testing.assert_allclose(found, true.gradients @ true.gradients.T, rtol=1e-9)
    scale = float(true.changes.abs().max())
    np.testing.assert_allclose(flow.changes, true.changes, atol=TOLERANCE * scale)


@every_case
@both_divisions
def test_interference_gradient_and_flow(name, by):
    found, true = flow_of(name, by).matrices(), expected(name, by)
    g, d = true.gradients, true.changes
    assert_matrix(found["interference"], lambda i, j: float(g[i] @ g[j]))
    assert_matrix(found["gradient"], lambda i, j: cosine(g[i], g[j]))
    own = true.trials
    assert_matrix(found["flow"], lambda i, j: cosine(d[i, own[i]], d[j, own[i]]))


def hidden(states: Tensor, name: str) -> Tensor:
    """Return the states without an LSTM's c."""
    if not name.startswith("lstm"):
        return states
    layers = states.chunk(solve(name).case.n_layers, dim=-1)
    return torch.cat([layer[..., :N_UNITS] for layer in layers], dim=-1)


@every_case
def test_second_moments_where_nothing_is_matched(name):
    flow, true = flow_of(name, "label"), expected(name, "label")
    assert flow.comparison == "second moments"
    keep = torch.as_tensor(true.valid)[..., None]
    z = hidden(true.states, name) * keep

    def overlap(a: Tensor, b: Tensor) -> float:
        return cosine(*(torch.einsum("bti,btj->ij", s, s) for s in (a, b)))

    own = true.trials
    found = flow.matrices()
    assert_matrix(found["state"], lambda i, j: overlap(z[own[i]], z[own[j]]))
    d = true.changes * keep
    assert_matrix(found["update"], lambda i, j: overlap(d[i, own[i]], d[j, own[j]]))


@every_case
def test_matched_conditions(name):
    flow, true = flow_of(name, "label", CONDITIONS), expected(name, "label")
    assert flow.comparison == "matched conditions"
    # Trials 1 (of a) and 0 (of b) share condition 4; b alone has condition 7.
    both = true.valid[1] & true.valid[0]
    z, d = hidden(true.states, name), true.changes
    found = flow.matrices()
    ones = np.eye(2)
    state, update = cosine(z[1, both], z[0, both]), cosine(d[0, 1, both], d[1, 0, both])
    for kind, value in (("state", state), ("update", update)):
        matrix = ones + value * (1 - ones)
        np.testing.assert_allclose(found[kind], matrix, atol=TOLERANCE)


@every_case
def test_outputs_match_themselves_and_have_no_states_of_their_own(name):
    found = flow_of(name, "output").matrices()
    assert set(found) == {"interference", "gradient", "flow", "update"}
    np.testing.assert_allclose(found["update"], found["flow"], atol=1e-12)


@every_case
@both_divisions
def test_weight_maps_and_periods_sum_to_the_interference(name, by):
    flow = flow_of(name, by)
    total = flow.matrices()["interference"]
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
    flow, solved = flow_of(name, by), solve(name)
    true = expected(name, by)
    readout = copy.deepcopy(solved.linearization.network.readout)
    last = true.states.chunk(solved.case.n_layers, dim=-1)[-1]
    outputs = readout(oracle.layer_output(solved.case.cell, last))
    each = torch.as_tensor(WEIGHT)[..., None] * (outputs - torch.as_tensor(Y)) ** 2 / N_OUTPUTS
    rows = []
    for j, own in enumerate(true.trials):
        steps = torch.zeros(N_TRIALS, N_TIMESTEPS)
        steps[own] = torch.as_tensor(true.valid[own]).float()
        chosen = each if by == "label" else each[..., j : j + 1]
        loss = (chosen.sum(-1) * steps).sum() / steps.sum()
        grads = torch.autograd.grad(loss, list(readout.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    g = torch.stack(rows)
    table = flow.interference_by_map()
    found = table.loc[table["weight_map"] == "readout", "value"].to_numpy()
    np.testing.assert_allclose(found, (g @ g.T).flatten().numpy(), rtol=1e-10)


@pytest.mark.parametrize("name", [n for n in IDS if "relu" not in n])
@both_divisions
def test_interference_predicts_what_a_step_on_one_task_does_to_the_others(name, by):
    # A step on L_j alone changes L_i by -eta <g_i, g_j>, with an error linear in eta.
    flow, solved = flow_of(name, by), solve(name)
    interference = flow.matrices()["interference"]
    valid = expected(name, by).valid
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
        each = step_losses(solved, states) * torch.as_tensor(valid)[..., None]
        losses = []
        for i, own in enumerate(expected(name, by).trials):
            chosen = each[own] if by == "label" else each[..., i]
            losses.append(float(chosen.sum()) / valid[own].sum())
        return (np.array(losses) - flow.losses) / eta

    eta = 1e-5 / scale
    for j in range(len(flow.losses)):
        error = [
            np.linalg.norm(measured(j, step) + interference[:, j]) for step in (eta, 10 * eta)
        ]
        assert error[0] < 1e-3 * np.linalg.norm(interference[:, j])
        assert 8 < error[1] / error[0] < 12


@pytest.mark.parametrize("name", ["gru", "tanh-ragged"])
def test_a_penalty_on_rates_belongs_to_trials_and_to_no_output(name):
    lin, penalised = solve(name).linearization, Objective("mse", activity_l2=0.7)
    by_label = TaskFlow(lin, division("label"), penalised)
    sizes = by_label.tasks.n_valid(lin.mask, N_TIMESTEPS).numpy()
    whole = penalised.value(lin.network, lin.states, TARGETS, lin.mask).detach().item()
    assert by_label.losses @ sizes / sizes.sum() == pytest.approx(whole, rel=1e-12)
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
    for j, (directions, own) in enumerate(zip(flow.subspaces(), true.trials, strict=True)):
        d = true.changes[j, own].flatten(0, 1).numpy()
        np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-12)
        held = ((d @ directions.T) ** 2).sum() / (d**2).sum()
        fewer = np.linalg.svd(d, compute_uv=False)[: len(directions) - 1]
        assert held >= 0.95 - 1e-9 and (fewer**2).sum() / (d**2).sum() < 0.95


# ------------------------------------------------------------------------------- similarities


def test_cosines_of_zero_huge_and_tiny_vectors():
    v = torch.tensor([[1.0, 0], [1e200, 1e200], [-1e-200, 0], [0, 0]], dtype=torch.float64)
    found = cosines(v).numpy()
    np.testing.assert_allclose(found[0, :3], [1, 0.5**0.5, -1])
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()


def test_overlap_of_second_moments_is_0_in_orthogonal_subspaces_and_ignores_the_sign():
    a = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[..., 2] = 0
    b = torch.zeros_like(a)
    b[..., 2] = 1
    found = moment_overlap([a, b, -3 * a], [None] * 3).numpy()
    np.testing.assert_allclose(found[0], [1, 0, 1], atol=1e-12)


def test_trials_of_one_condition_are_averaged():
    signal = torch.randn(
        2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    member = torch.tensor([[True, True, False, False], [False, False, True, True]])
    conditions = torch.tensor([0, 0, 0, 1])
    found = float(matched_cosines(signal, member, conditions, None)[0, 1])
    assert found == pytest.approx(cosine(signal[0, :2].mean(0), signal[1, 2]), abs=1e-12)


def test_tasks_that_share_no_condition_are_named():
    with pytest.raises(ValueError, match="conditions must have labels that any two tasks share"):
        tasks_by_label(LABELS, TARGETS, np.array([0, 1, 0]))


def test_cases_cover_every_cell():
    assert {case.name for case in CASES} >= {"tanh", "relu", "leaky", "gru", "lstm", "user"}
