"""The readout of a user's module, which maps the state of one step to outputs."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts, set_training
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError

# In units of the rounding error: sums over many rows and over one may differ in their order.
_TOLERANCE = 1e3


def find_readout(
    module: nn.Module, inside: Collection[nn.Module], n_units: int | None
) -> nn.Module:
    """Return the only ``torch.nn.Linear`` of a module that can be its readout.

    Parameters
    ----------
    module : Module
        The user's network.
    inside : collection of Module
        The parts of the step, which cannot be the readout.
    n_units : int or None
        The number of values that the readout must take; None for any.

    Returns
    -------
    Module
        The readout, which `check_readout` has yet to check.

    Raises
    ------
    UnsupportedNetworkError
        If there is no such ``Linear``, or more than one.
    """
    linear = {
        n: m
        for n, m in named_parts(module)
        if isinstance(m, nn.Linear) and m not in inside and n_units in (None, m.in_features)
    }
    if len(linear) != 1:
        which = "outside the step" if n_units is None else f"with in_features={n_units}"
        raise UnsupportedNetworkError(
            f"readout: expected exactly one torch.nn.Linear in {type(module).__name__} {which}, "
            f"found {', '.join(map(repr, linear)) or 'none'}; give its name as readout='...'; "
            "it may be any module that maps each state alone."
        )
    return next(iter(linear.values()))


def read_width(readout: nn.Module) -> int:
    """Return the number of values that a readout takes, as its first ``Linear`` tells."""
    for _, module in named_parts(readout):
        if isinstance(module, nn.Linear):
            return module.in_features
    raise UnsupportedNetworkError(
        "the length of the state cannot be told from the step or the readout: give "
        "initial_state=..., for example torch.zeros(64)."
    )


def check_readout(readout: nn.Module, like: Tensor) -> None:
    """Check that a readout maps each state alone, as Err = dl/dz assumes.

    Parameters
    ----------
    readout : Module
        A module of any kind; of a ``Linear``, only the size is checked.
    like : Tensor of shape (n_units,)
        An input of the readout for one step of one trial.

    Raises
    ------
    UnsupportedNetworkError
        If the readout does not take states (n_trials, n_timesteps, n_units), or its output for
        one state depends on other states or on chance.
    """
    kind, n_units = type(readout).__name__, len(like)
    if isinstance(readout, nn.Linear):
        if readout.in_features != n_units:
            raise UnsupportedNetworkError(
                f"the readout takes {readout.in_features} values, but the state, or the first "
                f"part of it, has {n_units}; give readout='...' or initial_state=..."
            )
        return
    copied = set_training(copy_module(readout), False)  # The analysis is one of evaluation mode.
    draws = torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, n_units, generator=draws, dtype=like.dtype).to(like.device)
    with torch.no_grad(), isolated_torch_seed(0):
        try:
            together = _tensor(copied(states))
            alone = torch.stack([copied(z[None, None])[0, 0] for z in states.flatten(0, 1)])
        except Exception as error:  # A user's module can fail in any way.
            raise UnsupportedNetworkError(
                f"readout: the {kind} must map states of shape (n_trials, n_timesteps, {n_units}) "
                f"to outputs (n_trials, n_timesteps, n_outputs), but failed: {error}"
            ) from error
    if together.ndim != 3 or together.shape[:2] != states.shape[:2]:
        raise UnsupportedNetworkError(
            f"readout: the {kind} must map states (2, 3, {n_units}) to outputs (2, 3, n_outputs), "
            f"got shape {tuple(together.shape)}."
        )
    tolerance = _TOLERANCE * torch.finfo(like.dtype).eps * (1 + together.abs().max())
    if (together.flatten(0, 1) - alone).abs().max() > tolerance:
        raise UnsupportedNetworkError(
            f"readout: the output of the {kind} for one state depends on the other states, or on "
            "chance; it must map each state alone."
        )


def _tensor(returned: object) -> Tensor:
    if isinstance(returned, Tensor):
        return returned
    raise TypeError(f"it returns a {type(returned).__name__}, not one tensor")
