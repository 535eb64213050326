"""What each layer did in a step between two states of a network, however the step was made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpflow_sklearn.feedforward._fields import Fields, forward_fields
from kpflow_sklearn.feedforward._network import FeedForwardNetwork, is_piecewise_linear, slope

_CLOSE = 1e-6  # Below, the quotient of differences loses more digits than the middle slope.


@torch.no_grad()
def attribute_step(
    before: FeedForwardNetwork, after: FeedForwardNetwork, X: Tensor
) -> dict[str, Tensor]:
    """Split the change of the outputs over the layers, exactly, for a step of any size.

    Equation: Delta f = sum_l bbar_l . (Delta W_l xbar_{l-1} + Delta b_l). xbar and Wbar are means
    of the two ends, and bbar is carried down by Wbar and the secant gates Delta phi / Delta h; the
    split of the step back is the same with the sign turned. It holds for any optimizer and any
    elementwise activation. The readout is a layer like the others (zero if it stood still).

    Parameters
    ----------
    before, after : FeedForwardNetwork
        The two ends, of one architecture.
    X : Tensor of shape (n_samples, n_features)
        Inputs.

    Returns
    -------
    dict of str to Tensor of shape (n_samples, n_outputs)
        Share of each layer in Delta f, "1" to "L" and "readout".
    """
    first, last = forward_fields(before, X), forward_fields(after, X)
    ends = zip(before.linears, after.linears, strict=True)
    moved = [
        _change(old, new, (x + x_new) / 2)
        for ((_, old), (_, new)), x, x_new in zip(ends, first.X, last.X, strict=True)
    ]
    shares = {"readout": moved[-1]}
    c = _mean(before.readout, after.readout).expand(len(X), -1, -1)
    for k in reversed(range(before.depth)):
        gates = secant_gates(before.activations[k], first.H[k], last.H[k])
        b = gates[:, None] * c
        shares[str(k + 1)] = torch.einsum("nci,ni->nc", b, moved[k])
        c = b @ _mean(before.hidden[k], after.hidden[k])  # type: ignore[arg-type]
    return {name: shares[name] for name, _ in before.linears}


def _mean(old: nn.Linear, new: nn.Linear) -> Tensor:
    return (old.weight + new.weight) / 2


def _change(old: nn.Linear, new: nn.Linear, x: Tensor) -> Tensor:
    moved = x @ (new.weight - old.weight).mT
    return moved if old.bias is None else moved + (new.bias - old.bias)


def secant_gates(phi: nn.Module, h: Tensor, h_new: Tensor) -> Tensor:
    """Return Delta phi / Delta h, and the slope where h stood still."""
    change = h_new - h
    still = change == 0
    if not is_piecewise_linear(phi):
        still = change.abs() <= _CLOSE * (1 + h.abs())
    quotient = (phi(h_new) - phi(h)) / torch.where(still, 1.0, change)
    return torch.where(still, slope(phi, (h + h_new) / 2), quotient)


def gate_flips(
    network: FeedForwardNetwork, before: Fields, after: Fields
) -> dict[str, int | None]:
    """Count the (sample, unit) pairs whose gate differs; None for smooth activations."""
    return {
        str(k + 1): int((before.D[k] != after.D[k]).sum()) if is_piecewise_linear(phi) else None
        for k, phi in enumerate(network.activations)
    }


def conserves_balance(network: FeedForwardNetwork) -> dict[str, str]:
    """Say for each hidden layer why the flow does not conserve its `balance`; "" where it does."""
    found = {}
    for k, (name, linear) in enumerate(network.linears[:-1]):
        above = network.linears[k + 1][1]
        frozen_bias = linear.bias is not None and not linear.bias.requires_grad
        if not is_piecewise_linear(network.activations[k]):
            found[name] = "the activation is not positively homogeneous"
        elif not (linear.weight.requires_grad and above.weight.requires_grad):
            layer = "the readout" if above is network.readout else "a layer"
            found[name] = f"{layer} of the pair does not train"
        elif frozen_bias and bool(linear.bias.abs().max() > 0):
            found[name] = "the bias does not train"
        else:
            found[name] = ""
    return found


@torch.no_grad()
def balance(network: FeedForwardNetwork) -> dict[str, Tensor]:
    """Return |W_{l+1}[:, i]|^2 - |W_l[i, :]|^2 - b_l[i]^2 for each unit i of each hidden layer.

    Gradient flow conserves it between layers that train, with a positively homogeneous activation
    (ReLU, leaky ReLU, identity); finite steps do not, so its drift measures their size.
    """
    found = {}
    for k, (name, linear) in enumerate(network.linears[:-1]):
        above = network.linears[k + 1][1].weight
        value = (above**2).sum(0) - (linear.weight**2).sum(1)
        trained_bias = linear.bias is not None and linear.bias.requires_grad
        found[name] = value - linear.bias**2 if trained_bias else value
    return found
