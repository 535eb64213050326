"""One layer linearized along its trajectories, for a user's cell: forward and reverse mode.

The products are those of `MappedTangent`, with the same shapes, but come from ``torch.func``: of
the cell z' = f(x, z; theta) only ``forward(x_t, h) -> h`` is available. J q and J_theta v are
Jacobian-vector products, J^T p and J_theta^T q vector-Jacobian products. Trials must not
influence one another inside the cell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kpflow_sklearn.cells import UserStep
from kpflow_sklearn.networks.tangents._blocks import TensorBlock
from kpflow_sklearn.networks.tangents._products import forward_product, reverse_map
from kpflow_sklearn.networks.tangents._user_checks import computes_at_once, refuse_other_transpose

#: The most trials on which it is decided how derivatives are computed.
N_PROBED = 8
#: Number of trials whose derivatives are checked at once, to bound the memory.
_N_AT_A_TIME = 64


class UserBlock(TensorBlock):
    """Some parameters of a user's cell, as a block of J_theta."""

    def __init__(self, name: str, tangent: UserTangent, parameters: dict[str, Tensor]) -> None:
        super().__init__(name, parameters)
        self._tangent = tangent

    def _masked(self, q: Tensor) -> Tensor:
        mask = self._tangent.mask
        return q if mask is None else q * mask

    def add_forward(self, v: Tensor, out: Tensor) -> None:
        """Add J v to ``out`` (T, k, B, n_states), for ``v`` (k, n_parameters)."""
        # (df/dtheta) v at all steps and trials at once, (T, B, n_states), direction by direction.
        for row, target in zip(v, out.movedim(1, 0), strict=True):
            moved = forward_product(self._tangent.step, self.tensors, self.unflatten(row))
            target += self._masked(moved)

    def adjoint(self, q: Tensor) -> Tensor:
        """Return J^T q, (k, n_parameters), for ``q`` (T, k, B, n_states)."""
        # sum_bt (df/dtheta)^T q_bt, from one backward pass per direction.
        to_parameters = reverse_map(self._tangent.step, self.tensors)[1]
        gradients = [to_parameters(self._masked(row)) for row in q.movedim(1, 0)]
        return torch.stack([self.flatten(gradient) for gradient in gradients])

    def split(self) -> Sequence[UserBlock]:
        """Return one block per parameter tensor."""
        return [UserBlock(n, self._tangent, {n: p}) for n, p in self.tensors.items()]

    def select(self, trials: slice) -> UserBlock:
        """Return the block of some of the trials."""
        return UserBlock(self.name, self._tangent.select(trials), self.tensors)


class UserTangent:
    """A user's cell, linearized at every trial and step.

    The parameters are those of `MappedTangent`, with the step instead of cell and weights.
    """

    def __init__(
        self, step: UserStep, inputs: Tensor, previous: Tensor, mask: Tensor | None
    ) -> None:
        self._step = step
        self.inputs, self.previous, self.mask = inputs, previous, mask
        self.n_states, self.n_units = previous.shape[-1], step.sizes[0]
        named = dict(step.module.named_parameters())
        # Of a step without parameters, such as a reservoir of buffers, one matrix is assumed.
        self.n_weights = sum(p.numel() for p in named.values()) or self.n_states**2
        self._trainable = {n: p.detach().clone() for n, p in named.items() if p.requires_grad}
        fixed = {n: p.detach().clone() for n, p in named.items() if not p.requires_grad}
        # torch.func does not follow compressed layouts such as CSR, so that these become COO.
        fixed |= {
            name.removeprefix(step.prefix): buffer
            for name, buffer in torch.nn.Module.named_buffers(step.module)
            if _is_compressed(buffer)
        }
        fixed = {n: p.to_sparse_coo() if _is_compressed(p) else p for n, p in fixed.items()}
        #: All parameters of the step, of which `_trainable` are some.
        self._parameters: dict[str, Tensor] = {**fixed, **self._trainable}
        x, z = self.inputs[:, :N_PROBED], self.previous[:, :N_PROBED]
        every = self._parameters
        #: f at all steps.
        self._run = step.along if computes_at_once(step, x, z, every) else step.one_by_one
        t = len(inputs) // 2
        refuse_other_transpose(lambda h: step(t, x[t], h, every), z[t])
        if self._trainable:
            at = self._trainable
            refuse_other_transpose(lambda theta: self._run(x, z, {**every, **theta}), at)

    def _at_step(self, t: int, q: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        """Return the step as a function of the state, the states, and ``q`` as rows."""
        # The k directions of all trials are one batch, (k * B, n_states), of x_t and z_{t-1}
        # repeated k times.
        rows = q.reshape(-1, q.shape[-1])
        repeats = (rows.shape[0] // self.inputs.shape[1], 1)
        x, z = self.inputs[t].repeat(repeats), self.previous[t].repeat(repeats)
        return lambda state: self._step(t, x, state, self._parameters), z, rows

    def _masked(self, t: int, q: Tensor) -> Tensor:
        return q if self.mask is None else q * self.mask[t]

    def state_forward(self, t: int, q: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t q to ``out``, all (k, B, n_states); ``out`` may be ``push``."""
        step, z, rows = self._at_step(t, q)
        moved = forward_product(step, z, rows).reshape(q.shape)
        torch.add(push, self._masked(t, moved), out=out)

    def state_adjoint(self, t: int, p: Tensor, push: Tensor, out: Tensor) -> None:
        """Write push + J_t^T p to ``out``, all (k, B, n_states); ``out`` may be ``push``."""
        step, z, rows = self._at_step(t, self._masked(t, p))
        torch.add(push, reverse_map(step, z)[1](rows).reshape(p.shape), out=out)

    def select(self, trials: slice | Tensor) -> UserTangent:
        """Return the linearization of some of the trials, sharing memory with this one."""
        part = copy.copy(self)
        part.inputs, part.previous = self.inputs[:, trials], self.previous[:, trials]
        part.mask = None if self.mask is None else self.mask[:, trials]
        return part

    def step(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return f(x_t, z_{t-1}; theta) of every trial and step, at fixed z_{t-1}."""
        return self._run(self.inputs, self.previous, {**self._parameters, **parameters})

    def undefined_by(self, start_trains: bool) -> str:
        """Say with respect to what the step has no derivative, but NaN; "" if it has all of them.

        The derivative by z_0 counts only if z_0 is a parameter: P does not contain it.
        """
        for first in range(0, self.previous.shape[1], _N_AT_A_TIME):
            part = self.select(slice(first, first + _N_AT_A_TIME))
            undefined = part._undefined_by(start_trains, first)
            if undefined:
                return undefined
        return ""

    def _undefined_by(self, start_trains: bool, first: int) -> str:
        """Do the same for few trials, of which the first has the index ``first``."""
        ones = torch.ones_like(self.previous)

        def of_states(z: Tensor) -> Tensor:
            return self._run(self.inputs, z, self._parameters)

        # J^T 1 is NaN wherever an entry of J is; all steps and trials at once, (T, B, n_states).
        is_nan = reverse_map(of_states, self.previous)[1](ones).isnan().any(-1)
        is_nan[0] &= start_trains
        if is_nan.any():
            t, b = is_nan.nonzero()[0].tolist()
            return f"the state before step {t} of trial {first + b}"
        if not self._trainable:
            return ""
        by_name = reverse_map(self.step, self._trainable)[1](ones)
        return ", ".join(name for name, slope in by_name.items() if slope.isnan().any())

    def blocks(self) -> list[UserBlock]:
        """Return the blocks of J_theta: one for all parameters of the cell that train."""
        return [UserBlock("cell", self, self._trainable)] if self._trainable else []


def _is_compressed(tensor: Tensor) -> bool:
    return tensor.layout not in (torch.strided, torch.sparse_coo)
