"""Exact spectra of K from its blocks: one for each hidden unit.

K_i = (1/N) F_i F_i^T with F_i = [S_1i * U_1, ..., S_Mi * U_M], so the non-zero eigenvalues of K
are those of all F_i^T F_i / N. The entries of K are sums over weight maps j of products of an
entry of the activity Gram U_j U_j^T and sensitivities S_ji. The moments of K and its reduced Grams
therefore follow from these factors, without any eigenvalue.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn.networks.tangents import LayerBlock, MapBlock, coactivation_gram
from kpflow_sklearn.operators import LinearOperator, ParameterOperator

ROUNDING = 1e-12
#: Default limit, in bytes, of the unit Grams held at a time, and of the products that form them.
_MEMORY = 2**29


def map_blocks(op: LinearOperator) -> list[tuple[MapBlock, slice]] | None:
    """Return the weight maps that make up K, each with the states of its layer.

    The result is None if K has other parts (a user's cell, a trained initial state), or if the
    operator is not K.
    """
    if not isinstance(op, ParameterOperator):
        return None
    blocks = []
    for block in op.jacobian.blocks:
        if not (isinstance(block, LayerBlock) and isinstance(block.block, MapBlock)):
            return None
        blocks.append((block.block, block.states))
    return blocks


def without_rounding(op: ParameterOperator) -> ParameterOperator:
    """Return K without the directions of its activity that are at the level of rounding.

    If the activity spans few directions, the unit Grams then have few columns. The share of tr K
    that is left out is about the square of the rounding error.
    """
    return op.compress(10 * torch.finfo(op.dtype).eps)


def _by_layer(op: LinearOperator) -> dict[int, list[MapBlock]]:
    """Return the weight maps of each layer, keyed by the first of its states."""
    layers: dict[int, list[MapBlock]] = {}
    for block, states in map_blocks(op) or []:
        layers.setdefault(states.start, []).append(block)
    return layers


class UnitGrams:
    """F_i^T F_i / N of every unit, kept for further use if memory allows.

    Parameters
    ----------
    op : ParameterOperator
        K, made of weight maps.
    memory : Allowance, optional
        Bytes to use at a time; never more than the default are used. The Grams are kept if they
        take at most a quarter of these bytes.
    """

    def __init__(self, op: ParameterOperator, memory: Allowance | None = None) -> None:
        self.op, self._memory = op, memory
        self._kept: list[tuple[int, range, Tensor]] | None = None
        self._values: dict[tuple[int, range], Tensor] = {}

    def __iter__(self) -> Iterator[tuple[int, range, Tensor]]:
        """Yield the groups of `unit_grams`."""
        if self._kept is None:
            amount = None if self._memory is None else self._memory.amount
            groups = unit_grams(self.op, amount)
            if 4 * self._n_bytes > _allowed(amount):
                return groups
            self._kept = list(groups)
        return iter(self._kept)

    @property
    def trace_left_out(self) -> float:
        """The part of tr K that the compression of K left out."""
        share = self.op.activity_error
        kept = sum(block.trace() for block, _ in map_blocks(self.op) or []) / _n_valid(self.op)
        return kept * share / (1 - share)

    @property
    def _n_bytes(self) -> int:
        layers = _by_layer(self.op).values()
        return sum(8 * blocks[0].n_units * _n_columns(blocks) ** 2 for blocks in layers)

    def with_eigenvalues(self) -> Iterator[tuple[int, range, Tensor, Tensor]]:
        """Yield the groups, each with the ascending eigenvalues of its Grams, (units, columns)."""
        for start, units, grams in self:
            if (start, units) not in self._values:
                self._values[start, units] = eigenvalues(grams)
            yield start, units, grams, self._values[start, units]

    def eigenvalues_of_maps(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of each weight map and the eigenvalues of its own unit Grams."""
        layers = _by_layer(self.op)
        for start, _, grams, values in self.with_eigenvalues():
            ends = np.cumsum([0] + [block.n_columns for block in layers[start]])
            maps = [b.name for b in self.op.jacobian.blocks if b.states.start == start]
            for name, a, b in zip(maps, ends[:-1], ends[1:], strict=True):
                yield name, values if len(maps) == 1 else eigenvalues(grams[:, a:b, a:b])


def unit_eigenvalues(units: UnitGrams) -> np.ndarray:
    """Return all eigenvalues of K's unit blocks, in descending order; all others of K are zero."""
    of_units = [values.flatten() for *_, values in units.with_eigenvalues()]
    if not of_units:
        return np.empty(0)
    values = torch.cat(of_units).clamp(min=0).sort(descending=True).values
    return values.cpu().numpy()


def eigenvalues(grams: Tensor) -> Tensor:
    """Return the eigenvalues of symmetric matrices; NaN if they are not finite."""
    if not grams.isfinite().all():
        return torch.full_like(grams[..., 0], torch.nan)
    return torch.linalg.eigvalsh(grams)


def parameter_moments(op: LinearOperator, memory: int | None = None) -> tuple[float, float]:
    """Return tr K and tr K^2 without eigenvalues.

    Equation: tr K^2 = (1/N^2) sum_jk sum (U_j U_j^T) * (U_k U_k^T) * (W_jk W_jk^T), elementwise,
    with W_jk the products S_j S_k of each unit (summed over the parts of its state).
    """
    trace = square = 0.0
    for blocks in _by_layer(op).values():
        trace += sum(block.trace() for block in blocks)
        rows = blocks[0].features[..., 0].numel()
        step = max(1, _allowed(memory) // (16 * len(blocks) * rows))
        features = [b.features.flatten(0, 1) for b in blocks]
        weights = {
            (j, k): _weights(blocks[j], blocks[k], op.dtype)
            for j in range(len(blocks))
            for k in range(j, len(blocks))
        }
        for i in range(0, rows, step):
            # By symmetry each pair of a row in the chunk and a later row counts twice.
            chunk, rest = slice(i, i + step), slice(i, rows)
            activity = [u[chunk] @ u[rest].mT for u in features]  # rows of U_j U_j^T
            for (j, k), w in weights.items():
                # (U_j U_j^T) * (U_k U_k^T) * (W_jk W_jk^T) on these rows
                pairs = (w[chunk] @ w[rest].mT).mul_(activity[j]).mul_(activity[k])
                n = len(pairs)
                twice = 2 * _sum(pairs) - _sum(pairs[:, :n])
                square += twice * (1 if j == k else 2)
    n_valid = _n_valid(op)
    return trace / n_valid, square / n_valid**2


def unit_modes(units: UnitGrams, k: int) -> tuple[np.ndarray, Tensor]:
    """Return the k largest eigenvalues of K and their eigenfunctions, each on one unit.

    Returns
    -------
    eigenvalues : ndarray of shape (k,)
        In descending order; fewer than k if K has fewer non-zero ones, none if K overflows.
    eigenfunctions : Tensor of shape (k, n_trials, n_timesteps, n_states)
        Orthonormal.
    """
    op = units.op
    candidates: list[tuple[float, int, int, Tensor]] = []
    for start, group, grams, values in units.with_eigenvalues():
        if not values.isfinite().all():
            none = torch.zeros(0, *op.in_shape, dtype=op.dtype, device=op.device)
            return np.empty(0), none
        floor = candidates[-1][0] if len(candidates) == k else 0.0
        # Eigenvectors are needed only for units that have one of the k largest eigenvalues so far.
        largest = values[:, -k:].flatten()
        floor = max(floor, float(largest.topk(min(k, len(largest))).values[-1]))
        for i in (values[:, -1] >= floor).nonzero()[:, 0].tolist():
            lead, vectors = torch.linalg.eigh(grams[i])
            for r in range(1, min(k, len(lead)) + 1):
                candidates.append((float(lead[-r]), start, group[i], vectors[:, -r]))
        candidates = sorted(candidates, key=lambda c: -c[0])[:k]
    # An eigenvalue at the level of rounding belongs to no direction of K.
    best = [c for c in candidates if c[0] > ROUNDING * candidates[0][0]]
    n_trials, n_timesteps, n_states = op.in_shape
    functions = torch.zeros(
        len(best), n_timesteps, n_trials, n_states, dtype=op.dtype, device=op.device
    )
    layers = _by_layer(op)
    for out, (_, start, unit, vector) in zip(functions, best, strict=True):
        for index, part in _unit_function(layers[start], start, unit, vector).items():
            out[:, :, index] = part
    return np.array([c[0] for c in best]), functions.transpose(1, 2)


def _unit_function(
    blocks: list[MapBlock], start: int, unit: int, vector: Tensor
) -> dict[int, Tensor]:
    """Return F_i v, scaled to unit norm, as parts (T, B) keyed by the state they belong to."""
    parts: dict[int, Tensor] = {}
    for b, piece in zip(blocks, vector.split([b.n_columns for b in blocks]), strict=True):
        along = torch.stack([step.double() @ piece for step in b.features])
        for p in range(b.sensitivity.shape[2]):
            index = start + p * b.n_units + unit
            parts[index] = parts.get(index, 0.0) + b.sensitivity[:, :, p, unit] * along
    norm = sum(part.square().sum() for part in parts.values()).sqrt()  # type: ignore[union-attr]
    return {index: part / norm.clamp(min=1e-300) for index, part in parts.items()}


def unit_grams(
    op: LinearOperator, memory: int | None = None
) -> Iterator[tuple[int, range, Tensor]]:
    """Yield F_i^T F_i / N, (units, n_columns, n_columns), in double, for groups of units.

    Each group comes with the first state of its layer and the numbers of its units.
    """
    for start, blocks in _by_layer(op).items():
        n_columns = _n_columns(blocks)
        # The Grams, and as much again for LAPACK's copy of them.
        size = max(1, _allowed(memory) // (16 * n_columns**2))
        for i in range(0, blocks[0].n_units, size):
            units = range(blocks[0].n_units)[i : i + size]
            yield start, units, _group_grams(blocks, units, memory).div_(_n_valid(op))


def _group_grams(blocks: list[MapBlock], units: range, memory: int | None) -> Tensor:
    """Return F_i^T F_i of some units, a few steps at a time."""
    n_columns = _n_columns(blocks)
    first = blocks[0].features
    gram = first.new_zeros(len(units), n_columns, n_columns, dtype=torch.float64)
    # Columns and sensitivities of a step in double, and as much again for their products.
    per_step = 16 * first.shape[1] * (n_columns + 2 * blocks[0].n_units)
    size = max(1, _allowed(memory) // (2 * per_step))
    for t in range(0, len(first), size):
        _add_grams(gram, blocks, units, slice(t, t + size), _allowed(memory) // 2)
    for one in gram:  # Mirrored one at a time, to save memory.
        one.copy_(one.triu() + one.triu(1).mT)
    return gram


def _add_grams(
    gram: Tensor, blocks: list[MapBlock], units: range, steps: slice, memory: int
) -> None:
    """Add the upper half of F_i^T F_i: one matrix product gives some of its rows, for all units.

    (F_i^T F_i)_{jk} = sum over rows of W_jk,i u_j u_k^T. The products are computed in double,
    because rounding to single precision would look like further directions.
    """
    widths = [b.n_columns for b in blocks]
    starts = np.cumsum([0, *widths]).tolist()
    features = [b.features[steps].flatten(0, 1).double() for b in blocks]
    of_group = slice(units.start, units.stop)
    for j, u in enumerate(features):
        for k in range(j, len(blocks)):
            weights = _weights(blocks[j], blocks[k], gram.dtype, steps)[
                :, of_group
            ].mT.contiguous()
            step = max(1, memory // (8 * len(u) * widths[k]))
            for a in range(0, widths[j], step):
                # Diagonal blocks need only their upper half.
                first = a if j == k else 0
                left, right = u[:, a : a + step], features[k][:, first:]
                # u_j u_k^T of every row, (rows, columns), then one GEMM for all units of the group
                products = (left[:, :, None] * right[:, None, :]).flatten(1)
                stretch = (weights @ products).unflatten(1, (left.shape[1], right.shape[1]))
                rows = slice(starts[j] + a, starts[j] + a + left.shape[1])
                gram[:, rows, starts[k] + first : starts[k + 1]] += stretch


def _n_columns(blocks: list[MapBlock]) -> int:
    return sum(block.n_columns for block in blocks)


def _allowed(memory: int | None) -> int:
    return _MEMORY if memory is None else min(memory, _MEMORY)


def _n_valid(op: LinearOperator) -> int:
    return op.tangent.n_valid  # type: ignore[attr-defined]


def _sum(v: Tensor) -> float:
    return float(v.sum(dtype=torch.float64))


def _weights(a: MapBlock, b: MapBlock, dtype: torch.dtype, steps: slice = slice(None)) -> Tensor:
    """Return W_ab = sum over parts of S_a S_b, (T * B, n_units)."""
    s, s_other = a.sensitivity[steps].to(dtype), b.sensitivity[steps].to(dtype)
    return (s * s_other).sum(2).flatten(0, 1)


def parameter_gram(op: LinearOperator, axis: str, memory: int | None = None) -> Tensor:
    """Return K reduced to one axis, by activity Gram times co-activation.

    Equation: tr_H K = (1/N) sum_j (U_j U_j^T) * (S_j S_j^T), elementwise; restricted to pairs of
    one trial (time axis) or of one step (trial axis). On the hidden axis only pairs of parts p, p'
    of one unit are non-zero, (1/N) sum_j sum_bt |u_j|^2 S_jp S_jp'.
    """
    n_trials, n_timesteps, n_states = op.in_shape
    size = {"trial": n_trials, "time": n_timesteps, "hidden": n_states}[axis]
    gram = torch.zeros(size, size, dtype=torch.float64, device=op.device)
    for block, states in map_blocks(op) or []:
        if axis == "hidden":
            _add_hidden(gram, block, states.start, _allowed(memory))
            continue
        u, s = block.features, block.sensitivity.flatten(-2)
        if axis == "time":
            u, s = u.transpose(0, 1), s.transpose(0, 1)
        # Two Grams of pairs, and copies of their factors.
        entries = 2 * size**2 + 2 * size * (u.shape[-1] + s.shape[-1])
        chunk = max(1, _allowed(memory) // (entries * u.itemsize))
        for rows, weights in zip(u.split(chunk), s.split(chunk), strict=True):
            gram += coactivation_gram(rows, weights).sum(0).double()
    return gram / _n_valid(op)


def _add_hidden(gram: Tensor, block: MapBlock, start: int, memory: int) -> None:
    """Add sum_bt |u|^2 S_p S_p' of each unit, a few steps at a time."""
    _, n_trials, n_parts, n_units = block.sensitivity.shape
    entries = n_trials * (block.n_columns + 2 * n_parts * n_units)
    chunk = max(1, memory // (entries * block.features.itemsize))
    unit = torch.arange(n_units, device=gram.device)
    for u, s in zip(block.features.split(chunk), block.sensitivity.split(chunk), strict=True):
        weights = (u**2).sum(-1)[:, :, None, None] * s
        pairs = torch.einsum("tbpi,tbqi->pqi", weights, s).double()
        for p in range(n_parts):
            for q in range(n_parts):
                gram[start + p * n_units + unit, start + q * n_units + unit] += pairs[p, q]
