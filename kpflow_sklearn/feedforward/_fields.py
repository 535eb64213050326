"""The fields of a feed-forward network on data, and how they move under gradient flow.

Upwards, H_l = X_{l-1} W_l^T + b_l, X_l = phi(H_l) and D_l = phi'(H_l). Downwards, C_L = a,
B_l = D_l * C_l and C_{l-1} = B_l W_l, so C_l = df/dX_l and B_l = df/dH_l, with one row per sample
and output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kpflow_sklearn.feedforward._network import FeedForwardNetwork, slope


@dataclass(frozen=True)
class Fields:
    """The fields of all layers; entry l - 1 of H, D, C and B belongs to layer l.

    Attributes
    ----------
    X : list of Tensor of shape (n_samples, n_l)
        Activities, from X_0 (the inputs) to X_L.
    H, D : list of Tensor of shape (n_samples, n_l)
        Pre-activations and slopes (the gates, for ReLU).
    C, B : list of Tensor of shape (n_samples, n_outputs, n_l)
        Derivatives of the outputs with respect to X_l and H_l.
    outputs : Tensor of shape (n_samples, n_outputs)
        The outputs f.
    """

    X: list[Tensor]
    H: list[Tensor]
    D: list[Tensor]
    C: list[Tensor]
    B: list[Tensor]
    outputs: Tensor


@torch.no_grad()
def forward_fields(network: FeedForwardNetwork, X: Tensor) -> Fields:
    """Return the fields on inputs X (n_samples, n_features) by one pass upwards and one down."""
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
        if k:  # C_0 is not needed.
            c = down_b[-1] @ network.linears[k][1].weight
    outputs = network.readout(activity[-1])
    return Fields(activity, before, slopes, down_c[::-1], down_b[::-1], outputs)


class LayerFactor(NamedTuple):
    """The factors U and S of one layer's kernel (U U^T) * (S S^T).

    Attributes
    ----------
    name : str
        "1" to "L" or "readout".
    u : Tensor of shape (n_samples, p)
        The input of the layer's trained parameters: X_{l-1} if the weight trains, and a column of
        ones if the bias trains.
    s : Tensor of shape (n_samples * n_outputs, n_l)
        B_l, or the identity for the readout.
    """

    name: str
    u: Tensor
    s: Tensor


def trained_input(linear: torch.nn.Linear, X: Tensor) -> Tensor:
    """Return the input of a layer's trained parameters, (n_samples, p), where p may be 0."""
    columns = [X] if linear.weight.requires_grad else []
    if linear.bias is not None and linear.bias.requires_grad:
        columns.append(X.new_ones(len(X), 1))
    return torch.cat(columns, dim=1) if columns else X.new_empty(len(X), 0)


def layer_factors(network: FeedForwardNetwork, fields: Fields) -> list[LayerFactor]:
    """Return the factors of each layer that has a trained parameter."""
    n_samples, n_outputs = fields.outputs.shape
    identity = torch.eye(n_outputs, dtype=fields.outputs.dtype).expand(n_samples, -1, -1)
    sensitivities = [*fields.B, identity]
    factors = []
    for (name, linear), x, s in zip(network.linears, fields.X, sensitivities, strict=True):
        u = trained_input(linear, x)
        if u.shape[1]:
            factors.append(LayerFactor(name, u, s.flatten(0, 1)))
    return factors


@torch.no_grad()
def field_rates(
    network: FeedForwardNetwork, fields: Fields, residuals: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return dH_l/dt and dC_l/dt under gradient flow on sum r^2 / 2.

    Equations: dH_l = -Q_{l-1} diag(r) B_l + (D_{l-1} * dH_{l-1}) W_l^T, and between flips
    dC_{l-1} = -S_l diag(r) X_{l-1} + (D_l * dC_l) W_l. The first holds for any elementwise
    activation, the second for constant slopes and a fixed readout.

    Parameters
    ----------
    network : FeedForwardNetwork
        The network. For dC, its readout must be fixed and its activations piecewise linear.
    fields : Fields
        Fields of the network on the samples.
    residuals : Tensor of shape (n_samples, n_outputs)
        r = f - y.

    Returns
    -------
    dH, dC : list of Tensor
        One rate per hidden layer, (n_samples, n_l) and (n_samples, n_outputs, n_l).
    """
    d_h: list[Tensor] = []
    # diag(r) B_l, summed over the outputs: (n_samples, n_l).
    weighted = [(residuals[..., None] * b).sum(1) for b in fields.B]
    for k, (_, linear) in enumerate(network.linears[:-1]):
        u = trained_input(linear, fields.X[k])
        moved = -u @ (u.mT @ weighted[k])  # -Q_{l-1} diag(r) B_l, without the matrix Q_{l-1}.
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
