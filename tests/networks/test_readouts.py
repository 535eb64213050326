"""Readouts of any kind: a named decoder that maps each state alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kpflow_sklearn import KPFlowAnalyzer, SavedTraining, UnsupportedNetworkError, linearize
from kpflow_sklearn.networks._readouts import check_readout

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS, N_OUTPUTS = 4, 6, 2, 5, 3
rng = np.random.default_rng(8)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
STATE = torch.zeros(N_UNITS, dtype=torch.float64)


class Decoded(nn.Module):
    """A GRU, or a GRU cell in a loop, whose states go through a decoder."""

    def __init__(self, decoder: nn.Module, cell: bool = False) -> None:
        super().__init__()
        kind = nn.GRUCell if cell else nn.GRU
        options = {} if cell else {"batch_first": True}
        self.core = kind(N_FEATURES, N_UNITS, **options)
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of every step."""
        if isinstance(self.core, nn.GRU):
            return self.decoder(self.core(x)[0])
        h, states = x.new_zeros(len(x), N_UNITS), []
        for step in range(x.shape[1]):
            h = self.core(x[:, step], h)
            states.append(h)
        return self.decoder(torch.stack(states, dim=1))


def perceptron() -> nn.Module:
    """Return a decoder with a hidden layer and dropout."""
    layers = nn.Linear(N_UNITS, 7), nn.Tanh(), nn.LayerNorm(7), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Linear(7, N_OUTPUTS))


def drawn(decoder=perceptron, **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Decoded(decoder(), **options).double()


@pytest.mark.parametrize("cell", [False, True], ids=["nn.GRU", "named step"])
def test_the_gradient_through_a_decoder_is_that_of_autograd(cell):
    module = drawn(cell=cell).eval()
    step = {"step": "core"} if cell else {}
    saved = SavedTraining(module, readout="decoder", **step).fit(X, Y)
    outputs = module(torch.as_tensor(X))
    loss = ((outputs - torch.as_tensor(Y)) ** 2).mean()
    theirs = torch.autograd.grad(loss, list(module.core.parameters()))

    lin = linearize(saved.network_, X)
    ours = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(Y)))
    for (name, _), gradient in zip(module.core.named_parameters(), theirs, strict=True):
        assert (ours[name] - gradient).abs().max() < 1e-14
    assert np.abs(saved.predict(X) - outputs.detach().numpy()).max() < 1e-14


def test_an_analysis_through_a_decoder_passes_its_identities():
    saved = SavedTraining(drawn(), readout="decoder")
    analyzer = KPFlowAnalyzer(saved, axes=("time",), random_state=0)
    assert analyzer.fit(X, Y).verify(X, Y)["passed"].all()
    assert analyzer.score(X, Y) < 1


class Function(nn.Module):
    """A function of the states as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs."""
        return self.function(z)


CENTRED = Function(lambda z: z - z.mean(1, keepdim=True))
NOISY = Function(lambda z: z + torch.randn_like(z))
REFUSED = {
    "across steps": (CENTRED, "depends on the other states, or on chance"),
    "random": (NOISY, "depends on the other states, or on chance"),
    "one output per trial": (
        Function(lambda z: z.sum(1)),
        r"must map states \(2, 3, 5\) .* got shape \(2, 5\)",
    ),
    "two outputs": (nn.GRU(5, 2).double(), "failed: it returns a tuple"),
    "another width": (nn.Linear(4, 2).double(), "takes 4 values, but the state, .* has 5"),
    "its first layer is wider": (
        nn.Sequential(nn.Linear(6, 2), nn.ReLU()).double(),
        r"Sequential must map states of shape \(n_trials, n_timesteps, 5\) .* but failed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_modules_are_not_readouts(name):
    readout, message = REFUSED[name]
    with pytest.raises(UnsupportedNetworkError, match=message):
        check_readout(readout, STATE)


def test_the_check_draws_nothing_and_leaves_the_module_as_it_is():
    readout, before = perceptron().double().train(), torch.get_rng_state()
    check_readout(readout, STATE)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(m.training for m in readout.modules())


def test_a_state_of_unknown_length_must_be_given():
    module = drawn(lambda: nn.Tanh(), cell=True)
    wrapped = SavedTraining(module, readout="decoder", step=lambda net, x, h: net.core(x, h))
    with pytest.raises(UnsupportedNetworkError, match="length of the state .* initial_state="):
        wrapped.fit(X, np.tanh(np.zeros((N_TRIALS, N_STEPS, N_UNITS))))
