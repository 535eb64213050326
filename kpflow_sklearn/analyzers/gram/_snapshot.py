"""Everything that is measured at one snapshot of a feed-forward network, and between two."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
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
CHUNK = 2048  # Samples whose fields are held at a time.
SMOOTH = "a smooth activation has no gates"
INDEFINITE = "slopes of both signs make some G indefinite, with no effective dimension"
FIRST = "there is no earlier snapshot to compare with"


@dataclass(frozen=True)
class GramSettings:
    """What to measure at each snapshot.

    Attributes
    ----------
    n_components : int
        Leading eigenpairs of K.
    rank_threshold : float
        Share of the trace that defines the rank.
    max_kernel_size : int
        Largest number of rows of K for which its matrix is formed.
    pairs : Tensor of int, shape (n_pairs, 2)
        Pairs of samples whose weight Grams are measured.
    all_pairs : bool
        Whether these are all there are.
    seed : int
        Of the iteration for eigenvectors.
    """

    n_components: int
    rank_threshold: float
    max_kernel_size: int
    pairs: Tensor
    all_pairs: bool
    seed: int


class GramSnapshot:
    """One snapshot on the analysed samples, in double precision whatever the network's is.

    Parameters
    ----------
    network : FeedForwardNetwork
        In its state then.
    iteration : int
        Parameter updates before it.
    X, y : Tensor
        Samples, (n_samples, n_features) and (n_samples, n_outputs), in double.
    with_readout : bool, default=False
        Whether the readout is a layer of the tables even if it does not train.
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
        """The fields of a few samples at a time: all of them may not fit into memory."""
        return (forward_fields(self.network, rows) for rows in self.X.split(CHUNK))

    @property
    def loss(self) -> float:
        """L = sum r^2 / 2N."""
        return float((self.residuals**2).sum()) / (2 * len(self.X))

    @property
    def layer_names(self) -> list[str]:
        """The hidden layers, and the readout if it trains or moved."""
        hidden = [str(k + 1) for k in range(self.network.depth)]
        return [*hidden, "readout"] if self.with_readout else hidden

    def layer_kernels(self) -> dict[str, np.ndarray]:
        """Return each K_l as a matrix."""
        return {name: matrix.numpy() for name, matrix in self.kernel.dense().items()}

    def _row(self, operator: str, quantity: str, value: Any, method: str = "exact") -> dict:
        about: dict[str, Any] = {"method": method, "n_trials": len(self.X)}
        if not isinstance(value, Estimate) and not np.isfinite(value):
            value = Estimate.missing(OVERFLOW)
        return row(self.iteration, operator, "sample", quantity, value, **about)

    def kernel_rows(self, settings: GramSettings, spectrum: Spectrum) -> list[dict[str, Any]]:
        """Return what is measured of K and each K_l."""
        # A layer that does not train has K_l = 0.
        names = self.layer_names
        traces = dict.fromkeys(names, 0.0) | self.kernel.traces()
        forms = dict.fromkeys(names, 0.0) | self.kernel.quadratic_forms(self.residuals)
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
        """Return what is measured of the hidden layers' activity and weight Grams."""
        active = [[int((h > 0).sum()) for h in fields.H] for fields in self.fields]
        pairs, paired = settings.pairs, self.X
        if not settings.all_pairs:  # Of the samples, only those drawn.
            drawn, pairs = settings.pairs.unique(return_inverse=True)
            paired = self.X[drawn]
        slopes = forward_fields(self.network, paired).D
        rows = []
        for k, (_, linear) in enumerate(self.network.linears[:-1]):
            label = f"K_{k + 1}"
            share = sum(counts[k] for counts in active) / (len(self.X) * linear.out_features)
            rows.append(self._row(label, "active_share", share))
            if k == 0:
                nothing = Estimate.missing("weight Grams act between hidden layers")
                rows += [self._row(label, quantity, nothing) for quantity in GRAM_QUANTITIES]
                continue
            # All slopes of the identity are 1, and any pair stands for all.
            identity = isinstance(self.network.activations[k], torch.nn.Identity)
            complete = settings.all_pairs or identity
            found = _weight_grams(linear.weight.detach(), slopes[k], pairs, complete)
            method = "exact" if complete else "randomized"
            rows += [self._row(label, name, value, method) for name, value in found.items()]
        return rows

    def step_rows(
        self, previous: GramSnapshot | None, first: GramSnapshot
    ) -> list[dict[str, Any]]:
        """Return what happened since the previous snapshot, and the balance since the first."""
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
        """Return each layer's share in the change of the loss, and the size of its Delta f.

        Delta L = (1/N) sum (r + Delta f / 2) . Delta f is linear in the layers' shares of Delta f,
        so that they add up to it exactly. Sizes are root mean squares.
        """
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
        pieces = [
            gate_flips(self.network, before, after)
            for before, after in zip(previous.fields, self.fields, strict=True)
        ]
        found = {}
        for name in pieces[0]:
            counts = [piece[name] for piece in pieces]
            known = [count for count in counts if count is not None]
            smooth = len(known) < len(counts)
            found[name] = Estimate.missing(SMOOTH) if smooth else Estimate(float(sum(known)))
        return found

    def _balance_drift(self, first: GramSnapshot) -> dict[str, Estimate]:
        now, then = balance(self.network), balance(first.network)
        found = {}
        for k, (name, why_not) in enumerate(conserves_balance(self.network).items()):
            weight = first.network.linears[k][1].weight.detach()
            size = float((weight**2).sum(1).mean())
            drift = float(((now[name] - then[name]) ** 2).mean().sqrt())
            found[name] = Estimate.missing(why_not) if why_not else _ratio(drift, size)
        return found


def _weight_grams(
    weight: Tensor, slopes: Tensor, pairs: Tensor, complete: bool
) -> dict[str, Estimate]:
    """Return the means over pairs of samples of what is measured of G_mn."""
    n = len(slopes)
    if len(pairs) == n * (n - 1) // 2 and complete:
        grams = every_gram(weight, slopes)
    else:
        grams = pairwise_grams(weight, slopes, pairs)
    # A unit whose slope has either sign gives some pair a negative product of slopes.
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
