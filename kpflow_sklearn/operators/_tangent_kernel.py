"""PKP*, the tangent kernel of the states: how one step of gradient descent moves them."""

from __future__ import annotations

from torch import Tensor

from kpflow_sklearn.operators._base import LinearOperator
from kpflow_sklearn.operators._parameter import ParameterOperator
from kpflow_sklearn.operators._propagator import FlowPropagator


class TangentKernel(LinearOperator):
    """PKP*, self-adjoint and positive semidefinite.

    Equation: P K P* = (1/N) (P J_theta) (P J_theta)^T.

    One full-batch gradient step of size eta moves the states by -eta PKP* Err + O(eta^2), where
    Err is the derivative of the loss at each step with respect to the state. This holds for plain
    gradient descent on the linearized trials, not for minibatches, momentum, clipping or Adam.

    Parameters
    ----------
    parameter_operator : ParameterOperator
        K.
    propagator : FlowPropagator
        P.

    Raises
    ------
    TypeError
        If an argument is an operator of another type.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> q = torch.ones(3, 5, 4)
    >>> torch.allclose(lin.PKP @ q, lin.P @ (lin.K @ (lin.P.T @ q)), rtol=1e-4)
    True
    """

    def __init__(self, parameter_operator: ParameterOperator, propagator: FlowPropagator) -> None:
        for name, given, kind in (
            ("parameter_operator", parameter_operator, ParameterOperator),
            ("propagator", propagator, FlowPropagator),
        ):
            if not isinstance(given, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got a {type(given).__name__}.")
        self.K, self.P = parameter_operator, propagator
        op = parameter_operator
        self.tangent = op.tangent
        super().__init__(op.in_shape, op.out_shape, op.dtype, op.device)

    def _apply(self, q: Tensor) -> Tensor:
        return self.P.apply_(self.K.apply_(self.P.T @ q))

    def _apply_in_place(self, q: Tensor) -> Tensor:
        return self.P.apply_(self.K.apply_(self.P.T.apply_(q)))

    def _adjoint(self) -> LinearOperator:
        return self
