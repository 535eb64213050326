"""Containers of a network's parts, which have no forward method."""

from __future__ import annotations

from torch import nn

from kpflow_sklearn._common.modules import named_once, parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks.agreement._parameter_use import ParameterUse

CONTAINERS = (nn.ModuleDict, nn.ModuleList)


def callable_part(module: nn.Module, use: ParameterUse) -> nn.Module | None:
    """Return the module, or the part of a container that holds step and readout.

    Parameters
    ----------
    module : Module
        The user's network.
    use : ParameterUse
        What its step and its readout depend on.

    Returns
    -------
    Module or None
        What can be called; None if step and readout are in different parts of a container.
    """
    named = named_once(module)
    needed = {id(named[name]) for name in use.step | use.readout}
    while isinstance(module, CONTAINERS):
        holding = (
            part
            for part in module.children()
            if needed <= set(map(id, parameters_of(part).values()))
        )
        part = next(holding, None)
        if part is None:
            return None
        module = part
    return module


def refuse_unused(module: nn.Module, view: RecurrentNetwork, use: ParameterUse) -> None:
    """Refuse further parameters of a container, which has no forward that shows their use.

    Parameters
    ----------
    module : Module
        The user's network, a container.
    view : RecurrentNetwork
        The same network as encoder, step, readout and initial state.
    use : ParameterUse
        What these parts depend on.

    Raises
    ------
    UnsupportedNetworkError
        If there are further parameters.
    """
    others = use.left_out(use.sizes)
    if not others:
        return
    what, remedy = (
        (
            "belong to no encoder, step, readout or initial state",
            "Give a ModuleDict of the recurrent part and the readout alone, with encoder='...' if "
            "others come before the recurrent part, or a module with a forward method.",
        )
        if view.readout is not None
        else (
            "do not belong to its recurrent part, in which no readout is recognised",
            "Give the recurrent part alone, with the X that it takes, or name the readout by "
            "SavedTraining(network, readout=...).",
        )
    )
    raise UnsupportedNetworkError(
        f"{type(module).__name__} has further parameters, {', '.join(others[:4])}, that "
        f"{what}, and no forward method that would show their use. {remedy}"
    )
