"""Weights that are computed from raw parameters (Dale's law, norms): K lives in the latter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from kpflow_sklearn.networks.tangents._blocks import MapBlock


class WeightReader(nn.Module):
    """Names of a layer's weights, and the weights themselves as a function of raw parameters.

    Parameters
    ----------
    module : Module
        With ``torch.nn.utils.parametrize`` on some weights.
    names : tuple of str
        The weights of the layer.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.names = module, names

    def forward(self) -> dict[str, Tensor]:
        """Return the weights that the module has."""
        found = ((name, getattr(self.inner, name, None)) for name in self.names)
        return {name: value for name, value in found if value is not None}

    def raw(self) -> dict[str, Tensor]:
        """Return copies of the layer's raw parameters that train."""
        own = tuple(f"parametrizations.{name}." for name in self.names)
        return {
            name: p.detach().clone()
            for name, p in self.inner.named_parameters()
            if p.requires_grad and (name in self.names or name.startswith(own))
        }

    def weights_of(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights as a function of raw parameters."""
        return functional_call(self, {f"inner.{name}": value for name, value in raw.items()}, ())


class RawBlock:
    """The share of a layer's raw parameters v: J = J_W (dW/dv), with J_W from the weight maps.

    Parameters
    ----------
    name : str
        "weights", or the one raw parameter it stands for.
    maps : list of MapBlock
        The weight maps of the layer, in its weights.
    reader : WeightReader
        Weights from raw parameters.
    fixed : dict of str to Tensor
        All raw parameters of the layer.
    names : sequence of str
        Those that this block is about.
    """

    def __init__(
        self,
        name: str,
        maps: list[MapBlock],
        reader: WeightReader,
        fixed: dict[str, Tensor],
        names: Sequence[str],
    ) -> None:
        self.name, self._maps, self._reader, self._fixed = name, maps, reader, fixed
        self._raw = {n: fixed[n] for n in names}
        self.n_parameters = sum(p.numel() for p in self._raw.values())

    def _weights(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._reader.weights_of({**self._fixed, **raw})

    def _unflatten(self, v: Tensor) -> dict[str, Tensor]:
        pieces = v.split([p.numel() for p in self._raw.values()])
        return {n: x.reshape(p.shape) for (n, p), x in zip(self._raw.items(), pieces, strict=True)}

    def write_forward(self, v: Tensor, out: Tensor) -> None:
        """Write J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        self.add_forward(v, out.zero_())

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        moved = [jvp(self._weights, (self._raw,), (self._unflatten(row),))[1] for row in v]
        for block in self._maps:
            rows = [_to_map(block, weights) for weights in moved]
            if rows:
                block.add_forward(torch.stack(rows), out)

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (k, n_parameters), for ``q`` (T, k, B, n_states)."""
        weights, pull_back = vjp(self._weights, self._raw)[:2]
        pushes = [block.adjoint(q) for block in self._maps]
        found = [q.new_empty(0, self.n_parameters)]
        for k in range(q.shape[1]):
            slopes = {name: torch.zeros_like(w) for name, w in weights.items()}
            for block, push in zip(self._maps, pushes, strict=True):
                for name, rows, values in block.to_parameters(push[k]):
                    slopes[name][rows] += values
            raw = pull_back(slopes)[0]
            found.append(torch.cat([raw[n].flatten() for n in self._raw])[None])
        return torch.cat(found)

    def split(self) -> Sequence[RawBlock]:
        """Return one block for each raw parameter tensor."""
        return [RawBlock(n, self._maps, self._reader, self._fixed, [n]) for n in self._raw]

    def select(self, trials: slice) -> RawBlock:
        """Return the block of some of the trials."""
        maps = [block.select(trials) for block in self._maps]
        return RawBlock(self.name, maps, self._reader, self._fixed, list(self._raw))

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into (raw parameter name, rows, values) pieces."""
        return [(n, slice(None), values) for n, values in self._unflatten(v).items()]


def _to_map(block: MapBlock, weights: dict[str, Tensor]) -> Tensor:
    """Return the flattened dW_j of a weight map from the changes of the weights."""
    columns = [weights[c.name][c.rows].reshape(block.n_units, c.width) for c in block.columns]
    return torch.cat(columns, dim=-1).flatten()
