"""Refuse a user's step in which trials influence one another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._module_run import tolerance


def refuse_coupled_trials(step: UserStep, t: int, x: Tensor, z: Tensor) -> None:
    """Compare one step of some trials with the same step of all trials.

    Parameters
    ----------
    step : UserStep
        The step, without frozen random numbers. A step that is random is not judged.
    t : int
        Index of the step.
    x : Tensor of shape (n_trials, n_features)
        Inputs of at least two trials.
    z : Tensor of shape (n_trials, n_states)
        The states before the step.

    Raises
    ------
    UnsupportedNetworkError
        If the next states of half of the trials depend on the other trials, or if the step fails
        on them alone.
    """
    half = len(x) // 2
    with torch.no_grad():
        try:
            together, again = (_seeded(step, seed, t, x, z) for seed in (0, 1))
        except Exception:  # Its errors are those of the run.
            return
        if not (torch.equal(together, again) and together.isfinite().all()):
            return
        try:
            alone = _seeded(step, 0, t, x[:half], z[:half])
        except Exception as error:  # A user's step can fail in any way.
            raise UnsupportedNetworkError(
                f"the {_label(step)} takes a step of {len(x)} trials, but fails on {half} of them "
                f"with {type(error).__name__}: {error}. It must take any number of trials."
            ) from error
    gap = float((together[:half] - alone).abs().max())
    # Products of many rows and of a few may differ in their order.
    if gap <= tolerance(together.to(z.dtype)):
        return
    raise UnsupportedNetworkError(
        f"the {_label(step)} couples trials: the next states of {half} of {len(x)} trials change "
        f"by up to {gap:.2g} when it is given these trials alone.{batch_norms(step.module)} "
        "The derivatives of the analysis are those of each trial alone; use a step that "
        "computes every trial alone."
    )


def _seeded(step: UserStep, seed: int, t: int, x: Tensor, z: Tensor) -> Tensor:
    with isolated_torch_seed(seed):
        return step(t, x, z)


def _label(step: UserStep) -> str:
    return getattr(step.module, "label", f"cell {type(step.module).__name__}")


def batch_norms(module: nn.Module) -> str:
    """Return a sentence that names the modules that normalise over the batch, if there are any."""
    names = [
        f"{name.removeprefix('network.') or 'the cell'} ({type(part).__name__})"
        for name, part in named_parts(module)
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is None
    ]
    if not names:
        return ""
    return (
        f" It contains {', '.join(names)} with track_running_stats=False, which uses the "
        "statistics of the batch in evaluation mode too; LayerNorm normalises each trial alone."
    )
