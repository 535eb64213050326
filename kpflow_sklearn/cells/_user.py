"""One layer linearized along its trajectories, for a user's cell: forward and reverse mode.

The same products as `MappedTangent`, obtained from ``torch.func`` because nothing is known of
the cell but ``forward(x_t, h) -> h``. Trials must not influence one another inside the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp


class UserBlock:
    """The share of some parameters of a user's cell in the parameter operator."""

    def __init__(
        self,
        name: str,
        step: Callable[[dict[str, Tensor]], Tensor],
        parameters: dict[str, Tensor],
        mask: Tensor | None,
    ) -> None:
        self.name = name
        self._step, self._parameters, self._mask = step, parameters, mask
        self.n_parameters = sum(p.numel() for p in parameters.values())

    def _unflatten(self, v: Tensor) -> dict[str, Tensor]:
        pieces = v.split([p.numel() for p in self._parameters.values()])
        return {
            name: piece.reshape(p.shape)
            for (name, p), piece in zip(self._parameters.items(), pieces, strict=True)
        }

    def _masked(self, q: Tensor) -> Tensor:
        return q if self._mask is None else q * self._mask

    def forward(self, v: Tensor) -> Tensor:
        """Return J v, (T, ..., B, n_states), for ``v`` (..., n_parameters)."""
        rows = [
            jvp(self._step, (self._parameters,), (self._unflatten(row),))[1]
            for row in v.reshape(-1, self.n_parameters)
        ]
        out = self._masked(torch.stack(rows)).movedim(0, 1)
        return out.reshape(out.shape[0], *v.shape[:-1], *out.shape[2:])

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (..., n_parameters), for ``q`` (T, ..., B, n_states)."""
        pull_back = vjp(self._step, self._parameters)[1]
        rows = q.reshape(q.shape[0], -1, *q.shape[-2:]).movedim(1, 0)
        gradients = [pull_back(self._masked(row))[0] for row in rows]
        flat = [torch.cat([g[n].flatten() for n in self._parameters]) for g in gradients]
        return torch.stack(flat).reshape(*q.shape[1:-2], self.n_parameters)

    def split(self) -> Sequence[UserBlock]:
        """Return one block for each parameter tensor."""
        if len(self._parameters) == 1:
            return [self]

        def only(name: str) -> Callable[[dict[str, Tensor]], Tensor]:
            return lambda one: self._step({**self._parameters, **one})

        return [UserBlock(n, only(n), {n: p}, self._mask) for n, p in self._parameters.items()]

    def to_parameters(self, v: Tensor) -> list[tuple[str, slice, Tensor]]:
        """Cut a flat direction into (parameter name, rows, values) pieces."""
        return [(n, slice(None), values) for n, values in self._unflatten(v).items()]


class UserTangent:
    """A user's cell, linearized at every trial and step.

    Parameters are those of `MappedTangent`, with the module in place of cell and weights.
    """

    def __init__(
        self, module: nn.Module, inputs: Tensor, previous: Tensor, mask: Tensor | None
    ) -> None:
        self.module = module
        self.inputs, self.previous, self.mask = inputs, previous, mask
        self.n_states = self.n_units = previous.shape[-1]
        named = dict(module.named_parameters())
        self._trainable = {n: p.detach().clone() for n, p in named.items() if p.requires_grad}
        self._frozen = {n: p.detach().clone() for n, p in named.items() if not p.requires_grad}

    def _call(self, parameters: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        return functional_call(self.module, {**self._frozen, **parameters}, (x, z))

    def _at_step(self, t: int, q: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        """Return the step's dependence on the state, repeated for the leading axes of ``q``."""
        rows = q.reshape(-1, q.shape[-1])
        repeats = (rows.shape[0] // self.inputs.shape[1], 1)
        x, z = self.inputs[t].repeat(repeats), self.previous[t].repeat(repeats)
        return lambda state: self._call(self._trainable, x, state), z, rows

    def _masked(self, t: int, q: Tensor) -> Tensor:
        return q if self.mask is None else q * self.mask[t]

    def state_forward(self, t: int, q: Tensor) -> Tensor:
        """Return J_t q for ``q`` (..., B, n_states)."""
        step, z, rows = self._at_step(t, q)
        return self._masked(t, jvp(step, (z,), (rows,))[1].reshape(q.shape))

    def state_adjoint(self, t: int, p: Tensor) -> Tensor:
        """Return J_t^T p for ``p`` (..., B, n_states)."""
        step, z, rows = self._at_step(t, self._masked(t, p))
        return vjp(step, z)[1](rows)[0].reshape(p.shape)

    def blocks(self) -> list[UserBlock]:
        """Return the share of the cell's parameters in the parameter operator."""
        if not self._trainable:
            return []
        shape = self.previous.shape
        x, z = self.inputs.flatten(0, 1), self.previous.flatten(0, 1)

        def step(parameters: dict[str, Tensor]) -> Tensor:
            return self._call({**self._trainable, **parameters}, x, z).reshape(shape)

        return [UserBlock("cell", step, self._trainable, self.mask)]
