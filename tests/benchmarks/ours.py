"""The products as kpflow_sklearn computes them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.operators import LinearOperator
from tests.benchmarks.problems import Contender, Problem

ACTIVITY_TOL = 1e-4
ACTIVITY_RANK = 32
OPERATORS: dict[str, Callable[[Linearization], LinearOperator]] = {
    "P": lambda lin: lin.P,
    "P*": lambda lin: lin.P.T,
    "K": lambda lin: lin.K,
    "PKP*": lambda lin: lin.PKP,
}


def product(operator: str, **options: float) -> Contender:
    """Return the contender that applies an operator; ``options`` are those of `linearize`."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        op = OPERATORS[operator](linearize(problem.network, problem.X, **options))
        return lambda: op @ problem.q

    return prepare
