"""Warn of axes of X other than (n_trials, n_timesteps, n_features)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn.networks import (
    CLEARLY,
    Objective,
    RecurrentNetwork,
    TargetEncoder,
    is_prefix_both_ways,
    losses_by_layout,
    takes_steps_first,
)

#: How much smoother the last axis of X must be for it to be taken for time.
SMOOTH_SHARE = 0.25


def warn_of_steps_first(
    module: nn.Module,
    network: RecurrentNetwork,
    objective: Objective,
    encoder: TargetEncoder,
    X: np.ndarray,
    y: ArrayLike | None,
    mask: np.ndarray | None,
) -> None:
    """Warn if the module takes steps first, unless the data show that X has its trials first.

    They show it by a mask or labels that fit no other layout, or by a loss that is clearly lower.
    A module without a forward method is suspected only if the loss is clearly lower with the
    steps first.

    Parameters
    ----------
    module : Module
        The user's network.
    network : RecurrentNetwork
        The same network, as it was recognised.
    objective : Objective
        Its loss.
    encoder : TargetEncoder
        The form of y.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    y : array-like or None
        Targets.
    mask : ndarray of bool or None
        Valid steps.
    """
    steps_first = takes_steps_first(module, network, X)
    if steps_first is False or (mask is not None and not is_prefix_both_ways(mask)):
        return
    losses = losses_by_layout(network, objective, encoder, X, y)
    if losses is None or CLEARLY * losses[1] > losses[0]:
        return
    fits_turned = losses[1] < CLEARLY * losses[0]
    if not (steps_first or fits_turned):
        return
    n, m = X.shape[:2]
    why = (
        "fits y clearly better if the first axis is time"
        if fits_turned
        else "takes steps first, as torch does with batch_first=False"
    )
    warn_caller(
        f"X of shape {X.shape} is read as {n} trials of {m} steps, but {type(module).__name__} "
        f"{why}. If X holds {n} steps of {m} trials, give "
        "kpflow_sklearn.datasets.trials_first(X) and y in the same way; if it holds trials first, "
        'confirm it by SavedTraining(network, layout="trials_first").',
        UserWarning,
    )


def warn_of_channels_first(X: np.ndarray) -> None:
    """Warn if the last axis of X (n_trials, n_timesteps, n_features) is probably time.

    Its entries then change little from one to the next, and much less than along the second axis.
    """
    n_steps, n_features = X.shape[1:]
    few = X[:256].astype(np.float64)
    if n_features < max(8, n_steps + 1):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        spread = 2 * few.var(axis=(1, 2)).mean()
        along_features = (np.diff(few, axis=2) ** 2).mean()
        along_steps = (np.diff(few, axis=1) ** 2).mean() if n_steps > 1 else spread
        is_smooth = along_features < SMOOTH_SHARE * min(spread, along_steps)
    if is_smooth:
        warn_caller(
            f"X of shape {X.shape} is read as trials of {n_steps} step(s) with {n_features} "
            "features, but its last axis is much smoother than the second, like time. If it has "
            "the shape (n_trials, n_channels, n_timesteps), as in aeon, give "
            "X.transpose(0, 2, 1); data with steps first are turned by "
            "kpflow_sklearn.datasets.trials_first(X). SavedTraining(network, "
            'layout="trials_first") confirms that X is right.',
            UserWarning,
        )
