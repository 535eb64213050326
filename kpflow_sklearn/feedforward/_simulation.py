"""Training simulated by a closed system of fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.feedforward._closed import ClosedFields, closed_system
from kpflow_sklearn.feedforward._network import FeedForwardNetwork


@dataclass(frozen=True)
class Simulation:
    """The course of training according to a closed system of fields.

    Attributes
    ----------
    n_steps : int
        Number of steps made. It is lower than requested only if ``stopped`` says why.
    loss : ndarray of shape (n_steps + 1,)
        Loss before each step and after the last one, up to the last finite value; empty if the
        loss overflows at the start.
    flips : ndarray of shape (n_steps,)
        Number of (sample, unit) gates of the lowest layer that each step flipped or, for a smooth
        activation, of slopes that it changed.
    recorded : list of int
        Steps after which outputs and fields were recorded. If the simulation ended early, the last
        step made is recorded as well.
    outputs : list of ndarray of shape (n_samples,) or (n_samples, n_outputs)
        f on the training rows, at each recorded step.
    outputs_new : list of ndarray
        f on the rows that are only predicted; NaN for rows that the system no longer describes.
    fields : list of dict of str to ndarray
        H_1 and, for two hidden layers, C_1 on the training rows.
    followed_new : ndarray of int, shape (n_new,)
        Number of steps for which the system describes each predicted row. For two hidden layers
        this ends when a gate of the upper layer flips on that row.
    stopped : str
        Why the simulation ended early; empty if it did not.
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
    """Simulate full-batch gradient descent by the closed system of the network's fields.

    Parameters
    ----------
    network : FeedForwardNetwork
        The network at the start.
    X, y : Tensor
        Training rows, (n_samples, n_features) and (n_samples, n_outputs).
    learning_rate : float
        Step size on L = sum r^2 / (2 n_samples).
    n_steps : int
        Number of steps.
    X_new : Tensor of shape (n_new, n_features), optional
        Rows that are only predicted.
    record : sequence of int, optional
        Steps after which outputs and fields are recorded; by default only the last.
    as_column : bool, default=False
        Whether the recorded outputs keep their second axis.

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
    recorded: dict[int, _State] = {}
    last: _State | None = None
    stopped = ""
    for step in range(n_steps + 1):
        state = _State.of(system, n)
        residuals = state.f[:n] - y
        loss = float((residuals**2).sum()) / (2 * n)
        if not np.isfinite(loss):
            stopped = f"the loss overflows in step {step}; take a smaller learning_rate"
            break
        losses.append(loss)
        if last is not None:
            flips.append(int((state.gates != last.gates).sum()))
            followed += state.followed
        last = state
        if step in wanted:
            recorded[step] = state
        if step < n_steps and not system.advance(residuals, learning_rate / n):
            stopped = f"a gate of the second layer flips in step {step + 1}"
            break
    if stopped and last is not None:
        recorded[len(losses) - 1] = last
    return Simulation(
        n_steps=len(flips),
        loss=np.array(losses),
        flips=np.array(flips, dtype=np.int64),
        followed_new=followed,
        stopped=stopped,
        **_records(recorded, n, as_column),
    )


class _State(NamedTuple):
    """The state of a closed system after a step; f is NaN on rows that it no longer describes."""

    f: Tensor
    gates: Tensor
    fields: dict[str, np.ndarray]
    followed: np.ndarray

    @classmethod
    def of(cls, system: ClosedFields, n: int) -> _State:
        followed = system.followed()
        f = torch.where(followed[:, None], system.outputs(), torch.nan)
        fields = {name: value[:n].numpy() for name, value in system.fields().items()}
        return cls(f, system.gates(), fields, followed[n:].numpy())


def _records(states: dict[int, _State], n: int, as_column: bool) -> dict[str, Any]:
    """Return the recorded steps with their outputs and fields, under the names of `Simulation`."""
    outputs = [(state.f if as_column else state.f[:, 0]).numpy() for state in states.values()]
    return {
        "recorded": list(states),
        "outputs": [f[:n] for f in outputs],
        "outputs_new": [f[n:] for f in outputs],
        "fields": [state.fields for state in states.values()],
    }
