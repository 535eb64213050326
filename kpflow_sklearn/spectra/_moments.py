"""Trace, square and effective dimension of a Gram from a sketch of it, each with its error.

The square of an estimate is biased. So for the whole space tr G^2 = E|M w|^2 is estimated by
itself, and on an axis, where G is a partial trace, as the mean over pairs of different random
vectors: a U-statistic of order two, whose variance splits into that of its main effects and that
of the pairs (Hoeffding 1948).

Standard errors are widened so that value +- 1.96 std_error holds the truth in 95 of 100 cases,
although the random vectors are few and each contributes a skewed quadratic form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpflow_sklearn.results import NOISY, ZERO, Estimate
from kpflow_sklearn.spectra._sketches import Sketch


@dataclass(frozen=True)
class Moments:
    """What the random vectors say of one Gram.

    Attributes
    ----------
    trace, square : Estimate
        tr G and tr G^2.
    effective_dimension : Estimate
        (tr G)^2 / tr G^2.
    """

    trace: Estimate
    square: Estimate
    effective_dimension: Estimate


def widening(inner: np.ndarray) -> float:
    """Return by how much a standard error of a mean of quadratic forms is to be widened.

    For m values with squared skewness g and excess kurtosis k, value +- z s.e. covers too seldom;
    1 + ((z^2 + 3)/4 + (z^4 + 2 z^2 - 3) g/18 - (z^2 - 3) k/12)/m repairs it to order 1/m (Hall
    1983), here with z = 1.96. For w^T Q w, k is near 3g/2, and g = 8 (tr Q^3)^2 / (tr Q^2)^3 is
    estimated from products of different vectors.

    Parameters
    ----------
    inner : ndarray of shape (m, m)
        w_k^T Q w_l; the diagonal is not used.

    Returns
    -------
    float
        A factor, 1 or more.
    """
    m = len(inner)
    pairs = inner - np.diag(inner.diagonal())
    square = (pairs**2).sum() / (m * (m - 1))
    cube = np.trace(pairs @ pairs @ pairs) / (m * (m - 1) * (m - 2))
    skew = 0.0 if square == 0 else float(np.clip(8 * cube**2 / square**3, 0, 8))
    return 1 + (1.71 + 0.96 * skew) / m


def whole_moments(sketch: Sketch) -> Moments:
    """Return the moments of the unreduced Gram.

    Parameters
    ----------
    sketch : Sketch
        With at least 3 random vectors.

    Returns
    -------
    Moments
        In the sketch's units.
    """
    s = sketch.squares
    m, t = len(s), sketch.traces[: len(s)]
    trace, square = sketch.trace0 + t.mean(), sketch.square0 + s.mean()
    by_trace, by_square = widening(sketch.inner), widening(sketch.outer)
    every = sketch.traces
    found = (
        Estimate(float(sketch.trace0 + every.mean()), by_trace * _mean_error(every)),
        Estimate(float(square), by_square * _mean_error(s)),
    )
    if square <= 0:
        return Moments(*found, Estimate.missing(ZERO))
    covariance = np.cov(t, s) / m
    ratio = trace**2 / square
    # To second order the mean of a ratio of means is off by this.
    bias = (
        covariance[0, 0] / square
        - 2 * trace / square**2 * covariance[0, 1]
        + trace**2 / square**3 * covariance[1, 1]
    )
    influence = 2 * trace / square * t - ratio / square * s
    factor = widening(2 * trace / square * sketch.inner - ratio / square * sketch.outer)
    return Moments(*found, Estimate(float(ratio - bias), factor * _mean_error(influence)))


def middle_over_norm(sketch: Sketch) -> Estimate:
    """Return <G, L L^T>_F / |G|_F for a half-factor A = L R, from the squares |L^T A w|^2.

    Parameters
    ----------
    sketch : Sketch
        Of such a half-factor.

    Returns
    -------
    Estimate
        In units of |L L^T|_F.
    """
    s, c = sketch.squares, sketch.middles
    square, product = sketch.square0 + s.mean(), sketch.middle0 + c.mean()
    if not square > 0:
        return Estimate.missing(ZERO)
    influence = c / square**0.5 - product / (2 * square**1.5) * s
    error = widening(sketch.inner) * _mean_error(influence)
    return Estimate(float(product / square**0.5), error)


def _mean_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def axis_moments(sketch: Sketch, axis: str) -> Moments:
    """Return the moments of the Gram reduced to an axis.

    Parameters
    ----------
    sketch : Sketch
        With at least 4 random vectors.
    axis : {"trial", "time", "hidden"}
        The axis kept.

    Returns
    -------
    Moments
        In the sketch's units.
    """
    known, sampled = sketch.known[axis].double(), sketch.sampled[axis].double().flatten(1)
    t = sketch.traces
    crosses = (sampled @ known.flatten()).cpu().numpy()
    products = (sampled @ sampled.mT).cpu().numpy()
    held = float((known**2).sum())
    # Values on pairs of vectors; their diagonals are never used.
    squares = held + crosses[:, None] + crosses + products
    traces = (sketch.trace0 + t[:, None]) * (sketch.trace0 + t)
    square, trace_square = _pair_mean(squares), _pair_mean(traces)
    factor = widening(sketch.inner)
    trace = Estimate(float(sketch.trace0 + t.mean()), factor * _mean_error(t))
    found = Estimate(square, _pair_variance(squares, factor) ** 0.5)
    if square <= 0:
        empty = sketch.trace0 == 0 and not t.any()
        return Moments(trace, found, Estimate.missing(ZERO if empty else NOISY))
    ratio = trace_square / square
    influence = (traces - ratio * squares) / square
    main, pairs = _pair_covariance(influence, squares)
    unbiased = ratio + (main + pairs) / square
    error = _pair_variance(influence, factor) ** 0.5
    return Moments(trace, found, Estimate(float(unbiased), float(error)))


def _pair_mean(values: np.ndarray) -> float:
    m = len(values)
    return float((values.sum() - np.trace(values)) / (m * (m - 1)))


def _pair_variance(kernel: np.ndarray, factor: float) -> float:
    """Return the variance of a mean over pairs, its main effects' error widened by a factor."""
    main, pairs = _pair_covariance(kernel, kernel)
    return float(factor**2 * max(main, 0.0) + pairs)


def _pair_covariance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the covariance of the means over pairs of two symmetric kernels, in two parts.

    A kernel is split into main effects, one a vector, and what is left for the pairs. Each part is
    estimated without bias, so that of the main effects may come out negative.
    """
    m = len(a)
    (main_a, rest_a), (main_b, rest_b) = _main_effects(a), _main_effects(b)
    pairs = (rest_a * rest_b).sum() / (m * (m - 3))
    main = (main_a * main_b).sum() / (m - 1) - pairs / (m - 2)
    return 4 * main / m, 2 * pairs / (m * (m - 1))


def _main_effects(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    m = len(values)
    centred = values - _pair_mean(values)
    np.fill_diagonal(centred, 0.0)
    main = centred.sum(1) / (m - 2)
    rest = centred - main[:, None] - main
    np.fill_diagonal(rest, 0.0)
    return main, rest
