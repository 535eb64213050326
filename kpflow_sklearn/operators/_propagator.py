"""P, the linearized flow propagator: how a push on the states travels through the steps."""

from __future__ import annotations

import torch
from torch import Tensor

from kpflow_sklearn.operators._base import LinearOperator, _Adjoint
from kpflow_sklearn.tangent import NetworkTangent


class FlowPropagator(LinearOperator):
    """P, the response of the trajectory to a push on every step.

    Equations: (P q)_t = q_t + J_t (P q)_{t-1} and (P* q)_t = q_t + J_{t+1}^T (P* q)_{t+1}.
    Block diagonal over trials; the first step's Jacobian is never used. In a stack of layers the
    push also climbs from layer to layer within a step.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.
    """

    def __init__(self, tangent: NetworkTangent) -> None:
        self.tangent = tangent
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, q: Tensor) -> Tensor:
        tangent, out = self.tangent, _masked_steps(self.tangent, q)
        for t in range(out.shape[0]):
            if t:
                out[t] += tangent.jacobian_forward(t, out[t - 1])
            tangent.solve_within(t, out[t])
        return out.movedim(0, -2)

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        tangent, out = self.tangent, _masked_steps(self.tangent, q)
        last = out.shape[0] - 1
        for t in range(last, -1, -1):
            if t < last:
                out[t] += tangent.jacobian_adjoint(t + 1, out[t + 1])
            tangent.solve_within_adjoint(t, out[t])
        return out.movedim(0, -2)

    def _adjoint(self) -> LinearOperator:
        return _Adjoint(self)

    def inverse(self) -> InversePropagator:
        """Return P^{-1}, which looks one step back only.

        Returns
        -------
        InversePropagator
            The inverse on valid steps (zero on masked ones).
        """
        return InversePropagator(self.tangent)


class InversePropagator(LinearOperator):
    """P^{-1}: (P^{-1} q)_t = q_t - J_t q_{t-1}, the push that would make a given response.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.
    """

    def __init__(self, tangent: NetworkTangent) -> None:
        self.tangent = tangent
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, q: Tensor) -> Tensor:
        tangent, steps = self.tangent, _masked_steps(self.tangent, q)
        out = steps.clone()
        for t in range(len(out)):
            if t:
                out[t] -= tangent.jacobian_forward(t, steps[t - 1])
            out[t] -= tangent.within_forward(t, steps[t])
        return out.movedim(0, -2)

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        tangent, steps = self.tangent, _masked_steps(self.tangent, q)
        out = steps.clone()
        for t in range(len(out)):
            if t:
                out[t - 1] -= tangent.jacobian_adjoint(t, steps[t])
            out[t] -= tangent.within_adjoint(t, steps[t])
        return out.movedim(0, -2)

    def _adjoint(self) -> LinearOperator:
        return _Adjoint(self)


def _masked_steps(tangent: NetworkTangent, q: Tensor) -> Tensor:
    """Return a fresh copy of ``q``, steps first, zero where masked."""
    steps = q.movedim(-2, 0)
    if tangent.mask is None:
        return steps.clone(memory_format=torch.contiguous_format)
    mask = tangent.mask.reshape(len(steps), *([1] * (q.ndim - 3)), -1, 1)
    return (steps * mask).contiguous()
