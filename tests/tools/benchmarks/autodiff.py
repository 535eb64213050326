"""The products by automatic differentiation: torch.func, and curvlinops on top of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp
from torch.nn.functional import linear

from tests.tools.benchmarks.problems import Problem

HAS_CURVLINOPS = find_spec("curvlinops") is not None


def step(cell: str, params: dict[str, Tensor], z: Tensor, x: Tensor) -> Tensor:
    """Return the next state of torch's RNN or GRU, written out; any leading axes."""
    from_input = linear(x, params["weight_ih_l0"], params["bias_ih_l0"])
    from_state = linear(z, params["weight_hh_l0"], params["bias_hh_l0"])
    if cell == "tanh":
        return torch.tanh(from_input + from_state)
    (xr, xu, xn), (hr, hu, hn) = from_input.chunk(3, dim=-1), from_state.chunk(3, dim=-1)
    reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xu + hu)
    return (1 - update) * torch.tanh(xn + reset * hn) + update * z


def parameters(problem: Problem) -> dict[str, Tensor]:
    """Return the recurrent weights, detached, under torch's names."""
    return {name: p.detach() for name, p in problem.module.named_parameters()}


def previous_states(problem: Problem) -> Tensor:
    """Return z_{t-1} for every trial and step, (B, T, H), from torch's own module."""
    with torch.no_grad():
        states = problem.module(problem.inputs)[0]
    return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)


def kernel_product(
    function: Callable[[dict[str, Tensor]], Tensor],
    params: dict[str, Tensor],
    q: Tensor,
    vmapped: bool = True,
) -> Callable[[], Tensor]:
    """Return the product J J^T q / N for the Jacobian J of ``function``, probe by probe.

    The run of the network that the pullback needs is done once, here.
    """
    _, pull = vjp(function, params)
    n_valid = q.shape[1] * q.shape[2]

    def push(gradient: dict[str, Tensor]) -> Tensor:
        return jvp(function, (params,), (gradient,))[1]

    @torch.no_grad()
    def run() -> Tensor:
        if not vmapped:
            return torch.stack([push(pull(v)[0]) for v in q]) / n_valid
        (gradients,) = torch.vmap(pull)(q)
        return torch.vmap(push)(gradients) / n_valid

    return run


def tangent_kernel(problem: Problem, vmapped: bool = True) -> Callable[[], Tensor]:
    """PKP* by torch.func: the states as a function of the parameters of nn.RNN or nn.GRU."""

    def states(params: dict[str, Tensor]) -> Tensor:
        return functional_call(problem.module, params, (problem.inputs,))[0]

    return kernel_product(states, parameters(problem), problem.q, vmapped)


def tangent_kernel_in_a_loop(problem: Problem) -> Callable[[], Tensor]:
    """PKP* by torch.func without vmap, one probe after the other."""
    return tangent_kernel(problem, vmapped=False)


def parameter_operator(problem: Problem) -> Callable[[], Tensor]:
    """K by torch.func: every step as a function of the parameters, the state before it fixed."""
    z = previous_states(problem)

    def steps(params: dict[str, Tensor]) -> Tensor:
        return step(problem.size.cell, params, z, problem.inputs)

    return kernel_product(steps, parameters(problem), problem.q)


class _States(torch.nn.Module):
    """A recurrent module that returns its states alone."""

    def __init__(self, core: torch.nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, X: Tensor) -> Tensor:
        return self.core(X)[0]


def curvlinops_kernel(problem: Problem) -> Callable[[], Tensor]:
    """PKP* as curvlinops' Jacobian times its transpose."""
    from curvlinops import JacobianLinearOperator

    model = _States(problem.module)
    jacobian = JacobianLinearOperator(
        model,
        list(model.parameters()),
        [(problem.inputs, torch.as_tensor(problem.y))],
        check_deterministic=False,
    )
    transposed = jacobian.adjoint()
    n_valid = problem.size.trials * problem.size.steps
    probes = [problem.q.movedim(0, -1).contiguous()]

    def run() -> Tensor:
        (product,) = jacobian @ (transposed @ probes)
        return product.movedim(-1, 0) / n_valid

    return run
