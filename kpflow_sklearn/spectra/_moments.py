"""Trace, square and effective dimension of a Gram from a sketch of it, each with its error.

The square of an estimate is a biased estimate of the square. So on the whole space
tr G^2 = E|M w|^2 is estimated directly, and on an axis, where G is a partial trace, as the mean
over pairs of different random vectors: a U-statistic of order two, whose variance splits into that
of its main effects and that of the pairs (Hoeffding 1948).

Each random vector contributes a skewed quadratic form, and there are few of them. Standard errors
are widened so that value +- 1.96 std_error still covers the truth in 95 of 100 cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpflow_sklearn.results import NOISY, ZERO, Estimate
from kpflow_sklearn.spectra._sketches import Sketch


@dataclass(frozen=True)
class Moments:
    """Sums over the eigenvalues of one Gram, estimated by random vectors.

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
    """Return the factor that widens the standard error of a mean of quadratic forms.

    For m values with squared skewness g and excess kurtosis k, value +- z s.e. covers too rarely;
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
        In the units of the sketch.
    """
    # s = |M w'|^2 and t = |A w'|^2, (m,): samples of tr M^2 and of tr M outside of V
    s = sketch.squares
    m, t = len(s), sketch.traces[: len(s)]
    trace, square = sketch.trace0 + t.mean(), sketch.square0 + s.mean()
    by_trace, by_square = widening(sketch.inner), widening(sketch.outer)
    every = sketch.traces
    of_trace = _sampled(sketch.trace0 + every.mean(), by_trace * _mean_error(every))
    of_square = _sampled(square, by_square * _mean_error(s))
    if square <= 0:
        return Moments(of_trace, of_square, Estimate.missing(ZERO, "randomized"))
    covariance = np.cov(t, s) / m
    ratio = trace**2 / square
    # The bias of a ratio of means to second order.
    bias = (
        covariance[0, 0] / square
        - 2 * trace / square**2 * covariance[0, 1]
        + trace**2 / square**3 * covariance[1, 1]
    )
    # Each vector's first-order effect on d = (tr G)^2 / tr G^2: dd = 2 tr G dt / s - d ds / s.
    influence = 2 * trace / square * t - ratio / square * s
    factor = widening(2 * trace / square * sketch.inner - ratio / square * sketch.outer)
    dimension = _sampled(ratio - bias, factor * _mean_error(influence))
    return Moments(of_trace, of_square, dimension)


def middle_over_norm(sketch: Sketch) -> Estimate:
    """Return <G, L L^T>_F / |G|_F for a half-factor A = L R, from the squares |L^T A w|^2.

    Parameters
    ----------
    sketch : Sketch
        The sketch of such a half-factor.

    Returns
    -------
    Estimate
        In units of |L L^T|_F.
    """
    s, c = sketch.squares, sketch.middles
    square, product = sketch.square0 + s.mean(), sketch.middle0 + c.mean()
    if not square > 0:
        return Estimate.missing(ZERO, "randomized")
    # d(c / sqrt(s)) = dc / sqrt(s) - c ds / (2 s^(3/2)), c = <G, L L^T>, s = |G|_F^2, (m,)
    influence = c / square**0.5 - product / (2 * square**1.5) * s
    error = widening(sketch.inner) * _mean_error(influence)
    return _sampled(product / square**0.5, error)


def _sampled(value: float, std_error: float) -> Estimate:
    """Return an estimate by random vectors; without any noise left it is exact."""
    method = "randomized" if std_error > 0 else "exact"
    return Estimate(float(value), float(std_error), method=method)


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
        In the units of the sketch.
    """
    exact, sampled = sketch.exact[axis].double(), sketch.sampled[axis].double().flatten(1)
    t = sketch.traces
    # With G_0 the exact part and G_k that of vector k: <G_k, G_0>_F (m,), <G_k, G_l>_F (m, m).
    crosses = (sampled @ exact.flatten()).cpu().numpy()
    products = (sampled @ sampled.mT).cpu().numpy()
    held = float((exact**2).sum())
    # Entry (k, l) belongs to vectors k and l; entries on the diagonals are not used.
    squares = held + crosses[:, None] + crosses + products
    traces = (sketch.trace0 + t[:, None]) * (sketch.trace0 + t)
    square, trace_square = _pair_mean(squares), _pair_mean(traces)
    factor = widening(sketch.inner)
    of_trace = _sampled(sketch.trace0 + t.mean(), factor * _mean_error(t))
    of_square = _sampled(square, _pair_variance(squares, factor) ** 0.5)
    if square <= 0:
        empty = sketch.trace0 == 0 and not t.any()
        reason = ZERO if empty else NOISY
        return Moments(of_trace, of_square, Estimate.missing(reason, "randomized"))
    ratio = trace_square / square
    influence = (traces - ratio * squares) / square
    main, pairs = _pair_covariance(influence, squares)
    unbiased = ratio + (main + pairs) / square
    error = _pair_variance(influence, factor) ** 0.5
    return Moments(of_trace, of_square, _sampled(unbiased, error))


def _pair_mean(values: np.ndarray) -> float:
    m = len(values)
    return float((values.sum() - np.trace(values)) / (m * (m - 1)))


def _pair_variance(kernel: np.ndarray, factor: float) -> float:
    """Return the variance of a mean over pairs, with the error of the main effects widened."""
    main, pairs = _pair_covariance(kernel, kernel)
    return float(factor**2 * max(main, 0.0) + pairs)


def _pair_covariance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the covariance of the means over pairs of two symmetric kernels, in two parts.

    A kernel splits into one main effect per vector and a remainder for each pair. Both parts are
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
