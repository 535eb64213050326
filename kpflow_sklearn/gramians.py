"""Exact Grams of K and P from their structure, without any matrix of the size of a trajectory.

Axis names follow the kept axis: the Gram of an operator on (trial, time, hidden) is reduced by
the partial trace over the other two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.cells._tangent import MapBlock
from kpflow_sklearn.operators import (
    FlowPropagator,
    LinearOperator,
    ParameterOperator,
    TangentKernel,
)
from kpflow_sklearn.tangent import LayerBlock, NetworkTangent

ROUNDING = 1e-12
#: Number of trajectory entries up to which an operator's matrix is simply formed.
DENSE_LIMIT = 1024
AXES = ("all", "trial", "time", "hidden")


def map_blocks(op: LinearOperator) -> list[tuple[MapBlock, slice]] | None:
    """Return the weight maps that make up K, each with the states of its layer.

    None if K has other parts (a user's cell, a trained initial state), or is no K.
    """
    if not isinstance(op, ParameterOperator):
        return None
    found = []
    for block in op.jacobian.blocks:
        if not (isinstance(block, LayerBlock) and isinstance(block.block, MapBlock)):
            return None
        found.append((block.block, block.states))
    return found


def _by_layer(op: LinearOperator) -> dict[int, list[MapBlock]]:
    """Return the weight maps of each layer, by the first of its states."""
    layers: dict[int, list[MapBlock]] = {}
    for block, states in map_blocks(op) or []:
        layers.setdefault(states.start, []).append(block)
    return layers


def unit_eigenvalues(op: ParameterOperator) -> np.ndarray:
    """Return every non-zero eigenvalue of K, in descending order, from its unit blocks."""
    found = [torch.linalg.eigvalsh(grams).flatten() for grams in _unit_grams(op).values()]
    if not found:
        return np.empty(0)
    values = torch.cat(found).clamp(min=0).sort(descending=True).values
    return values.cpu().numpy()


def _unit_grams(op: ParameterOperator) -> dict[int, Tensor]:
    """Return F_i^T F_i in double, (n_units, n_columns, n_columns), by the layer's first state.

    Equation: K_i = F_i F_i^T with F_i = [S_1i * U_1, ..., S_Mi * U_M] / sqrt(N), so that the
    non-zero eigenvalues of K are those of all F_i^T F_i.
    """
    n_valid = op.tangent.n_valid
    return {
        start: torch.stack([_unit_gram(maps, i, n_valid) for i in range(maps[0].n_units)])
        for start, maps in _by_layer(op).items()
    }


def _unit_gram(blocks: list[MapBlock], unit: int, n_valid: int) -> Tensor:
    n_parts = blocks[0].sensitivity.shape[2]
    gram: Any = 0
    for p in range(n_parts):
        pieces = [(b.features * b.sensitivity[:, :, p, unit, None]).flatten(0, 1) for b in blocks]
        # In double before the product: its rounding would look like directions of its own.
        factor = torch.cat(pieces, dim=-1).double()
        gram = gram + factor.mT @ factor
    return gram / n_valid


def unit_modes(op: ParameterOperator, k: int) -> tuple[np.ndarray, Tensor]:
    """Return the k largest eigenvalues of K and their eigenfunctions, each on one unit.

    Returns
    -------
    eigenvalues : ndarray of shape (k,)
        In descending order; fewer than k if K has fewer that are not zero.
    eigenfunctions : Tensor of shape (k, n_trials, n_timesteps, n_states)
        Orthonormal.
    """
    n_trials, n_timesteps, n_states = op.in_shape
    candidates = []
    for start, grams in _unit_grams(op).items():
        values, vectors = torch.linalg.eigh(grams)
        for i in range(len(grams)):
            for r in range(1, min(k, values.shape[-1]) + 1):
                candidates.append((float(values[i, -r]), start, i, vectors[i, :, -r]))
    best = sorted(candidates, key=lambda c: -c[0])[:k]
    # An eigenvalue at the level of rounding belongs to no direction of K.
    size = max((c[0] for c in candidates), default=0.0)
    best = [c for c in best if c[0] > ROUNDING * size]
    functions = torch.zeros(
        len(best), n_timesteps, n_trials, n_states, dtype=torch.float64, device=op.device
    )
    for out, (_, start, unit, vector) in zip(functions, best, strict=True):
        blocks = _by_layer(op)[start]
        pieces = vector.split([b.features.shape[-1] for b in blocks])
        for b, piece in zip(blocks, pieces, strict=True):
            along = b.features.double() @ piece
            for p in range(b.sensitivity.shape[2]):
                index = start + p * b.n_units + unit
                out[:, :, index] += b.sensitivity[:, :, p, unit] * along
    norms = functions.flatten(1).norm(dim=1).clamp(min=1e-300)
    functions /= norms[:, None, None, None]
    return np.array([c[0] for c in best]), functions.transpose(1, 2).to(op.dtype)


def parameter_gram(op: ParameterOperator, axis: str) -> Tensor:
    """Return K reduced to one axis, by activity Gram times co-activation.

    Equation: tr_H K = (1/N) sum_j (U_j U_j^T) * (S_j S_j^T), elementwise; restricted to pairs of
    one trial (time axis) or of one step (trial axis). The hidden axis keeps the pairs of parts of
    a unit, (1/N) sum_j sum_bt |u_j|^2 S_jp S_jp'.
    """
    n_trials, n_timesteps, n_states = op.in_shape
    size = {"trial": n_trials, "time": n_timesteps, "hidden": n_states}[axis]
    gram = torch.zeros(size, size, dtype=torch.float64, device=op.device)
    for block, states in map_blocks(op) or []:
        u, s = block.features, block.sensitivity
        if axis == "hidden":
            weights = (u**2).sum(-1)[:, :, None, None] * s
            pairs = torch.einsum("tbpi,tbqi->pqi", weights, s).double()
            n_parts, _, n_units = pairs.shape
            unit = torch.arange(n_units, device=op.device)
            for p in range(n_parts):
                for q in range(n_parts):
                    rows = states.start + p * n_units + unit
                    gram[rows, states.start + q * n_units + unit] += pairs[p, q]
        else:
            s = s.flatten(-2)
            if axis == "time":
                u, s = u.transpose(0, 1), s.transpose(0, 1)
            gram += ((u @ u.mT) * (s @ s.mT)).sum(0).double()
    return gram / op.tangent.n_valid


def step_matrices(tangent: NetworkTangent, t: int) -> tuple[Tensor, Tensor]:
    """Return the dense (M_t, E_t) of p_t = M_t p_{t-1} + E_t q_t, each (B, H, H).

    E_t is the identity on valid steps of a single layer; in a stack it climbs the layers.
    """
    n_trials, _, n_states = tangent.shape
    eye = torch.eye(n_states, dtype=tangent.dtype, device=tangent.device)
    columns = eye[:, None, :].repeat(1, n_trials, 1)
    m = tangent.solve_within(t, tangent.jacobian_forward(t, columns).clone())
    pushed = columns if tangent.mask is None else columns * tangent.mask[t]
    e = tangent.solve_within(t, pushed.clone())
    return m.permute(1, 2, 0), e.permute(1, 2, 0)


def propagator_gram(op: FlowPropagator) -> tuple[Tensor, Tensor, float]:
    """Return what two Gramian recursions tell of PP*.

    Equations: C_t = E_t E_t^T + M_t C_{t-1} M_t^T and O_t = M_{t+1}^T (I + O_{t+1}) M_{t+1};
    tr PP* = sum tr C_t, |PP*|_F^2 = sum_t tr(C_t^2 + 2 C_t O_t C_t), hidden axis sum C_t.

    Returns
    -------
    hidden : Tensor of shape (n_states, n_states)
        The Gram on the hidden axis.
    by_trial : Tensor of shape (n_trials,)
        The diagonal of the Gram on the trial axis, which has no other entries.
    square : float
        |PP*|_F^2.
    """
    tangent = op.tangent
    n_trials, n_timesteps, n_states = op.in_shape
    c = torch.zeros(n_trials, n_states, n_states, dtype=torch.float64, device=op.device)
    steps, reach = [], []
    for t in range(n_timesteps):
        m, e = (matrix.double() for matrix in step_matrices(tangent, t))
        c = e @ e.mT + m @ c @ m.mT if t else e @ e.mT
        steps.append(m)
        reach.append(c)
    o = torch.zeros_like(c)
    eye = torch.eye(n_states, dtype=torch.float64, device=op.device)
    square = 0.0
    for t in range(n_timesteps - 1, -1, -1):
        square += float((reach[t] ** 2).sum() + 2 * (reach[t] * (o @ reach[t])).sum())
        o = steps[t].mT @ (eye + o) @ steps[t]
    by_trial = sum(r.diagonal(dim1=1, dim2=2).sum(1) for r in reach)
    hidden = sum(r.sum(0) for r in reach)
    return hidden, by_trial, square  # type: ignore[return-value]


def gram_factor(op: LinearOperator, gram: str = "natural") -> tuple[LinearOperator, float]:
    """Return A and c such that the operator's Gram is c A A^T (ordinary transpose).

    Parameters
    ----------
    op : LinearOperator
        The operator.
    gram : {"natural", "square"}, default="natural"
        Which Gram.

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
    """Return the reduced Gram from the operator's matrix; for small problems."""
    factor, scale = gram_factor(op, gram)
    dense = factor.to_dense().double()
    if axis == "all":
        return scale * (dense @ dense.mT)
    columns = dense.mT.reshape(-1, *op.out_shape)
    dim = {"trial": 1, "time": 2, "hidden": 3}[axis]
    flat = columns.movedim(dim, 0).flatten(1)
    return scale * (flat @ flat.mT)


def mean_gram(op: LinearOperator, axis: str, gram: str) -> Tensor:
    """Return the Gram of the signal averaged over the other axes: exact, one product an entry."""
    factor, scale = gram_factor(op, gram)
    dim = {"trial": 0, "time": 1, "hidden": 2}[axis]
    size = op.out_shape[dim]
    weight = torch.ones(op.out_shape, dtype=op.dtype, device=op.device)
    mask = getattr(getattr(op, "tangent", None), "mask", None)
    if mask is not None:  # Only what is valid is averaged, so that padding changes nothing.
        weight = weight * mask.transpose(0, 1)
    average = torch.zeros(size, *op.out_shape, dtype=op.dtype, device=op.device)
    for i, row in enumerate(average):
        part = weight.select(dim, i)
        row.select(dim, i).copy_(part / part.sum().clamp(min=1))
    # The scale of the adjoint squares to that of the Gram: A^T = c' A*, G = c A A^T.
    pulled = (factor.T @ average).reshape(size, -1).double() * factor._transpose_scale()
    return scale * (pulled @ pulled.mT)
