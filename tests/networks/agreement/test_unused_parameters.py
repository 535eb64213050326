"""Weights that evaluation mode merges or keeps: each checkpoint's own, and parameters K lacks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kpflow_sklearn import KPFlowAnalyzer, SavedTraining, UnsupportedNetworkError, linearize

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS = 3, 5, 3, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, 2))
PARTS = {"step": "step", "readout": "out", "initial_state": np.zeros(N_UNITS)}


class Net(nn.Module):
    """A network whose recurrent weights are computed by ``weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(N_UNITS, N_UNITS))
        self.inp, self.out = nn.Linear(N_FEATURES, N_UNITS), nn.Linear(N_UNITS, 2)

    def weight(self) -> Tensor:
        return functional.softplus(self.w) / 3

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.weight().T + self.inp(x))

    def states(self, x: Tensor) -> Tensor:
        h, states = x.new_zeros(len(x), N_UNITS), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            states.append(h)
        return torch.stack(states, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.states(x))


class Detached(Net):
    """Keeps its weights in evaluation mode; ``train`` and ``eval`` forget them."""

    kept = None

    def train(self, mode=True):
        self.kept = None
        return super().train(mode)

    def weight(self):
        if self.training:
            return super().weight()
        if self.kept is None:
            self.kept = super().weight().detach()
        return self.kept


class WithGraph(Net):
    """Keeps its weights with the graph by which they were computed."""

    kept = None

    def weight(self):
        if self.training or self.kept is None:
            self.kept = super().weight()
        return self.kept


class InAList(Net):
    """Keeps its weights in a collection."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[str, Tensor] = {}

    def weight(self):
        if self.training:
            return super().weight()
        return self.memory.setdefault("w", super().weight().detach())


class Merged(Net):
    """Adds the product of two small matrices to its weights, as loralib does."""

    def __init__(self) -> None:
        super().__init__()
        self.w.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(2, N_UNITS) / 2)
        self.lora_B = nn.Parameter(torch.randn(N_UNITS, 2) / 2)
        self.is_merged = False

    def train(self, mode=True):
        if mode is self.is_merged:
            sign, self.is_merged = (-1 if mode else 1), not mode
            self.w.data += sign * self.lora_B @ self.lora_A
        return super().train(mode)

    def weight(self):
        return self.w if self.is_merged else self.w + self.lora_B @ self.lora_A


class TwoHeads(Net):
    """Returns the outputs of a second head too, which the analysis does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(N_UNITS, 1)

    def forward(self, x):
        states = self.states(x)
        return {"outputs": self.out(states), "value": self.value(states)}


def drawn(kind=Net) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().double()


def checkpoints(module: nn.Module) -> list[dict]:
    states = [copy.deepcopy(module.state_dict()) for _ in range(2)]
    return [states[0], {name: 1.5 * value for name, value in states[1].items()}]


KEEPING = [Detached, WithGraph, InAList]


@pytest.mark.parametrize("kind", KEEPING)
def test_each_checkpoint_is_analysed_with_its_own_weights(kind):
    states = checkpoints(drawn(kind))
    saved = SavedTraining(drawn(kind), states, **PARTS)
    with pytest.warns(UserWarning, match=f"^w of {kind.__name__} train .* K lacks them"):
        analyzer = KPFlowAnalyzer(saved, axes=("time",), random_state=0).fit(X, Y)
    losses = analyzer.results_.query("quantity == 'loss'")["value"].to_numpy()
    plain = drawn()
    for state, loss, snapshot in zip(states, losses, analyzer.snapshots_, strict=True):
        plain.load_state_dict(state)
        outputs = plain(torch.as_tensor(X)).detach().numpy()
        assert loss == pytest.approx(((outputs - Y) ** 2).mean())
        after = analyzer.trainer_.network_at(snapshot)(torch.as_tensor(X)).detach()
        np.testing.assert_allclose(after, outputs, atol=1e-12)
    np.testing.assert_allclose(analyzer.predict(X), outputs, atol=1e-12)


@pytest.mark.filterwarnings("ignore:w of .* K lacks them")  # At the first checkpoint.
@pytest.mark.parametrize("kind", [Detached, WithGraph])
def test_weights_kept_from_another_checkpoint_are_refused(kind):
    module = drawn(kind).eval()
    with torch.no_grad():
        module(torch.as_tensor(X))
    message = "although their values differ between .* It keeps kept, probably computed from other"
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(module, checkpoints(module), **PARTS).fit(X, Y)
    with pytest.warns(UserWarning, match="K lacks them"):  # The weights that it has are right.
        SavedTraining(module, **PARTS).fit(X, Y)


def test_parameters_that_evaluation_mode_merges_are_named():
    with pytest.warns(UserWarning, match="^lora_A, lora_B of Merged train .*LoRA"):
        SavedTraining(drawn(Merged).eval(), **PARTS).fit(X, Y)
    saved = SavedTraining(drawn(Merged), **PARTS).fit(X, Y)  # As the warning advises.
    lin = linearize(saved.network_, X)
    flow = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(Y)))
    assert all(flow[name].norm() > 0 for name in ("lora_A", "lora_B"))


def test_parameters_of_other_heads_are_not_said_to_be_unused():
    assert SavedTraining(drawn(TwoHeads), **PARTS).fit(X, Y).n_iter_ == 0  # Without a warning.
