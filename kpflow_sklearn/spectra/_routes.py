"""What a route to a spectrum costs, in floating-point operations."""

from __future__ import annotations

from kpflow_sklearn.operators import FlowPropagator, LinearOperator
from kpflow_sklearn.spectra._units import map_blocks


def sampling_cost(op: FlowPropagator, n_modes: int, n_probes: int) -> float:
    """Return the operations of a sketch of P: products of J with each vector."""
    n_trials, n_timesteps, _ = op.in_shape
    products = 3 * n_modes / 4 + 2 * n_probes
    return 2 * n_trials * n_timesteps * products * op.tangent.n_weights


def gramian_cost(op: FlowPropagator) -> float:
    """Return the operations of the two Gramian recursions: five products of H x H a step."""
    n_trials, n_timesteps, n_states = op.in_shape
    return 2 * n_trials * n_timesteps * 5.0 * n_states**3


def trial_cost(op: FlowPropagator, axis: str) -> float:
    """Return the operations of one matrix for each trial."""
    n_trials, n_timesteps, n_states = op.in_shape
    size = n_timesteps * n_states
    product = 2.0 * n_timesteps * op.tangent.n_weights
    reduction = 4.0 * size**2 if axis == "all" else 2.0 * size * n_timesteps
    return n_trials * size * (product + reduction)


def unit_cost(op: LinearOperator) -> float:
    """Return the operations that all unit Grams and their eigenvalues take."""
    blocks = [block for block, _ in map_blocks(op) or []]
    rows = op.out_shape[0] * op.out_shape[1]
    columns = sum(block.n_columns for block in blocks)
    n_units = max((block.n_units for block in blocks), default=0)
    return n_units * columns**2 * (rows + 4.0 * columns)


def moment_cost(op: LinearOperator) -> float:
    """Return the operations of tr K^2 from pairs of steps: few steps, however many columns."""
    blocks = [block for block, _ in map_blocks(op) or []]
    rows = op.out_shape[0] * op.out_shape[1]
    columns = sum(block.n_columns + len(blocks) * block.n_units for block in blocks)
    return float(rows) ** 2 * columns
