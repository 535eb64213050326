"""Random numbers from local generators: torch's and NumPy's global state is never advanced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state


def local_generator(
    random_state: int | np.random.RandomState | None,
) -> np.random.RandomState:
    """Return the generator that a scikit-learn style ``random_state`` stands for.

    None asks the operating system, not NumPy's global generator as scikit-learn does.
    """
    if random_state is None:
        return np.random.RandomState(np.random.SeedSequence().generate_state(4))
    try:
        if isinstance(random_state, bool):
            raise ValueError(f"{random_state!r} is no seed")
        return check_random_state(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "random_state must be an integer from 0 to 2**32 - 1, a RandomState or None, got "
            f"{random_state!r}: {error}."
        ) from error


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Draw one seed from a scikit-learn style ``random_state``, see `local_generator`."""
    return int(local_generator(random_state).randint(np.iinfo(np.int32).max))


def torch_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator of its own, seeded."""
    return torch.Generator(device=device).manual_seed(seed)


#: Held while torch's global generator, one for all threads, is borrowed.
_BORROWED = threading.RLock()


@contextmanager
def isolated_torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and restore it afterwards.

    Only for calling code that is not ours (a user's module factory) and that knows no other
    source of random numbers. Threads take turns.
    """
    with _BORROWED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
