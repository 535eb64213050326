"""The agreement of PKP* with PP* against the dense reference, and when it is missing."""

from __future__ import annotations

import numpy as np
import pytest

from kpflow_sklearn.analyzers.kpflow._agreement import kernel_agreement
from kpflow_sklearn.operators import ParameterOperator, TangentKernel
from kpflow_sklearn.results import OVERFLOW, ZERO
from kpflow_sklearn.spectra import OperatorSpectra
from tests.oracles.cases import solve
from tests.oracles.spectrum_checks import (
    MatrixOperator,
    assert_missing,
    dense_gram,
    operator_of,
    randomized,
)

SHAPE = (3, 5, 4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "gru-2layers")]


@pytest.mark.parametrize("case", ["gru", "tanh-ragged", "user", *SLOW])
def test_kernel_agreement_matches_dense(case):
    kernel, propagator = (OperatorSpectra(operator_of(case, o)) for o in ("PKP", "P"))
    a, b = (dense_gram(solve(case).dense, o) for o in ("PKP", "P"))
    expected = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    exact = kernel_agreement(kernel, propagator)
    assert exact.value == pytest.approx(expected, rel=1e-9) and exact.std_error == 0
    spanned = (randomized(s.op, n_modes=10_000) for s in (kernel, propagator))
    assert kernel_agreement(*spanned).value == pytest.approx(expected, rel=1e-9)
    cosines = []
    for seed in range(12):
        options = {"n_modes": 5, "n_probes": 30, "random_state": seed}
        sampled = (randomized(s.op, **options) for s in (kernel, propagator))
        cosines.append(kernel_agreement(*sampled))
    errors = np.array([(f.value - expected) / f.std_error for f in cosines])
    assert (abs(errors) < 3).all() and 0.5 < errors.std() < 1.5
    mixed = kernel_agreement(randomized(kernel.op, n_modes=5), propagator)
    assert abs(mixed.value - expected) < 3 * mixed.std_error


@pytest.mark.parametrize("method", ["auto", "randomized"])
def test_agreement_with_a_zero_kernel_is_missing(method):
    P = solve("gru").linearization.P
    kernel = TangentKernel(ParameterOperator(P.tangent, []), P)
    spectra = [OperatorSpectra(op, method=method, random_state=0) for op in (kernel, P)]
    assert_missing(kernel_agreement(*spectra), ZERO)


@pytest.mark.parametrize("method", ["auto", "randomized"])
@pytest.mark.parametrize("value, reason", [(0.0, ZERO), (1e308, OVERFLOW)])
def test_agreement_of_what_overflows_or_is_zero_is_missing(value, reason, method):
    left = MatrixOperator(np.full((60, 60), value), SHAPE)
    right = MatrixOperator(np.eye(60), SHAPE)
    spectra = [OperatorSpectra(op, method=method, random_state=0) for op in (left @ right, left)]
    assert_missing(kernel_agreement(*spectra), reason)
