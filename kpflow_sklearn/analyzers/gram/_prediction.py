"""Predictions of the loss curve, and whether training was gradient descent on given rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.fingerprints import values_digest
from kpflow_sklearn.feedforward import FeedForwardKernel, FeedForwardNetwork, why_not_closed
from kpflow_sklearn.training import TrainingRecord

CLOSED = "closed fields"
KERNEL = "kernel, frozen between snapshots"
NONE = "none"
#: Beginning of the remark on a prediction for a training with minibatches.
FULL_BATCH = "for full-batch descent, but "
#: Largest eta lambda / N for which |1 - eta lambda / N| <= 1.
STABLE = 2.0


def kernel_losses(
    starts: Sequence[int],
    kernels: Iterable[FeedForwardKernel],
    residuals: Tensor,
    n_samples: int,
    learning_rate: float,
    n_iter: int,
) -> np.ndarray:
    """Return the loss before each update as predicted by the kernels of the snapshots.

    Starting with the residuals of the first snapshot, each update is r <- r - (eta / N) K r with
    the kernel K of the latest snapshot. The residuals of later snapshots are not used.

    Parameters
    ----------
    starts : sequence of int
        Iteration of each snapshot.
    kernels : iterable of FeedForwardKernel
        Kernel of each snapshot.
    residuals : Tensor of shape (n_samples * n_outputs,)
        Residuals r at the first snapshot.
    n_samples : int
        Number N of samples.
    learning_rate : float
        Step size eta.
    n_iter : int
        Number of updates.

    Returns
    -------
    ndarray of shape (n_iter,)
        The losses: NaN before the first snapshot, and inf from where the prediction overflows.
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
    """Return a remark on the iterations between which a frozen kernel makes the loss diverge.

    Parameters
    ----------
    starts : sequence of int
        Iteration of each snapshot.
    rates : sequence of float
        eta lambda_max / N at each snapshot; NaN if it is unknown.
    n_iter : int
        Number of updates.

    Returns
    -------
    str
        The remark, or "" if the loss cannot diverge.
    """
    spans: list[list[int]] = []
    for start, stop, rate in zip(starts, [*starts[1:], n_iter], rates, strict=True):
        if start >= stop or not rate > STABLE:
            continue
        if spans and spans[-1][1] == start:
            spans[-1][1] = stop
        else:
            spans.append([start, stop])
    remarks = []
    if spans:
        where = ", ".join(f"{start} to {stop}" for start, stop in spans)
        remarks.append(
            f"the frozen kernel diverges from iteration {where}, where eta lambda_max / N is "
            "above 2; keep more early snapshots or lower learning_rate"
        )
    unknown = [str(start) for start, rate in zip(starts, rates, strict=True) if np.isnan(rate)]
    if unknown:
        where = ", ".join(unknown)
        remarks.append(f"lambda_max is unknown at iteration {where}: the prediction may diverge")
    return "; ".join(remarks)


def plain_descent(
    record: TrainingRecord | None, X: np.ndarray, y: np.ndarray
) -> tuple[float | None, str]:
    """Return the step size of a fit if it was gradient descent on the given rows.

    Parameters
    ----------
    record : TrainingRecord or None
        Record of the fit, or None if the network was trained elsewhere.
    X, y : ndarray
        The rows, (n_samples, n_features) and (n_samples, n_outputs).

    Returns
    -------
    learning_rate : float or None
        The step size, or None if training was not gradient descent on these rows or is unknown.
    remark : str
        Why there is no step size, or a remark that training used minibatches; otherwise "".
    """
    if record is None:
        return None, "it is unknown how the network was trained"
    if str(record.optimizer).lower() != "sgd" and record.optimizer is not torch.optim.SGD:
        name = getattr(record.optimizer, "__name__", record.optimizer)
        return None, f"optimizer {name!r} is not gradient descent"
    if record.digest != values_digest(X, y):
        return None, "the trainer was fitted on other rows than those analysed"
    batch = record.batch_size
    remark = "" if batch is None else f"{FULL_BATCH}training used batches of {batch}"
    return record.learning_rate, remark


def closed_or_kernel(network: FeedForwardNetwork) -> str:
    """Return the method that predicts training from the first snapshot to the last."""
    return CLOSED if network.depth == 1 and not why_not_closed(network) else KERNEL
