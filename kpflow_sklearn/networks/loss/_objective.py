"""The training loss and Err, its derivative with respect to the states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks.loss._target_values import Targets
from kpflow_sklearn.networks.loss._user_loss import Loss, weighted_losses


@dataclass(frozen=True)
class Objective:
    """L = (1/N) sum_bt w_bt l(readout(z_bt), y_bt) + activity_l2 * mean squared rate.

    For "mse", l is the mean over outputs of the squared difference, as in torch's MSELoss; for
    "cross_entropy", the outputs are logits; any other l is a user's function. The rate penalty is
    the mean of the squared rates of all layers over valid steps and units.
    """

    loss: Loss
    activity_l2: float = 0.0

    def step_losses(
        self, network: RecurrentNetwork, states: Tensor, targets: Targets, mask: Tensor | None
    ) -> Tensor:
        """Return w_bt l_bt plus the penalty of each step, (n_trials, n_timesteps).

        The penalty of masked steps is included; the caller must leave it out.
        """
        losses = self.weighted(network.outputs(states), targets, mask)
        if self.activity_l2:
            losses = losses + self.activity_l2 * (network.all_rates(states) ** 2).mean(-1)
        return losses

    def weighted(self, outputs: Tensor, targets: Targets, mask: Tensor | None) -> Tensor:
        """Return w_bt l_bt of each step, (n_trials, n_timesteps)."""
        if callable(self.loss):
            return weighted_losses(self.loss, outputs, targets, mask)
        weight = _like(targets.weight, outputs)
        if self.loss == "mse":
            squares = (outputs - _like(targets.values, outputs)) ** 2
            return (squares * (weight if weight.ndim == 3 else weight[..., None])).mean(-1)
        labels = as_tensor(targets.values, device=outputs.device)
        logits = outputs.flatten(0, -2)
        entropy = functional.cross_entropy(logits, labels.flatten(), reduction="none")
        return weight * entropy.reshape(weight.shape)

    def mean_loss(self, outputs: Tensor, targets: Targets, mask: Tensor | None) -> float:
        """Return sum_bt w_bt l_bt / sum_bt w_bt, without the penalty."""
        with torch.no_grad():
            total = self.weighted(outputs, targets, mask).double().sum()
        return float(total) / float(targets.weight.sum(dtype=np.float64))

    def value(
        self,
        network: RecurrentNetwork,
        states: Tensor,
        targets: Targets,
        mask: Tensor | None,
        n_valid: float | None = None,
    ) -> Tensor:
        """Return L as a differentiable tensor.

        For a minibatch, ``n_valid`` is N times its share of the trials, not the number of its own
        valid steps, so that minibatches of trials of unequal length estimate L without bias.
        """
        losses = self.step_losses(network, states, targets, mask)
        if mask is None:
            return losses.mean()
        return (losses * mask).sum() / (mask.sum() if n_valid is None else n_valid)

    def error(
        self, network: RecurrentNetwork, states: Tensor, targets: Targets, mask: Tensor | None
    ) -> Tensor:
        """Return Err = dl/dz, (n_trials, n_timesteps, n_states), with w but without 1/N."""
        z = states.detach().requires_grad_()
        with torch.enable_grad():
            losses = self.step_losses(network, z, targets, mask)
            total = losses.sum() if mask is None else (losses * mask).sum()
            return torch.autograd.grad(total, z)[0]


def _like(values: np.ndarray, like: Tensor) -> Tensor:
    return as_tensor(values, like.dtype, like.device)
