"""Run a user's step; its errors come with advice that fits the failure."""

from __future__ import annotations

import re

from torch import Tensor

from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._user_code import failures_of
from kpflow_sklearn.networks.agreement._coupling import batch_norms

#: Said of a step that is not a function of input and state.
KEEPS = (
    "it keeps something between calls, such as a counter or a trace on self, which must be a part "
    "of the state instead: a tuple, with initial_state=(...)."
)
_ATTRIBUTE = (
    "If forward sets this attribute, the step cannot rely on it: compute what depends on "
    "parameters inside the step, and let what is kept from step to step be a part of the state, a "
    "tuple with initial_state=(...)."
)
#: Said of a module that assigns a parameter at every call, as the weight drop of AWD-LSTM does.
_ASSIGNS = (
    "It assigns a weight that it computes to the name of a parameter. Let it assign a tensor, in "
    "evaluation mode too, where dropout returns the raw parameter itself: raw.clone(), for "
    "example (as fastai does), after del module._parameters[name]. Or compute the weight by "
    "torch.nn.utils.parametrize."
)
_CALL = (
    "A submodule or method is called as step(x_t, h), a function as step(network, x_t, h); each "
    "must return the next h."
)
#: What torch says if torch.autograd.grad or backward is called without gradients.
NEEDS_GRAD = "does not require grad"
#: Said of a step that differentiates by itself, which only torch.func does inside derivatives.
AUTOGRAD = (
    "If the step computes gradients of its own by torch.autograd.grad or backward, compute them "
    "by torch.func.grad(energy)(z) instead, where energy is a function of z that returns one "
    "number."
)
_LAYERS_FIRST = (
    "torch.nn.RNN, GRU and LSTM take h with the layers as its first axis: of one layer, give them "
    "h[None] and return the new h[0], for example step=lambda network, x, h: "
    "network.rnn(x[:, None], h[None])[1][0]."
)
_FORM = "unpack|tuple|iterable|size|shape|dimension|expand|index|out of range|expected hx"
_PARAMETER = "cannot assign .* as parameter"
_SWITCHES = "positional argument|keyword argument"


def run_step(view: RecurrentNetwork, inputs: Tensor) -> Tensor:
    """Return the states of a network, whose step may fail in any way.

    Parameters
    ----------
    view : RecurrentNetwork
        The network.
    inputs : Tensor of shape (n_trials, n_timesteps, n_inputs)
        The inputs of its recurrent part.

    Returns
    -------
    Tensor of shape (n_trials, n_timesteps, n_states)
        The states after every step.

    Raises
    ------
    UnsupportedNetworkError
        If the step fails, except for lack of memory.
    """
    label, given = "the network's recurrent part", f"inputs of shape {tuple(inputs.shape)}"
    layer = view.layers[0]
    if isinstance(layer, UserLayer):
        label = f"step: the {layer.step.label}"
        given = f"x_t of shape {(len(inputs), inputs.shape[-1])} and "
        given += layer.step.state_in_words(len(inputs))

    def advice(error: Exception) -> str:
        return f"{_advice(error, view)}{batch_norms(view.recurrent)}"

    with failures_of(label, given, advice):
        return view.run(inputs)


def refuse_assigned_weights(step: UserStep, x: Tensor, z: Tensor) -> None:
    """Refuse a step that cannot be run as a function of its parameters, because it assigns them.

    Parameters
    ----------
    step : UserStep
        The step, which runs with the parameters that it has.
    x : Tensor of shape (n_trials, n_features)
        Inputs.
    z : Tensor of shape (n_trials, n_states)
        The states before the step.

    Raises
    ------
    UnsupportedNetworkError
        If it assigns a tensor where torch expects a parameter.
    """
    values = {name: p.detach().clone() for name, p in step.module.named_parameters()}
    try:
        step(0, x, z, values)
    except Exception as error:  # Other errors are those of the derivatives.
        if not re.search(_PARAMETER, str(error)):
            return
        raise UnsupportedNetworkError(
            f"the {step.label} is not a function of its parameters: {error}. {_ASSIGNS}"
        ) from error


def _advice(error: Exception, view: RecurrentNetwork) -> str:
    """Return what to do about a kind of error; "" if its text must speak for itself."""
    text = str(error)
    if NEEDS_GRAD in text:
        return AUTOGRAD
    if "hx should" in text:
        return _LAYERS_FIRST
    if isinstance(error, AttributeError) and not re.search("'(tuple|Tensor)' object", text):
        return _ATTRIBUTE if "has no attribute" in text else ""
    if isinstance(error, TypeError) and re.search(_PARAMETER, text):
        return _ASSIGNS
    if isinstance(error, TypeError) and re.search(_SWITCHES, text):
        return _CALL
    if not isinstance(error, AttributeError) and not re.search(_FORM, text, re.IGNORECASE):
        return ""
    if not isinstance(view.layers[0], UserLayer):
        return ""
    return (
        "If its state has another size, give initial_state with that size; if it is a tuple, give "
        "initial_state=(...) with each part as one vector per trial: flatten a matrix with "
        "A.flatten(1). What it keeps between calls, such as a trace on self, must be a part of "
        "the state too."
    )
