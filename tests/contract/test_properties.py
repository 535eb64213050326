"""Identities that hold for every network, trial and mask, over generated cases.

The fast tier tries a few of each, the slow one (``-m slow``) 400.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from kpflow_sklearn.datasets import make_flip_flop, make_memory_pro, make_multitask
from kpflow_sklearn.networks import Objective, Targets
from kpflow_sklearn.spectra import OperatorSpectra
from tests.oracles.generated import both_tiers, direction, linearizations

AXES = ("all", "trial", "time", "hidden")


def assert_close(a: float, b: float, size: float) -> None:
    assert abs(a - b) <= 1e-10 * max(size, abs(a), abs(b)) + 1e-300


@both_tiers(lin=linearizations(), seed=st.integers(0, 100))
def test_adjoints_and_inverse(lin, seed):
    p, q = direction(lin, seed), direction(lin, seed + 1000)
    for op in (lin.K, lin.P, lin.PKP):
        forward, backward = op @ q, op.T @ p
        size = float(p.norm() * forward.norm())
        assert_close(float((p * forward).sum()), float((backward * q).sum()), size)
    again = lin.P.inverse() @ (lin.P @ q)
    scale = float((lin.P @ q).abs().max()) * max(1.0, float(lin.states.abs().max()))
    assert float((again - q).abs().max()) <= 1e-9 * max(scale, 1.0)


@both_tiers(lin=linearizations(), seed=st.integers(0, 100))
def test_products_are_linear_and_keep_their_argument(lin, seed):
    p, q = direction(lin, seed), direction(lin, seed + 1000)
    before = q.clone()
    for op in (lin.K, lin.P, lin.P.T, lin.PKP):
        whole, parts = op @ (2 * p - 3 * q), 2 * (op @ p) - 3 * (op @ q)
        assert float((whole - parts).abs().max()) <= 1e-12 * max(1.0, float(parts.abs().max()))
        stacked = op @ torch.stack([p, q])
        assert torch.allclose(stacked[1], op @ q, rtol=1e-12, atol=1e-300)
    assert torch.equal(q, before)


@both_tiers(lin=linearizations(), seed=st.integers(0, 100))
def test_the_gradient_is_the_operators(lin, seed):
    """grad_theta L = J_theta* P* Err, against automatic differentiation."""
    rng, network = np.random.default_rng(seed), lin.network
    shape = (*lin.states.shape[:2], network.n_outputs)
    targets = Targets(rng.standard_normal(shape), rng.uniform(0, 2, shape[:2]))
    objective = Objective("mse")
    error = objective.error(network, lin.states, targets, lin.mask)
    gradients = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ error))
    named = {k: p for k, p in network.recurrent.named_parameters() if p.requires_grad}
    if network.learn_initial_state:
        named["initial_state"] = network.initial_state
    loss = objective.value(network, network.states(lin.X), targets, lin.mask)
    slopes = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    size = max(float(s.abs().max()) for s in slopes if s is not None)
    for (name, p), slope in zip(named.items(), slopes, strict=True):
        expected = torch.zeros_like(p) if slope is None else slope
        assert float((gradients[name] - expected).abs().max()) <= 1e-9 * size + 1e-300


@both_tiers(lin=linearizations(), name=st.sampled_from(["K", "P", "PKP"]))
def test_spectra_agree_on_every_axis(lin, name):
    """One trace on all axes, no negative eigenvalue, 1 <= dimension <= rank's space."""
    spectra = OperatorSpectra(getattr(lin, name), axes=AXES, random_state=0)
    traces = []
    for axis in AXES:
        spectrum = spectra.on(axis)
        values = spectrum.eigenvalues
        assert (values >= 0).all() and (np.diff(values) <= 0).all()
        traces.append(spectrum.trace.value)
        dimension, rank = spectrum.effective_dimension, spectra.rank(axis)
        if traces[-1] > 0:
            assert 1 - 1e-9 <= dimension.value <= len(values) + 1e-9
            assert 1 <= rank.value <= len(values)
        else:
            assert dimension.reason == rank.reason == "the operator is zero"
    np.testing.assert_allclose(traces, traces[0], rtol=1e-9, atol=1e-300)


@both_tiers(lin=linearizations(), seed=st.integers(0, 100))
def test_components_sum_to_K_and_trials_to_P(lin, seed):
    q = direction(lin, seed)
    whole = lin.K @ q
    total = sum(part @ q for part in lin.K.components.values())
    scale = float(whole.abs().max())
    assert float((total - whole).abs().max()) <= 1e-11 * scale + 1e-300
    for b in range(len(q)):
        part = lin.P.on_trials(slice(b, b + 1)) @ q[b : b + 1]
        assert torch.allclose(part, (lin.P @ q)[b : b + 1], rtol=1e-12, atol=1e-300)


@both_tiers(
    n_trials=st.integers(1, 9), steps=st.integers(1, 6), gap=st.integers(0, 5),
    noise=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_datasets_are_finite_seeded_and_of_the_shapes_they_say(n_trials, steps, gap, noise, seed):
    options = {"noise_std": noise, "random_state": seed}
    periods = {"stimulus": steps, "memory": gap, "response": steps}
    makers = [
        lambda: make_memory_pro(n_trials, **periods, **options),
        lambda: make_multitask(n_trials, context=gap, **periods, **options),
        lambda: make_flip_flop(n_trials, n_bits=steps, n_timesteps=steps + gap, **options),
    ]
    for make in makers:
        (X, y, *_), again = make(), make()
        assert X.shape[:2] == y.shape[:2] and X.ndim == y.ndim == 3
        assert np.isfinite(X).all() and np.isfinite(y).all() and abs(y).max() <= 1
        for a, b in zip((X, y), again[:2], strict=True):
            np.testing.assert_array_equal(a, b)
