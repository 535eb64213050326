"""The spectrum of one Gram: eigenvalues, trace, effective dimension, rank, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._validation import check_real
from kpflow_sklearn.traces import (
    OVERFLOW,
    ZERO,
    Estimate,
    HalfSamples,
    Moments,
    axis_grams,
    axis_moments,
    whole_moments,
)


@dataclass(frozen=True)
class Spectrum:
    """What is known of the eigenvalues of one Gram.

    Attributes
    ----------
    eigenvalues : ndarray
        In descending order; all the non-zero ones if ``complete``, else the leading ones.
    trace, square : Estimate
        tr G and tr G^2.
    effective_dimension : Estimate
        (tr G)^2 / tr G^2.
    method : {"exact", "randomized"}
        How they were found.
    complete : bool
        Whether ``eigenvalues`` holds the whole trace.
    share_std_error : ndarray or None
        Standard error of the cumulated shares of the trace, where they are estimated.
    """

    eigenvalues: np.ndarray
    trace: Estimate
    square: Estimate
    effective_dimension: Estimate
    method: str
    complete: bool
    share_std_error: np.ndarray | None = None

    def rank(self, threshold: float = 0.95) -> Estimate:
        """Return the least r whose r largest eigenvalues reach ``threshold`` of the trace.

        Where the shares carry an error, the rank's is half the distance between the ranks that
        one standard error more and less would give.

        Parameters
        ----------
        threshold : float, default=0.95
            Share of the whole trace, above 0 and at most 1.

        Returns
        -------
        Estimate
            The rank; missing where the known eigenvalues do not reach that far.
        """
        check_real(threshold, "rank_threshold", 0, 1, open_minimum=True)
        if self.trace.reason:
            return self.trace
        if self.trace.value <= 0:
            return Estimate.missing(ZERO)
        # Rounding must not ask for one eigenvalue more than there are.
        goal = threshold - 1e-12
        shares = np.cumsum(self.eigenvalues) / self.trace.value
        if self.complete and len(shares):
            shares = np.cumsum(self.eigenvalues) / self.eigenvalues.sum()
        if not len(shares) or shares[-1] < goal:
            reached = shares[-1] if len(shares) else 0.0
            return Estimate.missing(
                f"the {len(shares)} computed eigenvalues hold {reached:.1%} of the trace, below "
                f"{threshold:.0%}"
            )
        rank = int(np.argmax(shares >= goal)) + 1
        if self.share_std_error is None:
            return Estimate(float(rank))
        low = int(np.argmax(shares + self.share_std_error >= goal)) + 1
        above = shares - self.share_std_error >= goal
        high = int(np.argmax(above)) + 1 if above.any() else len(shares)
        return Estimate(float(rank), (high - low) / 2)


def spectrum_of_gram(gram: Tensor | np.ndarray) -> Spectrum:
    """Return the spectrum of a Gram given as a matrix.

    Parameters
    ----------
    gram : Tensor or ndarray of shape (n, n)
        Symmetric, positive semidefinite.

    Returns
    -------
    Spectrum
        Complete and exact; all missing if the matrix is not finite.
    """
    matrix = np.asarray(gram.cpu() if isinstance(gram, Tensor) else gram, dtype=np.float64)
    if not np.isfinite(matrix).all():
        return missing_spectrum(OVERFLOW, "exact")
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1].clip(min=0)
    return spectrum_of_eigenvalues(values)


def spectrum_of_eigenvalues(values: np.ndarray) -> Spectrum:
    """Return the spectrum of a Gram whose non-zero eigenvalues are all known, in float64."""
    if not np.isfinite(values).all():
        return missing_spectrum(OVERFLOW, "exact")
    scale = max(values.max(initial=0.0), np.finfo(float).tiny)
    scaled = values / scale
    total, square = float(scaled.sum()), float((scaled**2).sum())
    known = (_scaled(total, scale), _scaled(square, scale, 2), exact_ratio(total, square))
    return Spectrum(values, *known, method="exact", complete=True)


def missing_spectrum(reason: str, method: str) -> Spectrum:
    """Return a spectrum of which nothing is known, for a reason."""
    nothing = Estimate.missing(reason)
    return Spectrum(np.empty(0), nothing, nothing, nothing, method, complete=False)


def exact_ratio(total: float, square: float) -> Estimate:
    """Return the effective dimension from tr G and tr G^2."""
    if not np.isfinite([total, square]).all():
        return Estimate.missing(OVERFLOW)
    return Estimate(total**2 / square) if square > 0 else Estimate.missing(ZERO)


def _scaled(value: float, scale: float, power: int = 1) -> Estimate:
    """Return value * scale**power, or say that it is too large for a number."""
    with np.errstate(over="ignore"):
        found = value * np.float64(scale) ** power
    return Estimate(float(found)) if np.isfinite(found) else Estimate.missing(OVERFLOW)


def sampled_spectrum(samples: HalfSamples, axis: str) -> Spectrum:
    """Return the spectrum on one axis as random half-factors show it."""
    if not (samples.modes.isfinite().all() and samples.probes.isfinite().all()):
        return missing_spectrum(OVERFLOW, "randomized")
    if axis == "all":
        moments = whole_moments(samples)
        modes = samples.modes.flatten(1).double()
        values = torch.linalg.eigvalsh(modes @ modes.mT).flip(0).clamp(min=0).cpu().numpy()
        found = _from_moments(moments, values)
        relative = found.trace.std_error / found.trace.value if found.trace.value > 0 else 0.0
        errors = np.cumsum(values) / max(found.trace.value, 1e-300) * relative
        return replace(found, share_std_error=errors)
    known = axis_grams(samples.modes, axis).sum(0)
    sampled = axis_grams(samples.probes, axis)
    moments = axis_moments(known, sampled)
    mean = known + sampled.mean(0)
    values, vectors = torch.linalg.eigh(mean)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    found = _from_moments(moments, values.cpu().numpy())
    errors = _share_errors(known, sampled, vectors)
    return replace(found, complete=True, share_std_error=errors)


def _from_moments(moments: Moments, values: np.ndarray) -> Spectrum:
    known = (moments.trace(), moments.square(), moments.effective_dimension())
    return Spectrum(values, *known, method="randomized", complete=False)


def _share_errors(known: Tensor, sampled: Tensor, vectors: Tensor) -> np.ndarray:
    """Return the standard errors of the cumulated shares along fixed eigenvectors.

    To first order the eigenvectors' own error does not enter an eigenvalue, so the share of the
    leading r directions is a ratio of sums over probes, with the error of a ratio.
    """
    along = torch.einsum("ir,kij,jr->kr", vectors, sampled, vectors).cumsum(1)
    fixed = torch.einsum("ir,ij,jr->r", vectors, known, vectors).cumsum(0)
    head = fixed + along
    total = head[:, -1:]
    share = head.mean(0) / total.mean(0).clamp(min=1e-300)
    residual = (head - share * total) / total.mean(0).clamp(min=1e-300)
    return (residual.std(0) / len(sampled) ** 0.5).cpu().numpy()
