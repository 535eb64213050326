"""Trajectories to one row a trial."""

from __future__ import annotations

import numpy as np

from kpflow_sklearn._validation import last_valid_step

POOLINGS = ("last", "mean", "flatten")


def pooled(values: np.ndarray, valid: np.ndarray | None, pooling: str) -> np.ndarray:
    """Reduce the steps of each trial.

    Parameters
    ----------
    values : ndarray of shape (n_trials, n_timesteps, n)
        Zero at invalid steps.
    valid : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps.
    pooling : {"last", "mean", "flatten"}
        The last valid step, the mean over valid steps, or all steps side by side.

    Returns
    -------
    ndarray of shape (n_trials, n) or (n_trials, n_timesteps * n)
        One row a trial.
    """
    if pooling == "last":
        return values[np.arange(len(values)), last_valid_step(valid, values)]
    if pooling == "mean":
        n_valid = values.shape[1] if valid is None else valid.sum(1)[:, None, None]
        return (values / np.asarray(n_valid, values.dtype)).sum(1)  # The sum alone may overflow.
    return values.reshape(len(values), -1)
