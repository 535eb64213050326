"""The ways to a spectrum, in the order of preference, and what each costs.

A route says when it applies to a Gram on an axis and how it finds the spectrum there. All but the
sketch by random vectors are exact, or carry bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.operators import FlowPropagator, LinearOperator
from kpflow_sklearn.results import OVERFLOW, Estimate
from kpflow_sklearn.spectra._counts import N_SHIFTS, counted_rank
from kpflow_sklearn.spectra._gramians import (
    DENSE_LIMIT,
    dense_gram,
    mean_gram,
    trial_eigenvalues,
    trial_gram,
)
from kpflow_sklearn.spectra._lanczos_rank import inverse_rank, ritz_rank
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._sketches import Sketch
from kpflow_sklearn.spectra._spectrum import (
    Leading,
    Spectrum,
    compressed_spectrum,
    exact_ratio,
    missing_spectrum,
    sampled_spectrum,
    spectrum_of_eigenvalues,
    spectrum_of_gram,
)
from kpflow_sklearn.spectra._units import (
    UnitGrams,
    map_blocks,
    parameter_gram,
    parameter_moments,
    unit_eigenvalues,
)

#: Number of trajectory entries (for P, of one trial) up to which ``method="exact"`` is possible.
EXACT_LIMIT = 8192
#: Random vectors at first, if the user gives no number.
N_PROBES = 30
#: Floating-point operations that are not worth saving by an estimate.
CHEAP = 2e10
#: Floating-point operations allowed for a rank on the whole space: by counts of eigenvalues for
#: P, by Krylov spaces otherwise; no limit if ``method="exact"``.
COUNT_BUDGET, KRYLOV_BUDGET = 7e10, 6e10
#: The ratio of a rank on the whole space to its lower bound (`Sketch.least_rank`), typically.
_ABOVE_LEAST = 2.0
#: Activity left out of K (relative Frobenius norm) if all of its columns would cost too much.
ACTIVITY_TOL = 1e-4


class Spectra(Protocol):
    """What routes read from `OperatorSpectra`."""

    op: LinearOperator
    gram: str
    reduction: str
    method: str
    n_modes: int
    tol: float
    random_state: int | np.random.RandomState | None

    @property
    def first_probes(self) -> int: ...  # noqa: D102

    @property
    def memory(self) -> Allowance: ...  # noqa: D102

    @property
    def compact(self) -> LinearOperator: ...  # noqa: D102

    @property
    def units(self) -> UnitGrams: ...  # noqa: D102

    @property
    def gramians(self) -> tuple[Tensor, Tensor, float]: ...  # noqa: D102

    @property
    def sketch(self) -> Sketch: ...  # noqa: D102

    @property
    def sketcher(self) -> Sketcher: ...  # noqa: D102

    def on(self, axis: str) -> Spectrum: ...  # noqa: D102


@dataclass(frozen=True)
class Route:
    """One way to the spectrum of an operator's Gram on an axis.

    Attributes
    ----------
    name : str
        What `OperatorSpectra.route` returns.
    applies : callable
        Given an operator's spectra and an axis, tells whether the route is possible and
        affordable.
    find : callable
        Given the same, returns the spectrum.
    """

    name: str
    applies: Callable[[Spectra, str], bool]
    find: Callable[[Spectra, str], Spectrum]


def choose_route(spectra: Spectra, axis: str) -> Route:
    """Return the first route that applies, or refuse what ``method="exact"`` cannot do.

    Raises
    ------
    ValueError
        If ``method="exact"`` and the operator is too large for it on that axis.
    """
    route = next(route for route in ROUTES if route.applies(spectra, axis))
    if route is SKETCH and spectra.method == "exact":
        raise ValueError(
            f"method='exact' is limited to {EXACT_LIMIT} trajectory entries, got {_size(spectra)} "
            f"for {spectra.op!r} on axis {axis!r}; analyse fewer trials or steps, or use "
            "method='auto'."
        )
    return route


def _size(spectra: Spectra) -> int:
    """Return the number of trajectory entries that the exact limit counts: for P, of one trial."""
    n_trials, n_timesteps, n_states = spectra.op.out_shape
    per_trial = n_timesteps * n_states
    return per_trial if isinstance(spectra.op, FlowPropagator) else n_trials * per_trial


# ---------------------------------------------------------------------------- when a route applies


def _is_average(spectra: Spectra, axis: str) -> bool:
    return axis != "all" and spectra.reduction == "mean"


def _is_forced_to_sample(spectra: Spectra, axis: str) -> bool:
    return spectra.method == "randomized"


def _has_units(spectra: Spectra, axis: str) -> bool:
    return spectra.gram == "natural" and map_blocks(spectra.op) is not None


def _affords_units(spectra: Spectra, axis: str) -> bool:
    if not _has_units(spectra, axis):
        return False
    return axis != "all" or affords_all_columns(spectra)


def affords_all_columns(spectra: Spectra) -> bool:
    """Tell whether unit Grams are affordable of all activity above the level of rounding."""
    if spectra.method == "exact":
        return True
    return unit_cost(spectra.compact) <= max(CHEAP, moment_cost(spectra.op))


def _is_small(spectra: Spectra, axis: str) -> bool:
    limit = EXACT_LIMIT if spectra.method == "exact" else DENSE_LIMIT
    return spectra.op.shape[0] <= limit


def _affordable(spectra: Spectra) -> float:
    """Return the operations that an exact spectrum of P may take."""
    if spectra.method == "exact":
        return np.inf
    op: FlowPropagator = spectra.op  # type: ignore[assignment]
    return max(CHEAP, sampling_cost(op, spectra.n_modes, spectra.first_probes))


def _affords_trials(spectra: Spectra, axis: str) -> bool:
    op = spectra.op
    if not isinstance(op, FlowPropagator) or axis not in ("all", "time"):
        return False
    n_trials, n_timesteps, n_states = op.out_shape
    return n_timesteps * n_states <= EXACT_LIMIT and trial_cost(op, axis) <= _affordable(spectra)


def _affords_gramians(spectra: Spectra, axis: str) -> bool:
    op = spectra.op
    if not isinstance(op, FlowPropagator) or axis == "time":
        return False
    return gramian_cost(op) <= _affordable(spectra)


# ------------------------------------------------------------------- how it finds the spectrum


def _by_average(spectra: Spectra, axis: str) -> Spectrum:
    return spectrum_of_gram(mean_gram(spectra.op, axis, spectra.gram))


def _by_units(spectra: Spectra, axis: str) -> Spectrum:
    if axis == "all":
        return spectrum_of_eigenvalues(unit_eigenvalues(spectra.units))
    return spectrum_of_gram(parameter_gram(spectra.op, axis, spectra.memory.amount))


def _by_compression(spectra: Spectra, axis: str) -> Spectrum:
    """Return K's spectrum: exact moments, and the eigenvalues of the compressed K."""
    moments = parameter_moments(spectra.op, spectra.memory.amount)
    return compressed_spectrum(unit_eigenvalues(spectra.units), *moments)


def _by_matrix(spectra: Spectra, axis: str) -> Spectrum:
    return spectrum_of_gram(dense_gram(spectra.op, axis, spectra.gram))


def _by_trials(spectra: Spectra, axis: str) -> Spectrum:
    if axis == "all":
        return spectrum_of_eigenvalues(trial_eigenvalues(spectra.op))
    return spectrum_of_gram(trial_gram(spectra.op, axis))


def _by_gramians(spectra: Spectra, axis: str) -> Spectrum:
    hidden, by_trial, square = spectra.gramians
    if axis == "hidden":
        return spectrum_of_gram(hidden)
    if axis == "trial":
        return spectrum_of_eigenvalues(np.sort(by_trial.cpu().numpy())[::-1])
    total = float(by_trial.sum())
    if not np.isfinite([total, square]).all():
        return missing_spectrum(OVERFLOW)
    moments = (Estimate(total), Estimate(square), exact_ratio(total, square))
    return Spectrum(np.empty(0), *moments, method="exact", complete=False)


def _by_sketch(spectra: Spectra, axis: str) -> Spectrum:
    return sampled_spectrum(spectra.sketch, axis)


SKETCH = Route("sketch", lambda spectra, axis: True, _by_sketch)
ROUTES = (
    Route("average", _is_average, _by_average),
    Route("sketch", _is_forced_to_sample, _by_sketch),
    Route("units", _affords_units, _by_units),
    Route("compression", _has_units, _by_compression),
    Route("matrix", _is_small, _by_matrix),
    Route("trials", _affords_trials, _by_trials),
    Route("gramians", _affords_gramians, _by_gramians),
    SKETCH,
)


# ------------------------------------------------------------------- the rank on the whole space


def rank_on_whole_space(spectra: Spectra, threshold: float) -> tuple[Estimate, Leading]:
    """Return the rank on the whole space without computing all eigenvalues.

    The second result holds the eigenvalues that were computed on the way.
    """
    nothing = Leading(np.empty(0), np.empty(0))
    op, memory = spectra.op, spectra.memory.amount
    exact = spectra.method == "exact"
    if isinstance(op, FlowPropagator):
        if exact or N_SHIFTS * gramian_cost(op) <= COUNT_BUDGET:
            return counted_rank(op, threshold, float(spectra.gramians[1].sum()), memory), nothing
        trace = spectra.on("all").trace
        seed = draw_seed(spectra.random_state)
        return inverse_rank(op, threshold, trace, spectra.tol, seed, memory), nothing
    half = spectra.sketcher.half
    most = memory / (2 * half.bytes_of_vector)
    if not exact:
        # d products and the orthogonalisation of d vectors: p d + 4 n d^2 operations
        p, n = product_cost(op), 4.0 * half.n_blocks * half.size
        most = min(most, (np.sqrt(p**2 + 4 * n * KRYLOV_BUDGET) - p) / (2 * n))
        if most < _ABOVE_LEAST * spectra.sketch.least_rank(threshold):
            most = 0
    also = "use method='exact', or " if op.shape[0] <= EXACT_LIMIT else ""
    remedy = f"{also}analyse fewer trials or steps"
    return ritz_rank(spectra.sketcher, threshold, int(most), remedy)


# ------------------------------------------------------------ costs, in floating-point operations


def product_cost(op: LinearOperator) -> float:
    """Return the operations of A^T A v, where A A^T is the Gram of an operator other than P."""
    holder = getattr(op, "P", op)
    tangent = getattr(holder, "tangent", None)
    n_weights = op.shape[1] if tangent is None else tangent.n_weights
    return 8.0 * op.out_shape[0] * op.out_shape[1] * n_weights


def sampling_cost(op: FlowPropagator, n_modes: int, n_probes: int) -> float:
    """Return the operations of a sketch of P: products of J with each vector."""
    n_trials, n_timesteps, _ = op.in_shape
    products = 3 * n_modes / 4 + 2 * n_probes
    return 2 * n_trials * n_timesteps * products * op.tangent.n_weights


def gramian_cost(op: FlowPropagator) -> float:
    """Return the operations of the two Gramian recursions: five H x H products per step."""
    n_trials, n_timesteps, n_states = op.in_shape
    return 2 * n_trials * n_timesteps * 5.0 * n_states**3


def trial_cost(op: FlowPropagator, axis: str) -> float:
    """Return the operations of one dense matrix (T H x T H) per trial."""
    n_trials, n_timesteps, n_states = op.in_shape
    size = n_timesteps * n_states
    product = 2.0 * n_timesteps * op.tangent.n_weights
    reduction = 4.0 * size**2 if axis == "all" else 2.0 * size * n_timesteps
    return n_trials * size * (product + reduction)


def unit_cost(op: LinearOperator) -> float:
    """Return the operations of all unit Grams F_i^T F_i and their eigenvalues."""
    blocks = [block for block, _ in map_blocks(op) or []]
    rows = op.out_shape[0] * op.out_shape[1]
    columns = sum(block.n_columns for block in blocks)
    n_units = max((block.n_units for block in blocks), default=0)
    return n_units * columns**2 * (rows + 4.0 * columns)


def moment_cost(op: LinearOperator) -> float:
    """Return the operations of tr K^2 from pairs of steps (cheap if there are many columns)."""
    blocks = [block for block, _ in map_blocks(op) or []]
    rows = op.out_shape[0] * op.out_shape[1]
    columns = sum(block.n_columns + len(blocks) * block.n_units for block in blocks)
    return float(rows) ** 2 * columns
