"""Recover from running out of memory: retry with smaller chunks, then raise a clear error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
import torch

logger = logging.getLogger("kpflow_sklearn")
T = TypeVar("T")

#: Parts of torch's messages on all devices. NumPy raises MemoryError.
_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


class OutOfMemory(MemoryError):
    """Memory ran out. The message says what did not fit and which setting to lower."""


def free_memory(device: torch.device) -> int:
    """Return the number of free bytes on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def ran_out(error: BaseException) -> bool:
    """Return whether an error is a failed allocation that `explained` has not handled yet."""
    if isinstance(error, OutOfMemory):
        return False
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _MESSAGES)


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """Raise `OutOfMemory` for allocations that fail inside the block.

    Parameters
    ----------
    advice : str
        Sentence that says what did not fit, its size, and which setting to lower.

    Raises
    ------
    OutOfMemory
        If memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(f"memory ran out: {advice}") from error


class Allowance:
    """The size of chunks, halved whenever memory runs out.

    Parameters
    ----------
    amount : int
        Bytes or trials per chunk, read again by each attempt.
    least : int
        The amount at which chunks cannot become smaller.
    advice : str
        The advice for `explained` if even the smallest chunks do not fit.
    """

    def __init__(self, amount: int, least: int, advice: str) -> None:
        self.amount, self.least, self.advice = amount, least, advice

    def run(self, work: Callable[[], T]) -> T:
        """Return the result of ``work()``, retrying with smaller chunks if memory runs out.

        Parameters
        ----------
        work : callable
            Function without arguments that can be repeated. It may use ``amount`` only for the
            size of its chunks.

        Returns
        -------
        object
            The result.

        Raises
        ------
        OutOfMemory
            If memory runs out even with the smallest chunks.
        """
        while self.amount > self.least:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
            # Outside the handler, because the error refers to the arrays of the failed attempt.
            self.amount = max(self.least, self.amount // 2)
            logger.warning("memory ran out; retrying with chunks of half the size")
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        with explained(self.advice):
            return work()
