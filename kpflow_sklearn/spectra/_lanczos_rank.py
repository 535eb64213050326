"""The rank on the whole space when the full spectrum is too large to compute.

Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017): m steps of the Lanczos iteration from a
random start w give nodes and weights that integrate polynomials of degree 2m - 1 against the
spectral measure of w, whose mean is that of the matrix. A node that has converged to an isolated
eigenvalue counts as exactly one, unless there may be equal ones that a single start does not see:
a steep head of the spectrum adds no noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra._krylov import Krylov
from kpflow_sklearn.spectra._sketch import Sketcher

_CONVERGED = 1e-2
# Squares of a node that the tail beyond the modes may hold before equal ones are suspected in it.
_TAIL = 10


@dataclass(frozen=True)
class SpectralDensity:
    """Weighted nodes that stand for the eigenvalues of a Gram.

    Attributes
    ----------
    nodes, weights : ndarray
        Eigenvalues, and how many each stands for.
    known : ndarray of bool
        Where a node is an eigenvalue of its own rather than a sample.
    n_starts : int
        Number of random starts of each independent problem.
    """

    nodes: np.ndarray
    weights: np.ndarray
    known: np.ndarray
    n_starts: int

    def rank(self, threshold: float) -> tuple[float, float]:
        """Return how many leading eigenvalues reach a share of the trace, and the error of it.

        To first order the count at which the share is reached moves by a sum over eigenvalues of
        h(lambda) (g^2 - 1), g standard normal, so its variance is 2 tr h^2 over the starts.
        """
        order = np.argsort(-self.nodes)
        nodes, weights = self.nodes[order], self.weights[order]
        held = np.cumsum(weights * nodes)
        share, count = held / held[-1], np.cumsum(weights)
        last = int(np.argmax(share >= threshold - 1e-12))
        r = float(np.interp(threshold, np.r_[0.0, share], np.r_[0.0, count]))
        relative = nodes / nodes[last]
        effect = np.where(np.arange(len(nodes)) <= last, 1 - relative, 0.0) + threshold * relative
        noise = np.where(self.known[order], 0.0, weights) @ effect**2
        return r, float(np.sqrt(2 * noise / self.n_starts))


def sampled_rank(sketcher: Sketcher, threshold: float, outside: float = 0.0) -> Estimate:
    """Return the rank of a Gram on the whole space.

    Its error is that of the sampling and, in quadrature, the change by the last two of the
    Lanczos steps.

    Parameters
    ----------
    sketcher : Sketcher
        Of the Gram.
    threshold : float
        Share of the trace.
    outside : float, default=0
        tr G^2 outside of the modes, measured in the sketcher's units. Were an eigenvalue there
        once more than it was seen, its square would be part of this.

    Returns
    -------
    Estimate
        The rank, rounded up, and its standard error.
    """
    if sketcher.overflow:
        return Estimate.missing(OVERFLOW, "randomized")
    last, *earlier = sketcher.memory.run(lambda: _densities(sketcher, outside))
    if not last.nodes.max(initial=0.0) > 0:
        reason = ZERO if np.isfinite(last.nodes).all() else OVERFLOW
        return Estimate.missing(reason, "randomized")
    rank, error = last.rank(threshold)
    change = max((abs(rank - other.rank(threshold)[0]) for other in earlier), default=0.0)
    error = float(np.hypot(error, change))
    return Estimate(float(np.ceil(rank - 1e-9)), error, method="randomized")


def _densities(sketcher: Sketcher, outside: float) -> list[SpectralDensity]:
    """Return the densities from all Lanczos steps, from one less and from two less."""
    parts, share = [], outside / sketcher.half.n_blocks  # Of P, of the mean trial.
    for half in sketcher.halves():
        space = sketcher.space(half)
        width = space.start.shape[-1]
        few = range(max(width, space.dimension - 2 * width), space.dimension + 1, width)
        parts.append([_quadrature(space, dimension, share) for dimension in reversed(few)])
    densities = []
    for same in zip(*parts, strict=True):  # All trials after as many steps.
        nodes, weights, known = (np.concatenate(x) for x in zip(*same, strict=True))
        densities.append(SpectralDensity(nodes, weights, known, width))
    return densities


def _quadrature(
    space: Krylov, dimension: int, outside: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nodes, weights and which nodes are eigenvalues, flattened over problems."""
    values, vectors, residuals = space.ritz(dimension)
    width = space.start.shape[-1]
    # What the mean over the random starts w of w^T f(M) w gives each node.
    along = space.start.double().mT @ vectors[:, :width]
    weights = (along**2).sum(1) / width
    spread = values.diff(dim=-1).abs()
    gaps = values.new_full(values.shape, float("inf"))
    gaps[:, 1:] = spread
    gaps[:, :-1] = gaps[:, :-1].minimum(spread)
    # One of several equal eigenvalues converges like one alone.
    known = (residuals < _CONVERGED * gaps) & (_TAIL * values**2 >= outside)
    weights = weights.where(~known, 1.0)
    return tuple(x.flatten().cpu().numpy() for x in (values.clamp(min=0), weights, known))  # type: ignore
