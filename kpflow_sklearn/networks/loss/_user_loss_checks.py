"""Check on a few trials that a user's loss is a sum of the losses of single trials."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.fingerprints import name_of
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn._common.tensors import with_gradients
from kpflow_sklearn.networks._network import RecurrentNetwork, to_tensors
from kpflow_sklearn.networks.loss._objective import Objective
from kpflow_sklearn.networks.loss._target_values import Targets
from kpflow_sklearn.networks.loss._user_loss import UserLoss, loss_arguments, losses_of

N_JUDGED = 4  # Trials on which a loss is checked.


@with_gradients
def check_user_loss(
    objective: Objective,
    network: RecurrentNetwork,
    X: np.ndarray,
    targets: Targets,
    mask: np.ndarray | None,
) -> None:
    """Check a user's loss on four trials; the losses of the package need no check.

    Parameters
    ----------
    objective : Objective
        The loss.
    network : RecurrentNetwork
        The network whose outputs it judges.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    targets : Targets
        Targets.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps.

    Raises
    ------
    ValueError
        If the loss fails, does not return one number per trial and step, is not finite, not
        differentiable, or random, changes its arguments, couples trials, or depends on masked
        steps.
    """
    loss = objective.loss
    if not callable(loss):
        return
    few = _choose_few(targets, mask)
    inputs, valid = to_tensors(X[few], None if mask is None else mask[few], network)
    with torch.no_grad():
        outputs = network.outputs(network.states(inputs))
    if not outputs.isfinite().all():  # Training or prediction says so.
        return
    outputs, y = loss_arguments(outputs, targets[few], valid)
    weight = torch.as_tensor(targets.weight[few], device=outputs.device)
    # A function that draws from torch's generator leaves it as it was.
    with isolated_torch_seed(0):
        _check_repeatable(loss, outputs, y)
        _check_trials_apart(loss, outputs, y)
        _check_derivative(loss, outputs, y, weight)
        if valid is not None and not valid.all():
            _check_padding(loss, outputs, y, valid)


def _choose_few(targets: Targets, mask: np.ndarray | None) -> np.ndarray:
    """Return the indices of four trials, of which the first is the shortest; some may recur."""
    n_trials = len(targets.weight)
    counts = targets.weight.reshape(n_trials, -1).any(axis=1)
    lengths = np.zeros(n_trials) if mask is None else mask.sum(axis=1)
    # The shortest first; among equally short ones, those with weights first.
    order = np.lexsort((~counts, lengths))
    others = [i for i in np.flatnonzero(counts) if i != order[0]]
    return np.resize([order[0], *others[: N_JUDGED - 1]], N_JUDGED)


def _check_derivative(loss: UserLoss, outputs: Tensor, y: Tensor, weight: Tensor) -> None:
    """Check that the loss and its derivative with respect to the outputs are finite."""
    slopes = []
    for scale in (1.0, 0.7):  # At two points, because a hinge may be flat at one of them.
        at = (scale * outputs).requires_grad_()
        losses = losses_of(loss, at, y.clone())
        counted = torch.where(weight > 0, losses, 0)
        if scale == 1.0 and not counted.isfinite().all():
            raise ValueError(
                f"{_is(loss)} not finite on the first trials, got values up to "
                f"{_largest(counted):.3g}; does it take logits or probabilities, and "
                "are outputs and y in its domain?"
            )
        slopes.append(_slope(loss, counted.sum(), at))
        if scale == 1.0 and not slopes[0].isfinite().all():
            raise ValueError(
                f"{_is(loss)} finite, but its derivative with respect to the outputs is not, got "
                f"{float(slopes[0][~slopes[0].isfinite()][0])}. Roots, norms and logarithms have "
                "no derivative at zero: add a small number, and give a y that is in the domain of "
                "the loss at all steps, including those of weight zero."
            )
    if not any(slope.any() for slope in slopes):
        warn_caller(
            f"{_is(loss)} flat on the first trials: its derivative with respect to the outputs is "
            "zero, and so is Err. round, sign, argmax, comparisons and detach have no derivative.",
            UserWarning,
        )


def _slope(loss: UserLoss, total: Tensor, outputs: Tensor) -> Tensor:
    if total.requires_grad:
        slope = torch.autograd.grad(total, outputs, allow_unused=True)[0]
        if slope is not None:
            return slope
    raise ValueError(
        f"{_is(loss)} not differentiable with respect to the outputs, got numbers that do not "
        "depend on them through differentiable operations. Leave out detach, numpy, argmax, round "
        "and comparisons."
    )


def _check_repeatable(loss: UserLoss, outputs: Tensor, y: Tensor) -> None:
    """Check that the loss depends on its arguments alone, and does not change them."""
    given, targets = outputs.clone(), y.clone()
    first = losses_of(loss, given, targets)
    for name, now, before in (("outputs", given, outputs), ("y", targets, y)):
        if not torch.equal(now, before):
            raise ValueError(
                f"loss: {name_of(loss)} must not change its arguments, got {name} changed in "
                "place; leave out operations that end in an underscore, and assignments to parts."
            )
    if first.requires_grad:  # The outputs do not require gradients here, so a parameter does.
        raise ValueError(
            f"loss: {name_of(loss)} must not hold parameters that train, got some with "
            "requires_grad=True, which no training would change; call requires_grad_(False)."
        )
    again = losses_of(loss, given, targets)
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        raise ValueError(
            f"loss: {name_of(loss)} must return the same numbers for the same arguments, got "
            f"two that differ by up to {_largest(first - again):.3g}; leave out dropout "
            "and noise (RecurrentTrainer(noise_std=...) adds noise to the states)."
        )


def _check_trials_apart(loss: UserLoss, outputs: Tensor, y: Tensor) -> None:
    """Check that the loss of a trial does not depend on the other trials."""
    # Give different outputs to trials that recur. Smaller outputs are in the domain of any loss.
    sizes = torch.linspace(1, 0.7, len(outputs), dtype=outputs.dtype, device=outputs.device)
    outputs = outputs * sizes[:, None, None]
    together = losses_of(loss, outputs, y)
    alone = torch.cat(
        [losses_of(loss, outputs[part], y[part]) for part in (slice(1), slice(1, 4))]
    )
    difference = _difference(together, alone)
    if difference:
        raise ValueError(
            f"loss: {name_of(loss)} must judge each trial on its own, got losses of {N_JUDGED} "
            f"trials that differ by up to {difference:.3g} from those of the same trials in "
            "smaller groups. Leave out means, norms and other operations over the first axis; if "
            "y has no axis of outputs, compare it with outputs[..., 0], so that shapes agree."
        )


def _check_padding(loss: UserLoss, outputs: Tensor, y: Tensor, valid: Tensor) -> None:
    """Check that the loss of valid steps does not depend on the numbers in masked ones."""
    other = torch.where(valid[..., None], outputs, 0.7 * outputs[:, :1])
    before, after = losses_of(loss, outputs, y), losses_of(loss, other, y)
    difference = _difference(before.where(valid, 0), after.where(valid, 0))
    if difference:
        raise ValueError(
            f"loss: {name_of(loss)} must not depend on masked steps, got losses of valid steps "
            f"that change by up to {difference:.3g} with the outputs there. Let the loss of a "
            "step depend on it and on earlier steps alone."
        )


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, or 0 if it is only rounding."""
    size = _largest(a.nan_to_num(0, 0, 0))
    tolerance = 1e3 * torch.finfo(a.dtype).eps
    if torch.allclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=True):
        return 0.0
    return _largest(a - b)


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().max())


def _is(loss: Callable) -> str:
    return f"loss: {name_of(loss)}(outputs, y) is"
