"""A whole network linearized along its trajectories: layers, mask and initial state together.

Each layer l of a stack is a node of its own, whose step z_l' = f_l(z_l, rate(z_{l-1}')) depends on
its previous state and on the lower layer within the same step. J_t and J_theta hold the lower
layers of the same step fixed; the propagator carries their influence upwards: with A_t the
derivative of the layers by the next lower ones, (I - A_t) (P q)_t = q_t + J_t (P q)_{t-1}.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


class LayerBlock:
    """A layer's parameter block, embedded in the states of the whole network."""

    def __init__(self, block: Any, prefix: str, states: slice) -> None:
        self.block, self.prefix, self.states = block, prefix, states
        self.name = prefix + block.name
        self.n_parameters = block.n_parameters

    def write_forward(self, v: Tensor, out: Tensor) -> None:
        """Write J v to the layer's part of ``out`` (T, k, B, n_states of the network)."""
        self.block.write_forward(v, out[..., self.states])

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states of the network)."""
        self.block.add_forward(v, out[..., self.states])

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q for ``q`` (T, k, B, n_states of the network)."""
        return self.block.adjoint(q[..., self.states])

    def select(self, trials: slice) -> LayerBlock:
        """Return the block of some of the trials."""
        return LayerBlock(self.block.select(trials), self.prefix, self.states)

    def split(self) -> list[LayerBlock]:
        """Return the finest blocks: one per weight map or parameter tensor."""
        return [LayerBlock(part, self.prefix, self.states) for part in self.block.split()]

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Split a flat direction into pieces of the named parameters."""
        return self.block.to_parameters(v)


class InitialStateBlock:
    """A trained initial state, common to all trials, as a block of J_theta: J_1 at t = 1."""

    name = "initial_state"

    def __init__(self, tangent: NetworkTangent) -> None:
        self._tangent = tangent
        self.n_parameters = tangent.shape[-1]

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states): J_1 v at the first step, zero later."""
        # The same v, (k, n_states), for every trial: (k, B, n_states).
        spread = v.unsqueeze(1).expand(out.shape[1:])
        self._tangent.jacobian_forward(0, spread, out[0], out[0])

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (k, n_states): J_1^T q_1 summed over trials."""
        pulled = torch.zeros_like(q[0])
        self._tangent.jacobian_adjoint(0, q[0], pulled, pulled)
        return pulled.sum(1)

    def select(self, trials: slice) -> InitialStateBlock:
        """Return the block of some of the trials."""
        return InitialStateBlock(self._tangent.select(trials))

    def split(self) -> list[InitialStateBlock]:
        """Return the finest blocks: the initial state itself."""
        return [self]

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Split a flat direction into pieces of the named parameters."""
        return [("initial_state", slice(None), v)]


class NetworkTangent:
    """The derivatives of a recurrent network at every trial and step.

    Parameters
    ----------
    layers : list of MappedTangent or UserTangent
        The layers from the input to the readout.
    n_trials, n_timesteps : int
        Size of the trajectories.
    mask : Tensor of shape (T, B, 1) or None
        One on valid steps.
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

    @property
    def n_weights(self) -> int:
        """Number of multiplications in one product with J_t for one trial."""
        return sum(layer.n_weights for layer in self.layers)

    def jacobian_forward(self, t: int, q: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t q to ``out``, all (k, B, H); each layer's input is held fixed.

        ``out`` may be ``push``.
        """
        for layer, s in zip(self.layers, self.slices, strict=True):
            layer.state_forward(t, q[..., s], push[..., s], out[..., s])

    def jacobian_adjoint(self, t: int, p: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t^T p to ``out``, all (k, B, H); ``out`` may be ``push``."""
        for layer, s in zip(self.layers, self.slices, strict=True):
            layer.state_adjoint(t, p[..., s], push[..., s], out[..., s])

    def within_forward(self, t: int, q: Tensor) -> Tensor:
        """Return A_t q, the influence of lower layers on higher ones within step t."""
        return self._add_upwards(t, q, torch.zeros_like(q))

    def within_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return A_t^T p."""
        return self._add_downwards(t, p, torch.zeros_like(p))

    def solve_within(self, t: int, q: Tensor) -> Tensor:
        """Return (I - A_t)^{-1} q, in place: forward substitution, from the lowest layer up."""
        return self._add_upwards(t, q, q)

    def solve_within_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return (I - A_t)^{-T} p, in place: back substitution, from the top layer down."""
        return self._add_downwards(t, p, p)

    def _add_upwards(self, t: int, q: Tensor, out: Tensor) -> Tensor:
        """Add A_t q to ``out``, which may be q, from the lowest layer up."""
        # The block of A_t for layer l + 1 is J_x diag(r') q_l: the change of the lower layer's
        # rates, r' * q_l, is that of the upper layer's input.
        for lower, s, upper, r in self._pairs():
            upper.input_forward(t, lower.output_forward(t, q[..., s]), out[..., r], out[..., r])
        return out

    def _add_downwards(self, t: int, p: Tensor, out: Tensor) -> Tensor:
        """Add A_t^T p to ``out``, which may be p, from the top layer down."""
        for lower, s, upper, r in reversed(self._pairs()):
            out[..., s] += lower.output_adjoint(t, upper.input_adjoint(t, p[..., r]))
        return out

    def select(self, trials: slice | Tensor) -> NetworkTangent:
        """Return the linearization of some of the trials, with the N of all trials.

        A slice shares memory with this linearization; indices of trials copy.
        """
        part = copy.copy(self)
        part.layers = [layer.select(trials) for layer in self.layers]
        part.mask = None if self.mask is None else self.mask[:, trials]
        n_trials = len(torch.arange(self.shape[0])[trials])
        part.shape = (n_trials, *self.shape[1:])
        return part

    def _pairs(self) -> list:
        """Return each layer and the next higher one, with their slices of the states."""
        nodes = list(zip(self.layers, self.slices, strict=True))
        return [
            (lower, s, upper, r) for (lower, s), (upper, r) in zip(nodes, nodes[1:], strict=False)
        ]

    def blocks(self) -> list:
        """Return the parameter blocks of all layers, and of the initial state if it trains."""
        blocks: list = []
        for k, (layer, states) in enumerate(zip(self.layers, self.slices, strict=True)):
            prefix = f"layer{k}." if len(self.layers) > 1 else ""
            blocks += [LayerBlock(block, prefix, states) for block in layer.blocks()]
        if self.learn_initial_state:
            blocks.append(InitialStateBlock(self))
        return blocks
