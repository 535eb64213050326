"""What the error of each sub-task does to the states and losses of all, at one snapshot."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.analyzers.alignment._similarity import cosines, matched_cosines, moment_overlap
from kpflow_sklearn.analyzers.alignment._sub_tasks import SubTasks
from kpflow_sklearn.networks import Objective
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.spectra import spectrum_of_gram

MATRICES = ("interference", "gradient", "flow", "update", "state")
#: How update and state were compared.
MATCHED, MOMENTS = "matched conditions", "second moments"


class TaskFlow:
    """The gradients of the sub-tasks and the changes of the states that they cause.

    One gradient g_j = J_theta* P* Err_j and one forward tangent -P J_theta g_j a task give
    everything: on the trials of task i the latter is delta_ij = -P_i K_ij P_j* Err_j.

    Parameters
    ----------
    lin : Linearization
        The network at one snapshot, on the analysed trials.
    tasks : SubTasks
        Who is judged by what.
    objective : Objective
        The loss.

    Attributes
    ----------
    losses : ndarray of shape (n_tasks,)
        L_j.
    adjoints : Tensor of shape (n_tasks, n_trials, n_timesteps, n_states)
        a_j = P* Err_j / N_j.
    by_map : dict of str to Tensor of shape (n_tasks, n_parameters)
        g_j in the parameters of each weight map; "readout" is not part of the flow of states.
    changes : Tensor of shape (n_tasks, n_trials, n_timesteps, n_states)
        -P J_theta g_j: what a unit step on L_j alone does to all trials, to first order.
    """

    def __init__(self, lin: Linearization, tasks: SubTasks, objective: Objective) -> None:
        self.lin, self.tasks = lin, tasks
        losses = tasks.losses(lin, objective)
        self.losses = losses.values.cpu().numpy()
        self.readout = losses.readout
        counts = tasks.n_valid(lin.mask, lin.states.shape[1]).to(lin.states)
        self.adjoints = (lin.P.T @ losses.errors) / counts[:, None, None, None]
        self._parts = {name: op.jacobian for name, op in lin.K.components.items()}
        self.by_map = self._gradients(self.adjoints)
        pushes = torch.stack([part @ self.by_map[name] for name, part in self._parts.items()])
        self.changes: Tensor = -(lin.P @ pushes.sum(0))

    def _gradients(self, adjoints: Tensor) -> dict[str, Tensor]:
        # J* divides by the N of all trials, the adjoints are already divided by N_j.
        return {name: (part.T @ adjoints) * self.lin.n_valid for name, part in self._parts.items()}

    @property
    def own_changes(self) -> list[Tensor]:
        """delta_jj of each task on its own trials, (n_trials of it, n_timesteps, n_states)."""
        return [
            d[torch.as_tensor(m)] for d, m in zip(self.changes, self.tasks.member, strict=True)
        ]

    @cached_property
    def gradients(self) -> Tensor:
        """g_j in all recurrent parameters (and a trained initial state), in double precision."""
        return torch.cat([g.double() for g in self.by_map.values()], dim=1)

    @property
    def comparison(self) -> str:
        """How update and state compare trials of different tasks."""
        return MOMENTS if self.tasks.conditions is None else MATCHED

    def matrices(self) -> dict[str, np.ndarray]:
        """Return every alignment matrix, (n_tasks, n_tasks); NaN where a task has no gradient.

        Returns
        -------
        dict of str to ndarray
            interference <g_i, g_j>, gradient (its cosine), flow cos(delta_ii, delta_ij), update
            cos(delta_ii, delta_jj) and, for tasks that are groups of trials, state cos(Z_i, Z_j).
        """
        found = {
            "interference": self.gradients @ self.gradients.T,
            "gradient": cosines(self.gradients),
            "flow": self._flow(),
            "update": self._compare(self.changes),
        }
        if not self.tasks.by_output:
            states = self._visible(self.lin.states)
            found["state"] = self._compare(states.expand(len(self.tasks.names), *states.shape))
        return {name: matrix.cpu().numpy() for name, matrix in found.items()}

    def _flow(self) -> Tensor:
        rows = []
        for i, member in enumerate(self.tasks.member):
            there = self.changes[:, torch.as_tensor(member)].flatten(1).double()
            rows.append(cosines(there[i : i + 1], there)[0])
        return torch.stack(rows)

    def _compare(self, signals: Tensor) -> Tensor:
        """Compare signal i on the trials of task i with signal j on those of task j."""
        member = torch.as_tensor(self.tasks.member)
        own = [signal[trials] for signal, trials in zip(signals, member, strict=True)]
        if self.tasks.conditions is None:
            masks = [None if self.lin.mask is None else self.lin.mask[m] for m in member]
            return moment_overlap(own, masks)
        conditions = torch.as_tensor(self.tasks.conditions)
        return matched_cosines(signals, member, conditions, self.lin.mask)

    def _visible(self, states: Tensor) -> Tensor:
        """Return the part of the states that others see: an LSTM's h without c."""
        tangent = self.lin.tangent
        parts = [
            states[..., s.start : s.start + layer.n_units]
            for layer, s in zip(tangent.layers, tangent.slices, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def interference_by_map(self) -> pd.DataFrame:
        """Return <g_i, g_j> of each weight map: those but "readout" sum to the interference.

        Returns
        -------
        DataFrame
            Columns weight_map, task, other_task, value.
        """
        grams = {name: g.double() @ g.double().T for name, g in self.by_map.items()}
        if self.readout.shape[1]:
            grams["readout"] = self.readout @ self.readout.T
        return pd.concat(
            [self._tidy(gram, weight_map=name) for name, gram in grams.items()],
            ignore_index=True,
        )

    def interference_by_period(self, periods: dict[str, np.ndarray]) -> pd.DataFrame:
        """Return <g_i, g_j> split by the periods in which the weights of either act.

        Parameters
        ----------
        periods : dict of str to ndarray of bool, shape (n_timesteps,)
            Which steps are in each; together all steps, each once.

        Returns
        -------
        DataFrame
            Columns period, other_period, task, other_task, value; they sum to the interference.
        """
        found = {}
        for name, steps in periods.items():
            chosen = torch.as_tensor(steps).to(self.adjoints)[:, None]
            parts = self._gradients(self.adjoints * chosen).values()
            found[name] = torch.cat([g.double() for g in parts], dim=1)
        return pd.concat(
            [
                self._tidy(mine @ others.T, period=period, other_period=other)
                for period, mine in found.items()
                for other, others in found.items()
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
            "value": np.where(np.isfinite(values), values, np.nan),  # Beyond float64.
        }
        return pd.DataFrame(columns)

    def subspaces(self, share: float = 0.95) -> list[np.ndarray]:
        """Return the hidden directions that hold ``share`` of each task's own change.

        Parameters
        ----------
        share : float, default=0.95
            Share of the trace of the hidden-axis Gram of delta_jj.

        Returns
        -------
        list of ndarray of shape (n_directions, n_states)
            Orthonormal; none where a task has no gradient.
        """
        found = []
        for own in self.own_changes:
            flat = own.flatten(0, 1).double()
            flat = flat / flat.abs().max().clamp(min=torch.finfo(flat.dtype).tiny)
            gram = flat.mT @ flat
            rank = spectrum_of_gram(gram).rank(share)
            n = 0 if rank.reason else int(rank.value)
            # None of a zero change, or of one that overflowed.
            vectors = torch.linalg.eigh(gram if n else torch.zeros_like(gram))[1].flip(1)
            found.append(vectors[:, :n].mT.cpu().numpy())
        return found
