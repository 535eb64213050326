"""Leading eigenfunctions of an operator's Gram."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._random import draw_seed
from kpflow_sklearn.gramians import ROUNDING, gram_factor, map_blocks, unit_modes
from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.traces import half_samples


def leading_modes(
    op: LinearOperator, k: int, *, random_state: int | np.random.RandomState | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading eigenvalues and eigenfunctions of an operator's natural Gram.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    k : int
        How many; fewer if the Gram has fewer.
    random_state : int, RandomState or None
        Seed of the subspace iteration, where the structure gives no exact answer.

    Returns
    -------
    eigenvalues : ndarray of shape (k,)
        In descending order.
    eigenfunctions : ndarray of shape (k, n_trials, n_timesteps, n_states)
        Orthonormal; the entry of largest magnitude is positive.
    """
    if map_blocks(op) is not None:
        values, functions = unit_modes(op, k)  # type: ignore[arg-type]
    else:
        factor, scale = gram_factor(op)
        found = half_samples(
            factor,
            scale,
            n_modes=k + 15,
            n_probes=1,
            seed=draw_seed(random_state),
            n_iterations=6,
        )
        flat = found.modes.flatten(1).mT
        if not flat.isfinite().all():  # Products of Jacobians that overflow have no modes.
            return np.empty(0), np.empty((0, *op.out_shape))
        left, singular, _ = torch.linalg.svd(flat, full_matrices=False)
        # Where the Gram has fewer directions than asked for, the rest is rounding.
        keep = int((singular[:k] > ROUNDING**0.5 * singular.max()).sum())
        values = (singular[:keep].double() ** 2).cpu().numpy()
        functions = left.mT[:keep].reshape(-1, *op.out_shape)
    fixed = fix_signs(functions.flatten(1)).reshape(functions.shape)
    return values, fixed.cpu().numpy()


def fix_signs(vectors: Tensor) -> Tensor:
    """Turn each row so that its entry of largest magnitude is positive (as scikit-learn does)."""
    peaks = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(peaks < 0, -1.0, 1.0).to(vectors.dtype)
