"""The judge: a right answer or one clear error is expected; all else is a fault, in words."""

from __future__ import annotations

import copy
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import NotFittedError

from kpflow_sklearn import CheckpointError, UnsupportedNetworkError
from tests.tools.bad_input.answers import differences, flat, gaps

TIME_LIMIT = 60.0
CLEAR = (ValueError, TypeError, FileNotFoundError, NotFittedError, CheckpointError,
         UnsupportedNetworkError)  # fmt: skip
#: Words that presuppose knowledge of the inside of a library.
INTERNAL = re.compile(
    r"mat1|aten::|at::|size of tensor|broadcast|ufunc|has no attribute|not supported between|"
    r"unsupported operand|Traceback|inhomogeneous|setting an array element|not subscriptable|"
    r"unpack|integer scalar arrays|ScalarType|ambiguous|not iterable|has no len|object is not "
    r"callable|size-1 array|not a sequence|numpy\.object_|must be tuple of ints|index \d+ is out"
)
#: Other names for a network: those of its parts.
PARTS = "|network|recurrent|readout|step|layer|GRU"
#: Words that describe an array.
OF_ARRAYS = re.compile(
    r"shape|overflow|dtype|NaN|infinity|infinite|complex|sparse|dimension|sample|"
    r"\b(holds?|up to|got|convert\w*|Complex\w*|Sparse\w*|has|have|dim|missing|between|unknown|"
    r"contains|invalid|reach\w*)\b"
)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a call, "answer", "error" or "hang", and its fault if there is one."""

    outcome: str
    fault: str = ""

    @property
    def is_right(self) -> bool:
        """Whether there is no fault."""
        return not self.fault


class TookTooLong(BaseException):
    """Raised by the alarm; no ``except Exception`` catches it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(
    call: Callable[..., Any],
    arguments: dict[str, Any],
    changed: str,
    *,
    names: str,
    fate: str,
    expected: Callable[[], dict[str, Any]],
    tolerance: float,
    warns: str,
) -> Verdict:
    """Make a call with one hostile argument, and judge the outcome.

    Parameters
    ----------
    call, arguments
        The callable and its keyword arguments.
    changed : str
        The hostile argument, "*" for several.
    names : str
        Names of the argument in errors, separated by "|".
    fate, tolerance, warns
        As in `Hostile`.
    expected : callable
        Returns the flat answer to the good value, for the fate "same".
    """
    before = {name: kept(value) for name, value in arguments.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with time_limit(TIME_LIMIT):
                answer = flat(call(**arguments))
        except TookTooLong:
            return Verdict("hang", f"no answer within {TIME_LIMIT:g} s")
        except Exception as error:
            outcome, fault = "error", _judge_error(error, names, arguments.get(changed), fate)
        else:
            outcome, fault = "answer", ""
            if fate == "error":
                fault = "accepted a meaningless value"
            undefined = any("not well-defined" in str(w.message) for w in caught)
            fault = fault or ("" if undefined else gaps(answer))
            if not fault and fate.startswith("same"):
                fault = differences(answer, expected(), tolerance)
    unexpected = [
        w
        for w in caught
        if not (warns and re.search(warns, f"{w.category.__name__}: {w.message}"))
        and not issubclass(w.category, (DeprecationWarning, ResourceWarning))
    ]
    if unexpected and not fault:
        fault = f"warned: {unexpected[0].category.__name__}: {unexpected[0].message}"
    for name, value in arguments.items():
        if not fault and not unchanged(before[name], value):
            fault = f"changed its argument {name}"
    return Verdict(outcome, fault)


def _judge_error(error: Exception, names: str, value: Any, fate: str) -> str:
    message, kind = str(error), type(error).__name__
    said = f"{kind}: {message[:160]}"
    if fate in ("same", "answer"):
        return f"refused a valid value: {said}"
    if type(error) not in CLEAR:
        return f"not a clear error: {said}"
    if re.match(rf"(unsupported operand|can't multiply|operand ').*({names})", message):
        return ""  # Python's own message for an undefined sum or product.
    # Errors of a user's own code are quoted after these words.
    if INTERNAL.search(
        re.split(r" failed with | cannot take a step | cannot be made ", message)[0]
    ):
        return f"speaks of the inside of a library: {said}"
    if isinstance(value, torch.nn.Module):
        names += PARTS
    if isinstance(error, NotFittedError):
        return ""
    if not re.search(rf"\b({names})\b", message):
        return f"does not name {names}: {said}"
    return "" if describes(message, value) else f"does not describe the value: {said}"


def describes(message: str, value: Any) -> bool:
    """Whether a message holds the value, its type, or what is wrong with an array."""
    if type(value).__name__ in message or "got" in message.split():
        return True
    if any(form(value)[:30] in message for form in (repr, str)):
        return True
    if value is None and re.search(r"without|\bgive\b", message):
        return True
    if isinstance(value, torch.nn.Module):
        words = r"finite|values|found|takes|has|cannot|False|beyond|supported"
        return bool(re.search(words, message))
    if isinstance(value, (list, tuple)) and any(describes(message, v) for v in value):
        return True
    if isinstance(value, (Path, str, bytes, int, float, complex, np.generic)):
        return str(value) in message or repr(value) in message
    if callable(value):
        return bool(re.search(r"return|failed|cannot|made|makes|evaluates|reproduce", message))
    return bool(OF_ARRAYS.search(message))


def kept(value: Any) -> Any:
    """Return a copy, for comparison after the call."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    try:
        return copy.deepcopy(value)
    except Exception:  # Files and generators, for example, cannot be copied.
        return value


def unchanged(before: Any, after: Any) -> bool:
    """Whether an argument has kept its value."""
    if isinstance(after, torch.nn.Module):
        return unchanged(dict(before.state_dict()), dict(after.state_dict()))
    if isinstance(after, torch.Tensor) and (
        after.is_meta or after.is_sparse or isinstance(after, torch.nn.UninitializedParameter)
    ):
        return True
    if isinstance(after, torch.Tensor):
        return after.shape == before.shape and bool(
            torch.equal(torch.nan_to_num(after.detach()), torch.nan_to_num(before))
        )
    if isinstance(after, (pd.DataFrame, pd.Series)):
        return after.equals(before)
    if isinstance(after, np.ndarray):
        same_kind = after.dtype == before.dtype and after.shape == before.shape
        return same_kind and (after.dtype == object or after.tobytes() == before.tobytes())
    if isinstance(after, dict):
        return after.keys() == before.keys() and all(unchanged(before[k], after[k]) for k in after)
    if isinstance(after, (list, tuple)):
        return len(after) == len(before) and all(map(unchanged, before, after))
    return True
