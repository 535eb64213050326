"""Validate user input: errors name the argument, what was expected and what was given."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_scalar

from kpflow_sklearn._common.arrays import ARRAY_OPTIONS, as_array, check_numbers, validated

#: Larger counts are taken for mistakes: an array of that many float64 numbers has 16 GiB.
LARGEST_COUNT = 2**31 - 1


def check_sequences(X: ArrayLike, name: str = "X") -> np.ndarray:
    """Return trials as an array (n_trials, n_timesteps, n_features) of float32 or float64."""
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
    """Check X for an estimator, and store or compare the number of features.

    Returns
    -------
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        The trials.
    single_step : bool
        Whether X had two dimensions, which are read as trials of one step.
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
    for axis, item in ((0, "trial"), (1, "time step"), (2, "feature")):
        if array.shape[axis] == 0:
            raise ValueError(
                f"{name} must have at least one {item}, got shape {array.shape}: Found array "
                f"with 0 {item}(s) (shape={array.shape}) while a minimum of 1 is required."
            )


def check_mask(mask: ArrayLike | None, X: np.ndarray, name: str = "mask") -> np.ndarray | None:
    """Return the boolean mask (n_trials, n_timesteps); valid steps come first in each trial."""
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
            raise ValueError(
                f"{name} must be boolean (or 0 and 1), got other values of dtype {array.dtype}."
            )
        array = array.astype(bool)
    if not array[:, 0].all():
        raise ValueError(
            f"{name} must mark at least the first step of each trial as valid, but that of "
            f"trial {int(np.argmin(array[:, 0]))} is invalid."
        )
    gaps = (array[:, 1:] & ~array[:, :-1]).any(axis=1)
    if gaps.any():
        raise ValueError(
            f"{name} must be a prefix of each trial (valid steps first, then padding), but trial "
            f"{int(np.argmax(gaps))} has a valid step after an invalid one. To exclude steps from "
            "the loss only, use loss_weight."
        )
    return array


def ends_constant(X: np.ndarray) -> bool:
    """Return whether the last two steps of any trial of X are equal, as in padding."""
    return X.shape[1] > 1 and bool((X[:, -1] == X[:, -2]).all(axis=-1).any())


def check_positive_int(
    value: Any, name: str, minimum: int = 1, maximum: int | None = LARGEST_COUNT
) -> int:
    """Return ``value`` if it is an integer from ``minimum`` to ``maximum``."""
    _refuse_bool(value, name, "int")
    check_scalar(value, name, numbers.Integral, min_val=minimum, max_val=maximum)
    return int(value)


def _refuse_bool(value: Any, name: str, kind: str) -> None:
    """Reject True and False, which Python treats as integers."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an instance of {kind}, not {type(value).__name__}.")


def check_flag(value: Any, name: str) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def check_verbose(value: Any) -> None:
    """Check that ``verbose`` is a flag or a non-negative integer."""
    is_count = isinstance(value, numbers.Integral) and int(value) >= 0
    if not (is_count or isinstance(value, np.bool_)):
        raise ValueError(f"verbose must be True, False or an integer >= 0, got {value!r}.")


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
    included = ("neither" if maximum is None else "right") if open_minimum else "both"
    check_scalar(
        value, name, numbers.Real, min_val=minimum, max_val=maximum, include_boundaries=included
    )
    if not is_finite(value):
        raise ValueError(f"{name} must be finite, got {value!r}.")
    return float(value)


def is_finite(value: Any) -> bool:
    """Return whether a number is finite as a float."""
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_sequence(value: Any) -> bool:
    """Return whether ``value`` can be iterated, and is not a string, mapping or iterator.

    An iterator can be read only once, whereas a parameter is read in every fit.
    """
    is_other = isinstance(value, str | bytes | Mapping | Iterator)
    return isinstance(value, Iterable) and not is_other


def check_subset(value: Any, name: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``value`` as a tuple if it is a non-empty sequence of distinct ``choices``."""
    words = tuple(value) if is_sequence(value) and np.ndim(value) != 0 else ()
    valid = all(isinstance(word, str) and word in choices for word in words)
    if not (words and valid and len(set(words)) == len(words)):
        raise ValueError(
            f"{name} must be a sequence of one or more of {', '.join(map(repr, choices))}, got "
            f"{value!r}."
        )
    return words


def check_word(value: Any, name: str) -> str:
    """Return ``value`` if it is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}.")
    return value


def check_slice(value: Any, name: str, length: int) -> None:
    """Check that ``value`` is a slice that selects at least one of ``length`` entries."""
    try:
        n_selected = len(range(*value.indices(length))) if isinstance(value, slice) else None
    except TypeError:
        n_selected = None
    if not n_selected:
        raise ValueError(
            f"{name} must be a slice of integers that selects at least one of {length} entries, "
            f"got {value!r}."
        )


def check_folder(value: Any, name: str) -> Path:
    """Return the path of a folder, which is made if it does not exist."""
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
    """Return the mask (n_timesteps,) of each named period; the other steps are "rest"."""
    if periods is None:
        return None
    if not isinstance(periods, Mapping) or not periods:
        raise ValueError(f"periods must map names to (start, stop) in steps, got {periods!r}.")
    rest, masks = np.ones(n_timesteps, dtype=bool), {}
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
        if not rest[start:stop].all():
            raise ValueError(f"periods[{name!r}], got {bounds!r}, overlaps another period.")
        rest[start:stop] = False
        masks[name] = np.zeros(n_timesteps, dtype=bool)
        masks[name][start:stop] = True
    if rest.any():
        if "rest" in masks:
            raise ValueError(
                'periods must not use the name "rest", which is given to the steps outside all '
                f"periods, got {periods!r}."
            )
        masks["rest"] = rest
    return masks


def check_labels(values: ArrayLike, name: str, n_trials: int) -> np.ndarray:
    """Return one label per trial, strings or integers.

    Parameters
    ----------
    values : array-like of shape (n_trials,)
        Labels.
    name : str
        Name of the argument in errors.
    n_trials : int
        Required number of labels.

    Returns
    -------
    ndarray of shape (n_trials,)
        The labels.

    Raises
    ------
    ValueError
        If the number of labels is wrong, or a label is missing or of another type.
    """
    labels = as_array(values, name)
    if labels.dtype.kind in "US" and not hasattr(values, "dtype"):
        # np.asarray turns the numbers and gaps in a list with strings into strings.
        labels = np.asarray(values, dtype=object)
    if labels.shape != (n_trials,):
        raise ValueError(
            f"{name} must hold one label per trial, shape ({n_trials},), got {labels.shape}. "
            f"X, or the set of trials to analyse if one was given, has {n_trials} trials."
        )
    for label in labels:
        is_label = isinstance(label, str | int | np.integer | np.bool_)
        if not is_label and isinstance(label, float | np.floating):
            is_label = float(label).is_integer()
        if not is_label:
            raise ValueError(
                f"{name} must be strings or integers without gaps, got {plain_repr(label)}."
            )
    if len({isinstance(label, str) for label in labels}) > 1:
        raise ValueError(f"{name} must be all strings or all integers, got both.")
    return np.array([x if isinstance(x, str) else int(x) for x in labels])


def check_sample_weight(values: ArrayLike, n_samples: int) -> np.ndarray:
    """Return the weights of samples, (n_samples,), which are >= 0 and not all zero."""
    weights = check_numbers(values, "sample_weight", ensure_min_samples=0)
    if weights.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must hold one weight per sample of X, shape ({n_samples},), got "
            f"{weights.shape}."
        )
    if (weights < 0).any() or not weights.any():
        raise ValueError(
            "sample_weight must be >= 0 and positive for at least one sample, got "
            f"{'only zeros' if not weights.any() else f'{weights.min():.3g}'}."
        )
    return weights


def plain_repr(label: object) -> str:
    """Return the repr of a label as a Python value, without the name of NumPy's type."""
    return repr(label.item() if isinstance(label, np.generic) else label)
