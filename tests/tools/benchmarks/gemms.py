"""The limit: only the matrix products of the same size, into memory allocated before."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.tools.benchmarks.problems import Problem

GRAMIANS = "bare GEMMs of the Gramians"
#: Widths of a map's features u_j: how often [state, input, each bias] enter.
MAPS = {"tanh": [(1, 1, 2)], "gru": [(1, 1, 2), (1, 1, 2), (0, 1, 1), (1, 0, 1)]}


def propagator(problem: Problem) -> Callable[[], None]:
    """P: for each step but the first (k B, H) x (H, gates H)."""
    size, weight = problem.size, problem.module.weight_hh_l0.detach()
    p = problem.q.movedim(2, 0).reshape(size.steps, -1, size.hidden)
    out = torch.empty(p.shape[1], len(weight))

    def run() -> None:
        for t in range(1, size.steps):
            torch.mm(p[t - 1], weight.mT, out=out)

    return run


def adjoint_propagator(problem: Problem) -> Callable[[], None]:
    """P*: for each step but the last (k B, gates H) x (gates H, H)."""
    size, weight = problem.size, problem.module.weight_hh_l0.detach()
    out = torch.empty(size.steps, size.probes * size.trials, size.hidden)
    gates = torch.randn(out.shape[1], len(weight))

    def run() -> None:
        for t in range(size.steps - 2, -1, -1):
            torch.mm(gates, weight, out=out[t])

    return run


def parameter_operator(problem: Problem) -> Callable[[], None]:
    """K: for each map (F, T B) x (T B, k H) and (T B, F) x (F, k H), F the width of its features.

    The unfactored products; a factor of the activity needs fewer.
    """
    size, n_inputs = problem.size, problem.X.shape[2]
    rows, columns = size.steps * size.trials, size.probes * size.hidden
    widths = [h * size.hidden + x * n_inputs + b for h, x, b in MAPS[size.cell]]
    features = [torch.randn(rows, width) for width in widths]
    gradients = [torch.empty(width, columns) for width in widths]
    a, out = torch.randn(rows, columns), torch.empty(rows, columns)

    def run() -> None:
        for u, gradient in zip(features, gradients, strict=True):
            torch.mm(u.mT, a, out=gradient)
            torch.mm(u, gradient, out=out)

    return run


def tangent_kernel(problem: Problem) -> Callable[[], None]:
    """PKP*: those of P*, K and P."""
    parts = [f(problem) for f in (adjoint_propagator, parameter_operator, propagator)]

    def run() -> None:
        for part in parts:
            part()

    return run


def gramians(problem: Problem) -> tuple[Callable[[], None], float]:
    """Exact Gramians of P: for each trial and step five H x H products.

    Returns those of a tenth of the steps, and the share of all steps that this is.
    """
    size = problem.size
    n_steps = max(1, size.steps // 10)
    a, b, out = torch.randn(3, size.trials, size.hidden, size.hidden)

    def run() -> None:
        for _ in range(5 * n_steps):
            torch.bmm(a, b, out=out)

    return run, n_steps / size.steps
