"""The identities behind the alignment of sub-tasks, checked on the network at hand."""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.linearization import Linearization
from kpflow_sklearn.losses import Objective
from kpflow_sklearn.network import RecurrentNetwork
from kpflow_sklearn.recurrent_model import to_tensors
from kpflow_sklearn.sub_tasks import SubTasks
from kpflow_sklearn.task_flow import TaskFlow
from kpflow_sklearn.trials import AnalysisTrials
from kpflow_sklearn.verification import ROUNDING, relative, table_of_checks, trained_parameters


def verify_tasks(
    network: RecurrentNetwork, trials: AnalysisTrials, tasks: SubTasks, objective: Objective
) -> pd.DataFrame:
    """Check the gradients and flows of sub-tasks on a network and trials.

    Parameters
    ----------
    network : RecurrentNetwork
        The network; a float64 copy is checked.
    trials : AnalysisTrials
        Trials and targets.
    tasks : SubTasks
        Who is judged by what.
    objective : Objective
        The loss.

    Returns
    -------
    DataFrame
        Columns identity, error, tolerance, passed.
    """
    network = copy.deepcopy(network).double().cpu()
    if tasks.by_output:  # A penalty on rates belongs to no single output.
        objective = Objective(objective.loss)
    X, mask = to_tensors(trials.X, trials.mask, network)
    lin = Linearization(network, X, mask)
    flow = TaskFlow(lin, tasks, objective)
    interference = flow.gradients @ flow.gradients.T
    # N_j is counted here anew: whatever made the flow may have miscounted.
    steps = torch.ones(X.shape[:2], dtype=X.dtype) if mask is None else mask.to(X.dtype)
    valid = [torch.as_tensor(member)[:, None] * steps for member in tasks.member]
    counts = torch.stack([own.sum() for own in valid])
    shares = torch.ones_like(counts) if tasks.by_output else counts / steps.sum()
    gradients = _gradients(lin, X, tasks, objective, valid)
    whole = shares @ gradients
    summed = torch.einsum("j,jbth->bth", shares, flow.changes)
    error = objective.error(network, lin.states, trials.targets, mask)
    maps: Tensor = sum(g.double() @ g.double().T for g in flow.by_map.values())  # type: ignore
    return table_of_checks(
        [
            (
                "interference = <grad L_i, grad L_j>",
                relative(interference, gradients @ gradients.T),
                ROUNDING,
            ),
            (
                "sum of the interferences, by shares of trials = |grad L|^2",
                relative(shares @ interference @ shares, whole @ whole),
                ROUNDING,
            ),
            (
                "sum of the tasks' flows, by shares = -PKP* Err",
                relative(summed, -(lin.PKP @ error)),
                ROUNDING,
            ),
            ("interference = its sum over weight maps", relative(maps, interference), ROUNDING),
        ]
    )


def _gradients(
    lin: Linearization, X: Tensor, tasks: SubTasks, objective: Objective, valid: list[Tensor]
) -> Tensor:
    """Return grad L_j by automatic differentiation, (n_tasks, n_parameters)."""
    theta = list(trained_parameters(lin.network).values())
    states = lin.network.states(X)
    found = []
    for own, targets in zip(valid, tasks.targets, strict=True):
        losses = objective.step_losses(lin.network, states, targets)
        loss = (losses * own).sum() / own.sum()
        pieces = torch.autograd.grad(loss, theta, allow_unused=True, retain_graph=True)
        flat = [
            torch.zeros_like(p) if g is None else g for p, g in zip(theta, pieces, strict=True)
        ]
        found.append(torch.cat([g.flatten() for g in flat]))
    return torch.stack(found)
