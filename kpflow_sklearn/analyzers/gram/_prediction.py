"""Training predicted: by closed fields where they close, else by the kernel between snapshots."""

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
STABLE = 2.0  # Of eta lambda / N: beyond, |1 - eta lambda / N| > 1.


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
        eta lambda_max / N at each; NaN where it is not known.
    n_iter : int
        Number of updates.

    Returns
    -------
    str
        The remark.
    """
    spans: list[list[int]] = []
    for start, stop, rate in zip(starts, [*starts[1:], n_iter], rates, strict=True):
        if start >= stop or not rate > STABLE:
            continue
        if spans and spans[-1][1] == start:
            spans[-1][1] = stop
        else:
            spans.append([start, stop])
    said = []
    if spans:
        where = ", ".join(f"{start} to {stop}" for start, stop in spans)
        said.append(
            f"the frozen kernel diverges from iteration {where}, where eta lambda_max / N is "
            "above 2; keep more early snapshots or lower learning_rate"
        )
    unknown = [str(start) for start, rate in zip(starts, rates, strict=True) if np.isnan(rate)]
    if unknown:
        said.append(f"lambda_max is not known at iteration {', '.join(unknown)}: it may diverge")
    return "; ".join(said)


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
    if record.digest != values_digest(X, y):
        return None, "the rows analysed are not those that the trainer was fitted on"
    batch = record.batch_size
    remark = "" if batch is None else f"full-batch descent; training took batches of {batch}"
    return record.learning_rate, remark


def closed_or_kernel(network: FeedForwardNetwork) -> str:
    """Return which of the two predicts training from the first snapshot to the last."""
    return CLOSED if network.depth == 1 and not why_not_closed(network) else KERNEL
