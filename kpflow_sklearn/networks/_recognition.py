"""A module made elsewhere, recognised as step, readout and initial state."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from kpflow_sklearn.cells import make_cell
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import MappedLayer
from kpflow_sklearn.networks._named_step import (
    Step,
    initial_state_of,
    initial_state_trains,
    named_tensors,
    recognise_named_step,
)
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._readouts import check_readout, find_readout, named_submodule


def recognise_network(
    module: nn.Module,
    recurrent: str | None = None,
    readout: str | None = None,
    *,
    step: Step | None = None,
    initial_state: Any = None,
    frozen: bool = False,
) -> RecurrentNetwork:
    """View a module made elsewhere as step, readout and initial state; nothing is copied.

    Parameters
    ----------
    module : Module
        Holds one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear`` readout,
        unless ``step``, ``recurrent`` or ``readout`` names something else.
    recurrent, readout : str, optional
        Names of the two submodules, where they cannot be told. A readout that is named may be
        any module that maps each state alone.
    step, initial_state, frozen
        As in `recognise_named_step`.

    Returns
    -------
    RecurrentNetwork
        Shares the module's parameters.

    Raises
    ------
    UnsupportedNetworkError
        If the parts cannot be told, or are of a kind that the analysis cannot take.
    """
    if isinstance(module, RecurrentNetwork):
        return module
    named = dict(module.named_modules()).get(recurrent or "")
    if step is None and recurrent and _is_cell(named):
        step, recurrent = recurrent, None
    if step is not None:
        return recognise_named_step(
            module,
            step,
            recurrent=recurrent,
            readout=readout,
            initial_state=initial_state,
            frozen=frozen,
        )
    core = _find_recurrent(module, recurrent)
    _refuse_unsupported(core, frozen)
    name = core.mode.lower().removeprefix("rnn_")
    reader = find_readout(module, readout, n_units=core.hidden_size)
    check_readout(reader, next(core.parameters()).new_zeros(core.hidden_size))
    if readout is None:
        _refuse_other_parts(module, core, reader, named_tensors(module, initial_state))
    cell = make_cell(name)
    layers = [MappedLayer(cell, core, k) for k in range(core.num_layers)]
    z0 = _stacked_initial_state(module, initial_state, core, cell.n_parts)
    trains = initial_state_trains(module, initial_state)
    return RecurrentNetwork(core, layers, reader, z0, trains)


def _stacked_initial_state(module: nn.Module, spec: Any, core: nn.RNNBase, n_parts: int) -> Tensor:
    """Return z_0 layer by layer, each h then c, from torch's (n_layers, 1, hidden_size) parts."""
    size = core.num_layers * core.hidden_size
    given = initial_state_of(module, spec, next(core.parameters()))
    if given is None:
        return next(core.parameters()).detach().new_zeros(n_parts * size)
    if [part.numel() for part in given] != [size] * n_parts:
        raise UnsupportedNetworkError(
            f"initial_state: a {type(core).__name__} of {core.num_layers} layers and "
            f"{core.hidden_size} units takes {n_parts} tensor(s) of {size} values, got "
            f"{', '.join(str(tuple(part.shape)) for part in given)}."
        )
    parts = [part.reshape(core.num_layers, core.hidden_size) for part in given]
    return torch.stack(parts, dim=1).flatten()


def _is_cell(module: nn.Module | None) -> bool:
    """Tell whether a module may be a cell, ``forward(x_t, h)``."""
    if module is None or isinstance(module, nn.RNNBase):
        return False
    return len(inspect.signature(module.forward).parameters) >= 2


def _find_recurrent(module: nn.Module, name: str | None) -> nn.RNNBase:
    modules = dict(module.named_modules())
    if name is not None:
        modules = {name: named_submodule(module, name, "recurrent")}
    found = {n: m for n, m in modules.items() if isinstance(m, nn.RNNBase)}
    if len(found) != 1:
        raise UnsupportedNetworkError(
            f"recurrent: expected exactly one torch.nn.RNN, GRU or LSTM in "
            f"{type(module).__name__}, found {', '.join(map(repr, found)) or 'none'}; give its "
            "name as recurrent='...', or, if the network has a step of its own, name that as "
            "step='...'."
        )
    return next(iter(found.values()))


def _refuse_other_parts(
    module: nn.Module, core: nn.Module, readout: nn.Module, start: list[Any]
) -> None:
    """Refuse a module with further parameters, which the analysis would silently leave out."""
    known = {id(p) for part in (core, readout) for p in part.parameters()} | set(map(id, start))
    others = [name for name, p in module.named_parameters() if id(p) not in known]
    if others:
        raise UnsupportedNetworkError(
            f"{type(module).__name__} has further parameters, {', '.join(others[:4])}, that are "
            "neither of its recurrent part nor of its readout. If X goes straight into the "
            "recurrent part and its states straight into the readout, say so by giving "
            "readout='...'; else name what makes a step, with step='...'."
        )


def _refuse_unsupported(core: nn.RNNBase, frozen: bool) -> None:
    every = list(core.named_parameters(remove_duplicate=False))
    hooked = not all(
        is_parametrized(core, n) or isinstance(getattr(core, n), nn.Parameter)
        for n in core._flat_weights_names
    )
    for condition, what, remedy in (
        (core.bidirectional, "bidirectional=True", "its states depend on later inputs"),
        (core.proj_size > 0, f"proj_size={core.proj_size}", "train without a projection"),
        (core.dropout > 0 and core.training, f"dropout={core.dropout}", "call module.eval()"),
        (
            core.dropout > 0 and frozen,
            f"dropout={core.dropout} and noise='frozen'",
            "give noise='off', or write the layers as a cell",
        ),
        (
            len(every) > len({id(p) for _, p in every}),
            "weights that are shared between its tensors",
            "name a step that uses them as one, with step='...'",
        ),
        (
            hooked,
            "weights that a hook computes",
            "use torch.nn.utils.parametrize or torch.nn.utils.parametrizations",
        ),
    ):
        if condition:
            raise UnsupportedNetworkError(
                f"a {type(core).__name__} with {what} cannot be analysed: {remedy}."
            )
