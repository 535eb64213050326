"""The cell of CONTRIBUTING.md: its operators are those of dense autograd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from kpflow_sklearn import linearize
from kpflow_sklearn.cells import Cell, WeightMap, _builtin
from tests.oracles import oracle
from tests.oracles.cases import Case, build
from tests.oracles.operator_checks import check_operator

BLOCKS = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    flags=re.S,
)


class MinimalGatedUnit(nn.Module):
    """The same step in plain torch, with the package's names of the weights."""

    def __init__(self, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return the next state."""
        forget_x, input_x = (x @ self.weight_ih_l0.T + self.bias_ih_l0).chunk(2, dim=-1)
        forget_h, input_h = (h @ self.weight_hh_l0.T + self.bias_hh_l0).chunk(2, dim=-1)
        forget = 1 / (1 + torch.exp(-forget_x - forget_h))
        return h + forget * (torch.tanh(input_x + forget * input_h) - h)


@pytest.fixture(scope="module")
def solved():
    scope = {"Cell": Cell, "WeightMap": WeightMap, "torch": torch}
    exec(BLOCKS[0], scope)
    cell = scope["MinimalGatedCell"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_builtin._CELLS, cell.name, cell)
        network, X = build(Case(cell.name, cell.name))
        lin = linearize(network, X)
    parameters = {name: p.detach().clone() for name, p in network.recurrent.named_parameters()}
    module = MinimalGatedUnit(parameters)
    z0 = network.initial_state.detach()
    return lin, oracle.dense_operators(module, parameters, torch.as_tensor(X), z0)


def test_it_is_under_20_lines():
    assert len(BLOCKS[0].splitlines()) < 20


@pytest.mark.parametrize("operator", ["K", "P", "PKP"])
def test_its_operators_match_dense(solved, operator):
    lin, dense = solved
    check_operator(getattr(lin, operator), getattr(dense, operator))
