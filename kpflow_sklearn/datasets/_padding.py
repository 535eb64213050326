"""Arrange users' own trials: pad unequal lengths, and move the axis of the trials first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.checks import check_positive_int


def pad_sequences(
    *sequences: Sequence[npt.ArrayLike], n_timesteps: int | None = None
) -> tuple[np.ndarray, ...]:
    """Put trials of unequal lengths into arrays, with the mask of their valid steps.

    The padded steps are zero. With the mask, they do not affect any result.

    Parameters
    ----------
    *sequences : sequence of array-like of shape (n_timesteps of the trial, ...)
        X, y, loss_weight and so on, each a list with one array per trial. The arrays of one trial
        must have the same length.
    n_timesteps : int, optional
        Number of steps after padding. The default is that of the longest trial.

    Returns
    -------
    *arrays : ndarray of shape (n_trials, n_timesteps, ...)
        One array for each of ``sequences``, of the same dtype.
    mask : ndarray of bool, shape (n_trials, n_timesteps)
        Valid steps.

    Raises
    ------
    ValueError
        If there are no trials, a trial is empty, lengths or trailing shapes differ, or
        ``n_timesteps`` is smaller than the length of a trial.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn.datasets import pad_sequences
    >>> X, y, mask = pad_sequences([np.ones((3, 2)), np.ones((1, 2))], [[0, 1, 1], [2]])
    >>> X.shape, y.tolist(), mask.sum(axis=1).tolist()
    ((2, 3, 2), [[0, 1, 1], [2, 0, 0]], [3, 1])
    """
    columns = [_trials(trials, f"sequences[{k}]") for k, trials in enumerate(sequences)]
    if not columns or not columns[0]:
        raise ValueError("sequences: pad_sequences needs at least one trial, got none.")
    lengths = _lengths(columns)
    longest = max(lengths)
    if n_timesteps is not None:
        check_positive_int(n_timesteps, "n_timesteps")
        if n_timesteps < longest:
            raise ValueError(f"n_timesteps must be at least {longest}, got {n_timesteps}.")
    n_steps = longest if n_timesteps is None else n_timesteps
    mask = np.arange(n_steps) < np.array(lengths)[:, None]
    return (*(_padded(trials, n_steps) for trials in columns), mask)


def _trials(trials: Any, name: str) -> list[np.ndarray]:
    """Return the trials of one sequence as arrays, all of numbers or all of strings."""
    if isinstance(trials, str | bytes | Mapping) or not isinstance(trials, Iterable):
        raise ValueError(f"{name} must be a list of trials, got a {type(trials).__name__}.")
    arrays = [as_array(trial, f"{name}[{b}]") for b, trial in enumerate(trials)]
    are_numbers = {array.dtype.kind in "fiubc" for array in arrays}
    if len(are_numbers) > 1 or any(array.dtype == object for array in arrays):
        raise ValueError(
            f"{name} must hold numbers in all trials or strings in all trials, got "
            f"{', '.join(sorted({str(array.dtype) for array in arrays}))}."
        )
    return arrays


def _lengths(columns: list[list[np.ndarray]]) -> list[int]:
    """Return the length of each trial, which must be the same in all sequences."""
    for k, trials in enumerate(columns):
        if len(trials) != len(columns[0]):
            raise ValueError(
                f"sequences[{k}] has {len(trials)} trials, but sequences[0] has {len(columns[0])}."
            )
        for b, trial in enumerate(trials):
            first = columns[0][b]
            if trial.ndim == 0 or len(trial) == 0:
                raise ValueError(f"sequences[{k}][{b}] must have at least one step, got none.")
            if len(trial) != len(first):
                raise ValueError(
                    f"sequences[{k}][{b}] has {len(trial)} steps, but sequences[0][{b}] has "
                    f"{len(first)}."
                )
            if trial.shape[1:] != trials[0].shape[1:]:
                raise ValueError(
                    f"sequences[{k}][{b}] has shape {trial.shape[1:]} at a step, but "
                    f"sequences[{k}][0] has {trials[0].shape[1:]}."
                )
    return [len(trial) for trial in columns[0]]


def _padded(trials: list[np.ndarray], n_steps: int) -> np.ndarray:
    dtype = np.result_type(*trials)
    out = np.zeros((len(trials), n_steps, *trials[0].shape[1:]), dtype)
    for row, trial in zip(out, trials, strict=True):
        row[: len(trial)] = trial
    return out


def trials_first(*arrays: npt.ArrayLike) -> Any:
    """Move the axis of the trials first, for data made for torch's ``batch_first=False``.

    Parameters
    ----------
    *arrays : array-like of shape (n_timesteps, n_trials, ...)
        X, y, mask and so on.

    Returns
    -------
    ndarray or tuple of ndarray, of shape (n_trials, n_timesteps, ...)
        One array per argument, in a tuple if there are several.

    Raises
    ------
    ValueError
        If there are no arrays, an array has fewer than two dimensions, or the first two differ
        between arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn.datasets import trials_first
    >>> trials_first(np.ones((50, 8, 3))).shape
    (8, 50, 3)
    """
    if not arrays:
        raise ValueError("arrays: trials_first needs at least one, got none.")
    given = [as_array(array, f"arrays[{k}]") for k, array in enumerate(arrays)]
    for k, array in enumerate(given):
        if array.ndim < 2 or array.shape[:2] != given[0].shape[:2]:
            raise ValueError(
                f"arrays[{k}] must have shape (n_timesteps, n_trials, ...) like the others, got "
                f"{array.shape} beside {given[0].shape}."
            )
    swapped = tuple(np.ascontiguousarray(array.swapaxes(0, 1)) for array in given)
    return swapped[0] if len(swapped) == 1 else swapped
