"""How alike the operators of two networks are, whatever their sizes: on trials and steps alone.

The Gram of an operator, traced over the hidden axis, is a matrix over (trial, step) pairs, which
two networks that ran on the same trials share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.random import torch_generator
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.results import ZERO, Estimate
from kpflow_sklearn.spectra import DENSE_LIMIT, dense_gram

OPERATORS = ("K", "P", "PKP")


@dataclass(frozen=True)
class TrialTimeGram:
    """The Gram tr_H of an operator, by a matrix or by random factors.

    Attributes
    ----------
    factors : Tensor of shape (n_factors, n_trials * n_timesteps, n_columns)
        Y_i. The Gram is the mean of Y_i Y_i^T, up to a scale; if exact there is but one.
    """

    factors: Tensor

    @property
    def exact(self) -> bool:
        """Whether the Gram is known, not estimated."""
        return len(self.factors) == 1


def trial_time_gram(
    lin: Linearization, operator: str, *, exact: bool, n_probes: int, seed: int
) -> TrialTimeGram:
    """Return the Gram of an operator on trials and steps.

    Parameters
    ----------
    lin : Linearization
        A network on some trials.
    operator : {"K", "P", "PKP", "states"}
        Whose Gram: K, PP*, PKP*, or Z Z^T of the states.
    exact : bool
        Whether to form the matrix.
    n_probes : int
        Random directions otherwise.
    seed : int
        Of these; independent of those of the other network.

    Returns
    -------
    TrialTimeGram
        With factors in double precision.
    """
    n_trials, n_timesteps, n_states = lin.states.shape
    if operator == "states":
        states = lin.states if lin.mask is None else lin.states * lin.mask[..., None]
        return TrialTimeGram(states.flatten(0, 1).double()[None])
    op = getattr(lin, operator)
    if exact:
        rows = n_trials * n_timesteps
        gram = dense_gram(op, "all", "natural").double()
        gram = gram.reshape(rows, n_states, rows, n_states).diagonal(dim1=1, dim2=3).sum(-1)
        values, vectors = torch.linalg.eigh(gram)
        return TrialTimeGram((vectors * values.clamp(min=0).sqrt())[None])
    # One-sided: K = J J*, PP* and PKP* = (PJ)(PJ)* are means of Y Y^T over random directions.
    half = {"K": lin.J_theta, "P": lin.P, "PKP": lin.P @ lin.J_theta}[operator]
    generator = torch_generator(seed)
    pushes = torch.randn((n_probes, *half.in_shape), generator=generator, dtype=torch.float64)
    moved = half @ pushes.to(op.device, op.dtype)
    return TrialTimeGram(moved.flatten(1, 2).double())


def gram_cosine(a: TrialTimeGram, b: TrialTimeGram) -> Estimate:
    """Return <G_a, G_b> / (|G_a| |G_b|) of two Grams on the same trials and steps.

    Squares are taken from different random factors, and so without bias; the standard error
    is the jackknife's over the factors of both.

    Parameters
    ----------
    a, b : TrialTimeGram
        Of two networks, their random factors independent; or twice the same.

    Returns
    -------
    Estimate
        Within -1 to 1 but for the error of an estimate.
    """
    if a is b:
        return Estimate(1.0) if a.factors.any() else Estimate.missing(ZERO)
    a, b = (TrialTimeGram(g.factors / g.factors.abs().max().clamp(min=1e-300)) for g in (a, b))
    own_a, own_b, cross = _overlaps(a, a), _overlaps(b, b), _overlaps(a, b)
    value = _cosine(cross.mean(), _square(own_a), _square(own_b))
    if not np.isfinite(value):
        return Estimate.missing(ZERO)
    variance = 0.0
    for n, axis in ((len(own_a), 0), (len(own_b), 1)):
        if n > 1:
            left_out = [
                _cosine(
                    np.delete(cross, i, axis).mean(),
                    _square(_without(own_a, i) if axis == 0 else own_a),
                    _square(_without(own_b, i) if axis == 1 else own_b),
                )
                for i in range(n)
            ]
            variance += (n - 1) * float(np.var(left_out))
    return Estimate(value, variance**0.5)


def is_small(lin: Linearization) -> bool:
    """Tell whether the matrices of a linearization's operators are simply formed."""
    return lin.states.numel() <= DENSE_LIMIT


def _overlaps(a: TrialTimeGram, b: TrialTimeGram) -> np.ndarray:
    """Return |Y_i^T Y_j|_F^2 for all factors i of ``a`` and j of ``b``."""
    out = np.empty((len(a.factors), len(b.factors)))
    joined = torch.cat(list(b.factors), dim=1)
    for i, y in enumerate(a.factors):
        out[i] = (y.mT @ joined).square().sum(0).reshape(len(b.factors), -1).sum(1).cpu().numpy()
    return out


def _square(overlaps: np.ndarray) -> float:
    """Return |G|_F^2, from pairs of different factors where there are several."""
    n = len(overlaps)
    if n == 1:
        return float(overlaps[0, 0])
    return float((overlaps.sum() - np.trace(overlaps)) / (n * (n - 1)))


def _without(overlaps: np.ndarray, i: int) -> np.ndarray:
    return np.delete(np.delete(overlaps, i, 0), i, 1)


def _cosine(cross: float, square_a: float, square_b: float) -> float:
    return float(cross / (square_a * square_b) ** 0.5) if square_a * square_b > 0 else np.nan
