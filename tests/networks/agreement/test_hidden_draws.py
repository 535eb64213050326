"""Noise that cannot be frozen is named: that of training mode, and that of given distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kpflow_sklearn import SavedTraining, UnsupportedNetworkError, linearize

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS = 3, 5, 3, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, 2))
numbers = np.random.default_rng(1)


class Noisy(nn.Module):
    """A GRU cell whose last state passes through ``draw(network, h)``."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.draw, self.drop, self.is_noisy = draw, nn.Dropout(0.3), True
        self.cell, self.out = nn.GRUCell(N_FEATURES, N_UNITS), nn.Linear(N_UNITS, 2)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x, self.draw(self, h))

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(len(x), N_UNITS), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


def saved(draw, **options) -> SavedTraining:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Noisy(draw).double()
    given = {"step": "step", "readout": "out", "initial_state": np.zeros(N_UNITS)}
    return SavedTraining(module, **given | {"noise": "frozen"} | options)


def zoneout(net, h):
    if not net.training:
        return 0.7 * h
    return h * (torch.rand_like(h) > 0.3)


HIDDEN = {
    "functional dropout": lambda net, h: functional.dropout(h, 0.5, net.training),
    "alpha dropout": lambda net, h: functional.alpha_dropout(h, 0.5, net.training),
    "zoneout": zoneout,
    "noise times a flag": lambda net, h: h + net.training * torch.randn_like(h),
    "beside a module": lambda net, h: functional.dropout(net.drop(h), 0.1, net.training),
    "NumPy's numbers": lambda net, h: h + net.training * numbers.standard_normal(),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_noise_of_training_mode_is_not_left_out_silently(name):
    with pytest.raises(UnsupportedNetworkError, match="self.training.* a flag of your own"):
        saved(HIDDEN[name]).fit(X, Y)
    assert saved(HIDDEN[name], noise="off").fit(X, Y).n_iter_ == 0


FROZEN = {
    "a module": lambda net, h: net.drop(h),
    "always": lambda net, h: h + 0.1 * torch.randn_like(h),
    "a flag of one's own": lambda net, h: functional.dropout(h, 0.5, net.is_noisy),
    "Gumbel noise": lambda net, h: functional.gumbel_softmax(h),
}


@pytest.mark.parametrize("name", FROZEN)
def test_noise_that_is_frozen_changes_the_states(name):
    frozen = saved(FROZEN[name]).fit(X, Y)
    quiet = saved(lambda net, h: h, noise="off").fit(X, Y)
    assert abs(frozen.trajectories(X) - quiet.trajectories(X)).max() > 0.01


def test_frozen_noise_without_any_draw_has_no_effect():
    with pytest.warns(UserWarning, match="no effect, because the step step draws no numbers"):
        saved(lambda net, h: h).fit(X, Y)
    layers = nn.ModuleDict({"rnn": nn.GRU(N_FEATURES, 4), "out": nn.Linear(4, 2)})
    with pytest.warns(UserWarning, match="no effect, because the GRU draws no numbers"):
        SavedTraining(layers, noise="frozen", layout="trials_first").fit(X, Y)


def one_hot(draws: Tensor, h: Tensor) -> Tensor:
    return functional.one_hot(draws, N_UNITS).to(h)


#: Draws from given distributions, and what the error advises instead.
DISTRIBUTIONS = {
    "bernoulli": (
        lambda net, h: h * torch.bernoulli(torch.sigmoid(h)),
        lambda net, h: h * (torch.rand_like(h) < torch.sigmoid(h)),
    ),
    "normal": (
        lambda net, h: torch.normal(h, 0.1),
        lambda net, h: h + 0.1 * torch.randn_like(h),
    ),
    "multinomial": (
        lambda net, h: h * one_hot(torch.distributions.Categorical(logits=h).sample(), h),
        lambda net, h: h * one_hot((h - torch.log(-torch.log(torch.rand_like(h)))).argmax(-1), h),
    ),
    "poisson": (lambda net, h: h + torch.poisson(h.abs()), None),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws_from_given_distributions_are_refused_with_advice_that_works(name):
    draw, instead = DISTRIBUTIONS[name]
    with pytest.raises(UnsupportedNetworkError, match=f"by {name}, .* shapes alone") as error:
        saved(draw).fit(X, Y)
    assert "functorch" not in str(error.value)
    if instead is not None:
        lin = linearize(saved(instead).fit(X, Y).network_, X)
        assert lin.K.to_dense().isfinite().all() and lin.P.to_dense().isfinite().all()
