"""The spectrum of one Gram: eigenvalues, trace, effective dimension, rank, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_real
from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra._moments import Moments, axis_moments, whole_moments, widening
from kpflow_sklearn.spectra._sketches import Sketch


@dataclass(frozen=True)
class Spectrum:
    """What is known of the eigenvalues of one Gram.

    Equations: effective dimension = (sum lambda)^2 / sum lambda^2; rank = least r whose r largest
    eigenvalues reach the threshold of sum lambda, the whole trace.

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
    shares : ndarray or None
        The cumulated shares of the trace, where they are not those of ``eigenvalues``.
    share_lack : ndarray or None
        By how much the cumulated shares may be too low, as eigenvalues have not converged.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn.spectra._spectrum import spectrum_of_gram
    >>> found = spectrum_of_gram(np.eye(4))
    >>> found.trace.value, found.effective_dimension.value
    (4.0, 4.0)
    """

    eigenvalues: np.ndarray
    trace: Estimate
    square: Estimate
    effective_dimension: Estimate
    method: str
    complete: bool
    share_std_error: np.ndarray | None = None
    shares: np.ndarray | None = None
    share_lack: np.ndarray | None = None

    def rank(self, threshold: float = 0.95) -> Estimate:
        """Return the least r whose r largest eigenvalues reach ``threshold`` of the trace.

        Where the shares carry an error, 1.96 of the rank's reach the ranks that 1.96 of theirs,
        more or less, would give.

        Parameters
        ----------
        threshold : float, default=0.95
            Share of the whole trace, above 0 and at most 1.

        Returns
        -------
        Estimate
            The rank; missing where the known eigenvalues do not reach that far.

        Raises
        ------
        ValueError
            If the threshold is not above 0 and at most 1.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.spectra._spectrum import spectrum_of_gram
        >>> spectrum_of_gram(np.diag([9.0, 0.9, 0.1])).rank(0.95).value
        2.0
        """
        check_real(threshold, "threshold", 0, 1, open_minimum=True)
        if self.trace.reason:
            return self.trace
        if self.trace.value <= 0:
            return Estimate.missing(ZERO)
        # Rounding must not ask for one eigenvalue more than there are.
        goal = threshold - 1e-12
        shares = np.cumsum(self.eigenvalues) / self.trace.value
        reached = shares[-1] if len(shares) else 0.0
        if self.complete and len(shares):
            reached, shares = 1.0, np.cumsum(self.eigenvalues) / self.eigenvalues.sum()
        if reached < goal:
            return Estimate.missing(
                f"the {len(shares)} computed eigenvalues hold {reached:.1%} of the trace, below "
                f"{threshold:.0%}"
            )
        if self.shares is not None:
            shares = self.shares
        rank = int(np.argmax(shares >= goal)) + 1
        if (
            self.share_lack is not None
            and (shares + self.share_lack)[: rank - 1].max(initial=0.0) >= goal
        ):
            return Estimate.missing(
                f"the first {rank} of {len(shares)} computed eigenvalues reach {threshold:.0%} of "
                "the trace, but so may fewer: they have not converged"
            )
        if self.share_std_error is None:
            return Estimate(float(rank))
        least, most = _rank_range(shares, 1.96 * self.share_std_error, goal)
        # Rounded up, so that 1.96 of it reach the whole number and not just below.
        error = max(rank - least, most - rank) / 1.96 * (1 + 1e-12)
        return Estimate(float(rank), error)


def _rank_range(shares: np.ndarray, error: np.ndarray, goal: float) -> tuple[int, int]:
    """Return the ranks that the shares plus and minus an error would give."""
    enough = shares - error >= goal
    low = int(np.argmax(shares + error >= goal)) + 1
    return low, int(np.argmax(enough)) + 1 if enough.any() else len(shares)


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
    scale = float(max(values.max(initial=0.0), np.finfo(float).tiny))
    unit = values / scale
    total, square = float(unit.sum()), float((unit**2).sum())
    trace, trace_square = _scaled(Estimate(total), scale, 1), _scaled(Estimate(square), scale, 2)
    known = (trace, trace_square, exact_ratio(total, square))
    return Spectrum(values, *known, method="exact", complete=True)


def compressed_spectrum(values: np.ndarray, total: float, square: float) -> Spectrum:
    """Return a spectrum of which tr G and tr G^2 are known, and eigenvalues nearly.

    Parameters
    ----------
    values : ndarray
        Eigenvalues of a part of G, in descending order: none is above that of G, and what they
        fall short of the trace bounds how far the cumulated shares may be too low. Ranks beyond
        what they hold are missing.
    total, square : float
        tr G and tr G^2.
    """
    if not np.isfinite([total, square, *values[:1]]).all():
        return missing_spectrum(OVERFLOW, "exact")
    least = np.cumsum(values) / total if total > 0 else np.zeros(len(values))
    doubt = max(1 - least[-1], 0.0) / 2 if len(least) else 0.0
    known = (Estimate(total), Estimate(square), exact_ratio(total, square))
    return Spectrum(
        values,
        *known,
        method="exact",
        complete=False,
        shares=np.minimum(least + doubt, 1.0),
        share_std_error=np.full(len(values), doubt),
    )


def missing_spectrum(reason: str, method: str) -> Spectrum:
    """Return a spectrum of which nothing is known, for a reason."""
    nothing = Estimate.missing(reason)
    return Spectrum(np.empty(0), nothing, nothing, nothing, method, complete=False)


def exact_ratio(total: float, square: float) -> Estimate:
    """Return the effective dimension from tr G and tr G^2."""
    if not np.isfinite([total, square]).all():
        return Estimate.missing(OVERFLOW)
    return Estimate(total * (total / square)) if square > 0 else Estimate.missing(ZERO)


def _scaled(estimate: Estimate, scale: float, power: int) -> Estimate:
    """Return an estimate times scale**power, or say that it is too large for a number."""
    with np.errstate(over="ignore"):
        factor = np.float64(scale) ** power
        if estimate.reason or not np.isfinite(factor * estimate.value):
            return Estimate.missing(estimate.reason or OVERFLOW)
        return Estimate(float(factor * estimate.value), float(factor * estimate.std_error))


def sampled_spectrum(sketch: Sketch, axis: str) -> Spectrum:
    """Return the spectrum on one axis as a sketch shows it."""
    if not sketch.finite:
        return missing_spectrum(OVERFLOW, "randomized")
    found = _sampled_whole(sketch) if axis == "all" else _sampled_axis(sketch, axis)
    with np.errstate(over="ignore", invalid="ignore"):
        values = found.eigenvalues * np.float64(sketch.magnitude) ** 2
    if not np.isfinite(values).all():  # Their ratios are known, they themselves overflow.
        found, values = replace(found, complete=False), np.empty(0)
    return replace(
        found,
        eigenvalues=values,
        trace=_scaled(found.trace, sketch.magnitude, 2),
        square=_scaled(found.square, sketch.magnitude, 4),
    )


def _sampled_whole(sketch: Sketch) -> Spectrum:
    order = np.argsort(-sketch.mode_values, kind="stable")
    values, residuals = sketch.mode_values[order], sketch.mode_residuals[order]
    found = _from_moments(whole_moments(sketch), values)
    if not found.trace.value > 0:
        return found
    relative = found.trace.std_error / found.trace.value
    errors = np.cumsum(values) / found.trace.value * relative
    # M is V^T M V, what is outside of V, and the residuals M V - V (V^T M V) that couple them.
    lack = np.cumsum(residuals) + _unseen(sketch, found.square.std_error, values)
    return replace(found, share_std_error=errors, share_lack=lack / found.trace.value)


def _unseen(sketch: Sketch, error: float, values: np.ndarray) -> np.ndarray:
    """Return by how much sums of leading eigenvalues may exceed those of the modes.

    Copies of an equal eigenvalue are not seen from one start, nor what a trial has beyond its own
    few modes. For each eigenvalue m outside of them, m - v is at most m^2 / 4v, and their squares
    sum to what the random vectors measure there.
    """
    outside = float(sketch.squares.mean()) + 1.96 * error
    return outside / (4 * values.clip(min=1e-300))


def _sampled_axis(sketch: Sketch, axis: str) -> Spectrum:
    known, sampled = sketch.known[axis].double(), sketch.sampled[axis].double()
    values, vectors = torch.linalg.eigh(known + sampled.mean(0))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    found = _from_moments(axis_moments(sketch, axis), values.cpu().numpy())
    shares, doubt = _bracketed_shares(known, sampled, values)
    errors = widening(sketch.inner) * _share_errors(known, sampled, vectors)
    return replace(found, complete=True, share_std_error=np.hypot(errors, doubt), shares=shares)


def _from_moments(moments: Moments, values: np.ndarray) -> Spectrum:
    known = (moments.trace, moments.square, moments.effective_dimension)
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


def _bracketed_shares(
    known: Tensor, sampled: Tensor, values: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cumulated shares of the trace, and how far sampling may have biased them.

    Noise spreads the eigenvalues of an averaged Gram: its leading ones hold too much. Half of the
    probes, measured along the eigenvectors of the other half, hold too little. The truth lies
    between; the middle is returned, and half the distance as its doubt.
    """
    too_much = values.cumsum(0) / values.sum().clamp(min=1e-300)
    halves = (sampled[::2].mean(0), sampled[1::2].mean(0))
    too_little = torch.zeros_like(too_much)
    for mine, other in (halves, halves[::-1]):
        vectors = torch.linalg.eigh(known + mine).eigenvectors.flip(1)
        along = torch.einsum("ir,ij,jr->r", vectors, known + other, vectors).clamp(min=0)
        too_little += along.cumsum(0) / along.sum().clamp(min=1e-300) / 2
    middle, doubt = (too_much + too_little) / 2, (too_much - too_little).abs() / 2
    return middle.clamp(max=1).cpu().numpy(), doubt.cpu().numpy()
