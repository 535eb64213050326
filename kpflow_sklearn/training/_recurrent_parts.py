"""What `SavedTraining` is given: a network, a readout and an encoder to copy, names of theta."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.checks import is_sequence
from kpflow_sklearn._common.modules import parameters_of, set_training
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.networks import is_kept_apart, parts_in_network, refuse_unusable

#: The functions that are taken for a parameter, in words.
_FORMS = {"readout": "(network, states) -> outputs", "encoder": "(network, X) -> inputs"}


def check_part(name: str, given: Any) -> None:
    """Check that a readout or encoder is a name, a module or a function."""
    is_name = isinstance(given, str) and given
    if not (given is None or is_name or callable(given)) or isinstance(given, type):
        raise ValueError(
            f"{name} must be the name of a submodule or method, a torch.nn.Module, or a function "
            f"{_FORMS[name]}, got {given!r}."
        )


def copied_with_parts(network: nn.Module, **parts: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return copies of the network and of the parts that are modules, in evaluation mode.

    One memo makes all copies, so that a part that consists of modules of the network then consists
    of the same modules of its copy, and follows the checkpoints.
    """
    memo: dict[int, Any] = {}
    module = set_training(copy_module(network, memo), False)
    copies = {}
    for name, part in parts.items():
        copies[name] = part
        if isinstance(part, nn.Module):
            copies[name] = set_training(copy_module(part, memo), False)
            if is_kept_apart(module, copies[name]):
                refuse_unusable(copies[name], name)
    return module, copies


def warn_of_parts_without_checkpoints(module: nn.Module, **parts: Any) -> None:
    """Warn of trained parts kept apart from the network, whose checkpoints lack them."""
    for name, part in parts.items():
        if not (isinstance(part, nn.Module) and is_kept_apart(module, part)):
            continue
        if any(p.requires_grad for p in parameters_of(part).values()):
            warn_caller(
                f"the {name}, a {type(part).__name__} kept apart from the network, has parameters "
                "that train, but is not in the checkpoints: all snapshots are analysed with its "
                "present values. Put both into one module and save that, or, if it was not "
                "trained, set their requires_grad to False.",
                UserWarning,
            )


def train_alone(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze all parameters of a module that match none of the patterns.

    Parameters
    ----------
    module : Module
        A copy of the user's network, which is changed in place.
    patterns : sequence of str
        Names of parameters, or patterns of names.

    Raises
    ------
    ValueError
        If the patterns are not a sequence of strings, or if one of them matches no parameter that
        trains.
    """
    if not (is_sequence(patterns) and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(f"parameters must be a sequence of names, got {patterns!r}.")
    named = parameters_of(module)
    frozen = {name for name, p in named.items() if not p.requires_grad}
    ignored: list[str] = []
    chosen: set[int] = set()
    for pattern in patterns:
        matches = [name for name in named if fnmatch.fnmatchcase(name, pattern)]
        chosen.update(id(named[name]) for name in matches)
        if matches and frozen.issuperset(matches):
            raise ValueError(
                f"parameters: {pattern!r} names {', '.join(matches)}, which does not train "
                "(requires_grad=False) and cannot be part of theta; leave it out, or call "
                "requires_grad_(True) on it if it was trained."
            )
        ignored += [name for name in matches if name in frozen and name not in ignored]
        if not matches:
            raise ValueError(
                f"parameters: {pattern!r} is not a parameter of {type(module).__name__}; it has "
                f"{', '.join(map(repr, named))}."
            )
    if ignored:
        warn_caller(
            f"parameters matches {', '.join(ignored)}, which do not train (requires_grad=False) "
            "and are not part of theta.",
            UserWarning,
        )
    for p in named.values():
        p.requires_grad_(p.requires_grad and id(p) in chosen)


def dropout_in(part: nn.Module) -> list[str]:
    """Return descriptions of the dropout in a recurrent part."""
    sources = [f"dropout={part.dropout}"] if isinstance(part, nn.RNNBase) and part.dropout else []
    for name, m in parts_in_network(part):
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.p:
            sources.append(f"{name} ({type(m).__name__}, p={m.p})")
    return sources
