"""An initial state given as values, although the module computes it from parameters in theta."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn.networks._initial_state import IN_THE_STEP, parts_of
from kpflow_sklearn.networks._module_run import Trials, matching_pair

#: Relative difference of two derivatives above rounding in single precision.
_CLEARLY = 1e-2


def is_given_as_values(initial_state: Any) -> bool:
    """Tell whether z_0, or a part of it, is given as numbers."""
    parts = parts_of(initial_state)
    return any(part is not None and not isinstance(part, str) for part in parts)


def warn_of_computed_start(
    name: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    theta: Collection[tuple[str, Tensor]],
    trials: Trials,
) -> None:
    """Warn if the outputs of a module depend on theta differently from those of the rebuilt one.

    The values agree, so the difference lies in z_0, which the rebuilt network holds fixed.

    Parameters
    ----------
    name : str
        The name of the module.
    ours, theirs : callable
        Return the outputs of the rebuilt network and of the module, with their graphs.
    theta : collection of (str, Tensor)
        The parameters.
    trials : Trials
        The trials.
    """
    parameters = [p for _, p in theta]
    try:
        with torch.enable_grad():
            pair = matching_pair(ours(), theirs(), trials)
            if pair is None:
                return
            weights = torch.randn(pair[0].shape, generator=torch.Generator().manual_seed(0))
            weights = weights.to(pair[0])
            ways = [_derivatives((weights * outputs).sum(), parameters) for outputs in pair]
    except Exception:  # A user's forward may only work without gradients.
        return
    gaps = {}
    for (parameter, _), a, b in zip(theta, *ways, strict=True):
        gap = float((a - b).norm() / b.norm().clamp(min=1e-30))
        if gap > _CLEARLY:
            gaps[parameter] = gap
    if gaps:
        listed = ", ".join(f"{key} ({gap:.0%})" for key, gap in list(gaps.items())[:4])
        warn_caller(
            f"initial_state is given as values, but {name} computes its initial state from "
            f"parameters in theta: derivatives of its outputs differ from those of the analysis, "
            f"which holds z_0 fixed, by {listed}. If gradients pass through the initial state in "
            f"training, {IN_THE_STEP}.",
            UserWarning,
        )


def _derivatives(total: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True))
