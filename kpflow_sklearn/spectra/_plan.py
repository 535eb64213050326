"""Estimate what the routes will cost, before any of them is taken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kpflow_sklearn.operators import FlowPropagator
from kpflow_sklearn.spectra._counts import N_SHIFTS
from kpflow_sklearn.spectra._routes import (
    CHEAP,
    COUNT_BUDGET,
    KRYLOV_BUDGET,
    Spectra,
    choose_route,
    gramian_cost,
    moment_cost,
    product_cost,
    sampling_cost,
    trial_cost,
    unit_cost,
)

#: Typical ratios of the vectors drawn to those drawn at first, and of the counts to the most.
_MORE_DRAWN, _LESS_COUNTED = 2.0, 0.5
#: Vectors of a Krylov space that holds most of the trace, typically.
_N_KRYLOV = 300


class Operations(NamedTuple):
    """Numbers of floating-point operations.

    Attributes
    ----------
    products : float
        Those in products of the operator with vectors.
    matrices : float
        Those in products and decompositions of matrices.
    """

    products: float = 0.0
    matrices: float = 0.0

    def plus(self, other: Operations) -> Operations:
        """Return the sum."""
        return Operations(self.products + other.products, self.matrices + other.matrices)


def planned_operations(spectra: Spectra, axes: Iterable[str]) -> Operations:
    """Return the operations of an operator's spectra and ranks, right within a small factor.

    Parameters
    ----------
    spectra : OperatorSpectra
        The operator and the options; no spectrum is computed.
    axes : iterable of {"all", "trial", "time", "hidden"}
        The axes to be measured.

    Returns
    -------
    Operations
        Their numbers.
    """
    names = {axis: choose_route(spectra, axis).name for axis in axes}
    total = Operations()
    if "sketch" in names.values():  # All axes share the sketch, and the recursions of P.
        total = total.plus(_of_sketch(spectra))
    if "gramians" in names.values():
        total = total.plus(Operations(matrices=gramian_cost(spectra.op)))  # type: ignore[arg-type]
    for axis, name in names.items():
        total = total.plus(_of_axis(spectra, axis, name))
    if names.get("all") in ("sketch", "gramians"):
        total = total.plus(_of_rank(spectra))
    return total


def _of_sketch(spectra: Spectra) -> Operations:
    if isinstance(spectra.op, FlowPropagator):
        drawn = sampling_cost(spectra.op, spectra.n_modes, spectra.first_probes)
        return Operations(_MORE_DRAWN * drawn)
    n_products = _MORE_DRAWN * (spectra.n_modes + spectra.first_probes)
    return Operations(n_products * product_cost(spectra.op))


def _of_axis(spectra: Spectra, axis: str, route: str) -> Operations:
    op = spectra.op
    if route == "units":
        return Operations(matrices=unit_cost(op))
    if route == "compression":
        return Operations(matrices=CHEAP + moment_cost(op))
    if route == "trials":
        return Operations(matrices=trial_cost(op, axis))  # type: ignore[arg-type]
    if route == "matrix":  # One product per entry, in large blocks, and all eigenvalues.
        n_entries = float(op.shape[0])
        eigenvalues = 4 * n_entries**3 if axis == "all" else 0.0
        return Operations(matrices=n_entries * product_cost(op) + eigenvalues)
    if route == "average":
        return Operations(2.0 * (op.out_shape[1] + op.out_shape[2]) * product_cost(op))
    return Operations()


def _of_rank(spectra: Spectra) -> Operations:
    """Return the operations of the rank on the whole space (see `rank_on_whole_space`)."""
    op = spectra.op
    if isinstance(op, FlowPropagator):
        counted = N_SHIFTS * gramian_cost(op)
        if counted > COUNT_BUDGET and spectra.method != "exact":
            return Operations(matrices=KRYLOV_BUDGET)
        return Operations(matrices=_LESS_COUNTED * counted)
    tangent = getattr(getattr(op, "P", op), "tangent", None)
    size = float(min(op.shape if tangent is None else (op.shape[0], tangent.n_weights)))
    d = min(size, _N_KRYLOV)
    products, orthogonal = d * product_cost(op), 4 * size * d**2
    share = min(1.0, KRYLOV_BUDGET / (products + orthogonal))
    if spectra.method == "exact":
        share = 1.0
    return Operations(share * products, share * orthogonal)
