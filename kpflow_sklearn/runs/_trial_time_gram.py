"""The Gram of an operator over trials and time steps, which networks of any size share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kpflow_sklearn._common.random import torch_generator
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.spectra import DENSE_LIMIT, dense_gram


@dataclass(frozen=True)
class TrialTimeGram:
    """The Gram tr_H(A A^T) of an operator A, traced over hidden units, in factored form.

    Attributes
    ----------
    factors : Tensor of shape (n_factors, n_trials * n_timesteps, n_columns)
        Matrices Y_i. The Gram is the mean of Y_i Y_i^T, up to a scale. An exact Gram has a single
        factor.
    """

    factors: Tensor

    @property
    def exact(self) -> bool:
        """Whether the Gram is exact rather than estimated."""
        return len(self.factors) == 1


def trial_time_gram(
    lin: Linearization, operator: str, *, exact: bool, n_probes: int, seed: int
) -> TrialTimeGram:
    """Return the Gram of an operator over trials and time steps.

    Parameters
    ----------
    lin : Linearization
        A network on its trials.
    operator : {"K", "P", "PKP", "states"}
        The operator; its Gram is K, PP*, PKP*, or Z Z^T of the states.
    exact : bool
        Whether to form the matrix.
    n_probes : int
        Number of random directions if the Gram is estimated.
    seed : int
        Seed of the random directions, which must be independent between networks.

    Returns
    -------
    TrialTimeGram
        The Gram, with factors in double precision.
    """
    n_trials, n_timesteps, n_states = lin.states.shape
    if operator == "states":
        states = lin.states if lin.mask is None else lin.states * lin.mask[..., None]
        return TrialTimeGram(states.flatten(0, 1).double()[None])
    op = getattr(lin, operator)
    if exact:
        # G (BT, H, BT, H) -> tr_H G (BT, BT) = V diag(values) V^T = Y Y^T.
        rows = n_trials * n_timesteps
        gram = dense_gram(op, "all", "natural").double()
        gram = gram.reshape(rows, n_states, rows, n_states).diagonal(dim1=1, dim2=3).sum(-1)
        values, vectors = torch.linalg.eigh(gram)
        return TrialTimeGram((vectors * values.clamp(min=0).sqrt())[None])
    # K = J J*, PP* and PKP* = (PJ)(PJ)* are of the form A A*. For v ~ N(0, I) the mean of
    # (Av)(Av)^T is A A*, so the mean of Y Y^T is tr_H(A A*), where Y is Av as a matrix (BT, H).
    half = {"K": lin.J_theta, "P": lin.P, "PKP": lin.P @ lin.J_theta}[operator]
    generator = torch_generator(seed)
    pushes = torch.randn((n_probes, *half.in_shape), generator=generator, dtype=torch.float64)
    moved = half @ pushes.to(op.device, op.dtype)
    return TrialTimeGram(moved.flatten(1, 2).double())


def is_small(lin: Linearization) -> bool:
    """Return whether the operators of a linearization are small enough to form as matrices."""
    return lin.states.numel() <= DENSE_LIMIT
