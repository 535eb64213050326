"""The parts that the user names: a step (a cell, a method or a function), a readout and z_0."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kpflow_sklearn._common.modules import parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._functions import FunctionOf, find_part, named_part
from kpflow_sklearn.networks._initial_state import find_start
from kpflow_sklearn.networks._user_code import refuse_bound

Step = str | Callable[[nn.Module, Tensor, Any], Any]
#: A readout or an encoder.
Part = str | nn.Module | Callable[[nn.Module, Tensor], Tensor] | None

_OF_SEQUENCES = (nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward)


@dataclass(frozen=True)
class NamedParts:
    """The parts of a user's module that the user names.

    Attributes
    ----------
    base : Module
        The module that holds the step and its parameters.
    step : str, callable or None
        The step as it is given, or the name of a cell; None for a stack of torch's layers.
    cell : Module, callable or None
        What ``step`` stands for: a submodule, a method or a function.
    readout : Module or None
        The readout, which may be a `FunctionOf`; None if it is not named.
    start : list of Tensor, or None
        z_0 by parts; None for zeros.
    start_parameters : list of Parameter
        Those parts that are parameters of the module.
    """

    base: nn.Module
    step: Any
    cell: Any
    readout: nn.Module | None
    start: list[Tensor] | None = None
    start_parameters: Sequence[nn.Parameter] = ()

    @property
    def is_cell(self) -> bool:
        """Whether the step is a submodule, not a method or function."""
        return isinstance(self.step, str) and isinstance(self.cell, nn.Module)

    @property
    def start_trains(self) -> bool:
        """Whether z_0 consists of parameters that train."""
        return any(p.requires_grad for p in self.start_parameters)

    def as_cell(self, left_out: Iterable[Tensor]) -> nn.Module:
        """Return the step as a cell; theta of a function excludes ``left_out`` and z_0."""
        if self.is_cell:
            return self.cell
        identities = set(map(id, [*left_out, *self.start_parameters]))
        every = parameters_of(self.base).items()
        counted = {name: p for name, p in every if id(p) not in identities}
        if self.start_trains and "initial_state" in counted:
            raise UnsupportedNetworkError(
                f"the parameter initial_state of {type(self.base).__name__} is not z_0, which has "
                "this name in the results: rename it, or give it as initial_state='initial_state'."
            )
        return FunctionOf(self.base, self.step, "step", counted.values())


def find_named_parts(
    module: nn.Module,
    recurrent: str | None,
    readout: Part,
    step: Step | None,
    initial_state: Any,
) -> NamedParts:
    """Look up the parts that are named in the arguments of `recognise_network`.

    Returns
    -------
    NamedParts
        The parts of these names.

    Raises
    ------
    UnsupportedNetworkError
        If a name does not exist, or names an attribute of the wrong kind.
    """
    base = module if recurrent is None else _named_submodule(module, recurrent)
    if step is None and recurrent is not None and _is_cell(base):
        base, step = module, recurrent
    cell = named_part(base, step, "step") if isinstance(step, str) else step
    if step is not None and not callable(cell):
        raise UnsupportedNetworkError(
            f"step={step!r} must name a submodule or a method of {type(base).__name__}, or be a "
            f"function (network, x_t, h) -> h; it is a {type(cell).__name__}."
        )
    if step is not None and not isinstance(step, str):
        refuse_bound(base, step, "step", 3)
    if isinstance(cell, nn.RNNBase) and type(cell).forward in _OF_SEQUENCES:
        raise UnsupportedNetworkError(
            f"step={step!r} must name what takes one step, (x_t, h) -> h, but a "
            f"{type(cell).__name__} takes whole sequences: give its name as recurrent=..., "
            "without step."
        )
    reader = find_part(module, readout, "readout")
    return NamedParts(base, step, cell, reader, *find_start(module, initial_state))


def _named_submodule(module: nn.Module, name: str) -> nn.Module:
    """Return the submodule that ``recurrent`` names."""
    part = named_part(module, name, "recurrent")
    if not isinstance(part, nn.Module):
        raise UnsupportedNetworkError(
            f"recurrent={name!r} must name a submodule of {type(module).__name__}, got a "
            f"{type(part).__name__}."
        )
    return part


def _is_cell(module: nn.Module) -> bool:
    """Tell whether a module may be a cell, ``forward(x_t, h)``."""
    if isinstance(module, nn.RNNBase):
        return False
    return len(inspect.signature(module.forward).parameters) >= 2
