"""Convert user input to arrays, with errors that name the argument."""

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
# Finiteness is checked here: scikit-learn's error does not say where the first such entry is, and
# suggests imputers and other estimators.
_FINITE_LATER: dict[str, Any] = {"ensure_all_finite": False}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Add the argument's name to errors of NumPy and scikit-learn that do not mention it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{re.escape(name)}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def as_array(values: Any, name: str) -> np.ndarray:
    """Return an array-like of numbers or labels as an array.

    Tensors are detached and copied to the CPU. Masked arrays with hidden entries, sparse matrices,
    mappings and lists of unequal length raise an error, because NumPy would misread them.
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
            f"{name} must not hide any entries, got a masked array that hides "
            f"{np.ma.count_masked(values)}. Mark padded steps with mask instead."
        )
    try:
        array = np.asarray(values)
    except ValueError as error:
        lengths = _lengths(values)
        if len(lengths) > 1:
            raise ValueError(
                f"{name} must be one array, got trials of unequal length, from {min(lengths)} to "
                f"{max(lengths)} steps. Give the array and the mask that "
                f"kpflow_sklearn.datasets.pad_sequences({name}) returns."
            ) from error
        if "inhomogeneous" in str(error):
            raise ValueError(
                f"{name} must be one array, got entries of unequal length. For trials of unequal "
                "length, give a list with one array (n_timesteps, n_features) per trial to "
                "kpflow_sklearn.datasets.pad_sequences."
            ) from None
        raise
    is_scalar = array.ndim == 0 and array.dtype == object
    if is_scalar or array.dtype.kind in "mMV" or (array.dtype == object and _is_nested(array)):
        given = f"a {type(values).__name__}" if is_scalar else f"{array.dtype} values"
        raise ValueError(f"{name} must be an array of numbers or labels, got {given}.")
    return array


def _lengths(values: Any) -> set[int]:
    """Return the lengths of the entries of ``values``; none if an entry has no length."""
    try:
        return {len(trial) for trial in values if not isinstance(trial, str)}
    except TypeError:
        return set()


def _is_nested(array: np.ndarray) -> bool:
    return any(isinstance(x, (np.ndarray, list, tuple)) for x in array.flat)


def check_numbers(values: ArrayLike, name: str, **options: Any) -> np.ndarray:
    """Return finite numbers as an array: float32 arrays stay float32, all else becomes float64."""
    array = _real(as_array(values, name), name)
    with naming(name):
        options = {**ARRAY_OPTIONS, **_FINITE_LATER, **options}
        return _check_finite(check_array(array, input_name=name, **options), name)


def _real(array: np.ndarray, name: str) -> np.ndarray:
    """Return ``array``, or refuse complex numbers; scikit-learn's error would print them all."""
    if array.dtype.kind == "c":
        raise ValueError(
            f"{name}: Complex data not supported, got {array.dtype} values of shape "
            f"{array.shape}; give real and imaginary parts as separate entries."
        )
    return array


def _check_finite(array: np.ndarray, name: str) -> np.ndarray:
    """Return ``array``, or raise an error that locates its first NaN or infinity."""
    if get_config()["assume_finite"]:
        return array
    finite = np.isfinite(array)
    if finite.all():
        return array
    not_finite = np.argwhere(~finite)
    first = tuple(not_finite[0].tolist())
    kind = "NaN" if np.isnan(array[first]) else f"infinity or a value too large for {array.dtype}"
    hint = (
        " If these are padded steps, write numbers there and give mask: "
        "kpflow_sklearn.datasets.pad_sequences makes both from a list of trials."
        if array.ndim == 3
        else ""
    )
    raise ValueError(
        f"Input {name} contains {kind}: {len(not_finite)} of its {array.size} entries are not "
        f"finite, the first at {list(first)}.{hint}"
    )


def check_squares(truth: np.ndarray, outputs: np.ndarray) -> None:
    """Check that the sums of squares in R^2 do not overflow float64."""
    largest = max(float(abs(a).max(initial=0)) for a in (truth, outputs))
    if not largest < np.sqrt(np.finfo(np.float64).max / max(truth.size, 1)) / 2:
        raise ValueError(
            "X or y is too large for R^2 in float64: y and the predictions reach "
            f"{largest:.3g}. Scale them down."
        )


def validated(estimator: Any, X: ArrayLike, *, reset: bool, **options: Any) -> np.ndarray:
    """Validate X by scikit-learn's `validate_data`, also in the forms that `as_array` accepts.

    Tables are passed on unchanged, because their columns are the names of the features.
    """
    values = X if X is None or hasattr(X, "columns") else _real(as_array(X, "X"), "X")
    with naming("X"):
        options = {**_FINITE_LATER, **options}
        return _check_finite(validate_data(estimator, values, reset=reset, **options), "X")
