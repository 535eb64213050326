"""The states of the rebuilt network, and checks that they are what the analysis assumes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._initial_state import with_advice
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._user_code import run_twice
from kpflow_sklearn.networks.agreement._coupling import (
    refuse_coupled_encoder,
    refuse_coupled_trials,
)
from kpflow_sklearn.networks.agreement._differences import first_difference, tolerance
from kpflow_sklearn.networks.agreement._hidden_draws import refuse_hidden_draws
from kpflow_sklearn.networks.agreement._module_run import Trials
from kpflow_sklearn.networks.agreement._step_errors import KEEPS, refuse_assigned_weights, run_step

_RANDOM = {
    False: "It is random even in evaluation mode: noise='frozen' analyses one realisation of the "
    "numbers that it draws from torch's generator; those of another generator cannot be frozen.",
    True: "It draws random numbers from another generator than torch's; these cannot be frozen.",
}


@torch.no_grad()
def checked_states(view: RecurrentNetwork, trials: Trials, advice: str) -> Tensor:
    """Return the states of the rebuilt network, whose encoder and step are checked on the way.

    Parameters
    ----------
    view : RecurrentNetwork
        The rebuilt network.
    trials : Trials
        The trials.
    advice : str
        What to do if the step fails, besides the advice that fits its error.

    Returns
    -------
    Tensor of shape (n_trials, n_timesteps, n_states)
        The states after every step.

    Raises
    ------
    UnsupportedNetworkError
        If the step fails or is random, depends on more than its arguments, or couples trials; or
        if a module of torch has other states, because it has hooks.
    """
    if view.encoder is not None:
        refuse_coupled_encoder(view.encoder, trials.X)
    with with_advice(advice):
        states = _reproducible_states(view, trials)
    if not view.is_frozen:
        refuse_coupled_steps(view, trials.X, states)
        _check_core(view, trials, view.rates(states))
    return states


def finite_states(view: RecurrentNetwork, X: Tensor) -> Tensor:
    """Return the states, (n_trials, n_timesteps, n_states), of a run on X.

    Raises UnsupportedNetworkError if the step fails, or if a state is NaN or infinite.
    """
    states = run_step(view, view.encode(X))
    if not states.isfinite().all():
        raise UnsupportedNetworkError(
            f"on X, the network's step returns states that are NaN or beyond the range of "
            f"{view.dtype}; the largest value of X is {float(X.abs().max()):.3g}: scale X or the "
            "weights down."
        )
    return states


def _reproducible_states(view: RecurrentNetwork, trials: Trials) -> Tensor:
    """Return the states; refuse those that differ between two runs, or in another order."""
    layer, core = view.layers[0], view.recurrent
    step = layer.step if isinstance(layer, UserLayer) else None
    label = f"step of {type(core).__name__}" if step is None else step.label
    states, again = run_twice(finite_states, view, trials.X)
    if not torch.equal(states, again):
        where = first_difference(states, again, trials.rows, 0.0)
        raise UnsupportedNetworkError(
            f"the {label} returns other states when it is run again on the same trials, first at "
            f"{where}. {_RANDOM[view.is_frozen]} Or {KEEPS}"
        )
    if step is None:
        return states
    # The same numbers are added up in the same step, perhaps in another order.
    bound = 100 * torch.finfo(states.dtype).eps * max(1.0, float(states.abs().max()))
    inputs, before = view.encode(trials.X), _before(view, states)
    again = _shuffled_states(step, inputs, before)
    if not float((again - states).abs().max()) <= bound:
        where = first_difference(again, states, trials.rows, bound)
        raise UnsupportedNetworkError(
            f"the {label} returns another state when it is run again, out of order, with the "
            f"same x_t and h, first at {where}. Thus {KEEPS}"
        )
    refuse_assigned_weights(step, inputs[:2, 0], before[:2, 0])
    if view.is_frozen:
        refuse_hidden_draws(step, inputs, before)
    return states


def _shuffled_states(step: UserStep, inputs: Tensor, before: Tensor) -> Tensor:
    """Return the states that follow those before every step, in a random order of the steps.

    Derivatives evaluate the steps in any order. A counter on ``self`` would then be wrong, even
    if the number of steps is a multiple of its period, so that whole runs are the same.
    """
    states = torch.empty_like(before)
    # A permutation, because a reversed order can be that of a counter too.
    for t in np.random.RandomState(0).permutation(before.shape[1]):
        states[:, t] = step(int(t), inputs[:, t], before[:, t])
    return states


def refuse_coupled_steps(view: RecurrentNetwork, X: Tensor, states: Tensor) -> None:
    """Check at a few steps that the trials do not influence one another in a user's step.

    Parameters
    ----------
    view : RecurrentNetwork
        The rebuilt network.
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        Inputs.
    states : Tensor of shape (n_trials, n_timesteps, n_states)
        Its states.

    Raises
    ------
    UnsupportedNetworkError
        If they do, or if the step is random.
    """
    layer, inputs = view.layers[0], view.encode(X)
    if not isinstance(layer, UserLayer):
        return
    if len(inputs) == 1:  # Its steps in reverse order are a second trial.
        inputs = torch.cat([inputs, inputs.flip(1)])
        states = run_step(view, inputs)
    before, n_timesteps = _before(view, states), inputs.shape[1]
    for t in sorted({0, n_timesteps // 2, n_timesteps - 1}):
        refuse_coupled_trials(layer.step, t, inputs[:, t], before[:, t], KEEPS)


def _before(view: RecurrentNetwork, states: Tensor) -> Tensor:
    """Return z_{t-1} of every step, (n_trials, n_timesteps, n_states)."""
    return torch.cat([view.initial_state.expand(len(states), 1, -1), states[:, :-1]], dim=1)


def _check_core(view: RecurrentNetwork, trials: Trials, ours: Tensor) -> None:
    """Compare the rates with the output of torch's recurrent module, from the same z_0."""
    core = view.recurrent
    if not isinstance(core, nn.RNNBase):
        return
    X = view.encode(trials.X)
    shape = (core.num_layers, -1, core.hidden_size)
    parts = view.initial_state.unflatten(0, shape).movedim(1, 0)[:, :, None]
    start = parts.expand(-1, -1, len(X), -1).contiguous()
    inputs = X if core.batch_first else X.transpose(0, 1)
    theirs = core(inputs, tuple(start) if len(start) == 2 else start[0])[0]
    theirs = theirs if core.batch_first else theirs.transpose(0, 1)
    gap = float((ours - theirs).abs().max())
    if not gap <= tolerance(theirs):
        raise UnsupportedNetworkError(
            f"the rebuilt step does not reproduce the states of {type(core).__name__}: they "
            f"differ by up to {gap:.2g}, first at {first_difference(ours, theirs, trials.rows)}. "
            + _why_core_differs(core)
        )


def _why_core_differs(core: nn.RNNBase) -> str:
    """Say what changes the output of one of torch's layers."""
    if core._forward_hooks or core._forward_pre_hooks:
        return (
            "It has forward hooks, of which the analysis does not know. Remove them and let "
            "forward of the network do what they do: what changes the inputs is part of the "
            "encoder (encoder=...), what changes the outputs part of the readout (readout=...)."
        )
    return "If its class has a forward of its own, name one step of that as step='...'."
