"""Refuse a user's step or encoder in which trials influence one another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import describe, run_encoder
from kpflow_sklearn.networks._functions import parts_in_network
from kpflow_sklearn.networks._user_code import run_seeded, run_twice, sentence
from kpflow_sklearn.networks.agreement._differences import tolerance


def refuse_coupled_trials(
    step: UserStep, t: int, x: Tensor, z: Tensor, unless_same: str = ""
) -> None:
    """Compare one step of some trials with the same step of all trials.

    Parameters
    ----------
    step : UserStep
        The step, without frozen random numbers.
    t : int
        Index of the step.
    x : Tensor of shape (n_trials, n_features)
        Inputs of at least two trials.
    z : Tensor of shape (n_trials, n_states)
        The states before the step.
    unless_same : str, default=""
        What the error says of a step that returns other states when it is called again, such as
        "it is random"; "" accepts such a step unchecked.

    Raises
    ------
    UnsupportedNetworkError
        If the next states of half of the trials depend on the other trials, if the step fails
        on this half alone, or for the reason of ``unless_same``.
    """

    def run(x: Tensor, z: Tensor) -> Tensor:
        return step(t, x, z)

    with torch.no_grad():
        try:
            together, again = run_twice(run, x, z)
        except Exception:  # Its errors are those of the run.
            return
    if not together.isfinite().all():
        return
    if torch.equal(together, again):
        _refuse_coupled(run, (x, z), together, step.label, "next states", step.module, unless_same)
    elif unless_same:
        raise UnsupportedNetworkError(
            f"the {step.label} returns other next states when it is called again with the same "
            f"inputs and states: {unless_same}"
        )


def refuse_coupled_encoder(encoder: nn.Module, X: Tensor) -> None:
    """Compare the result of an encoder for some trials with that for all trials.

    Parameters
    ----------
    encoder : Module
        The encoder.
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        At least one trial. If there is only one, a second one holds its first input at all steps.

    Raises
    ------
    UnsupportedNetworkError
        If the result is not finite or is random, if the result for half of the trials depends on
        the other trials, or if the encoder fails on this half alone.
    """
    X = torch.cat([X, X[:, :1].expand_as(X)]) if len(X) == 1 else X
    label = describe(encoder)
    with torch.no_grad():
        together, again = run_twice(run_encoder, encoder, X, None)
    if not together.isfinite().all():
        raise UnsupportedNetworkError(
            f"{label} returns NaN or infinity on X, whose largest value is "
            f"{float(X.abs().max()):.3g}."
        )
    if not torch.equal(together, again):
        raise UnsupportedNetworkError(
            f"{label} is random even in evaluation mode: two calls on the same trials return "
            "different numbers. Look for torch.nn.functional.dropout without "
            "training=self.training, and for noise, and switch it off in evaluation mode; or for "
            "something that it keeps between calls, such as a state on self."
        )
    _refuse_coupled(encoder, (X,), together, label.removeprefix("the "), "results", encoder)


def _refuse_coupled(
    run: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    together: Tensor,
    label: str,
    what: str,
    part: nn.Module,
    perhaps: str = "",
) -> None:
    """Compare what a function returns for half of the trials with that for all of them."""
    n_trials = len(together)
    half = n_trials // 2
    try:
        with torch.no_grad():
            alone = run_seeded(run, 0, *(tensor[:half].clone() for tensor in inputs))
    except Exception as error:  # A user's module can fail in any way.
        raise UnsupportedNetworkError(
            f"the {label} takes a step of {n_trials} trials, but fails on {half} of them "
            f"with {type(error).__name__}: {sentence(error)} It must take any number of trials."
            + (f" Perhaps {perhaps}" if perhaps else "")
        ) from error
    gap = float((together[:half] - alone).abs().max())
    # Products with many rows and with few rows may add their terms in another order.
    bound = tolerance(together.to(inputs[-1].dtype))
    cause = f"of {half} of {n_trials} trials change by up to {gap:.2g} if it is given these alone"
    if gap <= bound:
        # One trial alone may decide for all, as in `if x[0, 0] > 0`.
        gap = _largest_change_by_order(run, inputs, together)
        cause = f"change by up to {gap:.2g} if it is given the trials in another order"
    if gap <= bound:
        return
    raise UnsupportedNetworkError(
        f"the {label} couples trials: the {what} {cause}.{batch_norms(part)} "
        "The derivatives of the analysis are those of each trial alone; use one that "
        "computes every trial alone."
    )


def _largest_change_by_order(
    run: Callable[..., Tensor], inputs: tuple[Tensor, ...], together: Tensor
) -> float:
    """Return by how much results change if each of the trials becomes the first one."""
    gaps = [0.0]
    with torch.no_grad():
        for k in range(1, len(together)):
            rolled = run_seeded(run, 0, *(tensor.roll(k, 0) for tensor in inputs))
            gaps.append(float((rolled.roll(-k, 0) - together).abs().max()))
    return max(gaps)


def batch_norms(module: nn.Module) -> str:
    """Return a sentence that names the modules that normalise over the batch, if there are any."""
    names = [
        f"{name or 'the cell'} ({type(part).__name__})"
        for name, part in parts_in_network(module)
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is None
    ]
    if not names:
        return ""
    return (
        f" It contains {', '.join(names)} with track_running_stats=False, which uses the "
        "statistics of the batch in evaluation mode too; LayerNorm normalises each trial alone."
    )
