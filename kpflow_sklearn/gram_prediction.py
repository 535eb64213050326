"""Training predicted: by closed fields where they close, else by the kernel between snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.feedforward import (
    ClosedFields,
    FeedForwardKernel,
    FeedForwardNetwork,
    closed_system,
    why_not_closed,
)
from kpflow_sklearn.feedforward_model import TrainingRecord, data_digest

CLOSED = "closed fields"
KERNEL = "kernel, frozen between snapshots"
NONE = "none"
STABLE = 2.0  # Of eta lambda / N: beyond, |1 - eta lambda / N| > 1.


@dataclass(frozen=True)
class Simulation:
    """What a closed system of fields says of training.

    Attributes
    ----------
    n_steps : int
        Steps made; fewer than asked for only if ``stopped`` says why.
    loss : ndarray of shape (n_steps + 1,)
        Before each step, and after the last; finite.
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


def kernel_losses(
    starts: Sequence[int],
    kernels: Iterable[FeedForwardKernel],
    residuals: Tensor,
    n_samples: int,
    learning_rate: float,
    n_iter: int,
) -> np.ndarray:
    """Return the loss before each update as the kernels of the snapshots predict it.

    From the residuals at the first snapshot, r <- r - (eta / N) K r with the K of the latest
    snapshot; no later residual enters.

    Parameters
    ----------
    starts : sequence of int
        Iteration of each snapshot.
    kernels : iterable of FeedForwardKernel
        The kernel of each.
    residuals : Tensor of shape (n_samples * n_outputs,)
        At the first of them.
    n_samples : int
        N.
    learning_rate : float
        eta.
    n_iter : int
        Number of updates.

    Returns
    -------
    ndarray of shape (n_iter,)
        NaN before the first snapshot; inf where the prediction diverges.
    """
    losses = np.full(n_iter, np.nan)
    stops = [*starts[1:], n_iter]
    for start, stop, kernel in zip(starts, stops, kernels, strict=True):
        for t in range(start, min(stop, n_iter)):
            losses[t] = float((residuals**2).sum()) / (2 * n_samples)
            if not np.isfinite(losses[t]):
                losses[t:] = np.inf
                return losses
            residuals = residuals - learning_rate / n_samples * (kernel @ residuals)
    return losses


def unstable_remark(starts: Sequence[int], rates: Sequence[float], n_iter: int) -> str:
    """Say between which iterations a frozen kernel makes the loss grow for ever, "" if nowhere.

    Parameters
    ----------
    starts : sequence of int
        Iteration of each snapshot.
    rates : sequence of float
        eta lambda_max / N at each.
    n_iter : int
        Number of updates.

    Returns
    -------
    str
        The remark.
    """
    spans: list[list[int]] = []
    for start, stop, rate in zip(starts, [*starts[1:], n_iter], rates, strict=True):
        if start >= stop or rate <= STABLE:
            continue
        if spans and spans[-1][1] == start:
            spans[-1][1] = stop
        else:
            spans.append([start, stop])
    if not spans:
        return ""
    where = ", ".join(f"{start} to {stop}" for start, stop in spans)
    return (
        f"the frozen kernel diverges from iteration {where}, where eta lambda_max / N is above 2; "
        "keep more early snapshots or lower learning_rate"
    )


def plain_descent(
    record: TrainingRecord | None, X: np.ndarray, y: np.ndarray
) -> tuple[float | None, str]:
    """Return the step size of a fit that was gradient descent on some rows, or why there is none.

    Parameters
    ----------
    record : TrainingRecord or None
        Of the fit, if it is known.
    X, y : ndarray
        The rows, (n_samples, n_features) and (n_samples, n_outputs).

    Returns
    -------
    learning_rate : float or None
        None if the updates are no gradient descent on these rows, or are not known.
    remark : str
        The reason; or that training used batches, if it did.
    """
    if record is None:
        return None, "how the network was trained is not known"
    if record.optimizer not in ("sgd", torch.optim.SGD):
        name = getattr(record.optimizer, "__name__", record.optimizer)
        return None, f"optimizer {name!r} is not gradient descent"
    if record.digest != data_digest(X, y):
        return None, "the rows analysed are not those that the trainer was fitted on"
    batch = record.batch_size
    remark = "" if batch is None else f"full-batch descent; training took batches of {batch}"
    return record.learning_rate, remark


def closed_or_kernel(network: FeedForwardNetwork) -> str:
    """Return which of the two predicts training from the first snapshot to the last."""
    return CLOSED if network.depth == 1 and not why_not_closed(network) else KERNEL
