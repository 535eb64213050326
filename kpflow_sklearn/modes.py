"""Leading eigenfunctions of an operator's Gram."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import linalg
from torch import Tensor

from kpflow_sklearn._random import draw_seed
from kpflow_sklearn.gramians import (
    DENSE_LIMIT,
    ROUNDING,
    dense_gram,
    gram_factor,
    map_blocks,
    unit_modes,
)
from kpflow_sklearn.operators import LinearOperator


def leading_modes(
    op: LinearOperator,
    k: int,
    *,
    tolerance: float = 1e-4,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading eigenvalues and eigenfunctions of an operator's natural Gram.

    Exact for a K made of weight maps (each on one unit) and for small operators; otherwise by
    implicitly restarted Lanczos iteration (ARPACK).

    Parameters
    ----------
    op : LinearOperator
        The operator.
    k : int
        How many; fewer if the Gram has fewer.
    tolerance : float, default=1e-4
        Largest residual |G v - lambda v| / lambda of the iteration; in float32 at least 1e-3.
    random_state : int, RandomState or None
        Seed of the iteration's first vector.

    Returns
    -------
    eigenvalues : ndarray of shape (k,)
        In descending order.
    eigenfunctions : ndarray of shape (k, n_trials, n_timesteps, n_states)
        Orthonormal; the entry of largest magnitude is positive.
    """
    if map_blocks(op) is not None:
        values, functions = unit_modes(op, k)  # type: ignore[arg-type]
        fixed = fix_signs(functions.flatten(1)).reshape(functions.shape)
        return values, fixed.cpu().numpy()
    if op.shape[0] <= DENSE_LIMIT:
        values, columns = _dense_modes(op, k)
    else:
        values, columns = _lanczos_modes(op, k, tolerance, draw_seed(random_state))
    # Where the Gram has fewer directions than asked for, the rest is rounding.
    keep = values > ROUNDING * values.max(initial=0.0)
    order = np.argsort(-values[keep])
    functions = torch.as_tensor(np.ascontiguousarray(columns.T[keep][order]))
    return values[keep][order], fix_signs(functions).reshape(-1, *op.out_shape).numpy()


def _dense_modes(op: LinearOperator, k: int) -> tuple[np.ndarray, np.ndarray]:
    gram = dense_gram(op, "all", "natural").cpu().numpy()
    if not np.isfinite(gram).all():
        return np.empty(0), np.empty((op.shape[0], 0))
    values, columns = np.linalg.eigh(gram)
    return values[-k:], columns[:, -k:]


def _lanczos_modes(
    op: LinearOperator, k: int, tolerance: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    factor, scale = gram_factor(op)
    matrix = factor.to_scipy()
    gram = linalg.LinearOperator(
        (op.shape[0], op.shape[0]),
        matvec=lambda v: scale * matrix.matvec(matrix.rmatvec(v)),
        dtype=matrix.dtype,
    )
    first = np.random.default_rng(seed).standard_normal(op.shape[0]).astype(matrix.dtype)
    image = gram.matvec(first)
    if not np.isfinite(image).all() or not image.any():  # Overflow, or nothing to find.
        return np.empty(0), np.empty((op.shape[0], 0))
    floor = 1e-3 if matrix.dtype == np.float32 else 0.0
    try:
        return linalg.eigsh(gram, k=k, v0=image, tol=max(tolerance, floor))
    except linalg.ArpackNoConvergence as found:  # Keep those that did converge.
        return found.eigenvalues, found.eigenvectors


def fix_signs(vectors: Tensor) -> Tensor:
    """Turn each row so that its entry of largest magnitude is positive (as scikit-learn does)."""
    peaks = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(peaks < 0, -1.0, 1.0).to(vectors.dtype)
