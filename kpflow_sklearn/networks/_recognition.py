"""A user's module, recognised as encoder, step, readout and initial state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from kpflow_sklearn._common.modules import named_parts, parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import TWO_USES, find_encoder
from kpflow_sklearn.networks._functions import FunctionOf, modules_in, parameters_in
from kpflow_sklearn.networks._initial_state import axes_advice, with_advice
from kpflow_sklearn.networks._layers import stacked_layers, step_layers
from kpflow_sklearn.networks._named_step import Part, Step, find_named_parts
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._readouts import check_readout, find_readout, read_width
from kpflow_sklearn.networks._user_code import refuse_complex, refuse_scripted, refuse_sparse


def recognise_network(
    module: nn.Module,
    recurrent: str | None = None,
    readout: Part = None,
    *,
    step: Step | None = None,
    initial_state: Any = None,
    encoder: Part = None,
    X: Tensor | None = None,
    frozen: bool = False,
    needs_readout: bool = True,
) -> RecurrentNetwork:
    """View a user's module as encoder, step, readout and initial state; nothing is copied.

    Parameters
    ----------
    module : Module
        The user's network. Unless ``step``, ``recurrent`` or ``readout`` names something else, it
        must hold one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear`` readout.
    recurrent : str, optional
        Name of the submodule that holds the step and its parameters.
    readout : str, Module or callable, optional
        Name of a submodule or method, a module, or a function ``(network, states) -> outputs``.
        The outputs for one state must not depend on other states.
    step : str or callable, optional
        Name of a submodule or method ``(x_t, h) -> h``, or a function ``(network, x_t, h) -> h``.
    initial_state : None, str, array-like or tuple of these
        z_0: zeros, the name of a tensor of the network, or values; a tuple if h is a tuple.
    encoder : str, Module or callable, optional
        Name of a submodule or method, a module, or a function ``(network, X) -> inputs``.
    X : Tensor of shape (n_trials, n_timesteps, n_features), optional
        A few trials, on which an encoder that is a method or function is run to find the
        parameters it uses.
    frozen : bool, default=False
        Whether the step's random numbers, including those of dropout, are frozen.
    needs_readout : bool, default=True
        Whether a readout is needed. If not, a network in which none can be recognised has none.

    Returns
    -------
    RecurrentNetwork
        Shares the module's parameters.

    Raises
    ------
    UnsupportedNetworkError
        If the parts are missing or ambiguous, do not fit one another, or are unsupported, as those
        of ``torch.jit`` are.
    """
    if isinstance(module, RecurrentNetwork):
        _refuse_parts(recurrent=recurrent, readout=readout, step=step, encoder=encoder)
        return module
    refuse_scripted(module, "network")
    ahead = find_encoder(module, encoder, X)
    # The step: the cell, method or function that is named, or a stack of torch's layers.
    named = find_named_parts(module, recurrent, readout, step, initial_state)
    is_stack = named.step is None
    core = _find_stack(module, named.base, modules_in(ahead), frozen) if is_stack else named.cell
    like = _any_parameter(core if is_stack else module)
    # The number of units that the readout sees, from z_0, the step or the readout itself.
    n_units: Any = getattr(core, "hidden_size", None)
    if named.start is not None and not is_stack:
        n_units = named.start[0].numel()
    reader = named.readout
    if reader is None:
        inside = modules_in(ahead) | (modules_in(core) if named.is_cell else set())
        reader = find_readout(module, inside, n_units if is_stack else None, needs_readout)
    if reader is not None:
        n_units = read_width(reader) if n_units is None else n_units
        with with_advice("" if is_stack else axes_advice(named.start)):
            reader = check_readout(reader, like.new_zeros(n_units))
    start = None if named.start is None else [part.detach().to(like) for part in named.start]
    if is_stack:
        layers, z0 = stacked_layers(core, start)
    else:
        is_pair = isinstance(core, nn.LSTMCell)
        core = named.as_cell([*parameters_in(reader), *parameters_in(ahead)])
        if isinstance(core, FunctionOf) and parameters_in(ahead) and not parameters_in(core):
            raise UnsupportedNetworkError(
                f"every parameter of {type(module).__name__} belongs to its encoder or readout; "
                f"none is left for the step. {TWO_USES}"
            )
        refuse_complex(core, "step")
        refuse_sparse(core, "step")
        start = start or [like.new_zeros(n_units)] * (2 if is_pair else 1)
        layers, z0 = step_layers(core, start, is_pair or isinstance(initial_state, tuple), frozen)
    return RecurrentNetwork(core, layers, reader, z0, named.start_trains, ahead)


def _refuse_parts(**parts: Any) -> None:
    """Refuse names of parts for a network of this package, which has its parts already."""
    for name, given in parts.items():
        if given is not None:
            raise UnsupportedNetworkError(
                f"{name} must be None for the network_ of a fitted estimator, which is split into "
                f"its parts already, got {given!r}."
            )


def _any_parameter(module: nn.Module) -> Tensor:
    """Return an empty tensor with the data type and the device of a parameter."""
    parameters = list(parameters_of(module).values())
    if not parameters:
        raise UnsupportedNetworkError(
            f"{type(module).__name__} has no parameters, so that K is zero and there is nothing "
            "to analyse."
        )
    p = next((p for p in parameters if p.is_floating_point()), parameters[0])
    return torch.empty(0, dtype=p.dtype, device=p.device)  # A sparse one has no new_zeros.


def _find_stack(
    module: nn.Module, base: nn.Module, outside: Collection[nn.Module], frozen: bool
) -> nn.RNNBase:
    """Return the only stack of torch's layers in ``base``, which is a submodule or ``module``."""
    modules = dict(named_parts(module)) if base is module else {"": base}
    every = {n: m for n, m in modules.items() if isinstance(m, nn.RNNBase)}
    stacks = {n: m for n, m in every.items() if m not in outside}
    if every and not stacks:
        names = [n for n, m in named_parts(module) if m in every.values()]
        raise UnsupportedNetworkError(
            f"recurrent: {', '.join(map(repr, names))} of {type(module).__name__} is part of the "
            "encoder, so that no torch.nn.RNN, GRU or LSTM is left as the recurrent part. "
            f"{TWO_USES} If not, give an encoder without it."
        )
    if len(stacks) != 1:
        raise UnsupportedNetworkError(
            f"recurrent: expected exactly one torch.nn.RNN, GRU or LSTM in "
            f"{type(module).__name__}, found {', '.join(map(repr, stacks)) or 'none'}; give its "
            "name as recurrent='...', or, if the network has a step of its own, name that as "
            "step='...'."
        )
    core = next(iter(stacks.values()))
    refuse_complex(core, "recurrent")
    _refuse_unsupported(core, frozen)
    return core


def _refuse_unsupported(core: nn.RNNBase, frozen: bool) -> None:
    """Refuse the options of torch's layers that the analysis does not cover."""
    every = list(parameters_of(core).values())
    hooked = not all(
        is_parametrized(core, n) or isinstance(getattr(core, n, None), nn.Parameter)
        for n in core._flat_weights_names
    )
    for condition, what, remedy in (
        (core.bidirectional, "bidirectional=True", "its states depend on later inputs"),
        (
            core.proj_size > 0,
            f"proj_size={core.proj_size}",
            "write its step as a function that uses the same weights, step=lambda network, x, "
            "state: ..., and give initial_state=(h, c), where h has proj_size values and c has "
            "hidden_size",
        ),
        (core.dropout > 0 and core.training, f"dropout={core.dropout}", "call module.eval()"),
        (
            core.dropout > 0 and frozen,
            f"dropout={core.dropout} and noise='frozen'",
            "give noise='off', or write the layers as a cell",
        ),
        (
            len(every) > len(set(map(id, every))),
            "tensors that share weights",
            "name a step that uses each shared weight as one parameter, with step='...'",
        ),
        (
            hooked,
            "weights that a hook or a wrapping module computes (as in AWD-LSTM)",
            "use torch.nn.utils.parametrize or torch.nn.utils.parametrizations",
        ),
    ):
        if condition:
            raise UnsupportedNetworkError(
                f"a {type(core).__name__} with {what} cannot be analysed: {remedy}."
            )
