"""Gauss quadrature by Lanczos' recurrence, and the rank of P that it bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra._krylov import Quadrature
from kpflow_sklearn.spectra._lanczos_rank import _rank_left, inverse_rank
from tests.spectra.rank_coverage import THRESHOLDS, Strain, all_eigenvalues, true_rank

P = Strain("P", "tanh", 1.0, 2, 30, 32).build(0)


@cache
def eigenvalues() -> np.ndarray:
    """Return all eigenvalues of PP*, from its matrix."""
    return all_eigenvalues(P)


def quadrature(
    product: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, n_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nodes and weights of a chain that was interrupted."""
    chain = Quadrature(product, start)
    for n in (n_steps // 2, n_steps):
        chain.extend(n)
    return chain.rule()


def problems(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return symmetric matrices (n, size, size) with eigenvalues in [0, 1], and starts."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(square).Q
    matrices = q * torch.linspace(0, 1, size, dtype=torch.float64) ** 3 @ q.mT
    return matrices, torch.randn(n, size, generator=generator, dtype=torch.float64)


def test_moments_are_exact_up_to_twice_the_number_of_nodes():
    matrices, start = problems(3, 20)
    n_steps = 5
    nodes, weights = quadrature(lambda v: (matrices @ v[..., None])[..., 0], start, n_steps)
    assert (nodes.diff() < 0).all()
    q = start / start.norm(dim=1, keepdim=True)
    power = q
    for j in range(2 * n_steps):  # sum_i w_i mu_i^j = q^T M^j q for j < 2 n_steps
        expected = (q * power).sum(1)
        torch.testing.assert_close((weights * nodes**j).sum(1), expected, rtol=1e-12, atol=0)
        power = (matrices @ power[..., None])[..., 0]


def test_a_space_of_few_directions_has_no_further_weight():
    matrices, start = problems(2, 4)
    nodes, weights = quadrature(lambda v: (matrices @ v[..., None])[..., 0], start, 9)
    values, vectors = torch.linalg.eigh(matrices)
    expected = ((vectors.mT @ start[..., None])[..., 0] / start.norm(dim=1)[:, None]) ** 2
    for node, weight, value, share in zip(nodes, weights, values, expected, strict=True):
        near = (node[:, None] - value).abs() < 1e-9
        torch.testing.assert_close((weight[:, None] * near).sum(0), share, rtol=1e-9, atol=1e-12)


def test_an_overflow_has_no_nodes():
    nodes, weights = quadrature(lambda v: v * torch.inf, torch.ones(2, 3), 2)
    assert nodes.isnan().all() and weights.isnan().all()


def test_the_error_of_a_rank_is_that_of_its_starts():
    rng = np.random.default_rng(0)

    def drawn(n_starts: int) -> tuple[np.ndarray, np.ndarray]:
        """Return eigenvalues of 5 trials, 4 nodes each, and counts that sum to 100 a trial."""
        values = np.sort(rng.lognormal(0.0, 0.3, (5, n_starts, 4)) + np.arange(4.0), axis=2)
        return values, 100 * rng.dirichlet([20.0] * 4, (5, n_starts))

    measured = [_rank_left(*drawn(4), 300.0) for _ in range(400)]
    ranks, errors = np.array(measured).T
    # Of 400 draws the standard deviation is known to 1 / sqrt(800), within four errors.
    assert np.sqrt((errors**2).mean()) == pytest.approx(ranks.std(ddof=1), rel=0.15)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_bounds_of_the_rank_of_P_hold(threshold):
    values = eigenvalues()
    trace = Estimate(float(values.sum()))
    truth = true_rank(values, threshold)
    wide, narrow = (inverse_rank(P, threshold, trace, tol, 0, 2**29) for tol in (np.inf, 1e-3))
    for rank in (wide, narrow):
        assert rank.bounds[0] <= truth <= rank.bounds[1]
    assert narrow.std_error < wide.std_error


def test_chunks_of_trials_change_nothing_but_rounding():
    trace = Estimate(float(eigenvalues().sum()))
    whole, cut = (inverse_rank(P, 0.95, trace, 0.02, 0, memory) for memory in (2**29, 1))
    np.testing.assert_allclose(cut.bounds, whole.bounds, rtol=1e-3)
