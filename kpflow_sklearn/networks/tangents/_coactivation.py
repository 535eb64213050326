"""Activity Gram times co-activation, the form of every kernel in this package.

A weight matrix W with a = W u and sensitivities s = dz/da contributes (U U^T) * (S S^T),
elementwise, to the kernel of z: over the time of a recurrent network (traced over units), and over
the depth of a feed-forward one (one such term per layer). U has one row per sample; S has one, or
n_outputs consecutive ones, per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coactivation_gram(u: Tensor, s: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return (U U'^T) * (S S'^T), elementwise.

    Parameters
    ----------
    u : Tensor of shape (..., n, p)
        Inputs of the weights.
    s : Tensor of shape (..., n * n_outputs, q)
        Sensitivities.
    other : tuple of Tensor, optional
        u' and s' of the columns; those of the rows by default.

    Returns
    -------
    Tensor of shape (..., n * n_outputs, n' * n_outputs)
        The kernel.
    """
    # (U U'^T), (..., n, n'), and (S S'^T), whose blocks (n_outputs, n_outputs) it multiplies.
    u_other, s_other = (u, s) if other is None else other
    activity, gram = u @ u_other.mT, s @ s_other.mT
    n_outputs = s.shape[-2] // u.shape[-2]
    if n_outputs == 1:
        return gram.mul_(activity)
    blocks = gram.unflatten(-1, (-1, n_outputs)).unflatten(-3, (-1, n_outputs))
    blocks.mul_(activity[..., :, None, :, None])
    return gram


def coactivation_trace(u: Tensor, s: Tensor) -> float:
    """Return tr (U U^T) * (S S^T) = sum |u|^2 |s|^2, in double.

    Parameters
    ----------
    u, s : Tensor
        As in `coactivation_gram`.

    Returns
    -------
    float
        The trace.
    """
    # |s|^2 summed over the outputs of each sample, (..., n), times |u|^2.
    weight = (s.double() ** 2).sum(-1).unflatten(-1, (u.shape[-2], -1)).sum(-1)
    return float((weight * (u.double() ** 2).sum(-1)).sum())


def pull_back(u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Return dW = S^T diag(v) U, the transpose of `push_forward` applied to v.

    Parameters
    ----------
    u : Tensor of shape (n, p)
        Inputs of the weights.
    s : Tensor of shape (n * n_outputs, q)
        Sensitivities.
    v : Tensor of shape (n * n_outputs,)
        A direction of the outputs.

    Returns
    -------
    Tensor of shape (q, p)
        The change of the weights.
    """
    # v_nc s_nc summed over the outputs c of each sample n: (n, q).
    weighted = (v[:, None] * s).unflatten(0, (len(u), -1)).sum(1)
    return weighted.mT @ u


def push_forward(u: Tensor, s: Tensor, dw: Tensor) -> Tensor:
    """Return s . (dW u), the change of the outputs for a change dW of the weights.

    Parameters
    ----------
    u, s : Tensor
        As in `pull_back`.
    dw : Tensor of shape (..., q, p)
        Changes of the weights.

    Returns
    -------
    Tensor of shape (..., n * n_outputs)
        Changes of the outputs.
    """
    # dW u_n, (..., n, q), then its product with s_nc for every output c of sample n.
    moved = u @ dw.mT
    return torch.einsum("ncq,...nq->...nc", s.unflatten(0, (len(u), -1)), moved).flatten(-2)
