"""Does the rebuilt step reproduce the module's own states and outputs? If not, where they part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._network import RecurrentNetwork, to_tensors

N_CHECKED = 8  # Trials that the rebuilt network is held against the module on.


def check_rebuilt(
    module: nn.Module,
    view: RecurrentNetwork,
    trials: np.ndarray,
    mask: np.ndarray | None,
    *,
    compare_outputs: bool,
) -> None:
    """Compare the rebuilt states and outputs with the module's own, on a few trials.

    Parameters
    ----------
    module : Module
        The user's network, in evaluation mode.
    view : RecurrentNetwork
        The same as step, readout and initial state.
    trials : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    mask : ndarray of bool or None
        Valid steps.
    compare_outputs : bool
        Whether what the module returns must be the readout of the states; what its readout is
        given is compared in any case.

    Raises
    ------
    UnsupportedNetworkError
        If they differ, with the first trial and step at which they do; or if the step is random
        or the module cannot be run on X.
    """
    if module is view:
        return
    X, _ = to_tensors(trials[:N_CHECKED], None if mask is None else mask[:N_CHECKED], view)
    with torch.no_grad():
        states = _reproducible_states(view, X)
        if any(isinstance(y, UserLayer) and y.step.seed is not None for y in view.layers):
            return  # The module draws other numbers than the frozen ones.
        _check_core(module, view, X, view.rates(states))
        if isinstance(module, (nn.ModuleDict, nn.ModuleList)):
            return  # Has no forward of its own.
        is_named = isinstance(view.layers[0], UserLayer)
        if compare_outputs or is_named:
            _check_forward(module, view, X, states, compare_outputs)


def _run(view: RecurrentNetwork, X: Tensor) -> Tensor:
    """Return the states, or say why there are none."""
    try:
        states = view.states(X)
    except UnsupportedNetworkError:
        raise
    except Exception as error:  # A user's step can fail in any way.
        raise UnsupportedNetworkError(
            f"the network's step failed with {type(error).__name__} on X: {error}"
        ) from error
    if not states.isfinite().all():
        raise UnsupportedNetworkError(
            f"the network's step makes states that are NaN or beyond what {view.dtype} holds on "
            f"X, whose largest value is {float(X.abs().max()):.3g}: scale X or the weights down."
        )
    return states


def _reproducible_states(view: RecurrentNetwork, X: Tensor) -> Tensor:
    """Return the states, if they do not depend on chance."""
    found = []
    for seed in (0, 1):
        with isolated_torch_seed(seed):
            found.append(_run(view, X))
    if torch.equal(*found):
        return found[0]
    name = type(view.recurrent).__name__
    where = _first_difference(found[0], found[1], 0.0)
    raise UnsupportedNetworkError(
        f"the step of {name} is random even in evaluation mode: two runs on the same trials part "
        f"at {where}. Give noise='frozen' to analyse one realisation of what it draws from "
        "torch's generator; numbers from a generator of its own cannot be frozen."
    )


def _check_core(module: nn.Module, view: RecurrentNetwork, X: Tensor, ours: Tensor) -> None:
    """Compare the rates with the output of a recurrent module of torch, from the same start."""
    core = view.recurrent
    if not isinstance(core, nn.RNNBase):
        return
    shape = (core.num_layers, -1, core.hidden_size)
    parts = view.initial_state.unflatten(0, shape).movedim(1, 0)[:, :, None]
    start = parts.expand(-1, -1, len(X), -1).contiguous()
    inputs = X if core.batch_first else X.transpose(0, 1)
    theirs = core(inputs, tuple(start) if len(start) == 2 else start[0])[0]
    theirs = theirs if core.batch_first else theirs.transpose(0, 1)
    if not _same(ours, theirs):
        raise UnsupportedNetworkError(
            f"the rebuilt step does not reproduce the states of {type(core).__name__}: they "
            f"differ by up to {_gap(ours, theirs)}, first at {_first_difference(ours, theirs)}."
        )


def _check_forward(
    module: nn.Module, view: RecurrentNetwork, X: Tensor, states: Tensor, compare_outputs: bool
) -> None:
    """Run the module itself and compare what its readout is given, and what it returns."""
    outputs, problems = view.outputs(states), []
    for layout in (X, X.transpose(0, 1)):  # A user's module may take steps first.
        given: list[Tensor] = []
        hook = view.readout.register_forward_pre_hook(
            lambda _, inputs, g=given: g.append(inputs[0])
        )
        try:
            with isolated_torch_seed(0):
                returned = module(layout)
        except Exception as error:  # Whatever a user's forward asks for that is not X.
            problems.append(f"calling it on X failed ({error})")
            continue
        finally:
            hook.remove()
        problem = _difference("the states read out", view.rates(states), _read(given))
        if problem:
            problems.append(problem)
            continue
        if problem is None or compare_outputs:  # Otherwise the states suffice.
            theirs = _first_tensor(returned)
            problem = _difference("they", outputs, theirs)
            if problem is None:
                came = (
                    type(returned).__name__ if theirs is None else f"shape {tuple(theirs.shape)}"
                )
                problems.append(f"it returns {came}")
                continue
        if not problem:
            return
        problems.insert(0, problem)  # The states are right, so this says more.
    name, remedy = type(module).__name__, ""
    if compare_outputs and not isinstance(view.layers[0], UserLayer):
        remedy = " Give readout='...' to analyse that readout all the same."
    what = "the readout of the recurrent states" if compare_outputs else "the rebuilt step"
    raise UnsupportedNetworkError(
        f"{what} does not reproduce the outputs of {name}: {problems[0]}.{remedy}"
    )


def _read(given: list[Tensor]) -> Tensor | None:
    """Return what the readout was given: at once, or step by step."""
    if not given:
        return None
    if len(given) == 1:
        return given[0]
    return torch.stack(given, dim=1) if given[0].ndim == 2 else None


def _first_tensor(returned: Any) -> Tensor | None:
    if isinstance(returned, (tuple, list)) and returned:
        returned = returned[0]
    return returned if isinstance(returned, Tensor) else None


def _difference(what: str, ours: Tensor, theirs: Tensor | None) -> str | None:
    """Say how two results differ: "" if they do not, None if their shapes cannot be compared."""
    if theirs is None:
        return None
    if ours.shape != theirs.shape and ours.transpose(0, 1).shape == theirs.shape:
        theirs = theirs.transpose(0, 1)
    if ours[:, -1].shape == theirs.shape:
        ours = ours[:, -1]
    if ours.shape != theirs.shape:
        return None
    if _same(ours, theirs):
        return ""
    where = _first_difference(ours, theirs)
    return f"{what} differ by up to {_gap(ours, theirs)}, first at {where}"


def _first_difference(ours: Tensor, theirs: Tensor, tolerance: float | None = None) -> str:
    """Name the earliest step, and the first trial there, at which two results differ."""
    tolerance = _tolerance(theirs) if tolerance is None else tolerance
    apart = ~((ours - theirs).abs() <= tolerance).all(-1)
    if apart.ndim == 1:
        return f"trial {int(apart.nonzero()[0])}, the last step"
    step = int(apart.any(0).nonzero()[0])
    return f"step {step} of trial {int(apart[:, step].nonzero()[0])}"


def _gap(ours: Tensor, theirs: Tensor) -> str:
    return f"{float((ours - theirs).abs().max()):.2g}"


def _tolerance(theirs: Tensor) -> float:
    """Return what the rounding of some hundred steps may amount to."""
    return 1e4 * torch.finfo(theirs.dtype).eps * max(1.0, float(theirs.abs().max()))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max()) <= _tolerance(theirs)
