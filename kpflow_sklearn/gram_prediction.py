"""Training predicted: by closed fields where they close, else by the kernel between snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.feedforward import (
    FeedForwardKernel,
    FeedForwardNetwork,
    closed_system,
    why_not_closed,
)
from kpflow_sklearn.feedforward_model import TrainingRecord, data_digest

CLOSED = "closed fields"
KERNEL = "kernel, frozen between snapshots"
NONE = "none"


@dataclass(frozen=True)
class Simulation:
    """What a closed system of fields says of training.

    Attributes
    ----------
    n_steps : int
        Steps made; fewer than asked for only if ``stopped`` says why.
    loss : ndarray of shape (n_steps + 1,)
        Before each step, and after the last.
    flips : ndarray of shape (n_steps,)
        Number of (sample, unit) gates of the lowest layer that each step flipped (of slopes that
        it changed, for a smooth activation).
    recorded : list of int
        The numbers of steps after which the rest was kept.
    outputs : list of ndarray of shape (n_samples,) or (n_samples, n_outputs)
        f on the training rows.
    outputs_new : list of ndarray
        f on the rows that are only predicted.
    fields : list of dict of str to ndarray
        H_1, and for two hidden layers C_1, on the training rows.
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
    recorded: list[int] = []
    outputs, outputs_new, fields = [], [], []
    stopped, gates = "", system.gates()
    for step in range(n_steps + 1):
        f = system.outputs()
        state = {name: value[:n].numpy() for name, value in system.fields().items()}
        losses.append(float(((f[:n] - y) ** 2).sum()) / (2 * n))
        if step < n_steps and not system.advance(f[:n] - y, learning_rate / n):
            stopped = f"a gate of the second layer flips in step {step + 1}"
        if step in wanted or stopped:
            found = f.numpy() if as_column else f[:, 0].numpy()
            recorded.append(step)
            outputs.append(found[:n])
            outputs_new.append(found[n:])
            fields.append(state)
        if stopped or step == n_steps:
            break
        before, gates = gates, system.gates()
        flips.append(int((before != gates).sum()))
    return Simulation(
        len(flips),
        np.array(losses),
        np.array(flips, dtype=np.int64),
        recorded,
        outputs,
        outputs_new,
        fields,
        stopped,
    )


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
