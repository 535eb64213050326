"""Checks of what users hand in; errors name the argument, what was expected and what came."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_scalar
from sklearn.utils.validation import validate_data

ARRAY_OPTIONS: dict[str, Any] = {
    "allow_nd": True,
    "ensure_2d": False,
    "dtype": [np.float64, np.float32],
    "order": "C",
}


@contextmanager
def trials_of_one_length(values: Any, name: str) -> Iterator[None]:
    """Say what to do with trials of unequal length, where NumPy makes no array of them."""
    try:
        yield
    except ValueError as error:
        try:
            lengths = {len(trial) for trial in values if not isinstance(trial, str)}
        except TypeError:
            raise error from None
        if len(lengths) < 2:
            raise
        raise ValueError(
            f"{name} must be one array, got trials of unequal length, from {min(lengths)} to "
            f"{max(lengths)} steps: give the array and the mask that "
            f"kpflow_sklearn.datasets.pad_sequences({name}) returns."
        ) from error


def check_sequences(X: ArrayLike, name: str = "X") -> np.ndarray:
    """Return trials as a float array (n_trials, n_timesteps, n_features).

    float32 stays; everything else becomes float64.
    """
    with trials_of_one_length(X, name):
        array = check_array(X, input_name=name, **ARRAY_OPTIONS)
    if array.ndim != 3:
        raise ValueError(
            f"{name} must have shape (n_trials, n_timesteps, n_features), got an array of "
            f"{array.ndim} dimensions with shape {array.shape}."
        )
    _refuse_empty_axes(array, name)
    return array


def check_estimator_sequences(
    estimator: Any, X: ArrayLike, *, reset: bool
) -> tuple[np.ndarray, bool]:
    """Check X for an estimator and count its features on the last axis.

    Returns
    -------
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        The trials.
    single_step : bool
        Whether X came with two dimensions and is taken as trials of one step.
    """
    with trials_of_one_length(X, "X"):
        array = validate_data(estimator, X, reset=reset, **ARRAY_OPTIONS)
    single_step = array.ndim == 2
    if single_step:
        array = array[:, None, :]
    if array.ndim != 3:
        raise ValueError(
            "X must have shape (n_trials, n_timesteps, n_features), got an array of "
            f"{array.ndim} dimension(s) with shape {array.shape}. Reshape your data either using "
            "array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if it "
            "contains a single sample."
        )
    _refuse_empty_axes(array, "X")
    if reset:
        estimator.n_features_in_ = array.shape[-1]
    elif array.shape[-1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {array.shape[-1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return array, single_step


def _refuse_empty_axes(array: np.ndarray, name: str) -> None:
    for axis, what in ((0, "trial"), (1, "time step"), (2, "feature")):
        if array.shape[axis] == 0:
            raise ValueError(
                f"{name} must have at least one {what}, got shape {array.shape}: Found array "
                f"with 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required."
            )


def check_mask(mask: ArrayLike | None, X: np.ndarray, name: str = "mask") -> np.ndarray | None:
    """Return the boolean mask (n_trials, n_timesteps) of valid steps, a prefix of each trial."""
    if mask is None:
        return None
    array = np.asarray(mask)
    if array.shape != X.shape[:2]:
        raise ValueError(
            f"{name} must have shape (n_trials, n_timesteps) = {X.shape[:2]}, got {array.shape}."
        )
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"{name} must be boolean, got dtype {array.dtype} with other values.")
        array = array.astype(bool)
    if not array[:, 0].all():
        raise ValueError(
            f"{name} must mark at least the first step of each trial as valid; trial "
            f"{int(np.argmin(array[:, 0]))} has none."
        )
    gaps = (array[:, 1:] & ~array[:, :-1]).any(axis=1)
    if gaps.any():
        raise ValueError(
            f"{name} must be a prefix of each trial (valid steps first, then padding); trial "
            f"{int(np.argmax(gaps))} has a valid step after an invalid one. For steps that "
            "merely cost nothing, use loss_weight."
        )
    return array


def check_positive_int(value: Any, name: str, minimum: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``."""
    check_scalar(value, name, numbers.Integral, min_val=minimum)
    return int(value)


def check_real(
    value: Any,
    name: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    open_minimum: bool = False,
) -> float:
    """Return ``value`` if it is a finite real number in the closed (or half-open) range."""
    check_scalar(
        value,
        name,
        numbers.Real,
        min_val=minimum,
        max_val=maximum,
        include_boundaries=_boundaries(maximum, open_minimum),
    )
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return float(value)


def _boundaries(maximum: float | None, open_minimum: bool) -> str:
    """Say which ends belong to the range, in the words of ``check_scalar``."""
    if not open_minimum:
        return "both"
    return "neither" if maximum is None else "right"


def check_subset(value: Any, name: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``value`` as a tuple if it is a non-empty sequence of distinct ``choices``."""
    is_sequence = isinstance(value, Iterable) and not isinstance(value, str)
    found = tuple(value) if is_sequence else ()
    if not found or len(set(found)) != len(found) or not set(found) <= set(choices):
        raise ValueError(
            f"{name} must be a sequence of one or more of {', '.join(map(repr, choices))}, got "
            f"{value!r}."
        )
    return found


def check_choice(value: Any, name: str, choices: tuple[str, ...]) -> Any:
    """Return ``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def last_valid_step(mask: np.ndarray | None, X: np.ndarray) -> np.ndarray:
    """Return the index of each trial's last valid step."""
    if mask is None:
        return np.full(len(X), X.shape[1] - 1)
    return mask.sum(axis=1) - 1


def check_periods(
    periods: Mapping[str, tuple[int, int]] | None, n_timesteps: int
) -> dict[str, np.ndarray] | None:
    """Return which steps belong to each named period; those of none are "rest"."""
    if periods is None:
        return None
    if not isinstance(periods, Mapping) or not periods:
        raise ValueError(f"periods must map names to (start, stop) in steps, got {periods!r}.")
    left, found = np.ones(n_timesteps, dtype=bool), {}
    for name, bounds in periods.items():
        is_pair = isinstance(bounds, tuple | list) and len(bounds) == 2
        if not (is_pair and all(isinstance(b, numbers.Integral) for b in bounds)):
            raise ValueError(f"periods[{name!r}] must be (start, stop) in steps, got {bounds!r}.")
        start, stop = bounds
        if not 0 <= start < stop <= n_timesteps:
            raise ValueError(
                f"periods[{name!r}] must satisfy 0 <= start < stop <= {n_timesteps} steps, got "
                f"{bounds!r}."
            )
        if not left[start:stop].all():
            raise ValueError(f"periods[{name!r}] = {bounds!r} overlaps another period.")
        left[start:stop] = False
        found[name] = np.zeros(n_timesteps, dtype=bool)
        found[name][start:stop] = True
    if left.any():
        if "rest" in found:
            raise ValueError('periods leave steps out, which are named "rest": use another name.')
        found["rest"] = left
    return found
