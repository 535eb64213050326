"""Read and change a user's modules without the methods that their classes may override.

Users override methods of ``torch.nn.Module``, for example ``train`` with a training loop. Torch's
own methods call these in submodules, so the functions here visit the submodules themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

#: The name that torch.compile gives to the module inside its wrapper.
COMPILED = "_orig_mod"


def named_parts(
    module: nn.Module, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and all modules inside it with their names, each module once."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield prefix, module
    for name, part in module._modules.items():
        if part is not None:
            yield from named_parts(part, _inner(prefix, name), seen)


def uncompiled(module: nn.Module) -> nn.Module:
    """Replace wrappers of torch.compile with the wrapped modules, in place; return the module."""
    inner = dict(module._modules).get(COMPILED)
    if inner is not None:
        return uncompiled(inner)
    for _, part in named_parts(module):
        for name, child in dict(part._modules).items():
            if child is not None and COMPILED in child._modules:
                part._modules[name] = uncompiled(child)
    return module


def set_training(module: M, training: bool) -> M:
    """Put a module in training or evaluation mode, in place, and return it."""
    for _, part in named_parts(module):
        part.training = training
    return module


def converted(
    module: M, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> M:
    """Convert floating-point tensors and move all tensors of a module, in place; return it."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    for _, part in named_parts(module):
        part._apply(convert, recurse=False)
    return module


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters by name; a shared parameter appears under each of its names."""
    return {
        f"{prefix}.{name}" if prefix else name: p
        for prefix, part in _every_part(module)
        for name, p in part._parameters.items()
        if p is not None
    }


def named_once(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return each parameter once, under the first of its names."""
    first = {id(p): name for name, p in reversed(parameters_of(module).items())}
    return {name: p for name, p in parameters_of(module).items() if first[id(p)] == name}


def state_of(module: nn.Module) -> dict[str, Any]:
    """Return the entries of the module's state_dict, which share memory with the module."""
    state: dict[str, Any] = {}
    for prefix, part in _every_part(module):
        part._save_to_state_dict(state, f"{prefix}." if prefix else "", keep_vars=False)
    return state


def load_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load the entries of `state_of` into a module."""
    nn.Module.load_state_dict(module, state)


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Return all parameters and buffers."""
    parts = [part for _, part in named_parts(module)]
    every = (t for p in parts for t in (*p._parameters.values(), *p._buffers.values()))
    return [tensor for tensor in every if tensor is not None]


def _every_part(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield a module and all modules inside it, under each of their names."""
    yield prefix, module
    for name, part in module._modules.items():
        if part is not None:
            yield from _every_part(part, _inner(prefix, name))


def _inner(prefix: str, name: str) -> str:
    """Return the full name of a submodule, leaving out the wrapper of torch.compile."""
    if name == COMPILED:
        return prefix
    return f"{prefix}.{name}" if prefix else name
