"""A whole network linearized along its trajectories: layers, mask and initial state together.

Each layer of a stack is a node of its own: `J_theta` holds the lower layers of the same step
fixed, and the propagator carries their influence upwards within the step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class ParameterBlock(Protocol):
    """A set of parameters whose derivative of the step can be applied and transposed."""

    name: str
    n_parameters: int

    def forward(self, v: Tensor) -> Tensor:
        """Return J v, steps first."""

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q for steps-first ``q``."""

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into pieces of the named parameters."""


class LayerTangent(Protocol):
    """Products with the derivatives of one layer (see `cells._tangent.MappedTangent`)."""

    n_states: int

    def state_forward(self, t: int, q: Tensor) -> Tensor:
        """Return J_t q."""

    def state_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return J_t^T p."""


class LayerBlock:
    """A layer's parameter block, embedded in the states of the whole network."""

    def __init__(self, block: ParameterBlock, name: str, states: slice, n_states: int) -> None:
        self.block, self.name, self.states, self.n_states = block, name, states, n_states
        self.n_parameters = block.n_parameters

    def forward(self, v: Tensor) -> Tensor:
        """Return J v, (T, ..., B, n_states of the network)."""
        own = self.block.forward(v)
        padding = (self.states.start, self.n_states - self.states.stop)
        return torch.nn.functional.pad(own, padding) if any(padding) else own

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q for ``q`` (T, ..., B, n_states of the network)."""
        return self.block.adjoint(q[..., self.states])

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into pieces of the named parameters."""
        return self.block.to_parameters(v)


class InitialStateBlock:
    """The share of a trained initial state, common to all trials: J_1 at the first step."""

    name = "initial_state"

    def __init__(self, tangent: NetworkTangent) -> None:
        self._tangent = tangent
        self.n_parameters = tangent.shape[-1]

    def forward(self, v: Tensor) -> Tensor:
        """Return J v, (T, ..., B, n_states): J_1 v at the first step, zero after it."""
        n_trials, n_timesteps, n_states = self._tangent.shape
        spread = v.unsqueeze(-2).expand(*v.shape[:-1], n_trials, n_states)
        out = v.new_zeros(n_timesteps, *spread.shape)
        out[0] = self._tangent.jacobian_forward(0, spread)
        return out

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q: the first step pulled back and summed over trials."""
        return self._tangent.jacobian_adjoint(0, q[0]).sum(-2)

    def split(self) -> list[InitialStateBlock]:
        """Return the finest blocks: the initial state itself."""
        return [self]

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into pieces of the named parameters."""
        return [("initial_state", slice(None), v)]


class NetworkTangent:
    """The derivatives of a recurrent network at every trial and step.

    Parameters
    ----------
    layers : list of LayerTangent
        From the input to the readout.
    n_trials, n_timesteps : int
        Size of the trajectories.
    mask : Tensor of shape (T, B, 1) or None
        One where a step is valid.
    learn_initial_state : bool
        Whether the initial state is among the parameters.
    like : Tensor
        Any tensor of the dtype and device of the states.
    """

    def __init__(
        self,
        layers: list,
        n_trials: int,
        n_timesteps: int,
        mask: Tensor | None,
        learn_initial_state: bool,
        like: Tensor,
    ) -> None:
        self.layers = layers
        self.mask = mask
        self.learn_initial_state = learn_initial_state
        self.dtype, self.device = like.dtype, like.device
        stops = torch.tensor([layer.n_states for layer in layers]).cumsum(0).tolist()
        self.slices = [slice(b - y.n_states, b) for y, b in zip(layers, stops, strict=True)]
        self.shape = (n_trials, n_timesteps, stops[-1])
        self.n_valid = n_trials * n_timesteps if mask is None else int(mask.sum())

    def jacobian_forward(self, t: int, q: Tensor) -> Tensor:
        """Return J_t q for ``q`` (..., B, H), each layer's input held fixed."""
        parts = [
            layer.state_forward(t, q[..., s])
            for layer, s in zip(self.layers, self.slices, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def jacobian_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return J_t^T p for ``p`` (..., B, H)."""
        parts = [
            layer.state_adjoint(t, p[..., s])
            for layer, s in zip(self.layers, self.slices, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def within_forward(self, t: int, q: Tensor) -> Tensor:
        """Return A_t q, the influence of lower layers on higher ones within step t."""
        out = torch.zeros_like(q)
        for lower, s, upper, r in self._pairs():
            out[..., r] = upper.input_forward(t, lower.output_forward(t, q[..., s]))
        return out

    def within_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return A_t^T p."""
        out = torch.zeros_like(p)
        for lower, s, upper, r in self._pairs():
            out[..., s] = lower.output_adjoint(t, upper.input_adjoint(t, p[..., r]))
        return out

    def solve_within(self, t: int, q: Tensor) -> Tensor:
        """Return (I - A_t)^{-1} q by going up the layers (in place)."""
        for lower, s, upper, r in self._pairs():
            q[..., r] += upper.input_forward(t, lower.output_forward(t, q[..., s]))
        return q

    def solve_within_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return (I - A_t)^{-T} p by going down the layers (in place)."""
        for lower, s, upper, r in reversed(self._pairs()):
            p[..., s] += lower.output_adjoint(t, upper.input_adjoint(t, p[..., r]))
        return p

    def _pairs(self) -> list:
        nodes = list(zip(self.layers, self.slices, strict=True))
        return [
            (lower, s, upper, r) for (lower, s), (upper, r) in zip(nodes, nodes[1:], strict=False)
        ]

    def blocks(self, split: bool = False) -> list:
        """Return the parameter blocks of all layers, and the initial state's if it trains.

        With ``split``, the finest blocks there are: one a weight map or parameter tensor.
        """
        found: list = []
        for k, (layer, states) in enumerate(zip(self.layers, self.slices, strict=True)):
            for block in layer.blocks():
                for part in block.split() if split else [block]:
                    name = f"layer{k}.{part.name}" if len(self.layers) > 1 else part.name
                    found.append(LayerBlock(part, name, states, self.shape[-1]))
        if self.learn_initial_state:
            found.append(InitialStateBlock(self))
        return found
