"""Errors name their cause: a state kept between calls, pooling, assigned weights, no values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kpflow_sklearn import (
    CheckpointError,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    SavedTraining,
    UnsupportedNetworkError,
    linearize,
)

N_TRIALS, N_STEPS, N_UNITS = 3, 5, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N_TRIALS, N_STEPS, 3)).astype(np.float32)
Y = rng.standard_normal((N_TRIALS, N_STEPS, 2)).astype(np.float32)
LABELS = np.arange(N_TRIALS)
numbers = np.random.default_rng(1)


class Net(nn.Module):
    """A cell with a readout; ``start`` returns the first state."""

    def __init__(self, cell: nn.Module | None = None) -> None:
        super().__init__()
        self.cell = cell or nn.GRUCell(3, N_UNITS)
        self.out = nn.Linear(N_UNITS, 2)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), N_UNITS)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = self.start(x), []
        for x_t in x.unbind(1):
            h = self.cell(x_t, h)
            outputs.append(self.out(h))
        self.last = h.detach()
        return torch.stack(outputs, 1)


PARTS = {"step": "cell", "readout": "out"}

# --------------------------------------------------------- modules whose calls differ

STARTS = {
    "a state": (lambda self, x: self.last, "keeps a state between calls"),
    "NumPy's numbers": (
        lambda self, x: torch.as_tensor(numbers.standard_normal((len(x), N_UNITS))).float(),
        "from NumPy",
    ),
    "torch's numbers": (
        lambda self, x: torch.randn(len(x), N_UNITS),
        "is random even in evaluation mode",
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_makes_two_calls_of_a_module_differ_is_named(name):
    start, message = STARTS[name]
    module = Net()
    module(torch.as_tensor(X))
    module.__class__ = type("Restless", (Net,), {"start": start})
    with pytest.raises(UnsupportedNetworkError, match=f"Restless .*{message}"):
        SavedTraining(module, **PARTS).fit(X, Y)


# ---------------------------------------------------------------- pooling over the steps


class Pooled(nn.Module):
    def __init__(self, pool) -> None:
        super().__init__()
        self.gru, self.out, self.pool = nn.GRU(3, N_UNITS, batch_first=True), nn.Linear(4, 3), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self, self.gru(x)[0])


POOLS = {
    "of states": lambda net, z: net.out(z.mean(1)),
    "maximum": lambda net, z: net.out(z.amax(1)),
    "of outputs": lambda net, z: net.out(z).mean(1),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("is_named", [False, True])
def test_networks_that_pool_over_time_are_sent_to_the_running_sum(name, is_named):
    readouts = [None]
    if is_named:  # As the first error advises, for one output per trial or the same at all steps.
        pool = POOLS[name]
        readouts = [pool, lambda net, z: pool(net, z)[:, None].expand(*z.shape[:2], 3)]
    for readout in readouts:
        saved = SavedTraining(Pooled(POOLS[name]), readout=readout, layout="trials_first")
        with pytest.raises(
            UnsupportedNetworkError, match="the running sum .* a function that pool"
        ):
            saved.fit(X, LABELS)


# ------------------------------------------------------------- weights that are assigned


class WeightDrop(nn.Module):
    """Assigns a weight before every call, as in the code of AWD-LSTM."""

    def __init__(self, module: nn.Module, name: str, clones: bool = False) -> None:
        super().__init__()
        self.module, self.name, self.clones = module, name, clones
        self.raw = nn.Parameter(getattr(module, name).data)
        del module._parameters[name]

    def forward(self, *inputs):
        weight = functional.dropout(self.raw, 0.5, self.training)
        setattr(self.module, self.name, weight.clone() if self.clones else weight)
        return self.module(*inputs)


class Stack(Net):
    def forward(self, x):
        return self.out(self.cell(x)[0])


def was_run(module: nn.Module) -> nn.Module:
    module.eval()(torch.as_tensor(X))
    return module


def by_step(net, x, h):
    return net.cell(x[:, None], h[None].contiguous())[0][:, 0]


OWN = {"step": by_step, "readout": "out", "initial_state": np.zeros(N_UNITS)}
ASSIGNED = {
    "a cell": (lambda **k: Net(WeightDrop(nn.GRUCell(3, 4), "weight_hh", **k)), PARTS),
    "a function": (
        lambda **k: Stack(WeightDrop(nn.GRU(3, 4, batch_first=True), "weight_hh_l0", **k)),
        OWN,
    ),
}


@pytest.mark.parametrize("name", ASSIGNED)
@pytest.mark.parametrize("prepare", [was_run, lambda module: module], ids=["run", "new"])
def test_weights_that_are_assigned_as_parameters_are_refused_with_advice_that_works(name, prepare):
    make, options = ASSIGNED[name]
    saved = SavedTraining(prepare(make()), **options)
    for given in (saved, KPFlowAnalyzer(saved, random_state=0)):
        with pytest.raises(UnsupportedNetworkError, match=r"assigns a weight .* raw\.clone\(\)"):
            given.fit(X, Y)
    lin = linearize(SavedTraining(prepare(make(clones=True)), **options).fit(X, Y).network_, X)
    gradient = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(Y)))
    raw = next(value for key, value in gradient.items() if key.endswith("raw"))
    assert raw.norm() > 0


def test_torch_layers_whose_weights_are_assigned_are_refused():
    module = Stack(WeightDrop(nn.GRU(3, N_UNITS, batch_first=True), "weight_hh_l0"))
    with pytest.raises(UnsupportedNetworkError, match="weights that .* AWD-LSTM.*parametrize"):
        SavedTraining(module).fit(X, Y)


# --------------------------------------------------------------- networks without values


@pytest.mark.parametrize("kind", ["recurrent", "feed-forward"])
def test_a_network_without_values_is_blamed_instead_of_its_checkpoints(kind):
    def make():
        if kind == "recurrent":
            return Net()
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    state = make().state_dict()
    with torch.device("meta"):
        network = make()
    saved = SavedTraining(network, [state], **(PARTS if kind == "recurrent" else {}))
    fit = saved if kind == "recurrent" else GramFlowAnalyzer(saved, random_state=0)
    rows = (X, Y) if kind == "recurrent" else (X[:, 0], Y[:, 0])
    with pytest.raises(CheckpointError, match=r"network: .* 'meta'.*to_empty\(device='cpu'\)"):
        fit.fit(*rows)
    network.to_empty(device="cpu")  # As the error advises.
    assert fit.fit(*rows).n_iter_ == 0
