"""P, the linearized flow propagator: how a push on the states travels through the steps."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_slice
from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.operators._base import LinearOperator, as_trajectories, steps_first
from kpflow_sklearn.operators._checks import check_tangent


class _TrialByTrial(LinearOperator):
    """Base of P and its inverse, which are block diagonal over trials."""

    separable = True

    def __init__(self, tangent: NetworkTangent) -> None:
        check_tangent(tangent)
        self.tangent = tangent
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def on_trials(self, trials: slice) -> Self:
        """Return the operator on some of the trials."""
        check_slice(trials, "trials", self.out_shape[0])
        return type(self)(self.tangent.select(trials))


class FlowPropagator(_TrialByTrial):
    """P, the response of the trajectory to a push on the state at every step.

    Equations: (P q)_t = q_t + J_t (P q)_{t-1} and (P* q)_t = q_t + J_{t+1}^T (P* q)_{t+1}.
    P is block diagonal over trials and does not depend on the Jacobian of the first step. In
    stacked layers, the push on a layer also moves the layers above it within the same step.

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
    >>> push[:, 2] = 1  # At step 2 alone: earlier steps do not move.
    >>> bool((lin.P @ push)[:, :2].any())
    False
    """

    def _apply(self, q: Tensor) -> Tensor:
        return self._forward(q, _like_steps(q))

    def _apply_in_place(self, q: Tensor) -> Tensor:
        return self._forward(q, steps_first(q))

    def _forward(self, q: Tensor, out: Tensor) -> Tensor:
        """Write P q to ``out`` (T, k, B, H) and return it in the shape of ``q``."""
        tangent, steps = self.tangent, steps_first(q)
        # r = P q, one step (k, B, H) at a time: r_t = (I - A_t)^{-1} (m_t q_t + J_t r_{t-1}). m_t
        # is the mask, J_t holds the lower layers fixed, and A_t is their influence within step t.
        for t, here in enumerate(out):
            push = _valid(tangent, t, steps)
            if t:
                tangent.jacobian_forward(t, out[t - 1], push, here)
            else:
                here.copy_(push)
            tangent.solve_within(t, here)
        return as_trajectories(out, q.shape[:-3])

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        return self._backward(q, _like_steps(q))

    def _apply_adjoint_in_place(self, q: Tensor) -> Tensor:
        return self._backward(q, steps_first(q))

    def _backward(self, q: Tensor, out: Tensor) -> Tensor:
        """Write P* q to ``out`` (T, k, B, H) and return it in the shape of ``q``."""
        tangent, steps = self.tangent, steps_first(q)
        # r = P* q from the last step to the first, each (k, B, H):
        # r_t = (I - A_t)^{-T} (m_t q_t + J_{t+1}^T r_{t+1}).
        last = len(out) - 1
        for t in range(last, -1, -1):
            push = _valid(tangent, t, steps)
            if t < last:
                tangent.jacobian_adjoint(t + 1, out[t + 1], push, out[t])
            else:
                out[t].copy_(push)
            tangent.solve_within_adjoint(t, out[t])
        return as_trajectories(out, q.shape[:-3])

    def inverse(self) -> InversePropagator:
        """Return P^{-1}, which reaches back one step only.

        Returns
        -------
        InversePropagator
            The inverse on valid steps, zero on masked ones.

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


class InversePropagator(_TrialByTrial):
    """P^{-1}, the push that causes a given response: (P^{-1} q)_t = q_t - J_t q_{t-1}.

    In stacked layers, the influence A_t q_t of the lower layers within the step is subtracted too.

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

    def _apply(self, q: Tensor) -> Tensor:
        # Each step (k, B, H): (P^{-1} q)_t = q_t - J_t q_{t-1} - A_t q_t, q zero where masked.
        tangent, steps = self.tangent, self._valid_steps(q)
        out = steps.clone()
        for t, here in enumerate(out):
            if t:
                tangent.jacobian_forward(t, -steps[t - 1], here, here)
            here -= tangent.within_forward(t, steps[t])
        return as_trajectories(out, q.shape[:-3])

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        # Step t subtracts A_t^T q_t from its own result and J_t^T q_t from that of step t - 1, so
        # that (P^{-1}* q)_t = q_t - J_{t+1}^T q_{t+1} - A_t^T q_t, again (k, B, H).
        tangent, steps = self.tangent, self._valid_steps(q)
        out = steps.clone()
        for t, here in enumerate(out):
            if t:
                tangent.jacobian_adjoint(t, -steps[t], out[t - 1], out[t - 1])
            here -= tangent.within_adjoint(t, steps[t])
        return as_trajectories(out, q.shape[:-3])

    def _valid_steps(self, q: Tensor) -> Tensor:
        """Return ``q`` as steps (T, k, B, H), zero where masked."""
        steps = steps_first(q)
        return torch.stack([_valid(self.tangent, t, steps) for t in range(len(steps))])


def _like_steps(q: Tensor) -> Tensor:
    """Return uninitialised memory (T, k, B, H) for the steps of ``q``, each step contiguous."""
    return torch.empty(steps_first(q).shape, dtype=q.dtype, device=q.device)


def _valid(tangent: NetworkTangent, t: int, steps: Tensor) -> Tensor:
    """Return m_t q_t (k, B, H), the push at step t, zero where masked."""
    return steps[t] if tangent.mask is None else steps[t] * tangent.mask[t]
