"""Check that a recognised network reproduces the states and outputs of the user's module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._network import RecurrentNetwork, to_tensors

N_CHECKED = 8  # Number of trials on which the two are compared.


def check_rebuilt(
    module: nn.Module,
    view: RecurrentNetwork,
    trials: np.ndarray,
    mask: np.ndarray | None,
    *,
    compare_outputs: bool,
) -> None:
    """Compare states and outputs with those of the user's module, on a few trials.

    Parameters
    ----------
    module : Module
        The user's network, in evaluation mode.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    trials : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    mask : ndarray of bool or None
        Valid steps.
    compare_outputs : bool
        Whether the module must return the readout of the states. The input of its readout is
        compared in any case.

    Raises
    ------
    UnsupportedNetworkError
        If they differ, naming the first step and trial where they do; or if the step is random,
        or the module cannot be run on X.
    """
    if module is view:
        return
    X, _ = to_tensors(trials[:N_CHECKED], None if mask is None else mask[:N_CHECKED], view)
    with torch.no_grad():
        states = _reproducible_states(view, X)
        if any(isinstance(y, UserLayer) and y.step.seed is not None for y in view.layers):
            return  # The module draws random numbers of its own, not the frozen ones.
        _check_core(module, view, X, view.rates(states))
        if isinstance(module, (nn.ModuleDict, nn.ModuleList)):
            return  # These have no forward method.
        is_named = isinstance(view.layers[0], UserLayer)
        if compare_outputs or is_named:
            _check_forward(module, view, X, states, compare_outputs)


def _run(view: RecurrentNetwork, X: Tensor) -> Tensor:
    """Return the states; raise an UnsupportedNetworkError if the step fails."""
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
            f"on X, the network's step returns states that are NaN or beyond the range of "
            f"{view.dtype}; the largest value of X is {float(X.abs().max()):.3g}: scale X or the "
            "weights down."
        )
    return states


def _reproducible_states(view: RecurrentNetwork, X: Tensor) -> Tensor:
    """Return the states; raise an UnsupportedNetworkError if they depend on chance."""
    runs = []
    for seed in (0, 1):
        with isolated_torch_seed(seed):
            runs.append(_run(view, X))
    if torch.equal(*runs):
        return runs[0]
    name = type(view.recurrent).__name__
    where = _first_difference(runs[0], runs[1], 0.0)
    raise UnsupportedNetworkError(
        f"the step of {name} is random even in evaluation mode: two runs on the same trials "
        f"first differ at {where}. Give noise='frozen' to analyse one realisation of the numbers "
        "that it draws from torch's generator; those of another generator cannot be frozen."
    )


def _check_core(module: nn.Module, view: RecurrentNetwork, X: Tensor, ours: Tensor) -> None:
    """Compare the rates with the output of torch's recurrent module, from the same z_0."""
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
    """Run the module itself, and compare the input of its readout and the outputs."""
    outputs, problems = view.outputs(states), []
    for layout in (X, X.transpose(0, 1)):  # A user's module may take steps first.
        given: list[Tensor] = []
        hook = view.readout.register_forward_pre_hook(
            lambda _, inputs, g=given: g.append(inputs[0])
        )
        try:
            with isolated_torch_seed(0):
                returned = module(layout)
        except Exception as error:  # A user's forward may take something other than X.
            problems.append(f"calling it on X failed ({error})")
            continue
        finally:
            hook.remove()
        problem = _difference("the states read out", view.rates(states), _read(given))
        if problem:
            problems.append(problem)
            continue
        if problem is None or compare_outputs:  # Otherwise equal states suffice.
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
        problems.insert(0, problem)  # The states agree, so this problem says more.
    name, remedy = type(module).__name__, ""
    if compare_outputs and not isinstance(view.layers[0], UserLayer):
        remedy = " Give readout='...' to analyse that readout nevertheless."
    part = "the readout of the recurrent states" if compare_outputs else "the rebuilt step"
    raise UnsupportedNetworkError(
        f"{part} does not reproduce the outputs of {name}: {problems[0]}.{remedy}"
    )


def _read(given: list[Tensor]) -> Tensor | None:
    """Return the input of the readout, given for all steps at once or step by step."""
    if not given:
        return None
    if len(given) == 1:
        return given[0]
    return torch.stack(given, dim=1) if given[0].ndim == 2 else None


def _first_tensor(returned: Any) -> Tensor | None:
    if isinstance(returned, (tuple, list)) and returned:
        returned = returned[0]
    return returned if isinstance(returned, Tensor) else None


def _difference(name: str, ours: Tensor, theirs: Tensor | None) -> str | None:
    """Return how two results differ: "" if they agree, None if their shapes do not match."""
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
    return f"{name} differ by up to {_gap(ours, theirs)}, first at {where}"


def _first_difference(ours: Tensor, theirs: Tensor, tolerance: float | None = None) -> str:
    """Return the first step at which two results differ, and the first such trial, in words."""
    tolerance = _tolerance(theirs) if tolerance is None else tolerance
    apart = ~((ours - theirs).abs() <= tolerance).all(-1)
    if apart.ndim == 1:
        return f"trial {int(apart.nonzero()[0])}, the last step"
    step = int(apart.any(0).nonzero()[0])
    return f"step {step} of trial {int(apart[:, step].nonzero()[0])}"


def _gap(ours: Tensor, theirs: Tensor) -> str:
    return f"{float((ours - theirs).abs().max()):.2g}"


def _tolerance(theirs: Tensor) -> float:
    """Return a bound on the rounding error of a few hundred steps."""
    return 1e4 * torch.finfo(theirs.dtype).eps * max(1.0, float(theirs.abs().max()))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    return float((ours - theirs).abs().max()) <= _tolerance(theirs)
