"""Fit state_dicts, as various training scripts save them, to the names of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import (
    COMPILED,
    load_state,
    parameters_of,
    state_of,
)
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.exceptions import CheckpointError
from kpflow_sklearn.networks import refuse_scripted, refuse_unusable
from kpflow_sklearn.training._checkpoint_files import find_sources

Checkpoints = str | PathLike | Sequence[Mapping[str, Tensor] | str | PathLike] | None

# Keys under which training scripts and Lightning save the state_dict, in order of preference.
NESTED_KEYS = (
    "state_dict", "model_state_dict", "model", "module", "network", "net", "weights",
    "ema_state_dict", "ema",
)  # fmt: skip


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the module inside torch.compile, DataParallel or DistributedDataParallel.

    Raises
    ------
    UnsupportedNetworkError
        If it comes from ``torch.jit``.
    """
    refuse_scripted(network, "network")
    while True:
        inner = network._modules.get(COMPILED)
        if inner is None and isinstance(
            network, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = network.module
        if inner is None:
            return network
        network = inner


def refuse_meta(module: nn.Module) -> None:
    """Refuse a network on the meta device, which no checkpoint can fill.

    Raises
    ------
    CheckpointError
        If one of its tensors is on the meta device.
    """
    for name, value in state_of(module).items():
        if isinstance(value, Tensor) and value.is_meta:
            raise CheckpointError(
                f"network: {name!r} of {type(module).__name__} is on device 'meta', where "
                "checkpoints cannot be loaded. Make the network outside torch.device('meta'), or "
                "call network.to_empty(device='cpu') if the checkpoints contain all its tensors."
            )


def load_each(
    module_to_fill: Callable[[], nn.Module],
    checkpoints: Checkpoints,
    iterations: Sequence[int] | None,
    fixed: Sequence[frozenset[str]] = (),
) -> Iterator[int]:
    """Load one checkpoint after the other into a module; yield the iteration of each.

    Parameters
    ----------
    module_to_fill : callable
        Returns, for each checkpoint, the module whose parameters and buffers are overwritten. If
        running the module leaves values in it that depend on the weights, this is a new copy.
    checkpoints : None, str, path-like, or sequence of state_dict or path-like
        The checkpoints, in any form that `SavedTraining` accepts; None for the present state.
    iterations : sequence of int, optional
        Iterations of the checkpoints, by default the numbers in the files' names or 0, 1, 2, ...
    fixed : sequence of frozenset of str, optional
        The parts of the module that a checkpoint need not contain, as `fixed_parts` returns them.

    Yields
    ------
    int
        Number of parameter updates before the checkpoint that was just loaded.

    Raises
    ------
    CheckpointError
        If a checkpoint cannot be read, does not fit the module, or is not finite.
    ValueError
        If the iterations do not fit.
    """
    present = [state_of(module_to_fill())] if checkpoints is None else checkpoints
    sources, numbers = find_sources(present, iterations)
    counted = check_iterations(numbers if iterations is None else iterations, len(sources))
    for index, (iteration, source) in enumerate(zip(counted, sources, strict=True)):
        module = module_to_fill()
        load_checkpoint(module, source.read(), source.label, fixed)
        refuse_unusable(module, "network" if checkpoints is None else f"checkpoints[{index}]")
        yield iteration


def check_iterations(iterations: Sequence[int] | None, n_checkpoints: int) -> list[int]:
    """Return the number of updates before each checkpoint, by default 0, 1, 2, ..."""
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
    counted = [int(i) for i in iterations]
    if len(counted) != n_checkpoints:
        raise ValueError(
            f"iterations must give one number for each of the {n_checkpoints} checkpoints, "
            f"got {len(counted)}."
        )
    if counted[0] < 0 or any(b <= a for a, b in zip(counted, counted[1:], strict=False)):
        raise ValueError(f"iterations must increase from at least 0, got {counted}.")
    return counted


def fixed_parts(module: nn.Module, prefix: str = "") -> list[frozenset[str]]:
    """Return, for each largest submodule without trainable parameters, the names in it."""
    parts = []
    for name, part in module._modules.items():
        if part is None:
            continue
        inside = prefix if name == COMPILED else f"{prefix}{name}."
        if any(p.requires_grad for p in parameters_of(part).values()):
            parts += fixed_parts(part, inside)
        else:
            parts.append(frozenset(inside + key for key in state_of(part)))
    return parts


def load_checkpoint(
    module: nn.Module, checkpoint: Any, label: str, fixed: Sequence[frozenset[str]] = ()
) -> None:
    """Load one checkpoint into a module, or raise a CheckpointError that says what does not fit.

    The checkpoint is a state_dict, or contains one under any key; ``NESTED_KEYS`` are tried first.
    Its keys may begin with ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), or the name
    that the network had inside a larger module, such as a LightningModule. Conversely, the saved
    network may be only a part of ``module``. Entries may be missing if they are tied to others
    that are present (``safetensors.torch.save_model`` leaves them out), or if the whole of one of
    the ``fixed`` parts is missing.
    """
    if not isinstance(checkpoint, Mapping):
        kind = type(checkpoint).__name__
        remedy = " Give its state_dict()." if isinstance(checkpoint, nn.Module) else ""
        raise CheckpointError(f"{label} must be a state_dict, got a {kind}.{remedy}")
    present = state_of(module)
    state = _with_tied(_state_in(checkpoint, present, label), module, label)
    missing, unexpected = present.keys() - state.keys(), state.keys() - present.keys()
    for part in fixed:
        if part <= missing and state:
            state |= {name: present[name] for name in part}
            missing -= part
    shapes = [
        f"{name} {_shape(state[name])} for {_shape(present[name])}"
        for name in sorted(present.keys() & state.keys())
        if _shape(state[name]) != _shape(present[name])
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{label} does not fit {type(module).__name__}: missing keys {sorted(missing)}, "
            f"unexpected keys {sorted(unexpected)}, other shapes {shapes}."
            + ("" if present.keys() & state.keys() else _without_weights(checkpoint))
        )
    empty = sorted(k for k, v in state.items() if isinstance(v, Tensor) and v.is_meta)
    if empty:
        raise CheckpointError(f"{label} must contain values, got {empty} on device 'meta'.")
    load_state(module, state)


def _state_in(checkpoint: Mapping, present: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the state_dict in a checkpoint that shares most names with the network."""
    nested = (mapping for _, mapping in _mappings_in(checkpoint, NESTED_KEYS))
    candidates = [_renamed(mapping, present, label) for mapping in (checkpoint, *nested)]

    def n_shared(state: Mapping) -> int:
        return len(present.keys() & state.keys())

    best = max(candidates, key=n_shared)
    if n_shared(best):
        return best
    # No usual key holds the network's state_dict. Of the others, take the one that shares most
    # names with the network, unless several share equally many.
    others = {
        keys: _renamed(mapping, present, label) for keys, mapping in _mappings_in(checkpoint)
    }
    most = max(map(n_shared, others.values()), default=0)
    fitting = [key for key, state in others.items() if n_shared(state) == most > 0]
    if len(fitting) > 1:
        raise CheckpointError(
            f"{label} contains the network's tensors more than once, under the keys "
            f"{', '.join(fitting)}; give the state_dict to analyse, or a list of them."
        )
    return others[fitting[0]] if fitting else best


def _mappings_in(
    checkpoint: Mapping, usual: Iterable[Any] | None = None, depth: int = 3
) -> Iterator[tuple[str, Mapping]]:
    """Yield the dicts in a checkpoint, and those nested in them, each with its path in words.

    If ``usual`` keys are given, only the dicts under them are yielded, in the order of the keys.
    """
    for key in checkpoint if usual is None else usual:
        value = checkpoint.get(key)
        if isinstance(value, Mapping):
            yield repr(key), value
            if depth > 1:
                inner = _mappings_in(value, usual, depth - 1)
                yield from ((f"{key!r}/{keys}", mapping) for keys, mapping in inner)


def _without_weights(checkpoint: Mapping) -> str:
    """Return what a checkpoint holds instead of the network's tensors, and what to give."""
    entries = []
    for key, value in list(checkpoint.items())[:4]:
        kind = f"a {type(value).__name__}"
        if isinstance(value, Mapping) and value:
            kind += f" of {', '.join(repr(inner) for inner in list(value)[:3])}"
        entries.append(f"{key!r}, {kind}")
    return (
        f" It has none of the network's tensors under their names, but {'; '.join(entries)}. Give "
        "what network.state_dict() returns, or a dict that holds it."
    )


def _renamed(mapping: Mapping, present: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the entries of a mapping, renamed to the names in the network if they fit."""
    state = _without_prefix(_not_compiled(mapping), present, label)
    if not state or present.keys() & state.keys():
        return state
    # The network that was saved may be a part of the present one, for example in a wrapper.
    prefixes = {name[: i + 1] for name in present for i, c in enumerate(name) if c == "."}
    fitting = sorted(
        prefix
        for prefix in prefixes
        if {name.removeprefix(prefix) for name in present if name.startswith(prefix)}
        == state.keys()
    )
    if len(fitting) > 1:
        raise CheckpointError(
            f"{label} fits several parts of the network, {', '.join(map(repr, fitting))}; give "
            "the state_dict of the whole network."
        )
    return {fitting[0] + name: value for name, value in state.items()} if fitting else state


def _with_tied(state: dict[str, Any], module: nn.Module, label: str) -> dict[str, Any]:
    """Add the entries that are missing because they are the same parameter as one present."""
    names: dict[int, list[str]] = {}
    for name, p in parameters_of(module).items():
        names.setdefault(id(p), []).append(name)
    tied: dict[str, Any] = {}
    for group in names.values():
        present = [name for name in group if isinstance(state.get(name), Tensor)]
        if any(not are_equal(state[present[0]], state[name]) for name in present[1:]):
            raise CheckpointError(
                f"{label} contains different values of {', '.join(present)}, which are one "
                f"parameter of {type(module).__name__}. If they were separate in training, give "
                "a network in which they are; otherwise give checkpoints in which they are equal."
            )
        tied |= {name: state[present[0]] for name in group if present and name not in state}
    return state | tied


def _not_compiled(state: Mapping) -> dict[str, Any]:
    """Return the entries without the prefix of torch.compile, wherever it is in a name."""
    return {
        str(name).replace(f"{COMPILED}.", ""): as_tensor(value) if _is_array(value) else value
        for name, value in state.items()
    }


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _without_prefix(
    state: dict[str, Any], present: Mapping[str, Tensor], label: str
) -> dict[str, Any]:
    """Return the entries under the prefix that most of the network's names have, with it removed.

    Entries with another prefix belong to other parts of a module that contained the network.
    """
    counts: dict[str, int] = {"": sum(name in state for name in present)}
    for name in state:
        for key in present:
            if name.endswith(f".{key}"):
                prefix = name.removesuffix(key)
                counts[prefix] = counts.get(prefix, 0) + 1
    best = max(counts, key=counts.__getitem__)
    if not best:
        return state
    equal = [prefix for prefix, count in counts.items() if count == counts[best]]
    if len(equal) > 1:
        raise CheckpointError(
            f"{label} contains the network's tensors more than once, with the prefixes "
            f"{', '.join(map(repr, equal))}; give the state_dict of the network to analyse."
        )
    return {k.removeprefix(best): v for k, v in state.items() if k.startswith(best)}


def are_equal(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors, perhaps sparse ones, have the same shape and values."""
    return torch.equal(a.to_dense(), b.to_dense())


def _shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    return f"{tuple(value.shape)}{layout}"
