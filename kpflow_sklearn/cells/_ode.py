"""Neural ODEs: cells whose step integrates dz/dt = f(z, x) over dt with a fixed-grid solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.checks import check_positive_int, check_real

# Adaptive solvers choose one step for all trials, so that trials would influence one another.
FIXED_GRID_METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4")


class NeuralODECell(nn.Module):
    """z_t = z(dt), where dz/ds = f(z, x_t) and z(0) = z_{t-1}; x is constant within a step.

    Parameters
    ----------
    field : Module
        The vector field f, ``forward(z, x) -> dz/ds``, on arrays (n_trials, ...).
    dt : float, default=1.0
        Duration of a step.
    method : {"euler", "midpoint", "heun2", "heun3", "rk4"}, default="rk4"
        Solver of torchdiffeq.
    n_substeps : int, default=1
        Number of solver steps within dt.

    Raises
    ------
    ValueError
        If ``field`` is not a module, the method does not have a fixed grid, or dt or n_substeps
        is not positive.
    """

    def __init__(
        self, field: nn.Module, dt: float = 1.0, method: str = "rk4", n_substeps: int = 1
    ) -> None:
        super().__init__()
        if not isinstance(field, nn.Module):
            raise ValueError(
                f"field must be a torch.nn.Module, or return one, got a {type(field).__name__}."
            )
        check_real(dt, "dt", 0, open_minimum=True)
        check_positive_int(n_substeps, "n_substeps")
        if not isinstance(method, str) or method not in FIXED_GRID_METHODS:
            raise ValueError(
                f"method must be one of {', '.join(map(repr, FIXED_GRID_METHODS))}, which have a "
                f"fixed grid, got {method!r}."
            )
        self.field, self.dt, self.method, self.n_substeps = field, float(dt), method, n_substeps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the state after dt."""
        odeint = _solver()
        times = torch.tensor([0.0, self.dt], dtype=z.dtype, device=z.device)
        options = {"step_size": self.dt / self.n_substeps}

        def slope(_: Tensor, state: Tensor) -> Tensor:
            return self.field(state, x)

        return odeint(slope, z, times, method=self.method, options=options)[-1]


@dataclass(frozen=True)
class NeuralODE:
    """A neural ODE as the ``cell`` of `RecurrentTrainer`.

    Parameters
    ----------
    field : callable
        Function ``(n_features, hidden_size)`` that returns the module f of `NeuralODECell`.
    dt : float, default=1.0
        Duration of a step.
    method : str, default="rk4"
        Solver, one of those that `NeuralODECell` lists.
    n_substeps : int, default=1
        Number of solver steps within dt.
    """

    field: Callable[[int, int], nn.Module]
    dt: float = 1.0
    method: str = "rk4"
    n_substeps: int = 1

    def __call__(self, n_features: int, hidden_size: int) -> NeuralODECell:
        """Return the cell for a network of these sizes."""
        if not callable(self.field):
            raise ValueError(f"field must be callable, got {self.field!r}.")
        made = self.field(n_features, hidden_size)
        return NeuralODECell(made, self.dt, self.method, self.n_substeps)


def _solver() -> Callable[..., Tensor]:
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a neural ODE needs the package torchdiffeq: pip install 'kpflow-sklearn[ode]'."
        ) from error
    return odeint
