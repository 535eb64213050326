"""Moments of a Gram G = A A^T from random vectors, each with its standard error.

One-sided: for white w, G = E[(A w)(A w)^T]. The leading modes are taken out first and treated
exactly: with V orthonormal near the leading right singular vectors of A,
G = (A V)(A V)^T + E[(A w')(A w')^T], w' = w - V V^T w, without cross terms, so only what lies
outside V carries sampling error. Squares are taken from *different* random vectors, because the
plug-in square of an estimate is biased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._random import torch_generator
from kpflow_sklearn.operators import LinearOperator

ZERO = "the operator is zero"
NOISY = "the estimate of tr G^2 is not positive; take more probes"
OVERFLOW = "the numbers overflow"


class Estimate(NamedTuple):
    """A number and its standard error (0 if the number is exact).

    A number that could not be had is NaN with ``reason`` saying why.
    """

    value: float
    std_error: float = 0.0
    reason: str = ""

    @classmethod
    def missing(cls, reason: str) -> Estimate:
        """Return the mark of a number that could not be had."""
        return cls(float("nan"), float("nan"), reason)


@dataclass(frozen=True)
class HalfSamples:
    """Half-factors of a Gram: G = sum of modes mode^T + mean over probes of probe probe^T.

    Attributes
    ----------
    modes : Tensor of shape (n_modes, n_trials, n_timesteps, n_states)
        A V, the part treated exactly.
    probes : Tensor of shape (n_probes, n_trials, n_timesteps, n_states)
        A w', the part sampled.
    """

    modes: Tensor
    probes: Tensor


def white(shape: tuple[int, ...], seed: int, indices: range, like: LinearOperator) -> Tensor:
    """Return standard normal probes, each from its own seed, so that batches do not matter."""
    out = torch.empty(len(indices), *shape, dtype=torch.float64)
    for row, index in zip(out, indices, strict=True):
        torch.randn(shape, generator=torch_generator(seed + 7919 * index), out=row)
    return out.to(like.device, like.dtype)


def half_samples(
    factor: LinearOperator,
    scale: float,
    *,
    n_modes: int,
    n_probes: int,
    seed: int,
    n_iterations: int = 2,
) -> HalfSamples:
    """Draw the half-factors of G = scale * A A^T for ``factor`` A.

    Parameters
    ----------
    factor : LinearOperator
        A; its ``T`` may be any multiple of the transpose.
    scale : float
        Factor of the Gram.
    n_modes : int
        Number of leading directions treated exactly.
    n_probes : int
        Number of random vectors for the rest.
    seed : int
        Of the probes.
    n_iterations : int, default=2
        Rounds of subspace iteration towards the leading directions.

    Returns
    -------
    HalfSamples
        Modes and probes, scaled.
    """
    n_in, n_out = factor.shape[1], factor.shape[0]
    n_modes = min(n_modes, n_in, n_out)
    basis = white(factor.in_shape, seed, range(n_modes), factor)
    for _ in range(n_iterations):
        image = (factor.T @ (factor @ basis)).reshape(n_modes, n_in)
        if not image.isfinite().all():  # Products that overflow have no leading directions.
            nothing = torch.full((1, *factor.out_shape), torch.nan, dtype=factor.dtype)
            return HalfSamples(nothing, nothing)
        basis = torch.linalg.qr(image.mT).Q.mT.reshape(n_modes, *factor.in_shape)
    flat = basis.reshape(n_modes, n_in)
    w = white(factor.in_shape, seed, range(n_modes, n_modes + n_probes), factor)
    w = w.reshape(n_probes, n_in)
    w = (w - (w @ flat.mT) @ flat).reshape(n_probes, *factor.in_shape)
    if n_modes == n_in:  # V spans the whole space: nothing is left to sample.
        w = torch.zeros_like(w)
    root = scale**0.5
    return HalfSamples(root * (factor @ basis), root * (factor @ w))


@dataclass(frozen=True)
class Moments:
    """tr G and tr G^2 of G = G_0 + mean_k g_k, with G_0 known and g_k independent.

    Attributes
    ----------
    trace0, square0 : float
        tr G_0 and tr G_0^2.
    traces : ndarray of shape (n_probes,)
        tr g_k.
    crosses : ndarray of shape (n_probes,)
        tr G_0 g_k.
    products : ndarray of shape (n_probes, n_probes)
        tr g_k g_l; the diagonal is not used.
    """

    trace0: float
    square0: float
    traces: np.ndarray
    crosses: np.ndarray
    products: np.ndarray

    def _statistics(self, keep: np.ndarray) -> tuple[float, float, float]:
        """Return unbiased tr G, (tr G)^2 and tr G^2 from the probes in ``keep``."""
        t, b = self.traces[keep], self.crosses[keep]
        c = self.products[np.ix_(keep, keep)]
        m = len(t)
        pairs = m * (m - 1)
        trace = self.trace0 + t.mean()
        t_square = (t.sum() ** 2 - (t**2).sum()) / pairs
        trace_square = self.trace0**2 + 2 * self.trace0 * t.mean() + t_square
        square = self.square0 + 2 * b.mean() + (c.sum() - np.trace(c)) / pairs
        return trace, trace_square, square

    def _jackknife(self, statistic: int | None) -> Estimate:
        """Estimate statistic 0 to 2, or the ratio (tr G)^2 / tr G^2 for None."""

        def value(keep: np.ndarray) -> float:
            s = self._statistics(keep)
            if statistic is not None:
                return s[statistic]
            return s[1] / s[2] if s[2] > 0 else float("nan")

        everything = np.arange(len(self.traces))
        left_out = np.array([value(np.delete(everything, k)) for k in everything])
        m = len(everything)
        spread = np.sqrt((m - 1) / m * ((left_out - left_out.mean()) ** 2).sum())
        found = float(value(everything))
        if not np.isfinite([found, spread]).all():
            return Estimate.missing(ZERO if self.trace0 == 0 and not self.traces.any() else NOISY)
        return Estimate(found, float(spread))

    def trace(self) -> Estimate:
        """Return tr G."""
        return self._jackknife(0)

    def square(self) -> Estimate:
        """Return tr G^2."""
        return self._jackknife(2)

    def effective_dimension(self) -> Estimate:
        """Return (tr G)^2 / tr G^2."""
        return self._jackknife(None)


def whole_moments(samples: HalfSamples) -> Moments:
    """Return the moments of the unreduced Gram from inner products of the half-factors."""
    modes = samples.modes.flatten(1).double()
    probes = samples.probes.flatten(1).double()
    inner, cross, among = modes @ modes.mT, modes @ probes.mT, probes @ probes.mT
    return Moments(
        float(inner.trace()),
        float((inner**2).sum()),
        among.diagonal().cpu().numpy(),
        (cross**2).sum(0).cpu().numpy(),
        (among**2).cpu().numpy(),
    )


def axis_grams(samples: Tensor, axis: str) -> Tensor:
    """Return each half-factor's Gram on one axis, (k, n, n): the partial trace over the others."""
    dim = {"trial": 1, "time": 2, "hidden": 3}[axis]
    flat = samples.movedim(dim, 1).flatten(2)
    return (flat @ flat.mT).double()


def axis_moments(modes: Tensor, probes: Tensor) -> Moments:
    """Return the moments of a reduced Gram from its exact part and its samples.

    Parameters
    ----------
    modes : Tensor of shape (n, n)
        Sum of the modes' Grams.
    probes : Tensor of shape (n_probes, n, n)
        The probes' Grams.

    Returns
    -------
    Moments
        The moments.
    """
    flat = probes.flatten(1)
    return Moments(
        float(modes.trace()),
        float((modes**2).sum()),
        probes.diagonal(dim1=1, dim2=2).sum(1).cpu().numpy(),
        (flat @ modes.flatten()).cpu().numpy(),
        (flat @ flat.mT).cpu().numpy(),
    )
