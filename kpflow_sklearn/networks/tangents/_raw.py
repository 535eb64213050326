"""Weights computed from raw parameters (Dale's law, norms), which K then refers to.

With W = W(v) for raw parameters v, J_theta is the chain J_v = J_W dW/dv: J_W comes from the weight
maps, dW/dv and its transpose from ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kpflow_sklearn.networks.tangents._blocks import MapBlock, TensorBlock
from kpflow_sklearn.networks.tangents._products import forward_product, reverse_map


class WeightReader(nn.Module):
    """A layer's weights as a function of its raw parameters.

    Parameters
    ----------
    module : Module
        A module with ``torch.nn.utils.parametrize`` on some of its weights.
    names : tuple of str
        The names of the layer's weights.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.names = module, names

    def forward(self) -> dict[str, Tensor]:
        """Return the layer's weights, without missing biases."""
        weights = ((name, getattr(self.inner, name, None)) for name in self.names)
        return {name: value for name, value in weights if value is not None}

    def raw(self) -> dict[str, Tensor]:
        """Return copies of the layer's raw parameters that train."""
        prefixes = tuple(f"parametrizations.{name}." for name in self.names)
        return {
            name: p.detach().clone()
            for name, p in self.inner.named_parameters()
            if p.requires_grad and (name in self.names or name.startswith(prefixes))
        }

    def weights_of(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights at given raw parameters."""
        return functional_call(self, {f"inner.{name}": value for name, value in raw.items()}, ())


class RawBlock(TensorBlock):
    """Raw parameters v of a layer, as a block of J_theta: J = J_W dW/dv.

    Parameters
    ----------
    name : str
        "weights", or the name of the only raw parameter.
    maps : list of MapBlock
        The layer's weight maps, which apply J_W.
    reader : WeightReader
        The weights as a function of raw parameters.
    fixed : dict of str to Tensor
        All raw parameters of the layer.
    names : sequence of str
        The raw parameters of this block.
    """

    def __init__(
        self,
        name: str,
        maps: list[MapBlock],
        reader: WeightReader,
        fixed: dict[str, Tensor],
        names: Sequence[str],
    ) -> None:
        super().__init__(name, {n: fixed[n] for n in names})
        self._maps, self._reader, self._fixed = maps, reader, fixed

    def _weights(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._reader.weights_of({**self._fixed, **raw})

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        # dW = (dW/dv) v, one direction at a time, then J_W dW, map by map.
        moved = [forward_product(self._weights, self.tensors, self.unflatten(row)) for row in v]
        for block in self._maps:
            rows = [_to_map(block, weights) for weights in moved]
            if rows:
                block.add_forward(torch.stack(rows), out)

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (k, n_parameters), for ``q`` (T, k, B, n_states)."""
        # J_W^T q, (k, n_units * n_columns) per map, then (dW/dv)^T, one direction at a time.
        weights, to_raw = reverse_map(self._weights, self.tensors)
        by_map = [block.adjoint(q) for block in self._maps]
        rows = q.new_empty(q.shape[1], self.n_parameters)
        for k, row in enumerate(rows):
            slopes = {name: torch.zeros_like(w) for name, w in weights.items()}
            for block, dw in zip(self._maps, by_map, strict=True):
                for name, where, values in block.to_parameters(dw[k]):
                    slopes[name][where] += values
            row.copy_(self.flatten(to_raw(slopes)))
        return rows

    def split(self) -> Sequence[RawBlock]:
        """Return one block per raw parameter tensor."""
        return [RawBlock(n, self._maps, self._reader, self._fixed, [n]) for n in self.tensors]

    def select(self, trials: slice) -> RawBlock:
        """Return the block of some of the trials."""
        maps = [block.select(trials) for block in self._maps]
        return RawBlock(self.name, maps, self._reader, self._fixed, list(self.tensors))


def _to_map(block: MapBlock, weights: dict[str, Tensor]) -> Tensor:
    """Return the flat dW_j of a weight map for changes of the weights."""
    columns = [weights[c.name][c.rows].reshape(block.n_units, c.width) for c in block.columns]
    return torch.cat(columns, dim=-1).flatten()
