"""Find ranks on the whole space from Krylov spaces if the full spectrum is too large to compute.

There are two ways, both with bounds:

- Ritz sums, for K, PKP* and other operators. By Ky Fan's principle the r largest Ritz values of a
  Krylov space sum to no more than the r largest eigenvalues. So the least r for which the r
  largest Ritz values reach the threshold is an upper bound on the rank, and approaches it
  as the space comes to hold nearly all of the trace.
- Quadrature on X = (P^-1)* P^-1, for P if counting eigenvalues (`_counts`) would cost too much.
  m Lanczos steps from a unit vector give nodes mu_i and weights. Let F(mu_i) be the part of the
  squared norm of that vector that lies along eigenvectors with eigenvalues up to mu_i. It is at
  least the sum of the weights of all nodes below mu_i, and at most that plus the weight of mu_i
  (Chebyshev, Markov, Stieltjes).
  The mean of F(mu) over random starts is the share of all eigenvalues that are at most mu.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from kpflow_sklearn.operators import FlowPropagator
from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra._counts import ONE
from kpflow_sklearn.spectra._half_factor import HalfFactor
from kpflow_sklearn.spectra._krylov import Krylov, Quadrature, rounding
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._spectrum import Leading, converged

#: Number of directions from which a Krylov space grows, and of random vectors that estimate the
#: trace outside it.
_WIDTH, _N_PROBES = 16, 16
#: Numbers of Lanczos steps, tried in turn until the error is small enough; and the least number
#: of random starts, summed over all trials, that are added to the first one of each trial.
_N_STEPS, _N_SPARE = (16, 32, 64), 16


def ritz_rank(
    sketcher: Sketcher, threshold: float, most: int, remedy: str = "analyse fewer trials or steps"
) -> tuple[Estimate, Leading]:
    """Return the rank of a Gram on the whole space and the Ritz values that have converged.

    Parameters
    ----------
    sketcher : Sketcher
        The sketcher of the Gram.
    threshold : float
        Share of the trace.
    most : int
        The largest dimension that the Krylov space of each block may have.
    remedy : str
        Advice that ends the reason if too little of the spectrum can be computed for a rank.

    Returns
    -------
    rank : Estimate
        The rank; missing if the largest space holds too little of the trace.
    leading : Leading
        The eigenvalues that have converged.
    """
    nothing = Leading(np.empty(0), np.empty(0))
    if sketcher.overflow:
        return Estimate.missing(OVERFLOW, "randomized"), nothing
    half = sketcher.half
    if most < min(2 * _WIDTH, half.size):
        reason = f"too many directions would have to be computed; {remedy}"
        return Estimate.missing(reason, "randomized"), nothing
    space = Krylov(lambda v: sketcher.gram(half, v), half.white(range(min(_WIDTH, half.size))))
    grown = _grow(sketcher, space, threshold, most)
    rank = _rank_in(sketcher, space, threshold, *grown, remedy)
    values, _, residuals = space.ritz()
    residuals = residuals + rounding(values, half.factor.dtype)
    leading = converged(values.clamp(min=0).cpu().numpy(), residuals.cpu().numpy())
    return rank, Leading(*(x * sketcher.magnitude**2 for x in leading))


def _rank_in(
    sketcher: Sketcher,
    space: Krylov,
    threshold: float,
    outside: np.ndarray,
    grew: bool,
    remedy: str,
) -> Estimate:
    """Return the rank, given a space and ``outside``, estimates of the trace outside it."""
    values = _pooled(space, space.dimension)
    held = values.sum()
    total = held + outside.mean()
    if not total > 0:
        return Estimate.missing(ZERO if np.isfinite(total) else OVERFLOW, "randomized")
    if not grew:  # The Krylov space is the whole space.
        return Estimate(float(_reached(values, threshold * total)), method="randomized")
    error = float(outside.std(ddof=1) / len(outside) ** 0.5)
    if held < threshold * (total + 1.96 * error):
        return Estimate.missing(
            f"the {len(values)} leading directions that were computed hold {held / total:.0%} of "
            f"the trace, too little for a rank at {threshold:.0%}; {remedy}",
            "randomized",
        )
    rank = _reached(values, threshold * total)
    # Convergence: how much the rank fell while the space grew by its last tenth.
    change = _reached(_pooled(space, int(0.9 * space.dimension)), threshold * total) - rank
    low, high = (_reached(values, threshold * (total + z * error)) for z in (-1.96, 1.96))
    # By Ky Fan's principle the part outside adds at most its trace to the r largest eigenvalues.
    least = _reached(values, threshold * total - (total - held))
    by_trace = max(rank - low, high - rank) / 1.96
    std_error = float(np.sqrt(change**2 + by_trace**2 + ONE**2))
    bounds = (float(min(least, low)), float(high))
    return Estimate(float(rank), std_error, method="randomized", bounds=bounds)


def _grow(
    sketcher: Sketcher, space: Krylov, threshold: float, most: int
) -> tuple[np.ndarray, bool]:
    """Extend a space until (1 - threshold) / 2 of the trace is outside it, or it cannot grow.

    Returns
    -------
    outside : ndarray of shape (n_probes,)
        |A w'|^2 of white vectors w, with w' = w - V V^T w the part outside the space with basis V:
        tr M = tr(V^T M V) + E|A w'|^2, M = A^T A.
    grew : bool
        Whether the space could still grow.
    """
    goal = 4.0 * _WIDTH
    while True:
        grew = space.extend()
        at_end = not grew or space.dimension + _WIDTH > most
        if space.dimension >= goal or at_end:
            goal = 1.2 * space.dimension
            outside = _outside(sketcher, space)
            held = _pooled(space, space.dimension).sum()
            if at_end or not held + outside.mean() > 0:
                return outside, grew
            if held >= (1 + threshold) / 2 * (held + outside.mean()):
                return outside, grew


def _pooled(space: Krylov, dimension: int) -> np.ndarray:
    """Return the Ritz values of all blocks in descending order."""
    values = space.ritz(dimension)[0].clamp(min=0).flatten()
    return values.sort(descending=True).values.cpu().numpy()


def _reached(values: np.ndarray, goal: float) -> int:
    """Return how many leading values reach a sum; one more than all if even all fall short."""
    return int(np.searchsorted(np.cumsum(values), goal * (1 - 1e-12))) + 1


def _outside(sketcher: Sketcher, space: Krylov) -> np.ndarray:
    """Return |A w'|^2 of the parts w' of white vectors outside the space, (n_probes,)."""
    half = sketcher.half
    w = half.white(range(sketcher.n_modes, sketcher.n_modes + _N_PROBES))
    basis = space.basis[:, : space.dimension]
    for _ in range(2):  # Projecting once would leave rounding along leading directions.
        # w' = w - V V^T w, V (n_blocks, dimension, size), w (k, n_blocks, size)
        w = w - torch.einsum("kni,nid->knd", torch.einsum("knd,nid->kni", w, basis), basis)
    return sketcher.squared_images(half, w)


# ------------------------------------- ranks of P, whose inverse couples only neighbouring steps


def inverse_rank(
    op: FlowPropagator, threshold: float, trace: Estimate, tol: float, seed: int, memory: int
) -> Estimate:
    """Return the rank of PP*: the middle of bounds that quadrature on X gives, trial by trial.

    If mu is an eigenvalue of X, 1/mu is one of PP*. The rank is n - c, where n is the
    number of eigenvalues and c is the largest number for which the c smallest eigenvalues of PP*
    sum to no more than (1 - threshold) tr PP*.

    Parameters
    ----------
    op : FlowPropagator
        P.
    threshold : float
        Share of the trace.
    trace : Estimate
        tr PP*.
    tol : float
        Relative standard error at which no more Lanczos steps are made.
    seed : int
        Seed of the random starts.
    memory : int
        Bytes that may be used.

    Returns
    -------
    Estimate
        The middle of the bounds.
    """
    # What the c smallest eigenvalues may sum to: first the upper, then the lower 95% limit of
    # (1 - threshold) tr PP*.
    rest = (1 - threshold) * (trace.value + 1.96 * trace.std_error * np.array([1.0, -1.0]))
    n_starts = 1 + max(1, -(-_N_SPARE // op.out_shape[0]))
    half = HalfFactor(op.inverse(), 1.0, seed)
    chunk = max(1, memory // half.bytes_per_trial(4 * n_starts))
    chains = [_chain(part, n_starts) for part in half.chunks(chunk)]
    for n_steps in _N_STEPS:
        parts = [_nodes(chain, n_valid, n_steps) for chain, n_valid in chains]
        # Numbers of eigenvalues and the bounds between which they lie, (trials, n_starts, nodes)
        count, low, high = (torch.cat(x).numpy() for x in zip(*parts, strict=True))
        reach = float(student.ppf(0.975, len(count) * (n_starts - 1)))
        least, least_error = _rank_left(low, count, rest[0])
        most, most_error = _rank_left(high, count, rest[1])
        bounds = (max(1.0, least - reach * least_error), most + reach * most_error)
        middle = float(np.ceil(sum(bounds) / 2))
        error = max(middle - bounds[0], bounds[1] - middle) / 1.96
        if error <= tol * middle:
            break
    return Estimate(middle, error, method="interval", bounds=bounds)


def _chain(half: HalfFactor, n_starts: int) -> tuple[Quadrature, Tensor]:
    """Return the quadrature on X from random starts, and how many eigenvalues each trial has.

    There are as many as valid entries; this number n is the second result, (trials,).
    """
    w = half.white(range(n_starts))  # (n_starts, trials, size)
    n_valid = torch.full((half.n_blocks,), float(half.size), dtype=torch.float64)
    mask = half.factor.tangent.mask  # type: ignore[attr-defined]
    if mask is not None:
        n_states = half.factor.out_shape[2]
        valid = mask.transpose(0, 1).expand(-1, -1, n_states).flatten(1)
        w, n_valid = w * valid, valid.sum(1).double().cpu()
    return Quadrature(lambda v: half.gram(v, half.n_blocks), w), n_valid


def _nodes(chain: Quadrature, n_valid: Tensor, n_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many eigenvalues of PP* each node stands for, and bounds on them.

    Each result is (trials, n_starts, nodes), with nodes in the order of ascending bounds.
    """
    chain.extend(n_steps)
    mu, weights = chain.rule()
    # Of a trial's n eigenvalues, a node with weight w stands for n w, each of them between the
    # neighbouring nodes. Descending mu make ascending 1/mu.
    values = (1 / mu.clamp(min=1e-300)).transpose(0, 1).cpu()
    count = n_valid[:, None, None] * weights.transpose(0, 1).cpu()
    low = torch.nn.functional.pad(values[..., :-1], (1, 0))
    high = torch.nn.functional.pad(values[..., 1:], (0, 1), value=torch.inf)
    return count, low, high


def _rank_left(values: np.ndarray, count: np.ndarray, rest: float) -> tuple[float, float]:
    """Return how many eigenvalues remain once the smallest, with a sum of ``rest``, are left out.

    Parameters
    ----------
    values, count : ndarray of shape (trials, n_starts, nodes)
        Eigenvalues, and how often each of them occurs according to each start.
    rest : float
        The sum.

    Returns
    -------
    rank : float
        The number that remains, from the mean counts over the starts of each trial.
    std_error : float
        Its standard error, from the differences between the starts of each trial.
    """
    n_trials, n_starts, _ = values.shape
    order = np.argsort(values, axis=None)
    sorted_values, each = values.ravel()[order], count.ravel()[order] / n_starts
    sums, held = np.cumsum(each * sorted_values), np.r_[0.0, np.cumsum(each)]
    k = int(np.searchsorted(sums, rest, side="right"))
    if k == len(each):
        return 0.0, 0.0
    last = sorted_values[k]  # x, the largest eigenvalue left out.
    more = (rest - (sums[k - 1] if k else 0.0)) / last
    # To first order, each eigenvalue v < x that a start counts lowers the rank by 1 - v / x. It is
    # left out itself, but it uses up v of `rest`, so that v / x fewer of size x are left out.
    moves = (count * np.clip(1 - values / last, 0, None)).sum(2)
    std_error = float(np.sqrt((moves.var(axis=1, ddof=1) / n_starts).sum()))
    return float(held[-1] - held[k] - more), std_error
