"""Attribution of a change of the outputs to layers, for any step between two networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpflow_sklearn.feedforward._fields import Fields, forward_fields
from kpflow_sklearn.feedforward._network import FeedForwardNetwork, is_piecewise_linear, slope

#: Relative change of h below which the slope midway is more accurate than Delta phi / Delta h.
_CLOSE = 1e-6


@torch.no_grad()
def attribute_step(
    before: FeedForwardNetwork, after: FeedForwardNetwork, X: Tensor
) -> dict[str, Tensor]:
    """Split the change of the outputs among the layers, exactly, for a step of any size.

    Equation: Delta f = sum_l bbar_l . (Delta W_l xbar_{l-1} + Delta b_l). Here xbar and Wbar are
    means over the two ends of the step, and bbar is carried down by Wbar and the secant gates
    Delta phi / Delta h. The equation holds for any optimizer and any elementwise activation; the
    reverse step has the same shares with opposite signs. The readout is a layer like the others.

    Parameters
    ----------
    before, after : FeedForwardNetwork
        The networks at the two ends of the step, with the same architecture.
    X : Tensor of shape (n_samples, n_features)
        Inputs.

    Returns
    -------
    dict of str to Tensor of shape (n_samples, n_outputs)
        The share of each layer, "1" to "L" and "readout", in Delta f. It is zero for a layer
        whose parameters did not change.
    """
    first, last = forward_fields(before, X), forward_fields(after, X)
    ends = zip(before.linears, after.linears, strict=True)
    moved = [
        _change(old, new, (x + x_new) / 2)
        for ((_, old), (_, new)), x, x_new in zip(ends, first.X, last.X, strict=True)
    ]
    shares = {"readout": moved[-1]}
    # c is Cbar_l and b is Bbar_l = Dbar_l * Cbar_l, (n_samples, n_outputs, n_l), from l = L down.
    c = _mean(before.readout, after.readout).expand(len(X), -1, -1)
    for k in reversed(range(before.depth)):
        gates = secant_gates(before.activations[k], first.H[k], last.H[k])
        b = gates[:, None] * c
        shares[str(k + 1)] = torch.einsum("nci,ni->nc", b, moved[k])
        c = b @ _mean(before.hidden[k], after.hidden[k])  # type: ignore[arg-type]
    return {name: shares[name] for name, _ in before.linears}


def _mean(old: nn.Linear, new: nn.Linear) -> Tensor:
    """Return Wbar."""
    return (old.weight + new.weight) / 2


def _change(old: nn.Linear, new: nn.Linear, x: Tensor) -> Tensor:
    """Return Delta W x + Delta b, (n_samples, n_l)."""
    moved = x @ (new.weight - old.weight).mT
    return moved if old.bias is None else moved + (new.bias - old.bias)


def secant_gates(phi: nn.Module, h: Tensor, h_new: Tensor) -> Tensor:
    """Return Delta phi / Delta h elementwise, or the slope where h does not change."""
    change = h_new - h
    is_small = change == 0
    if not is_piecewise_linear(phi):
        is_small = change.abs() <= _CLOSE * (1 + h.abs())
    quotient = (phi(h_new) - phi(h)) / torch.where(is_small, 1.0, change)
    return torch.where(is_small, slope(phi, (h + h_new) / 2), quotient)


def gate_flips(
    network: FeedForwardNetwork, before: Fields, after: Fields
) -> dict[str, int | None]:
    """Count, per layer, the (sample, unit) pairs whose gate differs; None if phi is smooth."""
    return {
        str(k + 1): int((before.D[k] != after.D[k]).sum()) if is_piecewise_linear(phi) else None
        for k, phi in enumerate(network.activations)
    }


def conserves_balance(network: FeedForwardNetwork) -> dict[str, str]:
    """Return why the flow does not conserve each hidden layer's `balance`; empty if it does."""
    reasons = {}
    for k, (name, linear) in enumerate(network.linears[:-1]):
        above = network.linears[k + 1][1]
        frozen_bias = linear.bias is not None and not linear.bias.requires_grad
        if not is_piecewise_linear(network.activations[k]):
            reasons[name] = "the activation is not positively homogeneous"
        elif not (linear.weight.requires_grad and above.weight.requires_grad):
            layer = "the readout" if above is network.readout else "a layer"
            reasons[name] = f"{layer} of the pair does not train"
        elif frozen_bias and bool(linear.bias.abs().max() > 0):
            reasons[name] = "the bias does not train"
        else:
            reasons[name] = ""
    return reasons


@torch.no_grad()
def balance(network: FeedForwardNetwork) -> dict[str, Tensor]:
    """Return |W_{l+1}[:, i]|^2 - |W_l[i, :]|^2 - b_l[i]^2 for each unit i of each hidden layer.

    Gradient flow conserves this balance between layers that train, if the activation is positively
    homogeneous (ReLU, leaky ReLU or identity). Finite steps do not, so the drift of the balance
    measures how far training was from the flow.
    """
    balances = {}
    for k, (name, linear) in enumerate(network.linears[:-1]):
        above = network.linears[k + 1][1].weight
        value = (above**2).sum(0) - (linear.weight**2).sum(1)
        trained_bias = linear.bias is not None and linear.bias.requires_grad
        balances[name] = value - linear.bias**2 if trained_bias else value
    return balances
