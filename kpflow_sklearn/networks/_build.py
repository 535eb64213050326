"""A new network: a cell's layers with initial weights, a readout and an initial state of zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import converted, parameters_of, set_training, uncompiled
from kpflow_sklearn._common.random import torch_generator
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.cells import UserStep, make_cell
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import MappedLayer, RecurrentWeights, UserLayer
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._user_code import run_seeded
from kpflow_sklearn.networks.agreement import refuse_coupled_trials, warn_of_gradient_hooks


def build_network(
    cell: str | Callable[[int, int], nn.Module],
    n_features: int,
    n_outputs: int,
    *,
    hidden_size: int,
    n_layers: int,
    init_scale: float,
    recurrent_init: str,
    alpha: float,
    learn_initial_state: bool,
    dtype: torch.dtype,
    seed: int,
) -> RecurrentNetwork:
    """Return an untrained network.

    The recurrent weights of each gate are N(0, init_scale^2 / hidden_size) for
    ``recurrent_init="normal"``, so that the spectral radius is about ``init_scale``, and torch's
    default times ``init_scale`` for "torch". All other weights follow torch's default, uniform in
    +-1/sqrt(hidden_size). A user's cell keeps its initialisation.

    Parameters
    ----------
    cell : str or callable
        Name of a built-in cell, or a function (n_features, hidden_size) -> module.
    n_features, n_outputs, hidden_size, n_layers : int
        Sizes.
    init_scale : float
        Gain of the recurrent weights.
    recurrent_init : {"normal", "torch"}
        Distribution of the recurrent weights.
    alpha : float
        dt / tau of the leaky cells.
    learn_initial_state : bool
        Whether z_0, which is zero before training, is a parameter.
    dtype : torch.dtype
        Data type.
    seed : int
        Seed of the random weights; torch's global generator is left as it is.

    Returns
    -------
    RecurrentNetwork
        The network, on the CPU.
    """
    generator = torch_generator(seed)
    layers: Any
    if callable(cell):
        recurrent = run_seeded(_call_factory, seed, cell, n_features, hidden_size)
        if not isinstance(recurrent, nn.Module):
            raise UnsupportedNetworkError(
                "cell must be a callable (n_features, hidden_size) -> torch.nn.Module, but it "
                f"returned a {type(recurrent).__name__}."
            )
        recurrent = uncompiled(converted(recurrent, dtype))
        layers = [UserLayer(UserStep(recurrent, (hidden_size,)))]
        run_seeded(_try_cell, seed, layers[0].step, n_features, hidden_size, dtype)
        warn_of_gradient_hooks(recurrent, parameters_of(recurrent))
    else:
        kind = make_cell(cell, alpha)
        recurrent = RecurrentWeights(n_features, hidden_size, n_layers, kind.n_gates).to(dtype)
        layers = [MappedLayer(kind, recurrent, k) for k in range(n_layers)]
        _initialise(recurrent, hidden_size, init_scale, recurrent_init, generator)
    readout = nn.utils.skip_init(nn.Linear, hidden_size, n_outputs, dtype=dtype)
    _uniform(readout, hidden_size, generator)
    n_states = sum(layer.n_states for layer in layers)
    z0 = torch.zeros(n_states, dtype=dtype)
    return RecurrentNetwork(recurrent, layers, readout, z0, learn_initial_state)


def _call_factory(cell: Callable[[int, int], nn.Module], n_features: int, hidden_size: int) -> Any:
    """Return what a user's ``cell(n_features, hidden_size)`` returns."""
    try:
        return cell(n_features, hidden_size)
    except Exception as error:  # A user's function can fail in any way.
        raise UnsupportedNetworkError(
            f"cell({n_features}, {hidden_size}), which should return a torch.nn.Module for "
            f"n_features and hidden_size, failed with {type(error).__name__}: {error}"
        ) from error


def _try_cell(step: UserStep, n_features: int, hidden_size: int, dtype: torch.dtype) -> None:
    """Take one step, so that a cell of the wrong form is refused before training."""
    x, h = torch.zeros(2, n_features, dtype=dtype), torch.zeros(2, hidden_size, dtype=dtype)
    try:
        with torch.no_grad():
            step(0, x, h)
    except UnsupportedNetworkError:  # The first run raises it again, with the trials' shapes.
        return
    except Exception as error:
        raise UnsupportedNetworkError(
            f"the {step.label} cannot take a step forward(x_t, h) -> h: "
            f"{type(error).__name__}: {error}"
        ) from error
    copied = UserStep(set_training(copy_module(step.module), False), step.sizes)
    x, h = torch.rand_like(x), torch.randn_like(h)
    refuse_coupled_trials(copied, 0, x, h)
    _refuse_history(copied, x, h)


@torch.no_grad()
def _refuse_history(step: UserStep, x: Tensor, h: Tensor) -> None:
    """Refuse a cell that does not return the same state again in evaluation mode."""
    first, *others = (step(0, x, h) for _ in range(4))
    if not all(torch.equal(first, other) for other in others):
        raise UnsupportedNetworkError(
            f"the {step.label} returns another state when it is called again "
            "with the same x_t and h. It is random even in evaluation mode, or keeps something "
            "between calls, such as a counter or a trace on self. Derivatives need a step that "
            "depends on x_t and h alone: draw noise only if self.training, and make what is kept "
            "a part of h."
        )


def _uniform(module: nn.Module, hidden_size: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(hidden_size)
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-bound, bound, generator=generator)


def _initialise(
    recurrent: nn.Module, hidden_size: int, scale: float, kind: str, generator: torch.Generator
) -> None:
    _uniform(recurrent, hidden_size, generator)
    with torch.no_grad():
        for name, p in recurrent.named_parameters():
            if name.startswith("weight_hh"):
                if kind == "normal":
                    p.normal_(0, 1 / math.sqrt(hidden_size), generator=generator)
                p.mul_(scale)
