"""Read the weights in files of ``torch.save`` that hold other objects beside them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

#: Held while the stand-ins are known to torch, whose table all threads share.
_LOADING = threading.Lock()


class StandIn:
    """Stand in for a pickled object whose class torch does not load.

    It is made and filled like that object, but runs no code and keeps nothing.
    """

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _plain_dict(*args: object) -> OrderedDict:
    """Stand for ``defaultdict(factory)``; its items follow, and may be the weights."""
    return OrderedDict()


def load_weights(path: Path) -> Any:
    """Return what ``torch.load(weights_only=True)`` returns, with stand-ins for other objects.

    torch's own table of classes that are always refused, such as those of ``os``, is kept.
    """
    with _LOADING, torch.serialization.safe_globals(_stand_ins(path)):
        return torch.load(path, map_location="cpu", weights_only=True)


def _stand_ins(path: Path) -> list[Any]:
    """Return a stand-in for each name in the file that torch does not load, with this name."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (AttributeError, ValueError, RuntimeError):  # An old torch, or not its format.
        return []
    special = {"collections.defaultdict": _plain_dict}
    return [(special.get(name) or type(name, (StandIn,), {}), name) for name in names]
