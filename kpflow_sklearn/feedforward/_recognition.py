"""Recognition of a user's `torch.nn.Sequential` as a feed-forward network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.feedforward._network import PIECEWISE_LINEAR, SMOOTH, FeedForwardNetwork

SUPPORTED = "Linear, " + ", ".join(kind.__name__ for kind in PIECEWISE_LINEAR + SMOOTH)


def recognise_feedforward(module: nn.Module) -> FeedForwardNetwork:
    """Return a multilayer perceptron as a network of layers, sharing its weights.

    Parameters
    ----------
    module : Module
        A ``torch.nn.Sequential``, possibly nested, of ``Linear`` layers and elementwise
        activations, which ends in a ``Linear`` layer, the readout. Between two ``Linear`` layers
        in a row, the activation is the identity.

    Returns
    -------
    FeedForwardNetwork
        The same function of the same tensors.

    Raises
    ------
    UnsupportedNetworkError
        If a layer is of another kind, if there is no hidden layer, if a weight is used twice, or
        if no parameter trains.
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
            "the network must have at least one hidden layer (Linear, activation, Linear), got "
            "a single Linear."
        )
    _check_parameters(linears)
    return FeedForwardNetwork(linears[:-1], activations, linears[-1])


def _flat(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers with their names, in order, including those of nested Sequentials."""
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
    """Return a copy that does not overwrite its input, H_l."""
    copied: Any = copy.deepcopy(phi)
    if hasattr(copied, "inplace"):
        copied.inplace = False
    return copied


def _check_parameters(linears: list[nn.Linear]) -> None:
    """Reject shared weights, which add cross terms between layers to K, and frozen networks."""
    parameters = [p for linear in linears for p in linear.parameters()]
    if len({id(p) for p in parameters}) < len(parameters):
        raise UnsupportedNetworkError(
            "two layers share a weight or bias, but the kernel is a sum over layers only if no "
            "parameter is shared."
        )
    if not any(p.requires_grad for p in parameters):
        raise UnsupportedNetworkError(
            "no parameter trains (requires_grad is False for all), so the kernel is zero and "
            "there is nothing to analyse."
        )
