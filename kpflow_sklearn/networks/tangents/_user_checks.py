"""What a few trials show about how the derivatives of a user's step can be computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kpflow_sklearn._common.random import torch_generator
from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks.tangents._products import (
    forward_product,
    reverse_map,
)


def computes_at_once(
    step: UserStep, inputs: Tensor, previous: Tensor, parameters: Mapping[str, Tensor]
) -> bool:
    """Tell whether one batch of all steps and trials gives what each step alone gives.

    It does not if the step branches on something that its trials share, such as a phase.

    Parameters
    ----------
    step : UserStep
        The step.
    inputs : Tensor of shape (n_timesteps, n_trials, n_inputs)
        x_t.
    previous : Tensor of shape (n_timesteps, n_trials, n_states)
        z_{t-1}.
    parameters : mapping of str to Tensor
        All parameters.
    """
    with torch.no_grad():
        alone = step.one_by_one(inputs, previous, parameters)
        try:
            together = step.along(inputs, previous, parameters)
        except Exception:  # A user's step can fail in any way.
            return False
    # The same numbers are added up, perhaps in another order.
    bound = 100 * torch.finfo(alone.dtype).eps * max(1.0, float(alone.abs().max()))
    return not bool((together - alone).abs().max() > bound)


def refuse_other_transpose(function: Callable[[Any], Any], at: Any) -> None:
    """Refuse a step of which forward mode and reverse mode give different derivatives.

    Parameters
    ----------
    function : callable
        The step as a function of a tensor or dict of tensors.
    at : Tensor or dict of Tensor
        The point at which it is differentiated.

    Raises
    ------
    UnsupportedNetworkError
        If <u, J v> and <J^T u, v> differ for random u and v.
    """
    generator = torch_generator(0)
    value, pull = reverse_map(function, at)
    u, v = _random(value, generator), _random(at, generator)
    moved, pulled = _flat(forward_product(function, at, v)), _flat(pull(u))
    u, v = _flat(u), _flat(v)
    scale = u.norm() * moved.norm() + pulled.norm() * v.norm()
    gap = (u @ moved - pulled @ v).abs()
    # Ten times more than rounding explains, for products in TF32 too.
    if not gap > 1000 * torch.finfo(value.dtype).eps * scale:
        return
    raise UnsupportedNetworkError(
        "the network's step has two different derivatives: torch's forward mode is not the "
        "transpose of its reverse mode. Possible causes are a sparse tensor made of parameters "
        "(write the values into a dense matrix with torch.index_put), a hook on a tensor, an "
        "autograd.Function whose backward is not linear in the gradient (one that clips it, for "
        "example), or torch.linalg.cholesky of a matrix that need not be symmetric. Write the "
        "step without it."
    )


def _random(like: Any, generator: torch.Generator) -> Any:
    if isinstance(like, dict):
        return {name: _random(tensor, generator) for name, tensor in like.items()}
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _flat(value: Any) -> Tensor:
    """Return the entries of a tensor or of a dict of tensors as one vector, in double."""
    tensors = value.values() if isinstance(value, dict) else [value]
    return torch.cat([torch.empty(0), *(t.detach().flatten().double().cpu() for t in tensors)])
