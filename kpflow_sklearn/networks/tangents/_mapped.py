"""One layer linearized along its trajectories, for cells that declare weight maps.

A cell is z' = phi(a_1, ..., a_M, z) with a_j = W_j u_j, where u_j = (r, x, 1, 1) holds the rates
r = rate(h) of the previous state, the input x and two ones for the biases. With the sensitivities
S_j = dz'/da_j and the direct term d = dphi/dz, both one number per unit and part of the state,

    J q        = d q + sum_j S_j * (W_hh,j (r' * q)),     r' the derivative of the rate,
    J_x v      = sum_j S_j * (W_ih,j v),                  J_x = dz'/dx,
    J_theta dW = sum_j S_j * (dW_j u_j).

Arrays have the steps first, (T, k, B, n_units) for k directions (probes): each step of a recursion
is one contiguous block, and one matrix product serves all trials and probes. `state_matrix` alone
forms a Jacobian matrix, of one step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kpflow_sklearn.cells import Cell
from kpflow_sklearn.networks.tangents._blocks import MapBlock, ParameterSlice
from kpflow_sklearn.networks.tangents._raw import RawBlock, WeightReader


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer, in the order weight_ih, weight_hh, bias_ih, bias_hh.

    Attributes
    ----------
    tensors : tuple of (Tensor or None)
        The weights; None for a missing bias.
    names : tuple of str
        Their names in the module.
    trainable : tuple of bool
        Whether each of them is in theta.
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
        """Return a copy of the weights, detached from autograd."""
        tensors = tuple(None if v is None else v.detach().clone() for v in self.tensors)
        return LayerWeights(tensors, self.names, self.trainable)


class MappedTangent:
    """A layer of a built-in cell, linearized at every trial and step.

    Parameters
    ----------
    cell : Cell
        The cell of the layer.
    weights : LayerWeights
        The layer's weights.
    inputs : Tensor of shape (T, B, n_inputs)
        The layer's inputs x.
    previous, states : Tensor of shape (T, B, n_states)
        The layer's states before and after each step, z and z'.
    mask : Tensor of shape (T, B, 1) or None
        One on valid steps; derivatives vanish elsewhere.
    reader : WeightReader, optional
        The weights as a function of raw parameters, if there are any; theta then consists of
        these.
    """

    def __init__(
        self,
        cell: Cell,
        weights: LayerWeights,
        inputs: Tensor,
        previous: Tensor,
        states: Tensor,
        mask: Tensor | None,
        reader: WeightReader | None = None,
    ) -> None:
        self.cell, self.weights, self.mask = cell, weights, mask
        self.reader, self._raw = reader, {} if reader is None else reader.raw()
        self.inputs = inputs
        self.n_states = states.shape[-1]
        self.n_units = self.n_states // cell.n_parts
        self.n_weights = weights.hh.numel()
        # r = rate(h); W_hh r + b_hh and W_ih x + b_ih of all gates: (T, B, n_gates * n_units).
        z = previous.split(self.n_units, dim=-1)
        self.rates = cell.rate(z[0])
        recurrent = torch.nn.functional.linear(self.rates, weights.hh, weights.bias_hh)
        feedforward = torch.nn.functional.linear(inputs, weights.ih, weights.bias_ih)
        sensitivity, direct = cell.derivatives(cell.map_values(recurrent, feedforward), z)

        def masked(values: Tensor) -> Tensor:
            return values if mask is None else values * mask

        # S_j for every map and part: (T, n_maps, n_parts, B, n_units).
        self.sensitivity = torch.stack(
            [torch.stack([masked(s) for s in parts], dim=1) for parts in sensitivity], dim=1
        )
        # d, the derivative of part p of z' by part q of z: (T, B, n_units) each.
        self.direct = [
            (p, q, masked(d))
            for q, parts in enumerate(direct)
            for p, d in enumerate(parts)
            if d is not None
        ]
        # r' at the previous and at the new state; None where the rate is the state itself.
        self.rate_gain = cell.rate_derivative(z[0])
        self.output_gain = cell.rate_derivative(states[..., : self.n_units])
        self._state_maps = [(j, m.gate) for j, m in enumerate(cell.maps) if m.state]
        self._input_maps = [(j, m.gate) for j, m in enumerate(cell.maps) if m.input]

    def _through_maps(
        self, maps: list[tuple[int, int]], t: int, u: Tensor, w: Tensor, push: Tensor, out: Tensor
    ) -> None:
        """Write push + sum_j S_j * (W_j u) at step t to ``out``, which may be ``push``.

        This takes one matrix product for all gates, then one pass over ``out`` per map.
        """
        # W_j u for all gates at once: (k, B, n_gates, n_units).
        gates = torch.matmul(u, w.mT).unflatten(-1, (self.cell.n_gates, self.n_units))
        source, target = self._parts(push), self._parts(out)
        for j, gate in maps:
            for p, s in enumerate(self.sensitivity[t, j]):
                torch.addcmul(source[..., p, :], s, gates[..., gate, :], out=target[..., p, :])
            source = target

    def _through_maps_adjoint(
        self, maps: list[tuple[int, int]], t: int, q: Tensor, w: Tensor
    ) -> Tensor:
        """Return sum_j W_j^T (S_j * q) at step t."""
        parts = self._parts(q)
        # Maps of the same gate share W_j, so that their S_j * q, summed over the parts of the
        # state, add up before the one product with W^T: (k, B, n_gates, n_units).
        gates = q.new_empty(*q.shape[:-1], self.cell.n_gates, self.n_units)
        unused = set(range(self.cell.n_gates))
        for j, gate in maps:
            for p, s in enumerate(self.sensitivity[t, j]):
                here = gates[..., gate, :]
                if gate in unused:
                    torch.mul(s, parts[..., p, :], out=here)
                    unused.remove(gate)
                else:
                    here.addcmul_(s, parts[..., p, :])
        for gate in unused:
            gates[..., gate, :] = 0
        return torch.matmul(gates.flatten(-2), w)

    def _parts(self, q: Tensor) -> Tensor:
        return q.unflatten(-1, (self.cell.n_parts, self.n_units))

    def state_forward(self, t: int, q: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t q to ``out``, all (k, B, n_states); ``out`` may be ``push``."""
        parts, target = self._parts(q), self._parts(out)
        # The change r' * q of the rates, and push + sum_j S_j * (W_hh,j (r' * q)).
        h = parts[..., 0, :]
        rates = h if self.rate_gain is None else h * self.rate_gain[t]
        self._through_maps(self._state_maps, t, rates, self.weights.hh, push, out)
        # d q, part by part of the state.
        for p, source, d in self.direct:
            target[..., p, :].addcmul_(d[t], parts[..., source, :])

    def state_adjoint(self, t: int, p: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t^T p to ``out``, all (k, B, n_states); ``out`` may be ``push``."""
        parts, source, target = self._parts(p), self._parts(push), self._parts(out)
        # J^T p = d p + r' * sum_j W_hh,j^T (S_j * p); only the first part of the state has rates.
        rates = self._through_maps_adjoint(self._state_maps, t, p, self.weights.hh)
        if self.rate_gain is not None:
            rates *= self.rate_gain[t]
        torch.add(source[..., 0, :], rates, out=target[..., 0, :])
        if out is not push:
            target[..., 1:, :] = source[..., 1:, :]
        for end, start, d in self.direct:
            target[..., start, :].addcmul_(d[t], parts[..., end, :])

    def state_matrix(self, t: int) -> Tensor:
        """Return the matrix J_t, (B, n_states, n_states), which exact Gramians need."""
        n_parts, n_units, n_trials = self.cell.n_parts, self.n_units, self.inputs.shape[1]
        weights = self.weights.hh.unflatten(0, (self.cell.n_gates, n_units))
        # J = diag(d) + sum_j diag(S_j) W_hh,j diag(r'), with the parts of the state as blocks.
        out = weights.new_zeros(n_trials, n_parts, n_units, n_parts, n_units)
        for j, gate in self._state_maps:
            for p, s in enumerate(self.sensitivity[t, j]):
                out[:, p, :, 0, :].addcmul_(s[:, :, None], weights[gate])
        if self.rate_gain is not None:
            out[:, :, :, 0, :] *= self.rate_gain[t][:, None, None, :]
        for p, source, d in self.direct:
            out[:, p, :, source, :].diagonal(dim1=1, dim2=2).add_(d[t])
        return out.reshape(n_trials, self.n_states, self.n_states)

    def input_forward(self, t: int, u: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_x u to ``out``, for changes ``u`` (k, B, n_inputs) of the input."""
        self._through_maps(self._input_maps, t, u, self.weights.ih, push, out)

    def input_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return J_x^T p, (k, B, n_inputs), for ``p`` (k, B, n_states)."""
        return self._through_maps_adjoint(self._input_maps, t, p, self.weights.ih)

    def output_forward(self, t: int, p: Tensor) -> Tensor:
        """Return the change r' * p of the rates, (k, B, n_units), for a state change ``p``."""
        h = p[..., : self.n_units]
        return h if self.output_gain is None else h * self.output_gain[t]

    def output_adjoint(self, t: int, r: Tensor) -> Tensor:
        """Return the transpose of `output_forward`, (..., B, n_states), applied to ``r``."""
        h = r if self.output_gain is None else r * self.output_gain[t]
        return torch.nn.functional.pad(h, (0, self.n_states - self.n_units))

    def select(self, trials: slice | Tensor) -> MappedTangent:
        """Return the linearization of some of the trials, sharing memory with this one."""
        part = copy.copy(self)
        part.inputs, part.rates = self.inputs[:, trials], self.rates[:, trials]
        part.sensitivity = self.sensitivity[:, :, :, trials]
        part.direct = [(p, q, d[:, trials]) for p, q, d in self.direct]
        part.mask, part.rate_gain, part.output_gain = (
            None if v is None else v[:, trials]
            for v in (self.mask, self.rate_gain, self.output_gain)
        )
        return part

    def blocks(self) -> list:
        """Return the blocks of J_theta: one per weight map, or one for all raw parameters."""
        maps = self._map_blocks()
        if self.reader is None or not maps:
            return maps
        return [RawBlock("weights", maps, self.reader, self._raw, list(self._raw))]

    def _map_blocks(self) -> list[MapBlock]:
        """Return the weight maps with their u_j, (T, B, n_columns), of trained columns alone."""
        ones = self.inputs.new_ones(*self.inputs.shape[:-1], 1)
        w = self.weights
        # The columns x, r, 1 and 1 of u_j, in the order of the weights. They are zero on masked
        # steps, so that padding does not change the dimension of the activity.
        sources = [
            source if self.mask is None else source * self.mask
            for source in (self.inputs, self.rates, ones, ones)
        ]
        blocks = []
        features: dict[tuple[int, ...], Tensor] = {}  # Gates with the same columns share u_j.
        for j, m in enumerate(self.cell.maps):
            # W_j is a block of n_units rows of the gate-stacked weights; u_j = (r, x, 1, 1).
            rows = slice(m.gate * self.n_units, (m.gate + 1) * self.n_units)
            used = (m.input, m.state, m.input, m.state)
            chosen = tuple(i for i in (1, 0, 2, 3) if used[i] and w.trainable[i])
            if chosen:
                columns = [
                    ParameterSlice(w.names[i], rows, sources[i].shape[-1], i >= 2) for i in chosen
                ]
                if chosen not in features:
                    features[chosen] = torch.cat([sources[i] for i in chosen], dim=-1)
                sensitivity = self.sensitivity[:, j].movedim(2, 1)
                blocks.append(MapBlock(m.name, features[chosen], sensitivity, columns))
        return blocks
