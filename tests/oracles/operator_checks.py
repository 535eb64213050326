"""One checker for every operator: products, adjoint, scipy, against the dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn import Linearization
from kpflow_sklearn.operators import (
    LinearOperator,
    ParameterJacobian,
)
from tests.oracles import oracle
from tests.oracles.cases import distance

TOLERANCE = 1e-10


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def check_operator(op: LinearOperator, dense: Tensor, adjoint_scale: float = 1.0) -> None:
    """Check an operator and its adjoint against their matrices, in all their uses.

    ``adjoint_scale`` is the factor of the adjoint relative to the transpose: 1/N for J_theta.
    """
    check_products(op, dense)
    check_products(op.T, adjoint_scale * dense.T)
    check_adjoint_identity(op, adjoint_scale)
    check_scipy(op, dense)
    check_scipy(op.T, adjoint_scale * dense.T)


def check_matrices(op: LinearOperator, dense: Tensor, adjoint_scale: float = 1.0) -> None:
    """Check the matrices of an operator and its adjoint: its products are checked elsewhere."""
    assert distance(op.to_dense(), dense) < TOLERANCE
    assert distance(op.T.to_dense(), adjoint_scale * dense.T) < TOLERANCE


def check_products(op: LinearOperator, dense: Tensor) -> None:
    """Compare products with those of the matrix, for every layout of the argument."""
    assert op.shape == dense.shape
    assert distance(op.to_dense(), dense) < TOLERANCE
    for q in layouts(op.in_shape):
        before = q.clone()
        leading = q.shape[: q.ndim - len(op.in_shape)]
        expected = (q.reshape(-1, op.shape[1]) @ dense.T).reshape(*leading, *op.out_shape)
        assert distance(op @ q, expected) < TOLERANCE
        assert torch.equal(q, before)
    p, q = random(2, *op.in_shape)
    assert distance(op @ (2 * p - 3 * q), 2 * (op @ p) - 3 * (op @ q)) < TOLERANCE
    from_numpy = op @ q.numpy()
    assert isinstance(from_numpy, np.ndarray) and distance(from_numpy, op @ q) < TOLERANCE


def layouts(shape: tuple[int, ...]) -> list[Tensor]:
    """Return arguments with no, one and two leading axes, in several memory layouts."""
    reverse = tuple(range(len(shape), -1, -1))
    return [
        random(*shape),
        random(2, 3, *shape),
        random(*shape[::-1], 3).permute(reverse),
        random(2, *shape[:-1], 3 * shape[-1])[..., 1::3],
        random(*shape).expand(2, *shape),
    ]


def check_adjoint_identity(op: LinearOperator, adjoint_scale: float) -> None:
    """Check <p, A q> = <A.T p, q>, with 1/N in the inner product of trajectories."""
    q, p = random(*op.in_shape), random(*op.out_shape, seed=1)
    left, right = adjoint_scale * (p * (op @ q)).sum(), ((op.T @ p) * q).sum()
    assert abs(left - right) < TOLERANCE * (op.T @ p).norm() * q.norm()
    assert distance(op.T.T @ q, op @ q) < TOLERANCE


def check_scipy(op: LinearOperator, dense: Tensor) -> None:
    """Compare the export: the ordinary transpose, vectors (n,) and (n, 1), several columns."""
    exported, matrix = op.to_scipy(), dense.numpy()
    assert exported.shape == op.shape and exported.dtype == matrix.dtype
    v, w = random(dense.shape[1], 3).numpy(), random(dense.shape[0], 3).numpy()
    assert distance(exported.matvec(v[:, 0]), matrix @ v[:, 0]) < TOLERANCE
    assert distance(exported.matvec(v[:, :1]), matrix @ v[:, :1]) < TOLERANCE
    assert distance(exported.matmat(v), matrix @ v) < TOLERANCE
    assert distance(exported.rmatvec(w[:, 0]), matrix.T @ w[:, 0]) < TOLERANCE
    assert distance(exported.rmatmat(w), matrix.T @ w) < TOLERANCE


@dataclass(frozen=True)
class Known:
    """An operator of a linearization and its matrix, made from those of the reference."""

    operator: Callable[[Linearization], LinearOperator]
    dense: Callable[[oracle.DenseOperators], Tensor]


BASIC = {
    "K": Known(lambda lin: lin.K, lambda d: d.K),
    "P": Known(lambda lin: lin.P, lambda d: d.P),
    "P.inverse()": Known(lambda lin: lin.P.inverse(), lambda d: d.P_inverse),
    "PKP": Known(lambda lin: lin.PKP, lambda d: d.PKP),
}


def in_coordinates_of(jacobian: ParameterJacobian, dense: oracle.DenseOperators) -> Tensor:
    """Return the reference's J_theta with its columns in the order of the operator's."""
    n_parameters = jacobian.shape[1]
    place = jacobian.to_parameters(torch.arange(n_parameters))
    assert set(place) == set(dense.parameter_names)
    order = torch.cat([place[name].flatten() for name in dense.parameter_names])
    assert torch.equal(order.sort().values, torch.arange(n_parameters))
    matrix = torch.empty_like(dense.J_theta)
    matrix[:, order] = dense.J_theta
    return matrix
