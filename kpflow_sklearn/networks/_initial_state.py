"""z_0 as the user gives it: values or names of tensors, common to all trials."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from numbers import Number
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.arrays import check_numbers
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._functions import named_part

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What to do about a z_0 that is neither values nor a tensor of the network.
IN_THE_STEP = (
    "let the step (step=...) compute it: give the state one more part, 0 at first, by which the "
    "step knows that it is the first (see 'An initial state that is computed' in the "
    "documentation, under 'Any trained network')"
)


def parts_of(initial_state: Any) -> tuple[Any, ...]:
    """Return the parts of z_0 as the user gives it; only a tuple has several."""
    return initial_state if isinstance(initial_state, tuple) else (initial_state,)


def is_given_as_values(initial_state: Any) -> bool:
    """Tell whether z_0, or a part of it, is given as numbers."""
    parts = parts_of(initial_state)
    return any(part is not None and not isinstance(part, str) for part in parts)


def find_start(
    module: nn.Module, initial_state: Any
) -> tuple[list[Tensor] | None, Sequence[nn.Parameter]]:
    """Return z_0 by parts, and those of its parts that are parameters of the module.

    Parameters
    ----------
    module : Module
        The user's network.
    initial_state : None, str, array-like or tuple of these
        Names of tensors of the network, or values.

    Returns
    -------
    start : list of Tensor, or None
        The parts; None for zeros.
    parameters : sequence of Parameter
        The parts that are parameters.

    Raises
    ------
    UnsupportedNetworkError
        If a part is a list of parts, a function or the name of something else than a tensor, or
        if some parts train and others do not.
    """
    if initial_state is None:
        return None, ()
    specs = parts_of(initial_state)
    start = [_part(module, spec) for spec in specs]
    pairs = list(zip(specs, start, strict=True))
    parameters = [p for s, p in pairs if isinstance(s, str) and isinstance(p, nn.Parameter)]
    _refuse_training_in_part(pairs)
    return start, parameters


def _refuse_training_in_part(pairs: Sequence[tuple[Any, Tensor]]) -> None:
    """Refuse a z_0 of which some parts train and others do not."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for spec, part in pairs:
        is_name = isinstance(spec, str)
        name = spec if is_name else f"the values of shape {tuple(part.shape)}"
        names[is_name and part.requires_grad].append(name)
    if all(names.values()):
        trained, fixed = (", ".join(names[trains]) for trains in (True, False))
        raise UnsupportedNetworkError(
            f"initial_state must train in all of its parts or in none, but {trained} can train "
            f"(requires_grad=True), and {fixed} cannot. To hold z_0 fixed, call "
            f"requires_grad_(False) on {trained} of the network; if it was trained, {IN_THE_STEP}."
        )


def _part(module: nn.Module, spec: Any) -> Tensor:
    """Return one part of z_0, which is a tensor of the module or an array of values."""
    if isinstance(spec, (list, tuple)) and not all(isinstance(entry, Number) for entry in spec):
        kinds = sorted({type(entry).__name__ for entry in spec})
        raise UnsupportedNetworkError(
            "initial_state must be a tuple of the parts of the state, or one array if the state "
            f"is one tensor, got a {type(spec).__name__} of {', '.join(kinds)}. Give a tuple, "
            "such as ('h0', 'c0'), if the step takes a tuple; otherwise stack the values in one "
            "array."
        )
    part = named_part(module, spec, "initial_state") if isinstance(spec, str) else spec
    if callable(part):
        given = f"initial_state={spec!r}" if isinstance(spec, str) else "initial_state"
        name = getattr(part, "__name__", type(part).__name__)
        raise UnsupportedNetworkError(
            f"{given} must name a tensor of {type(module).__name__} or hold values, got {name}: "
            f"z_0 is common to all trials. If the network computes it, {IN_THE_STEP}."
        )
    if "complex" in str(getattr(part, "dtype", "")):
        raise UnsupportedNetworkError(
            f"initial_state must hold real numbers, got {part.dtype} numbers of shape "
            f"{tuple(part.shape)}. Give real and imaginary parts as one vector, for example "
            "torch.view_as_real(z0).flatten(-2), and a step that takes and returns states in this "
            "form."
        )
    if isinstance(spec, str) and isinstance(part, Tensor):
        return part
    return as_tensor(check_numbers(part, "initial_state"))


def join_parts(start: Sequence[Tensor], n_layers: int) -> Tensor:
    """Return z_0, (n_states,), layer by layer, from parts that each hold all layers."""
    return torch.cat([part.reshape(n_layers, -1) for part in start], dim=1).flatten()


def axes_advice(start: Sequence[Tensor] | None) -> str:
    """Return what to do about a part of z_0 with several axes, or "" if all are vectors."""
    for part in start or ():
        shape = tuple(part.shape)
        if sum(length > 1 for length in shape) > 1:
            return (
                f"The part of initial_state of shape {shape} is read as one vector of "
                f"{part.numel()} values, the same for all trials. If it holds a row for each "
                f"trial, {IN_THE_STEP}. If the state of one trial has several axes, begin the "
                f"step with h.unflatten(-1, {shape}) and end it with h.flatten(1)."
            )
    return ""


@contextmanager
def with_advice(advice: str) -> Iterator[None]:
    """Append advice, which may be empty, to an UnsupportedNetworkError of the block."""
    try:
        yield
    except UnsupportedNetworkError as error:
        if not advice:
            raise
        raise UnsupportedNetworkError(f"{error} {advice}") from error
