"""A `torch.nn.Sequential` made elsewhere, recognised as a feed-forward network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.feedforward._network import PIECEWISE_LINEAR, SMOOTH, FeedForwardNetwork

SUPPORTED = "Linear, " + ", ".join(kind.__name__ for kind in PIECEWISE_LINEAR + SMOOTH)


def recognise_feedforward(module: nn.Module) -> FeedForwardNetwork:
    """View a plain multilayer perceptron as its layers; the weights are shared, not copied.

    Parameters
    ----------
    module : Module
        A ``torch.nn.Sequential`` of ``Linear`` and elementwise activations (nested ones too) that
        ends in a ``Linear``, the readout; two ``Linear`` in a row have the identity between them.

    Returns
    -------
    FeedForwardNetwork
        The same function of the same tensors.

    Raises
    ------
    UnsupportedNetworkError
        If a layer is of another kind, which the message names; if there is no hidden layer, a
        weight is used twice, or nothing trains.
    """
    if isinstance(module, FeedForwardNetwork):
        return module
    if not isinstance(module, nn.Sequential):
        raise UnsupportedNetworkError(
            f"network must be a torch.nn.Sequential of {SUPPORTED}, got a {type(module).__name__}."
        )
    linears: list[nn.Linear] = []
    activations: list[nn.Module] = []
    for name, layer in _flat(module):
        if type(layer) is nn.Linear and isinstance(layer._parameters.get("weight"), nn.Parameter):
            if len(activations) < len(linears):
                activations.append(nn.Identity())
            linears.append(layer)
        elif isinstance(layer, nn.Identity):
            continue
        elif type(layer) in PIECEWISE_LINEAR + SMOOTH:
            if len(activations) >= len(linears):
                _refuse(name, layer, "an activation must follow a Linear layer")
            activations.append(_not_in_place(layer))
        else:
            _refuse(name, layer, f"only {SUPPORTED} can be analysed")
    if len(activations) == len(linears):
        raise UnsupportedNetworkError(
            "the last layer must be a Linear, the readout, got "
            f"{type(activations[-1]).__name__ if activations else 'no layer at all'}."
        )
    if len(linears) < 2:
        raise UnsupportedNetworkError(
            "the network must have at least one hidden layer (Linear, activation, Linear), got a "
            "single Linear, depth 0."
        )
    _refuse_shared(linears)
    return FeedForwardNetwork(linears[:-1], activations, linears[-1])


def _flat(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers by name, those of nested Sequentials in their place."""
    if type(module).forward is not nn.Sequential.forward:
        _refuse(prefix.rstrip("."), module, "its forward is not that of torch.nn.Sequential")
    for name, layer in module._modules.items():
        if isinstance(layer, nn.Sequential):
            yield from _flat(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield prefix + name, layer


def _refuse(name: str, layer: nn.Module, why: str) -> None:
    where = f"layer {name!r}, a {type(layer).__name__}" if name else f"a {type(layer).__name__}"
    raise UnsupportedNetworkError(f"{where}, is not supported: {why}.")


def _not_in_place(phi: nn.Module) -> nn.Module:
    """Return a copy that leaves its input, H_l, as it is."""
    own: Any = copy.deepcopy(phi)
    if hasattr(own, "inplace"):
        own.inplace = False
    return own


def _refuse_shared(linears: list[nn.Linear]) -> None:
    """Refuse a weight used twice: K then has cross terms between layers."""
    parameters = [p for linear in linears for p in linear.parameters()]
    if len({id(p) for p in parameters}) < len(parameters):
        raise UnsupportedNetworkError(
            "two layers share a weight or bias; the kernel is a sum over layers only if each has "
            "its own."
        )
    if not any(p.requires_grad for p in parameters):
        raise UnsupportedNetworkError(
            "no parameter trains (requires_grad is False for all), so the kernel is zero and "
            "there is nothing to analyse."
        )
