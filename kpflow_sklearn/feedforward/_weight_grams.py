"""Traces and norms of the weight Grams G_mn = W_l^T D_m D_n W_l of pairs of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from kpflow_sklearn.results import OVERFLOW, Estimate

LEAST_PAIRS = 30  # The spread of fewer drawn pairs does not give a reliable standard error.
# All pairs are measured if neither their number nor the multiplications per layer exceed these.
_MOST_PAIRS, _MOST_WORK = 4.5e6, 1e10
_DRAWN_PAIRS = 10_000
_CHUNK = 2**16  # Pairs of samples whose products of slopes are held at a time.
_UNIT_PAIRS = 4096  # Pairs of units whose products of slopes are held at a time.


@dataclass(frozen=True)
class GramPairs:
    """Traces and norms of the weight Grams of pairs of samples.

    Attributes
    ----------
    trace, square : Tensor of shape (n_pairs,)
        tr G_mn and |G_mn|_F^2.
    """

    trace: Tensor
    square: Tensor

    @property
    def alignment(self) -> Tensor:
        """(tr G / |G|_F)^2, the effective dimension of G if it is positive semidefinite."""
        return self.trace**2 / self.square


def pairwise_grams(weight: Tensor, slopes: Tensor, pairs: Tensor) -> GramPairs:
    """Return the trace and the squared norm of each G_mn = W^T D_m D_n W, without forming it.

    Equations: tr G = p . diag(W W^T) and |G|_F^2 = p^T (W W^T)^(2) p, with p = D_m * D_n and the
    square taken elementwise.

    Parameters
    ----------
    weight : Tensor of shape (n_l, n_{l-1})
        W_l.
    slopes : Tensor of shape (n_samples, n_l)
        D_l, for any elementwise activation.
    pairs : Tensor of int, shape (n_pairs, 2)
        Indices m and n of the samples of each pair.
    """
    gram = weight @ weight.mT
    squared = gram**2
    traces, squares = [], []
    for some in pairs.split(_CHUNK):
        p = slopes[some[:, 0]] * slopes[some[:, 1]]  # (pairs of the chunk, n_l).
        traces.append(p @ gram.diagonal())
        squares.append(((p @ squared) * p).sum(1))
    return GramPairs(torch.cat(traces), torch.cat(squares))


def every_gram(weight: Tensor, slopes: Tensor) -> GramPairs:
    """Return the same as `pairwise_grams` for all pairs m < n of samples, several times faster.

    Equations: tr G = sum_i g_ii D_mi D_ni and |G|_F^2 = sum_ij g_ij^2 (D_mi D_mj) (D_ni D_nj) with
    g = W W^T. Both are products of matrices with one row per sample. The pairs are in the order
    of `choose_pairs`.
    """
    gram = weight @ weight.mT
    i, j = torch.triu_indices(len(gram), len(gram))
    twice = torch.where(i == j, 1.0, 2.0)  # g is symmetric.
    weights = gram[i, j] ** 2 * twice
    square = slopes.new_zeros(len(slopes), len(slopes))
    for some in torch.arange(len(i)).split(_UNIT_PAIRS):
        both = slopes[:, i[some]] * slopes[:, j[some]]  # D_mi D_mj, (n_samples, pairs of units).
        square += (both * weights[some]) @ both.mT
    trace = (slopes * gram.diagonal()) @ slopes.mT
    m, n = torch.triu_indices(len(slopes), len(slopes), 1)
    return GramPairs(trace[m, n], square[m, n])


def choose_pairs(
    n_samples: int, gram_pairs: int | None, seed: int, width: int = 0
) -> tuple[Tensor, bool]:
    """Return pairs of different samples, and whether they are all pairs.

    Parameters
    ----------
    n_samples : int
        Number of samples. A single sample is paired with itself.
    gram_pairs : int or None
        Number of pairs to draw, independently of each other. If there are no more pairs than this,
        all pairs m < n are taken. None takes all pairs unless that is expensive.
    seed : int
        Seed of the draws.
    width : int
        Number of units of the widest layer whose weight Grams are needed; 0 if there is none.

    Returns
    -------
    pairs : Tensor of int, shape (n_pairs, 2)
        Indices m and n of the samples of each pair.
    complete : bool
        Whether these are all pairs.
    """
    n_all = n_samples * (n_samples - 1) // 2
    if n_all == 0:
        return torch.zeros(1, 2, dtype=torch.long), True
    if gram_pairs is None:
        is_cheap = n_all <= _MOST_PAIRS and 0 < n_all * width**2 <= _MOST_WORK
        gram_pairs = n_all if is_cheap else _DRAWN_PAIRS
    if n_all <= gram_pairs:
        return torch.triu_indices(n_samples, n_samples, 1).mT, True
    rng = np.random.default_rng(seed)
    first = rng.integers(n_samples, size=gram_pairs)
    second = (first + rng.integers(1, n_samples, size=gram_pairs)) % n_samples
    return torch.as_tensor(np.stack([first, second], axis=1)), False


def mean_over_pairs(values: Tensor, complete: bool) -> Estimate:
    """Return the mean over all pairs of samples, from the values of all or of drawn pairs.

    Drawn pairs are independent, so the standard error is s / sqrt(n). It is multiplied by
    Student's t / 1.96, so that value +- 1.96 std_error contains the mean over all pairs with a
    probability of 95%. The mean is missing if there are no values, or if the drawn pairs do not
    give a standard error.

    Parameters
    ----------
    values : Tensor of shape (n_pairs,)
        One value per pair for which it is defined.
    complete : bool
        Whether all pairs were measured.
    """
    n, method = len(values), "exact" if complete else "randomized"
    if not n:
        return Estimate.missing("no two samples share an active unit", method)
    mean = float(values.mean())
    if not np.isfinite(mean):
        return Estimate.missing(OVERFLOW, method)
    if complete:
        return Estimate(mean)
    alive = int((values != 0).sum())
    if alive < LEAST_PAIRS:  # A few values among many zeros give no reliable error.
        return Estimate.missing(
            f"only {alive} of the drawn pairs share an active unit, but a standard error needs "
            f"{LEAST_PAIRS}; raise gram_pairs",
            method,
        )
    spread = float(values.std())
    if spread <= 1e-12 * abs(mean):
        return Estimate.missing(
            "the drawn pairs are all alike and give no standard error; raise gram_pairs", method
        )
    error = spread / n**0.5 * float(stdtrit(n - 1, 0.975)) / 1.96
    return Estimate(mean, error, method=method)
