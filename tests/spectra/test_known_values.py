"""Figures known from elsewhere: of untrained networks on memory-pro, and of the published code."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.spectra import Spectrum, rank, spectrum


@cache
def untrained(
    cell: str, hidden_size: int, period: int, gain: float, init: str, seed: int
) -> Linearization:
    """Linearize an untrained network on 4 noise-free trials of three equal periods."""
    network = build_network(
        cell,
        3,
        3,
        hidden_size=hidden_size,
        n_layers=1,
        init_scale=gain,
        recurrent_init=init,
        alpha=1.0,
        learn_initial_state=False,
        dtype=torch.float64,
        seed=seed,
    )
    X, _ = make_memory_pro(4, stimulus=period, memory=period, response=period, evenly_spaced=True)
    return linearize(network, X)


# ------------------------------------------------------------------- torch's init, 256 units


def wide(cell: str, seed: int) -> Linearization:
    return untrained(cell, 256, 30, 1.0, "torch", seed)


every_seed = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)


@every_seed
def test_P_of_a_wide_tanh_network_has_rank_85_of_90(seed):
    measured = rank(wide("tanh", seed).P, "time", random_state=0)
    assert measured.value == 85 and measured.std_error <= 1


@every_seed
def test_K_of_a_wide_tanh_network_has_rank_2_to_3(seed):
    assert 2 <= rank(wide("tanh", seed).K, "time").value <= 3


@every_seed
def test_KK_of_a_wide_tanh_network_has_rank_1(seed):
    measured = rank(wide("tanh", seed).K, "time", gram="square", random_state=0)
    assert (measured.value, measured.std_error) == (1, 0)


@every_seed
def test_averaged_K_of_a_wide_network_has_rank_1_when_squared(seed):
    K = wide("tanh", seed).K
    assert rank(K, "time", reduction="mean", gram="square").value == 1


@pytest.mark.slow
def test_K_of_a_wide_network_has_many_modes_before_it_is_reduced():
    # Each unit has modes of its own: that K has low rank is a statement about the time axis.
    assert rank(wide("tanh", 0).K, "all").value > 256


@cache
def averaged_P(cell: str, seed: int) -> Spectrum:
    return spectrum(wide(cell, seed).P, "time", reduction="mean")


def published_rank(cell: str, seed: int, n_computed: int) -> float:
    """Return the rank of P as the published figure counts it.

    The mean over trials and units is reduced to the time axis, its eigenvalues are squared once
    more and cumulated over the computed ones alone, and the rank is interpolated.
    """
    values = averaged_P(cell, seed).eigenvalues[:n_computed] ** 2
    shares = values.cumsum() / values.sum()
    return float(np.interp(0.95, shares, np.arange(1, n_computed + 1)))


@pytest.mark.parametrize(
    "cell, n_computed, expected, n_seeds",
    [
        ("tanh", 60, 56.6, 1),
        ("tanh", 90, 84.3, 1),
        pytest.param("tanh", 60, 56.6, 3, marks=pytest.mark.slow),
        pytest.param("tanh", 90, 84.3, 3, marks=pytest.mark.slow),
        pytest.param("gru", 60, 36.1, 3, marks=pytest.mark.slow),
    ],
)
def test_published_ranks_of_P_are_reproduced(cell, n_computed, expected, n_seeds):
    # The published figures are of one other seed; over seeds they move by about 1.
    measured = [published_rank(cell, seed, n_computed) for seed in range(n_seeds)]
    assert np.mean(measured) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize(
    "cell, expected", [("tanh", 85), pytest.param("gru", 77, marks=pytest.mark.slow)]
)
def test_averaged_P_of_a_wide_network(cell, expected):
    # Plain eigenvalues, uncut: 85 (tanh) and between 76 and 77 (GRU).
    assert averaged_P(cell, 0).rank().value == expected


# ------------------------------------------------------------------------ gain, 64 tanh units


@cache
def ranks(gain: float, n_seeds: int = 4) -> dict[str, np.ndarray]:
    """Return the time-axis ranks of K, P and PKP* of 60 steps, one per seed."""
    measured: dict[str, list[float]] = {"K": [], "P": [], "PKP": []}
    for seed in range(n_seeds):
        lin = untrained("tanh", 64, 20, gain, "normal", seed)
        for name, values in measured.items():
            values.append(rank(getattr(lin, name), "time", random_state=0).value)
    return {name: np.array(values) for name, values in measured.items()}


# Known of one seed: K, P and PKP* have 2, 57, 2 at gain 0.5; 51, 9, 9 at 2; and 54, 5, 5 at 3.
GAINS = {0.5: ((1, 4), (50, 60)), 2.0: ((25, 60), (4, 20)), 3.0: ((40, 60), (2, 12))}


@pytest.mark.parametrize(
    "gain, n_seeds", [(2.0, 1), *(pytest.param(gain, 4, marks=pytest.mark.slow) for gain in GAINS)]
)
def test_K_is_narrow_at_low_gain_and_P_at_high_gain_and_PKP_follows(gain, n_seeds):
    measured = ranks(gain, n_seeds)
    for name, (low, high) in zip(("K", "P"), GAINS[gain], strict=True):
        assert ((low <= measured[name]) & (measured[name] <= high)).all(), name
    narrower = np.minimum(measured["K"], measured["P"])
    assert (abs(measured["PKP"] - narrower) <= 2).all()
    assert (measured["PKP"] <= np.maximum(measured["K"], measured["P"])).all()


@pytest.mark.slow
def test_PKP_is_not_bounded_by_the_narrower_operator():
    measured = ranks(1.0)
    assert (measured["PKP"] > np.minimum(measured["K"], measured["P"])).any()


@pytest.mark.slow
def test_at_moderate_gain_no_operator_is_narrow_for_every_seed():
    measured = ranks(1.5)
    assert (measured["K"] < measured["P"]).any() and (measured["K"] > measured["P"]).any()
    assert measured["K"].mean() == pytest.approx(29, abs=15)
    assert measured["P"].mean() == pytest.approx(28, abs=15)


@pytest.mark.slow
def test_ranks_cross_as_the_gain_grows():
    gains = (0.5, 1.0, 1.5, 2.0, 3.0)
    K, P = (np.array([ranks(gain)[name].mean() for gain in gains]) for name in ("K", "P"))
    assert (np.diff(K) > 0).all() and (np.diff(P) < 0).all()
    assert K[0] < P[0] and K[-1] > P[-1]
