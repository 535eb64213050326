"""The products as kpflow_sklearn computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kpflow_sklearn import linearize
from kpflow_sklearn.operators import LinearOperator, TangentKernel
from tests.tools.benchmarks.problems import Contender, Problem

ACTIVITY_TOL = 1e-4
ACTIVITY_RANK = 32


def operator_of(problem: Problem, name: str, **compression: Any) -> LinearOperator:
    """Return P, P*, K or PKP* of the network on its trials.

    ``compression`` holds arguments of ``K.compress``, which truncates the activity in K and PKP*.
    """
    lin = linearize(problem.network, problem.X)
    if name in {"P", "P*"}:
        return lin.P if name == "P" else lin.P.T
    K = lin.K.compress(**compression) if compression else lin.K  # noqa: N806
    return K if name == "K" else TangentKernel(K, lin.P)


def product(name: str, **compression: Any) -> Contender:
    """Return the contender that applies an operator (see `operator_of`)."""

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        op = operator_of(problem, name, **compression)
        return lambda: op @ problem.q

    return prepare


def in_place(name: str, **compression: Any) -> Contender:
    """Return the contender that overwrites its argument, as estimates do.

    The argument is copied first, into memory allocated before; that takes about a tenth of the
    time.
    """

    def prepare(problem: Problem) -> Callable[[], Tensor]:
        op = operator_of(problem, name, **compression)
        steps = torch.empty_like(problem.q.movedim(2, 0), memory_format=torch.contiguous_format)
        buffer = steps.movedim(0, 2)
        return lambda: op.apply_(buffer.copy_(problem.q))

    return prepare
