"""Fingerprints of arrays and of code, for comparison between runs."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from typing import Any

import numpy as np


def values_digest(*arrays: np.ndarray) -> str:
    """Return a hash of shapes and values, which does not depend on the numeric type."""
    digest = hashlib.sha256()
    for array in arrays:
        # Adding 0 turns -0.0 into 0.0, so that both have the same bytes.
        values = np.ascontiguousarray(array, dtype=np.float64) + 0.0
        digest.update(str(values.shape).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def is_code(value: Any) -> bool:
    """Return whether a value is a function, a method, a class or a partial of one."""
    return isinstance(value, partial) or hasattr(value, "__qualname__")


def code_in_words(value: Any) -> str:
    """Describe a function or class by its name, a hash of its source, and the values it holds.

    These values are defaults, closure variables and the arguments of a partial. The description
    is the same in every process. Code typed at a prompt or not written in Python has no source,
    and so no hash.
    """
    if isinstance(value, partial):
        arguments = [*enumerate(value.args), *value.keywords.items()]
        words = [f"{k}={code_in_words(v) if is_code(v) else repr(v)}" for k, v in arguments]
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
    except ValueError:  # The variable is not assigned yet.
        return None
