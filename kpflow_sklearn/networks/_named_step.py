"""A network whose step its owner names: a cell, a method, or a function of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.arrays import check_numbers
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._layers import UserLayer
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._readouts import check_readout, find_readout, read_width

Step = str | Callable[[nn.Module, Tensor, Any], Any]
FROZEN_SEED = 0


class StepOf(nn.Module):
    """A method of a network, or a function of it, as a cell ``forward(x_t, h) -> h``.

    Parameters
    ----------
    network : Module
        The whole network.
    step : str or callable
        Name of a method ``(x_t, h) -> h``, or a function ``(network, x_t, h) -> h``.
    left_out : set of int
        Identities of the parameters that are not the step's: those of the readout and z_0.
    """

    def __init__(self, network: nn.Module, step: Step, left_out: set[int]) -> None:
        super().__init__()
        self.network, self.step = network, step
        self.label = f"step {getattr(step, '__name__', step)}"
        self._left_out = {n for n, p in network.named_parameters() if id(p) in left_out}

    def forward(self, x: Tensor, h: Any) -> Any:
        """Return the next state."""
        if callable(self.step):
            return self.step(self.network, x, h)
        return _attribute(self.network, self.step, "step")(x, h)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the step; the readout's, which the network holds too, are not.

        Parameters
        ----------
        *args, **options
            As for every module.

        Yields
        ------
        tuple of (str, Parameter)
            Name and parameter.
        """
        hidden = {f"network.{name}" for name in self._left_out}
        for name, p in super().named_parameters(*args, **options):
            if name not in hidden:
                yield name, p


def recognise_named_step(
    module: nn.Module,
    step: Step,
    *,
    recurrent: str | None = None,
    readout: str | None = None,
    initial_state: Any = None,
    frozen: bool = False,
) -> RecurrentNetwork:
    """View a module as step, readout and initial state, the step being named.

    Parameters
    ----------
    module : Module
        Someone's network.
    step : str or callable
        Name of a submodule or method ``(x_t, h) -> h``, or a function ``(network, x_t, h) -> h``.
    recurrent : str, optional
        Name of the submodule that holds the step and its parameters; default the whole module.
    readout : str or None
        Name of a submodule that maps each state alone; None if there is but one
        ``torch.nn.Linear`` outside the step.
    initial_state : None, str, array-like or tuple of these
        z_0: zero, the name of a tensor of the network, or values; a tuple where h is one.
    frozen : bool, default=False
        Whether the step's random numbers, those of dropout included, are frozen.

    Returns
    -------
    RecurrentNetwork
        Shares the module's parameters.

    Raises
    ------
    UnsupportedNetworkError
        If the parts are not there, or do not fit one another.
    """
    base = module if recurrent is None else _attribute(module, recurrent, "recurrent")
    cell = _attribute(base, step, "step") if isinstance(step, str) else None
    if not callable(step if cell is None else cell):
        came = type(cell if isinstance(step, str) else step).__name__
        raise UnsupportedNetworkError(
            f"step={step!r} must name a submodule or a method of {type(base).__name__}, or be a "
            f"function (network, x_t, h) -> h; it is a {came}."
        )
    inside = set(cell.modules()) if isinstance(cell, nn.Module) else set()
    reader = find_readout(module, readout, inside=inside)
    parts = _parts(module, initial_state, cell, read_width(reader))
    check_readout(reader, parts[0])
    if not isinstance(cell, nn.Module):
        theirs = [*reader.parameters(), *named_tensors(module, initial_state)]
        cell = StepOf(base, step, {id(p) for p in theirs})
    is_tuple = isinstance(initial_state, tuple) or isinstance(cell, nn.LSTMCell)
    seed = FROZEN_SEED if frozen else None
    layer = UserLayer(UserStep(cell, tuple(map(len, parts)), is_tuple, seed))
    trains = initial_state_trains(module, initial_state)
    return RecurrentNetwork(cell, [layer], reader, torch.cat(parts), trains)


def initial_state_of(module: nn.Module, spec: Any, like: Tensor) -> list[Tensor] | None:
    """Return the flat parts of z_0 that ``spec`` stands for; None for None.

    Parameters
    ----------
    module : Module
        Where names are looked up.
    spec : None, str, array-like or tuple of these
        As `SavedTraining` takes it.
    like : Tensor
        Of the dtype and device wanted.

    Returns
    -------
    list of Tensor, or None
        One tensor for each part.
    """
    if spec is None:
        return None
    found = []
    for part in spec if isinstance(spec, tuple) else (spec,):
        value = _attribute(module, part, "initial_state") if isinstance(part, str) else part
        if callable(value):
            raise UnsupportedNetworkError(
                f"initial_state={part!r} must name a tensor of {type(module).__name__}, got a "
                f"{type(value).__name__}."
            )
        if not (isinstance(part, str) and isinstance(value, Tensor)):
            value = as_tensor(check_numbers(value, "initial_state"))
        found.append(value.detach().to(like.device, like.dtype).clone())
    return found


def initial_state_trains(module: nn.Module, spec: Any) -> bool:
    """Tell whether z_0 is made of parameters that train.

    Raises
    ------
    UnsupportedNetworkError
        If only a part of it is.
    """
    parts = spec if isinstance(spec, tuple) else (spec,)
    trains = [isinstance(p, nn.Parameter) and p.requires_grad for p in named_tensors(module, spec)]
    if any(trains) and not (all(trains) and len(trains) == len(parts)):
        raise UnsupportedNetworkError(
            f"initial_state={spec!r} trains in part; it must train as a whole, or not at all."
        )
    return any(trains)


def named_tensors(module: nn.Module, spec: Any) -> list[Any]:
    """Return the tensors of the network that an ``initial_state`` names."""
    parts = spec if isinstance(spec, tuple) else (spec,)
    return [_attribute(module, part, "initial_state") for part in parts if isinstance(part, str)]


def _attribute(module: nn.Module, name: str, role: str) -> Any:
    """Return a submodule, method or tensor by its dotted name, ``role`` in errors."""
    found: Any = module
    for piece in name.split("."):
        if not hasattr(found, piece):
            known = ", ".join(repr(n) for n, _ in module.named_modules() if n)
            raise UnsupportedNetworkError(
                f"{role}={name!r} is no submodule or attribute of {type(module).__name__}; its "
                f"submodules are {known or 'none'}."
            )
        found = getattr(found, piece)
    return found


def _parts(module: nn.Module, spec: Any, cell: Any, n_read: int | None) -> list[Tensor]:
    """Return z_0 by parts; zeros of the cell's ``hidden_size``, or of what the readout takes."""
    like = next(module.parameters())
    given = initial_state_of(module, spec, like)
    if given is not None:
        return [part.reshape(-1) for part in given]
    size = getattr(cell, "hidden_size", n_read)
    if size is None:
        raise UnsupportedNetworkError(
            "the length of the state cannot be told from the step or the readout: give "
            "initial_state=..., such as torch.zeros(64)."
        )
    return [
        like.detach().new_zeros(size) for _ in range(2 if isinstance(cell, nn.LSTMCell) else 1)
    ]
