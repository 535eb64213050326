"""Linear operators on trajectories: K, P and the tangent kernel PKP*."""

from kpflow_sklearn.operators._base import LinearOperator
from kpflow_sklearn.operators._parameter import ParameterJacobian, ParameterOperator
from kpflow_sklearn.operators._propagator import FlowPropagator, InversePropagator
from kpflow_sklearn.operators._tangent_kernel import TangentKernel

__all__ = [
    "FlowPropagator",
    "InversePropagator",
    "LinearOperator",
    "ParameterJacobian",
    "ParameterOperator",
    "TangentKernel",
]
