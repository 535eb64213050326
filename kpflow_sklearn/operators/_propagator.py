"""P, the linearized flow propagator: how a push on the states travels through the steps."""

from __future__ import annotations

import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_slice
from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.operators._base import (
    LinearOperator,
    _Adjoint,
    steps_first,
    trials_first,
)
from kpflow_sklearn.operators._checks import check_tangent


class FlowPropagator(LinearOperator):
    """P, the response of the trajectory to a push on every step.

    Equations: (P q)_t = q_t + J_t (P q)_{t-1} and (P* q)_t = q_t + J_{t+1}^T (P* q)_{t+1}.
    Block diagonal over trials; the first step's Jacobian is never used. In a stack of layers the
    push also climbs from layer to layer within a step.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.

    Raises
    ------
    TypeError
        If ``tangent`` is not a linearized network.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.P
    FlowPropagator((3, 5, 4) -> (3, 5, 4), torch.float32)
    >>> push = torch.zeros(3, 5, 4)
    >>> push[:, 2] = 1  # At step 2 alone: what comes before is not moved.
    >>> bool((lin.P @ push)[:, :2].any())
    False
    """

    def __init__(self, tangent: NetworkTangent) -> None:
        check_tangent(tangent)
        self.tangent = tangent
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, q: Tensor) -> Tensor:
        return self._forward(q, _like_steps(q))

    def _apply_in_place(self, q: Tensor) -> Tensor:
        return self._forward(q, steps_first(q))

    def _forward(self, q: Tensor, out: Tensor) -> Tensor:
        """Write P q to ``out``, steps first, and return it in the layout of ``q``."""
        tangent, steps = self.tangent, steps_first(q)
        for t, here in enumerate(out):
            push = _valid(tangent, t, steps)
            if t:
                tangent.jacobian_forward(t, out[t - 1], push, here)
            else:
                here.copy_(push)
            tangent.solve_within(t, here)
        return trials_first(out, q.shape[:-3])

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        return self._backward(q, _like_steps(q))

    def _apply_adjoint_in_place(self, q: Tensor) -> Tensor:
        return self._backward(q, steps_first(q))

    def _backward(self, q: Tensor, out: Tensor) -> Tensor:
        """Write P* q to ``out``, steps first, and return it in the layout of ``q``."""
        tangent, steps = self.tangent, steps_first(q)
        last = len(out) - 1
        for t in range(last, -1, -1):
            push = _valid(tangent, t, steps)
            if t < last:
                tangent.jacobian_adjoint(t + 1, out[t + 1], push, out[t])
            else:
                out[t].copy_(push)
            tangent.solve_within_adjoint(t, out[t])
        return trials_first(out, q.shape[:-3])

    separable = True

    def on_trials(self, trials: slice) -> FlowPropagator:
        """Return P on some of the trials."""
        check_slice(trials, "trials", self.out_shape[0])
        return FlowPropagator(self.tangent.select(trials))

    def _adjoint(self) -> LinearOperator:
        return _Adjoint(self)

    def inverse(self) -> InversePropagator:
        """Return P^{-1}, which looks one step back only.

        Returns
        -------
        InversePropagator
            The inverse on valid steps (zero on masked ones).

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> q = torch.ones(3, 5, 4)
        >>> torch.allclose(lin.P.inverse() @ (lin.P @ q), q, atol=1e-6)
        True
        """
        return InversePropagator(self.tangent)


class InversePropagator(LinearOperator):
    """P^{-1}: (P^{-1} q)_t = q_t - J_t q_{t-1}, the push that would make a given response.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.

    Raises
    ------
    TypeError
        If ``tangent`` is not a linearized network.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.P.inverse()
    InversePropagator((3, 5, 4) -> (3, 5, 4), torch.float32)
    """

    def __init__(self, tangent: NetworkTangent) -> None:
        check_tangent(tangent)
        self.tangent = tangent
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, q: Tensor) -> Tensor:
        tangent, steps = self.tangent, self._valid_steps(q)
        out = steps.clone()
        for t, here in enumerate(out):
            if t:
                tangent.jacobian_forward(t, -steps[t - 1], here, here)
            here -= tangent.within_forward(t, steps[t])
        return trials_first(out, q.shape[:-3])

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        tangent, steps = self.tangent, self._valid_steps(q)
        out = steps.clone()
        for t, here in enumerate(out):
            if t:
                tangent.jacobian_adjoint(t, -steps[t], out[t - 1], out[t - 1])
            here -= tangent.within_adjoint(t, steps[t])
        return trials_first(out, q.shape[:-3])

    def _valid_steps(self, q: Tensor) -> Tensor:
        """Return ``q`` steps first, zero where masked."""
        steps = steps_first(q)
        return torch.stack([_valid(self.tangent, t, steps) for t in range(len(steps))])

    separable = True

    def on_trials(self, trials: slice) -> InversePropagator:
        """Return P^{-1} on some of the trials."""
        check_slice(trials, "trials", self.out_shape[0])
        return InversePropagator(self.tangent.select(trials))

    _apply_adjoint_in_place = _apply_adjoint

    def _adjoint(self) -> LinearOperator:
        return _Adjoint(self)


def _like_steps(q: Tensor) -> Tensor:
    """Return uninitialised memory for the steps of ``q``, each of them contiguous."""
    return torch.empty(steps_first(q).shape, dtype=q.dtype, device=q.device)


def _valid(tangent: NetworkTangent, t: int, steps: Tensor) -> Tensor:
    """Return the push of step t (k, B, H), zero where masked."""
    return steps[t] if tangent.mask is None else steps[t] * tangent.mask[t]
