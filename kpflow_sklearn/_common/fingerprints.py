"""Short names for the contents of arrays and of code."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
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


def is_code(value: Any) -> bool:
    """Tell whether something is a function, method or class, or a partial of one."""
    return isinstance(value, partial) or hasattr(value, "__qualname__")


def code_in_words(value: Any) -> str:
    """Return the name of code, with a digest of its source and the numbers it was made with.

    These are defaults, what a function made by another holds, and arguments of a partial. The
    words are the same in a new process. Code typed at a prompt, or not in Python, has no source.
    """
    if isinstance(value, partial):
        given = [*enumerate(value.args), *value.keywords.items()]
        words = [f"{k}={code_in_words(v) if is_code(v) else repr(v)}" for k, v in given]
        return f"{code_in_words(value.func)} given {', '.join(words)}"
    cells = [_content(c) for c in getattr(value, "__closure__", None) or ()]
    named = (getattr(value, "__kwdefaults__", None) or {}).values()
    held = [*(getattr(value, "__defaults__", None) or ()), *named, *cells]
    plain = [repr(v) for v in held if isinstance(v, (bool, int, float, str))]
    about = [f"with {', '.join(plain)}"] if plain else []
    try:
        source = inspect.getsource(value).encode()
        about.insert(0, f"source {hashlib.sha256(source).hexdigest()[:8]}")
    except (OSError, TypeError):
        pass
    return f"{value.__qualname__} ({', '.join(about)})" if about else value.__qualname__


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Not yet assigned.
        return None
