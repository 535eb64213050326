"""Refuse tensors that train, but that a module holds without registering them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts, parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError

_REGISTERED = ("_parameters", "_buffers", "_modules")


def refuse_unregistered(module: nn.Module, tensor: Tensor) -> None:
    """Refuse a tensor that is an attribute of a module, or in a list of it, but not a parameter.

    Parameters
    ----------
    module : Module
        The network.
    tensor : Tensor
        A tensor that requires gradients and is not among the module's parameters.

    Raises
    ------
    UnsupportedNetworkError
        If the tensor is an attribute of the module or of a part of it, or inside a list, tuple,
        dict or module that is one.
    """
    for prefix, part in named_parts(module):
        for key, value in vars(part).items():
            name = f"{prefix}.{key}" if prefix else key
            for path, leaf in () if key in _REGISTERED else _tensors(name, value):
                if leaf is tensor:
                    raise UnsupportedNetworkError(
                        f"{type(module).__name__} computes with {path}, which requires gradients, "
                        "but is not registered as a parameter: parameters() and state_dict() lack "
                        f"it, so that optimizers and checkpoints do too. {_remedy(key, value)}"
                    )


def _tensors(name: str, value: Any, depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in an attribute, with their paths."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        items = [(f"{name}.{key}", p) for key, p in parameters_of(value).items()]
    elif isinstance(value, Mapping):
        items = [(f"{name}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{name}[{i}]", part) for i, part in enumerate(value)]
    for path, part in items if depth else ():
        yield from _tensors(path, part, depth - 1)


def _remedy(key: str, value: Any) -> str:
    """Say how to register what an attribute holds."""
    if isinstance(value, Tensor):
        return (
            f"Write self.{key} = torch.nn.Parameter(...) or, if it is fixed, "
            f"self.register_buffer({key!r}, ...)."
        )
    if isinstance(value, nn.Module):
        return f"Write self.{key} = ... for the module, which registers it."
    parts = list(value.values()) if isinstance(value, Mapping) else value
    kind = "Module" if any(isinstance(part, nn.Module) for part in parts) else "Parameter"
    container = "Dict" if isinstance(value, Mapping) else "List"
    return f"Write self.{key} = torch.nn.{kind}{container}(...), not a {type(value).__name__}."
