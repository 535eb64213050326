"""The score of outputs: the weighted accuracy for classes, the weighted R^2 for values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, r2_score

from kpflow_sklearn._common.arrays import check_squares
from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn.networks.loss._target_values import (
    Targets,
    as_labels,
    refuse_ignored,
)


def weighted_accuracy(targets: Targets, outputs: np.ndarray, is_new: np.ndarray | None) -> float:
    """Return sum_bt w_bt [right_bt] / sum_bt w_bt.

    Parameters
    ----------
    targets : Targets
        Indices of classes, with their weights w.
    outputs : ndarray of shape (n_trials, n_timesteps, n_classes)
        One value per class, of which the largest is the answer.
    is_new : ndarray of bool, shape (n_trials[, n_timesteps]), or None
        Targets that count as misses.

    Returns
    -------
    float
        The accuracy.
    """
    counts, weight = _counted(targets)
    truth = targets.values[counts]
    if is_new is not None:
        is_missed = np.broadcast_to(is_new.reshape(len(counts), -1), counts.shape)
        truth = np.where(is_missed[counts], -1, truth)
    answers = outputs[counts].argmax(axis=-1)
    return float(accuracy_score(truth, answers, sample_weight=weight))


def weighted_r2(targets: Targets, outputs: np.ndarray) -> float:
    """Return the mean R^2 of the outputs, each on its steps of positive weight.

    Parameters
    ----------
    targets : Targets
        Values, with one weight per step, or one per step and output.
    outputs : ndarray of shape (n_trials, n_timesteps, n_outputs)
        The outputs.

    Returns
    -------
    float
        The mean over the outputs that have a positive weight.

    Raises
    ------
    ValueError
        If squares of the values or outputs overflow.
    """
    counts, weight = _counted(targets)
    truth, answers = targets.values[counts], outputs[counts]
    check_squares(truth, answers)
    if weight.ndim == 1:
        return float(r2_score(truth, answers, sample_weight=weight))
    scores = []
    for y, prediction, w in zip(truth.T, answers.T, weight.T, strict=True):
        counts = w > 0
        if counts.any():
            scores.append(r2_score(y[counts], prediction[counts], sample_weight=w[counts]))
    return float(np.mean(scores))


def _counted(targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that have a weight, and their weights relative to the largest one."""
    largest = targets.weight if targets.weight.ndim == 2 else targets.weight.max(axis=-1)
    counts = largest > 0
    return counts, targets.weight[counts] / targets.weight.max()


def without_new_labels(
    y: ArrayLike, mask: np.ndarray | None, classes: np.ndarray, loss: str
) -> tuple[ArrayLike, np.ndarray | None]:
    """Replace labels that were not seen on fit by any class, with a warning.

    Parameters
    ----------
    y : array-like of shape (n_trials[, n_timesteps])
        Labels.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps.
    classes : ndarray of shape (n_classes,)
        The labels that were seen on fit.
    loss : str
        The loss as the user gave it, which decides the advice.

    Returns
    -------
    y : array-like
        Labels that are among the classes.
    is_new : ndarray of bool, or None
        Where labels were replaced; None if none was.

    Raises
    ------
    ValueError
        If a label on a valid step is -100, which torch's cross entropy leaves out.
    """
    labels = as_labels(y, "y")
    refuse_ignored(labels, mask, "y")
    is_new = ~np.isin(labels, classes)
    if mask is not None and mask.shape == labels.shape:
        is_new &= mask  # The padding may hold any value.
    are_comparable = (labels.dtype.kind in "OSU") == (classes.dtype.kind in "OSU")
    if not is_new.any() or not are_comparable:
        return y, None
    advice = (
        'StratifiedKFold(3) puts each class into each fold. With loss="cross_entropy", cv=3 '
        'does so too; with loss="auto", it is not known before fit that y holds classes.'
        if loss == "auto"
        else "StratifiedKFold puts each class into each fold."
    )
    warn_caller(
        f"y holds labels that were not seen on fit, {np.unique(labels[is_new])[:5].tolist()}, "
        f"which count as misses. {advice}",
        UserWarning,
    )
    return np.where(is_new, classes[0], labels), is_new
