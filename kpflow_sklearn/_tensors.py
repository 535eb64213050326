"""NumPy arrays to torch tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_tensor(
    array: np.ndarray, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """Return a tensor with the array's values; torch cannot take read-only or reversed arrays."""
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.as_tensor(array, dtype=dtype, device=device)
