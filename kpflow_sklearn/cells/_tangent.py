"""One layer linearized along its trajectories, for cells that declare weight maps.

Everything here is steps first, (T, ..., B, units): each step of a recursion is then one
contiguous block. ``...`` stands for any number of leading axes (probes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kpflow_sklearn.cells._base import Cell


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer, in the order weight_ih, weight_hh, bias_ih, bias_hh.

    Attributes
    ----------
    tensors : tuple of (Tensor or None)
        The weights; None for a missing bias.
    names : tuple of str
        What the module calls them.
    trainable : tuple of bool
        Which of them are in theta.
    """

    tensors: tuple[Tensor | None, ...]
    names: tuple[str, ...]
    trainable: tuple[bool, ...]

    @property
    def ih(self) -> Tensor:
        """Weights of the input."""
        return self._needed(0)

    @property
    def hh(self) -> Tensor:
        """Weights of the previous state."""
        return self._needed(1)

    def _needed(self, index: int) -> Tensor:
        tensor = self.tensors[index]
        if tensor is None:
            raise AttributeError(f"the layer has no {self.names[index]}")
        return tensor

    @property
    def bias_ih(self) -> Tensor | None:
        """Bias beside the input."""
        return self.tensors[2]

    @property
    def bias_hh(self) -> Tensor | None:
        """Bias beside the previous state."""
        return self.tensors[3]

    def detach(self) -> LayerWeights:
        """Return a copy of the weights, without their history."""
        tensors = tuple(None if v is None else v.detach().clone() for v in self.tensors)
        return LayerWeights(tensors, self.names, self.trainable)


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

    Attributes
    ----------
    features : Tensor of shape (T, B, n_columns)
        u_j, restricted to the columns whose weights train.
    sensitivity : Tensor of shape (T, B, n_parts, n_units)
        S_j, one row for each part of the state.
    """

    def __init__(
        self, name: str, features: Tensor, sensitivity: Tensor, columns: Sequence[ParameterSlice]
    ) -> None:
        self.name = name
        self.features = features
        self.sensitivity = sensitivity
        self.columns = tuple(columns)
        self.n_units = sensitivity.shape[-1]
        self.n_parameters = self.n_units * features.shape[-1]

    def forward(self, v: Tensor) -> Tensor:
        """Return J dW, (T, ..., B, n_states), for dW flattened in ``v`` (..., n_parameters)."""
        n_steps, n_trials, n_columns = self.features.shape
        dw = v.reshape(-1, self.n_units, n_columns)
        a = torch.matmul(self.features.reshape(1, -1, n_columns), dw.mT)
        a = a.reshape(len(dw), n_steps, n_trials, 1, self.n_units).movedim(0, 1)
        out = (self.sensitivity.unsqueeze(1) * a).flatten(-2)
        return out.reshape(n_steps, *v.shape[:-1], n_trials, out.shape[-1])

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, flattened (..., n_parameters), for ``q`` (T, ..., B, n_states)."""
        n_steps, n_trials, n_columns = self.features.shape
        n_parts = self.sensitivity.shape[-2]
        parts = q.reshape(n_steps, -1, n_trials, n_parts, self.n_units)
        a = (self.sensitivity.unsqueeze(1) * parts).sum(-2)
        a = a.movedim(0, 1).reshape(a.shape[1], -1, self.n_units)
        dw = torch.matmul(a.mT, self.features.reshape(1, -1, n_columns))
        return dw.reshape(*q.shape[1:-2], self.n_parameters)

    def split(self) -> list[MapBlock]:
        """Return the finest blocks: the map itself."""
        return [self]

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into (parameter name, rows, values) pieces, under torch's names."""
        dw = v.reshape(self.n_units, -1)
        pieces, start = [], 0
        for column in self.columns:
            values = dw[:, start : start + column.width]
            pieces.append((column.name, column.rows, values[:, 0] if column.is_bias else values))
            start += column.width
        return pieces


class MappedTangent:
    """A layer of a built-in cell, linearized at every trial and step.

    Parameters
    ----------
    cell : Cell
        What the layer computes.
    weights : LayerWeights
        The layer's weights.
    inputs : Tensor of shape (T, B, n_inputs)
        What the layer received.
    previous, states : Tensor of shape (T, B, n_states)
        Its states before and after each step.
    mask : Tensor of shape (T, B, 1) or None
        One where the step is valid; derivatives vanish elsewhere.
    """

    def __init__(
        self,
        cell: Cell,
        weights: LayerWeights,
        inputs: Tensor,
        previous: Tensor,
        states: Tensor,
        mask: Tensor | None,
    ) -> None:
        self.cell, self.weights, self.mask = cell, weights, mask
        self.inputs = inputs
        self.n_states = states.shape[-1]
        self.n_units = self.n_states // cell.n_parts
        z = previous.split(self.n_units, dim=-1)
        self.rates = cell.rate(z[0])
        recurrent = torch.nn.functional.linear(self.rates, weights.hh, weights.bias_hh)
        feedforward = torch.nn.functional.linear(inputs, weights.ih, weights.bias_ih)
        sensitivity, direct = cell.derivatives(cell.map_values(recurrent, feedforward), z)

        def masked(values: Tensor) -> Tensor:
            return values if mask is None else values * mask

        # (T, B, n_maps, n_parts, n_units)
        self.sensitivity = torch.stack(
            [torch.stack([masked(s) for s in parts], dim=-2) for parts in sensitivity], dim=-3
        )
        self.direct = [
            (p, q, masked(d))
            for q, parts in enumerate(direct)
            for p, d in enumerate(parts)
            if d is not None
        ]
        self.rate_gain = cell.rate_derivative(z[0])
        self.output_gain = cell.rate_derivative(states[..., : self.n_units])
        self._state_maps = [(j, m.gate) for j, m in enumerate(cell.maps) if m.state]
        self._input_maps = [(j, m.gate) for j, m in enumerate(cell.maps) if m.input]

    def _through_maps(self, maps: list[tuple[int, int]], t: int, u: Tensor, w: Tensor) -> Tensor:
        """Return sum over maps of S_j (W_j u) at step t, by parts."""
        gates = torch.matmul(u, w.mT).unflatten(-1, (self.cell.n_gates, 1, self.n_units))
        s = self.sensitivity[t]
        first, *rest = maps
        out = s[:, first[0]] * gates[..., first[1], :, :]
        for j, gate in rest:
            out = out + s[:, j] * gates[..., gate, :, :]
        return out

    def _through_maps_adjoint(
        self, maps: list[tuple[int, int]], t: int, p: Tensor, w: Tensor
    ) -> Tensor:
        """Return sum over maps of W_j^T (S_j p) at step t."""
        gates = p.new_zeros(*p.shape[:-2], self.cell.n_gates, self.n_units)
        for j, gate in maps:
            gates[..., gate, :] += (self.sensitivity[t, :, j] * p).sum(-2)
        return torch.matmul(gates.flatten(-2), w)

    def state_forward(self, t: int, q: Tensor) -> Tensor:
        """Return J_t q for ``q`` (..., B, n_states): one matrix product for all gates."""
        parts = q.unflatten(-1, (self.cell.n_parts, self.n_units))
        h = parts[..., 0, :]
        rates = h if self.rate_gain is None else h * self.rate_gain[t]
        out = self._through_maps(self._state_maps, t, rates, self.weights.hh)
        for p, source, d in self.direct:
            out[..., p, :] += d[t] * parts[..., source, :]
        return out.flatten(-2)

    def state_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return J_t^T p for ``p`` (..., B, n_states)."""
        parts = p.unflatten(-1, (self.cell.n_parts, self.n_units))
        rates = self._through_maps_adjoint(self._state_maps, t, parts, self.weights.hh)
        out = torch.zeros_like(parts)
        out[..., 0, :] = rates if self.rate_gain is None else rates * self.rate_gain[t]
        for target, source, d in self.direct:
            out[..., source, :] += d[t] * parts[..., target, :]
        return out.flatten(-2)

    def input_forward(self, t: int, u: Tensor) -> Tensor:
        """Return the derivative of step t along ``u`` (..., B, n_inputs), a change of input."""
        return self._through_maps(self._input_maps, t, u, self.weights.ih).flatten(-2)

    def input_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return the transpose of `input_forward` applied to ``p`` (..., B, n_states)."""
        parts = p.unflatten(-1, (self.cell.n_parts, self.n_units))
        return self._through_maps_adjoint(self._input_maps, t, parts, self.weights.ih)

    def output_forward(self, t: int, p: Tensor) -> Tensor:
        """Return the change of what the layer sends up when its state moves by ``p``."""
        h = p[..., : self.n_units]
        return h if self.output_gain is None else h * self.output_gain[t]

    def output_adjoint(self, t: int, r: Tensor) -> Tensor:
        """Return the transpose of `output_forward` applied to ``r`` (..., B, n_units)."""
        h = r if self.output_gain is None else r * self.output_gain[t]
        return torch.nn.functional.pad(h, (0, self.n_states - self.n_units))

    def blocks(self) -> list[MapBlock]:
        """Return the share of each weight map in the parameter operator."""
        ones = self.inputs.new_ones(*self.inputs.shape[:-1], 1)
        w = self.weights
        # Masked steps have no activity, so that padding changes no dimension of it.
        sources = [
            source if self.mask is None else source * self.mask
            for source in (self.inputs, self.rates, ones, ones)
        ]
        found = []
        for j, m in enumerate(self.cell.maps):
            rows = slice(m.gate * self.n_units, (m.gate + 1) * self.n_units)
            used = (m.input, m.state, m.input, m.state)
            chosen = [i for i in (1, 0, 2, 3) if used[i] and w.trainable[i]]
            if chosen:
                columns = [
                    ParameterSlice(w.names[i], rows, sources[i].shape[-1], i >= 2) for i in chosen
                ]
                features = torch.cat([sources[i] for i in chosen], dim=-1)
                found.append(MapBlock(m.name, features, self.sensitivity[:, :, j], columns))
        return found
