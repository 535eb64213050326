"""The judge: a right answer, or one clear error; anything else is a fault, said in words."""

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
CLEAR = (
    ValueError,
    TypeError,
    FileNotFoundError,
    NotFittedError,
    CheckpointError,
    UnsupportedNetworkError,
)
#: What only somebody who knows the inside of a library understands.
INTERNAL = re.compile(
    r"mat1|aten::|at::|size of tensor|broadcast|ufunc|has no attribute|not supported between|"
    r"unsupported operand|Traceback|inhomogeneous|setting an array element|not subscriptable|"
    r"unpack|integer scalar arrays|ScalarType|ambiguous|not iterable|has no len|object is not "
    r"callable|size-1 array|not a sequence|numpy\.object_|must be tuple of ints|index \d+ is out"
)
#: What a network can be called besides: by its parts.
PARTS = "|network|recurrent|readout|step|layer|GRU"
#: What an array can be said to be.
OF_ARRAYS = re.compile(
    r"shape|overflow|dtype|NaN|infinity|infinite|complex|sparse|dimension|sample|"
    r"\bholds?\b|\bup to\b|"
    r"\bgot\b|\bconvert|\bComplex|\bSparse|\bhas\b|\bhave\b|\bdim\b|\bmissing\b|\bbetween\b|\bunknown\b|\bcontains\b"
)


@dataclass(frozen=True)
class Verdict:
    """What one call came to: "answer", "error", or a fault, and what was wrong."""

    outcome: str
    fault: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it is what users may rely on."""
        return not self.fault


class TookTooLong(BaseException):
    """Raised by the alarm; no ``except Exception`` in between may swallow it."""


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
    """Make one call with the argument named ``changed`` made hostile, and judge it.

    Parameters
    ----------
    call, arguments
        What is called, with what.
    changed : str
        The hostile argument, "*" for all.
    names : str
        What an error may call it, parted by "|".
    fate : {"same", "answer", "error", "either", "same or error"}
        What may come back.
    expected : callable
        Returns the flat answer to the plain form of the argument, for "same".
    tolerance : float
        Relative, for comparing with it.
    warns : str
        Pattern of the warnings that are due; empty if there are none.

    Returns
    -------
    Verdict
        The outcome and, if it is wrong, why.
    """
    before = {name: kept(value) for name, value in arguments.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with time_limit(TIME_LIMIT):
                found = flat(call(**arguments))
        except TookTooLong:
            return Verdict("hang", f"no answer within {TIME_LIMIT:g} s")
        except Exception as error:
            outcome, fault = "error", _judge_error(error, names, arguments.get(changed), fate)
        else:
            outcome, fault = "answer", ""
            if fate == "error":
                fault = "took what makes no sense, without a word"
            undefined = any("not well-defined" in str(w.message) for w in caught)
            fault = fault or ("" if undefined else gaps(found))
            if not fault and fate.startswith("same"):
                fault = differences(found, expected(), tolerance)
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
        return f"refused what is fine: {said}"
    if type(error) not in CLEAR:
        return f"not a clear error: {said}"
    if re.match(rf"(unsupported operand|can't multiply|operand ').*({names})", message):
        return ""  # Python's own words for a sum or product that there is not.
    # What a user's own code says, when it fails, is quoted.
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
    return "" if says_what_came(message, value) else f"does not say what came: {said}"


def says_what_came(message: str, value: Any) -> bool:
    """Whether a message holds the value, its type, or what is wrong with an array."""
    if type(value).__name__ in message or "got" in message.split():
        return True
    if any(form(value)[:30] in message for form in (repr, str)):
        return True
    if value is None and re.search(r"without|\bgive\b", message):
        return True
    if isinstance(value, torch.nn.Module):
        return bool(
            re.search(r"finite|values|found|takes|has|cannot|False|beyond|supported", message)
        )
    if isinstance(value, (list, tuple)) and any(says_what_came(message, v) for v in value):
        return True
    if isinstance(value, (Path, str, bytes, int, float, complex, np.generic)):
        return str(value) in message or repr(value) in message
    if callable(value):
        return bool(re.search(r"return|failed|cannot|made|makes|evaluates|reproduce", message))
    return bool(OF_ARRAYS.search(message))


def kept(value: Any) -> Any:
    """Return a copy to compare with afterwards."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    try:
        return copy.deepcopy(value)
    except Exception:  # Files, generators and other things that nobody can copy.
        return value


def unchanged(before: Any, after: Any) -> bool:
    """Whether an argument is still what it was."""
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
