"""Counts of P's eigenvalues and the ranks that follow, against dense and 50-digit arithmetic."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.spectra._counts import count_above, counted_rank
from tests.oracles.cases import IDS, solve
from tests.oracles.spectrum_checks import count_leading, dense_gram, descending_eigenvalues

SHIFTS = np.array([0.2, 0.5, 0.9, 0.999, 1 - 1e-6, 1.0, 1 + 1e-6, 1.5, 1.999, 2.0, 2.5, 5.0, 20.0])


def network(cell: str, gain: float, n_units: int, shape: tuple, seed: int) -> Linearization:
    """Return an untrained network linearized on white inputs."""
    options = {"n_layers": 1, "recurrent_init": "normal", "alpha": 1.0, "seed": seed}
    options |= {"learn_initial_state": False, "dtype": torch.float64}
    built = build_network(cell, 3, 2, hidden_size=n_units, init_scale=gain, **options)
    return linearize(built, np.random.default_rng(seed).standard_normal((*shape, 3)))


def eigenvalues_of(name: str) -> np.ndarray:
    """Return the eigenvalues of PP* on the valid steps of a case."""
    values = descending_eigenvalues(dense_gram(solve(name).dense, "P"))
    return values[values > 1e-6]  # Steps that are not valid have none.


@pytest.mark.parametrize("name", IDS)
def test_counts_match_dense(name):
    values = eigenvalues_of(name)
    expected = [(values > (1 + 1e-6 if shift == 1 else shift)).sum() for shift in SHIFTS]
    P = solve(name).linearization.P
    assert count_above(P, SHIFTS).tolist() == expected
    np.testing.assert_array_equal(count_above(P, SHIFTS, memory=1), expected)


@pytest.mark.parametrize("name", IDS)
def test_bounds_hold_and_the_rank_is_near(name):
    values = eigenvalues_of(name)
    for threshold in (0.5, 0.8, 0.95, 0.99):
        rank = counted_rank(solve(name).linearization.P, threshold, values.sum())
        expected = count_leading(values, threshold - 1e-12)
        if rank.bounds is None:
            assert rank.value == expected and rank.std_error == 0, threshold
        else:
            assert rank.bounds[0] <= expected <= rank.bounds[1], threshold
            assert abs(rank.value - expected) <= max(1, 1.96 * rank.std_error), threshold


def count_in_fifty_digits(jacobians: np.ndarray, shift: float) -> int:
    """Return how many eigenvalues of PP* lie above a shift, for one trial of one layer.

    By the inertia of (P^-1)* P^-1 - 1/shift: elimination within its band, without pivoting.
    """
    n_timesteps, n_units = len(jacobians), jacobians.shape[-1]
    n = n_timesteps * n_units
    band = np.zeros((n, n))
    for t in range(n_timesteps):
        block = slice(t * n_units, (t + 1) * n_units)
        band[block, block] = np.eye(n_units)
        if t:
            band[block, block.start - n_units : block.start] = -jacobians[t]
    with mpmath.workdps(50):
        exact = np.frompyfunc(mpmath.mpf, 1, 1)
        rows = exact(band)
        matrix = np.full((n, n), mpmath.mpf(0), dtype=object)
        for t in range(n_timesteps):
            block = slice(t * n_units, (t + 1) * n_units)
            near = slice(max(0, block.start - n_units), block.stop)
            matrix[near, near] += rows[block, near].T @ rows[block, near]
        for i in range(n):
            matrix[i, i] -= 1 / mpmath.mpf(shift)
        negative = 0
        for i in range(n):
            pivot = matrix[i, i]
            negative += pivot < 0
            rest = slice(i + 1, min(n, i + 2 * n_units))
            matrix[rest, rest] -= np.outer(matrix[rest, i], matrix[i, rest] / pivot)
    return negative


@pytest.mark.parametrize(
    "gain, n_units, n_timesteps",
    [(2.5, 5, 20), pytest.param(2.0, 8, 90, marks=pytest.mark.slow)]
    + [pytest.param(3.0, 8, 90, marks=pytest.mark.slow)],
)
def test_counts_at_high_gain_match_fifty_digits(gain, n_units, n_timesteps):
    lin = network("tanh", gain, n_units, (1, n_timesteps), seed=0)
    jacobians = np.stack([lin.tangent.layers[0].state_matrix(t)[0] for t in range(n_timesteps)])
    largest = float(np.linalg.norm(lin.P.to_dense().numpy(), 2)) ** 2
    shifts = np.r_[0.1, 0.5, 0.99, 1.01, 1.9, 2.1, np.geomspace(3, largest, 6)[:-1], largest * 1.1]
    expected = [count_in_fifty_digits(jacobians, shift) for shift in shifts]
    assert count_above(lin.P, shifts).tolist() == expected
    assert expected[-1] == 0 and expected[-2] > 0
