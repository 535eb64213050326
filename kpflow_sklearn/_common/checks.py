"""Checks of what users hand in; errors name the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_scalar

from kpflow_sklearn._common.arrays import ARRAY_OPTIONS, as_array, check_numbers, validated

#: Counts beyond are slips: no array of that many entries fits anywhere.
LARGEST_COUNT = 2**31 - 1


def check_sequences(X: ArrayLike, name: str = "X") -> np.ndarray:
    """Return trials as a float array (n_trials, n_timesteps, n_features).

    float32 stays; everything else becomes float64.
    """
    array = check_numbers(X, name)
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
    array = validated(estimator, X, reset=reset, **ARRAY_OPTIONS)
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
    array = as_array(mask, name)
    if array.shape != X.shape[:2]:
        raise ValueError(
            f"{name} must have shape (n_trials, n_timesteps) = {X.shape[:2]}, got {array.shape}, "
            f"because X has shape {X.shape}."
        )
    if array.dtype != bool:
        if array.dtype.kind not in "iufO" or not np.isin(array, (0, 1)).all():
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


def check_positive_int(
    value: Any, name: str, minimum: int = 1, maximum: int | None = LARGEST_COUNT
) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``."""
    _refuse_bool(value, name, "int")
    check_scalar(value, name, numbers.Integral, min_val=minimum, max_val=maximum)
    return int(value)


def _refuse_bool(value: Any, name: str, kind: str) -> None:
    """Refuse True and False, which Python counts among the integers."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an instance of {kind}, not {type(value).__name__}.")


def check_flag(value: Any, name: str) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def check_verbose(value: Any) -> None:
    """Refuse a ``verbose`` that is neither a flag nor a whole number from 0 on."""
    is_count = isinstance(value, numbers.Integral) and int(value) >= 0
    if not (is_count or isinstance(value, np.bool_)):
        raise ValueError(f"verbose must be True, False or an integer from 0 on, got {value!r}.")


def check_real(
    value: Any,
    name: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    open_minimum: bool = False,
) -> float:
    """Return ``value`` if it is a finite real number in the closed (or half-open) range."""
    _refuse_bool(value, name, "float")
    if isinstance(value, numbers.Real) and not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be an instance of float, not {type(value).__name__}.")
    check_scalar(
        value,
        name,
        numbers.Real,
        min_val=minimum,
        max_val=maximum,
        include_boundaries=_boundaries(maximum, open_minimum),
    )
    if not is_finite(value):
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return float(value)


def is_finite(value: Any) -> bool:
    """Return whether a number is one that a float can hold."""
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _boundaries(maximum: float | None, open_minimum: bool) -> str:
    """Say which ends belong to the range, in the words of ``check_scalar``."""
    if not open_minimum:
        return "both"
    return "neither" if maximum is None else "right"


def check_subset(value: Any, name: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``value`` as a tuple if it is a non-empty sequence of distinct ``choices``."""
    is_sequence = isinstance(value, Iterable) and not isinstance(value, str)
    found = tuple(value) if is_sequence and np.ndim(value) != 0 else ()
    known = all(isinstance(word, str) and word in choices for word in found)
    if not (found and known and len(set(found)) == len(found)):
        raise ValueError(
            f"{name} must be a sequence of one or more of {', '.join(map(repr, choices))}, got "
            f"{value!r}."
        )
    return found


def check_word(value: Any, name: str) -> str:
    """Return ``value`` if it is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}.")
    return value


def check_slice(value: Any, name: str, length: int) -> None:
    """Refuse what is no slice, or selects nothing of ``length`` entries."""
    try:
        n_selected = len(range(*value.indices(length))) if isinstance(value, slice) else None
    except TypeError:
        n_selected = None
    if not n_selected:
        raise ValueError(
            f"{name} must be a slice of whole numbers that selects some of {length}, got "
            f"{value!r}."
        )


def check_folder(value: Any, name: str) -> Path:
    """Return the path of a folder, which is made where there is none."""
    if not (isinstance(value, str | PathLike) and str(value)):
        raise ValueError(f"{name} must be the path of a folder, got {value!r}.")
    try:
        Path(value).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}={str(value)!r} cannot be a folder: {error}.") from error
    return Path(value)


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
        kinds = {type(b) for b in bounds} if is_pair else {bool}
        if not all(issubclass(k, numbers.Integral) and k is not bool for k in kinds):
            raise ValueError(f"periods[{name!r}] must be (start, stop) in steps, got {bounds!r}.")
        start, stop = bounds
        if not 0 <= start < stop <= n_timesteps:
            raise ValueError(
                f"periods[{name!r}] must satisfy 0 <= start < stop <= {n_timesteps} steps, got "
                f"{bounds!r}."
            )
        if not left[start:stop].all():
            raise ValueError(f"periods[{name!r}], got {bounds!r}, overlaps another period.")
        left[start:stop] = False
        found[name] = np.zeros(n_timesteps, dtype=bool)
        found[name][start:stop] = True
    if left.any():
        if "rest" in found:
            raise ValueError(
                'periods leave steps out, which are named "rest": use another name, got '
                f"{periods!r}."
            )
        found["rest"] = left
    return found


def check_labels(values: ArrayLike, name: str, n_trials: int) -> np.ndarray:
    """Return one label a trial, strings or integers.

    Parameters
    ----------
    values : array-like of shape (n_trials,)
        Labels.
    name : str
        What they are called in errors.
    n_trials : int
        How many there must be.

    Returns
    -------
    ndarray
        The labels.

    Raises
    ------
    ValueError
        If there is another number of them, or some are missing or no labels.
    """
    labels = as_array(values, name)
    if labels.dtype.kind in "US" and not hasattr(values, "dtype"):
        # NumPy turns a list of strings and numbers, or gaps, into strings.
        labels = np.asarray(values, dtype=object)
    if labels.shape != (n_trials,):
        raise ValueError(
            f"{name} must hold one label a trial, shape ({n_trials},), got {labels.shape}; X (or "
            f"X_analysis, where given) has {n_trials} trials."
        )
    for label in labels:
        whole = isinstance(label, str | int | np.integer | np.bool_)
        whole = whole or (isinstance(label, float | np.floating) and float(label).is_integer())
        if not whole:
            raise ValueError(
                f"{name} must be strings or integers without gaps, got {plain_repr(label)}."
            )
    if len({isinstance(label, str) for label in labels}) > 1:
        raise ValueError(f"{name} must be all strings or all integers, got both.")
    return np.array([x if isinstance(x, str) else int(x) for x in labels])


def plain_repr(label: object) -> str:
    """Return how Python would write a label, without the name of NumPy's type."""
    return repr(label.item() if isinstance(label, np.generic) else label)
