"""Whatever users hand in as an array, brought to one, or refused in words that name it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

ARRAY_OPTIONS: dict[str, Any] = {
    "allow_nd": True,
    "ensure_2d": False,
    "dtype": [np.float64, np.float32],
    "order": "C",
}
# Whether numbers are finite is checked here: scikit-learn's error says nothing of where, and sends
# to imputers and to other estimators.
_FINITE_LATER: dict[str, Any] = {"ensure_all_finite": False}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put an argument's name before what NumPy or scikit-learn say of it, where they do not."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{re.escape(name)}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


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


def as_array(values: Any, name: str) -> np.ndarray:
    """Return an array-like as an array of whatever it holds, numbers or labels.

    Tensors are taken off their graph and device. What NumPy would silently take for something
    else is refused: hidden entries, sparse matrices, mappings, lists of unequal length.
    """
    if issparse(values):
        raise TypeError(
            f"{name}: Sparse data was passed, but dense data is required. Use .toarray()."
        )
    if hasattr(values, "detach"):
        try:
            values = values.detach().cpu().numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise ValueError(
                f"{name} must be a dense tensor of a type that NumPy has, got {values.dtype} "
                f"values of layout {values.layout} on {values.device}."
            ) from error
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} must hold all of its entries, got a masked array that hides "
            f"{np.ma.count_masked(values)}; mark padded steps with mask instead."
        )
    try:
        with trials_of_one_length(values, name):
            array = np.asarray(values)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ValueError(f"{name} must be one array, got entries of unequal length.") from None
        raise
    is_alone = array.ndim == 0 and array.dtype == object
    if is_alone or array.dtype.kind in "mMV" or (array.dtype == object and _is_nested(array)):
        what = f"a {type(values).__name__}" if is_alone else f"{array.dtype} values"
        raise ValueError(f"{name} must be an array of numbers or labels, got {what}.")
    return array


def _is_nested(array: np.ndarray) -> bool:
    return any(isinstance(x, (np.ndarray, list, tuple)) for x in array.flat)


def check_numbers(values: ArrayLike, name: str, **options: Any) -> np.ndarray:
    """Return finite numbers as a float array; float32 stays, everything else is float64."""
    array = as_array(values, name)
    with naming(name):
        options = {**ARRAY_OPTIONS, **_FINITE_LATER, **options}
        return _check_finite(check_array(array, input_name=name, **options), name)


def _check_finite(array: np.ndarray, name: str) -> np.ndarray:
    """Refuse NaN and infinity, and say where the first is."""
    if get_config()["assume_finite"]:
        return array
    finite = np.isfinite(array)
    if finite.all():
        return array
    wrong = np.argwhere(~finite)
    first = tuple(wrong[0].tolist())
    what = "NaN" if np.isnan(array[first]) else f"infinity or a value too large for {array.dtype}"
    hint = (
        " If these are padded steps, write numbers there and give mask: "
        "kpflow_sklearn.datasets.pad_sequences makes both from a list of trials."
        if array.ndim == 3
        else ""
    )
    raise ValueError(
        f"Input {name} contains {what}: {len(wrong)} of its {array.size} entries are not finite, "
        f"the first at {list(first)}.{hint}"
    )


def check_squares(truth: np.ndarray, outputs: np.ndarray) -> None:
    """Refuse values whose squares, summed for R^2, are beyond float64."""
    largest = max(float(abs(a).max(initial=0)) for a in (truth, outputs))
    if not largest < np.sqrt(np.finfo(np.float64).max / max(truth.size, 1)) / 2:
        raise ValueError(
            "X or y is too large for R^2 in float64: y and what is predicted hold values up to "
            f"{largest:.3g}; scale them down."
        )


def validated(estimator: Any, X: ArrayLike, *, reset: bool, **options: Any) -> np.ndarray:
    """Return scikit-learn's `validate_data`, for whatever `as_array` takes besides.

    Tables go through as they are: their columns are the features' names.
    """
    values = X if X is None or hasattr(X, "columns") else as_array(X, "X")
    with naming("X"):
        options = {**_FINITE_LATER, **options}
        return _check_finite(validate_data(estimator, values, reset=reset, **options), "X")
