"""The spectrum of one Gram: eigenvalues, trace, effective dimension, rank, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_real
from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra._moments import Moments, axis_moments, whole_moments, widening
from kpflow_sklearn.spectra._sketches import Sketch

#: Largest residual of a Ritz value, relative to it, at which it is listed as an eigenvalue.
_CONVERGED = 0.01


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of one Gram, all or only the leading ones, and sums over all of them.

    Equations: effective dimension = (sum lambda)^2 / sum lambda^2; rank = least r whose r largest
    eigenvalues reach the threshold of sum lambda, the whole trace.

    Attributes
    ----------
    eigenvalues : ndarray
        In descending order: all non-zero eigenvalues if ``complete``, otherwise the leading ones
        that have converged.
    trace, square : Estimate
        tr G and tr G^2.
    effective_dimension : Estimate
        (tr G)^2 / tr G^2.
    method : {"exact", "randomized"}
        How the eigenvalues were found.
    complete : bool
        Whether ``eigenvalues`` add up to the whole trace.
    residuals : ndarray or None
        Each eigenvalue is within its residual of an eigenvalue of G; None if all are exact up to
        rounding.
    share_std_error : ndarray or None
        Standard errors of the cumulative shares of the trace, if they are estimated.
    shares : ndarray or None
        The cumulative shares of the trace, if they are not those of ``eigenvalues``.
    share_lack : ndarray or None
        By how much the cumulative shares may be too low because eigenvalues have not converged.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn.spectra._spectrum import spectrum_of_gram
    >>> spectrum = spectrum_of_gram(np.eye(4))
    >>> spectrum.trace.value, spectrum.effective_dimension.value
    (4.0, 4.0)
    """

    eigenvalues: np.ndarray
    trace: Estimate
    square: Estimate
    effective_dimension: Estimate
    method: str
    complete: bool
    residuals: np.ndarray | None = None
    share_std_error: np.ndarray | None = None
    shares: np.ndarray | None = None
    share_lack: np.ndarray | None = None

    def rank(self, threshold: float = 0.95) -> Estimate:
        """Return the least r whose r largest eigenvalues reach ``threshold`` of the trace.

        If the shares have standard errors e, that of the rank is chosen so that rank +- 1.96
        std_error covers all ranks that follow from shares +- 1.96 e.

        Parameters
        ----------
        threshold : float, default=0.95
            Share of the whole trace, above 0 and at most 1.

        Returns
        -------
        Estimate
            The rank; missing if the computed eigenvalues do not reach the threshold.

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
            return Estimate.missing(ZERO, self.method)
        # Rounding must not ask for one eigenvalue more than there are.
        goal = threshold - 1e-12
        shares = np.cumsum(self.eigenvalues) / self.trace.value
        if self.complete and len(shares):
            shares = np.cumsum(self.eigenvalues) / self.eigenvalues.sum()
        if self.shares is not None:
            shares = self.shares
        reached = shares[-1] if len(shares) else 0.0
        if not self.complete and self.method == "exact" and self.share_std_error is not None:
            reached -= self.share_std_error[-1]  # The lower bound of this share.
        if reached < goal:
            return Estimate.missing(
                f"the {len(shares)} computed eigenvalues hold {reached:.1%} of the trace, below "
                f"{threshold:.0%}",
                self.method,
            )
        rank = int(np.argmax(shares >= goal)) + 1
        if (
            self.share_lack is not None
            and (shares + self.share_lack)[: rank - 1].max(initial=0.0) >= goal
        ):
            return Estimate.missing(
                f"the first {rank} of {len(shares)} computed eigenvalues reach {threshold:.0%} of "
                "the trace, but so may fewer: they have not converged",
                self.method,
            )
        if self.share_std_error is None:
            return Estimate(float(rank), method=self.method)
        least, most = _rank_range(shares, 1.96 * self.share_std_error, goal)
        # Rounded up, so that 1.96 errors reach the next whole number and do not end just below it.
        error = max(rank - least, most - rank) / 1.96 * (1 + 1e-12)
        # The errors of shares that are not sampled are bounds.
        method = "interval" if self.method == "exact" and error > 0 else self.method
        return Estimate(float(rank), error, method=method)


def _rank_range(shares: np.ndarray, error: np.ndarray, goal: float) -> tuple[int, int]:
    """Return the ranks that follow from the shares plus and minus an error."""
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
        Complete and exact; every number is missing if the matrix is not finite.
    """
    matrix = np.asarray(gram.cpu() if isinstance(gram, Tensor) else gram, dtype=np.float64)
    if not np.isfinite(matrix).all():
        return missing_spectrum(OVERFLOW)
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1].clip(min=0)
    return spectrum_of_eigenvalues(values)


def spectrum_of_eigenvalues(values: np.ndarray) -> Spectrum:
    """Return the spectrum of a Gram from all of its non-zero eigenvalues, in float64."""
    if not np.isfinite(values).all():
        return missing_spectrum(OVERFLOW)
    scale = float(max(values.max(initial=0.0), np.finfo(float).tiny))
    unit = values / scale
    total, square = float(unit.sum()), float((unit**2).sum())
    trace, trace_square = _scaled(Estimate(total), scale, 1), _scaled(Estimate(square), scale, 2)
    moments = (trace, trace_square, exact_ratio(total, square))
    return Spectrum(values, *moments, method="exact", complete=True)


def compressed_spectrum(values: np.ndarray, total: float, square: float) -> Spectrum:
    """Return the spectrum of a Gram from its exact moments and the eigenvalues of a part of it.

    Parameters
    ----------
    values : ndarray
        Eigenvalues of the part, in descending order. Each is at most the corresponding one of G,
        so the cumulative shares are too low by at most the share of the trace that their sum does
        not reach. A rank is missing if they do not reach its threshold.
    total, square : float
        tr G and tr G^2.
    """
    if not np.isfinite([total, square, *values[:1]]).all():
        return missing_spectrum(OVERFLOW)
    least = np.cumsum(values) / total if total > 0 else np.zeros(len(values))
    doubt = max(1 - least[-1], 0.0) / 2 if len(least) else 0.0
    moments = (Estimate(total), Estimate(square), exact_ratio(total, square))
    return Spectrum(
        values,
        *moments,
        method="exact",
        complete=False,
        residuals=np.full(len(values), 2 * doubt * total),
        shares=np.minimum(least + doubt, 1.0),
        share_std_error=np.full(len(values), doubt),
    )


def missing_spectrum(reason: str, method: str = "exact") -> Spectrum:
    """Return a spectrum in which every number is missing, for a reason."""
    nothing = Estimate.missing(reason, method)
    return Spectrum(np.empty(0), nothing, nothing, nothing, method, complete=False)


def exact_ratio(total: float, square: float) -> Estimate:
    """Return the effective dimension from tr G and tr G^2."""
    if not np.isfinite([total, square]).all():
        return Estimate.missing(OVERFLOW)
    return Estimate(total * (total / square)) if square > 0 else Estimate.missing(ZERO)


def _scaled(estimate: Estimate, scale: float, power: int) -> Estimate:
    """Return an estimate times scale**power; missing if that overflows."""
    with np.errstate(over="ignore"):
        factor = np.float64(scale) ** power
        if estimate.reason or not np.isfinite(factor * estimate.value):
            return Estimate.missing(estimate.reason or OVERFLOW, estimate.method)
        value, error = float(factor * estimate.value), float(factor * estimate.std_error)
        return Estimate(value, error, method=estimate.method)


def sampled_spectrum(sketch: Sketch, axis: str) -> Spectrum:
    """Return the spectrum on one axis as estimated from a sketch."""
    if not sketch.finite:
        return missing_spectrum(OVERFLOW, "randomized")
    spectrum = _sampled_whole(sketch) if axis == "all" else _sampled_axis(sketch, axis)
    with np.errstate(over="ignore", invalid="ignore"):
        pairs = (spectrum.eigenvalues, spectrum.residuals)
        values, residuals = np.array(pairs) * np.float64(sketch.magnitude) ** 2
    if not np.isfinite(values).all():  # The eigenvalues overflow, though their ratios do not.
        spectrum, values, residuals = replace(spectrum, complete=False), np.empty(0), np.empty(0)
    return replace(
        spectrum,
        eigenvalues=values,
        residuals=residuals,
        trace=_scaled(spectrum.trace, sketch.magnitude, 2),
        square=_scaled(spectrum.square, sketch.magnitude, 4),
    )


def _sampled_whole(sketch: Sketch) -> Spectrum:
    order = np.argsort(-sketch.mode_values.flatten(), kind="stable")
    values, residuals = (x.flatten()[order] for x in (sketch.mode_values, sketch.mode_residuals))
    moments = whole_moments(sketch)
    # An eigenvalue m outside of the modes obeys m^2 <= E|M w'|^2.
    unseen = max(_outside(sketch, moments.square.std_error), 0.0) ** 0.5
    listed = converged(sketch.mode_values, sketch.mode_residuals, unseen)
    spectrum = replace(_from_moments(moments, listed.values), residuals=listed.residuals)
    if not spectrum.trace.value > 0:
        return spectrum
    relative = spectrum.trace.std_error / spectrum.trace.value
    shares = np.cumsum(values) / spectrum.trace.value
    # M consists of V^T M V, the part outside of V, and M V - V (V^T M V) between the two.
    lack = np.cumsum(residuals) + _unseen(sketch, spectrum.square.std_error, values)
    return replace(
        spectrum,
        shares=shares,
        share_std_error=shares * relative,
        share_lack=lack / spectrum.trace.value,
    )


class Leading(NamedTuple):
    """Eigenvalues that have converged, in descending order, and their residual norms."""

    values: np.ndarray
    residuals: np.ndarray


def converged(values: np.ndarray, residuals: np.ndarray, unseen: float = 0.0) -> Leading:
    """Return the Ritz values of independent blocks that have converged to eigenvalues.

    The values of a block end before the first whose residual exceeds 1% of it. The largest value
    that a block leaves out may lie between values of other blocks, so none below it is listed.

    Parameters
    ----------
    values, residuals : ndarray of shape (n_blocks, m)
        Ritz values of each block in descending order, and their residual norms |M v - value v|.
    unseen : float, default=0.0
        Upper bound on the eigenvalues that the blocks may have missed.

    Returns
    -------
    Leading
        The eigenvalues of all blocks down to the first that has not converged.
    """
    if not values.size:
        return Leading(np.empty(0), np.empty(0))
    listed = np.logical_and.accumulate(residuals <= _CONVERGED * values, axis=1)
    left_out = np.where(listed, -np.inf, values + residuals).max(1, initial=-np.inf)
    # If all values of a block have converged, none that it leaves out exceeds its last one.
    floor = np.where(np.isfinite(left_out), left_out, values[:, -1]).max(initial=unseen)
    chosen = listed & (values >= floor)
    order = np.argsort(-values[chosen], kind="stable")
    return Leading(values[chosen][order], residuals[chosen][order])


def _unseen(sketch: Sketch, error: float, values: np.ndarray) -> np.ndarray:
    """Return by how much sums of leading eigenvalues may exceed those of the modes.

    From one start only one of several equal eigenvalues is seen, and of each trial only its few
    modes. An eigenvalue m outside of the modes adds at most m - v <= m^2 / 4v to a sum that ends
    at v, and the random vectors measure the sum of all such m^2.
    """
    return _outside(sketch, error) / (4 * values.clip(min=1e-300))


def _outside(sketch: Sketch, error: float) -> float:
    """Return a bound of E|M w'|^2, the sum of all squared eigenvalues outside of the modes."""
    return float(sketch.squares.mean()) + 1.96 * error


def _sampled_axis(sketch: Sketch, axis: str) -> Spectrum:
    exact, sampled = sketch.exact[axis].double(), sketch.sampled[axis].double()
    values, vectors = torch.linalg.eigh(exact + sampled.mean(0))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    spectrum = _from_moments(axis_moments(sketch, axis), values.cpu().numpy())
    shares, doubt = _bracketed_shares(exact, sampled, values)
    errors = widening(sketch.inner) * _share_errors(exact, sampled, vectors)
    # No eigenvalue moves further than |G_estimated - G|_F (Weyl), here at 1.96 standard errors.
    spread = sampled.flatten(1).std(0).norm() / len(sampled) ** 0.5
    distance = 1.96 * widening(sketch.inner) * float(spread)
    return replace(
        spectrum,
        complete=True,
        residuals=np.full(len(values), distance),
        share_std_error=np.hypot(errors, doubt),
        shares=shares,
    )


def _from_moments(moments: Moments, values: np.ndarray) -> Spectrum:
    estimates = (moments.trace, moments.square, moments.effective_dimension)
    return Spectrum(values, *estimates, method="randomized", complete=False)


def _share_errors(exact: Tensor, sampled: Tensor, vectors: Tensor) -> np.ndarray:
    """Return the standard errors of the cumulative shares along fixed eigenvectors.

    To first order the error of the eigenvectors does not enter the eigenvalues. So the share of
    the leading r directions is a ratio of sums over probes and has the error of a ratio.
    """
    # v_r^T G_k v_r for every vector k, and v_r^T G_0 v_r of the modes, summed over the first r.
    along = torch.einsum("ir,kij,jr->kr", vectors, sampled, vectors).cumsum(1)
    fixed = torch.einsum("ir,ij,jr->r", vectors, exact, vectors).cumsum(0)
    head = fixed + along
    total = head[:, -1:]
    share = head.mean(0) / total.mean(0).clamp(min=1e-300)
    residual = (head - share * total) / total.mean(0).clamp(min=1e-300)
    return (residual.std(0) / len(sampled) ** 0.5).cpu().numpy()


def _bracketed_shares(
    exact: Tensor, sampled: Tensor, values: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cumulative shares of the trace, and half the width of their bracket.

    Noise spreads the eigenvalues of an averaged Gram, so its leading ones hold too large a share.
    One half of the probes, measured along the eigenvectors of the other half, gives too small a
    share. The true share lies between the two; their middle is returned.
    """
    too_much = values.cumsum(0) / values.sum().clamp(min=1e-300)
    halves = (sampled[::2].mean(0), sampled[1::2].mean(0))
    too_little = torch.zeros_like(too_much)
    for mine, other in (halves, halves[::-1]):
        vectors = torch.linalg.eigh(exact + mine).eigenvectors.flip(1)
        along = torch.einsum("ir,ij,jr->r", vectors, exact + other, vectors).clamp(min=0)
        too_little += along.cumsum(0) / along.sum().clamp(min=1e-300) / 2
    middle, doubt = (too_much + too_little) / 2, (too_much - too_little).abs() / 2
    return middle.clamp(max=1).cpu().numpy(), doubt.cpu().numpy()
