"""The layers of a recurrent network, which run over sequences and are linearized along runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from kpflow_sklearn._common.modules import parameters_of
from kpflow_sklearn.cells import Cell, UserStep, make_cell
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._functions import FunctionOf
from kpflow_sklearn.networks._initial_state import IN_THE_STEP, join_parts
from kpflow_sklearn.networks.tangents import LayerWeights, MappedTangent, UserTangent, WeightReader

FROZEN_SEED = 0
WEIGHT_STEMS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RecurrentWeights(nn.Module):
    """The weights of a stack of layers, with the names and shapes of ``torch.nn.RNNBase``.

    Parameters
    ----------
    n_features, hidden_size, n_layers, n_gates : int
        Sizes.
    """

    def __init__(self, n_features: int, hidden_size: int, n_layers: int, n_gates: int) -> None:
        super().__init__()
        rows = n_gates * hidden_size
        for k in range(n_layers):
            n_inputs = n_features if k == 0 else hidden_size
            for name, shape in (
                ("weight_ih", (rows, n_inputs)),
                ("weight_hh", (rows, hidden_size)),
                ("bias_ih", (rows,)),
                ("bias_hh", (rows,)),
            ):
                self.register_parameter(f"{name}_l{k}", nn.Parameter(torch.empty(shape)))


class MappedLayer:
    """One layer of a built-in cell, with weights in a module under torch's names.

    Parameters
    ----------
    cell : Cell
        The cell of the layer.
    module : Module
        A `RecurrentWeights` or a ``torch.nn.RNN``, ``GRU`` or ``LSTM``, which holds
        ``weight_ih_l{index}`` and the other weights.
    index : int
        Index of the layer in the stack.
    """

    def __init__(self, cell: Cell, module: nn.Module, index: int) -> None:
        self.cell, self.module, self.index = cell, module, index

    def weights(self) -> LayerWeights:
        """Return the layer's current weights."""
        names = tuple(f"{stem}_l{self.index}" for stem in WEIGHT_STEMS)
        tensors = tuple(getattr(self.module, name, None) for name in names)
        return LayerWeights(tensors, names, tuple(self._trains(name) for name in names))

    def _trains(self, name: str) -> bool:
        """Tell whether a weight, or a raw parameter that it is computed from, is in theta."""
        if is_parametrized(self.module, name):
            raw = self.module.parametrizations[name].parameters()  # type: ignore[union-attr,index]
            return any(p.requires_grad for p in raw)
        weight = getattr(self.module, name, None)
        return weight is not None and weight.requires_grad

    @property
    def n_units(self) -> int:
        """Number of units."""
        return getattr(self.module, f"weight_hh_l{self.index}").shape[1]

    @property
    def n_features(self) -> int:
        """Length of the layer's input."""
        return getattr(self.module, f"weight_ih_l{self.index}").shape[1]

    @property
    def n_states(self) -> int:
        """Number of state variables: the units times the cell's parts."""
        return self.cell.n_parts * self.n_units

    def run(self, inputs: Tensor, initial: Tensor, noise: Tensor | None) -> Tensor:
        """Return the states (B, T, n_states) for ``inputs`` (B, T, n_inputs)."""
        w, cell = self.weights(), self.cell
        feedforward = nn.functional.linear(inputs, w.ih, w.bias_ih)
        z = initial.expand(len(inputs), -1).split(self.n_units, dim=-1)
        states = []
        for t, from_input in enumerate(feedforward.unbind(1)):
            recurrent = nn.functional.linear(cell.rate(z[0]), w.hh, w.bias_hh)
            z = cell.combine(cell.map_values(recurrent, from_input), z)
            if noise is not None:
                pushes = noise[:, t].split(self.n_units, dim=-1)
                z = tuple(part + push for part, push in zip(z, pushes, strict=True))
            states.append(z[0] if len(z) == 1 else torch.cat(z, dim=-1))
        return torch.stack(states, dim=1)

    def rates(self, states: Tensor) -> Tensor:
        """Return the rates, (..., n_units), which the layer sends on, from its states."""
        return self.cell.rate(states[..., : self.n_units])

    def tangent(
        self, inputs: Tensor, previous: Tensor, states: Tensor, mask: Tensor | None
    ) -> MappedTangent:
        """Linearize along a run, with arrays (T, B, ...) that have the steps first."""
        weights = self.weights().detach()
        reader = WeightReader(self.module, weights.names) if is_parametrized(self.module) else None
        return MappedTangent(self.cell, weights, inputs, previous, states, mask, reader)


class UserLayer:
    """A user's cell, a module with ``forward(x_t, h) -> h``.

    Parameters
    ----------
    step : UserStep
        The cell and the form of its state.
    """

    def __init__(self, step: UserStep) -> None:
        self.step = step

    @property
    def n_states(self) -> int:
        """Length of the state, all parts together."""
        return sum(self.step.sizes)

    @property
    def n_units(self) -> int:
        """Length of the state's first part, which is the readout's input."""
        return self.step.sizes[0]

    def run(self, inputs: Tensor, initial: Tensor, noise: Tensor | None) -> Tensor:
        """Return the states (B, T, n_states) for ``inputs`` (B, T, n_inputs)."""
        z = initial.expand(len(inputs), -1)
        states = []
        for t, x in enumerate(inputs.unbind(1)):
            z = self.step(t, x, z)
            z = z if noise is None else z + noise[:, t]
            states.append(z)
        return torch.stack(states, dim=1)

    def rates(self, states: Tensor) -> Tensor:
        """Return the rates, which are the state itself, or its first part."""
        return states[..., : self.n_units]

    def tangent(
        self, inputs: Tensor, previous: Tensor, states: Tensor, mask: Tensor | None
    ) -> UserTangent:
        """Linearize along a run, with arrays (T, B, ...) that have the steps first."""
        return UserTangent(self.step, inputs, previous, mask)


Layer = MappedLayer | UserLayer


def stacked_layers(core: nn.RNNBase, start: list[Tensor] | None) -> tuple[list[Layer], Tensor]:
    """Return the layers of one of torch's modules, and z_0, (n_states,), in their order.

    ``start`` is z_0 as h, or as h and c, each of torch's shape (n_layers, 1, hidden_size); None
    for zeros. In the result, each layer's h comes before its c.
    """
    cell = make_cell(core.mode.lower().removeprefix("rnn_"))
    shape = (core.num_layers, core.hidden_size)
    if start is None:
        start = [next(iter(parameters_of(core).values())).detach().new_zeros(shape)] * cell.n_parts
    size = core.num_layers * core.hidden_size
    if [part.numel() for part in start] != [size] * cell.n_parts:
        raise UnsupportedNetworkError(
            f"initial_state: a {type(core).__name__} of {core.num_layers} layers and "
            f"{core.hidden_size} units takes {cell.n_parts} tensor(s) of {size} values, got "
            f"{', '.join(str(tuple(part.shape)) for part in start)}. z_0 is common to all trials: "
            f"if it differs between them, {IN_THE_STEP}."
        )
    layers: list[Layer] = [MappedLayer(cell, core, k) for k in range(core.num_layers)]
    return layers, join_parts(start, core.num_layers)


def step_layers(
    cell: nn.Module, start: list[Tensor], is_tuple: bool, frozen: bool
) -> tuple[list[Layer], Tensor]:
    """Return a user's cell as the only layer, and z_0, (n_states,), from its parts."""
    sizes = tuple(part.numel() for part in start)
    seed = FROZEN_SEED if frozen else None
    named = (cell.prefix, cell.label) if isinstance(cell, FunctionOf) else ()
    step = UserStep(cell, sizes, is_tuple, seed, *named)
    return [UserLayer(step)], join_parts(start, 1)
