"""The networks of all tests of operators, as data: a case added here joins them all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.cells import CELL_NAMES, NeuralODE
from kpflow_sklearn.networks import RecurrentNetwork, build_network
from tests.oracles import oracle

N_TRIALS, N_TIMESTEPS, N_FEATURES, N_UNITS, N_OUTPUTS = 3, 5, 2, 4, 2
# Forward mode makes torch import modules that warn of deprecated names of its own.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))

RAGGED = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=bool)


class MyCell(nn.Module):
    """A cell unknown to the package, with a gain that multiplies its other parameters."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_features + hidden_size, hidden_size)
        self.gain = nn.Parameter(torch.full((hidden_size,), 0.7))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state."""
        return h + self.gain * (torch.sin(self.inner(torch.cat([x, h], dim=-1))) - 0.3 * h**2)


class RateField(nn.Module):
    """dz/dt = (-z + tanh(W z + U x + b)) / tau, the field of the leaky cell."""

    def __init__(self, n_features: int, hidden_size: int, tau: float = 2.5) -> None:
        super().__init__()
        self.recurrent = nn.Linear(hidden_size, hidden_size)
        self.input = nn.Linear(n_features, hidden_size)
        self.tau = tau

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return dz/dt."""
        return (torch.tanh(self.recurrent(z) + self.input(x)) - z) / self.tau


@dataclass(frozen=True)
class Case:
    """One network on one set of trials."""

    name: str
    cell: str | Callable
    n_layers: int = 1
    alpha: float = 0.4
    learn_initial_state: bool = False
    initial_state: float = 0.0
    mask: np.ndarray | None = None
    dtype: torch.dtype = torch.float64
    n_units: int = N_UNITS


CASES = [
    *(Case(name, name) for name in CELL_NAMES),
    *(Case(f"{name}-2layers", name, n_layers=2) for name in CELL_NAMES),
    *(Case(f"{name}-ragged", name, mask=RAGGED) for name in CELL_NAMES),
    *(
        Case(f"{name}-trained_z0", name, learn_initial_state=True, initial_state=0.5)
        for name in CELL_NAMES
    ),
    Case("gru-nonzero_z0", "gru", initial_state=0.5),
    Case("lstm-3layers-ragged-trained_z0", "lstm", 3, 0.4, True, 0.5, RAGGED, n_units=2),
    Case("leaky_voltage-2layers-ragged", "leaky_voltage", 2, mask=RAGGED),
    Case("user", MyCell),
    Case("user-ragged-trained_z0", MyCell, 1, 1.0, True, 0.5, RAGGED),
    Case("user-nn.GRUCell", nn.GRUCell),
]
if find_spec("torchdiffeq") is not None:
    ode = NeuralODE(RateField, dt=0.7, method="midpoint")
    CASES.append(Case("neural_ode-ragged", ode, mask=RAGGED))
IDS = [case.name for case in CASES]
#: Each cell, several layers, ragged trials and a trained z_0 at least once: the cases of the fast
#: tier. Tests of the others are marked slow (`tests.conftest`).
FAST = {
    *("tanh", "relu", "gru", "lstm", "gru-2layers", "lstm-ragged", "leaky-trained_z0"),
    *("leaky_voltage-2layers-ragged", "lstm-3layers-ragged-trained_z0"),
    "user-ragged-trained_z0",
}


def build(case: Case) -> tuple[RecurrentNetwork, np.ndarray]:
    """Return the case's untrained network and its inputs."""
    network = build_network(
        case.cell,
        N_FEATURES,
        N_OUTPUTS,
        hidden_size=case.n_units,
        n_layers=case.n_layers,
        init_scale=1.3,
        recurrent_init="normal",
        alpha=case.alpha,
        learn_initial_state=case.learn_initial_state,
        dtype=case.dtype,
        seed=3,
    )
    rng = np.random.default_rng(7)
    z0 = case.initial_state * rng.standard_normal(network.n_states)
    with torch.no_grad():
        network.initial_state.copy_(torch.as_tensor(z0))
    return network, rng.standard_normal((N_TRIALS, N_TIMESTEPS, N_FEATURES))


@dataclass(frozen=True)
class Solved:
    """A case with our linearization and the dense reference."""

    case: Case
    linearization: Linearization
    dense: oracle.DenseOperators
    arguments: tuple
    options: dict


def compare(case: Case, network: RecurrentNetwork, X: np.ndarray) -> Solved:
    """Linearize a network and compute its dense reference."""
    cell = case.cell if isinstance(case.cell, str) else network.recurrent
    parameters = {
        name: p.detach().double().clone() for name, p in network.recurrent.named_parameters()
    }
    z0 = network.initial_state.detach().double().clone()
    arguments = (cell, parameters, torch.as_tensor(X), z0)
    options = {
        "mask": None if case.mask is None else torch.as_tensor(case.mask),
        "n_layers": case.n_layers,
        "alpha": case.alpha,
        "learn_initial_state": case.learn_initial_state,
    }
    dense = oracle.dense_operators(*arguments, **options)
    return Solved(case, linearize(network, X, case.mask), dense, arguments, options)


def distance(computed: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    """Return the largest deviation, relative to the largest entry expected."""
    computed, expected = torch.as_tensor(computed).detach(), torch.as_tensor(expected).detach()
    assert computed.shape == expected.shape
    return float((computed - expected).abs().max() / expected.abs().max())


@cache
def solve(case_name: str) -> Solved:
    """Compare a case with its reference, once for all tests."""
    case = CASES[IDS.index(case_name)]
    return compare(case, *build(case))
