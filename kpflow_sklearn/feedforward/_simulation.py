"""Training followed by a closed system of fields, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.feedforward._closed import ClosedFields, closed_system
from kpflow_sklearn.feedforward._network import FeedForwardNetwork


@dataclass(frozen=True)
class Simulation:
    """What a closed system of fields says of training.

    Attributes
    ----------
    n_steps : int
        Steps made; fewer than asked for only if ``stopped`` says why.
    loss : ndarray of shape (n_steps + 1,)
        Before each step, and after the last; finite, and empty if it overflows at the start.
    flips : ndarray of shape (n_steps,)
        Number of (sample, unit) gates of the lowest layer that each step flipped (of slopes that
        it changed, for a smooth activation).
    recorded : list of int
        The numbers of steps after which the rest was kept; the last one too if ``stopped``.
    outputs : list of ndarray of shape (n_samples,) or (n_samples, n_outputs)
        f on the training rows.
    outputs_new : list of ndarray
        f on the rows that are only predicted; NaN where they are no longer followed.
    fields : list of dict of str to ndarray
        H_1, and for two hidden layers C_1, on the training rows.
    followed_new : ndarray of int, shape (n_new,)
        For how many steps each of those rows was followed: of two hidden layers, until a gate of
        its upper one flipped.
    stopped : str
        Why the simulation ended early, or "".
    """

    n_steps: int
    loss: np.ndarray = field(repr=False)
    flips: np.ndarray = field(repr=False)
    recorded: list[int]
    outputs: list[np.ndarray] = field(repr=False)
    outputs_new: list[np.ndarray] = field(repr=False)
    fields: list[dict[str, np.ndarray]] = field(repr=False)
    followed_new: np.ndarray = field(repr=False)
    stopped: str


@torch.no_grad()
def simulate_fields(
    network: FeedForwardNetwork,
    X: Tensor,
    y: Tensor,
    *,
    learning_rate: float,
    n_steps: int,
    X_new: Tensor | None = None,
    record: Sequence[int] | None = None,
    as_column: bool = False,
) -> Simulation:
    """Follow full-batch gradient descent by the closed system of the network's fields.

    Parameters
    ----------
    network : FeedForwardNetwork
        Where to start.
    X, y : Tensor
        Training rows, (n_samples, n_features) and (n_samples, n_outputs).
    learning_rate : float
        Step size on L = sum r^2 / (2 n_samples).
    n_steps : int
        How many steps.
    X_new : Tensor of shape (n_new, n_features), optional
        Rows that are only predicted.
    record : sequence of int, optional
        After how many steps to keep fields and outputs; default after the last.
    as_column : bool, default=False
        Whether outputs keep the second axis.

    Returns
    -------
    Simulation
        The course of training.

    Raises
    ------
    ValueError
        If no closed system describes the network.
    """
    n = len(X)
    rows = X if X_new is None else torch.cat([X, X_new])
    system = closed_system(network, rows, n)
    wanted = {n_steps} if record is None else set(record)
    losses: list[float] = []
    flips: list[int] = []
    followed = np.zeros(len(rows) - n, dtype=np.int64)
    states: dict[int, _State] = {}
    stopped, gates, last = "", system.gates(), None
    for step in range(n_steps + 1):
        now = _State.of(system, n)
        loss = float(((now.f[:n] - y) ** 2).sum()) / (2 * n)
        if not np.isfinite(loss):
            stopped = f"the loss overflows in step {step}; take a smaller learning_rate"
            break
        losses.append(loss)
        last = now
        if step:
            before, gates = gates, system.gates()
            flips.append(int((before != gates).sum()))
            followed += now.followed
        if step in wanted:
            states[step] = now
        if step < n_steps and not system.advance(now.f[:n] - y, learning_rate / n):
            stopped = f"a gate of the second layer flips in step {step + 1}"
            break
    if stopped and last is not None:
        states[len(losses) - 1] = last
    outputs = [
        state.f.numpy() if as_column else state.f[:, 0].numpy() for state in states.values()
    ]
    return Simulation(
        n_steps=len(flips),
        loss=np.array(losses),
        flips=np.array(flips, dtype=np.int64),
        recorded=list(states),
        outputs=[f[:n] for f in outputs],
        outputs_new=[f[n:] for f in outputs],
        fields=[state.fields for state in states.values()],
        followed_new=followed,
        stopped=stopped,
    )


class _State(NamedTuple):
    """What is kept of a closed system after a step; f of rows it has lost is NaN."""

    f: Tensor
    fields: dict[str, np.ndarray]
    followed: np.ndarray

    @classmethod
    def of(cls, system: ClosedFields, n: int) -> _State:
        known = system.followed()
        f = torch.where(known[:, None], system.outputs(), torch.nan)
        fields = {name: value[:n].numpy() for name, value in system.fields().items()}
        return cls(f, fields, known[n:].numpy())
