"""The encoder of a user's module: what happens to X before the recurrent part."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._dependence import with_its_parameters
from kpflow_sklearn.networks._functions import FunctionOf, find_part, label_of
from kpflow_sklearn.networks._user_code import failures_of

_FORM = (
    "If the network gives X to it in another form, for example as integers or with other axes, "
    "give a function that does the same, for example encoder=lambda network, X: "
    "network.conv(X.transpose(1, 2)).transpose(1, 2)."
)

_ALONE = (
    "Give a function that returns this tensor alone, for example encoder=lambda network, X: "
    "network.gru(X)[0]."
)

#: What to do about a part that the network uses in two places of each step.
TWO_USES = (
    "If the network uses one part in two places, write one step that contains both uses "
    "(step=..., without encoder=), whose state is a tuple of both states, that of the readout "
    "first."
)


#: What to do about a network that feeds its outputs back into the step.
FED_BACK = (
    "If the network feeds its outputs back, name one step (step=...) whose state is the tuple "
    "(output, h), with readout=torch.nn.Identity() (see 'Outputs that are fed back' in the "
    "documentation, under 'Coming from ...')."
)


def find_encoder(module: nn.Module, given: Any, X: Tensor | None) -> nn.Module | None:
    """Return the encoder of a user's module, with the parameters that it uses on some trials.

    Parameters
    ----------
    module : Module
        The user's network.
    given : str, Module, callable or None
        Name of a submodule or method, a module, or a function ``(network, X) -> inputs``.
    X : Tensor of shape (n_trials, n_timesteps, n_features), or None
        The trials; without them, all parameters of the network count as those of a function.

    Returns
    -------
    Module or None
        The encoder. A method or function is a `FunctionOf`.
    """
    part = find_part(module, given, "encoder")
    if X is None or not isinstance(part, FunctionOf):
        return part
    return with_its_parameters(part, X)


def run_encoder(encoder: nn.Module, X: Tensor, n_inputs: int | None) -> Tensor:
    """Return the inputs of the recurrent part.

    Parameters
    ----------
    encoder : Module
        The encoder.
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        The inputs of the network.
    n_inputs : int or None
        The number of inputs that the recurrent part takes; None for any.

    Returns
    -------
    Tensor of shape (n_trials, n_timesteps, n_inputs)
        The inputs of the recurrent part.

    Raises
    ------
    UnsupportedNetworkError
        If the encoder fails on X, or returns something else.
    """
    label = describe(encoder)
    with failures_of(label, f"X of shape {tuple(X.shape)}", lambda error: _FORM):
        inputs = encoder(X.clone())  # It may change X in place.
    is_tensor = isinstance(inputs, Tensor)
    shape = tuple(inputs.shape) if is_tensor else None
    if not is_tensor or len(inputs.shape) != 3 or inputs.shape[:2] != X.shape[:2]:
        returned = f"shape {shape}" if is_tensor else f"a {type(inputs).__name__}"
        raise UnsupportedNetworkError(
            f"{label} must return the inputs of the recurrent part as a tensor (n_trials, "
            f"n_timesteps, n_inputs), here ({X.shape[0]}, {X.shape[1]}, n_inputs), got "
            f"{returned}. {_ALONE if isinstance(inputs, (tuple, list)) else _FORM}"
        )
    if n_inputs not in (None, inputs.shape[-1]):
        raise UnsupportedNetworkError(
            f"{label} returns {inputs.shape[-1]} inputs per step, but the recurrent part takes "
            f"{n_inputs}. {_FORM}"
        )
    return inputs


def describe(encoder: nn.Module | None) -> str:
    """Return "the encoder" with the name of its function or class; "X" if there is none."""
    if encoder is None:
        return "X"
    name = label_of(encoder)
    return f"the {name}" if isinstance(encoder, FunctionOf) else f"the encoder {name}"
