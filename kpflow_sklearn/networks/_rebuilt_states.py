"""The states of the rebuilt network, and checks that they are what the analysis assumes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._coupling import refuse_coupled_encoder, refuse_coupled_trials
from kpflow_sklearn.networks._differences import first_difference, tolerance
from kpflow_sklearn.networks._initial_state import with_advice
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._module_run import Trials
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._step_errors import KEEPS, run_step

_RANDOM = {
    False: "It is random even in evaluation mode: noise='frozen' analyses one realisation of the "
    "numbers that it draws from torch's generator; those of another generator cannot be frozen.",
    True: "It draws random numbers from another generator than torch's; these cannot be frozen.",
}


def is_frozen(view: RecurrentNetwork) -> bool:
    return any(isinstance(y, UserLayer) and y.step.seed is not None for y in view.layers)


@torch.no_grad()
def checked_states(view: RecurrentNetwork, trials: Trials, advice: str) -> Tensor:
    """Return the states of the rebuilt network, whose parts are checked on the way."""
    if view.encoder is not None:
        refuse_coupled_encoder(view.encoder, trials.X)
    with with_advice(advice):
        states = _reproducible_states(view, trials)
    if not is_frozen(view):
        refuse_coupled(view, view.encode(trials.X), states)
        _check_core(view, trials, view.rates(states))
    return states


def run_finite(view: RecurrentNetwork, X: Tensor) -> Tensor:
    """Return the states; raise an UnsupportedNetworkError if the step fails."""
    states = run_step(view, view.encode(X))
    if not states.isfinite().all():
        raise UnsupportedNetworkError(
            f"on X, the network's step returns states that are NaN or beyond the range of "
            f"{view.dtype}; the largest value of X is {float(X.abs().max()):.3g}: scale X or the "
            "weights down."
        )
    return states


def _reproducible_states(view: RecurrentNetwork, trials: Trials) -> Tensor:
    """Return the states; raise an UnsupportedNetworkError if they are random."""
    runs = []
    for seed in (0, 1):
        with isolated_torch_seed(seed):
            runs.append(run_finite(view, trials.X))
    if torch.equal(*runs):
        refuse_other_order(view, trials, runs[0])
        return runs[0]
    name = getattr(view.recurrent, "label", f"step of {type(view.recurrent).__name__}")
    where = first_difference(runs[0], runs[1], trials.rows, 0.0)
    raise UnsupportedNetworkError(
        f"the {name} returns other states when it is run again on the same trials, first at "
        f"{where}. {_RANDOM[is_frozen(view)]} Or {KEEPS}"
    )


def refuse_coupled(view: RecurrentNetwork, inputs: Tensor, states: Tensor) -> None:
    """Check at a few steps that the trials do not influence one another."""
    layer = view.layers[0]
    if not isinstance(layer, UserLayer):
        return
    if len(inputs) == 1:  # Its steps in reverse order are a second trial.
        inputs = torch.cat([inputs, inputs.flip(1)])
        states = run_step(view, inputs)
    before = torch.cat([view.initial_state.expand(len(inputs), 1, -1), states[:, :-1]], dim=1)
    n_timesteps = inputs.shape[1]
    for t in sorted({0, n_timesteps // 2, n_timesteps - 1}):
        refuse_coupled_trials(layer.step, t, inputs[:, t], before[:, t], KEEPS)


def _check_core(view: RecurrentNetwork, trials: Trials, ours: Tensor) -> None:
    """Compare the rates with the output of torch's recurrent module, from the same z_0."""
    core, X = view.recurrent, view.encode(trials.X)
    if not isinstance(core, nn.RNNBase):
        return
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


@torch.no_grad()
def refuse_other_order(view: RecurrentNetwork, trials: Trials, states: Tensor) -> None:
    """Refuse a step that gives other states if its steps are not taken one after another.

    Derivatives evaluate the steps in any order. A counter on ``self`` would then be wrong, even
    if the number of steps is a multiple of its period, so that whole runs are the same.

    Parameters
    ----------
    view : RecurrentNetwork
        The rebuilt network.
    trials : Trials
        The trials.
    states : Tensor of shape (n_trials, n_timesteps, n_states)
        The states of a run, which provide z_{t-1} and z_t of every step.

    Raises
    ------
    UnsupportedNetworkError
        If a step returns something else, naming the first one.
    """
    layer = view.layers[0]
    if not isinstance(layer, UserLayer):
        return
    inputs = view.encode(trials.X)
    start = view.initial_state.expand(len(inputs), 1, -1)
    before = torch.cat([start, states[:, :-1]], dim=1)
    again = torch.empty_like(states)
    # A permutation, because a reversed order can be that of a counter too.
    for t in np.random.RandomState(0).permutation(states.shape[1]):
        again[:, t] = layer.step(int(t), inputs[:, t], before[:, t].contiguous())
    # The same numbers are added up in the same step, perhaps in another order.
    bound = 100 * torch.finfo(states.dtype).eps * max(1.0, float(states.abs().max()))
    if float((again - states).abs().max()) <= bound:
        return
    where = first_difference(again, states, trials.rows, bound)
    name = getattr(view.recurrent, "label", f"step of {type(view.recurrent).__name__}")
    raise UnsupportedNetworkError(
        f"the {name} returns another state when it is run again, out of order, with the "
        f"same x_t and h, first at {where}. Thus {KEEPS}"
    )
