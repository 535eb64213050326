"""Checks of the identities behind the alignment of sub-tasks on a given network."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.analyzers._trials import AnalysisTrials
from kpflow_sklearn.analyzers._verification import (
    as_precise_as_possible,
    derivatives,
    relative,
    table_of_checks,
    trained_parameters,
)
from kpflow_sklearn.analyzers.alignment._sub_tasks import SubTasks
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.networks import Objective, RecurrentNetwork, to_tensors
from kpflow_sklearn.operators import Linearization


def verify_tasks(
    network: RecurrentNetwork, trials: AnalysisTrials, tasks: SubTasks, objective: Objective
) -> pd.DataFrame:
    """Check the gradients and flows of the sub-tasks against automatic differentiation.

    Parameters
    ----------
    network : RecurrentNetwork
        The network, of which a float64 copy is checked, if its step can compute in float64.
    trials : AnalysisTrials
        The trials and their targets.
    tasks : SubTasks
        The sub-tasks: their trials and targets.
    objective : Objective
        The loss.

    Returns
    -------
    DataFrame
        One row per identity, with columns identity, error, tolerance and passed.
    """
    network, rounding = as_precise_as_possible(network, trials, objective)
    if tasks.by_output:  # A penalty on the rates does not belong to any one output.
        objective = Objective(objective.loss)
    X, mask = to_tensors(trials.X, trials.mask, network)
    lin = Linearization(network, X, mask)
    flow = TaskFlow(lin, tasks, objective)
    interference = (flow.gradients @ flow.gradients.T).to(X.dtype)
    # N_j is counted again, so that a miscount of the flow is found.
    steps = torch.ones(X.shape[:2], dtype=X.dtype) if mask is None else mask.to(X.dtype)
    valid = [torch.as_tensor(member)[:, None] * steps for member in tasks.member]
    counts = torch.stack([task_steps.sum() for task_steps in valid])
    shares = torch.ones_like(counts) if tasks.by_output else counts / steps.sum()

    by_autograd = _Autograd(network, X)
    losses = _losses(by_autograd.states, network, tasks, objective, valid, mask)
    gradients = torch.stack([by_autograd.gradient(loss) for loss in losses])
    # The derivative of the states along grad L_j, (n_tasks, n_trials, n_timesteps, n_states).
    moved = torch.stack([by_autograd.push(g) for g in gradients]) * steps[..., None]
    whole = by_autograd.gradient(
        objective.value(network, by_autograd.states, trials.targets, mask)
    )
    error = objective.error(network, lin.states, trials.targets, mask)
    summed = torch.einsum("j,jbth->bth", shares, flow.changes)
    maps: Tensor = sum(g.double() @ g.double().T for g in flow.by_map.values())  # type: ignore
    rows = [
        ("interference = <grad L_i, grad L_j>", interference, gradients @ gradients.T),
        (
            "sum of the interferences, by shares of trials = |grad L|^2",
            shares @ interference @ shares,
            whole @ whole,
        ),
        ("flow of each task = states along -grad L_j", flow.changes, -moved),
        ("sum of the tasks' flows, by shares = -PKP* Err", summed, -(lin.PKP @ error)),
        ("interference = its sum over weight maps", maps, interference),
    ]
    return table_of_checks(
        [(identity, relative(actual, expected), rounding) for identity, actual, expected in rows]
    )


class _Autograd:
    """Derivatives of the states with respect to theta, by automatic differentiation alone."""

    def __init__(self, network: RecurrentNetwork, X: Tensor) -> None:
        self.theta = list(trained_parameters(network).values())
        self.states = network.states(X)

    def gradient(self, value: Tensor) -> Tensor:
        """Return the gradient of a function of the states, (n_parameters,)."""
        return _flat(derivatives(value, self.theta))

    def push(self, direction: Tensor) -> Tensor:
        """Return the derivative of the states along a direction of the parameters."""
        # J^T v is linear in v, so the gradient of its product with the direction is J direction.
        v = torch.zeros_like(self.states, requires_grad=True)
        pulled = _flat(derivatives(self.states, self.theta, v, create_graph=True))
        return derivatives(pulled @ direction, [v])[0]


def _flat(pieces: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in pieces])


def _losses(
    states: Tensor,
    network: RecurrentNetwork,
    tasks: SubTasks,
    objective: Objective,
    valid: list[Tensor],
    mask: Tensor | None,
) -> list[Tensor]:
    """Return each L_j as a function of the states, without using the code of the flow."""
    return [
        (objective.step_losses(network, states, targets, mask) * steps).sum() / steps.sum()
        for steps, targets in zip(valid, tasks.targets, strict=True)
    ]
