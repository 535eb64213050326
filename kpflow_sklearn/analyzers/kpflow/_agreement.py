"""How far two operators agree, as operators."""

from __future__ import annotations

import numpy as np

from kpflow_sklearn.results import OVERFLOW, ZERO, Estimate
from kpflow_sklearn.spectra import OperatorSpectra, dense_gram, middle_over_norm


def kernel_agreement(kernel: OperatorSpectra, propagator: OperatorSpectra) -> Estimate:
    """Return <PKP*, PP*>_F / (|PKP*|_F |PP*|_F), the agreement of the two as operators.

    1 - this is their misdirection: near 1, gradient descent moves the states where pushes on
    every step would; near 0, the parameters lead elsewhere. Since PKP* = E[y y^T] for y = P
    J_theta w, the product <PKP*, PP*>_F is the mean of |P* y|^2.

    Parameters
    ----------
    kernel, propagator : OperatorSpectra
        Of PKP* and of P, natural Grams.

    Returns
    -------
    Estimate
        The cosine; its standard error contains those of both norms.
    """
    if kernel.route("all") == "matrix":
        a, b = (dense_gram(s.op, "all", "natural") for s in (kernel, propagator))
        if not (a.isfinite().all() and b.isfinite().all()):
            return Estimate.missing(OVERFLOW)
        a, b = (g / g.abs().max().clamp(min=1e-300) for g in (a, b))
        cosine = float((a * b).sum() / (a.norm() * b.norm()))
        return Estimate(cosine) if np.isfinite(cosine) else Estimate.missing(ZERO)
    size = propagator.norm_square()
    if not kernel.sketch.finite or size.reason:
        return Estimate.missing(size.reason or OVERFLOW)
    overlap = middle_over_norm(kernel.sketch)
    if overlap.reason:
        return overlap
    cosine = overlap.value / size.value**0.5
    relative = np.hypot(overlap.std_error / overlap.value, size.std_error / (2 * size.value))
    return Estimate(cosine, float(cosine * relative))
