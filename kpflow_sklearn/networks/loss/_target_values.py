"""The targets of every step, and the arrays that they consist of: labels, values, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kpflow_sklearn._common.arrays import as_array, check_numbers

#: The label of targets that ``torch.nn.functional.cross_entropy`` leaves out by default.
IGNORE_INDEX = -100


@dataclass(frozen=True)
class Targets:
    """The values that the loss compares the outputs with, and their weights, step by step.

    Attributes
    ----------
    values : ndarray
        (n_trials, n_timesteps, n_outputs) floats for mse, (n_trials, n_timesteps) class indices
        for cross_entropy; for a user's loss floats or integers, (n_trials, n_timesteps[, ...]).
    weight : ndarray of shape (n_trials, n_timesteps) or (n_trials, n_timesteps, n_outputs)
        w >= 0; zero where there is no target.
    """

    values: np.ndarray
    weight: np.ndarray

    def __getitem__(self, trials: np.ndarray) -> Targets:
        return Targets(self.values[trials], self.weight[trials])


def as_labels(values: ArrayLike, name: str) -> np.ndarray:
    """Return labels or numbers as an array of numbers only, or of strings only.

    NumPy would convert a list of strings and numbers, or one with gaps, to strings or objects.
    """
    array = as_array(values, name)
    if array.dtype.kind in "US" and not hasattr(values, "dtype"):
        array = np.asarray(values, dtype=object)
    if array.dtype != object:
        return array
    if all(isinstance(value, str) for value in array.flat):
        return array
    if all(isinstance(value, (int, float, complex, np.number, np.bool_)) for value in array.flat):
        return np.array(array.tolist()).reshape(array.shape)
    kinds = ", ".join(sorted({type(value).__name__ for value in array.flat}))
    raise ValueError(f"{name} must hold only numbers or only strings, without gaps, got {kinds}.")


def as_floats(y: np.ndarray, name: str) -> np.ndarray:
    """Return the values of y as floats; raise a ValueError if it holds labels."""
    if y.dtype.kind in "OSU":
        raise ValueError(
            f"loss='mse' needs numbers in {name}, got dtype {y.dtype}; use "
            "loss='cross_entropy' for labels."
        )
    return y.astype(np.float64)


def classes_in(y: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the classes among labels (n_trials[, n_timesteps]), (n_classes,), in order.

    Raises ValueError if y holds values instead of labels.
    """
    if y.ndim == 3:
        raise ValueError(
            "loss='cross_entropy' needs y of shape (n_trials,) or (n_trials, n_timesteps), "
            f"got shape {y.shape}."
        )
    if y.dtype.kind in "fc" and (y != np.round(y)).any():
        raise ValueError(
            "loss='cross_entropy' needs class labels in y, got continuous values: Unknown "
            "label type: continuous."
        )
    refuse_ignored(y, mask, "y")
    # The padding may hold any value, which is not a class.
    return np.unique(y if mask is None or y.ndim == 1 else y[mask])


def refuse_ignored(labels: np.ndarray, mask: np.ndarray | None, name: str) -> None:
    """Refuse the label by which torch's cross entropy leaves targets out; here it is a class.

    Parameters
    ----------
    labels : ndarray of shape (n_trials[, n_timesteps])
        Labels.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps; labels of other steps may be anything.
    name : str
        The name of the labels in the error.

    Raises
    ------
    ValueError
        If a label on a valid step is -100.
    """
    if labels.dtype.kind not in "ifc":
        return
    is_ignored = labels == IGNORE_INDEX
    if mask is not None and mask.shape == labels.shape:
        is_ignored &= mask
    if not is_ignored.any():
        return
    what, instead = "trials", "leave them out of X and y, or give them a loss_weight of 0"
    if labels.ndim == 2:
        what = "steps"
        instead = (
            "give mask=(y != -100) if they end their trials, or loss_weight=(y != -100) if not"
        )
    raise ValueError(
        f"{name} holds the label -100 at {is_ignored.sum()} of {labels.size} targets, which "
        "torch's cross_entropy leaves out (its ignore_index), but which would be a class here. "
        f"For these {what}, {instead}, with any valid class as their label, for example "
        "y = np.where(y == -100, y.max(), y)."
    )


def shape_advice(y: np.ndarray, X: np.ndarray, name: str) -> str:
    """Return how to give y, (n_trials, ...), that has no axis of steps or of outputs, or ""."""
    n_steps = X.shape[1]
    if y.ndim != 2:
        return ""
    if y.shape[1] == n_steps:
        return f" For one value per step, give {name}[:, :, None]."
    return (
        f" For outputs at the last step alone, repeat {name} over the steps, "
        f"np.repeat({name}[:, None], {n_steps}, axis=1), and give a loss_weight of shape "
        f"{X.shape[:2]} that is {n_steps} at the last step and 0 elsewhere; with mask, it is "
        "mask.sum() / len(mask) at the last valid step of each trial."
    )


def steps_first_advice(X: np.ndarray, n_targets: int, name: str) -> str:
    """Return advice for X whose second axis, not its first, has as many entries as y."""
    if X.shape[1] != n_targets:
        return ""
    return (
        f" The second axis of X has {n_targets}, as many as {name}: if X has its steps first, "
        "give kpflow_sklearn.datasets.trials_first(X)."
    )


def narrowed(values: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Convert values to the dtype of X; raise a ValueError if they are out of its range."""
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"{name} must be within the range of {dtype}, the dtype of X, got values up to "
            f"{abs(values).max():.3g}; scale {name} down or give X as float64."
        )
    return narrow


def next_input(X: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the next input and where it is valid; for single steps, the input itself."""
    if X.shape[1] == 1:
        return X.copy(), valid
    values = np.concatenate([X[:, 1:], np.zeros_like(X[:, :1])], axis=1)
    has_target = np.concatenate([valid[:, 1:], np.zeros_like(valid[:, :1])], axis=1)
    if not has_target.any():
        raise ValueError("y=None predicts the next input, but mask leaves one step per trial.")
    return values, has_target


def check_loss_weight(loss_weight: ArrayLike, X: np.ndarray, n_losses: int | None) -> np.ndarray:
    """Return weights of the steps, or of the losses of each step's outputs if it has them."""
    weight = check_numbers(loss_weight, "loss_weight", dtype=np.float64)
    shapes = [X.shape[:2]] if n_losses is None else [X.shape[:2], (*X.shape[:2], n_losses)]
    if weight.shape not in shapes:
        advice = ""
        if n_losses is None and weight.ndim == 3:
            advice = (
                " This loss is one number per step: weigh the outputs inside a function given as "
                "loss, and the steps by loss_weight."
            )
        raise ValueError(
            f"loss_weight must have shape {' or '.join(map(str, shapes))}, got "
            f"{weight.shape}.{advice}"
        )
    if (weight < 0).any() or not (weight > 0).any():
        raise ValueError(
            "loss_weight must be non-negative with at least one positive entry, got values from "
            f"{weight.min():g} to {weight.max():g}."
        )
    return weight
