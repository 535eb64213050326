"""Blocks of the parameter operator: J_theta of one weight map, as two matrix products.

With the map a_j = W_j u_j and S_j = dz'/da_j, for changes dW_j of its weights,

    J dW  = S_j * (dW_j u_j)                    one matrix product with u_j,
    J^T q = sum_bt (S_j * q)_bt u_j,bt^T        one with its transpose.

K = (1/N) sum_j J_j J_j^T; the 1/N is left to `ParameterOperator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kpflow_sklearn.networks.tangents._coactivation import coactivation_trace

# Entries per group of directions: few enough to stay in cache between two products.
_CACHED_ENTRIES = 2**20


@dataclass(frozen=True)
class ParameterSlice:
    """The place of some columns of a map among the parameters: rows of one named parameter."""

    name: str
    rows: slice
    width: int
    is_bias: bool


class TensorBlock:
    """Some parameter tensors, as a block of J_theta.

    A direction in parameter space is the tensors' changes, flattened one after another.

    Parameters
    ----------
    name : str
        The block's name.
    tensors : dict of str to Tensor
        The parameters.
    """

    def __init__(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.name, self.tensors = name, tensors
        self.n_parameters = sum(p.numel() for p in tensors.values())

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """Return the changes of the tensors in a flat direction."""
        pieces = v.split([p.numel() for p in self.tensors.values()])
        return {
            name: piece.reshape(p.shape)
            for (name, p), piece in zip(self.tensors.items(), pieces, strict=True)
        }

    def flatten(self, changes: dict[str, Tensor]) -> Tensor:
        """Return the flat direction, (n_parameters,), of changes of the tensors."""
        return torch.cat([changes[name].flatten() for name in self.tensors])

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Split a flat direction into (parameter name, rows, values)."""
        return [(name, slice(None), values) for name, values in self.unflatten(v).items()]

    def write_forward(self, v: Tensor, out: Tensor) -> None:
        """Write J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        self.add_forward(v, out.zero_())

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        raise NotImplementedError


class MapBlock:
    """The parameters of one weight map, as a block of J_theta.

    A direction in parameter space is a matrix dW_j (n_units, n_columns), flattened.

    Parameters
    ----------
    name : str
        The map's name.
    features : Tensor of shape (T, B, n_columns)
        u_j, restricted to the columns whose weights train, or its coordinates in ``basis``.
    sensitivity : Tensor of shape (T, B, n_parts, n_units)
        S_j, one row per part of the state.
    columns : sequence of ParameterSlice
        The parameters that multiply the columns of u_j.
    basis : Tensor of shape (n_inputs, n_columns), optional
        Orthonormal directions of u_j that are kept; all by default.
    """

    def __init__(
        self,
        name: str,
        features: Tensor,
        sensitivity: Tensor,
        columns: Sequence[ParameterSlice],
        basis: Tensor | None = None,
    ) -> None:
        self.name, self.features, self.sensitivity = name, features, sensitivity
        self.columns, self.basis = tuple(columns), basis
        self.n_units, self.n_columns = sensitivity.shape[-1], features.shape[-1]
        self.n_parameters = self.n_units * self.n_columns

    def write_forward(self, v: Tensor, out: Tensor) -> None:
        """Write J dW to ``out`` (T, k, B, n_states), for the k flattened dW in ``v``."""
        for part, s, a in self._products(v, out):
            torch.mul(s, a, out=part)

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J dW to ``out``."""
        for part, s, a in self._products(v, out):
            part.addcmul_(s, a)

    def _products(self, v: Tensor, out: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield each part of ``out`` with its S_j and dW_j u_j, for groups of directions."""
        # u_j of all steps and trials as rows, (T * B, n_columns); dW_j: (k, n_units, n_columns).
        u = self.features.flatten(0, 1)
        dw = v.reshape(-1, self.n_units, self.n_columns)
        parts = out.unflatten(-1, self.sensitivity.shape[-2:])
        for group in self._groups(len(v)):
            # dW_j u_j for the group's directions: (T, k, B, n_units).
            a = torch.matmul(u, dw[group].mT)
            a = a.unflatten(1, self.features.shape[:2]).movedim(1, 0)
            for p, s in enumerate(self.sensitivity.unbind(2)):
                yield parts[:, group, :, p], s.unsqueeze(1), a

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (k, n_parameters), for ``q`` (T, k, B, n_states)."""
        u = self.features.flatten(0, 1)
        parts = q.unflatten(-1, self.sensitivity.shape[-2:])
        dw = q.new_empty(q.shape[1], self.n_units, self.n_columns)
        for group in self._groups(q.shape[1]):
            # S_j * q, summed over the parts of the state, one direction after another, so that
            # its steps and trials are the rows of one matrix: (k, T, B, n_units).
            rows = parts[:, group]
            a = q.new_empty(rows.shape[1], *self.features.shape[:2], self.n_units)
            weighted = a.movedim(0, 1)
            for p, s in enumerate(self.sensitivity.unbind(2)):
                if p == 0:
                    torch.mul(s.unsqueeze(1), rows[..., p, :], out=weighted)
                else:
                    weighted.addcmul_(s.unsqueeze(1), rows[..., p, :])
            # dW_j = (S_j * q)^T u_j: (k, n_units, n_columns).
            torch.matmul(a.flatten(1, 2).mT, u, out=dw[group])
        return dw.flatten(1)

    def _groups(self, k: int) -> Iterator[slice]:
        """Divide k directions into groups that stay in cache."""
        size = max(1, _CACHED_ENTRIES // (self.features[..., 0].numel() * self.n_units))
        return (slice(i, i + size) for i in range(0, k, size))

    def split(self) -> list[MapBlock]:
        """Return the finest blocks: the map itself."""
        return [self]

    def select(self, trials: slice) -> MapBlock:
        """Return the block of some of the trials."""
        features = self.features[:, trials].contiguous()
        return MapBlock(self.name, features, self.sensitivity[:, trials], self.columns, self.basis)

    def trace(self) -> float:
        """Return tr J J^T = sum_bt |u_j,bt|^2 |S_j,bt|^2."""
        steps = zip(self.features, self.sensitivity.flatten(-2), strict=True)
        return sum(coactivation_trace(u, s) for u, s in steps)

    def activity_gram(self, unit: float = 1.0) -> Tensor:
        """Return sum_bt u_j u_j^T, (n_columns, n_columns), in double, of u_j over ``unit``."""
        steps = (step.double() / unit for step in self.features)  # One by one, to save memory.
        return sum(u.mT @ u for u in steps)

    def largest_activity(self) -> float:
        """Return the largest entry of |u_j|, a unit that avoids overflow; 1 if all are zero."""
        return float(torch.linalg.vector_norm(self.features, ord=torch.inf)) or 1.0

    def compress(self, tolerance: float, rank: int | None) -> tuple[MapBlock, float]:
        """Return the block with the leading directions of the activity alone.

        Parameters
        ----------
        tolerance : float
            Largest relative Frobenius norm of the part of u_j that is left out.
        rank : int or None
            Largest number of directions to keep.

        Returns
        -------
        block : MapBlock
            The block with u_j in coordinates of the directions kept.
        lost : float
            tr J J^T of the part left out, exactly.
        """
        # Eigenvectors V of sum_bt u_j u_j^T; the eigenvalues from the r-th on sum to the squared
        # norm of what the first r directions leave out.
        values, vectors = torch.linalg.eigh(self.activity_gram(self.largest_activity()))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        left_out = values.flip(0).cumsum(0).flip(0)
        kept = max(1, int((left_out > tolerance**2 * left_out[0]).sum()))
        kept = kept if rank is None else min(kept, rank)
        # sum_bt |V_rest^T u_j|^2 |S_j|^2, V_rest the directions left out.
        lost = 0.0
        for u, s in zip(self.features, self.sensitivity, strict=True):
            rest = (u.double() @ vectors[:, kept:]).square().sum(1)
            lost += float((s.double().square().sum((1, 2)) * rest).sum())
        basis = vectors[:, :kept].to(self.features.dtype)
        full = basis if self.basis is None else self.basis @ basis
        block = MapBlock(self.name, self.features @ basis, self.sensitivity, self.columns, full)
        return block, lost

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Split a flat direction into (parameter name, rows, values), with torch's names."""
        dw = v.reshape(self.n_units, -1)
        dw = dw if self.basis is None else dw @ self.basis.mT
        pieces, start = [], 0
        for column in self.columns:
            values = dw[:, start : start + column.width]
            pieces.append((column.name, column.rows, values[:, 0] if column.is_bias else values))
            start += column.width
        return pieces
