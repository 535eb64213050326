"""A recurrent network as the analysis sees it: step, readout and initial state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import isolated_torch_seed, torch_generator
from kpflow_sklearn._common.tensors import as_tensor, copy_module, to_cpu
from kpflow_sklearn.cells import UserStep, make_cell
from kpflow_sklearn.exceptions import CheckpointError, UnsupportedNetworkError
from kpflow_sklearn.networks._layers import MappedLayer, RecurrentWeights, UserLayer
from kpflow_sklearn.networks.tangents import NetworkTangent


def refuse_unusable(module: nn.Module, label: str) -> None:
    """Refuse a network with a weight that is no number: nothing computed from it would be one.

    Parameters
    ----------
    module : Module
        Whose state is looked at.
    label : str
        What the error calls it.

    Raises
    ------
    CheckpointError
        If a parameter or buffer is on the meta device, or holds NaN or infinity.
    """
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        if value.is_meta or isinstance(value, nn.UninitializedParameter):
            raise CheckpointError(f"{label} must hold values, but {name!r} has none yet.")
        if not torch.isfinite(value).all():
            raise CheckpointError(
                f"{label} must be finite, but {name!r} holds NaN or infinity: training diverged "
                "before; leave this state out."
            )


class RecurrentNetwork(nn.Module):
    """z_t = f(z_{t-1}, x_t), outputs = readout(rates of the last layer).

    Parameters
    ----------
    recurrent : Module
        Holds the parameters theta of the step.
    layers : list of MappedLayer or UserLayer
        The step, layer by layer, reading ``recurrent``.
    readout : Module
        Maps the rates of the last layer to outputs.
    initial_state : Tensor of shape (n_states,)
        z_0, the layers' states one after another; an LSTM layer's are all h, then all c.
    learn_initial_state : bool, default=False
        Whether z_0 is a parameter.
    """

    def __init__(
        self,
        recurrent: nn.Module,
        layers: Sequence[MappedLayer | UserLayer],
        readout: nn.Module,
        initial_state: Tensor,
        learn_initial_state: bool = False,
    ) -> None:
        super().__init__()
        if initial_state.dtype not in (torch.float32, torch.float64):
            raise UnsupportedNetworkError(
                "the network must hold float32 or float64 numbers, for less do not carry an "
                f"analysis, got {initial_state.dtype}; give network.float()."
            )
        self.recurrent = recurrent
        self.layers = list(layers)
        self.readout = readout
        self.learn_initial_state = learn_initial_state
        if learn_initial_state:
            self.initial_state = nn.Parameter(initial_state)
        else:
            self.register_buffer("initial_state", initial_state)

    def __deepcopy__(self, memo: dict[int, Any]) -> RecurrentNetwork:
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        copy_module(self.recurrent, memo)  # First, with its care; what is below finds it copied.
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def __getstate__(self) -> dict[str, Any]:
        # Pickles hold no device: a network trained on a GPU loads where there is none.
        return to_cpu(self).__dict__.copy()

    @property
    def n_states(self) -> int:
        """Length of the state vector of all layers."""
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

    def states(self, X: Tensor, noise: Tensor | None = None) -> Tensor:
        """Run the network.

        Parameters
        ----------
        X : Tensor of shape (n_trials, n_timesteps, n_features)
            Inputs.
        noise : Tensor of shape (n_trials, n_timesteps, n_states), optional
            Added to the states after every step.

        Returns
        -------
        Tensor of shape (n_trials, n_timesteps, n_states)
            The states after every step.
        """
        inputs, found = X, []
        sizes = [layer.n_states for layer in self.layers]
        pushes: Sequence[Tensor | None] = [None] * len(sizes)
        if noise is not None:
            pushes = noise.split(sizes, dim=-1)
        starts = self.initial_state.split(sizes)
        for layer, z0, push in zip(self.layers, starts, pushes, strict=True):
            found.append(layer.run(inputs, z0, push))
            inputs = layer.rates(found[-1])
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def rates(self, states: Tensor) -> Tensor:
        """Return the rates of the last layer, (..., n_units), which the readout sees."""
        top = self.layers[-1]
        return top.rates(states[..., self.n_states - top.n_states :])

    def all_rates(self, states: Tensor) -> Tensor:
        """Return the rates of every layer, (..., total number of units)."""
        parts = states.split([layer.n_states for layer in self.layers], dim=-1)
        return torch.cat([y.rates(z) for y, z in zip(self.layers, parts, strict=True)], dim=-1)

    def outputs(self, states: Tensor) -> Tensor:
        """Return the readout of the states."""
        return self.readout(self.rates(states))

    def forward(self, X: Tensor) -> Tensor:
        """Return the outputs (n_trials, n_timesteps, n_outputs) for inputs ``X``."""
        return self.outputs(self.states(X))

    def tangent(self, X: Tensor, states: Tensor, mask: Tensor | None) -> NetworkTangent:
        """Linearize every layer along ``states``, the run for inputs ``X``.

        Parameters
        ----------
        X : Tensor of shape (n_trials, n_timesteps, n_features)
            Inputs.
        states : Tensor of shape (n_trials, n_timesteps, n_states)
            What `states` returned for them.
        mask : Tensor of shape (n_trials, n_timesteps) or None
            Valid steps.

        Returns
        -------
        NetworkTangent
            The derivatives at every trial and step.
        """
        steps = states.detach().movedim(1, 0).contiguous()
        first = self.initial_state.detach().expand(1, *steps.shape[1:])
        previous = torch.cat([first, steps[:-1]])
        inputs = X.movedim(1, 0).contiguous()
        valid = None if mask is None else mask.to(states.dtype).T.unsqueeze(-1).contiguous()
        tangents: list[Any] = []
        start = 0
        for layer in self.layers:
            own = slice(start, start + layer.n_states)
            z = steps[..., own].contiguous()
            tangents.append(layer.tangent(inputs, previous[..., own].contiguous(), z, valid))
            inputs, start = layer.rates(z).detach(), own.stop
        n_trials, n_timesteps = states.shape[:2]
        return NetworkTangent(
            tangents, n_trials, n_timesteps, valid, self.learn_initial_state, steps
        )


def build_network(
    cell: str | Callable[[int, int], nn.Module],
    n_features: int,
    n_outputs: int,
    *,
    hidden_size: int,
    n_layers: int,
    init_scale: float,
    recurrent_init: str,
    alpha: float,
    learn_initial_state: bool,
    dtype: torch.dtype,
    seed: int,
) -> RecurrentNetwork:
    """Make an untrained network.

    Recurrent weights are N(0, init_scale^2 / hidden_size) in each gate block for
    ``recurrent_init="normal"``, so that the spectral radius is about ``init_scale``, or torch's
    default times ``init_scale`` for "torch". All other weights follow torch's default, uniform in
    +-1/sqrt(hidden_size). A user's cell keeps its own initialisation.

    Parameters
    ----------
    cell : str or callable
        Name of a built-in cell, or (n_features, hidden_size) -> module.
    n_features, n_outputs, hidden_size, n_layers : int
        Sizes.
    init_scale : float
        Gain of the recurrent weights.
    recurrent_init : {"normal", "torch"}
        Their distribution.
    alpha : float
        dt / tau of the leaky cells.
    learn_initial_state : bool
        Whether z_0, zero at first, is a parameter.
    dtype : torch.dtype
        Data type.
    seed : int
        Of the local generator.

    Returns
    -------
    RecurrentNetwork
        The network, on the CPU.
    """
    generator = torch_generator(seed)
    layers: Any
    if callable(cell):
        with isolated_torch_seed(seed):
            recurrent = _made_by(cell, n_features, hidden_size)
        if not isinstance(recurrent, nn.Module):
            raise UnsupportedNetworkError(
                "cell must be a callable (n_features, hidden_size) -> torch.nn.Module, but it "
                f"returned a {type(recurrent).__name__}."
            )
        recurrent = recurrent.to(dtype)
        layers = [UserLayer(UserStep(recurrent, (hidden_size,)))]
        with isolated_torch_seed(seed):
            _try_cell(layers[0].step, n_features, hidden_size, dtype)
    else:
        kind = make_cell(cell, alpha)
        recurrent = RecurrentWeights(n_features, hidden_size, n_layers, kind.n_gates).to(dtype)
        layers = [MappedLayer(kind, recurrent, k) for k in range(n_layers)]
        _initialise(recurrent, hidden_size, init_scale, recurrent_init, generator)
    readout = nn.utils.skip_init(nn.Linear, hidden_size, n_outputs, dtype=dtype)
    _uniform(readout, hidden_size, generator)
    n_states = sum(layer.n_states for layer in layers)
    z0 = torch.zeros(n_states, dtype=dtype)
    return RecurrentNetwork(recurrent, layers, readout, z0, learn_initial_state)


def _made_by(cell: Callable[[int, int], nn.Module], n_features: int, hidden_size: int) -> Any:
    try:
        return cell(n_features, hidden_size)
    except Exception as error:  # Somebody else's code can fail in any way.
        raise UnsupportedNetworkError(
            f"cell({n_features}, {hidden_size}), which should make a torch.nn.Module of "
            f"n_features and hidden_size, failed with {type(error).__name__}: {error}"
        ) from error


def _try_cell(step: UserStep, n_features: int, hidden_size: int, dtype: torch.dtype) -> None:
    """Take one step, so that a cell of another form is refused before anything is trained."""
    x, h = torch.zeros(2, n_features, dtype=dtype), torch.zeros(2, hidden_size, dtype=dtype)
    try:
        with torch.no_grad():
            step(0, x, h)
    except UnsupportedNetworkError:  # Said again of the trials, with their number.
        return
    except Exception as error:
        raise UnsupportedNetworkError(
            f"the cell {type(step.module).__name__} cannot take a step forward(x_t, h) -> h: "
            f"{type(error).__name__}: {error}"
        ) from error


def _uniform(module: nn.Module, hidden_size: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(hidden_size)
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-bound, bound, generator=generator)


def _initialise(
    recurrent: nn.Module, hidden_size: int, scale: float, kind: str, generator: torch.Generator
) -> None:
    _uniform(recurrent, hidden_size, generator)
    with torch.no_grad():
        for name, p in recurrent.named_parameters():
            if name.startswith("weight_hh"):
                if kind == "normal":
                    p.normal_(0, 1 / math.sqrt(hidden_size), generator=generator)
                p.mul_(scale)


def to_tensors(
    X: np.ndarray, mask: np.ndarray | None, network: RecurrentNetwork
) -> tuple[Tensor, Tensor | None]:
    """Move trials to the network's dtype and device; what the mask hides becomes zero."""
    device = network.initial_state.device
    if mask is not None:
        X = np.where(mask[..., None], X, 0)
    valid = None if mask is None else as_tensor(mask, device=device)
    return as_tensor(X, network.dtype, device), valid
