"""Weight Grams of pairs of samples, G_mn = W_l^T D_m D_n W_l, by their traces and norms alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    p = slopes[pairs[:, 0]] * slopes[pairs[:, 1]]
    return GramPairs(p @ gram.diagonal(), torch.einsum("ki,ki->k", p @ gram**2, p))
