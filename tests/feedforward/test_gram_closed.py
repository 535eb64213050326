"""Closed fields against real training, and the attribution of real steps to layers."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from kpflow_sklearn.feedforward._attribution import (
    attribute_step,
    balance,
    conserves_balance,
    gate_flips,
    secant_gates,
)
from kpflow_sklearn.feedforward._closed import closed_system, why_not_closed
from kpflow_sklearn.feedforward._fields import forward_fields
from kpflow_sklearn.feedforward._network import slope
from kpflow_sklearn.feedforward._recognition import recognise_feedforward
from kpflow_sklearn.feedforward._simulation import simulate_fields
from tests.oracles import gram_oracle as oracle


def data(n, n_features, n_outputs=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, n_features, generator=generator).double()
    y = torch.sin(2 * X[:, :1]) + torch.randn(n, n_outputs, generator=generator).double()
    return X, y


def simulate(module, X, y, eta, n_steps, X_new=None, record=None):
    network = recognise_feedforward(copy.deepcopy(module))
    options = {"X_new": X_new, "record": record, "as_column": True}
    return simulate_fields(network, X, y, learning_rate=eta, n_steps=n_steps, **options)


@pytest.mark.parametrize(
    ("n_outputs", "bias", "activation", "n"),
    [(1, True, nn.ReLU, 60), (2, False, nn.ReLU, 12), (1, True, nn.Tanh, 60)],
    ids=["relu", "outputs", "tanh"],
)
def test_one_hidden_layer_is_followed_without_weights(n_outputs, bias, activation, n):
    # Twelve rows are fewer than features, sixty are more: both ways to multiply by Q_0.
    module = oracle.make_mlp((20, 40, n_outputs), bias=bias, activation=activation)
    X, y = data(n, 20, n_outputs)
    X_new, _ = data(7, 20, seed=5)
    eta, n_steps = 0.3, 400
    record = [0, 1, n_steps // 2, n_steps]
    simulation = simulate(module, X, y, eta, n_steps, X_new, record)
    gates, kept = [], {}

    def watch(step):
        """Keep what a real training shows at this step."""
        h = oracle.pre_activations(module, X)[0]
        gates.append(h > 0)
        if step in record:
            with torch.no_grad():
                kept[step] = (module(X), module(X_new), h)

    losses = oracle.descend(module, X, y, eta, n_steps, watch=watch)
    flips = sum(int((old != new).sum()) for old, new in pairwise(gates))
    assert (simulation.n_steps, simulation.stopped) == (n_steps, "")
    assert simulation.recorded == record
    errors = [np.abs(simulation.loss[:-1] - losses).max()]
    outputs = zip(simulation.outputs, simulation.outputs_new, simulation.fields, strict=True)
    for step, (f, f_new, fields) in zip(record, outputs, strict=True):
        for mine, theirs in zip((f, f_new, fields["H_1"]), kept[step], strict=True):
            assert mine.shape == theirs.shape
            errors.append(float(np.abs(mine - theirs.numpy()).max()))
    print(f"{flips} gate flips, largest error {max(errors):.1e}")
    assert max(errors) < 1e-10
    if activation is nn.ReLU:
        assert simulation.flips.sum() == flips > 400


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("lower", [nn.ReLU, nn.Tanh])
def test_two_hidden_layers_are_followed_until_a_top_gate_flips(bias, lower):
    module = oracle.make_mlp((8, 10, 6, 2), bias=bias, seed=3)
    module[1] = lower()
    X, y = data(10, 8, 2)
    X_new, _ = data(3, 8, seed=5)
    eta, n_steps = 5e-4, 300
    simulation = simulate(module, X, y, eta, n_steps, X_new, record=[7])
    top = []

    def watch(step):
        H = oracle.pre_activations(module, torch.cat([X, X_new]))
        with torch.no_grad():
            top.append((H[1] > 0, H[0][:10], module(X), module(X_new)))

    oracle.descend(module, X, y, eta, n_steps, watch=watch)
    flipped = torch.stack([(gates != top[0][0]).any(1) for gates, *_ in top])
    first_flip = int(flipped[:, :10].any(1).nonzero()[0])
    assert 7 < first_flip < n_steps
    assert simulation.n_steps == first_flip - 1
    assert simulation.stopped == f"a gate of the second layer flips in step {first_flip}"
    assert simulation.recorded == [7, first_flip - 1]
    _, h1, f, f_new = top[first_flip - 1]
    np.testing.assert_allclose(simulation.fields[1]["H_1"], h1, atol=1e-10)
    np.testing.assert_allclose(simulation.outputs[1], f, atol=1e-10)
    # A row that is only predicted is followed until one of its gates flips.
    lost = flipped[:first_flip, 10:].cummax(0).values
    np.testing.assert_array_equal(simulation.followed_new, (~lost[1:]).sum(0))
    expected = np.where(lost[-1, :, None], np.nan, f_new)
    np.testing.assert_allclose(simulation.outputs_new[1], expected, atol=1e-10)
    if lower is nn.Tanh and bias:
        assert 0 < lost[-1].sum() < 3


def test_frozen_tensors_stand_still_in_the_simulation():
    module = oracle.make_mlp((8, 10, 6, 1), seed=3)
    module[2].bias.requires_grad_(False)
    module[0].weight.requires_grad_(False)
    X, y = data(10, 8)
    simulation = simulate(module, X, y, 1e-3, 9)
    assert simulation.n_steps == 9
    losses = oracle.descend(module, X, y, 1e-3, 10)
    np.testing.assert_allclose(simulation.loss, losses, rtol=1e-11)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((4, 5, 5, 5, 1), {}, "3 hidden layers.*weight Grams W_l.T D_m D_n W_l"),
        ((4, 5, 5, 1), {"activation": nn.Tanh}, "smooth activation change with every step"),
        ((4, 5, 1), {"train_readout": True}, "the readout trains"),
    ],
)
def test_fields_that_do_not_close_give_the_reason(sizes, options, message):
    network = recognise_feedforward(oracle.make_mlp(sizes, **options))
    assert why_not_closed(network)
    with pytest.raises(ValueError, match=message):
        closed_system(network, torch.zeros(3, 4, dtype=torch.float64), 3)


# ------------------------------------------------------------------------------- attribution


def adam_step(module, X, y, n_steps=5, lr=0.05):
    """Train by Adam in small batches; return the network before and after."""
    before = copy.deepcopy(module)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr)
    for k in range(n_steps):
        optimizer.zero_grad()
        rows = slice(3 * k, 3 * k + 6)
        ((module(X[rows]) - y[rows]) ** 2).mean().backward()
        optimizer.step()
    return recognise_feedforward(before), recognise_feedforward(module)


ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("train_readout", [False, True])
@pytest.mark.parametrize("n_steps", [1, 5, 40])
def test_attribution_adds_up_for_any_step(activation, train_readout, n_steps):
    module = oracle.make_mlp((6, 9, 8, 7, 2), activation=activation, train_readout=train_readout)
    X, y = data(130, 6, 2)
    before, after = adam_step(module, X, y, n_steps)
    shares = attribute_step(before, after, X)
    change = (after(X) - before(X)).detach()
    scale = float(change.abs().max())
    np.testing.assert_allclose(sum(shares.values()), change, atol=1e-12 * scale)
    assert (float(shares["readout"].abs().max()) > 0) is train_readout
    back = attribute_step(after, before, X)
    for name, share in shares.items():
        np.testing.assert_allclose(back[name], -share, atol=1e-13 + 1e-12 * scale)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_attribution_of_a_small_step_is_the_layer_s_kernel(activation):
    module = oracle.make_mlp((6, 9, 8, 1), activation=activation)
    X, y = data(20, 6)
    before = copy.deepcopy(module)
    eta = 1e-7
    oracle.descend(module, X, y, eta, 1)
    shares = attribute_step(recognise_feedforward(before), recognise_feedforward(module), X)
    r = (before(X) - y).detach().flatten()
    for share, K in zip(shares.values(), oracle.layer_kernels(before, X).values(), strict=False):
        expected = -eta / 20 * (K @ r)
        scale = float(expected.abs().max())
        np.testing.assert_allclose(share.flatten(), expected, atol=1e-5 * scale)


def test_attribution_of_one_layer_alone_is_the_whole_change():
    module = oracle.make_mlp((6, 9, 8, 1))
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[2].weight += 0.3 * torch.ones_like(other[2].weight)
    X, _ = data(20, 6)
    shares = attribute_step(recognise_feedforward(module), recognise_feedforward(other), X)
    np.testing.assert_allclose(shares["2"], (other(X) - module(X)).detach(), atol=1e-13)
    assert float(shares["1"].abs().max()) == 0


def test_gate_flips_are_counted():
    module = oracle.make_mlp((6, 9, 8, 1))
    X, y = data(130, 6)
    old = oracle.pre_activations(module, X)
    before, after = adam_step(module, X, y, 20)
    new = oracle.pre_activations(module, X)
    expected = [int(((h > 0) != (h_new > 0)).sum()) for h, h_new in zip(old, new, strict=True)]
    flips = gate_flips(before, forward_fields(before, X), forward_fields(after, X))
    assert list(flips.values()) == expected and min(expected) > 0
    smooth = recognise_feedforward(oracle.make_mlp((6, 9, 1), activation=nn.Tanh))
    fields = forward_fields(smooth, X)
    assert gate_flips(smooth, fields, fields) == {"1": None}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_the_flow_conserves_the_balance(bias):
    # The drift over a fixed time falls in proportion to the step.
    X, y = data(15, 6)
    drifts = []
    for eta in (1e-2, 1e-3):
        module = oracle.make_mlp((6, 9, 8, 1), bias=bias, train_readout=True)
        network = recognise_feedforward(module)
        assert set(conserves_balance(network).values()) == {""}
        start = balance(network)
        oracle.descend(module, X, y, eta, round(0.5 / eta))
        moved = balance(network)
        drifts.append(max(float((moved[k] - start[k]).abs().max()) for k in start))
    assert drifts[1] / drifts[0] == pytest.approx(0.1, rel=0.2)


def test_the_balance_is_not_claimed_if_it_is_not_conserved():
    fixed = recognise_feedforward(oracle.make_mlp((6, 9, 8, 1)))
    assert conserves_balance(fixed) == {"1": "", "2": "the readout of the pair does not train"}
    smooth = recognise_feedforward(oracle.make_mlp((6, 9, 8, 1), activation=nn.Tanh))
    assert "homogeneous" in conserves_balance(smooth)["1"]
    module = oracle.make_mlp((6, 9, 8, 1))
    module[0].bias.requires_grad_(False)
    assert "bias does not train" in conserves_balance(recognise_feedforward(module))["1"]


@pytest.mark.parametrize("phi", [nn.Tanh(), nn.GELU(), nn.ReLU()])
@pytest.mark.parametrize("size", [0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-4])
def test_secant_gates_of_a_tiny_step_are_slopes_not_rounding(phi, size):
    h = torch.linspace(-3, 3, 40, dtype=torch.float64)
    expected = slope(phi, h + size / 2)
    np.testing.assert_allclose(secant_gates(phi, h, h + size), expected, atol=1e-8)
