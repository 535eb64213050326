"""Convert NumPy arrays to tensors, and copy modules and tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts, tensors_of, uncompiled


def as_tensor(
    array: np.ndarray, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """Return a tensor with the values of an array, sharing its memory where possible."""
    # torch does not accept read-only arrays or negative strides.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.as_tensor(array, dtype=dtype, device=device)


def stored_values(tensor: Tensor) -> Tensor:
    """Return the stored entries of a tensor; those of a sparse one in any order."""
    if tensor.layout == torch.strided:
        return tensor
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()


def with_gradients(function: Callable) -> Callable:
    """Let a function compute derivatives, whatever modes of torch its caller has chosen.

    Inside the function, the caller's ``torch.no_grad``, ``torch.set_grad_enabled(False)``,
    ``torch.inference_mode`` and ``torch.autocast`` have no effect; they are restored afterwards.
    """

    @wraps(function)
    def in_gradient_mode(*args: Any, **options: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad(), without_autocast():
            return function(*args, **options)

    return in_gradient_mode


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute in the precision of the arguments inside the block, whatever the caller's mode."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "xpu", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def copy_module(module: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """Return a deep copy of a module, whatever other objects it keeps as attributes.

    The analysis needs parameters, buffers and structure. A tensor with an autograd graph is copied
    without the graph, and an object that cannot be copied at all, such as a lock, is replaced by a
    `LeftOut`. Parts that torch.compile wraps are copied without the wrapper.

    Parameters
    ----------
    module : Module
        The module to copy.
    memo : dict, optional
        The memo of `copy.deepcopy`.

    Returns
    -------
    Module
        The copy.

    Raises
    ------
    ValueError
        If a submodule or parameter cannot be copied, for example because its own
        ``__deepcopy__`` fails.
    """
    memo = {} if memo is None else memo
    # Parametrized recurrent layers hold weights computed from raw parameters.
    for _, part in named_parts(module):
        if isinstance(part, nn.RNNBase):
            for weight in part._flat_weights:
                if weight is not None and not weight.is_leaf:
                    memo[id(weight)] = weight.detach().clone()
    return uncompiled(copy_value(module, memo, type(module).__name__))


def copy_value(value: Any, memo: dict[int, Any], name: str = "network") -> Any:
    """Return a deep copy of any object, as `copy_module` does; errors call it ``name``."""
    trial = dict(memo)
    try:
        copied = copy.deepcopy(value, trial)
    except MemoryError:
        raise
    except Exception:  # An attribute of a user's module can fail in any way.
        _replace_uncopyable(value, name, memo, set())
        return copy.deepcopy(value, memo)
    # deepcopy keeps the originals alive in a list at the memo's own id. That of `trial` may soon
    # be the id of another object, so its list moves to the caller's memo.
    alive = trial.pop(id(trial), [])
    memo.update(trial)
    memo.setdefault(id(memo), []).extend(alive)
    return copied


def _replace_uncopyable(value: Any, name: str, memo: dict[int, Any], seen: set[int]) -> None:
    """Enter into the memo replacements for the smallest parts that cannot be copied."""
    if id(value) in seen or id(value) in memo or _copying_fails(value, memo) is None:
        return
    seen.add(id(value))
    for key, part in _parts(value):
        _replace_uncopyable(part, f"{name}.{key}", memo, seen)
    error = _copying_fails(value, memo)
    if error is None:
        return
    if isinstance(value, nn.Parameter) and value.layout != torch.strided:
        memo[id(value)] = nn.Parameter(value.detach().clone(), value.requires_grad)
        return
    if isinstance(value, (nn.Module, nn.Parameter)):
        raise ValueError(
            f"{name}, a {type(value).__name__}, cannot be copied ({error}); a copy of the network "
            "is analysed, so remove what prevents copy.deepcopy."
        ) from error
    is_tensor = isinstance(value, Tensor)
    memo[id(value)] = value.detach().clone() if is_tensor else LeftOut(name, type(value).__name__)


def _copying_fails(value: Any, memo: dict[int, Any]) -> Exception | None:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Return the parts of a collection or the attributes of an object, with their names."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(enumerate(value))
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, Tensor) or not isinstance(attributes, dict):
        return []
    inner = attributes.get("_modules") if isinstance(value, nn.Module) else None
    return [*(item for item in attributes.items() if item[1] is not inner), *(inner or {}).items()]


class LeftOut:
    """Stand in a copied network for an object that cannot be copied.

    Any use of it raises an error that names the attribute.

    Parameters
    ----------
    name : str
        Full name of the attribute, beginning with the modules that contain it.
    kind : str
        The type of the object.
    """

    def __init__(self, name: str, kind: str) -> None:
        self._name, self._kind = name, kind

    def _refuse(self, *args: object, **options: object) -> NoReturn:
        raise ValueError(
            f"the network computes with {self._name}, a {self._kind}, which cannot be copied, but "
            "a copy of the network is analysed; keep this object outside the network, or let the "
            "network compute without it."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python looks for methods such as __deepcopy__.
            raise AttributeError(name)
        self._refuse()

    __call__ = __enter__ = __exit__ = __iter__ = __next__ = __getitem__ = __len__ = _refuse
    __bool__ = _refuse


def to_cpu(value: Any) -> Any:
    """Return a module, a tensor or a collection of them on the CPU, and other values unchanged.

    Nothing is moved in place, and values on the CPU are not copied.
    """
    if isinstance(value, nn.Parameter):
        return nn.Parameter(to_cpu(value.detach()), requires_grad=value.requires_grad)
    if isinstance(value, Tensor):
        return value if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, nn.Module):
        tensors = tensors_of(value)
        if all(tensor.device.type == "cpu" for tensor in tensors):
            return value
        # The memo marks the tensors as copied, so that the deep copy needs no device memory.
        return copy_module(value, {id(tensor): to_cpu(tensor) for tensor in tensors})
    if type(value) in (list, tuple):
        return type(value)(map(to_cpu, value))
    if type(value) in (dict, OrderedDict):
        return type(value)((name, to_cpu(part)) for name, part in value.items())
    return value
