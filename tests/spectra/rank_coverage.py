"""How often value +- 1.96 std_error holds the true rank on the whole space: a table in markdown.

    python -m tests.spectra.rank_coverage --seeds 20

Each seed is another untrained network on other trials, and seeds the random vectors. The truth
comes from all eigenvalues: those of (P^-1)* P^-1, one dense matrix per trial, for P (with the
exact trace of the Gramians), and those of the parameter-side matrix A^T A, with A A^T the Gram,
for PKP* and for the K of a user's cell.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn import linearize
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.operators import FlowPropagator, LinearOperator, cut
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra import OperatorSpectra, trace
from kpflow_sklearn.spectra._gramians import gram_factor

THRESHOLDS = (0.8, 0.95, 0.99)


class UsersCell(nn.Module):
    """A tanh cell that the package does not recognise."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_features + hidden_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state."""
        return torch.tanh(self.inner(torch.cat([x, h], dim=-1)))


@dataclass(frozen=True)
class Strain:
    """An operator of a network at a size at which its eigenvalues are not all computed."""

    operator: str
    cell: str | Callable
    gain: float
    n_trials: int
    n_timesteps: int
    n_units: int
    thresholds: tuple[float, ...] = THRESHOLDS

    @property
    def name(self) -> str:
        """The operator, the network and its size, in words."""
        cell = self.cell if isinstance(self.cell, str) else "user's cell"
        size = f"{self.n_trials} × {self.n_timesteps} × {self.n_units}"
        return f"{self.operator} of {cell}, g = {self.gain}, {size}"

    def build(self, seed: int) -> LinearOperator:
        """Return the operator of one network, in float32."""
        network = build_network(
            self.cell,
            3,
            2,
            hidden_size=self.n_units,
            n_layers=1,
            init_scale=self.gain,
            recurrent_init="normal",
            alpha=1.0,
            learn_initial_state=False,
            dtype=torch.float32,
            seed=seed,
        )
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((self.n_trials, self.n_timesteps, 3)).astype(np.float32)
        return getattr(linearize(network, X), self.operator)


STRAINS = (
    Strain("P", "tanh", 1.0, 6, 30, 64),
    Strain("P", "gru", 1.5, 6, 30, 64),
    Strain("P", "tanh", 1.0, 6, 60, 32),
    Strain("PKP", "tanh", 1.0, 6, 30, 64, (0.95, 0.99)),
    Strain("K", UsersCell, 1.0, 6, 30, 32, (0.95, 0.99)),
    Strain("P", "tanh", 1.0, 6, 30, 96),
    Strain("P", "tanh", 1.0, 16, 60, 64),
)


def all_eigenvalues(op: LinearOperator) -> np.ndarray:
    """Return all non-zero eigenvalues of an operator's natural Gram, in descending order."""
    if isinstance(op, FlowPropagator):
        inverse = op.inverse()
        blocks = [_inverse_eigenvalues(inverse, i) for i in range(op.out_shape[0])]
        return np.sort(np.concatenate(blocks))[::-1]
    factor, scale = gram_factor(op)
    dense = factor.to_dense().double() * scale**0.5
    return torch.linalg.eigvalsh(dense.mT @ dense).flip(0).clamp(min=0).numpy()


def _inverse_eigenvalues(inverse: LinearOperator, trial: int) -> np.ndarray:
    """Return the eigenvalues of PP* on one trial, 1/mu for each mu of (P^-1)* P^-1."""
    dense = cut(inverse, slice(trial, trial + 1)).to_dense()
    # Single precision moves a mu by 1e-6 of the largest mu: that spoils only the largest 1/mu.
    return 1 / torch.linalg.eigvalsh(dense.mT @ dense).double().numpy()


def true_rank(values: np.ndarray, threshold: float, total: float | None = None) -> int:
    """Return the least r whose r largest eigenvalues reach the threshold of the trace.

    The others are the most of the smallest ones that sum to no more than what is left of it.
    """
    total = values.sum() if total is None else total
    rest = (1 - threshold + 1e-9) * total
    return len(values) - int(np.searchsorted(np.cumsum(values[::-1]), rest, side="right"))


@dataclass(frozen=True)
class Coverage:
    """What many seeds gave for one rank."""

    true: np.ndarray
    ranks: list[Estimate]

    @property
    def n_within(self) -> int:
        """Number of seeds whose interval holds the true rank."""
        reach = 1.96 * np.array([rank.std_error for rank in self.ranks])
        return int((abs(self.error) <= reach).sum())

    @property
    def error(self) -> np.ndarray:
        """Deviations from the true ranks."""
        return np.array([rank.value for rank in self.ranks]) - self.true

    @property
    def bias(self) -> float:
        """Mean deviation in mean standard errors."""
        return float(self.error.mean() / np.mean([rank.std_error for rank in self.ranks]))

    @property
    def relative(self) -> float:
        """Mean standard error relative to the true rank."""
        return float(np.mean([rank.std_error for rank in self.ranks] / self.true))


def measure(
    strain: Strain, seeds: range, method: str = "auto"
) -> Iterator[tuple[float, Coverage]]:
    """Yield each threshold and the ranks of all seeds at it."""
    true: dict[float, list[int]] = {t: [] for t in strain.thresholds}
    ranks: dict[float, list[Estimate]] = {t: [] for t in strain.thresholds}
    for seed in seeds:
        op = strain.build(seed)
        values = all_eigenvalues(op)
        exact = strain.operator == "P"  # The Gramians' trace, in double precision.
        total = trace(op, "hidden", method="exact").value if exact else None
        for threshold in strain.thresholds:
            spectra = OperatorSpectra(op, axes=("all",), method=method, random_state=seed)
            true[threshold].append(true_rank(values, threshold, total))
            ranks[threshold].append(spectra.rank("all", threshold))
    for threshold in strain.thresholds:
        yield threshold, Coverage(np.array(true[threshold]), ranks[threshold])


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser("python -m tests.spectra.rank_coverage", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(STRAINS)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("operator, network, trials × steps × units", "threshold", "mean rank", "method",
               "within", "mean error / s.e.", "s.e. / rank")  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|", flush=True)
    n_within = n_ranks = 0
    for strain in (STRAINS[i] for i in options.cases):
        start = time.perf_counter()
        for threshold, c in measure(strain, range(options.seeds)):
            methods = ", ".join(sorted({r.reason or r.method for r in c.ranks}))
            row = (strain.name, f"{threshold:.0%}", f"{c.true.mean():.0f}", methods)
            row += (f"{c.n_within} of {len(c.ranks)}", f"{c.bias:+.2f}", f"{c.relative:.1%}")
            print("| " + " | ".join(row) + " |", flush=True)
            n_within, n_ranks = n_within + c.n_within, n_ranks + len(c.ranks)
        print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)
    print(f"\nAll: {n_within} of {n_ranks}, {n_within / n_ranks:.1%}.")


if __name__ == "__main__":
    main()
