"""Sub-tasks: which trials, or which outputs, each of them is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kpflow_sklearn._common.checks import plain_repr
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.networks import Objective, Targets
from kpflow_sklearn.operators import Linearization


class TaskLosses(NamedTuple):
    """The loss of each sub-task, and its derivatives.

    Attributes
    ----------
    values : Tensor of shape (n_tasks,)
        L_j = (1/N_j) sum of w l over the task's valid steps.
    errors : Tensor of shape (n_tasks, n_trials, n_timesteps, n_states)
        Err_j = w dl/dz, zero where the task has no say.
    readout : Tensor of shape (n_tasks, n_readout_parameters)
        Gradient of L_j by the readout's trained parameters.
    """

    values: Tensor
    errors: Tensor
    readout: Tensor


@dataclass(frozen=True)
class SubTasks:
    """What the analysed trials are divided into.

    Attributes
    ----------
    names : ndarray of shape (n_tasks,)
        Sorted labels, or the numbers of the outputs.
    member : ndarray of bool, shape (n_tasks, n_trials)
        The trials of each task; all of them, where tasks are outputs.
    targets : list of Targets
        For each task the weights and values it is judged by.
    by_output : bool
        Whether the tasks are outputs rather than groups of trials.
    conditions : ndarray of int, shape (n_trials,), or None
        What trials of different tasks have in common.
    """

    names: np.ndarray
    member: np.ndarray
    targets: list[Targets]
    by_output: bool
    conditions: np.ndarray | None = None

    def n_valid(self, mask: Tensor | None, n_timesteps: int) -> Tensor:
        """Return N_j, the number of valid steps of each task's trials, (n_tasks,)."""
        member = torch.as_tensor(self.member).double()
        if mask is None:
            return member.sum(1) * n_timesteps
        return member @ mask.sum(1).double().cpu()

    def losses(self, lin: Linearization, objective: Objective) -> TaskLosses:
        """Return the loss of each task and its derivatives by states and readout.

        Parameters
        ----------
        lin : Linearization
            The network on the analysed trials.
        objective : Objective
            The loss; a penalty on rates belongs to trials and so to no single output.

        Returns
        -------
        TaskLosses
            One of each for every task.
        """
        if self.by_output:
            objective = Objective(objective.loss)
        readout = [p for p in lin.network.readout.parameters() if p.requires_grad]
        z = lin.states.detach().requires_grad_()
        counts = self.n_valid(lin.mask, z.shape[1])
        values, errors, by_readout = [], [], []
        for member, targets, count in zip(self.member, self.targets, counts, strict=True):
            valid = as_tensor(member, z.dtype, z.device)[:, None]
            valid = valid if lin.mask is None else valid * lin.mask
            with torch.enable_grad():
                total = (objective.step_losses(lin.network, z, targets) * valid).sum()
                error, *slopes = torch.autograd.grad(total, [z, *readout])
            values.append(total.detach().double() / count.item())
            errors.append(error)
            pieces = [z.new_empty(0), *(slope.flatten() for slope in slopes)]
            by_readout.append(torch.cat(pieces).double() / count.item())
        return TaskLosses(torch.stack(values), torch.stack(errors), torch.stack(by_readout))


def tasks_by_label(
    labels: ArrayLike, targets: Targets, conditions: ArrayLike | None = None
) -> SubTasks:
    """Return the sub-tasks of trials that carry a label each.

    Parameters
    ----------
    labels : array-like of shape (n_trials,)
        Strings or integers.
    targets : Targets
        Of the same trials.
    conditions : array-like of shape (n_trials,), optional
        Labels that trials of different tasks share.

    Returns
    -------
    SubTasks
        One for each label.

    Raises
    ------
    ValueError
        If two tasks have no condition in common.
    """
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    member = codes == np.arange(len(names))[:, None]
    matched = None if conditions is None else match_conditions(labels, conditions)
    return SubTasks(names, member, [targets] * len(names), False, matched)


def match_conditions(labels: ArrayLike, conditions: ArrayLike) -> np.ndarray:
    """Return the number of each trial's condition, if any two tasks share one.

    Parameters
    ----------
    labels, conditions : array-like of shape (n_trials,)
        Task and condition of each trial.

    Returns
    -------
    ndarray of int, shape (n_trials,)
        Numbers from 0 on.

    Raises
    ------
    ValueError
        If two tasks have no condition in common.
    """
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    known, matched = np.unique(np.asarray(conditions), return_inverse=True)
    seen = np.zeros((len(names), len(known)), dtype=int)
    seen[codes, matched] = 1
    alone = np.argwhere(seen @ seen.T == 0)
    if len(alone):
        i, j = alone[0]
        raise ValueError(
            "conditions must have labels that any two tasks share, but among the trials to "
            f"analyse {plain_repr(names[i])} and {plain_repr(names[j])} share none; leave "
            "conditions out to compare second moments instead."
        )
    return matched


def tasks_by_output(targets: Targets, n_outputs: int) -> SubTasks:
    """Return the outputs as sub-tasks: all trials count for each, and match themselves.

    Parameters
    ----------
    targets : Targets
        Of an mse loss, the mean over ``n_outputs`` outputs.
    n_outputs : int
        Their number.

    Returns
    -------
    SubTasks
        One for each output; their losses sum to the whole.
    """
    n_trials = len(targets.values)
    weight = targets.weight if targets.weight.ndim == 3 else targets.weight[..., None]
    own = np.eye(n_outputs, dtype=weight.dtype)
    each = [Targets(targets.values, weight * own[j]) for j in range(n_outputs)]
    member = np.ones((n_outputs, n_trials), dtype=bool)
    return SubTasks(np.arange(n_outputs), member, each, True, np.arange(n_trials))
