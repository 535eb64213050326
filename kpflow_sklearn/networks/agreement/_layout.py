"""Whether X has the features that a network takes, and whether a module takes steps first."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn.networks._encoders import FED_BACK
from kpflow_sklearn.networks._network import RecurrentNetwork, to_tensors
from kpflow_sklearn.networks._user_code import run_seeded
from kpflow_sklearn.networks.agreement._containers import CONTAINERS
from kpflow_sklearn.networks.agreement._module_run import tensors_in
from kpflow_sklearn.networks.loss import Objective, TargetEncoder, Targets

_N_TRIALS, _N_STEPS = 64, 200  # Size of the data on which the two readings are compared.
CLEARLY = 0.5  # A loss below this share of another decides between the two.


def check_features(network: RecurrentNetwork, X: np.ndarray) -> None:
    """Check that a network takes the features of X (n_trials, n_timesteps, n_features).

    Raises ValueError if it takes another number.
    """
    expected = network.n_features
    if expected in (None, X.shape[-1]):
        return
    advice = (
        " If a part of it transforms X before the recurrent part, name that part: "
        "SavedTraining(..., encoder=...)."
    )
    if X.shape[1] == expected:
        advice = (
            f" The second axis of X has {expected}: if X has the shape (n_trials, n_channels, "
            "n_timesteps), as in aeon, give X.transpose(0, 2, 1)."
        )
    if X.shape[-1] < expected:
        advice += f" {FED_BACK}"
    raise ValueError(f"X has {X.shape[-1]} features, but the network takes {expected}.{advice}")


def takes_steps_first(module: nn.Module, network: RecurrentNetwork, X: np.ndarray) -> bool | None:
    """Tell whether the first axis of the module's input is time.

    Parameters
    ----------
    module : Module
        The user's network.
    network : RecurrentNetwork
        The same network, as it was recognised.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.

    Returns
    -------
    bool or None
        None if the module has no forward method, or if the forward method does not show it.
    """
    if isinstance(module, RecurrentNetwork):
        return False
    if isinstance(module, CONTAINERS):
        return None
    try:
        reach = _reach(module, network, X)
    except Exception:  # A user's forward can fail in any way.
        if _takes_channels_first(module, network, X):
            return False
        reach = np.zeros((3, 3), bool)
    # An output depends on several inputs of its own trial, and on none of the others.
    n_rows, n_columns = int(reach.any(1).sum()), int(reach.any(0).sum())
    if 1 in (n_rows, n_columns) and n_rows != n_columns:
        return n_columns == 1
    core = network.recurrent
    return not core.batch_first if isinstance(core, nn.RNNBase) else None


def _reach(module: nn.Module, network: RecurrentNetwork, X: np.ndarray) -> np.ndarray:
    """Return, (3, 3), whether the last output depends on each entry of an input (3, 3, ...)."""
    few = X[np.arange(3) % len(X)][:, np.arange(3) % X.shape[1]]
    push = 0.1 * (abs(few).max() or 1.0)
    changed = np.repeat(few[None], 10, axis=0)  # The last of the ten stays as it is.
    for k in range(9):
        changed[k, k // 3, k % 3] += push
    answers = [_last_output(module, to_tensors(x, None, network)[0]) for x in changed]
    return np.array([bool((a != answers[-1]).any()) for a in answers[:-1]]).reshape(3, 3)


def _takes_channels_first(module: nn.Module, network: RecurrentNetwork, X: np.ndarray) -> bool:
    """Tell whether the module takes (n_trials, n_features, n_timesteps), as convolutions do."""
    try:
        _last_output(module, to_tensors(X[:3], None, network)[0].mT)
    except Exception:  # A user's forward can fail in any way.
        return False
    return True


@torch.no_grad()
def _last_output(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the module's outputs for the last trial at the last step."""
    outputs = next(tensors_in(run_seeded(module, 0, inputs)))
    return outputs[-1, -1] if outputs.ndim == 3 else outputs[-1]


def losses_by_layout(
    network: RecurrentNetwork,
    objective: Objective,
    encoder: TargetEncoder,
    X: np.ndarray,
    y: ArrayLike | None,
) -> tuple[float, float] | None:
    """Return the loss with X as (trials, steps), and that with X as (steps, trials).

    Parameters
    ----------
    network : RecurrentNetwork
        The network.
    objective : Objective
        Its loss.
    encoder : TargetEncoder
        The form of y.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    y : array-like or None
        Targets.

    Returns
    -------
    tuple of float, or None
        A loss that is not clearly below the loss with the targets of other trials says nothing
        about the layout, and infinity is returned for it. None if y can only be read with trials
        first.
    """
    values = None if y is None else as_array(y, "y")
    if values is not None and values.ndim == 1 and len(X) != X.shape[1]:
        return None
    turned = values if values is None or values.ndim == 1 else values.swapaxes(0, 1)
    with torch.no_grad():
        return (
            _loss(network, objective, encoder, X, values),
            _loss(network, objective, encoder, X.swapaxes(0, 1), turned),
        )


def _loss(
    network: RecurrentNetwork,
    objective: Objective,
    encoder: TargetEncoder,
    X: np.ndarray,
    y: np.ndarray | None,
) -> float:
    X = np.ascontiguousarray(
        X[:_N_TRIALS, :_N_STEPS] if y is None or y.ndim > 1 else X[:_N_TRIALS]
    )
    if y is not None:
        y = y[:_N_TRIALS, :_N_STEPS] if y.ndim > 1 else y[:_N_TRIALS]
    targets = encoder.encode(X, y)
    try:
        states = network.states(to_tensors(X, None, network)[0])
        loss, by_chance = (
            float(objective.value(network, states, Targets(values, targets.weight), None))
            for values in (targets.values, np.roll(targets.values, max(len(X) // 2, 1), axis=0))
        )
    except Exception:  # A user's step or loss can fail, for example on other numbers of trials.
        return float("inf")
    # A user's loss may be negative; then it is not compared.
    return loss if 0 <= loss < CLEARLY * by_chance else float("inf")


def is_prefix_both_ways(mask: np.ndarray) -> bool:
    """Tell whether a mask marks a prefix of each trial with its two axes exchanged too."""
    return bool(mask[0].all() and not (mask[1:] & ~mask[:-1]).any())
