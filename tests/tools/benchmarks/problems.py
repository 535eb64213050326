"""The timed problems: a network, its trials and random probes, in our form and in torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.networks import RecurrentNetwork, build_network

CELLS = {"tanh": nn.RNN, "gru": nn.GRU}


@dataclass(frozen=True)
class Size:
    """One setting: the cell, H units, B trials, T steps, k probes."""

    cell: str
    hidden: int
    trials: int = 50
    steps: int = 90
    probes: int = 30
    noise: float = 0.0

    def tiny(self) -> Size:
        """Return the same cell at a size that takes no time."""
        return replace(self, hidden=8, trials=3, steps=5, probes=2)

    def label(self) -> str:
        """Return the size in words."""
        noise = f", noise {self.noise:g}" if self.noise else ""
        return f"{self.cell}, H={self.hidden}, B={self.trials}, T={self.steps}{noise}"

    def jacobian_gb(self) -> float:
        """Return the size of all H x H Jacobians in float32, in GB."""
        return 4e-9 * self.trials * self.steps * self.hidden**2


@dataclass(frozen=True)
class Problem:
    """A size with its arrays, in float32."""

    size: Size
    X: np.ndarray  # Trials of the memory-pro task, cut or padded with zeros, (B, T, 3).
    y: np.ndarray
    network: RecurrentNetwork  # Untrained, with torch's initial weights.
    module: nn.RNNBase  # The same recurrent weights in torch's module, batch first.
    q: Tensor  # Random probes, (k, B, T, H).

    @property
    def inputs(self) -> Tensor:
        """The trials as a tensor."""
        return torch.as_tensor(self.X)


#: Prepares everything that a product can reuse, and returns a function for the product with q.
Contender = Callable[[Problem], Callable[[], object]]


def make_trials(
    n_trials: int, n_steps: int, noise: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return memory-pro trials (30 + 30 + 30 steps) cut or padded to ``n_steps``, in float32."""
    arrays = make_memory_pro(n_trials, noise_std=noise, evenly_spaced=True, random_state=seed)
    padding = ((0, 0), (0, max(0, n_steps - arrays[0].shape[1])), (0, 0))
    X, y = (np.pad(v, padding)[:, :n_steps].astype(np.float32) for v in arrays)
    return X, y


def make_problem(size: Size, seed: int = 0) -> Problem:
    """Return the problem of a size; the same one at every call."""
    X, y = make_trials(size.trials, size.steps, size.noise, seed)
    network = build_network(
        size.cell, X.shape[2], y.shape[2], hidden_size=size.hidden, n_layers=1, init_scale=1.0,
        recurrent_init="torch", alpha=1.0, learn_initial_state=False, dtype=torch.float32,
        seed=seed,
    )  # fmt: skip
    module = CELLS[size.cell](X.shape[2], size.hidden, batch_first=True)
    module.load_state_dict(network.recurrent.state_dict())
    shape = (size.probes, size.trials, size.steps, size.hidden)
    q = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Problem(size, X, y, network, module, q)


def training_iteration(problem: Problem, batch: int = 500) -> Callable[[], None]:
    """Return one training iteration on ``batch`` trials, the unit of time of all sections.

    torch's own recurrent module, a linear readout, the mean squared error and Adam.
    """
    size = problem.size
    X, y = map(torch.as_tensor, make_trials(batch, size.steps, size.noise))
    core = copy.deepcopy(problem.module)
    readout = nn.Linear(size.hidden, y.shape[2])
    optimizer = torch.optim.Adam([*core.parameters(), *readout.parameters()])

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(readout(core(X)[0]), y).backward()
        optimizer.step()

    return run
