"""Check that a step depends on its arguments alone: it is run again in another order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._module_run import Trials, first_difference
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._step_errors import KEEPS


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
