"""The results of leading modes and random vectors for a Gram, reduced to small matrices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


@dataclass
class Sketch:
    """Sums over modes, and their values for each random vector.

    Attributes
    ----------
    traces, squares : ndarray of shape (m,)
        |A w'|^2 and |M w'|^2 of each random vector: their means are the sampled parts of tr G and
        tr G^2. The latter may cover the first vectors only.
    middles : ndarray of shape (m,)
        Likewise |L^T A w'|^2, for A = L R (zero otherwise).
    inner, outer : ndarray of shape (m, m)
        Inner products of the A w' and of the M w', for the vectors drawn first.
    sampled : dict of str to Tensor (m, n, n)
        For each axis the reduced Gram of each A w'.
    trace0, square0, middle0 : float
        The exact parts: |A V|^2, |M V|^2 and |L^T A V|^2.
    exact : dict of str to Tensor (n, n)
        For each axis the reduced Gram of A V.
    mode_values, mode_residuals : ndarray of shape (n_blocks, n_modes)
        Eigenvalues of V^T M V of each block, in descending order, and the largest distance of each
        from an eigenvalue of M.
    magnitude : float
        The number by which A was divided.
    """

    traces: np.ndarray
    squares: np.ndarray
    middles: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    sampled: dict[str, Tensor] = field(default_factory=dict)
    trace0: float = 0.0
    square0: float = 0.0
    middle0: float = 0.0
    exact: dict[str, Tensor] = field(default_factory=dict)
    mode_values: np.ndarray = field(default_factory=lambda: np.empty((1, 0)))
    mode_residuals: np.ndarray = field(default_factory=lambda: np.empty((1, 0)))
    magnitude: float = 1.0

    @property
    def n_probes(self) -> int:
        """Number of random vectors."""
        return len(self.traces)

    @property
    def dimension_left(self) -> float:
        """The effective dimension of the part that is sampled; infinite if that is zero."""
        pairs = self.inner**2 - np.diag(self.inner.diagonal() ** 2)
        square = pairs.sum() / (self.n_probes * (self.n_probes - 1))
        return float(self.traces.mean() ** 2 / square) if square > 0 else np.inf

    def least_rank(self, threshold: float) -> float:
        """Return a lower bound on the rank of G on the whole space.

        Cauchy and Schwarz: r eigenvalues outside of the modes sum to at most (r q)^(1/2), where q
        is the sum of the squares of all eigenvalues outside of the modes.
        """
        of_modes = self.mode_values.sum()
        lacking = threshold * (of_modes + self.traces.mean()) - of_modes
        if not lacking > 0:
            return 1.0
        return float(self.mode_values.size + lacking**2 / self.squares.mean())

    @property
    def finite(self) -> bool:
        """Whether nothing overflowed."""
        sums = (self.trace0, self.square0, self.traces.sum(), self.squares.sum())
        return bool(np.isfinite([self.magnitude, *sums]).all())

    def merged(self, other: Sketch) -> Sketch:
        """Return the sum of two sketches of different trials."""
        return replace(
            self,
            traces=self.traces + other.traces,
            squares=self.squares + other.squares,
            middles=self.middles + other.middles,
            inner=self.inner + other.inner,
            outer=self.outer + other.outer,
            sampled=_merged(self.sampled, other.sampled),
            trace0=self.trace0 + other.trace0,
            square0=self.square0 + other.square0,
            middle0=self.middle0 + other.middle0,
            exact=_merged(self.exact, other.exact),
            mode_values=np.concatenate([self.mode_values, other.mode_values]),
            mode_residuals=np.concatenate([self.mode_residuals, other.mode_residuals]),
        )

    def joined(self, other: Sketch) -> Sketch:
        """Return the sketch with further random vectors (``inner`` and ``outer`` stay)."""
        sampled = {axis: torch.cat([g, other.sampled[axis]]) for axis, g in self.sampled.items()}
        return replace(
            self,
            traces=np.concatenate([self.traces, other.traces]),
            squares=np.concatenate([self.squares, other.squares]),
            middles=np.concatenate([self.middles, other.middles]),
            sampled=sampled,
        )


def _merged(mine: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add Grams of different trials; those on the trial axis stand side by side."""
    out = {}
    for axis, gram in mine.items():
        if axis != "trial":
            out[axis] = gram + others[axis]
            continue
        a, b = gram.shape[-1], others[axis].shape[-1]
        out[axis] = gram.new_zeros(*gram.shape[:-2], a + b, a + b)
        out[axis][..., :a, :a], out[axis][..., a:, a:] = gram, others[axis]
    return out
