"""P with all Jacobians stored, (T, B, H, H), as a direct implementation has it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.tools.benchmarks.autodiff import parameters, previous_states, step
from tests.tools.benchmarks.problems import Problem, Size

#: The Jacobians formed last, which both ways to use them share; a size determines its problem.
_kept: dict[Size, Tensor] = {}


def form_jacobians(problem: Problem) -> Tensor:
    """Return dz_t/dz_{t-1} by torch.func, steps first; all trials of a step at a time.

    All steps at once would need H (a GRU: several times H) times the memory of the trajectories.
    """
    size, params = problem.size, parameters(problem)
    z, X = previous_states(problem), problem.inputs

    def one(z_before: Tensor, x: Tensor) -> Tensor:
        return step(size.cell, params, z_before, x)

    jacobian = torch.func.vmap(torch.func.jacrev(one))
    out = torch.empty(size.steps, size.trials, size.hidden, size.hidden)
    for t in range(size.steps):
        out[t] = jacobian(z[:, t], X[:, t])
    return out


def shared_jacobians(problem: Problem) -> Tensor:
    """Return the Jacobians, formed when first asked for."""
    if problem.size not in _kept:
        _kept.clear()
        _kept[problem.size] = form_jacobians(problem)
    return _kept[problem.size]


def forget_jacobians() -> None:
    """Free the memory of the Jacobians."""
    _kept.clear()


def propagator_vmapped(problem: Problem) -> Callable[[], Tensor]:
    """P by J @ v for one trial and one probe, vmapped over both."""
    jacobians, steps = shared_jacobians(problem), problem.q.movedim(2, 0)
    over_trials = torch.vmap(torch.mv)
    product = torch.vmap(over_trials, in_dims=(None, 0))

    def run() -> Tensor:
        out = [steps[0]]
        for t in range(1, len(steps)):
            out.append(steps[t] + product(jacobians[t], out[-1]))
        return torch.stack(out, dim=2)

    return run


def propagator_batched(problem: Problem) -> Callable[[], Tensor]:
    """P by one batched matrix product over trials a step."""
    jacobians, q = shared_jacobians(problem), problem.q

    def run() -> Tensor:
        steps = q.permute(2, 1, 0, 3).contiguous()
        for t in range(1, len(steps)):
            steps[t].baddbmm_(steps[t - 1], jacobians[t].mT)
        return steps.permute(2, 1, 0, 3)

    return run
