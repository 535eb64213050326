"""A user's loss: a function of outputs and targets that returns one number per trial and step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from kpflow_sklearn._common.fingerprints import name_of
from kpflow_sklearn._common.memory import ran_out
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.networks._user_code import sentence
from kpflow_sklearn.networks.loss._target_values import Targets

#: loss(outputs, y) of the shapes (n_trials, n_timesteps, n_outputs) and that of y, which returns
#: (n_trials, n_timesteps).
UserLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Loss: TypeAlias = str | UserLoss


def loss_arguments(
    outputs: Tensor, targets: Targets, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the arguments of a user's loss: the outputs, zero on masked steps, and y.

    Values of y have the dtype of the outputs, and integers are int64.
    """
    if mask is not None:
        # Padding must not enter the loss, nor Err, even if the derivative is infinite there.
        outputs = outputs.masked_fill(~mask[..., None], 0)
    is_integer = targets.values.dtype.kind in "iub"
    y = as_tensor(
        targets.values, torch.int64 if is_integer else outputs.dtype, device=outputs.device
    )
    return outputs, y


def weighted_losses(
    loss: UserLoss, outputs: Tensor, targets: Targets, mask: Tensor | None
) -> Tensor:
    """Return w_bt l_bt of a user's loss, (n_trials, n_timesteps), zero where w is zero.

    Raises ValueError if the loss fails, or does not return one number per trial and step.
    """
    weight = as_tensor(targets.weight, outputs.dtype, outputs.device)
    losses = losses_of(loss, *loss_arguments(outputs, targets, mask))
    return torch.where(weight > 0, weight * losses, 0)


def losses_of(loss: UserLoss, outputs: Tensor, y: Tensor) -> Tensor:
    """Return what a user's loss returns, (n_trials, n_timesteps) in the dtype of the outputs.

    Raises ValueError if the loss fails, or returns something else.
    """
    try:
        losses = loss(outputs, y)
    except Exception as error:  # A user's function can fail in any way.
        if ran_out(error):
            raise
        raise ValueError(
            f"loss: {name_of(loss)}(outputs, y) got {_in_words(outputs)} as outputs and "
            f"{_in_words(y)} as y, and failed with {type(error).__name__}: {sentence(error)} "
            f"{_hint(outputs, y)}"
        ) from error
    shape = tuple(outputs.shape[:2])
    if not isinstance(losses, Tensor) or losses.shape != shape or losses.dtype != outputs.dtype:
        raise ValueError(
            f"loss: {name_of(loss)}(outputs, y) must return one number per trial and step, a "
            f"tensor of shape {shape} and {outputs.dtype}, got {_in_words(losses)}; "
            f"{_advice(losses, outputs)}."
        )
    return losses


def _in_words(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype} on {value.device}"
    return f"a {type(value).__name__}"


def _hint(outputs: Tensor, y: Tensor) -> str:
    """Return what may help against the most frequent errors inside a loss."""
    hints = ["In the loss, convert the tensors that it holds by .to(outputs)"]
    if not y.is_floating_point():
        hints.append("convert the integers in y by y.to(outputs.dtype) if it needs floats")
    if y.ndim == 2:
        hints.append("compare y, which has no axis of outputs, with outputs[..., 0]")
        if outputs.shape[-1] == 1:
            hints.append(
                "for the logits of several classes, give y as one-hot codes (n_trials, "
                "n_timesteps, n_classes), because a new network has as many outputs"
            )
    return f"{'; '.join(hints)}."


def _advice(losses: object, outputs: Tensor) -> str:
    """Return what to do about a result of a wrong type, shape or dtype."""
    if not isinstance(losses, Tensor):
        return "compute it from outputs by operations of torch, without float() or numpy()"
    if losses.ndim == 0:
        return (
            "do not average or sum over trials and steps: losses of torch take "
            'reduction="none", and then .mean(-1) over the outputs'
        )
    if losses.shape == outputs.shape:
        return "take the mean over the outputs, by .mean(-1) at the end"
    if losses.shape == outputs.shape[:2]:
        return "convert the tensors that it holds by .to(outputs), and leave out casts"
    if losses.ndim == 1:
        return "do not average or sum over steps, which the package does with mask and weights"
    return "reduce the axis of the outputs only; if y has none, compare it with outputs[..., 0]"
