"""Fingerprints of arrays and of code, for comparison between runs."""

from __future__ import annotations

import hashlib
import inspect
import re
from functools import partial
from typing import Any

import numpy as np

#: Packages whose code the versions in a table or a cache describe.
_LIBRARIES = ("builtins", "numpy", "torch", "sklearn", "kpflow_sklearn")


def values_digest(*arrays: np.ndarray) -> str:
    """Return a hash of shapes and values, which does not depend on the numeric type."""
    digest = hashlib.sha256()
    for array in arrays:
        # Adding 0 turns -0.0 into 0.0, so that both have the same bytes.
        values = np.ascontiguousarray(array, dtype=np.float64) + 0.0
        digest.update(str(values.shape).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def name_of(value: Any) -> str:
    """Return the name of a function or class, or that of the class of any other object."""
    if isinstance(value, partial):
        return name_of(value.func)
    return str(getattr(value, "__name__", type(value).__name__))


def is_code(value: Any) -> bool:
    """Return whether a value is a function, a method, a class or a partial of one."""
    return isinstance(value, partial) or hasattr(value, "__qualname__")


def in_words(value: Any) -> str:
    """Describe a setting: a callable by `code_in_words`, any other value by `lasting_repr`."""
    return code_in_words(value) if is_code(value) or callable(value) else lasting_repr(value)


def lasting_repr(value: Any) -> str:
    """Return the repr without what differs between processes: addresses, and the order of sets."""
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(in_words, value)))}}}"
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))


def code_in_words(value: Any, depth: int = 3) -> str:
    """Describe a function or class by its name, a hash of its source, and the values it holds.

    These values are defaults, closure variables, global variables that a function uses, the
    arguments of a partial, and the attributes of a callable object. Of these, numbers, strings,
    arrays, tensors and code are described; code is followed to ``depth`` levels. The description
    is the same in every process. Code typed at a prompt or not written in Python has no source,
    and so no hash.
    """
    if isinstance(value, partial):
        arguments = [*enumerate(value.args), *value.keywords.items()]
        words = [f"{k}={_held_in_words(v, depth) or in_words(v)}" for k, v in arguments]
        return f"{code_in_words(value.func)} given {', '.join(words)}"
    code = value if is_code(value) else type(value)
    described = [_held_in_words(v, depth - 1) for v in _held_by(value)]
    plain = [words for words in described if words]
    about = [f"with {', '.join(plain)}"] if plain else []
    try:
        source = inspect.getsource(code).encode()
        about.insert(0, f"source {hashlib.sha256(source).hexdigest()[:8]}")
    except (OSError, TypeError):
        pass
    return f"{code.__qualname__} ({', '.join(about)})" if about else str(code.__qualname__)


def _held_by(value: Any) -> list[Any]:
    """Return the values on which a function or a callable object depends."""
    if not is_code(value):
        state = value.state_dict() if hasattr(value, "_save_to_state_dict") else {}
        return [*vars(value).values(), *state.values()] if hasattr(value, "__dict__") else []
    function = getattr(value, "__func__", value)
    cells = [_content(c) for c in getattr(function, "__closure__", None) or ()]
    named = (getattr(function, "__kwdefaults__", None) or {}).values()
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    given = getattr(function, "__globals__", {})
    bound = _held_by(value.__self__) if inspect.ismethod(value) else []
    globals_ = [given[name] for name in names if name in given]
    return [*(getattr(function, "__defaults__", None) or ()), *named, *cells, *bound, *globals_]


def _held_in_words(value: Any, depth: int = 1) -> str:
    """Describe a value that code holds, or return "" if it has no short description."""
    if isinstance(value, (bool, int, float, str)):
        return repr(value)
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = value.detach().cpu().to_dense().numpy()  # Dense tensors stay as they are.
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return f"{value.dtype} {values_digest(value)[:16]}"
    package = str(getattr(value, "__module__", None) or "builtins").partition(".")[0]
    if depth > 0 and callable(value) and package not in _LIBRARIES:
        return code_in_words(value, depth)
    return ""


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # The variable is not assigned yet.
        return None
