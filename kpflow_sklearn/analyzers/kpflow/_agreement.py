"""The agreement of two operators."""

from __future__ import annotations

import numpy as np

from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra import OperatorSpectra, dense_gram, middle_over_norm


def kernel_agreement(kernel: OperatorSpectra, propagator: OperatorSpectra) -> Estimate:
    """Return <PKP*, PP*>_F / (|PKP*|_F |PP*|_F), the agreement of PKP* with PP*.

    Near 1, gradient descent moves the states as if each step could be changed freely; near 0, the
    parameters misdirect the correction. For white w and y = P J_theta w / sqrt(N),
    PKP* = E[y y^T], so that <PKP*, PP*>_F = E[|P* y|^2].

    Parameters
    ----------
    kernel, propagator : OperatorSpectra
        Spectra of PKP* and of P with natural Grams.

    Returns
    -------
    Estimate
        The cosine. Its standard error includes the errors of both norms.
    """
    if kernel.route("all") == "matrix":
        a, b = (dense_gram(s.op, "all", "natural") for s in (kernel, propagator))
        if not (a.isfinite().all() and b.isfinite().all()):
            return Estimate.missing(OVERFLOW)
        # Both are (BTH, BTH); a cosine does not change with scale, but squares could overflow.
        a, b = (g / g.abs().max().clamp(min=1e-300) for g in (a, b))
        cosine = float((a * b).sum() / (a.norm() * b.norm()))
        return Estimate(cosine) if np.isfinite(cosine) else Estimate.missing(ZERO)
    size = propagator.norm_square()  # |PP*|_F^2
    if not kernel.sketch.finite or size.reason:
        return Estimate.missing(size.reason or OVERFLOW)
    # <PKP*, PP*>_F / |PKP*|_F from |P* y|^2 of the random vectors y.
    overlap = middle_over_norm(kernel.sketch)
    if overlap.reason:
        return overlap
    cosine = overlap.value / size.value**0.5
    # Relative errors, added as independent; the root halves that of |PP*|_F^2.
    relative = np.hypot(overlap.std_error / overlap.value, size.std_error / (2 * size.value))
    return Estimate(cosine, float(cosine * relative), method=overlap.method)
