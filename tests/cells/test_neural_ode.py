"""Neural ODEs as cells; tests/oracles/cases.py adds one to the tests of operators."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, SavedTraining, linearize
from kpflow_sklearn.cells import NeuralODE, NeuralODECell
from tests.oracles.cases import RateField, distance

pytest.importorskip("torchdiffeq")
rng = np.random.default_rng(4)
X = rng.standard_normal((3, 4, 2))
Y = rng.standard_normal((3, 4, 1))
ALPHA = 1 / 2.5


def euler_and_leaky():
    """Return a neural ODE and the leaky network with the same weights."""
    settings = {"hidden_size": 3, "max_iter": 0, "random_state": 0, "dtype": "float64"}
    ode = RecurrentTrainer(NeuralODE(RateField, method="euler"), **settings).fit(X, Y).network_
    leaky = RecurrentTrainer("leaky", dt=1.0, tau=2.5, **settings).fit(X, Y).network_
    field = ode.recurrent.field
    with torch.no_grad():
        for name, layer in (("hh", field.recurrent), ("ih", field.input)):
            getattr(leaky.recurrent, f"weight_{name}_l0").copy_(layer.weight)
            getattr(leaky.recurrent, f"bias_{name}_l0").copy_(layer.bias)
        leaky.readout.load_state_dict(ode.readout.state_dict())
    return ode, leaky


def test_euler_is_the_leaky_cell():
    ode, leaky = (linearize(network, X) for network in euler_and_leaky())
    assert distance(ode.states, leaky.states) < 1e-14
    for name in ("K", "P", "PKP"):
        a, b = (getattr(lin, name).to_dense() for lin in (ode, leaky))
        assert distance(a, b) < 1e-13


def test_the_solver_takes_as_many_steps_as_asked():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = RateField(2, 3).double()
    x, z = torch.as_tensor(X[:, 0]), torch.as_tensor(rng.standard_normal((3, 3)))
    expected = z
    for _ in range(3):
        expected = expected + 0.5 / 3 * field(expected, x)
    state = NeuralODECell(field, 0.5, "euler", n_substeps=3)(x, z)
    assert distance(state, expected.detach()) < 1e-14


@pytest.mark.parametrize("method, order", [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_order_of_the_methods(method, order):
    """The error of dz/dt = -z at dt falls by 2^order if the number of steps is doubled."""

    class Decay(nn.Module):
        def forward(self, z, x):
            return -z

    z = torch.ones(1, 1, dtype=torch.float64)
    errors = [
        abs(float(NeuralODECell(Decay(), 1.0, method, n)(z, z)) - np.exp(-1)) for n in (16, 32)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_it_is_trained_and_analysed():
    cell = NeuralODE(RateField, dt=0.5, method="midpoint")
    trainer = RecurrentTrainer(cell, hidden_size=3, max_iter=8, snapshots=1, random_state=0)
    options = {"axes": ("time",), "analyses": ("spectra",), "random_state": 0}
    analyzer = KPFlowAnalyzer(trainer, **options).fit(X, Y)
    assert analyzer.verify(X, Y)["passed"].all()
    assert analyzer.loss_curve_[-1] < analyzer.loss_curve_[0]


def test_a_neural_ode_of_the_user():
    from torchdiffeq import odeint

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.out = RateField(2, 3), nn.Linear(3, 1)

        def forward(self, inputs):
            z, outputs = torch.zeros(len(inputs), 3, dtype=inputs.dtype), []
            for x in inputs.unbind(1):
                z = self.advance(x, z)
                outputs.append(self.out(z))
            return torch.stack(outputs, 1)

        def advance(self, x, z):
            times = torch.tensor([0.0, 1.0], dtype=z.dtype)
            return odeint(lambda t, s: self.field(s, x), z, times, method="rk4")[-1]

    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Theirs().double()
    saved = SavedTraining(module, step="advance", readout="out").fit(X, Y)
    with torch.no_grad():
        np.testing.assert_allclose(saved.predict(X), module(torch.as_tensor(X)), rtol=1e-12)
    by_name = linearize(saved.network_, X)
    cell = NeuralODECell(module.field, 1.0, "rk4")
    parts = nn.ModuleDict({"cell": cell, "out": module.out})
    ours = linearize(SavedTraining(parts, step="cell").fit(X, Y).network_, X)
    q = torch.as_tensor(rng.standard_normal(ours.states.shape))
    for name in ("K", "P", "PKP"):
        assert distance(getattr(by_name, name) @ q, getattr(ours, name) @ q) < 1e-12


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "dopri5"}, "method must be one of 'euler', .* fixed grid, got 'dopri5'"),
        ({"dt": 0.0}, "dt == 0.0, must be > 0"),
        ({"n_substeps": 0}, "n_substeps == 0, must be >= 1"),
    ],
)
def test_unsupported_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralODECell(RateField(2, 3), **options)


def test_missing_torchdiffeq_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kpflow-sklearn\[ode\]'"):
        NeuralODECell(RateField(2, 3))(torch.ones(1, 2), torch.ones(1, 3))
