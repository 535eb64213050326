"""Which parameters the encoder, the step, the readout and the module itself depend on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_once, parameters_of, tensors_of
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._dependence import leaves_of, let_all_train
from kpflow_sklearn.networks._functions import FunctionOf, parameters_in
from kpflow_sklearn.networks._initial_state import find_start, join_parts, parts_of
from kpflow_sklearn.networks._network import RecurrentNetwork, started_from
from kpflow_sklearn.networks.agreement._step_errors import AUTOGRAD, run_step
from kpflow_sklearn.networks.agreement._unregistered import refuse_unregistered


@dataclass(frozen=True)
class ParameterUse:
    """Names of the parameters of a module, by what depends on them.

    Attributes
    ----------
    encoder, step, readout, start : set of str
        Those that the rebuilt encoder, step and readout compute with, and those that are z_0.
    trained : set of str
        Those that train.
    sizes : dict of str to int
        The number of values of each parameter.
    """

    encoder: set[str]
    step: set[str]
    readout: set[str]
    start: set[str]
    trained: set[str]
    sizes: dict[str, int]

    @property
    def theta(self) -> set[str]:
        """The parameters in theta."""
        return (self.step | self.start) & self.trained

    @property
    def recognised(self) -> set[str]:
        """The parameters that belong to a part of the rebuilt network."""
        return self.encoder | self.step | self.readout | self.start

    def left_out(self, used: Iterable[str]) -> list[str]:
        """Return those of ``used`` that belong to no part of the rebuilt network."""
        return [name for name in used if name not in self.recognised]


class Rehearsal:
    """A copy of a module and of its rebuilt form, in which every parameter has a gradient.

    The graphs of its results show which parameters they depend on, whatever the values. A module
    may store what it computes, so the user's own module must not be run with gradients.

    Parameters
    ----------
    module : Module
        The user's network.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    initial_state : Any
        z_0 as the user gives it: values or names of tensors, or a tuple of these.
    """

    def __init__(self, module: nn.Module, view: RecurrentNetwork, initial_state: Any) -> None:
        memo: dict[int, Any] = {}
        self.module = copy_module(module, memo)
        self.view = copy.deepcopy(view, memo)
        named = named_once(self.module)
        self._names = {id(p): name for name, p in named.items()}
        every = parameters_of(self.module)
        specs = [spec for spec in parts_of(initial_state) if isinstance(spec, str)]
        self._start = {self._names[id(every[spec])] for spec in specs if spec in every}
        self._initial_state = initial_state
        self._trained = {name for name, p in named.items() if p.requires_grad}
        self._sizes = {name: p.numel() for name, p in named.items()}
        let_all_train(self.module)

    @property
    def in_theta(self) -> set[str]:
        """The parameters that train and count as those of the step, used or not."""
        counted = parameters_in(self.view.recurrent)
        return {self._names[id(p)] for p in counted if id(p) in self._names} & self._trained

    def rebuilt(self, X: Tensor, n_steps: int | None = None) -> ParameterUse:
        """Return what the encoder, the step and the readout depend on, on ``X``.

        The step is only run for the first ``n_steps`` steps; all by default.
        """
        view = self.view
        with torch.enable_grad():
            inputs = view.encode(X)
            states = run_step(view, inputs.detach()[:, :n_steps])
            outputs = [] if view.readout is None else [view.outputs(states.detach())]
        return ParameterUse(
            self._behind([inputs], view.encoder),
            self._behind([states], view.recurrent),
            self._behind(outputs, view.readout),
            self._start,
            self._trained,
            self._sizes,
        )

    def with_start(self) -> RecurrentNetwork:
        """Return the rebuilt network with z_0 as a function of the copied module's parameters."""
        if not self._start:
            return self.view
        parts, _ = find_start(self.module, self._initial_state)
        like = self.view.initial_state
        joined = join_parts([p.to(like) for p in parts or ()], len(self.view.layers))
        return started_from(self.view, joined)

    def of(self, run: Callable[[nn.Module], Iterable[Tensor]]) -> list[str]:
        """Return the parameters on which the tensors of ``run(module)`` depend, in order."""
        try:
            with torch.enable_grad():
                leaves = leaves_of(run(self.module))
        except Exception:  # A user's forward may only work without gradients.
            return []
        return [name for key, name in self._names.items() if key in leaves]

    def _behind(self, results: list[Tensor], part: nn.Module | None) -> set[str]:
        """Return the parameters that a part's results depend on; refuse those of other modules."""
        leaves = leaves_of(results)
        inside = {id(p) for p in (*tensors_of(self.module), *tensors_of(self.view))}
        for p in (p for key, p in leaves.items() if key not in inside):
            refuse_unregistered(self.module, p)
            if isinstance(part, FunctionOf):
                _refuse_outside(part, p)
        return {name for key, name in self._names.items() if key in leaves}


def first_few(names: list[str]) -> str:
    """Return the first four names, with dots if there are more."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _refuse_outside(part: FunctionOf, tensor: Tensor) -> None:
    """Raise an error on a tensor that requires gradients, but is not part of the network."""
    if not isinstance(tensor, nn.Parameter):
        raise UnsupportedNetworkError(
            f"the {part.label} computes with a tensor of shape {tuple(tensor.shape)} that "
            f"requires gradients, but is not a parameter of the network. {AUTOGRAD} If it is a "
            "tensor outside the network, make it a torch.nn.Parameter of the network."
        )
    raise UnsupportedNetworkError(
        f"the {part.label} computes with a parameter of shape {tuple(tensor.shape)} that is not "
        "part of the network that it is given, a copy in the state of a checkpoint. "
        f"{_advice_on_outside(part)}"
    )


def _advice_on_outside(part: FunctionOf) -> str:
    """Say how a function or method uses the parameters of the network that it is given."""
    if isinstance(part.function, str):
        return (
            f"{part.role}={part.function!r} names an attribute that stays bound to the original "
            "network, as torch.compile(self.step) in __init__ is, or a lambda that uses self. "
            f"Give the name of the plain method, for example {part.role}='step', or a function "
            "of the network."
        )
    return (
        "Use the parameters of the network in its first argument, for example "
        "lambda network, ...: network.layer(...), not those of a module outside."
    )
