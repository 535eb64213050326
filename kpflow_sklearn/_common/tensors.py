"""Convert NumPy arrays to tensors, and copy modules and tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def as_tensor(
    array: np.ndarray, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """Return a tensor with the values of an array, sharing its memory where possible."""
    # torch does not accept read-only arrays or negative strides.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.as_tensor(array, dtype=dtype, device=device)


def copy_module(module: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """Return a deep copy of a module, which may contain parametrized recurrent layers of torch.

    Such layers hold weights computed from raw parameters, which torch cannot copy.
    """
    memo = {} if memo is None else memo
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            for weight in part._flat_weights:
                if weight is not None and not weight.is_leaf:
                    memo[id(weight)] = weight.detach().clone()
    return copy.deepcopy(module, memo)


def to_cpu(value: Any) -> Any:
    """Return a module, a tensor or a collection of them on the CPU, and other values unchanged.

    Nothing is moved in place, and values on the CPU are not copied.
    """
    if isinstance(value, nn.Parameter):
        return nn.Parameter(to_cpu(value.detach()), requires_grad=value.requires_grad)
    if isinstance(value, Tensor):
        return value if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, nn.Module):
        tensors = (*value.parameters(), *value.buffers())
        if all(tensor.device.type == "cpu" for tensor in tensors):
            return value
        # The memo marks the tensors as copied, so that the deep copy needs no device memory.
        return copy_module(value, {id(tensor): to_cpu(tensor) for tensor in tensors})
    if type(value) in (list, tuple):
        return type(value)(map(to_cpu, value))
    if type(value) in (dict, OrderedDict):
        return type(value)((name, to_cpu(part)) for name, part in value.items())
    return value
