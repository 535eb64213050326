"""Linear operators on trajectories: K, P and the tangent kernel PKP*.

``_linearization`` makes the operators of a network on given trials. ``_parameter`` is K,
``_propagator`` is P with its inverse, and ``_tangent_kernel`` is PKP*. ``_base`` is the algebra
of linear operators, and ``_checks`` checks their common argument.
"""

from kpflow_sklearn._common.public import public_names
from kpflow_sklearn.operators._base import LinearOperator
from kpflow_sklearn.operators._base import cut as cut
from kpflow_sklearn.operators._base import steps_first as steps_first
from kpflow_sklearn.operators._checks import refuse_undefined as refuse_undefined
from kpflow_sklearn.operators._linearization import Linearization, linearize
from kpflow_sklearn.operators._parameter import ParameterJacobian, ParameterOperator
from kpflow_sklearn.operators._propagator import FlowPropagator, InversePropagator
from kpflow_sklearn.operators._tangent_kernel import TangentKernel

__all__ = [
    "FlowPropagator",
    "InversePropagator",
    "LinearOperator",
    "Linearization",
    "ParameterJacobian",
    "ParameterOperator",
    "TangentKernel",
    "linearize",
]

__dir__ = public_names(__all__)
