"""Weight Grams of pairs of samples, G_mn = W_l^T D_m D_n W_l, by their traces and norms alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from kpflow_sklearn.results import OVERFLOW, Estimate

LEAST_PAIRS = 30  # Of fewer drawn ones the spread is not known well enough for an error.
# All pairs are measured up to so many, and so many multiplications for one layer.
_MOST_PAIRS, _MOST_WORK = 4.5e6, 1e10
_DRAWN_PAIRS = 10_000
_CHUNK = 2**16  # Pairs whose products of slopes are held at a time.
_UNIT_PAIRS = 4096  # Pairs of units whose products of slopes are held at a time.


@dataclass(frozen=True)
class GramPairs:
    """Numbers of the weight Grams of some pairs of samples.

    Attributes
    ----------
    trace, square : Tensor of shape (n_pairs,)
        tr G_mn and |G_mn|_F^2.
    """

    trace: Tensor
    square: Tensor

    @property
    def alignment(self) -> Tensor:
        """(tr G / |G|_F)^2, the effective dimension where G is positive semidefinite."""
        return self.trace**2 / self.square


def pairwise_grams(weight: Tensor, slopes: Tensor, pairs: Tensor) -> GramPairs:
    """Return trace and squared norm of G_mn = W^T D_m D_n W, without any G.

    Equations: with p = D_m * D_n elementwise, tr G = p . diag(W W^T) and
    |G|_F^2 = p^T (W W^T)^(2) p, the square elementwise.

    Parameters
    ----------
    weight : Tensor of shape (n_l, n_{l-1})
        W_l.
    slopes : Tensor of shape (n_samples, n_l)
        D_l, for any elementwise activation.
    pairs : Tensor of int, shape (n_pairs, 2)
        m and n.

    Returns
    -------
    GramPairs
        One entry a pair.
    """
    gram = weight @ weight.mT
    squared = gram**2
    traces, squares = [], []
    for some in pairs.split(_CHUNK):
        p = slopes[some[:, 0]] * slopes[some[:, 1]]
        traces.append(p @ gram.diagonal())
        squares.append(((p @ squared) * p).sum(1))
    return GramPairs(torch.cat(traces), torch.cat(squares))


def every_gram(weight: Tensor, slopes: Tensor) -> GramPairs:
    """Return what `pairwise_grams` does for all pairs m < n of samples, several times faster.

    Equations: tr G = sum_i g_ii D_mi D_ni and |G|_F^2 = sum_ij g_ij^2 (D_mi D_mj) (D_ni D_nj) with
    g = W W^T: products of matrices, with a row for each sample.

    Parameters
    ----------
    weight, slopes : Tensor
        As in `pairwise_grams`.

    Returns
    -------
    GramPairs
        One entry a pair, in the order of `choose_pairs`.
    """
    gram = weight @ weight.mT
    i, j = torch.triu_indices(len(gram), len(gram))
    twice = torch.where(i == j, 1.0, 2.0)  # g is symmetric.
    weights = gram[i, j] ** 2 * twice
    square = slopes.new_zeros(len(slopes), len(slopes))
    for some in torch.arange(len(i)).split(_UNIT_PAIRS):
        both = slopes[:, i[some]] * slopes[:, j[some]]
        square += (both * weights[some]) @ both.mT
    trace = (slopes * gram.diagonal()) @ slopes.mT
    m, n = torch.triu_indices(len(slopes), len(slopes), 1)
    return GramPairs(trace[m, n], square[m, n])


def choose_pairs(
    n_samples: int, gram_pairs: int | None, seed: int, width: int = 0
) -> tuple[Tensor, bool]:
    """Return pairs m < n of samples, and whether these are all there are.

    Parameters
    ----------
    n_samples : int
        A single sample is paired with itself.
    gram_pairs : int or None
        All pairs are taken if there are no more than this, else so many are drawn, each on its
        own. None takes all unless that is much work.
    seed : int
        Of the draws.
    width : int
        Units of the widest layer whose Grams are asked for; 0 if there is none.

    Returns
    -------
    pairs : Tensor of int, shape (n_pairs, 2)
        m and n.
    complete : bool
        Whether these are all.
    """
    n_all = n_samples * (n_samples - 1) // 2
    if n_all == 0:
        return torch.zeros(1, 2, dtype=torch.long), True
    if gram_pairs is None:
        little = n_all <= _MOST_PAIRS and 0 < n_all * width**2 <= _MOST_WORK
        gram_pairs = n_all if little else _DRAWN_PAIRS
    if n_all <= gram_pairs:
        return torch.triu_indices(n_samples, n_samples, 1).mT, True
    rng = np.random.default_rng(seed)
    first = rng.integers(n_samples, size=gram_pairs)
    second = (first + rng.integers(1, n_samples, size=gram_pairs)) % n_samples
    return torch.as_tensor(np.stack([first, second], axis=1)), False


def mean_over_pairs(values: Tensor, complete: bool) -> Estimate:
    """Return the mean over all pairs of samples, from all or from those that were drawn.

    Drawn pairs are independent, so the standard error is s / sqrt(n), here times Student's
    t / 1.96: value +- 1.96 std_error holds the mean over all pairs in 95 of 100 cases.

    Parameters
    ----------
    values : Tensor of shape (n_pairs,)
        One for each pair that has such a value.
    complete : bool
        Whether all pairs were measured.

    Returns
    -------
    Estimate
        Missing where there are no pairs, or where drawn ones tell no error.
    """
    n = len(values)
    if not n:
        return Estimate.missing("no two samples share an active unit")
    mean = float(values.mean())
    if not np.isfinite(mean):
        return Estimate.missing(OVERFLOW)
    if complete:
        return Estimate(mean)
    alive = int((values != 0).sum())
    if alive < LEAST_PAIRS:  # A mean of few values and many zeros has no reliable error.
        return Estimate.missing(
            f"only {alive} of the drawn pairs share an active unit, fewer than {LEAST_PAIRS} tell "
            "no error; raise gram_pairs"
        )
    spread = float(values.std())
    if spread <= 1e-12 * abs(mean):
        return Estimate.missing(
            "the drawn pairs are all alike and tell no error; raise gram_pairs"
        )
    return Estimate(mean, spread / n**0.5 * float(stdtrit(n - 1, 0.975)) / 1.96)
