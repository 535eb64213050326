"""The argument ``analysis_set``: trials to analyse instead of a choice from X."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kpflow_sklearn._common.arrays import as_array, naming
from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.checks import (
    check_labels,
    check_mask,
    check_sequences,
    ends_constant,
)


@dataclass(frozen=True)
class AnalysisSet:
    """Trials to analyse instead of a choice from X, with all that describes them.

    Attributes
    ----------
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    y : array-like or None
        Targets, in a form of the y given to ``fit``.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        True at the valid steps; None if all steps are valid.
    loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), or None
        Weights w >= 0 in the loss; None if all are 1.
    tasks, conditions : array-like of shape (n_trials,), or None
        Labels of the trials.
    by_alias : bool
        Whether the trials were given as X_analysis and y_analysis.
    """

    X: np.ndarray
    y: ArrayLike | None = None
    mask: np.ndarray | None = None
    loss_weight: ArrayLike | None = None
    tasks: ArrayLike | None = None
    conditions: ArrayLike | None = None
    by_alias: bool = False

    @property
    def name_of_y(self) -> str:
        """The name of the targets in errors."""
        return _name("y", self.by_alias)

    def naming(self) -> AbstractContextManager:
        """Return a context that adds the name of the argument to errors."""
        return nullcontext() if self.by_alias else naming("analysis_set")

    def warn_of_dropped(self, mask: ArrayLike | None, loss_weight: ArrayLike | None) -> None:
        """Warn if X has a mask or weights in the loss that these trials seem to lack."""
        missing = []
        if loss_weight is not None and self.loss_weight is None:
            missing.append("loss_weight")
        if mask is not None and self.mask is None and ends_constant(self.X):
            missing.append("mask")
        for name in missing:
            default = "weighs 1" if name == "loss_weight" else "is valid"
            warn_caller(
                f"{name} was given for X but not for the trials to analyse, so that every step of "
                f"these {default}; give analysis_set with the keys 'X', 'y' and {name!r}.",
                UserWarning,
            )


def read_analysis_set(
    analysis_set: Mapping[str, Any] | None,
    X_analysis: ArrayLike | None,
    y_analysis: ArrayLike | None,
    *,
    X: np.ndarray,
    y: ArrayLike | None,
    single_step: bool,
    **labels: ArrayLike | None,
) -> AnalysisSet | None:
    """Return the trials given to ``fit`` as analysis_set, or as X_analysis and y_analysis.

    Parameters
    ----------
    analysis_set : mapping, optional
        The key "X" and, if needed, "y", "mask", "loss_weight" and the names of ``labels``.
    X_analysis, y_analysis : array-like, optional
        The values of "X" and "y" if there is no ``analysis_set``.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        The trials to train on.
    y : array-like, optional
        Their targets.
    single_step : bool
        Whether X was given with two dimensions, so that the trials to analyse may have two.
    **labels : array-like of shape (n_trials,), optional
        Labels by name that were given to ``fit`` as arguments. They label X_analysis.

    Returns
    -------
    AnalysisSet or None
        None if neither was given, so that the trials to analyse are chosen from X.

    Raises
    ------
    ValueError
        If the keys are wrong, an array does not fit, or both forms were given.
    """
    if analysis_set is None and X_analysis is None:
        if y_analysis is not None:
            raise ValueError("y_analysis was given without X_analysis.")
        return None
    by_alias = analysis_set is None
    if by_alias:
        given: Mapping[str, Any] = {"X": X_analysis, "y": y_analysis, **labels}
    else:
        given = _check_keys(analysis_set, ("y", "mask", "loss_weight", *labels))
        _refuse_twice(X_analysis=X_analysis, y_analysis=y_analysis, **labels)
    name = _name("X", by_alias)
    trials = check_analysed(given["X"], single_step, name)
    if trials.shape[-1] != X.shape[-1]:
        raise ValueError(
            f"{name} must have {X.shape[-1]} features, as many as X, got {trials.shape[-1]}."
        )
    if y is not None and given.get("y") is None:
        raise ValueError(
            f"{_name('y', by_alias)} is needed with {name} when y is given, got None."
        )
    checked = {"X": trials, "mask": check_mask(given.get("mask"), trials, "mask of analysis_set")}
    if not by_alias:
        for key in labels:
            if given.get(key) is not None:
                check_labels(given[key], f"{key} of analysis_set", len(trials))
    return AnalysisSet(**{**given, **checked}, by_alias=by_alias)


def check_analysed(X: ArrayLike, single_step: bool, name: str) -> np.ndarray:
    """Return the trials to analyse, (n_trials, n_timesteps, n_features), as finite floats.

    They may have two dimensions if the trials to train on have two (``single_step``).
    """
    array = as_array(X, name)
    array = array[:, None, :] if single_step and array.ndim == 2 else array
    return check_sequences(array, name)


def _name(key: str, by_alias: bool) -> str:
    return f"{key}_analysis" if by_alias else f"{key} of analysis_set"


def _check_keys(analysis_set: Any, optional: tuple[str, ...]) -> Mapping[str, Any]:
    """Return analysis_set if it is a mapping with the key "X" and no unknown keys."""
    allowed = ", ".join(map(repr, optional))
    if not isinstance(analysis_set, Mapping):
        raise ValueError(
            f"analysis_set must be a dict with the key 'X' and, if needed, {allowed}, got a "
            f"{type(analysis_set).__name__}."
        )
    keys = list(analysis_set)
    unknown = [key for key in keys if key not in ("X", *optional)]
    if unknown:
        raise ValueError(
            f"analysis_set may have the keys 'X', {allowed}, got {', '.join(map(repr, unknown))}."
        )
    if analysis_set.get("X") is None:
        given = ", ".join(map(repr, keys)) or "no keys"
        raise ValueError(f"analysis_set must have the key 'X' with the trials, got {given}.")
    return analysis_set


def _refuse_twice(**others: ArrayLike | None) -> None:
    """Refuse arguments of ``fit`` that analysis_set replaces."""
    for name, value in others.items():
        if value is not None:
            key = name.removesuffix("_analysis")
            raise ValueError(
                f"{name} and analysis_set were both given; give analysis_set[{key!r}] alone."
            )
