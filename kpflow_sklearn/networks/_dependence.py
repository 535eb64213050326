"""The parameters that results depend on, as the graphs of autograd show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import parameters_of
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.networks._functions import FunctionOf
from kpflow_sklearn.networks._user_code import run_seeded


def leaves_of(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Return the leaves of the graphs of some tensors, such as parameters, by their identities."""
    nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    visited: set[Any] = set()
    leaves: dict[int, Tensor] = {}
    while nodes:
        node: Any = nodes.pop()
        if node in visited:
            continue
        visited.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves[id(variable)] = variable
        nodes += [after for after, _ in node.next_functions if after is not None]
    return leaves


def let_all_train(module: nn.Module) -> None:
    """Let every parameter of a copied module appear in the graphs of its results."""
    for p in parameters_of(module).values():
        if p.is_floating_point():
            p.requires_grad_(True)


def with_its_parameters(part: FunctionOf, inputs: Tensor) -> FunctionOf:
    """Return a function with the parameters that its result depends on, as graphs show.

    Parameters
    ----------
    part : FunctionOf
        A function or method of a network, which is run on a copy of the network.
    inputs : Tensor
        An input.

    Returns
    -------
    FunctionOf
        The same function; with no parameters if it fails or does not return a tensor.
    """
    copied = copy_module(part)
    names = {id(p): name for name, p in parameters_of(copied.network).items()}
    let_all_train(copied.network)
    try:
        with torch.enable_grad():
            returned = run_seeded(copied, 0, inputs.clone())
    except Exception:  # A user's function can fail in any way; later checks say how.
        returned = None
    leaves = leaves_of([returned] if isinstance(returned, Tensor) else [])
    every = parameters_of(part.network)
    used = [every[names[key]] for key in leaves if key in names]
    return FunctionOf(part.network, part.function, part.role, used)
