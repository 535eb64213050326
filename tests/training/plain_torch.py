"""Networks trained in plain torch, as people do elsewhere, and the states they saved."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS, N_OUTPUTS = 6, 5, 2, 4, 3
ITERATIONS = [0, 3, 10]
rng = np.random.default_rng(1)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
LABELS = np.array(["b", "a", "c", "a", "b", "c"])
MASK = np.arange(N_STEPS) < np.array([5, 4, 3, 2, 1, 5])[:, None]


class TheirNetwork(nn.Module):
    """A network as people write it."""

    def __init__(self, kind: Callable[..., nn.RNNBase], **options) -> None:
        super().__init__()
        self.core = kind(N_FEATURES, N_UNITS, dtype=torch.float64, **options)
        self.drop = nn.Dropout(0.0)
        self.decoder = nn.Linear(N_UNITS, N_OUTPUTS, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs for inputs with trials first."""
        if not self.core.batch_first:
            return self.decoder(self.drop(self.core(inputs.transpose(0, 1))[0])).transpose(0, 1)
        return self.decoder(self.drop(self.core(inputs)[0]))


@dataclass(frozen=True)
class Kind:
    """One way to set up torch's recurrent modules."""

    module: Callable[..., nn.RNNBase]
    options: dict = field(default_factory=dict)
    n_states: int = N_UNITS


KINDS = {
    "gru": Kind(nn.GRU, {"batch_first": True}),
    "gru, steps first": Kind(nn.GRU),
    "gru, no bias": Kind(nn.GRU, {"bias": False, "batch_first": True}),
    "tanh": Kind(nn.RNN, {"batch_first": True}),
    "relu": Kind(nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
    "lstm, 2 layers": Kind(nn.LSTM, {"num_layers": 2, "batch_first": True}, 4 * N_UNITS),
    "lstm, 2 layers, steps first, no bias": Kind(
        nn.LSTM, {"num_layers": 2, "bias": False}, 4 * N_UNITS
    ),
}


def seeded(kind: Callable[..., nn.Module], *sizes: int, seed: int = 0, **options) -> nn.Module:
    """Make a module in double precision, its weights drawn outside the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*sizes, dtype=torch.float64, **options)


def make(name: str) -> TheirNetwork:
    """Return an untrained module, its weights drawn outside the global generator."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return TheirNetwork(KINDS[name].module, **KINDS[name].options)


def squared_error(outputs: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, torch.as_tensor(Y))


@cache
def trained(name: str) -> tuple[TheirNetwork, list[dict[str, Tensor]]]:
    """Train as people do; return the module and the states they saved. Not to be changed."""
    module, saved = make(name), []
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for iteration in range(ITERATIONS[-1] + 1):
        if iteration in ITERATIONS:
            saved.append(copy.deepcopy(module.state_dict()))
        optimizer.zero_grad()
        squared_error(module(torch.as_tensor(X))).backward()
        optimizer.step()
    return module, saved
