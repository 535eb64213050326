"""Short names for the contents of arrays and of code."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import numpy as np


def values_digest(*arrays: np.ndarray) -> str:
    """Return a hash of shapes and numbers, the same for the same values in any numeric type."""
    found = hashlib.sha256()
    for array in arrays:
        # Adding 0 makes zeros of either sign the same bytes.
        values = np.ascontiguousarray(array, dtype=np.float64) + 0.0
        found.update(str(values.shape).encode())
        found.update(values.tobytes())
    return found.hexdigest()


def code_in_words(value: Any) -> str:
    """Return the name of a function or class, with a digest of its source where that is known."""
    try:
        source = inspect.getsource(value).encode()
    except (OSError, TypeError):  # Typed at a prompt, or not written in Python.
        return value.__qualname__
    return f"{value.__qualname__} (source {hashlib.sha256(source).hexdigest()[:8]})"
