"""The readout of a user's module, which maps the state of one step to outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts, set_training
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._dependence import leaves_of, with_its_parameters
from kpflow_sklearn.networks._functions import FunctionOf, label_of, named_part
from kpflow_sklearn.networks._user_code import arguments_of, refuse_complex, sentence

# In units of the rounding error: products with many rows and with one may sum in another order.
_TOLERANCE = 1e3

#: What to do about outputs that depend on x_t besides the state.
READS_X = (
    "A readout of (h, x) is given as a readout of the state (h, x): name a step that returns "
    "torch.cat([h, x], -1), with initial_state=torch.zeros(n_units + n_inputs) (see 'Outputs that "
    "depend on the input too' in the documentation, under 'Any trained network')."
)
#: What to do about outputs that depend on the states of all steps.
POOLS = (
    "If the network pools over time (the mean or maximum of the states, attention), let the step "
    "return the running sum or maximum as the first part of a tuple, which the readout receives; "
    "or give check_outputs=False, the readout of each state, and as loss a function that pools "
    "the outputs (see 'Pooling over time' in the documentation, under 'Any trained network')."
)


def find_readout(
    module: nn.Module, inside: Collection[nn.Module], n_units: int | None, needed: bool
) -> nn.Module | None:
    """Return the only ``torch.nn.Linear`` of a module that can be its readout.

    Parameters
    ----------
    module : Module
        The user's network.
    inside : collection of Module
        The parts of the step and the encoder, which cannot be the readout.
    n_units : int or None
        The number of values that the readout must take; None for any.
    needed : bool
        Whether a missing readout is an error.

    Returns
    -------
    Module or None
        The readout, which `check_readout` has yet to check.

    Raises
    ------
    UnsupportedNetworkError
        If a readout is needed and the number of such ``Linear`` modules is not one.
    """
    outside = {n: m for n, m in named_parts(module) if m not in inside}
    widths = {n: m.in_features for n, m in outside.items() if isinstance(m, nn.Linear)}
    fitting = [n for n, width in widths.items() if n_units in (None, width)]
    if len(fitting) == 1:
        return outside[fitting[0]]
    if needed:
        wider = [n for n, width in widths.items() if n_units is not None and width > n_units]
        advice = f"{wider[0]!r} takes {widths[wider[0]]} values. {READS_X}" if wider else ""
        which = "outside the step" if n_units is None else f"with in_features={n_units}"
        raise UnsupportedNetworkError(
            f"readout: expected exactly one torch.nn.Linear in {type(module).__name__} {which}, "
            f"found {', '.join(map(repr, fitting)) or 'none'}; give its name as readout='...', "
            "which may be any module that maps each state alone, or as a function, "
            f"readout=lambda network, states: ... {advice}".strip()
        )
    return None


def read_width(readout: nn.Module) -> int:
    """Return the number of values that a readout takes, as its first ``Linear`` tells."""
    for _, module in () if isinstance(readout, FunctionOf) else named_parts(readout):
        if isinstance(module, nn.Linear):
            return module.in_features
    raise UnsupportedNetworkError(
        "the length of the state cannot be told from the step or the readout: give "
        "initial_state=..., for example torch.zeros(64)."
    )


def check_readout(readout: nn.Module, like: Tensor) -> nn.Module:
    """Check that a readout maps each state alone, as Err = dl/dz assumes.

    Parameters
    ----------
    readout : Module
        A module of any kind; of a ``Linear``, only the size and the data type are checked.
    like : Tensor of shape (n_units,)
        An input of the readout for one step of one trial.

    Returns
    -------
    Module
        The readout; a `FunctionOf` has the parameters that its outputs depend on.

    Raises
    ------
    UnsupportedNetworkError
        If the readout does not take states (n_trials, n_timesteps, n_units), or its output for
        one state depends on other states or on chance, or has no derivative.
    """
    if isinstance(readout, nn.Linear):
        _check_linear(readout, like)
        return readout
    draws = torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, len(like), generator=draws, dtype=like.dtype).to(like.device)
    # The analysis uses evaluation mode.
    _check_each_alone(set_training(copy_module(readout), False), states)
    return with_its_parameters(readout, states) if isinstance(readout, FunctionOf) else readout


def _check_linear(readout: nn.Linear, like: Tensor) -> None:
    if readout.in_features != len(like):
        raise UnsupportedNetworkError(
            f"the readout takes {readout.in_features} values, but the state, or the first "
            f"part of it, has {len(like)}; give readout='...' or initial_state=..."
            + (f" {READS_X}" if readout.in_features > len(like) else "")
        )
    refuse_complex(readout, "readout")
    if readout.weight.dtype != like.dtype:
        raise UnsupportedNetworkError(
            f"the readout must hold numbers of {like.dtype}, as the network does, got "
            f"{readout.weight.dtype}; convert one of them, for example by "
            f"readout.to({like.dtype})."
        )


def _check_each_alone(copied: nn.Module, states: Tensor) -> None:
    kind, n_units = label_of(copied), states.shape[-1]
    states.requires_grad_()
    with torch.enable_grad(), isolated_torch_seed(0):
        try:
            together = _tensor(copied(states.clone()))
            each = (z[None, None].clone() for z in states.flatten(0, 1))
            alone = torch.stack([copied(z)[0, 0] for z in each])
        except Exception as error:  # A user's module can fail in any way.
            raise UnsupportedNetworkError(
                f"readout: the {kind} must map states of shape (n_trials, n_timesteps, {n_units}) "
                f"to outputs (n_trials, n_timesteps, n_outputs), but failed: {sentence(error)}"
                + (f" {READS_X}" if _takes_more(copied) else "")
            ) from error
    if together.ndim != 3 or together.shape[:2] != states.shape[:2]:
        raise UnsupportedNetworkError(
            f"readout: the {kind} must map states (2, 3, {n_units}) to outputs (2, 3, n_outputs), "
            f"got shape {tuple(together.shape)}." + (f" {POOLS}" if together.ndim == 2 else "")
        )
    tolerance = _TOLERANCE * torch.finfo(states.dtype).eps * (1 + together.abs().max())
    if (together.flatten(0, 1) - alone).abs().max() > tolerance:
        raise UnsupportedNetworkError(
            f"readout: what the {kind} returns for one state depends on the other states, or on "
            f"chance; it must map each state alone. {POOLS}"
        )
    if id(states) not in leaves_of([together]):
        raise UnsupportedNetworkError(
            f"readout: the outputs of the {kind} have no derivative by the states, which the "
            "error signal needs; compute them with torch, without torch.no_grad, detach or NumPy."
        )


def _takes_more(readout: nn.Module) -> bool:
    """Tell whether a readout needs further arguments than the states."""
    function: Any = readout.forward
    n_given = 1
    if isinstance(readout, FunctionOf):
        function = readout.function
        if isinstance(function, str):
            function = named_part(readout.network, function, readout.role)
        else:
            n_given = 2  # The network comes first.
    needed = [p for p in arguments_of(function) if p.default is p.empty]
    return len(needed) > n_given


def _tensor(returned: object) -> Tensor:
    if isinstance(returned, Tensor):
        return returned
    raise TypeError(
        f"it returns a {type(returned).__name__}, not one tensor; give a function that returns "
        "the outputs alone, for example readout=lambda network, states: network.head(states)[0]"
    )
