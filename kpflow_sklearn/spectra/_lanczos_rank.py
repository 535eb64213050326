"""Compute ranks on the whole space from Krylov spaces where the full spectrum is too large.

There are two ways, both with bounds:

- Ritz sums, for K, PKP* and other operators. By Ky Fan's principle the r largest Ritz values of a
  Krylov space sum to no more than the r largest eigenvalues. So the least r for which the r
  largest Ritz values reach the threshold is an upper bound on the rank, and equals it once the
  space holds nearly all of the trace.
- Quadrature on X = (P^-1)* P^-1, for P if counting its eigenvalues (`_counts`) would cost too
  much. The nodes mu_i and the weights from m Lanczos steps with a random start bound the spectral
  measure F of X (Chebyshev, Markov, Stieltjes): F(mu_i) lies between the sum of the weights of all
  nodes below mu_i and that sum plus the weight of mu_i.
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
from kpflow_sklearn.spectra._krylov import Krylov, rounding
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._spectrum import Leading, converged

#: Numbers of first directions of a Krylov space, and of random vectors for the trace outside it.
_WIDTH, _N_PROBES = 16, 16
#: Steps and independent starts of the quadrature.
_N_STEPS, _N_STARTS = 40, 4


def ritz_rank(sketcher: Sketcher, threshold: float, most: int) -> tuple[Estimate, Leading]:
    """Return the rank of a Gram on the whole space and the Ritz values that have converged.

    Parameters
    ----------
    sketcher : Sketcher
        The sketcher of the Gram.
    threshold : float
        Share of the trace.
    most : int
        The largest dimension that the Krylov space of each block may have.

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
        reason = (
            "too many directions would have to be computed; use method='exact', or analyse fewer "
            "trials or steps"
        )
        return Estimate.missing(reason, "randomized"), nothing
    space = Krylov(lambda v: sketcher.gram(half, v), half.white(range(min(_WIDTH, half.size))))
    rank = _rank_in(sketcher, space, threshold, *_grow(sketcher, space, threshold, most))
    values, _, residuals = space.ritz()
    residuals = residuals + rounding(values, half.factor.dtype)
    leading = converged(values.clamp(min=0).cpu().numpy(), residuals.cpu().numpy())
    return rank, Leading(*(x * sketcher.magnitude**2 for x in leading))


def _rank_in(
    sketcher: Sketcher, space: Krylov, threshold: float, outside: np.ndarray, grew: bool
) -> Estimate:
    """Return the rank from a space and the traces outside of it, (n_probes,)."""
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
            f"the trace, too little for a rank at {threshold:.0%}; use method='exact', or analyse "
            "fewer trials or steps",
            "randomized",
        )
    rank = _reached(values, threshold * total)
    # Convergence: how much the rank fell while the space grew by its last tenth.
    change = _reached(_pooled(space, int(0.9 * space.dimension)), threshold * total) - rank
    low, high = (_reached(values, threshold * (total + z * error)) for z in (-1.96, 1.96))
    # Ky Fan for positive matrices: the part outside adds at most its trace to the sum of r values.
    least = _reached(values, threshold * total - (total - held))
    by_trace = max(rank - low, high - rank) / 1.96
    std_error = float(np.sqrt(change**2 + by_trace**2 + ONE**2))
    bounds = (float(min(least, low)), float(high))
    return Estimate(float(rank), std_error, method="randomized", bounds=bounds)


def _grow(
    sketcher: Sketcher, space: Krylov, threshold: float, most: int
) -> tuple[np.ndarray, bool]:
    """Extend a space until at most (1 - threshold) / 2 of the trace is outside, or to its end.

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
    """Return how many leading values reach a sum; one more than there are if all do not."""
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


# ------------------------------------------------ of P, from its inverse, which couples neighbours


def inverse_rank(
    op: FlowPropagator, threshold: float, trace: Estimate, seed: int, memory: int
) -> Estimate:
    """Return the rank of PP*, the middle of bounds by quadrature on X, trial by trial.

    An eigenvalue mu of X is an eigenvalue 1/mu of PP*. The rank is n - c, where n is the
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
    seed : int
        Seed of the random starts.
    memory : int
        Bytes that may be used.

    Returns
    -------
    Estimate
        The middle of the bounds.
    """
    rest = (1 - threshold) * (trace.value + 1.96 * trace.std_error * np.array([1.0, -1.0]))
    least, most = _bounds_of_starts(op, rest, seed, memory)
    reach = student.ppf(0.975, _N_STARTS - 1) / _N_STARTS**0.5
    low = max(1.0, float(least.mean() - reach * least.std(ddof=1)))
    high = float(most.mean() + reach * most.std(ddof=1))
    middle = float(np.ceil((low + high) / 2))
    error = max(middle - low, high - middle) / 1.96
    return Estimate(middle, error, method="interval", bounds=(low, high))


def _bounds_of_starts(
    op: FlowPropagator, rest: np.ndarray, seed: int, memory: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest rank that each random start allows, (n_starts,).

    ``rest`` holds the upper and the lower limit of (1 - threshold) tr PP*, which the c smallest
    eigenvalues must not exceed.
    """
    half = HalfFactor(op.inverse(), 1.0, seed)
    size = half.bytes_per_trial(2 * _N_STARTS)
    size += 2 * _N_STARTS * _N_STEPS * half.size * op.dtype.itemsize
    parts = [_nodes_of_starts(part) for part in half.chunks(max(1, memory // size))]
    # Numbers of eigenvalues and the bounds that they lie between, (n_starts, trials and nodes)
    count, low, high = (torch.cat(x, dim=1).numpy() for x in zip(*parts, strict=True))
    least = [_rank_left(*pair, rest[0]) for pair in zip(low, count, strict=True)]
    most = [_rank_left(*pair, rest[1]) for pair in zip(high, count, strict=True)]
    return np.array(least), np.array(most)


def _nodes_of_starts(half: HalfFactor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many eigenvalues of PP* each node stands for, and bounds on them."""
    w = half.white(range(_N_STARTS))  # (n_starts, trials, size)
    n_valid = torch.full((half.n_blocks,), float(half.size), dtype=torch.float64)
    mask = half.factor.tangent.mask  # type: ignore[attr-defined]
    if mask is not None:
        n_states = half.factor.out_shape[2]
        valid = mask.transpose(0, 1).expand(-1, -1, n_states).flatten(1)
        w, n_valid = w * valid, valid.sum(1).double().cpu()
    # One Lanczos chain for each pair of start and trial: M takes the starts as several vectors,
    # whereas the iteration takes each pair as a problem of its own.
    space = Krylov(
        lambda v: half.gram(v.reshape(w.shape), half.n_blocks).reshape(v.shape),
        w.reshape(1, -1, half.size),
    )
    space.reach(_N_STEPS)
    mu, vectors, _ = space.ritz()  # Descending, so that 1/mu ascends.
    # The squared first entry of a Ritz vector is its weight: of n eigenvalues of the trial
    # its node stands for n times this weight, each between the neighbouring nodes.
    values = (1 / mu.clamp(min=1e-300)).cpu().unflatten(0, w.shape[:2])
    weights = vectors[:, 0].square().cpu().unflatten(0, w.shape[:2])
    count = weights * n_valid[:, None]
    low = torch.nn.functional.pad(values[..., :-1], (1, 0))
    high = torch.nn.functional.pad(values[..., 1:], (0, 1), value=torch.inf)
    return count.flatten(1), low.flatten(1), high.flatten(1)


def _rank_left(values: np.ndarray, count: np.ndarray, rest: float) -> float:
    """Return how many eigenvalues are left without the smallest ones, which sum to ``rest``."""
    order = np.argsort(values)
    values, count = values[order], count[order]
    sums, held = np.cumsum(count * values), np.r_[0.0, np.cumsum(count)]
    k = int(np.searchsorted(sums, rest, side="right"))
    more = (rest - (sums[k - 1] if k else 0.0)) / values[k] if k < len(count) else 0.0
    return float(held[-1] - held[k] - more)
