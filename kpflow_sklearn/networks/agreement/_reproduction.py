"""Check that a recognised network reproduces the states and outputs of the user's module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.cells import ConstantDraws
from kpflow_sklearn.networks._initial_state import axes_advice, find_start, is_given_as_values
from kpflow_sklearn.networks._network import RecurrentNetwork, to_tensors, unfrozen
from kpflow_sklearn.networks.agreement._comparison import Comparison
from kpflow_sklearn.networks.agreement._containers import callable_part, refuse_unused
from kpflow_sklearn.networks.agreement._gradients import warn_of_other_gradients
from kpflow_sklearn.networks.agreement._module_run import ModuleRun, Trials, run_module
from kpflow_sklearn.networks.agreement._parameter_use import ParameterUse, Rehearsal
from kpflow_sklearn.networks.agreement._rebuilt_states import (
    checked_states,
    finite_states,
    refuse_coupled_steps,
)
from kpflow_sklearn.networks.agreement._remedies import further_parameters
from kpflow_sklearn.networks.agreement._shared_parameters import refuse_shared
from kpflow_sklearn.networks.agreement._trained_parameters import (
    refuse_embeddings,
    refuse_left_out,
    warn_of_gradient_hooks,
    warn_of_trained_encoder,
    warn_of_unused,
)

N_CHECKED = 8  # The most trials on which the rebuilt network and the module are compared.
_CONSTANT = (
    "In this comparison, every random number that either of them draws is the same constant, so "
    "the step must draw from the same distributions as the module."
)
_OTHER_DRAWS = (
    "draws random numbers by {} (noise='frozen'), which cannot be made the same in both: check "
    "step, readout and initial_state yourself"
)


def check_rebuilt(
    module: nn.Module,
    view: RecurrentNetwork,
    X: np.ndarray,
    mask: np.ndarray | None,
    *,
    original: nn.Module | None = None,
    initial_state: Any = None,
    check_outputs: bool = True,
    changed: Collection[str] = (),
) -> None:
    """Compare a rebuilt network's states and outputs with the module's, on a few trials.

    Parameters
    ----------
    module : Module
        The user's network, or a copy of it, in evaluation mode.
    view : RecurrentNetwork
        The same network, rebuilt from its step, readout and initial state.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps. Others are not compared.
    original : Module, optional
        The user's network if ``module`` is a copy: copies have no gradient hooks and share no
        memory.
    initial_state : Any, optional
        z_0 as the user gave it to `recognise_network`.
    check_outputs : bool, default=True
        Whether the module must return the readout of the states. False only compares the states.
    changed : collection of str, default=()
        The parameters whose values differ between a checkpoint and the network as it was given.

    Raises
    ------
    UnsupportedNetworkError
        If the two differ (the message names the first step and trial); if the step or the module
        is random, or couples trials; if the module cannot be run on X, but is to be compared; if
        it trains a parameter that belongs to no recognised part, or to two, or an embedding whose
        gradient is not the derivative; or if it keeps tensors computed from another checkpoint.

    Warns
    -----
    UserWarning
        If gradients of the module differ from those of the rebuilt network or have hooks, if an
        encoder trains, if nothing depends on a parameter in theta, or if the two cannot be
        compared.
    """
    if module is view:
        return
    trials = _choose_trials(X, mask, view)
    check = partial(
        _check_parts,
        module,
        trials=trials,
        original=module if original is None else original,
        initial_state=initial_state,
        check_outputs=check_outputs,
        changed=changed,
    )
    advice = axes_advice(find_start(module, initial_state)[0])
    states = checked_states(view, trials, advice)
    if not view.is_frozen:
        check(view, states=states)
        return
    # The module does not draw the frozen numbers, so both get the same constant for all draws.
    with isolated_torch_seed(0), ConstantDraws() as draws:
        plain = unfrozen(view)
        with torch.no_grad():
            states = finite_states(plain, trials.X)
            if not draws.other:
                refuse_coupled_steps(plain, trials.X, states)
        check(plain, states=states, draws=draws)


def _check_parts(
    module: nn.Module,
    view: RecurrentNetwork,
    *,
    trials: Trials,
    states: Tensor,
    original: nn.Module,
    initial_state: Any,
    check_outputs: bool,
    changed: Collection[str],
    draws: ConstantDraws | None = None,
) -> None:
    """Make the comparison of `check_rebuilt`, with states that have been checked."""
    rehearsal = Rehearsal(module, view, initial_state)
    use = rehearsal.rebuilt(trials.X[:2], n_steps=2)
    if use.left_out(use.sizes):  # Other steps and trials may use further parameters.
        use = rehearsal.rebuilt(trials.X)
    refuse_embeddings(module, use)
    refuse_shared(original, use)
    warn_of_gradient_hooks(original, use.theta)
    warn_of_trained_encoder(module, view, use)
    whole = callable_part(module, use)
    if whole is None:
        if check_outputs:
            refuse_unused(module, view, use)
        return
    if view.readout is None and whole is view.recurrent and whole is not module:
        refuse_unused(module, view, use)
    comparison = Comparison(whole, view, trials, states, check_outputs)
    problem = comparison.problem()
    if problem is not None and draws is not None and draws.other:
        comparison.warn_not_compared(_OTHER_DRAWS.format(draws.other))
        problem = None
    results = _results(rehearsal, module, comparison, comparison.compared)
    left_out = use.left_out(use.sizes) and use.left_out(rehearsal.of(results))
    further = further_parameters(whole, left_out, use, view, initial_state, check_outputs)
    if problem is not None:
        comparison.refuse(problem, further if draws is None else f"{further} {_CONSTANT}".strip())
    refuse_left_out(left_out, use, further, comparison.is_compared)
    every_result = _results(rehearsal, module, comparison, ModuleRun.tensors)
    warn_of_unused(original, _unused(rehearsal, use, every_result), changed)
    if comparison.is_compared:
        warn_of_other_gradients(
            type(whole).__name__,
            rehearsal,
            results,
            use.theta,
            trials,
            is_given_as_values(initial_state),
        )


def _unused(
    rehearsal: Rehearsal, use: ParameterUse, run: Callable[[nn.Module], Iterable[Tensor]]
) -> list[str]:
    """Return the parameters in theta on which nothing depends that ``run(module)`` returns."""
    perhaps = [name for name in use.left_out(use.sizes) if name in rehearsal.in_theta]
    returned = rehearsal.of(run) if perhaps else []
    # If no result depends on a parameter, the module could not be run.
    return [name for name in perhaps if name not in returned] if returned else []


def _choose_trials(X: np.ndarray, mask: np.ndarray | None, view: RecurrentNetwork) -> Trials:
    """Return a few trials, the longest of them first.

    They are spread over X, because its trials may be sorted by condition. The longest and the one
    with the largest input are among them, which a network may treat differently.
    """
    valid = np.ones(X.shape[:2], bool) if mask is None else mask
    sizes = np.where(valid, np.abs(X).max(2), 0).max(1)
    extremes = [int(valid.sum(1).argmax()), int(sizes.argmax())]
    n_spread = N_CHECKED if len(X) <= N_CHECKED else N_CHECKED - len(extremes)
    spread = np.linspace(0, len(X) - 1, n_spread).round().astype(int)
    rows = np.unique([*extremes, *spread])
    rows = rows[np.argsort(-valid[rows].sum(1), kind="stable")]
    inputs, steps = to_tensors(X[rows], valid[rows], view)
    assert steps is not None
    return Trials(inputs, steps, torch.as_tensor(rows))


def _results(
    rehearsal: Rehearsal,
    module: nn.Module,
    comparison: Comparison,
    choice: Callable[[ModuleRun], list[Tensor]],
) -> Callable[..., list[Tensor]]:
    """Return a function of a copy of the module that runs it and returns a choice of its tensors.

    The second argument of that function is the trials, by default those of the comparison.
    """
    name = next(n for n, part in named_parts(module) if part is comparison.module)

    def run(copied: nn.Module, trials: Trials = comparison.trials) -> list[Tensor]:
        part = copied.get_submodule(name)
        return choice(run_module(part, rehearsal.view, trials, comparison.form))

    return run
