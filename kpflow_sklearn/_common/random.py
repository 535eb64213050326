"""Random numbers from local generators, which leave the global state of torch and NumPy alone."""

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
    """Return the generator for a ``random_state`` in the style of scikit-learn.

    None takes a seed from the operating system, where scikit-learn uses NumPy's global generator.
    """
    if random_state is None:
        return np.random.RandomState(np.random.SeedSequence().generate_state(4))
    try:
        if isinstance(random_state, bool):
            raise ValueError(f"{random_state!r} is not a seed")
        return check_random_state(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "random_state must be an integer from 0 to 2**32 - 1, a RandomState or None, got "
            f"{random_state!r}: {error}."
        ) from error


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Draw one seed from a ``random_state`` (see `local_generator`)."""
    return int(local_generator(random_state).randint(np.iinfo(np.int32).max))


def torch_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a new torch generator with the given seed."""
    return torch.Generator(device=device).manual_seed(seed)


#: Held while a thread uses torch's global generator, which all threads share.
_GLOBAL_GENERATOR = threading.RLock()


@contextmanager
def isolated_torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them afterwards.

    These are the generators of the CPU and, if CUDA is initialised, of every GPU. This is only
    meant for code outside the package, such as a user's module factory, that has no other source
    of random numbers. Threads take turns.
    """
    # Not torch.manual_seed: it also seeds a GPU that is first used later, which nobody restores.
    has_gpus = torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count()) if has_gpus else ()
    with _GLOBAL_GENERATOR, torch.random.fork_rng(gpus, device_type="cuda"):
        torch.default_generator.manual_seed(seed)
        if has_gpus:
            torch.cuda.manual_seed_all(seed)
        yield
