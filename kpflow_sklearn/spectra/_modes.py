"""Leading eigenfunctions of an operator's Gram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.operators import LinearOperator, ParameterOperator
from kpflow_sklearn.spectra._gramians import DENSE_LIMIT, dense_gram, gram_factor
from kpflow_sklearn.spectra._half_factor import HalfFactor, analysis_allowance
from kpflow_sklearn.spectra._krylov import Krylov
from kpflow_sklearn.spectra._units import ROUNDING, map_blocks, unit_modes, without_rounding

# Extra directions make the iteration on few leading ones converge faster.
_OVERSAMPLING = 8
_MAX_DIMENSION = 400


class Modes(NamedTuple):
    """The leading eigenpairs of a Gram.

    Attributes
    ----------
    eigenvalues : ndarray of shape (k,)
        In descending order.
    eigenfunctions : ndarray of shape (k, n_trials, n_timesteps, n_states)
        Orthonormal; the entry of largest magnitude is positive.
    residuals : ndarray of shape (k,)
        |G v - lambda v| / lambda, measured; 0 where the matrix was diagonalised.
    """

    eigenvalues: np.ndarray
    eigenfunctions: np.ndarray
    residuals: np.ndarray


def leading_modes(
    op: LinearOperator,
    k: int,
    *,
    tolerance: float = 1e-3,
    memory_limit: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Modes:
    """Return the leading eigenvalues and eigenfunctions of an operator's natural Gram.

    They are exact for a K made of weight maps (each on one unit) and for small operators.
    Otherwise they come from block Lanczos iteration on A^T A, whose arguments are parameters for
    PKP* and single trials for P.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    k : int
        Number of eigenpairs; fewer are returned if the Gram has fewer.
    tolerance : float, default=1e-3
        The relative residual at which the iteration ends.
    memory_limit : int, optional
        Bytes to use beyond what the operator holds; default a quarter of what is free.
    random_state : int, RandomState or None
        Seed of the iteration's first vectors.

    Returns
    -------
    Modes
        Eigenvalues, eigenfunctions and their residuals.
    """
    memory = analysis_allowance(op, memory_limit)
    if map_blocks(op) is not None:
        return memory.run(lambda: _unit_modes(op, k, memory.amount))  # type: ignore[arg-type]
    if op.shape[0] <= DENSE_LIMIT:
        return _dense_modes(op, k)
    seed = draw_seed(random_state)
    return memory.run(lambda: _krylov_modes(op, k, tolerance, seed, memory.amount))


def _unit_modes(op: ParameterOperator, k: int, memory: int) -> Modes:
    values, functions = unit_modes(without_rounding(op), k, memory)
    return _modes(values, functions.flatten(1), np.zeros(len(values)), op)


def _modes(
    values: np.ndarray,
    functions: Tensor,
    errors: np.ndarray,
    op: LinearOperator,
    rounding: float = ROUNDING,
) -> Modes:
    """Return the modes with fixed signs, without those at the level of rounding."""
    # If the Gram has fewer directions than requested, the rest is rounding.
    keep = values > rounding * values.max(initial=0.0)
    functions = functions if keep.all() else functions[torch.as_tensor(keep)]
    functions = fix_signs(functions).reshape(-1, *op.out_shape)
    return Modes(values[keep], functions.cpu().numpy(), errors[keep])


def _dense_modes(op: LinearOperator, k: int) -> Modes:
    gram = dense_gram(op, "all", "natural")
    if not gram.isfinite().all():
        return _modes(np.empty(0), gram[:0], np.empty(0), op)
    values, columns = torch.linalg.eigh(gram)
    values, functions = values.flip(0)[:k], columns.flip(1).mT[:k].to(op.dtype)
    return _modes(values.cpu().numpy(), functions, np.zeros(len(values)), op)


def _krylov_modes(op: LinearOperator, k: int, tolerance: float, seed: int, memory: int) -> Modes:
    factor, scale = gram_factor(op)
    whole = HalfFactor(factor, scale**0.5, seed)
    chunk = max(1, memory // whole.bytes_per_trial(k + _OVERSAMPLING))
    magnitude = whole.magnitude(chunk)
    if not 0 < magnitude < np.inf:  # A zero operator, or overflow.
        return _modes(np.empty(0), torch.empty(0, op.shape[0]), np.empty(0), op)
    whole = whole.divided(magnitude)
    values, places, vectors = _leading_vectors(whole, k, tolerance, chunk, memory)
    functions = torch.zeros(len(values), *op.out_shape, dtype=op.dtype, device=op.device)
    if whole.separable:  # Each eigenfunction lives on one trial.
        residuals = np.empty(len(values))
        for i, place in enumerate(places):
            one, pair = whole.only(place), slice(i, i + 1)
            out = functions[pair, place : place + 1]
            residuals[pair] = _fill(one, values[pair], vectors[pair, None], 1, out)
    else:
        residuals = _fill(whole, values, vectors[:, None], chunk, functions)
    eigenvalues = values.cpu().numpy() * magnitude**2
    # M is applied in the operator's precision, which limits its eigenvalues.
    rounding = max(ROUNDING, 10 * torch.finfo(op.dtype).eps)
    return _modes(eigenvalues, functions.flatten(1), residuals, op, rounding)


def _fill(half: HalfFactor, values: Tensor, v: Tensor, chunk: int, out: Tensor) -> np.ndarray:
    """Write f = A v / sqrt(value) to ``out`` (k, B, T, H); return |A A^T f - value f| / value."""
    scale = values.to(out.dtype)[:, None, None, None]
    pulled: Tensor | float = 0.0
    start = 0
    for part, steps in half.rows(v, chunk):
        trials = slice(start, start + steps.shape[2])
        torch.div(steps.movedim(0, 2), scale.sqrt(), out=out[:, trials])
        pulled = pulled + half.blocks(half.pull_back(part, steps))
        start = trials.stop
    pulled = pulled / scale[..., 0].sqrt()
    square, start = torch.zeros_like(values), 0
    for _, steps in half.rows(pulled, chunk):
        trials = slice(start, start + steps.shape[2])
        rest = steps.movedim(0, 2).sub_(scale * out[:, trials])
        square += rest.flatten(1).double().square().sum(1)
        start = trials.stop
    return (square.sqrt() / values).cpu().numpy()


def _leading_vectors(
    whole: HalfFactor, k: int, tolerance: float, chunk: int, memory: int
) -> tuple[Tensor, list[int], Tensor]:
    """Return the k largest eigenvalues of M, their blocks, and unit eigenvectors (k, size)."""
    best: list[tuple[float, int, Tensor]] = []
    for half in _problems(whole, memory):
        ritz_values, coefficients, space = _converge(half, k, tolerance, chunk)
        first = half.trials.start - whole.trials.start if half.separable else 0
        for index in ritz_values.flatten().argsort(descending=True)[:k].tolist():
            block, j = divmod(index, ritz_values.shape[1])
            along = coefficients[block, :, j].to(whole.factor.dtype)
            v = along @ space.basis[block, : len(along)]
            best.append((float(ritz_values[block, j]), first + block, v / v.norm()))
        best = sorted(best, key=lambda pair: -pair[0])[:k]
    values, places, vectors = zip(*best, strict=True)
    found_values = torch.tensor(values, dtype=torch.float64, device=whole.factor.device)
    return found_values, list(places), torch.stack(vectors)


def _problems(whole: HalfFactor, memory: int) -> Iterator[HalfFactor]:
    """Yield M as a whole, or on as many trials as the memory allows Krylov spaces for."""
    if not whole.separable:
        yield whole
        return
    per_trial = whole.bytes_per_trial(1) + 64 * whole.size * whole.factor.dtype.itemsize
    yield from whole.chunks(max(1, memory // per_trial))


def _converge(
    half: HalfFactor, k: int, tolerance: float, chunk: int
) -> tuple[Tensor, Tensor, Krylov]:
    """Return Ritz values (n, m), coefficients and space once the largest k have converged."""
    width = 1 if half.separable else min(k + _OVERSAMPLING, half.size)
    space = Krylov(lambda v: half.gram(v, chunk), half.white(range(width)))
    # From one start, eigenpairs may converge before larger ones appear: two more steps must bring
    # no new one. Of several equal eigenvalues a chain shows no more than its width: two steps from
    # new starts must bring no new one either. With a start for each eigenpair one step is enough.
    confirmed, enough = 0, 1 if width >= k else 4
    while True:
        grew = space.extend()
        values, coefficients, residuals = space.ritz()
        best = values.flatten().argsort(descending=True)[:k]
        lead = values.flatten()[best].clamp(min=1e-300)
        # A residual r of v becomes a residual of up to sqrt(lambda_1 / lambda) r of A v.
        reached = residuals.flatten()[best] * (lead[0] / lead).sqrt() <= tolerance * lead
        confirmed = confirmed + 1 if len(best) == k and bool(reached.all()) else 0
        if not grew or values.shape[1] >= _MAX_DIMENSION or confirmed == enough:
            return values, coefficients, space
        if width < k and confirmed == 2:
            space.restart()


def fix_signs(vectors: Tensor) -> Tensor:
    """Turn each row so that its entry of largest magnitude is positive (as scikit-learn does)."""
    peaks = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(peaks < 0, -1.0, 1.0).to(vectors.dtype)
