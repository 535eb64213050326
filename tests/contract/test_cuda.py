"""The same code on a GPU: products, spectra and modes agree with those of the CPU."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, linearize
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.spectra import OperatorSpectra
from tests.oracles.cases import CASES, build, solve
from tests.oracles.spectrum_checks import leading_modes
from tests.tools.devices import devices_in

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
BY_NAME = {case.name: case for case in CASES}
NAMES = ("tanh", "gru", "lstm-2layers", "gru-ragged", "gru-trained_z0", "user")
OPERATORS = ("K", "P", "PKP")
every_name = pytest.mark.parametrize("name", NAMES)
every_operator = pytest.mark.parametrize("operator", OPERATORS)


def pair(name: str, operator: str) -> tuple[LinearOperator, LinearOperator]:
    """Return an operator on the CPU and on the GPU, in float64."""
    network, X = build(BY_NAME[name])
    mask = solve(name).case.mask
    there = linearize(copy.deepcopy(network).to("cuda"), X, mask)
    return getattr(linearize(network, X, mask), operator), getattr(there, operator)


@every_name
@every_operator
def test_products(name, operator):
    here, there = pair(name, operator)
    q = torch.randn(
        3, *here.in_shape, dtype=here.dtype, generator=torch.Generator().manual_seed(0)
    )
    for a, b in ((here, there), (here.T, there.T)):
        torch.testing.assert_close((b @ q.cuda()).cpu(), a @ q, rtol=1e-10, atol=1e-12)


@every_name
@every_operator
@pytest.mark.parametrize("method", ["auto", "randomized"])
def test_spectra(name, operator, method):
    here, there = (
        OperatorSpectra(op, method=method, random_state=0) for op in pair(name, operator)
    )
    for axis in ("all", "trial", "time", "hidden"):
        a, b = here.on(axis), there.on(axis)
        assert b.effective_dimension.value == pytest.approx(a.effective_dimension.value, rel=1e-8)
        assert b.trace.std_error == pytest.approx(a.trace.std_error, rel=1e-6, abs=1e-9)


@every_name
@every_operator
def test_modes(name, operator):
    here, there = pair(name, operator)
    a, b = leading_modes(here, 3), leading_modes(there, 3)
    np.testing.assert_allclose(b.eigenvalues, a.eigenvalues, rtol=1e-9)


def test_an_analysis_is_that_of_the_cpu():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 12, 3)), rng.standard_normal((8, 12, 2))
    tables = []
    for device in ("cpu", "cuda"):
        trainer = RecurrentTrainer(hidden_size=10, max_iter=4, device=device, random_state=0)
        tables.append(KPFlowAnalyzer(trainer, random_state=0).fit(X, y).results_)
    keys = ["iteration", "operator", "axis", "quantity"]
    assert tables[1][keys].equals(tables[0][keys])
    np.testing.assert_allclose(tables[1]["value"], tables[0]["value"], rtol=1e-6)


def test_a_model_trained_here_loads_on_the_cpu():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 12, 3)), rng.standard_normal((8, 12, 2))
    trainer = RecurrentTrainer(
        hidden_size=10, max_iter=4, device="cuda", random_state=0, warm_start=True
    )
    analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    assert next(analyzer.network_.parameters()).is_cuda
    assert devices_in(analyzer) == {"cpu"}
    loaded = pickle.loads(pickle.dumps(analyzer))
    assert loaded.network_ is loaded.trainer_.network_
    assert not next(loaded.network_.parameters()).is_cuda
    np.testing.assert_allclose(loaded.predict(X), analyzer.predict(X), rtol=1e-10, atol=1e-12)
    again = loaded.trainer_.fit(X, y)  # Trains on, where its parameters say.
    assert next(again.network_.parameters()).is_cuda
    expected = analyzer.trainer_.fit(X, y).predict(X)
    np.testing.assert_allclose(again.predict(X), expected, rtol=1e-8, atol=1e-10)


def test_a_seeded_block_restores_the_generator_of_the_gpu():
    def drawn() -> torch.Tensor:
        return torch.rand(4, device="cuda")

    torch.manual_seed(5)
    expected = drawn()
    torch.manual_seed(5)
    with isolated_torch_seed(3):
        inside = drawn()
    assert torch.equal(drawn(), expected)
    torch.manual_seed(3)
    assert torch.equal(drawn(), inside)
