"""The operators are the gradient flow: against autograd, and against a real gradient step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import oracle
from tests.oracles.cases import IDS, N_OUTPUTS, N_TIMESTEPS, N_TRIALS, Solved, solve

rng = np.random.default_rng(11)
Y = rng.standard_normal((N_TRIALS, N_TIMESTEPS, N_OUTPUTS))
WEIGHT_2D = rng.uniform(0, 2, (N_TRIALS, N_TIMESTEPS))
WEIGHT_3D = rng.uniform(0, 2, (N_TRIALS, N_TIMESTEPS, N_OUTPUTS))
CLASSES = rng.integers(0, 2, (N_TRIALS, N_TIMESTEPS))
CLASSES[0, :2] = 0, 1
LABELS, LABEL_INDEX = np.array(["right", "left", "right"]), torch.tensor([1, 0, 1])
ACTIVITY_L2 = 0.3


# --------------------------------------------- the losses, written without the package's formulas


@dataclass(frozen=True)
class Run:
    """The arguments of a loss: a trajectory's outputs and rates, the inputs, the valid steps."""

    outputs: Tensor
    rates: Tensor
    X: Tensor
    mask: Tensor

    @property
    def n_valid(self) -> int:
        return int(self.mask.sum())


def weighted_mse(run: Run, weight: np.ndarray) -> Tensor:
    """Return (1/N) sum over valid steps of the weighted squares, mean over outputs."""
    squares = torch.as_tensor(weight) * (run.outputs - torch.as_tensor(Y)) ** 2
    return squares[run.mask].sum() / (run.n_valid * N_OUTPUTS)


def per_step_entropy(run: Run, weight: np.ndarray) -> Tensor:
    """Return (1/N) sum over valid steps of -w log p(class)."""
    log_p = run.outputs.log_softmax(-1)
    chosen = torch.where(torch.as_tensor(CLASSES) == 1, log_p[..., 1], log_p[..., 0])
    return -(torch.as_tensor(weight) * chosen)[run.mask].sum() / run.n_valid


def last_step_entropy(run: Run) -> Tensor:
    """Return the mean over trials of -log p(label) at the last valid step."""
    last = run.outputs[torch.arange(N_TRIALS), run.mask.sum(1) - 1]
    return torch.nn.functional.cross_entropy(last, LABEL_INDEX)


def next_input_mse(run: Run) -> Tensor:
    """Return the mean squared error of the next input, over the steps that have one."""
    has_next = run.mask[:, 1:]
    return torch.nn.functional.mse_loss(run.outputs[:, :-1][has_next], run.X[:, 1:][has_next])


def rate_penalty(run: Run) -> Tensor:
    """Return the mean squared rate over valid steps and units."""
    return ACTIVITY_L2 * (run.rates[run.mask] ** 2).mean()


@dataclass(frozen=True)
class Loss:
    """A call of ``error`` and the loss of which it is the derivative."""

    y: np.ndarray | None
    value: Callable[[Run], Tensor]
    options: dict = field(default_factory=dict)


LOSSES = {
    "mse": Loss(Y, lambda run: weighted_mse(run, np.ones(1))),
    "mse, weight per step": Loss(
        Y, lambda run: weighted_mse(run, WEIGHT_2D[..., None]), {"loss_weight": WEIGHT_2D}
    ),
    "mse, weight per output": Loss(
        Y, lambda run: weighted_mse(run, WEIGHT_3D), {"loss_weight": WEIGHT_3D}
    ),
    "cross_entropy": Loss(CLASSES, lambda run: per_step_entropy(run, np.ones(1))),
    "cross_entropy, weight per step": Loss(
        CLASSES, lambda run: per_step_entropy(run, WEIGHT_2D), {"loss_weight": WEIGHT_2D}
    ),
    "cross_entropy, last step": Loss(LABELS, last_step_entropy),
    "next input": Loss(None, next_input_mse),
    "rate penalty": Loss(
        Y,
        lambda run: weighted_mse(run, np.ones(1)) + rate_penalty(run),
        {"activity_l2": ACTIVITY_L2},
    ),
}


def observe(solved: Solved, states: Tensor) -> Run:
    """Return outputs and rates of a trajectory, by the reference's rules."""
    cell, _, X, _ = solved.arguments
    layers = states.chunk(solved.case.n_layers, dim=-1)
    rates = [oracle.layer_output(cell, layer) for layer in layers]
    weight, bias = (p.detach() for p in solved.linearization.network.readout.parameters())
    mask = solved.options["mask"]
    mask = torch.ones(X.shape[:2], dtype=torch.bool) if mask is None else mask
    return Run(rates[-1] @ weight.T + bias, torch.cat(rates, dim=-1), X, mask)


# ------------------------------------------------------------------------------------- the tests


VARIED = ["gru", "lstm-3layers-ragged-trained_z0", "user-ragged-trained_z0"]
ON_CASES = [
    *((name, "mse") for name in IDS),
    *((name, loss) for name in (*VARIED, "leaky_voltage-2layers-ragged") for loss in LOSSES),
]


@pytest.mark.parametrize("name, loss", dict.fromkeys(ON_CASES))
def test_gradient_equals_autograd(name, loss):
    solved, chosen = solve(name), LOSSES[loss]
    lin = solved.linearization
    error = lin.error(chosen.y, **chosen.options)
    actual = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ error))
    expected = oracle.loss_gradient(
        *solved.arguments, lambda states: chosen.value(observe(solved, states)), **solved.options
    )
    assert set(actual) == set(expected)
    scale = max(gradient.abs().max() for gradient in expected.values())
    for parameter, gradient in expected.items():
        assert actual[parameter].shape == gradient.shape
        assert (actual[parameter] - gradient).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", VARIED)
def test_error_is_N_times_the_derivative_by_the_states(name, loss):
    solved, chosen = solve(name), LOSSES[loss]
    lin = solved.linearization
    states = lin.states.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(chosen.value(observe(solved, states)), states)
    error = lin.error(chosen.y, **chosen.options)
    assert (error - lin.n_valid * gradient).abs().max() < 1e-12
    if lin.mask is not None:
        assert torch.count_nonzero(error[~lin.mask]) == 0


def gradient_step_error(solved: Solved, loss: Loss, eta: float) -> float:
    """Return the relative error of -eta PKP* Err against one real step of gradient descent."""
    lin = solved.linearization
    network = copy.deepcopy(lin.network)
    theta = list(network.recurrent.parameters())
    if network.learn_initial_state:
        theta.append(network.initial_state)
    optimizer = torch.optim.SGD(theta, lr=eta)
    loss.value(observe(solved, network.states(lin.X))).backward()
    optimizer.step()
    with torch.no_grad():
        measured = network.states(lin.X) - lin.states
    if lin.mask is not None:
        measured *= lin.mask[..., None]
    predicted = -eta * (lin.PKP @ lin.error(loss.y, **loss.options))
    return float((measured - predicted).norm() / predicted.norm())


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("name", IDS)
def test_a_gradient_step_moves_the_states_as_PKP_says(name, loss):
    # Small enough that no gate of the relu networks flips, so that they count as smooth.
    coarse, fine = (gradient_step_error(solve(name), LOSSES[loss], eta) for eta in (1e-3, 1e-4))
    assert fine < 0.01
    assert 8 < coarse / fine < 12
