"""Exact Grams: of P by Gramian recursions, and of any small operator by its matrix.

An axis is named after the axis that is kept: the Gram of an operator on (trial, time, hidden) is
reduced by the partial trace over the other two.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.networks.tangents import MappedTangent, NetworkTangent
from kpflow_sklearn.operators import (
    FlowPropagator,
    LinearOperator,
    ParameterOperator,
    TangentKernel,
    cut,
)
from kpflow_sklearn.spectra._units import eigenvalues

#: Number of trajectory entries up to which an operator's matrix is formed.
DENSE_LIMIT = 1024
AXES = ("all", "trial", "time", "hidden")


def step_matrices(tangent: NetworkTangent, t: int) -> tuple[Tensor, Tensor]:
    """Return the dense M_t and E_t E_t^T of p_t = M_t p_{t-1} + E_t q_t, each (B, H, H).

    E_t is the identity on valid steps of a single layer; in a stack it carries a push on a layer
    up to the layers above, within the step.
    """
    n_trials, _, n_states = tangent.shape
    eye = torch.eye(n_states, dtype=tangent.dtype, device=tangent.device)
    valid = eye.expand(n_trials, -1, -1)
    if tangent.mask is not None:
        valid = valid * tangent.mask[t][..., None]
    if len(tangent.layers) == 1 and isinstance(tangent.layers[0], MappedTangent):
        return tangent.layers[0].state_matrix(t), valid
    columns = eye[:, None, :].repeat(1, n_trials, 1)
    m = torch.zeros_like(columns)
    tangent.jacobian_forward(t, columns, m, m)
    tangent.solve_within(t, m)
    e = tangent.solve_within(t, valid.movedim(2, 0).contiguous()).permute(1, 2, 0)
    return m.permute(1, 2, 0), e @ e.mT


def propagator_gram(op: FlowPropagator, memory: int = 2**29) -> tuple[Tensor, Tensor, float]:
    """Return partial traces and the norm of PP* by two Gramian recursions, in chunks of trials.

    Equations: C_t = E_t E_t^T + M_t C_{t-1} M_t^T and O_t = M_{t+1}^T (I + O_{t+1}) M_{t+1};
    tr PP* = sum tr C_t, |PP*|_F^2 = sum_t tr(C_t^2 + 2 C_t O_t C_t), hidden axis sum C_t. The
    recursions run in the operator's precision, and again in double if that overflows.

    Parameters
    ----------
    op : FlowPropagator
        P.
    memory : int, default=2**29
        Bytes that the matrices of a chunk of trials may use.

    Returns
    -------
    hidden : Tensor of shape (n_states, n_states)
        The Gram on the hidden axis.
    by_trial : Tensor of shape (n_trials,)
        The Gram on the trial axis, which is diagonal.
    square : float
        |PP*|_F^2.
    """
    n_trials, n_timesteps, n_states = op.in_shape
    chunk = max(1, memory // (2 * n_timesteps * n_states**2 * op.dtype.itemsize))
    hidden = torch.zeros(n_states, n_states, dtype=torch.float64, device=op.device)
    by_trial, square = [], 0.0
    for i in range(0, n_trials, chunk):
        tangent = op.on_trials(slice(i, i + chunk)).tangent
        of_chunk = _gramians(tangent, op.dtype)
        if not np.isfinite(of_chunk[2]) and op.dtype != torch.float64:
            of_chunk = _gramians(tangent, torch.float64)
        hidden += of_chunk[0]
        by_trial.append(of_chunk[1])
        square += of_chunk[2]
    return hidden, torch.cat(by_trial), square


def _gramians(tangent: NetworkTangent, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    n_trials, n_timesteps, n_states = tangent.shape
    # C_t and M_t of every step, each (B, H, H)
    reach: list[Tensor] = []
    steps: list[Tensor] = []
    for t in range(n_timesteps):
        m, pushed = (x.to(dtype) for x in step_matrices(tangent, t))
        # C_t = E_t E_t^T + M_t C_{t-1} M_t^T
        reach.append(torch.baddbmm(pushed, m @ reach[-1], m.mT) if t else pushed)
        steps.append(m)
    o = torch.zeros_like(m)  # O_T = 0
    square = 0.0
    for t in range(n_timesteps - 1, -1, -1):
        c = reach[t]
        # |PP*|_F^2 = sum over t of tr(C_t^2 + 2 C_t O_t C_t), trials summed
        square += float(_dot(c, c) + 2 * _dot(c, o @ c))
        # O_{t-1} = M_t^T (I + O_t) M_t
        o.diagonal(dim1=1, dim2=2).add_(1)
        o = steps[t].mT @ o @ steps[t]
    by_trial = sum(c.diagonal(dim1=1, dim2=2).double().sum(1) for c in reach)
    hidden = sum(c.sum(0).double() for c in reach)
    return hidden, by_trial, square  # type: ignore[return-value]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return sum a b, in double precision over trials."""
    return (a * b).sum((1, 2)).double().sum()


def gram_factor(op: LinearOperator, gram: str = "natural") -> tuple[LinearOperator, float]:
    """Return A and c such that the operator's Gram is c A A^T (ordinary transpose).

    Parameters
    ----------
    op : LinearOperator
        The operator.
    gram : {"natural", "square"}, default="natural"
        Which Gram of the operator, as in `OperatorSpectra`.

    Returns
    -------
    factor : LinearOperator
        A.
    scale : float
        c.
    """
    if gram == "natural" and isinstance(op, ParameterOperator):
        return op.jacobian, 1 / op.tangent.n_valid
    if gram == "natural" and isinstance(op, TangentKernel):
        return op.P @ op.K.jacobian, 1 / op.K.tangent.n_valid
    return op, 1.0


def dense_gram(op: LinearOperator, axis: str, gram: str) -> Tensor:
    """Return the reduced Gram of a small operator from its matrix."""
    factor, scale = gram_factor(op, gram)
    dense = factor.to_dense().double()
    if axis == "all":
        return scale * (dense @ dense.mT)
    # Columns of A as trajectories (n, B, T, H); the kept axis first, everything else summed over.
    columns = dense.mT.reshape(-1, *op.out_shape)
    dim = {"trial": 1, "time": 2, "hidden": 3}[axis]
    flat = columns.movedim(dim, 0).flatten(1)
    return scale * (flat @ flat.mT)


def trial_eigenvalues(op: LinearOperator) -> np.ndarray:
    """Return every eigenvalue of O O* in descending order, from one matrix per trial.

    The operator must map each trial to itself (``separable``), as P does.
    """
    by_trial = [
        eigenvalues(dense_gram(cut(op, slice(b, b + 1)), "all", "square"))
        for b in range(op.out_shape[0])
    ]
    values = torch.cat(by_trial).clamp(min=0).sort(descending=True).values
    return values.cpu().numpy()


def trial_gram(op: LinearOperator, axis: str) -> Tensor:
    """Return O O* reduced to the time or hidden axis, from one matrix per trial."""
    parts = (cut(op, slice(b, b + 1)) for b in range(op.out_shape[0]))
    return sum(dense_gram(part, axis, "square") for part in parts)  # type: ignore[return-value]


def mean_gram(op: LinearOperator, axis: str, gram: str) -> Tensor:
    """Return the exact Gram of the signal averaged over the other axes: one product per entry."""
    factor, scale = gram_factor(op, gram)
    dim = {"trial": 0, "time": 1, "hidden": 2}[axis]
    size = op.out_shape[dim]
    weight = torch.ones(op.out_shape, dtype=op.dtype, device=op.device)
    mask = getattr(getattr(op, "tangent", None), "mask", None)
    if mask is not None:  # Only valid steps are averaged, so that padding changes nothing.
        weight = weight * mask.transpose(0, 1)
    average = torch.zeros(size, *op.out_shape, dtype=op.dtype, device=op.device)
    for i, row in enumerate(average):
        part = weight.select(dim, i)
        row.select(dim, i).copy_(part / part.sum().clamp(min=1))
    # The transpose is A^T = c' A*, c' = factor._transpose_scale(), and G = c A A^T, c = scale.
    pulled = (factor.T @ average).reshape(size, -1).double() * factor._transpose_scale()
    return scale * (pulled @ pulled.mT)
