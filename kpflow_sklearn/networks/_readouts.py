"""The readout of a module made elsewhere: what turns the state of one step into outputs."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.exceptions import UnsupportedNetworkError

# Units of rounding: products of many rows and of one may add in another order.
_TOLERANCE = 1e3


def named_submodule(module: nn.Module, name: str, role: str) -> nn.Module:
    """Return a submodule by its name; UnsupportedNetworkError if there is none."""
    modules = dict(module.named_modules())
    if name not in modules:
        known = ", ".join(repr(n) for n in modules if n)
        raise UnsupportedNetworkError(
            f"{role}={name!r} is no submodule of {type(module).__name__}; it has {known}."
        )
    return modules[name]


def find_readout(
    module: nn.Module,
    name: str | None,
    *,
    inside: Collection[nn.Module] = (),
    n_units: int | None = None,
) -> nn.Module:
    """Return the readout of ``module``: the one ``Linear`` that can be it, or the one named.

    Parameters
    ----------
    module : Module
        Someone's network.
    name : str or None
        Of a submodule, of any kind; None if there is but one ``torch.nn.Linear``.
    inside : collection of Module
        The parts of the step, which are no readout.
    n_units : int, optional
        Length of the state that is read, where it is known.

    Returns
    -------
    Module
        As it stands in ``module``. `check_readout` sees whether it fits the states.

    Raises
    ------
    UnsupportedNetworkError
        If there is none, or several.
    """
    if name is not None:
        return named_submodule(module, name, "readout")
    found = {
        n: m
        for n, m in module.named_modules()
        if isinstance(m, nn.Linear) and m not in inside and n_units in (None, m.in_features)
    }
    if len(found) != 1:
        which = "outside the step" if n_units is None else f"with in_features={n_units}"
        raise UnsupportedNetworkError(
            f"readout: expected exactly one torch.nn.Linear in {type(module).__name__} {which}, "
            f"found {', '.join(map(repr, found)) or 'none'}; give its name as readout='...', be "
            "it a Linear or any module that maps each state alone."
        )
    return next(iter(found.values()))


def read_width(readout: nn.Module) -> int | None:
    """Return how many values a readout takes, by its first ``Linear``; None if it has none."""
    linear = (m for m in readout.modules() if isinstance(m, nn.Linear))
    return next((m.in_features for m in linear), None)


def check_readout(readout: nn.Module, like: Tensor) -> None:
    """Check that a readout maps each state alone, for Err = dl/dz holds one state's derivative.

    Parameters
    ----------
    readout : Module
        Of any kind; a ``Linear`` is one by its nature.
    like : Tensor of shape (n_units,)
        One state as the readout sees it.

    Raises
    ------
    UnsupportedNetworkError
        If it does not take states (n_trials, n_timesteps, n_units), or what it makes of one
        depends on the others or on chance.
    """
    kind, n_units = type(readout).__name__, len(like)
    if isinstance(readout, nn.Linear):
        if readout.in_features != n_units:
            raise UnsupportedNetworkError(
                f"the readout takes {readout.in_features} values, but the state, or the first "
                f"part of it, has {n_units}; give readout='...' or initial_state=..."
            )
        return
    asked = copy.deepcopy(readout).eval()  # What is analysed is evaluation mode.
    draws = torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, n_units, generator=draws, dtype=like.dtype).to(like.device)
    with torch.no_grad(), isolated_torch_seed(0):
        try:
            together = _tensor(asked(states))
            alone = torch.stack([asked(z[None, None])[0, 0] for z in states.flatten(0, 1)])
        except Exception as error:  # Whatever a user's module raises.
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
            f"readout: what the {kind} makes of a state depends on the other states, or on "
            "chance; it must map each alone."
        )


def _tensor(returned: object) -> Tensor:
    if isinstance(returned, Tensor):
        return returned
    raise TypeError(f"it returns a {type(returned).__name__}, not one tensor")
