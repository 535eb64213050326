"""Dense Grams, their reductions and spectra: what every spectrum is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra import (
    Modes,
    OperatorSpectra,
    Spectrum,
)
from tests.oracles import oracle
from tests.oracles.cases import CASES, solve

TOLERANCE = 1e-9
OPERATORS = ("K", "P", "PKP")
AXES = ("all", "trial", "time", "hidden")
MAPPED = [c.name for c in CASES if isinstance(c.cell, str) and not c.learn_initial_state]


class MatrixOperator(LinearOperator):
    """An operator between trajectories given by its matrix."""

    def __init__(self, matrix: Tensor | np.ndarray, shape: tuple[int, int, int]) -> None:
        self.matrix = torch.as_tensor(matrix)
        super().__init__(shape, shape, self.matrix.dtype, self.matrix.device)

    def _apply(self, q: Tensor) -> Tensor:
        return (q.reshape(-1, self.shape[1]) @ self.matrix.T).reshape(q.shape)

    def _adjoint(self) -> LinearOperator:
        return MatrixOperator(self.matrix.T, self.in_shape)


def leading_modes(
    op: LinearOperator, k: int, *, tolerance: float = 1e-3, **options: object
) -> Modes:
    """Return the leading eigenpairs of an operator's natural Gram."""
    spectra = OperatorSpectra(op, axes=("all",), **options)  # type: ignore[arg-type]
    return spectra.modes(k, tolerance)


def operator_of(name: str, operator: str) -> LinearOperator:
    """Return an operator of a case."""
    return getattr(solve(name).linearization, operator)


def dense_gram(dense: oracle.DenseOperators, operator: str, gram: str = "natural") -> np.ndarray:
    """Return the whole Gram: K, PKP* and PP*, or OO* for all."""
    matrix = getattr(dense, operator).numpy()
    return matrix if gram == "natural" and operator != "P" else matrix @ matrix.T


def reduce(
    gram: np.ndarray, shape: tuple[int, ...], axis: str, reduction: str, mask=None
) -> np.ndarray:
    """Reduce a Gram on (trial, step, unit) to one axis, written index by index."""
    if axis == "all":
        return gram
    six = gram.reshape(*shape, *shape)
    if reduction == "trace":
        pattern = {"trial": "athcth->ac", "time": "bahbch->ac", "hidden": "btabtc->ac"}[axis]
        return np.einsum(pattern, six)
    # The Gram of the signal averaged over its valid entries.
    valid = np.ones(shape) if mask is None else mask[..., None] * np.ones(shape)
    indices = np.indices(shape)[("trial", "time", "hidden").index(axis)]
    averages = [(valid * (indices == i)).ravel() for i in range(indices.max() + 1)]
    averages = np.array([a / max(a.sum(), 1) for a in averages])
    return averages @ gram @ averages.T


def descending_eigenvalues(gram: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(gram)[::-1].clip(min=0)


def count_leading(values: np.ndarray, threshold: float = 0.95) -> int:
    """Return how many of the largest values make up a share of their sum."""
    for r in range(1, len(values) + 1):
        if values[:r].sum() >= threshold * values.sum():
            return r
    raise AssertionError("the values do not make up the share")


def check_spectrum(spectrum: Spectrum, gram: np.ndarray, label: object) -> None:
    """Compare every number of a complete and exact spectrum with the Gram itself."""
    expected = descending_eigenvalues(gram)
    values = spectrum.eigenvalues
    n = max(len(values), len(expected))
    padded = [np.pad(v, (0, n - len(v))) for v in (values, expected)]
    np.testing.assert_allclose(*padded, atol=TOLERANCE * expected[0], rtol=0, err_msg=str(label))
    assert (np.diff(values) <= 0).all(), label
    check_moments(spectrum, gram, label)
    assert spectrum.complete, label
    assert spectrum.rank(0.95) == Estimate(count_leading(expected)), label


def check_moments(spectrum: Spectrum, gram: np.ndarray, label: object) -> None:
    """Compare trace, square and effective dimension, exact ones, with those of the Gram."""
    total, square = np.trace(gram), (gram**2).sum()
    assert spectrum.method == "exact", label
    for estimate, expected in (
        (spectrum.trace, total),
        (spectrum.square, square),
        (spectrum.effective_dimension, total**2 / square),
    ):
        assert estimate.value == pytest.approx(expected, rel=TOLERANCE), label
        assert estimate.std_error == 0 and estimate.reason == "", label


def matrix_with(singular_values: np.ndarray) -> np.ndarray:
    """Return a matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(0)
    n = len(singular_values)
    left, right = (np.linalg.qr(rng.standard_normal((n, n))).Q for _ in range(2))
    return (left * singular_values) @ right


def randomized(op: LinearOperator, **options) -> OperatorSpectra:
    return OperatorSpectra(op, method="randomized", **({"random_state": 0} | options))


def assert_missing(estimate: Estimate, reason: str) -> None:
    assert np.isnan([estimate.value, estimate.std_error]).all() and estimate.reason == reason
