"""Leading eigenfunctions of an operator's Gram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.operators import LinearOperator, ParameterOperator
from kpflow_sklearn.spectra._gramians import DENSE_LIMIT, dense_gram
from kpflow_sklearn.spectra._half_factor import HalfFactor
from kpflow_sklearn.spectra._krylov import Krylov
from kpflow_sklearn.spectra._routes import Spectra
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._units import ROUNDING, UnitGrams, map_blocks, unit_modes

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
        |G v - lambda v| / lambda, measured or bounded; 0 where the Gram was diagonalised.
    """

    eigenvalues: np.ndarray
    eigenfunctions: np.ndarray
    residuals: np.ndarray


def find_modes(spectra: Spectra, k: int, tolerance: float) -> Modes:
    """Return the leading eigenvalues and eigenfunctions of an operator's Gram.

    Parameters
    ----------
    spectra : OperatorSpectra
        The operator and what is known of it.
    k : int
        Number of eigenpairs.
    tolerance : float
        The relative residual at which the iteration ends.

    Returns
    -------
    Modes
        Eigenvalues, eigenfunctions and their residuals.
    """
    op = spectra.op
    if spectra.gram == "natural" and map_blocks(op) is not None:
        return _unit_modes(op, spectra.units, k)  # type: ignore[arg-type]
    if op.shape[0] <= DENSE_LIMIT:
        return _dense_modes(op, k, spectra.gram)
    return _krylov_modes(op, spectra.sketcher, k, tolerance, spectra.memory.amount)


def _unit_modes(op: ParameterOperator, units: UnitGrams, k: int) -> Modes:
    values, functions = unit_modes(units, k)
    # If K' is K with compressed activity, |K v - K' v| <= tr K - tr K' bounds each residual.
    bound = units.trace_left_out / values
    residuals = np.where(bound > torch.finfo(op.dtype).eps, bound, 0.0)
    return _modes(values, functions.flatten(1), residuals, op)


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


def _dense_modes(op: LinearOperator, k: int, gram_name: str) -> Modes:
    gram = dense_gram(op, "all", gram_name)
    if not gram.isfinite().all():
        return _modes(np.empty(0), gram[:0], np.empty(0), op)
    values, columns = torch.linalg.eigh(gram)
    values, functions = values.flip(0)[:k], columns.flip(1).mT[:k].to(op.dtype)
    return _modes(values.cpu().numpy(), functions, np.zeros(len(values)), op)


def _krylov_modes(
    op: LinearOperator, sketcher: Sketcher, k: int, tolerance: float, memory: int
) -> Modes:
    whole = sketcher.half
    nothing = _modes(np.empty(0), torch.empty(0, op.shape[0]), np.empty(0), op)
    if sketcher.overflow:
        return nothing
    values, places, vectors = _leading_vectors(sketcher, k, tolerance, memory)
    if not values[0] > 0:  # A zero operator.
        return nothing
    chunk = max(1, memory // whole.bytes_per_trial(k))
    functions = torch.zeros(len(values), *op.out_shape, dtype=op.dtype, device=op.device)
    if whole.separable:  # Each eigenfunction lives on one trial.
        residuals = np.empty(len(values))
        for i, place in enumerate(places):
            one, pair = whole.only(place), slice(i, i + 1)
            out = functions[pair, place : place + 1]
            residuals[pair] = _fill(one, values[pair], vectors[pair, None], 1, out)
    else:
        residuals = _fill(whole, values, vectors[:, None], chunk, functions)
    eigenvalues = values.cpu().numpy() * sketcher.magnitude**2
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
    sketcher: Sketcher, k: int, tolerance: float, memory: int
) -> tuple[Tensor, list[int], Tensor]:
    """Return the k largest eigenvalues of M, their blocks, and unit eigenvectors (k, size)."""
    whole = sketcher.half
    best: list[tuple[float, int, Tensor]] = []
    for half, space in _problems(sketcher, memory):
        ritz_values, coefficients = _converge(space, k, tolerance)
        first = half.trials.start - whole.trials.start if half.separable else 0
        for index in ritz_values.flatten().argsort(descending=True)[:k].tolist():
            block, j = divmod(index, ritz_values.shape[1])
            along = coefficients[block, :, j].to(whole.factor.dtype)
            v = along @ space.basis[block, : len(along)]
            best.append((float(ritz_values[block, j]), first + block, v / v.norm()))
        best = sorted(best, key=lambda pair: -pair[0])[:k]
    values, places, vectors = zip(*best, strict=True)
    eigenvalues = torch.tensor(values, dtype=torch.float64, device=whole.factor.device)
    return eigenvalues, list(places), torch.stack(vectors)


def _problems(sketcher: Sketcher, memory: int) -> Iterator[tuple[HalfFactor, Krylov]]:
    """Yield M and its Krylov space, on as many trials as the memory allows such spaces for."""
    whole = sketcher.half
    per_trial = whole.bytes_per_trial(1) + 64 * whole.size * whole.factor.dtype.itemsize
    chunk = max(1, memory // per_trial)
    if not whole.separable or chunk >= len(whole.trials):
        yield whole, sketcher.space(whole)
        return
    for part in whole.chunks(chunk):
        yield part, sketcher.space(part)


def _converge(space: Krylov, k: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return Ritz values (n, m) and their coefficients once the largest k have converged."""
    width = space.start.shape[-1]
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
            return values, coefficients
        if width < k and confirmed == 2:
            space.restart()


def fix_signs(vectors: Tensor) -> Tensor:
    """Turn each row so that its entry of largest magnitude is positive (as scikit-learn does)."""
    peaks = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(peaks < 0, -1.0, 1.0).to(vectors.dtype)
