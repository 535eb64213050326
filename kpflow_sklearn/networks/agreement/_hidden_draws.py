"""Random numbers that a step uses in training mode only, which noise="frozen" leaves out."""

from __future__ import annotations

import torch
from torch import Tensor

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.modules import set_training
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.cells import Recorder, UserStep, dropout_acts
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._user_code import run_twice

#: What is frozen.
_FROZEN = "it analyses evaluation mode, in which only the modules nn.Dropout are switched on again"


def refuse_hidden_draws(step: UserStep, inputs: Tensor, before: Tensor) -> None:
    """Refuse a step with frozen noise that uses more random numbers in training mode.

    Parameters
    ----------
    step : UserStep
        The step, which has been run on all steps of the trials.
    inputs : Tensor of shape (n_trials, n_timesteps, n_inputs)
        Its inputs.
    before : Tensor of shape (n_trials, n_timesteps, n_states)
        The states before every step.

    Raises
    ------
    UnsupportedNetworkError
        If it draws more numbers in training mode than with frozen noise, or if it is random only
        in training mode.

    Warns
    -----
    UserWarning
        If it draws no numbers at all.
    """
    module = set_training(copy_module(step.module), True)
    training = UserStep(module, step.sizes, step.is_tuple, None, step.prefix, step.label)
    n_timesteps = inputs.shape[1]
    for t in sorted({0, n_timesteps // 2, n_timesteps - 1}):
        try:
            in_training = _randomness(training, inputs[:, t], before[:, t])
        except Exception:  # A user's step can fail in any way in training mode.
            return
        with dropout_acts(step.module):
            frozen = _randomness(step.unfrozen(), inputs[:, t], before[:, t])
        if in_training[0] > frozen[0] or in_training[1] > frozen[1]:
            raise UnsupportedNetworkError(
                f"the {step.label} uses random numbers in training mode that noise='frozen' would "
                f"leave out: {_FROZEN}, but nothing else that depends on self.training, such as "
                "torch.nn.functional.dropout(h, p, self.training), zoneout, or noise that is "
                "added if self.training. Let these draws depend on a flag of your own, for "
                "example self.is_noisy, or use nn.Dropout. noise='off' analyses the step without "
                "noise."
            )
    if not step.has_drawn:
        warn_without_draws(step.label)


def warn_without_draws(label: str) -> None:
    """Warn that frozen noise changes nothing in a step, which is given in words."""
    warn_caller(
        f"noise='frozen' has no effect, because the {label} draws no numbers from torch's "
        f"generator; {_FROZEN}. Noise can be frozen if the step draws it, by a flag of your own "
        "or by nn.Dropout. If the network has none, noise='off' gives the same results.",
        UserWarning,
    )


def _randomness(step: UserStep, x: Tensor, z: Tensor) -> tuple[int, bool]:
    """Return the number of random operations of two steps, and whether their results differ."""
    with Recorder() as recorder, torch.no_grad():
        first, second = run_twice(step, 0, x, z)
    return recorder.n_draws, not torch.equal(first, second)
