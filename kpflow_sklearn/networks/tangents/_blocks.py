"""The share of one weight map in the parameter operator: J_theta as two matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kpflow_sklearn.networks.tangents._coactivation import coactivation_trace

# Entries handled at a time: few enough to stay in cache between two products.
_CACHED_ENTRIES = 2**20


@dataclass(frozen=True)
class ParameterSlice:
    """Where a stretch of a map's columns lives: rows of one named parameter."""

    name: str
    rows: slice
    width: int
    is_bias: bool


class MapBlock:
    """The share of one weight map in the parameter operator.

    Parameter directions are matrices dW_j (n_units, n_columns), flattened. With S_j = dz'/da_j
    and u_j the map's input, J dW = S_j * (dW_j u_j), and its transpose is sum S_j q u_j^T.

    Parameters
    ----------
    name : str
        The map's name.
    features : Tensor of shape (T, B, n_columns)
        u_j, restricted to the columns whose weights train; or its coordinates in ``basis``.
    sensitivity : Tensor of shape (T, B, n_parts, n_units)
        S_j, one row for each part of the state.
    columns : sequence of ParameterSlice
        What the columns of u_j are.
    basis : Tensor of shape (n_inputs, n_columns), optional
        Orthonormal directions of u_j that are kept; default all.
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
        """Yield for groups of directions each part of ``out``, with S_j and dW_j u_j for it."""
        u = self.features.flatten(0, 1)
        dw = v.reshape(-1, self.n_units, self.n_columns)
        parts = out.unflatten(-1, self.sensitivity.shape[-2:])
        for group in self._groups(len(v)):
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
            rows = parts[:, group]
            a = q.new_empty(rows.shape[1], *self.features.shape[:2], self.n_units)
            weighted = a.movedim(0, 1)
            for p, s in enumerate(self.sensitivity.unbind(2)):
                if p == 0:
                    torch.mul(s.unsqueeze(1), rows[..., p, :], out=weighted)
                else:
                    weighted.addcmul_(s.unsqueeze(1), rows[..., p, :])
            torch.matmul(a.flatten(1, 2).mT, u, out=dw[group])
        return dw.flatten(1)

    def _groups(self, k: int) -> Iterator[slice]:
        """Cut k directions into groups that stay in cache."""
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
        """Return tr J J^T = sum |u_j|^2 S_j^2."""
        steps = zip(self.features, self.sensitivity.flatten(-2), strict=True)
        return sum(coactivation_trace(u, s) for u, s in steps)

    def activity_gram(self, unit: float = 1.0) -> Tensor:
        """Return sum u_j u_j^T, (n_columns, n_columns), in double, of u_j in some unit."""
        steps = (step.double() / unit for step in self.features)  # One at a time: less memory.
        return sum(u.mT @ u for u in steps)

    def largest_activity(self) -> float:
        """Return the largest |u_j|, a unit in which no square overflows; 1 if all are zero."""
        return float(torch.linalg.vector_norm(self.features, ord=torch.inf)) or 1.0

    def compress(self, tolerance: float, rank: int | None) -> tuple[MapBlock, float]:
        """Keep the leading directions of the activity.

        Parameters
        ----------
        tolerance : float
            Largest relative Frobenius norm of what is left out of u_j.
        rank : int or None
            Keep no more directions than this.

        Returns
        -------
        block : MapBlock
            With u_j in coordinates of the directions kept.
        lost : float
            tr J J^T of what is left out, which is exact.
        """
        values, vectors = torch.linalg.eigh(self.activity_gram(self.largest_activity()))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        left_out = values.flip(0).cumsum(0).flip(0)
        kept = max(1, int((left_out > tolerance**2 * left_out[0]).sum()))
        kept = kept if rank is None else min(kept, rank)
        lost = 0.0
        for u, s in zip(self.features, self.sensitivity, strict=True):
            rest = (u.double() @ vectors[:, kept:]).square().sum(1)
            lost += float((s.double().square().sum((1, 2)) * rest).sum())
        basis = vectors[:, :kept].to(self.features.dtype)
        full = basis if self.basis is None else self.basis @ basis
        block = MapBlock(self.name, self.features @ basis, self.sensitivity, self.columns, full)
        return block, lost

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into (parameter name, rows, values) pieces, under torch's names."""
        dw = v.reshape(self.n_units, -1)
        dw = dw if self.basis is None else dw @ self.basis.mT
        pieces, start = [], 0
        for column in self.columns:
            values = dw[:, start : start + column.width]
            pieces.append((column.name, column.rows, values[:, 0] if column.is_bias else values))
            start += column.width
        return pieces
