"""Measure how the error of each sub-task changes the states and losses of all sub-tasks."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.analyzers.alignment._similarity import cosines, matched_cosines, moment_overlap
from kpflow_sklearn.analyzers.alignment._sub_tasks import SubTasks
from kpflow_sklearn.networks import Objective
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.results import Estimate, row
from kpflow_sklearn.spectra import spectrum_of_gram

#: How the matrices "update" and "state" compare the trials of different tasks.
MATCHED, MOMENTS = "matched conditions", "second moments"


class TaskFlow:
    """The gradients of the sub-tasks and the changes of the states that they cause.

    Everything follows from one gradient g_j = J_theta* P* Err_j and one forward tangent
    -P J_theta g_j per task; the latter is delta_ij = -P_i K_ij P_j* Err_j on the trials of task i.

    Parameters
    ----------
    lin : Linearization
        The network at one snapshot, linearized on the analysed trials.
    tasks : SubTasks
        The sub-tasks: their trials and targets.
    objective : Objective
        The loss. A penalty on the rates belongs to whole trials, so it is left out if tasks are
        outputs.

    Attributes
    ----------
    counts : Tensor of shape (n_tasks,)
        N_j, the number of valid steps of the trials of task j.
    losses : ndarray of shape (n_tasks,)
        L_j = (1/N_j) sum of w l over these steps.
    readout : Tensor of shape (n_tasks, n_readout_parameters)
        Gradient of L_j with respect to the readout's trained parameters.
    adjoints : Tensor of shape (n_tasks, n_trials, n_timesteps, n_states)
        a_j = P* Err_j / N_j.
    by_map : dict of str to Tensor of shape (n_tasks, n_parameters)
        g_j in the parameters of each weight map that moves the states.
    changes : Tensor of shape (n_tasks, n_trials, n_timesteps, n_states)
        -P J_theta g_j, the change of all trials' states, to first order, by a unit step on L_j
        alone.
    """

    def __init__(self, lin: Linearization, tasks: SubTasks, objective: Objective) -> None:
        self.lin, self.tasks = lin, tasks
        self.counts = self._count_steps()
        losses = _losses(lin, tasks, objective, self.counts)
        self.losses = losses.values.cpu().numpy()
        self.readout = losses.readout
        # a_j = P* Err_j / N_j for all tasks at once, (n_tasks, n_trials, n_timesteps, n_states).
        counts = self.counts.to(lin.states)[:, None, None, None]
        self.adjoints = (lin.P.T @ losses.errors) / counts
        self._parts = {name: op.jacobian for name, op in lin.K.components.items()}
        self.by_map = self._gradients(self.adjoints)
        # -P J_theta g_j, with J_theta g_j the sum over the weight maps.
        pushes = torch.stack([part @ self.by_map[name] for name, part in self._parts.items()])
        self.changes: Tensor = -(lin.P @ pushes.sum(0))

    def _count_steps(self) -> Tensor:
        member, mask = torch.as_tensor(self.tasks.member).double(), self.lin.mask
        if mask is None:
            return member.sum(1) * self.lin.states.shape[1]
        return member @ mask.sum(1).double().cpu()

    def _gradients(self, adjoints: Tensor) -> dict[str, Tensor]:
        # J* divides by the N of all trials, but the adjoints are already divided by N_j.
        return {name: (part.T @ adjoints) * self.lin.n_valid for name, part in self._parts.items()}

    @property
    def own_changes(self) -> list[Tensor]:
        """delta_jj of each task on its own trials, (n_trials of task j, n_timesteps, n_states)."""
        return [
            d[torch.as_tensor(m)] for d, m in zip(self.changes, self.tasks.member, strict=True)
        ]

    @cached_property
    def gradients(self) -> Tensor:
        """g_j in all recurrent parameters (and a trained initial state), in double precision."""
        return torch.cat([g.double() for g in self.by_map.values()], dim=1)

    @property
    def comparison(self) -> str:
        """How the matrices "update" and "state" compare the trials of different tasks."""
        return MOMENTS if self.tasks.conditions is None else MATCHED

    @cached_property
    def matrices(self) -> dict[str, np.ndarray]:
        """The alignment matrices by name, each (n_tasks, n_tasks).

        They are interference <g_i, g_j>, gradient (its cosine), flow cos(delta_ii, delta_ij),
        update cos(delta_ii, delta_jj) and, if tasks are groups of trials, state cos(Z_i, Z_j).
        In gradient, flow and update, entries of a task without a gradient are NaN.
        """
        matrices = {
            "interference": self.gradients @ self.gradients.T,
            "gradient": cosines(self.gradients),
            "flow": self._flow(),
            "update": self._compare(self.changes),
        }
        if not self.tasks.by_output:
            states = self._visible(self.lin.states)
            matrices["state"] = self._compare(states.expand(len(self.tasks.names), *states.shape))
        return {name: matrix.cpu().numpy() for name, matrix in matrices.items()}

    def _flow(self) -> Tensor:
        rows = []
        for i, member in enumerate(self.tasks.member):
            # delta_ij on the trials of task i, for all j: (n_tasks, entries of these trials).
            there = self.changes[:, torch.as_tensor(member)].flatten(1).double()
            rows.append(cosines(there[i : i + 1], there)[0])
        return torch.stack(rows)

    def _compare(self, signals: Tensor) -> Tensor:
        """Compare signal i on the trials of task i with signal j on those of task j."""
        member = torch.as_tensor(self.tasks.member)
        if self.tasks.conditions is None:
            on_trials = [signal[trials] for signal, trials in zip(signals, member, strict=True)]
            masks = [None if self.lin.mask is None else self.lin.mask[m] for m in member]
            return moment_overlap(on_trials, masks)
        conditions = torch.as_tensor(self.tasks.conditions)
        return matched_cosines(signals, member, conditions, self.lin.mask)

    def _visible(self, states: Tensor) -> Tensor:
        """Return the part of the states that other units see: an LSTM's h without its c."""
        tangent = self.lin.tangent
        parts = [
            states[..., s.start : s.start + layer.n_units]
            for layer, s in zip(tangent.layers, tangent.slices, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def rows(self, iteration: int) -> list[dict[str, Any]]:
        """Return the rows of ``results_``: each task's loss and each entry of the matrices."""
        tasks = self.tasks
        sizes = tasks.member.sum(1)
        rows = [
            row(iteration, "network", "", "loss", float(loss), task=name, n_trials=int(size))
            for name, loss, size in zip(tasks.names, self.losses, sizes, strict=True)
        ]
        for kind, matrix in self.matrices.items():
            compared = self.comparison if kind in ("update", "state") else ""
            for (i, j), value in np.ndenumerate(matrix):
                estimate = Estimate(float(value))
                if np.isnan(value):
                    estimate = Estimate.missing(self._why_missing(kind, i, j))
                rows.append(
                    row(
                        iteration,
                        "network" if kind == "state" else "PKP",
                        "hidden" if compared == MOMENTS else "all",
                        kind,
                        estimate,
                        reduction=compared,
                        n_trials=int((tasks.member[i] | tasks.member[j]).sum()),
                        task=tasks.names[i],
                        other_task=tasks.names[j],
                    )
                )
        return rows

    def _why_missing(self, kind: str, i: int, j: int) -> str:
        if kind == "state":
            return "the states are zero where they are compared"
        if np.isnan(self.matrices["gradient"][i, j]):
            return "a task has no gradient"
        return "a task moves no states where they are compared"

    def interference_by_map(self) -> pd.DataFrame:
        """Return <g_i, g_j> of each weight map; all but "readout" sum to the interference."""
        grams = {name: g.double() @ g.double().T for name, g in self.by_map.items()}
        if self.readout.shape[1]:
            grams["readout"] = self.readout @ self.readout.T
        return pd.concat(
            [self._tidy(gram, weight_map=name) for name, gram in grams.items()],
            ignore_index=True,
        )

    def interference_by_period(self, periods: dict[str, np.ndarray]) -> pd.DataFrame:
        """Return the part of <g_i, g_j> for each pair of periods, one for g_i and one for g_j.

        Every step belongs to exactly one period, given by a mask (n_timesteps,), so the parts sum
        to the interference.
        """
        gradients = {}
        for name, steps in periods.items():
            # The part of g_j from the steps of one period: J_theta* applied to a_j, in which all
            # other steps are set to zero.
            chosen = torch.as_tensor(steps).to(self.adjoints)[:, None]
            parts = self._gradients(self.adjoints * chosen).values()
            gradients[name] = torch.cat([g.double() for g in parts], dim=1)
        return pd.concat(
            [
                self._tidy(g @ g_other.T, period=period, other_period=other)
                for period, g in gradients.items()
                for other, g_other in gradients.items()
            ],
            ignore_index=True,
        )

    def _tidy(self, matrix: Tensor, **about: str) -> pd.DataFrame:
        names = self.tasks.names
        n = len(names)
        values = matrix.cpu().numpy().ravel()
        columns = {
            **about,
            "task": np.repeat(names, n),
            "other_task": np.tile(names, n),
            "value": np.where(np.isfinite(values), values, np.nan),  # Overflow becomes NaN.
        }
        return pd.DataFrame(columns)

    def subspaces(self, share: float = 0.95) -> list[np.ndarray]:
        """Return the directions that hold ``share`` of the trace of each delta_jj's hidden Gram.

        They are orthonormal rows, (n_directions, n_states); none for a task without a gradient.
        """
        subspaces = []
        for change in self.own_changes:
            # Rows are (trial, step), columns states; scaled, so that squares do not overflow.
            flat = change.flatten(0, 1).double()
            flat = flat / flat.abs().max().clamp(min=torch.finfo(flat.dtype).tiny)
            gram = flat.mT @ flat
            rank = spectrum_of_gram(gram).rank(share)
            n = 0 if rank.reason else int(rank.value)
            # The Gram of a zero or overflowing change has no eigenvectors to return.
            vectors = torch.linalg.eigh(gram if n else torch.zeros_like(gram))[1].flip(1)
            subspaces.append(vectors[:, :n].mT.cpu().numpy())
        return subspaces


class _Losses(NamedTuple):
    """The loss L_j of each task with its derivatives.

    ``values`` holds L_j, (n_tasks,). ``errors`` holds Err_j = w dl/dz, (n_tasks, n_trials,
    n_timesteps, n_states), which is zero outside the task's trials. ``readout`` holds dL_j/dphi,
    (n_tasks, n_readout_parameters).
    """

    values: Tensor
    errors: Tensor
    readout: Tensor


def _losses(lin: Linearization, tasks: SubTasks, objective: Objective, counts: Tensor) -> _Losses:
    if tasks.by_output:
        objective = Objective(objective.loss)
    assert lin.network.readout is not None  # An objective needs outputs.
    readout = [p for p in lin.network.readout.parameters() if p.requires_grad]
    z = lin.states.detach().requires_grad_()
    values, errors, by_readout = [], [], []
    for member, targets, count in zip(tasks.member, tasks.targets, counts, strict=True):
        # 1 on the valid steps of the task's trials, (n_trials, n_timesteps or 1).
        valid = torch.as_tensor(member).to(z)[:, None]
        valid = valid if lin.mask is None else valid * lin.mask
        with torch.enable_grad():
            total = (objective.step_losses(lin.network, z, targets, lin.mask) * valid).sum()
            error, *slopes = torch.autograd.grad(
                total, [z, *readout], allow_unused=True, materialize_grads=True
            )
        values.append(total.detach().double() / count.item())
        errors.append(error)
        pieces = [z.new_empty(0), *(slope.flatten() for slope in slopes)]
        by_readout.append(torch.cat(pieces).double() / count.item())
    return _Losses(torch.stack(values), torch.stack(errors), torch.stack(by_readout))
