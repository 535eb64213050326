"""State_dicts as other people save them, brought to the names of the network at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor, nn

from kpflow_sklearn.exceptions import CheckpointError
from kpflow_sklearn.training._checkpoint_files import find_sources

Checkpoints = str | PathLike | Sequence[Mapping[str, Tensor] | str | PathLike] | None

# Where training scripts and Lightning put the state_dict among other things, in this order.
NESTED_KEYS = ("state_dict", "model_state_dict", "model", "module", "network", "net")
_COMPILED = "_orig_mod."  # What torch.compile puts before the names of a (sub)module.


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the module inside torch.compile, DataParallel or DistributedDataParallel."""
    while True:
        inner = network._modules.get("_orig_mod")
        if inner is None and isinstance(
            network, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = network.module
        if inner is None:
            return network
        network = inner


def load_each(
    module: nn.Module, checkpoints: Checkpoints, iterations: Sequence[int] | None
) -> Iterator[int]:
    """Load one checkpoint after the other into ``module``; yield the iteration of each.

    Parameters
    ----------
    module : Module
        Whose parameters and buffers are overwritten.
    checkpoints : None, str, path-like, or sequence of state_dict or path-like
        As `SavedTraining` takes them; None for the module's present state alone.
    iterations : sequence of int, optional
        Default the numbers in the files' names, else 0, 1, 2, ...

    Yields
    ------
    int
        Number of parameter updates before the checkpoint that ``module`` now holds.

    Raises
    ------
    CheckpointError
        If a checkpoint cannot be read or does not fit the module.
    ValueError
        If the iterations do not fit.
    """
    present = [module.state_dict()] if checkpoints is None else checkpoints
    sources, numbers = find_sources(present, iterations)
    counted = check_iterations(numbers if iterations is None else iterations, len(sources))
    for iteration, source in zip(counted, sources, strict=True):
        load_checkpoint(module, source.read(), source.label)
        yield iteration


def check_iterations(iterations: Sequence[int] | None, n_checkpoints: int) -> list[int]:
    """Return the number of updates before each checkpoint, counted from 0 if not given."""
    if n_checkpoints == 0:
        raise ValueError("checkpoints must hold at least one state_dict, got none.")
    if iterations is None:
        return list(range(n_checkpoints))
    is_sequence = isinstance(iterations, Iterable) and np.ndim(iterations) == 1
    integers = (int, np.integer)
    if not is_sequence or not all(
        isinstance(i, integers) and not isinstance(i, bool) for i in iterations
    ):
        raise ValueError(f"iterations must be integers, got {iterations!r}.")
    found = [int(i) for i in iterations]
    if len(found) != n_checkpoints:
        raise ValueError(
            f"iterations must give one number for each of the {n_checkpoints} checkpoints, "
            f"got {len(found)}."
        )
    if found[0] < 0 or any(b <= a for a, b in zip(found, found[1:], strict=False)):
        raise ValueError(f"iterations must increase from at least 0, got {found}.")
    return found


def load_checkpoint(module: nn.Module, held: Any, label: str) -> None:
    """Load one checkpoint, or say what does not fit.

    Parameters
    ----------
    module : Module
        Whose parameters and buffers are overwritten.
    held : mapping
        A state_dict, or what holds one under a key of ``NESTED_KEYS``. Keys may carry
        ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile) or the attribute's name in the
        LightningModule or other module that the network was part of.
    label : str
        What errors call it.

    Raises
    ------
    CheckpointError
        If it does not fit the module.
    """
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{label} must be a state_dict, got a {type(held).__name__}.")
    own = module.state_dict()
    nested = (held.get(key) for key in NESTED_KEYS)
    candidates = [_plain(m) for m in (held, *nested) if isinstance(m, Mapping)]
    found = [_without_prefix(state, own, label) for state in candidates]
    state = max(found, key=lambda s: len(own.keys() & s.keys()))
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    shapes = [
        f"{name} {_shape(state[name])} for {_shape(own[name])}"
        for name in sorted(own.keys() & state.keys())
        if _shape(state[name]) != _shape(own[name])
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{label} does not fit {type(module).__name__}: missing keys {sorted(missing)}, "
            f"unexpected keys {sorted(unexpected)}, other shapes {shapes}."
        )
    empty = sorted(k for k, v in state.items() if isinstance(v, Tensor) and v.is_meta)
    if empty:
        raise CheckpointError(f"{label} must hold values, but {empty} hold none (device 'meta').")
    module.load_state_dict(state)


def _plain(state: Mapping) -> dict[str, Any]:
    return {str(name).replace(_COMPILED, ""): value for name, value in state.items()}


def _without_prefix(
    state: dict[str, Any], own: Mapping[str, Tensor], label: str
) -> dict[str, Any]:
    """Return the entries below the prefix under which most of the network's names stand.

    What stands under another prefix belongs to other parts of whatever the network was part of.
    """
    found: dict[str, int] = {"": sum(name in state for name in own)}
    for name in state:
        for key in own:
            if name.endswith(f".{key}"):
                prefix = name.removesuffix(key)
                found[prefix] = found.get(prefix, 0) + 1
    best = max(found, key=found.__getitem__)
    if not best:
        return state
    equal = [prefix for prefix, count in found.items() if count == found[best]]
    if len(equal) > 1:
        raise CheckpointError(
            f"{label} holds the network's tensors more than once, under "
            f"{', '.join(map(repr, equal))}; give the state_dict of the one that is meant."
        )
    return {k.removeprefix(best): v for k, v in state.items() if k.startswith(best)}


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
