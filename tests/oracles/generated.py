"""Networks and trials drawn by hypothesis, and properties in both tiers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kpflow_sklearn import linearize
from kpflow_sklearn.cells import CELL_NAMES
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.operators import Linearization

FEW, MANY = 15, 400


def both_tiers(**strategies):
    """Run a property on a few cases in the fast tier and on many in the slow one."""

    def decorate(check):
        def test(n_cases):
            options = {"max_examples": n_cases, "deadline": None, "derandomize": True}
            quiet = {"database": None, "suppress_health_check": list(HealthCheck)}
            settings(**options, **quiet)(given(**strategies)(check))()

        cases = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
        named = pytest.mark.parametrize("n_cases", cases)(test)
        named.__name__, named.__doc__ = check.__name__, check.__doc__
        return named

    return decorate


@st.composite
def linearizations(draw) -> Linearization:
    """Draw a network of any cell and shape, on trials of any length, scale and mask."""
    n_trials, n_timesteps = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    n_features, hidden_size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    network = build_network(
        draw(st.sampled_from(CELL_NAMES)),
        n_features,
        draw(st.integers(1, 3)),
        hidden_size=hidden_size,
        n_layers=draw(st.integers(1, 2)),
        init_scale=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        recurrent_init=draw(st.sampled_from(["normal", "torch"])),
        alpha=draw(st.sampled_from([0.1, 0.5, 1.0])),
        learn_initial_state=draw(st.booleans()),
        dtype=torch.float64,
        seed=draw(st.integers(0, 1000)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    with torch.no_grad():
        z0 = draw(st.sampled_from([0.0, 0.7])) * rng.standard_normal(network.n_states)
        network.initial_state.copy_(torch.as_tensor(z0))
    X = draw(st.sampled_from([0.0, 1e-6, 1.0, 30.0])) * rng.standard_normal(
        (n_trials, n_timesteps, n_features)
    )
    mask = None
    if draw(st.booleans()):
        mask = np.arange(n_timesteps) < rng.integers(1, n_timesteps + 1, n_trials)[:, None]
    return linearize(network, X, mask)


def direction(lin: Linearization, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(lin.states.shape, generator=generator, dtype=torch.float64)
    return q if lin.mask is None else q * lin.mask[..., None]
