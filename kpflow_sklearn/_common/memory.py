"""What to do when memory runs out: once more with smaller chunks, then one clear error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
import torch

logger = logging.getLogger("kpflow_sklearn")
T = TypeVar("T")

#: Parts of what torch says on any device; NumPy raises MemoryError.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


class OutOfMemory(MemoryError):
    """Memory ran out, and the message says what did not fit and what can be lowered."""


def free_memory(device: torch.device) -> int:
    """Return how many bytes are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def ran_out(error: BaseException) -> bool:
    """Tell whether an error is an allocation that failed, and not yet explained."""
    if isinstance(error, OutOfMemory):
        return False
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(said in text for said in _SAID)


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """Turn allocations that fail inside the block into `OutOfMemory`.

    Parameters
    ----------
    advice : str
        What did not fit, its size, and what can be lowered.

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
    """How much is worked on at a time; halved whenever memory runs out.

    Parameters
    ----------
    amount : int
        Bytes or trials, from which whoever works makes its chunks; it is read anew by each
        attempt.
    least : int
        Amount of which chunks are as small as they get.
    advice : str
        For `explained`, once even that is too much.
    """

    def __init__(self, amount: int, least: int, advice: str) -> None:
        self.amount, self.least, self.advice = amount, least, advice

    def run(self, work: Callable[[], T]) -> T:
        """Return what ``work()`` returns, once it fits.

        Parameters
        ----------
        work : callable
            Depends on ``amount`` by its chunks alone, and can be begun anew.

        Returns
        -------
        object
            Its result.

        Raises
        ------
        OutOfMemory
            If memory runs out with the smallest chunks.
        """
        while self.amount > self.least:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
            # Outside of the handler, whose error would keep the arrays of the failed attempt.
            self.amount = max(self.least, self.amount // 2)
            logger.warning("memory ran out; once more with chunks of half the size")
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        with explained(self.advice):
            return work()
