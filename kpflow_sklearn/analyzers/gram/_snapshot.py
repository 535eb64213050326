"""All measurements of one snapshot of a feed-forward network, and of the change between two."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.feedforward import (
    FeedForwardKernel,
    FeedForwardNetwork,
    Fields,
    attribute_step,
    balance,
    conserves_balance,
    every_gram,
    forward_fields,
    gate_flips,
    mean_over_pairs,
    pairwise_grams,
)
from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate, row
from kpflow_sklearn.spectra import Spectrum

GRAM_QUANTITIES = ("gram_trace", "gram_norm", "gram_effective_dimension")
LAYER_COLUMNS = (
    *("trace", "trace_share", "decay", "decay_share", "loss_change", "output_change"),
    *("active_share", "gate_flips", "balance_drift", *GRAM_QUANTITIES),
)
#: Number of samples whose fields are in memory at a time.
CHUNK = 2048
NO_GATES = "a smooth activation has no gates"
INDEFINITE = "slopes of both signs make some G indefinite, without an effective dimension"
FIRST = "there is no earlier snapshot to compare with"


@dataclass(frozen=True)
class GramSettings:
    """Settings of the measurements at each snapshot.

    Attributes
    ----------
    n_components : int
        Number of leading eigenpairs of K.
    rank_threshold : float
        Share of the trace that defines the rank.
    max_kernel_size : int
        Largest number of rows of K for which it is formed as a matrix.
    pairs : Tensor of int, shape (n_pairs, 2)
        Pairs of samples whose weight Grams are measured.
    all_pairs : bool
        Whether ``pairs`` contains all pairs.
    seed : int
        Seed of the iterative eigensolver.
    """

    n_components: int
    rank_threshold: float
    max_kernel_size: int
    pairs: Tensor
    all_pairs: bool
    seed: int


class GramSnapshot:
    """A snapshot evaluated on the analysed samples, in float64 whatever the network's dtype.

    Parameters
    ----------
    network : FeedForwardNetwork
        The network at this snapshot.
    iteration : int
        Number of parameter updates before it.
    X, y : Tensor
        The samples, (n_samples, n_features) and (n_samples, n_outputs), in float64.
    with_readout : bool, default=False
        Whether the tables list the readout as a layer even if it is not trained.
    """

    def __init__(
        self,
        network: FeedForwardNetwork,
        iteration: int,
        X: Tensor,
        y: Tensor,
        *,
        with_readout: bool = False,
    ) -> None:
        self.network = copy.deepcopy(network).double()
        self.iteration, self.X, self.y = iteration, X, y
        self.kernel = FeedForwardKernel(self.network, X)
        self.with_readout = with_readout or "readout" in self.kernel.names
        with torch.no_grad():
            self.residuals = (self.network(X) - y).flatten()

    @property
    def fields(self) -> Iterator[Fields]:
        """The fields of `CHUNK` samples at a time; those of all may not fit into memory."""
        return (forward_fields(self.network, rows) for rows in self.X.split(CHUNK))

    @property
    def loss(self) -> float:
        """The loss L = (1/2N) sum r^2."""
        return float((self.residuals**2).sum()) / (2 * len(self.X))

    @property
    def layer_names(self) -> list[str]:
        """Names of the hidden layers, and of the readout if it is trained or moved."""
        hidden = [str(k + 1) for k in range(self.network.depth)]
        return [*hidden, "readout"] if self.with_readout else hidden

    def layer_kernels(self) -> dict[str, np.ndarray]:
        """Return the terms K_l as matrices."""
        return {name: matrix.numpy() for name, matrix in self.kernel.dense().items()}

    def _row(self, operator: str, quantity: str, value: Any) -> dict:
        if not isinstance(value, Estimate) and not np.isfinite(value):
            value = Estimate.missing(OVERFLOW)
        return row(self.iteration, operator, "sample", quantity, value, n_trials=len(self.X))

    def kernel_rows(self, settings: GramSettings, spectrum: Spectrum) -> list[dict[str, Any]]:
        """Return the rows about K and each K_l."""
        names = self.layer_names
        # tr K_l and r^T K_l r for each layer; a layer that is not trained has K_l = 0.
        traces = dict.fromkeys(names, 0.0) | self.kernel.traces()
        forms = dict.fromkeys(names, 0.0) | self.kernel.quadratic_forms(self.residuals)
        # The layer's share of -dL/dt, as dL/dt = -(1/N^2) r^T K r.
        decays = {name: form / len(self.X) ** 2 for name, form in forms.items()}
        square = spectrum.square
        norm = square if square.reason else Estimate(square.value**0.5)
        rows = [
            self._row("network", "loss", self.loss),
            self._row("K", "trace", sum(traces.values())),
            self._row("K", "decay", sum(decays.values())),
            self._row("K", "norm", norm),
            self._row("K", "effective_dimension", spectrum.effective_dimension),
            self._row("K", "rank", spectrum.rank(settings.rank_threshold)),
        ]
        for name in names:
            label = f"K_{name}"
            rows += [
                self._row(label, "trace", traces[name]),
                self._row(label, "trace_share", _share(traces, name)),
                self._row(label, "decay", decays[name]),
                self._row(label, "decay_share", _share(decays, name)),
            ]
        return rows

    def layer_rows(self, settings: GramSettings) -> list[dict[str, Any]]:
        """Return the rows about the activity and the weight Grams of the hidden layers."""
        active = [[int((h > 0).sum()) for h in fields.H] for fields in self.fields]
        pairs, paired = settings.pairs, self.X
        if not settings.all_pairs:  # Only the samples in these pairs need slopes.
            drawn, pairs = settings.pairs.unique(return_inverse=True)
            paired = self.X[drawn]
        slopes = forward_fields(self.network, paired).D
        rows = []
        for k, (_, linear) in enumerate(self.network.linears[:-1]):
            label = f"K_{k + 1}"
            share = sum(counts[k] for counts in active) / (len(self.X) * linear.out_features)
            rows.append(self._row(label, "active_share", share))
            if k == 0:
                missing = Estimate.missing("weight Grams act between hidden layers")
                rows += [self._row(label, quantity, missing) for quantity in GRAM_QUANTITIES]
                continue
            # All slopes of the identity are 1, so that all pairs have the same weight Gram.
            identity = isinstance(self.network.activations[k], torch.nn.Identity)
            complete = settings.all_pairs or identity
            means = _weight_grams(linear.weight.detach(), slopes[k], pairs, complete)
            rows += [self._row(label, name, value) for name, value in means.items()]
        return rows

    def step_rows(
        self, previous: GramSnapshot | None, first: GramSnapshot
    ) -> list[dict[str, Any]]:
        """Return the rows about the change since the previous and since the first snapshot."""
        missing = Estimate.missing(FIRST)
        names = self.layer_names
        hidden = [str(k + 1) for k in range(self.network.depth)]
        flips: dict[str, Any] = dict.fromkeys(hidden, missing)
        changes: dict[str, Any] = dict.fromkeys(names, missing)
        sizes: dict[str, Any] = dict.fromkeys(names, missing)
        if previous is not None:
            flips = self._flips(previous)
            changes, sizes = self.step(previous)
        drifts = self._balance_drift(first)
        rows = []
        for name in names:
            label = f"K_{name}"
            rows.append(self._row(label, "loss_change", changes[name]))
            rows.append(self._row(label, "output_change", sizes[name]))
            if name in flips:
                rows.append(self._row(label, "gate_flips", flips[name]))
                rows.append(self._row(label, "balance_drift", drifts[name]))
        return rows

    def step(self, previous: GramSnapshot) -> tuple[dict[str, float], dict[str, float]]:
        """Return each layer's share of the change of the loss, and the size of its Delta f.

        With r the residuals before, Delta L = (1/N) sum (r + Delta f / 2) . Delta f. Each layer's
        share of Delta f, put in place of the last factor, gives its share of Delta L; as the
        former sum to Delta f, the latter sum to Delta L. The size of Delta f is its root mean
        square.
        """
        # r + Delta f / 2, the mean of the residuals before and after, (n_samples * n_outputs,).
        middle = (self.residuals + previous.residuals) / 2
        names = [name for name, _ in self.network.linears]
        changes, squares = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        start = 0
        for rows in self.X.split(CHUNK):
            shares = attribute_step(previous.network, self.network, rows)
            for name, share in shares.items():
                part = share.flatten()
                changes[name] += float(middle[start : start + len(part)] @ part) / len(self.X)
                squares[name] += float(part @ part) / len(middle)
            start += len(part)
        return changes, {name: square**0.5 for name, square in squares.items()}

    def _flips(self, previous: GramSnapshot) -> dict[str, Estimate]:
        """Return the number of gates of each layer that differ from the previous snapshot's."""
        pieces = [
            gate_flips(self.network, before, after)
            for before, after in zip(previous.fields, self.fields, strict=True)
        ]
        flips = {}
        for name in pieces[0]:
            counts = [piece[name] for piece in pieces]
            numbers = [count for count in counts if count is not None]
            is_smooth = len(numbers) < len(counts)
            flips[name] = (
                Estimate.missing(NO_GATES) if is_smooth else Estimate(float(sum(numbers)))
            )
        return flips

    def _balance_drift(self, first: GramSnapshot) -> dict[str, Estimate]:
        """Return the root mean square change of each layer's balance, relative to its weights."""
        now, then = balance(self.network), balance(first.network)
        drifts = {}
        for k, (name, reason) in enumerate(conserves_balance(self.network).items()):
            weight = first.network.linears[k][1].weight.detach()
            size = float((weight**2).sum(1).mean())
            drift = float(((now[name] - then[name]) ** 2).mean().sqrt())
            drifts[name] = Estimate.missing(reason) if reason else _ratio(drift, size)
        return drifts


def _weight_grams(
    weight: Tensor, slopes: Tensor, pairs: Tensor, complete: bool
) -> dict[str, Estimate]:
    """Return the means of the `GRAM_QUANTITIES` of G_mn over pairs of samples m, n."""
    n = len(slopes)
    if len(pairs) == n * (n - 1) // 2 and complete:
        grams = every_gram(weight, slopes)
    else:
        grams = pairwise_grams(weight, slopes, pairs)
    # G_mn = W^T D_m D_n W is indefinite for some pair if a unit has slopes of both signs.
    indefinite = bool(((slopes < 0).any(0) & (slopes > 0).any(0)).any())
    ratio = mean_over_pairs(grams.alignment[grams.square > 0], complete)
    means = (
        mean_over_pairs(grams.trace, complete),
        mean_over_pairs(grams.square.sqrt(), complete),
        Estimate.missing(INDEFINITE) if indefinite else ratio,
    )
    return dict(zip(GRAM_QUANTITIES, means, strict=True))


def _share(parts: dict[str, float], name: str) -> Estimate:
    return _ratio(parts[name], sum(parts.values()))


def _ratio(part: float, whole: float) -> Estimate:
    if not np.isfinite([part, whole]).all():
        return Estimate.missing(OVERFLOW)
    return Estimate(part / whole) if whole > 0 else Estimate.missing(ZERO)


def layer_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows about layers as a table with one row per (iteration, layer)."""
    rows = results[results["operator"].str.startswith("K_")]
    rows = rows.assign(layer=rows["operator"].str.removeprefix("K_"))
    order = list(dict.fromkeys(zip(rows["iteration"], rows["layer"], strict=True)))
    table = rows.pivot(index=["iteration", "layer"], columns="quantity", values="value")
    columns = [name for name in LAYER_COLUMNS if name in table]
    table = table[columns].reindex(pd.MultiIndex.from_tuples(order, names=table.index.names))
    table.columns.name = None
    return table
