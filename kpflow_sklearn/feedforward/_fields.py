"""The fields of a feed-forward network on data, and how they move under gradient flow.

X_l = phi(H_l), H_l = X_{l-1} W_l^T + b_l, D_l = phi'(H_l) going up; C_L = a, B_l = D_l * C_l and
C_{l-1} = B_l W_l coming down: C_l = df/dX_l and B_l = df/dH_l, one row for each sample and output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kpflow_sklearn.feedforward._network import FeedForwardNetwork, slope


@dataclass(frozen=True)
class Fields:
    """The fields of every layer; entry l - 1 of H, D, C, B belongs to layer l.

    Attributes
    ----------
    X : list of Tensor of shape (n_samples, n_l)
        X_0 (the inputs) to X_L.
    H, D : list of Tensor of shape (n_samples, n_l)
        Pre-activations and slopes (the gates, for ReLU).
    C, B : list of Tensor of shape (n_samples, n_outputs, n_l)
        Derivatives of the outputs by X_l and by H_l.
    outputs : Tensor of shape (n_samples, n_outputs)
        f.
    """

    X: list[Tensor]
    H: list[Tensor]
    D: list[Tensor]
    C: list[Tensor]
    B: list[Tensor]
    outputs: Tensor


@torch.no_grad()
def forward_fields(network: FeedForwardNetwork, X: Tensor) -> Fields:
    """Return the fields on inputs X (n_samples, n_features): one pass up, one down."""
    activity, before, slopes = [X], [], []
    for linear, phi in zip(network.hidden, network.activations, strict=True):
        before.append(linear(activity[-1]))
        activity.append(phi(before[-1]))
        slopes.append(slope(phi, before[-1]))
    c = network.readout.weight.detach().expand(len(X), -1, -1)
    down_c, down_b = [], []
    for k in reversed(range(network.depth)):
        down_c.append(c)
        down_b.append(slopes[k][:, None] * c)
        if k:  # C_0 is needed by nothing.
            c = down_b[-1] @ network.linears[k][1].weight
    outputs = network.readout(activity[-1])
    return Fields(activity, before, slopes, down_c[::-1], down_b[::-1], outputs)


class LayerFactor(NamedTuple):
    """One layer's U and S of its kernel (U U^T) * (S S^T).

    Attributes
    ----------
    name : str
        "1" to "L" or "readout".
    u : Tensor of shape (n_samples, p)
        What the layer's trained weights multiply: X_{l-1} and a one for the bias, each if it
        trains.
    s : Tensor of shape (n_samples * n_outputs, n_l)
        B_l; the identity for the readout.
    """

    name: str
    u: Tensor
    s: Tensor


def trained_input(linear: torch.nn.Linear, X: Tensor) -> Tensor:
    """Return what the trained weights of a layer multiply, (n_samples, p); p may be 0."""
    columns = [X] if linear.weight.requires_grad else []
    if linear.bias is not None and linear.bias.requires_grad:
        columns.append(X.new_ones(len(X), 1))
    return torch.cat(columns, dim=1) if columns else X.new_empty(len(X), 0)


def layer_factors(network: FeedForwardNetwork, fields: Fields) -> list[LayerFactor]:
    """Return the factors of every layer that has a trained tensor."""
    n_samples, n_outputs = fields.outputs.shape
    identity = torch.eye(n_outputs, dtype=fields.outputs.dtype).expand(n_samples, -1, -1)
    sensitivities = [*fields.B, identity]
    found = []
    for (name, linear), x, s in zip(network.linears, fields.X, sensitivities, strict=True):
        u = trained_input(linear, x)
        if u.shape[1]:
            found.append(LayerFactor(name, u, s.flatten(0, 1)))
    return found


@torch.no_grad()
def field_rates(
    network: FeedForwardNetwork, fields: Fields, residuals: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return dH_l/dt and dC_l/dt under gradient flow on sum r^2 / 2.

    Equations: dH_l = -Q_{l-1} diag(r) B_l + (D_{l-1} * dH_{l-1}) W_l^T, and between flips
    dC_{l-1} = -S_l diag(r) X_{l-1} + (D_l * dC_l) W_l. The first holds for any elementwise
    activation; the second has slopes that stand still, and a fixed readout.

    Parameters
    ----------
    network : FeedForwardNetwork
        With a fixed readout and piecewise linear activations for the second list to hold.
    fields : Fields
        Of the network on data.
    residuals : Tensor of shape (n_samples, n_outputs)
        r = f - y.

    Returns
    -------
    dH : list of Tensor of shape (n_samples, n_l)
        One for each hidden layer.
    dC : list of Tensor of shape (n_samples, n_outputs, n_l)
        One for each hidden layer.
    """
    d_h: list[Tensor] = []
    weighted = [(residuals[..., None] * b).sum(1) for b in fields.B]
    for k, (_, linear) in enumerate(network.linears[:-1]):
        u = trained_input(linear, fields.X[k])
        moved = -u @ (u.mT @ weighted[k])
        if k:
            moved += (fields.D[k - 1] * d_h[-1]) @ linear.weight.mT
        d_h.append(moved)
    d_c = [torch.zeros_like(fields.C[-1])]
    for k in reversed(range(1, network.depth)):
        weight = network.linears[k][1].weight
        moved = (fields.D[k][:, None] * d_c[-1]) @ weight
        if weight.requires_grad:
            moved -= fields.B[k] @ (weighted[k].mT @ fields.X[k])
        d_c.append(moved)
    return d_h, d_c[::-1]
