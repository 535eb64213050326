"""Check that a recognised network reproduces the states and outputs of the user's module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.modules import named_once, named_parts, parameters_of
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.cells import ConstantDraws
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._comparison import Comparison
from kpflow_sklearn.networks._coupling import (
    refuse_coupled_encoder,
    refuse_coupled_trials,
)
from kpflow_sklearn.networks._encoders import describe
from kpflow_sklearn.networks._functions import is_kept_apart
from kpflow_sklearn.networks._gradients import is_given_as_values, warn_of_other_gradients
from kpflow_sklearn.networks._initial_state import axes_advice, find_start, with_advice
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._module_run import (
    Trials,
    first_difference,
    run_module,
    tolerance,
)
from kpflow_sklearn.networks._network import RecurrentNetwork, to_tensors, unfrozen
from kpflow_sklearn.networks._parameter_use import (
    ParameterUse,
    Rehearsal,
    refuse_embeddings,
    refuse_shared,
    warn_of_gradient_hooks,
)
from kpflow_sklearn.networks._remedies import further_parameters
from kpflow_sklearn.networks._step_errors import KEEPS, run_step
from kpflow_sklearn.networks._step_order import refuse_other_order

N_CHECKED = 8  # Number of trials on which the two are compared.
_RANDOM = {
    False: "It is random even in evaluation mode: noise='frozen' analyses one realisation of the "
    "numbers that it draws from torch's generator; those of another generator cannot be frozen.",
    True: "It draws random numbers from another generator than torch's; these cannot be frozen.",
}
_CONSTANT = (
    "In this comparison, every random number that either of them draws is the same constant, so "
    "the step must draw from the same distributions as the module."
)
_OTHER_DRAWS = (
    "draws random numbers by {} (noise='frozen'), which cannot be made the same in both: check "
    "step, readout and initial_state yourself"
)
CONTAINERS = (nn.ModuleDict, nn.ModuleList)  # These have no forward method.


def check_rebuilt(
    module: nn.Module,
    view: RecurrentNetwork,
    X: np.ndarray,
    mask: np.ndarray | None,
    *,
    original: nn.Module | None = None,
    initial_state: Any = None,
    check_outputs: bool = True,
) -> None:
    """Compare states and outputs with those of the user's module, on a few trials.

    Parameters
    ----------
    module : Module
        The user's network, or a copy of it, in evaluation mode.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps. Others are not compared.
    original : Module, optional
        The user's network if ``module`` is a copy, which lacks gradient hooks and shared memory.
    initial_state : Any, optional
        z_0 as the user gave it to `recognise_network`.
    check_outputs : bool, default=True
        Whether the module must return the readout of the states. False only compares the states.

    Raises
    ------
    UnsupportedNetworkError
        If they differ, naming the first step and trial where they do; if the step or the module
        is random, or couples trials; if the module cannot be run on X; if it trains parameters
        that belong to no recognised part, or to two.

    Warns
    -----
    UserWarning
        If gradients of the module differ from those of the rebuilt network, or if the two cannot
        be compared.
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
    )
    advice = axes_advice(find_start(module, initial_state)[0])
    states = _checked_states(view, trials, advice)
    if not _is_frozen(view):
        check(view, states=states)
        return
    # The module draws other numbers than the frozen ones, so both are given the same constant.
    with isolated_torch_seed(0), ConstantDraws() as draws:
        plain = unfrozen(view)
        with torch.no_grad():
            states = _run(plain, trials.X)
            if not draws.other:
                _refuse_coupled(plain, plain.encode(trials.X), states)
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
    draws: ConstantDraws | None = None,
) -> None:
    """Compare the parts of a rebuilt network with its module, as `check_rebuilt` does."""
    rehearsal = Rehearsal(module, view, initial_state)
    use = rehearsal.rebuilt(trials.X[:2], n_steps=2)
    if use.left_out(use.sizes):  # Other steps and trials may use more; this takes more memory.
        use = rehearsal.rebuilt(trials.X)
    refuse_embeddings(module, use)
    refuse_shared(original, use)
    warn_of_gradient_hooks(original, use.theta)
    _warn_of_trained_encoder(module, view, use)
    whole = _callable_part(module, use)
    if whole is None:
        if check_outputs:
            _refuse_unused(module, view, use)
        return
    if view.readout is None and whole is view.recurrent and whole is not module:
        _refuse_unused(module, view, use)
    comparison = Comparison(whole, view, trials, states, check_outputs)
    problem = comparison.problem()
    if problem is not None and draws is not None and draws.other:
        comparison.warn_not_compared(_OTHER_DRAWS.format(draws.other))
        problem = None
    left_out = use.left_out(use.sizes)
    if left_out:
        left_out = use.left_out(_used(rehearsal, module, comparison))
    further = further_parameters(whole, left_out, use, view, initial_state, check_outputs)
    if problem is not None:
        comparison.refuse(problem, further if draws is None else f"{further} {_CONSTANT}".strip())
    _refuse_left_out(left_out, use, further, comparison.is_compared)
    if comparison.is_compared:
        warn_of_other_gradients(
            type(whole).__name__,
            rehearsal,
            _results(rehearsal, module, comparison),
            use.step & use.trained,
            trials,
            is_given_as_values(initial_state),
        )


def _refuse_left_out(
    left_out: list[str], use: ParameterUse, further: str, is_compared: bool
) -> None:
    """Refuse parameters that states or outputs depend on, but that belong to no part."""
    remedy = (
        "Name by SavedTraining(...) an encoder (encoder=...) that contains them if they act on X "
        "before the step, or a step (step=...) and a readout (readout=...) that contain them; a "
        "weight that forward computes from them must be computed inside the step"
    )
    if is_compared:  # Otherwise all must belong.
        left_out = [name for name in left_out if name in use.trained]
        remedy += "; or, to treat them as fixed, set their requires_grad to False"
    if left_out:
        raise UnsupportedNetworkError(f"{further} {remedy}.")


def _is_frozen(view: RecurrentNetwork) -> bool:
    return any(isinstance(y, UserLayer) and y.step.seed is not None for y in view.layers)


@torch.no_grad()
def _checked_states(view: RecurrentNetwork, trials: Trials, advice: str) -> Tensor:
    """Return the states of the rebuilt network, whose parts are checked on the way."""
    if view.encoder is not None:
        refuse_coupled_encoder(view.encoder, trials.X)
    with with_advice(advice):
        states = _reproducible_states(view, trials)
    if not _is_frozen(view):
        _refuse_coupled(view, view.encode(trials.X), states)
        _check_core(view, trials, view.rates(states))
    return states


def _choose_trials(X: np.ndarray, mask: np.ndarray | None, view: RecurrentNetwork) -> Trials:
    """Return the first trials, the longest of them first."""
    X = X[:N_CHECKED]
    valid = np.ones(X.shape[:2], bool) if mask is None else mask[:N_CHECKED]
    rows = np.argsort(-valid.sum(1), kind="stable")
    inputs, steps = to_tensors(X[rows], valid[rows], view)
    assert steps is not None
    return Trials(inputs, steps, torch.as_tensor(rows))


def _run(view: RecurrentNetwork, X: Tensor) -> Tensor:
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
            runs.append(_run(view, trials.X))
    if torch.equal(*runs):
        refuse_other_order(view, trials, runs[0])
        return runs[0]
    name = getattr(view.recurrent, "label", f"step of {type(view.recurrent).__name__}")
    where = first_difference(runs[0], runs[1], trials.rows, 0.0)
    raise UnsupportedNetworkError(
        f"the {name} returns other states when it is run again on the same trials, first at "
        f"{where}. {_RANDOM[_is_frozen(view)]} Or {KEEPS}"
    )


def _refuse_coupled(view: RecurrentNetwork, inputs: Tensor, states: Tensor) -> None:
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


def _callable_part(module: nn.Module, use: ParameterUse) -> nn.Module | None:
    """Return the module, or the part of a container that holds step and readout; None if none."""
    named = named_once(module)
    needed = {id(named[name]) for name in use.step | use.readout}
    while isinstance(module, CONTAINERS):
        holding = (
            part
            for part in module.children()
            if needed <= set(map(id, parameters_of(part).values()))
        )
        part = next(holding, None)
        if part is None:
            return None
        module = part
    return module


def _refuse_unused(module: nn.Module, view: RecurrentNetwork, use: ParameterUse) -> None:
    """Refuse further parameters of a container, which has no forward that shows their use."""
    others = use.left_out(use.sizes)
    if not others:
        return
    what, remedy = (
        (
            "belong to no encoder, step, readout or initial state",
            "Give a ModuleDict of the recurrent part and the readout alone, with encoder='...' if "
            "others come before the recurrent part, or a module with a forward method.",
        )
        if view.readout is not None
        else (
            "do not belong to its recurrent part, in which no readout is recognised",
            "Give the recurrent part alone, with the X that it takes, or name the readout by "
            "SavedTraining(network, readout=...).",
        )
    )
    raise UnsupportedNetworkError(
        f"{type(module).__name__} has further parameters, {', '.join(others[:4])}, that "
        f"{what}, and no forward method that would show their use. {remedy}"
    )


def _warn_of_trained_encoder(module: nn.Module, view: RecurrentNetwork, use: ParameterUse) -> None:
    """Warn of parameters of the encoder that train, and so move the states too."""
    trained = [name for name in use.sizes if name in use.encoder & use.trained]
    if view.encoder is not None and is_kept_apart(module, view.encoder):
        trained = [n for n, p in parameters_of(view.encoder).items() if p.requires_grad]
    if trained:
        listed = ", ".join(trained[:4]) + (", ..." if len(trained) > 4 else "")
        warn_caller(
            f"{listed} of {describe(view.encoder)} train, but are not in theta: K, PKP and the "
            "flow PKP* Err are those of the recurrent part, with the encoder held fixed. In "
            "training, the states moved by the change of the encoder too, which flow_agreement "
            "does not count as explained. To treat these parameters as fixed, without this "
            "warning, set their requires_grad to False.",
            UserWarning,
        )


def _used(rehearsal: Rehearsal, module: nn.Module, comparison: Comparison) -> list[str]:
    """Return the parameters on which the outputs of the module, or its states, depend."""
    return rehearsal.of(_results(rehearsal, module, comparison))


def _results(
    rehearsal: Rehearsal, module: nn.Module, comparison: Comparison
) -> Callable[..., list[Tensor]]:
    """Return a function that runs a copy of the module and returns what was compared of it.

    Its second argument are the trials, by default those of the comparison.
    """
    name = next(n for n, part in named_parts(module) if part is comparison.module)

    def run(copied: nn.Module, trials: Trials = comparison.trials) -> list[Tensor]:
        part = copied.get_submodule(name)
        return comparison.compared(run_module(part, rehearsal.view, trials, comparison.form))

    return run
