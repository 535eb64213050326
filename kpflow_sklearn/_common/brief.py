"""Short representations of estimators: networks by name, checkpoints by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor, nn

#: Largest number of entries of an array that is shown in full.
_FEW = 10


class Words:
    """An object whose representation is a given text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def brief(value: Any) -> Any:
    """Return an object that is printed as briefly as possible.

    Parameters
    ----------
    value : object
        An estimator, or a parameter of one.

    Returns
    -------
    object
        For an estimator, an object to print in its place, with the same parameters in brief.
        Networks, checkpoints and large arrays are replaced by their type, number or shape; other
        values are returned unchanged.
    """
    if isinstance(value, BaseEstimator):
        # Without the __repr__ of the estimator's class, so that scikit-learn prints it.
        kind = type(type(value).__name__, (BaseEstimator,), {"__init__": type(value).__init__})
        shown: Any = object.__new__(kind)
        params = {name: brief(v) for name, v in value.get_params(deep=False).items()}
        vars(shown).update(params)
        return shown
    if isinstance(value, nn.Module):
        return Words(type(value).__name__)
    if isinstance(value, Tensor) and value.numel() > _FEW:
        return Words(f"tensor of shape {tuple(value.shape)}")
    if isinstance(value, np.ndarray) and value.size > _FEW:
        return Words(f"array of shape {value.shape}")
    if isinstance(value, Mapping):
        return Words("1 state_dict") if _holds_tensors(value) else value
    if type(value) in (list, tuple):
        n_states = sum(isinstance(v, Mapping) and _holds_tensors(v) for v in value)
        if n_states and n_states == len(value):
            return Words(f"{n_states} state_dict{'s' if n_states > 1 else ''}")
        return type(value)(map(brief, value))
    return value


def _holds_tensors(value: Any) -> bool:
    """Tell whether a checkpoint holds tensors or arrays, at any depth."""
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    return isinstance(value, (Tensor, np.ndarray))
