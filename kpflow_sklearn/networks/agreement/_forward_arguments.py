"""The arguments that the forward of a user's module takes after X, such as lengths and masks."""

from __future__ import annotations

import inspect

import numpy as np
from torch import nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.checks import ends_constant
from kpflow_sklearn.networks._user_code import arguments_of


def _further_arguments(module: nn.Module) -> list[inspect.Parameter]:
    """Return the arguments of a module's forward after X."""
    return arguments_of(module.forward)[1:]


def takes_lengths_second(module: nn.Module) -> bool:
    """Tell whether the second argument of a module's forward is the lengths of the trials."""
    second = _further_arguments(module)[:1]
    return any("len" in p.name.lower() and p.kind is not p.KEYWORD_ONLY for p in second)


def arguments_not_given(module: nn.Module) -> list[str]:
    """Return the names of the arguments of a module's forward that `run_module` does not give."""
    names = [p.name for p in _further_arguments(module)]
    return names[1:] if takes_lengths_second(module) else names


def warn_without_mask(module: nn.Module, X: np.ndarray, mask: np.ndarray | None) -> None:
    """Warn of padded trials without a mask, if the module takes their lengths or their mask.

    Parameters
    ----------
    module : Module
        The user's network.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps.
    """
    if mask is not None or not ends_constant(X):
        return
    names = [p.name for p in _further_arguments(module)]
    telling = [n for n in names if "len" in n.lower() or "mask" in n.lower()]
    if telling:
        warn_caller(
            f"the forward of {type(module).__name__} takes {', '.join(telling)}, and trials of X "
            "end in constant steps, as padded trials do, but no mask was given: these steps are "
            "analysed as data. Give mask=, an array (n_trials, n_timesteps) that is True at valid "
            "steps; if X has no padding, it is True everywhere.",
            UserWarning,
        )
