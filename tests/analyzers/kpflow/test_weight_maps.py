"""The table of weight maps and its bounds against the dense reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpflow_sklearn import linearize
from kpflow_sklearn.analyzers.kpflow._weight_maps import weight_map_table
from kpflow_sklearn.spectra import OperatorSpectra
from tests.oracles.cases import CASES, IDS, N_TIMESTEPS, N_UNITS, Case, build, solve
from tests.oracles.spectrum_checks import (
    MAPPED,
    TOLERANCE,
    count_leading,
    descending_eigenvalues,
    operator_of,
    reduce,
)

BY_NAME = dict(zip(IDS, CASES, strict=True))
every_mapped_case = pytest.mark.parametrize("name", MAPPED)


def exact_rank(matrix: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(matrix, rtol=1e-10))


@every_mapped_case
def test_weight_maps_are_those_of_the_dense_components(name):
    K = operator_of(name, "K")
    table = weight_map_table(OperatorSpectra(K), 0.95).set_index("map")
    assert list(table.index) == list(K.components)
    for map_name, part in K.components.items():
        gram = reduce(part.to_dense().numpy(), part.out_shape, "time", "trace")
        row = table.loc[map_name]
        values = descending_eigenvalues(gram)
        assert row["K_time_rank"] == count_leading(values)
        expected = values.sum() ** 2 / (values**2).sum()
        assert row["K_time_effective_dimension"] == pytest.approx(expected, rel=TOLERANCE)


@every_mapped_case
def test_bounds_of_the_weight_maps_hold(name):
    K = operator_of(name, "K")
    shape = K.out_shape
    table = weight_map_table(OperatorSpectra(K), 0.95).set_index("map")
    assert (table["K_unit_rank"] <= table["K_unit_rank_bound"]).all()
    assert (table["K_time_rank"] <= table["K_time_rank_bound"]).all()
    for map_name, part in K.components.items():
        row, dense = table.loc[map_name], part.to_dense().numpy()
        states = part.jacobian.blocks[0].states
        six = dense.reshape(*shape, *shape)
        unit_ranks = []
        for i in range(N_UNITS):
            states_of_unit = np.arange(
                states.start + i, states.stop, N_UNITS
            )  # LSTM: the pair (h_i, c_i)
            block = six[:, :, states_of_unit][..., states_of_unit]
            block = block.reshape(np.prod(block.shape[:3]), -1)
            assert exact_rank(block) <= row["u_exact_rank"]
            values = descending_eigenvalues(block)
            unit_ranks.append(count_leading(values) if values[0] > 0 else 0)
        assert row["K_unit_rank"] == max(unit_ranks)
        over_units = np.einsum("bthcsh->btcs", six).reshape(shape[0] * shape[1], -1)
        assert exact_rank(over_units) <= row["u_exact_rank"] * row["S_exact_rank"]


def test_weight_map_of_a_tanh_layer_from_its_states():
    solved = solve("tanh")
    states, X = solved.dense.states, solved.linearization.X
    previous = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    ones = torch.ones(*X.shape[:2], 2, dtype=X.dtype)
    activity = torch.cat([previous, X, ones], dim=-1).flatten(0, 1).numpy()
    sensitivity = (1 - states**2).flatten(0, 1).numpy()
    row = weight_map_table(OperatorSpectra(solved.linearization.K), 0.95).iloc[0]
    for letter, matrix in (("u", activity), ("S", sensitivity)):
        values = descending_eigenvalues(matrix.T @ matrix)
        dimension = values.sum() ** 2 / (values**2).sum()
        assert row[f"{letter}_effective_dimension"] == pytest.approx(dimension, rel=TOLERANCE)
        assert row[f"{letter}_rank"] == count_leading(values)
        assert row[f"{letter}_exact_rank"] == exact_rank(matrix)


def test_padding_changes_no_weight_map():
    network, X = build(BY_NAME["tanh"])
    mask = np.arange(5) < np.full((3, 1), 3)
    short, long = linearize(network, X[:, :3]), linearize(network, X, mask)
    tables = [
        weight_map_table(OperatorSpectra(lin.K), 0.95).set_index("map") for lin in (short, long)
    ]
    short, long = (table.drop(columns="K_time_rank_bound") for table in tables)
    np.testing.assert_allclose(long, short, rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["relu", "relu-2layers", "relu-ragged"])
def test_dead_units_do_not_raise_the_bound(name):
    table = weight_map_table(OperatorSpectra(operator_of(name, "K")), 0.95)
    sensitivity = operator_of(name, "K").jacobian.blocks[-1].block.sensitivity
    assert (sensitivity == 0).all(dim=(0, 1, 2)).any()
    assert (table["K_unit_rank_bound"] <= table["u_exact_rank"]).all()


def test_one_input_without_recurrence_moves_as_many_steps_as_there_are_trials():
    # u is a single input and S a constant, so both have rank 1. Yet trials differ in their time
    # courses, and the time axis sums over trials.
    network, X = build(Case("one input", "leaky_voltage"))
    X[..., 1] = 0
    for name, p in network.recurrent.named_parameters():
        p.requires_grad_(name == "weight_ih_l0")
    K = linearize(network, X).K
    row = weight_map_table(OperatorSpectra(K), 0.99).iloc[0]
    assert row["u_exact_rank"] == row["S_exact_rank"] == 1
    time = reduce(K.to_dense().numpy(), K.out_shape, "time", "trace")
    assert exact_rank(time) == len(X) <= row["K_time_rank_bound"] <= N_TIMESTEPS


@pytest.mark.parametrize("name", ["user", "gru-trained_z0"])
def test_weight_map_table_is_empty_without_weight_maps_alone(name):
    assert len(weight_map_table(OperatorSpectra(operator_of(name, "K")), 0.95)) == 0
