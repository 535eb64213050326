"""The kernel of a feed-forward network: dr/dt = -K r under gradient flow on sum r^2 / 2.

K = J J^T with J = df/dtheta is a sum over layers of K_l = Q_{l-1} * S_l, an elementwise product.
Q_{l-1} is the Gram of the layer's inputs (and of ones, for a trained bias), and S_l = B_l B_l^T.
This holds for any depth, elementwise activation and number of outputs. A trained readout is one
more layer, for which S is the identity over outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kpflow_sklearn.feedforward._fields import LayerFactor, forward_fields, layer_factors
from kpflow_sklearn.feedforward._network import FeedForwardNetwork
from kpflow_sklearn.networks.tangents import (
    coactivation_gram,
    coactivation_trace,
    pull_back,
    push_forward,
)

_CACHE = 2**28  # Bytes of fields kept between products.


class FeedForwardKernel:
    """The kernel K of one network on one set of samples, as an operator.

    Vectors have one entry per sample and output, sample after sample.

    Parameters
    ----------
    network : FeedForwardNetwork
        The network, which must not be changed afterwards.
    X : Tensor of shape (n_samples, n_features)
        Inputs.
    chunk : int, default=1024
        Number of samples whose fields are computed at a time.
    cache : int
        Bytes of fields that may be kept. If the fields need more, each product computes them
        again, and only the vectors themselves take memory in proportion to n_samples.
    """

    def __init__(
        self, network: FeedForwardNetwork, X: Tensor, *, chunk: int = 1024, cache: int = _CACHE
    ) -> None:
        self.network, self.X, self.chunk = network, X, chunk
        self.names = [
            name
            for name, linear in network.linears
            if any(p.requires_grad for p in linear.parameters())
        ]
        widths = sum(
            n.in_features + n.out_features * network.n_outputs for _, n in network.linears
        )
        size = len(X) * widths * X.element_size()
        self._kept = list(self._make_factors(X)) if size <= cache else None

    @property
    def n_entries(self) -> int:
        """Number of rows of K, n_samples * n_outputs."""
        return len(self.X) * self.network.n_outputs

    def _make_factors(self, X: Tensor) -> Iterator[list[LayerFactor]]:
        for rows in X.split(self.chunk):
            yield layer_factors(self.network, forward_fields(self.network, rows))

    def _factors(self) -> Iterator[list[LayerFactor]]:
        return iter(self._kept) if self._kept is not None else self._make_factors(self.X)

    def pull(self, v: Tensor) -> dict[str, Tensor]:
        """Return J^T v by layer, as changes of the p trained columns of [W_l, b_l].

        With q rows of W_l, their shape is (q, p) for v of shape (n_entries,), and (k, q, p) for v
        of shape (n_entries, k).
        """
        total: dict[str, Tensor] = {}
        start = 0
        for factors in self._factors():
            rows = v[start : start + len(factors[0].s)]
            start += len(rows)
            for name, u, s in factors:
                if v.ndim == 1:
                    part = pull_back(u, s, rows)
                else:
                    part = torch.stack([pull_back(u, s, column) for column in rows.T])
                total[name] = total[name].add_(part) if name in total else part
        return total

    def push(self, changes: dict[str, Tensor], X: Tensor | None = None) -> dict[str, Tensor]:
        """Return J dtheta by layer on X (default: the kernel's samples), for `pull`'s changes."""
        pieces: dict[str, list[Tensor]] = {name: [] for name in changes}
        for factors in self._factors() if X is None else self._make_factors(X):
            for name, u, s in factors:
                pieces[name].append(push_forward(u, s, changes[name]))
        return {name: _columns(torch.cat(parts, dim=-1)) for name, parts in pieces.items()}

    def layer_products(self, v: Tensor) -> dict[str, Tensor]:
        """Return K_l v for each layer l."""
        return self.push(self.pull(v))

    def __matmul__(self, v: Tensor) -> Tensor:
        """Return K v for v (n_entries,) or (n_entries, k)."""
        return self.product_at(None, v)

    def product_at(self, X: Tensor | None, v: Tensor) -> Tensor:
        """Return K(X, kernel's samples) v; None stands for the kernel's own samples."""
        products = self.push(self.pull(v), X).values()
        return torch.stack(list(products)).sum(0)

    def traces(self) -> dict[str, float]:
        """Return tr K_l = sum |u|^2 |b|^2 for each layer."""
        total = dict.fromkeys(self.names, 0.0)
        for factors in self._factors():
            for name, u, s in factors:
                total[name] += coactivation_trace(u, s)
        return total

    def quadratic_forms(self, v: Tensor) -> dict[str, float]:
        """Return v^T K_l v = |J_l^T v|^2 for each layer, from one `pull`."""
        return {name: float((pulled**2).sum()) for name, pulled in self.pull(v).items()}

    def dense(self) -> dict[str, Tensor]:
        """Return each K_l as a matrix (n_entries, n_entries)."""
        layers = zip(*self._factors(), strict=True)  # Of each layer, the factors of all chunks.
        grams = {}
        for chunks in layers:
            u, s = torch.cat([c.u for c in chunks]), torch.cat([c.s for c in chunks])
            grams[chunks[0].name] = coactivation_gram(u, s)
        return grams


def _columns(v: Tensor) -> Tensor:
    """Return directions as columns: (k, n) becomes (n, k), and (n,) is unchanged."""
    return v if v.ndim == 1 else v.mT
