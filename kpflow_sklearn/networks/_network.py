"""The recurrent network that the analysis works with: step, readout and initial state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import parameters_of, state_of
from kpflow_sklearn._common.tensors import (
    as_tensor,
    copy_module,
    copy_value,
    stored_values,
    to_cpu,
)
from kpflow_sklearn.exceptions import CheckpointError, UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import run_encoder
from kpflow_sklearn.networks._layers import MappedLayer, UserLayer
from kpflow_sklearn.networks.tangents import NetworkTangent


def refuse_unusable(module: nn.Module, label: str) -> None:
    """Reject networks with non-finite weights.

    Parameters
    ----------
    module : Module
        The network whose parameters and buffers are checked.
    label : str
        The name of the network in the error.

    Raises
    ------
    CheckpointError
        If a parameter or buffer is on the meta device or holds NaN, or a parameter infinity.
    """
    parameters = parameters_of(module)
    for name, value in state_of(module).items():
        if not isinstance(value, Tensor):
            continue
        if value.is_meta or isinstance(value, nn.UninitializedParameter):
            raise CheckpointError(f"{label} must hold values, but {name!r} has none yet.")
        values = stored_values(value)
        # A buffer may hold infinity on purpose, as the masks of attention do.
        if values.isnan().any() or (name in parameters and values.isinf().any()):
            raise CheckpointError(
                f"{label} must be finite, but {name!r} holds NaN or infinity, probably because "
                "training diverged; leave this state out."
            )


class RecurrentNetwork(nn.Module):
    """z_t = f(z_{t-1}, e(X)_t), outputs = readout(rates of the last layer).

    Parameters
    ----------
    recurrent : Module
        The module that holds theta, the parameters of the step.
    layers : list of MappedLayer or UserLayer
        The step, layer by layer, with the parameters of ``recurrent``.
    readout : Module or None
        The map from the rates of the last layer to outputs; None if there is none, so that the
        network has states but no outputs.
    initial_state : Tensor of shape (n_states,)
        z_0, the layers' states one after another; an LSTM layer's are all h, then all c.
    learn_initial_state : bool, default=False
        Whether z_0 is a parameter.
    encoder : Module, optional
        The map e from X to the inputs of the recurrent part; the parameters of e are not in theta.
    """

    def __init__(
        self,
        recurrent: nn.Module,
        layers: Sequence[MappedLayer | UserLayer],
        readout: nn.Module | None,
        initial_state: Tensor,
        learn_initial_state: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if initial_state.dtype not in (torch.float32, torch.float64):
            raise UnsupportedNetworkError(
                "the network must hold float32 or float64 numbers, because lower precision is not "
                f"accurate enough, got {initial_state.dtype}; give network.float()."
            )
        self.recurrent = recurrent
        self.layers = list(layers)
        self.readout, self.encoder = readout, encoder
        self.learn_initial_state = learn_initial_state
        if learn_initial_state:
            self.initial_state = nn.Parameter(initial_state)
        else:
            self.register_buffer("initial_state", initial_state)

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentNetwork:
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        copy_module(self.recurrent, memo)  # Copies what deepcopy cannot, and fills the memo.
        new.__dict__.update(copy_value(self.__dict__, memo))
        return new

    def __getstate__(self) -> dict[str, Any]:
        # Pickles are on the CPU, so that a network trained on a GPU loads on any machine.
        return to_cpu(self).__dict__.copy()

    @property
    def n_states(self) -> int:
        """Length of the state vector, all layers together."""
        return sum(layer.n_states for layer in self.layers)

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the readout."""
        with torch.no_grad():
            return self.outputs(self.initial_state[None, None]).shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Data type of states and parameters."""
        return self.initial_state.dtype

    @property
    def trains(self) -> bool:
        """Whether theta holds a parameter, so that K is not zero."""
        every = nn.Module.parameters(self.recurrent)
        return self.learn_initial_state or any(p.requires_grad for p in every)

    @property
    def n_features(self) -> int | None:
        """Number of features of X; None if there is an encoder or if the step takes any number."""
        return None if self.encoder is not None else getattr(self.layers[0], "n_features", None)

    @property
    def is_frozen(self) -> bool:
        """Whether the random numbers of a user's step are frozen."""
        return any(isinstance(y, UserLayer) and y.step.seed is not None for y in self.layers)

    def encode(self, X: Tensor) -> Tensor:
        """Return the inputs of the recurrent part, (n_trials, n_timesteps, n_inputs)."""
        if self.encoder is None:
            return X
        return run_encoder(self.encoder, X, getattr(self.layers[0], "n_features", None))

    def states(self, X: Tensor, noise: Tensor | None = None) -> Tensor:
        """Run the network on X (n_trials, n_timesteps, n_features), with noise as in `run`."""
        return self.run(self.encode(X), noise)

    def run(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Run the recurrent part.

        Parameters
        ----------
        inputs : Tensor of shape (n_trials, n_timesteps, n_inputs)
            Its inputs, as `encode` returns them.
        noise : Tensor of shape (n_trials, n_timesteps, n_states), optional
            Noise that is added to the states after every step.

        Returns
        -------
        Tensor of shape (n_trials, n_timesteps, n_states)
            The states after every step.
        """
        states = []
        sizes = [layer.n_states for layer in self.layers]
        pushes: Sequence[Tensor | None] = [None] * len(sizes)
        if noise is not None:
            pushes = noise.split(sizes, dim=-1)
        starts = self.initial_state.split(sizes)
        for layer, z0, push in zip(self.layers, starts, pushes, strict=True):
            states.append(layer.run(inputs, z0, push))
            inputs = layer.rates(states[-1])
        return states[0] if len(states) == 1 else torch.cat(states, dim=-1)

    def rates(self, states: Tensor) -> Tensor:
        """Return the rates of the last layer, (..., n_units), which are the readout's input."""
        top = self.layers[-1]
        return top.rates(states[..., self.n_states - top.n_states :])

    def all_rates(self, states: Tensor) -> Tensor:
        """Return the rates of all layers, (..., total number of units)."""
        parts = states.split([layer.n_states for layer in self.layers], dim=-1)
        return torch.cat([y.rates(z) for y, z in zip(self.layers, parts, strict=True)], dim=-1)

    def outputs(self, states: Tensor) -> Tensor:
        """Return the readout of the states."""
        if self.readout is None:
            raise UnsupportedNetworkError(
                "this network has no readout that could be recognised, so that it has states but "
                "no outputs, loss or error signal. Name the readout by SavedTraining(network, "
                "readout=...).fit(X, y), and linearize its network_."
            )
        rates = self.rates(states)
        # Other readouts than a Linear may change their input in place, as nn.ReLU(True) does.
        return self.readout(rates if isinstance(self.readout, nn.Linear) else rates.clone())

    def forward(self, X: Tensor) -> Tensor:
        """Return the outputs (n_trials, n_timesteps, n_outputs) for inputs ``X``."""
        return self.outputs(self.states(X))

    def tangent(self, X: Tensor, states: Tensor, mask: Tensor | None) -> NetworkTangent:
        """Linearize every layer along a run.

        Parameters
        ----------
        X : Tensor of shape (n_trials, n_timesteps, n_features)
            Inputs.
        states : Tensor of shape (n_trials, n_timesteps, n_states)
            The states of the run, as `states` returns them.
        mask : Tensor of shape (n_trials, n_timesteps) or None
            Valid steps.

        Returns
        -------
        NetworkTangent
            The derivatives at every trial and step.
        """
        # Steps first: z_t and z_{t-1}, (T, B, n_states), and x_t, (T, B, n_inputs).
        steps = states.detach().movedim(1, 0).contiguous()
        first = self.initial_state.detach().expand(1, *steps.shape[1:])
        previous = torch.cat([first, steps[:-1]])
        with torch.no_grad():
            inputs = self.encode(X).movedim(1, 0).contiguous()
        valid = None if mask is None else mask.to(states.dtype).T.unsqueeze(-1).contiguous()
        tangents: list[Any] = []
        start = 0
        for layer in self.layers:
            stop = start + layer.n_states
            z = steps[..., start:stop].contiguous()
            before = previous[..., start:stop].contiguous()
            tangents.append(layer.tangent(inputs, before, z, valid))
            inputs, start = layer.rates(z).detach(), stop
        n_trials, n_timesteps = states.shape[:2]
        return NetworkTangent(
            tangents, n_trials, n_timesteps, valid, self.learn_initial_state, steps
        )


def unfrozen(network: RecurrentNetwork) -> RecurrentNetwork:
    """Return a network with the same modules, whose steps draw random numbers anew."""
    new = network.__class__.__new__(network.__class__)
    new.__dict__.update(network.__dict__)
    new.layers = [
        UserLayer(y.step.unfrozen()) if isinstance(y, UserLayer) else y for y in network.layers
    ]
    return new


def started_from(network: RecurrentNetwork, initial_state: Tensor) -> RecurrentNetwork:
    """Return a network with the same modules and another z_0, which autograd may follow."""
    new = network.__class__.__new__(network.__class__)
    new.__dict__.update(network.__dict__)
    for kind in ("_parameters", "_buffers"):
        kept = {n: v for n, v in network.__dict__[kind].items() if n != "initial_state"}
        new.__dict__[kind] = kept
    new.__dict__["initial_state"] = initial_state
    return new


def to_tensors(
    X: np.ndarray, mask: np.ndarray | None, network: RecurrentNetwork
) -> tuple[Tensor, Tensor | None]:
    """Convert trials to the network's dtype and device, with zeros on masked steps."""
    device = network.initial_state.device
    if mask is not None:
        X = np.where(mask[..., None], X, 0)
    valid = None if mask is None else as_tensor(mask, device=device)
    return as_tensor(X, network.dtype, device), valid
