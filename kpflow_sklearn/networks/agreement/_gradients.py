"""Compare the gradients of a user's module with those of the rebuilt network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.modules import named_once
from kpflow_sklearn.networks._initial_state import IN_THE_STEP
from kpflow_sklearn.networks.agreement._differences import matching_pair
from kpflow_sklearn.networks.agreement._module_run import Trials
from kpflow_sklearn.networks.agreement._parameter_use import Rehearsal

#: Relative difference of two gradients above rounding in single precision.
_CLEARLY = 1e-2
#: How much larger than the effect of rounding a difference must be.
_MARGIN = 10.0
N_COMPARED = 2  # Number of trials; the graph of a run takes much memory.


def warn_of_other_gradients(
    name: str,
    rehearsal: Rehearsal,
    results: Callable[[nn.Module, Trials], list[Tensor]],
    theta: Collection[str],
    trials: Trials,
    has_values: bool,
) -> None:
    """Warn if what a module returns depends on theta differently from the rebuilt network.

    The values agree, so gradients are cut or changed in the module, or z_0 depends on theta,
    which the rebuilt network holds fixed if it is given as values.

    Parameters
    ----------
    name : str
        The name of the module.
    rehearsal : Rehearsal
        A copy of the module and of the rebuilt network.
    results : callable
        Runs the copied module on trials and returns what was compared, in a list of one.
    theta : collection of str
        The names of the parameters in theta.
    trials : Trials
        The trials.
    has_values : bool
        Whether z_0, or a part of it, is given as values.
    """
    named = {key: p for key, p in named_once(rehearsal.module).items() if key in theta}
    few = Trials(*(part[:N_COMPARED] for part in (trials.X, trials.valid, trials.rows)))
    try:
        with torch.enable_grad(), _differentiable_layers(few.X):
            gaps = _gaps(rehearsal, lambda: results(rehearsal.module, few), named, few)
    except Exception:  # A user's forward may only work without gradients.
        return
    if not gaps:
        return
    listed = ", ".join(f"{key} ({gap:.0%})" for key, gap in list(gaps.items())[:4])
    causes = ["detach() or torch.no_grad() in forward (truncated backpropagation, for example)",
              "a hook on a tensor or module"]  # fmt: skip
    advice = (
        "If training did not do this, take it out of forward; if it did, read PKP* Err as the "
        "flow of full backpropagation, not as that of the training."
    )
    if has_values:
        causes.append("an initial state that forward computes from parameters in theta")
        advice += (
            " If the initial state is computed, which the analysis holds fixed as the values of "
            f"initial_state, {IN_THE_STEP}."
        )
    warn_caller(
        f"the gradients of {name} differ from those of the analysis by {listed}, although the "
        f"values agree. Possible causes are {', '.join(causes[:-1])} or {causes[-1]}. K, P and "
        f"the flow PKP* Err are those of full gradients through all steps. {advice}",
        UserWarning,
    )


def _gaps(
    rehearsal: Rehearsal,
    theirs: Callable[[], list[Tensor]],
    named: Mapping[str, Tensor],
    trials: Trials,
) -> dict[str, float]:
    """Return the relative differences of the gradients, of the parameters where they are large."""
    parameters = list(named.values())
    of_module = theirs()[0]
    for of_states in _readings(rehearsal):
        pair = matching_pair(of_states(trials.X), of_module, trials)
        if pair is not None:
            break
    else:
        return {}
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(pair[0].shape, generator=generator).to(pair[0])
    ours, other = (_derivatives((weights * z).sum(), parameters) for z in pair)
    gaps = [_gap(a, b) for a, b in zip(ours, other, strict=True)]
    if all(gap <= _CLEARLY for gap in gaps):
        return {}
    # Chaotic dynamics enlarge rounding errors, here of the inputs, by as much as the difference.
    moved = trials.X * (1 + 8 * torch.finfo(trials.X.dtype).eps)
    again = matching_pair(of_states(moved), of_module, trials)
    if again is None:
        return {}
    nearby = _derivatives((weights * again[0]).sum(), parameters)
    bounds = [max(_CLEARLY, _MARGIN * _gap(a, b)) for a, b in zip(ours, nearby, strict=True)]
    return {key: gap for key, gap, bound in zip(named, gaps, bounds, strict=True) if gap > bound}


def _readings(rehearsal: Rehearsal) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield what a module may return, as functions of X: outputs, or rates."""
    view = rehearsal.with_start()
    if view.readout is not None:
        yield lambda X: view.outputs(view.states(X))
    yield lambda X: view.rates(view.states(X))


def _gap(a: Tensor, b: Tensor) -> float:
    """Return the difference of two gradients, relative to the larger one."""
    return float((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp(min=1e-30))


def _derivatives(total: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True))


@contextmanager
def _differentiable_layers(X: Tensor) -> Iterator[None]:
    """Let torch's recurrent layers have gradients in evaluation mode, which cuDNN refuses."""
    if X.device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield
