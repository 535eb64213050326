"""One layer linearized along its trajectories, for a user's cell: forward and reverse mode.

The same products as `MappedTangent`, obtained from ``torch.func`` because nothing is known of
the cell but ``forward(x_t, h) -> h``. Trials must not influence one another inside the cell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jvp, vjp

from kpflow_sklearn.cells import UserStep


class UserBlock:
    """The share of some parameters of a user's cell in the parameter operator."""

    def __init__(self, name: str, tangent: UserTangent, parameters: dict[str, Tensor]) -> None:
        self.name = name
        self._tangent, self._parameters = tangent, parameters
        self.n_parameters = sum(p.numel() for p in parameters.values())

    def _step(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return all states as a function of this block's parameters."""
        return self._tangent.step(parameters)

    def _unflatten(self, v: Tensor) -> dict[str, Tensor]:
        pieces = v.split([p.numel() for p in self._parameters.values()])
        return {
            name: piece.reshape(p.shape)
            for (name, p), piece in zip(self._parameters.items(), pieces, strict=True)
        }

    def _masked(self, q: Tensor) -> Tensor:
        mask = self._tangent.mask
        return q if mask is None else q * mask

    def write_forward(self, v: Tensor, out: Tensor) -> None:
        """Write J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        self.add_forward(v, out.zero_())

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        for row, target in zip(v, out.movedim(1, 0), strict=True):
            moved = jvp(self._step, (self._parameters,), (self._unflatten(row),))[1]
            target += self._masked(moved)

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (k, n_parameters), for ``q`` (T, k, B, n_states)."""
        pull_back = vjp(self._step, self._parameters)[1]
        gradients = [pull_back(self._masked(row))[0] for row in q.movedim(1, 0)]
        return torch.stack(
            [torch.cat([g[n].flatten() for n in self._parameters]) for g in gradients]
        )

    def split(self) -> Sequence[UserBlock]:
        """Return one block for each parameter tensor."""
        return [UserBlock(n, self._tangent, {n: p}) for n, p in self._parameters.items()]

    def select(self, trials: slice) -> UserBlock:
        """Return the block of some of the trials."""
        return UserBlock(self.name, self._tangent.select(trials), self._parameters)

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into (parameter name, rows, values) pieces."""
        return [(n, slice(None), values) for n, values in self._unflatten(v).items()]


class UserTangent:
    """A user's cell, linearized at every trial and step.

    Parameters are those of `MappedTangent`, with the step in place of cell and weights.
    """

    def __init__(
        self, step: UserStep, inputs: Tensor, previous: Tensor, mask: Tensor | None
    ) -> None:
        self._step = step
        self.inputs, self.previous, self.mask = inputs, previous, mask
        self.n_states, self.n_units = previous.shape[-1], step.sizes[0]
        named = dict(step.module.named_parameters())
        self.n_weights = sum(p.numel() for p in named.values())
        self._trainable = {n: p.detach().clone() for n, p in named.items() if p.requires_grad}
        self._frozen = {n: p.detach().clone() for n, p in named.items() if not p.requires_grad}

    def _at_step(self, t: int, q: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        """Return the step's dependence on the state, repeated for the leading axes of ``q``."""
        rows = q.reshape(-1, q.shape[-1])
        repeats = (rows.shape[0] // self.inputs.shape[1], 1)
        x, z = self.inputs[t].repeat(repeats), self.previous[t].repeat(repeats)
        named = {**self._frozen, **self._trainable}
        return lambda state: self._step(t, x, state, named), z, rows

    def _masked(self, t: int, q: Tensor) -> Tensor:
        return q if self.mask is None else q * self.mask[t]

    def state_forward(self, t: int, q: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t q to ``out``, all (k, B, n_states); ``out`` may be ``push``."""
        step, z, rows = self._at_step(t, q)
        moved = jvp(step, (z,), (rows,))[1].reshape(q.shape)
        torch.add(push, self._masked(t, moved), out=out)

    def state_adjoint(self, t: int, p: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t^T p to ``out``, all (k, B, n_states); ``out`` may be ``push``."""
        step, z, rows = self._at_step(t, self._masked(t, p))
        torch.add(push, vjp(step, z)[1](rows)[0].reshape(p.shape), out=out)

    def select(self, trials: slice | Tensor) -> UserTangent:
        """Return the linearization of some of the trials, sharing memory with this one."""
        part = copy.copy(self)
        part.inputs, part.previous = self.inputs[:, trials], self.previous[:, trials]
        part.mask = None if self.mask is None else self.mask[:, trials]
        return part

    def step(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the states of every trial and step, the previous ones held fixed."""
        named = {**self._frozen, **self._trainable, **parameters}
        return self._step.along(self.inputs, self.previous, named)

    def blocks(self) -> list[UserBlock]:
        """Return the share of the cell's parameters in the parameter operator."""
        return [UserBlock("cell", self, self._trainable)] if self._trainable else []
