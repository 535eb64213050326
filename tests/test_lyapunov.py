"""Lyapunov exponents of systems that are known, and the Kaplan-Yorke dimension."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.lyapunov import kaplan_yorke_dimension, lyapunov_exponents, lyapunov_spectrum
from kpflow_sklearn.networks import RecurrentNetwork, build_network
from tests.oracles.cases import CASES, RAGGED, Case, build, solve

TOLERANCE = 1e-9


class GivenJacobians:
    """What `lyapunov_exponents` needs of a linearization, for given J_t.

    Parameters
    ----------
    jacobians : Tensor of shape (n_timesteps, n_trials, n_states, n_states)
        J_t; the first is never used.
    mask : ndarray of bool, shape (n_trials, n_timesteps), optional
        Valid steps.
    """

    def __init__(self, jacobians: Tensor, mask: np.ndarray | None = None) -> None:
        n_timesteps, n_trials, n_states, _ = jacobians.shape
        self.shape = (n_trials, n_timesteps, n_states)
        self.dtype, self.device = jacobians.dtype, jacobians.device
        self.mask = None if mask is None else torch.as_tensor(mask.T, dtype=self.dtype)[..., None]
        self._jacobians = jacobians
        self.layers: tuple = ()

    def jacobian_forward(self, t: int, q: Tensor, push: Tensor, out: Tensor) -> None:
        torch.add(push, torch.einsum("bij,...bj->...bi", self._jacobians[t], q), out=out)

    def solve_within(self, t: int, q: Tensor) -> Tensor:
        return q

    def select(self, trials: Tensor) -> GivenJacobians:
        mask = None if self.mask is None else self.mask[:, trials, 0].mT.bool().numpy()
        return GivenJacobians(self._jacobians[:, trials], mask)


def given(jacobians: Tensor, mask: np.ndarray | None = None) -> Linearization:
    """Return the linearization of a map, not of a network."""
    lin = Linearization.__new__(Linearization)
    lin.tangent = GivenJacobians(jacobians, mask)
    return lin


def exponents_of(jacobians: Tensor, mask: np.ndarray | None = None, **options):
    """Return exponents and standard errors for given J_t."""
    return lyapunov_exponents(given(jacobians, mask), **options)


def diagonal_jacobians(growth: np.ndarray) -> Tensor:
    """Return J_1 (arbitrary), J_2, ... that multiply each state by exp(growth).

    ``growth`` has shape (n_timesteps - 1, n_trials, n_states).
    """
    first = np.full_like(growth[:1], 7.0)
    return torch.as_tensor(np.exp(np.concatenate([first, growth]))).diag_embed()


def tanh_network(
    hidden_size: int, gain: float, seed: int = 0, cell: str = "tanh"
) -> RecurrentNetwork:
    return build_network(
        cell,
        2,
        1,
        hidden_size=hidden_size,
        n_layers=1,
        init_scale=gain,
        recurrent_init="normal",
        alpha=1.0,
        learn_initial_state=False,
        dtype=torch.float64,
        seed=seed,
    )


# ------------------------------------------------------------------------------- linear systems


def resting_network(weights: np.ndarray) -> tuple[RecurrentNetwork, np.ndarray]:
    """Return a tanh network without bias or input: it stays at 0, where J = W."""
    network = tanh_network(len(weights), 1.0)
    with torch.no_grad():
        for name, p in network.recurrent.named_parameters():
            p.copy_(torch.as_tensor(weights)) if name == "weight_hh_l0" else p.zero_()
    return network, np.zeros((2, 600, 2))


def positive_network(weights: np.ndarray) -> tuple[RecurrentNetwork, np.ndarray]:
    """Return a relu network with positive weights and inputs: all units stay on, so J = W."""
    case = Case("relu", "relu")
    network, _ = build(case)
    with torch.no_grad():
        for name, p in network.recurrent.named_parameters():
            p.copy_(torch.as_tensor(weights)) if name == "weight_hh_l0" else p.abs_()
    return network, np.random.default_rng(0).uniform(0.1, 1, (2, 600, 2))


REAL = np.random.default_rng(1).standard_normal((4, 4))
REAL = REAL @ np.diag([1.05, -0.8, 0.5, 0.2]) @ np.linalg.inv(REAL)
POSITIVE = np.random.default_rng(2).uniform(0.01, 0.2, (4, 4)) + 0.5 * np.diag([1, 2, 3, 4]) / 4


@pytest.mark.parametrize(
    "make, weights", [(resting_network, REAL), (positive_network, POSITIVE)], ids=["tanh", "relu"]
)
def test_linear_network_has_the_logarithms_of_its_eigenvalues(make, weights):
    network, X = make(weights)
    eigenvalues = np.linalg.eigvals(weights)
    assert np.isreal(eigenvalues).all()
    expected = np.sort(np.log(abs(eigenvalues)))[::-1]
    lin = linearize(network, X)
    measured, error = lyapunov_exponents(lin, burn_in=300)  # (0.8 / 1.05)^300 is below rounding
    np.testing.assert_allclose(measured, expected, atol=TOLERANCE)
    np.testing.assert_allclose(error, 0, atol=TOLERANCE)  # all trials agree
    # Without burn-in the directions' start is paid for once, in 599 steps.
    np.testing.assert_allclose(lyapunov_exponents(lin)[0], expected, atol=5 / 599)


def test_complex_eigenvalues_share_an_exponent():
    weights = tanh_network(12, 1.0, seed=3).recurrent.weight_hh_l0.detach().numpy()
    moduli = np.sort(abs(np.linalg.eigvals(weights)))[::-1]
    network, X = resting_network(weights)
    measured, _ = lyapunov_exponents(linearize(network, X), burn_in=100)
    # Each pair turns; over 500 steps the turn leaves an error of the order 1/500.
    np.testing.assert_allclose(measured, np.log(moduli), atol=10 / 500)


@pytest.mark.parametrize("k", [1, 3])
def test_fewer_exponents_are_the_largest(k):
    lin = linearize(*resting_network(REAL))
    whole, part = (lyapunov_exponents(lin, n, burn_in=300) for n in (None, k))
    assert part[0].shape == part[1].shape == (k,)
    np.testing.assert_allclose(part[0], whole[0][:k], atol=TOLERANCE)


# ----------------------------------------------------------------------------------- Henon map


def henon_jacobians(n_trials: int, n_timesteps: int, a: float = 1.4, b: float = 0.3) -> Tensor:
    """Return the Jacobians of x' = 1 - a x^2 + y, y' = b x along orbits on the attractor."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.1, 0.1, (2, n_trials))
    jacobians = np.zeros((n_timesteps, n_trials, 2, 2))
    for t in range(-200, n_timesteps):
        if t >= 0:
            jacobians[t] = np.array([[-2 * a * x, np.ones_like(x)], [b + 0 * x, 0 * x]]).transpose(
                2, 0, 1
            )
        x, y = 1 - a * x**2 + y, b * x
    return torch.as_tensor(jacobians)


def test_henon_map():
    measured, error = exponents_of(henon_jacobians(60, 1000), burn_in=20)
    assert (error > 0).all() and (error < 0.002).all()
    np.testing.assert_allclose(measured, [0.4192, -1.6232], atol=4 * error[0])
    assert measured.sum() == pytest.approx(np.log(0.3), abs=TOLERANCE)
    # D = 1 + l_1 / |l_2| and l_2 = ln 0.3 - l_1: an error of l_1 enters D by less than itself.
    assert kaplan_yorke_dimension(measured) == pytest.approx(1.2583, abs=4 * error[0])


def test_error_of_the_dimension_of_the_henon_map():
    measured = lyapunov_spectrum(given(henon_jacobians(60, 300)), burn_in=20)
    dimension, (first, second) = measured.dimension, measured.exponents
    assert dimension.value == kaplan_yorke_dimension(measured.exponents)
    assert abs(dimension.value - 1.2583) < 3 * dimension.std_error
    # D = 1 + l_1 / (l_1 - ln 0.3), so that dD = -ln 0.3 / l_2^2 dl_1, to first order.
    linear = -np.log(0.3) / second**2 * measured.std_error[0]
    assert first - np.log(0.3) == pytest.approx(-second)
    # Of 1000 draws: a standard deviation has a relative error of 2%.
    np.testing.assert_allclose(dimension.std_error, linear, rtol=0.08)


@pytest.mark.slow
def test_error_of_a_dimension_that_jumps():
    """The largest exponent is 0 within its error: the dimension is 0 as often as about 1."""
    rng, draws = np.random.default_rng(0), []
    for _ in range(100):
        growth = np.zeros((3, 20, 2, 2))
        growth[..., 0, 0] = np.exp(rng.normal(0, 0.1, 20))
        growth[..., 1, 1] = np.exp(-2)
        measured = lyapunov_spectrum(given(torch.as_tensor(growth))).dimension
        draws.append((measured.value, measured.std_error))
    values, errors = np.array(draws).T
    assert 0.4 < values.std() < 0.6
    # Where chance took the mean far from 0, the error knows of less than there is.
    assert 0.6 * values.std() < errors.mean() < values.std()
    assert (errors == 0).mean() < 0.05


def test_error_of_a_dimension_with_a_direction_that_dies():
    growth = torch.diag_embed(torch.tensor([[2.0, 0.1, 0.0], [3.0, 0.1, 0.2]]).double())
    measured = lyapunov_spectrum(given(growth.expand(5, 2, 3, 3).clone()))
    first, second = np.log([2, 3]), np.log(0.1)
    np.testing.assert_allclose(measured.exponents, [first.mean(), second, -np.inf])
    # Without either trial D = 1 + l_1 / |l_2| of the other.
    alone = 1 + first / -second
    np.testing.assert_allclose(measured.dimension.std_error, (alone[1] - alone[0]) / 2, rtol=0.08)
    single = lyapunov_spectrum(given(growth[:1].expand(2, 1, 3, 3).clone()[:, :, :2, :2]))
    assert np.isfinite(single.dimension.value) and np.isnan(single.dimension.std_error)


# --------------------------------------------------------------- networks against plain NumPy


def exponents_by_numpy(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return exponents and errors from the reference's P^{-1}, trial by trial.

    Its blocks are I - A_t on the diagonal and -J_t below it, A_t the influence of a layer on
    those above within the step.
    """
    dense = solve(name).dense
    n_trials, n_timesteps, n_states = dense.states.shape
    inverse = dense.P_inverse.numpy().reshape(*dense.states.shape, *dense.states.shape)
    mask = solve(name).case.mask
    lengths = np.full(n_trials, n_timesteps) if mask is None else mask.sum(1)
    by_trial = []
    for b in range(n_trials):
        q, logs = np.eye(n_states), []
        for t in range(1, lengths[b]):
            step = np.linalg.solve(inverse[b, t, :, b, t], -inverse[b, t, :, b, t - 1])
            q, r = np.linalg.qr(step @ q)
            logs.append(np.log(abs(np.diag(r))))
        if logs:
            by_trial.append(np.mean(logs, axis=0))
    mean = np.mean(by_trial, axis=0)
    order = np.argsort(-mean, kind="stable")
    error = np.std(by_trial, axis=0, ddof=1) / np.sqrt(len(by_trial))
    return mean[order], error[order]


# A relu unit that is off makes J singular, and its exponent minus infinity or rounding.
@pytest.mark.parametrize("name", [c.name for c in CASES if c.cell != "relu"])
def test_exponents_and_errors_match_dense(name):
    measured, error = lyapunov_exponents(solve(name).linearization)
    expected, expected_error = exponents_by_numpy(name)
    np.testing.assert_allclose(measured, expected, atol=1e-7)
    np.testing.assert_allclose(error, expected_error, atol=1e-7)
    assert (np.diff(measured) <= 0).all()


def test_standard_error_is_over_trials():
    growth = np.array([[[0.1, -1.0], [0.3, -1.0], [0.8, -1.0]]] * 4)
    measured, error = exponents_of(diagonal_jacobians(growth))
    np.testing.assert_allclose(measured, [0.4, -1.0])
    expected = np.std([0.1, 0.3, 0.8], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(error, [expected, 0], atol=1e-12)


def test_standard_error_of_one_trial_is_over_ten_blocks_of_steps():
    growth = np.random.default_rng(0).standard_normal((200, 1, 1))
    measured, error = exponents_of(diagonal_jacobians(growth))
    assert measured[0] == pytest.approx(growth.mean())
    blocks = growth.reshape(10, 20).mean(1)
    assert error[0] == pytest.approx(blocks.std(ddof=1) / np.sqrt(10))


@pytest.mark.parametrize("n_steps", [1, 7, 10, 20, 11, 19, 23])
def test_one_trial_is_averaged_over_all_its_steps_alike(n_steps):
    growth = np.random.default_rng(0).standard_normal((n_steps, 1, 1))
    measured, _ = exponents_of(diagonal_jacobians(growth))
    assert measured[0] == pytest.approx(growth.mean())


# ------------------------------------------------------------------------------ masks, burn-in


def test_burn_in_leaves_out_the_first_steps():
    growth = np.random.default_rng(0).standard_normal((9, 3, 2)) - [[[0, 9]]]
    for burn_in in (0, 1, 5, 8):
        measured, _ = exponents_of(diagonal_jacobians(growth), burn_in=burn_in)
        np.testing.assert_allclose(measured, growth[burn_in:].mean((0, 1)))


def test_masked_steps_do_not_count():
    growth = np.random.default_rng(0).standard_normal((4, 3, 2)) - [[[0, 9]]]
    measured, error = exponents_of(diagonal_jacobians(growth), RAGGED)
    # Of 5, 3 and 1 valid steps: the last trial has no Jacobian at all.
    means = np.array([growth[:, 0].mean(0), growth[:2, 1].mean(0)])
    np.testing.assert_allclose(measured, means.mean(0))
    np.testing.assert_allclose(error, means.std(0, ddof=1) / np.sqrt(2))


@pytest.mark.parametrize("cell, n_trials", [("gru", 1), ("lstm", 3)])
def test_trailing_padding_changes_nothing(cell, n_trials):
    network, X = build(Case(cell, cell))
    X = X[:n_trials]
    padded = np.concatenate([X, np.full((n_trials, 8, X.shape[2]), 9.0)], axis=1)
    mask = np.arange(13) < np.full((n_trials, 1), 5)
    short = lyapunov_exponents(linearize(network, X))
    long = lyapunov_exponents(linearize(network, padded, mask))
    np.testing.assert_allclose(long[0], short[0], atol=TOLERANCE)
    np.testing.assert_allclose(long[1], short[1], atol=TOLERANCE)


def test_burn_in_beyond_every_trial_is_refused():
    mask = np.array([[1, 1, 1, 0, 0]] * 3, dtype=bool)
    growth = np.zeros((4, 3, 2))
    exponents_of(diagonal_jacobians(growth), mask, burn_in=1)
    with pytest.raises(ValueError, match="burn_in must leave at least one"):
        exponents_of(diagonal_jacobians(growth), mask, burn_in=2)


# --------------------------------------------------------------------------------- hard cases


def test_direction_that_dies_at_once_has_minus_infinity():
    jacobians = torch.diag_embed(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    measured, error = exponents_of(jacobians.expand(6, 2, 3, 3))
    np.testing.assert_allclose(measured, [np.log(2), np.log(0.5), -np.inf])
    np.testing.assert_allclose(error, 0, atol=1e-12)
    assert kaplan_yorke_dimension(measured) == 2.0


def silenced(network: RecurrentNetwork, unit: int) -> RecurrentNetwork:
    """Take a unit's recurrent output away: its column of every J_t is zero."""
    with torch.no_grad():
        network.recurrent.weight_hh_l0[:, unit] = 0
    return network


@pytest.mark.parametrize("unit", [0, 5])
def test_unit_without_output_adds_one_exponent_of_minus_infinity(unit):
    network = silenced(tanh_network(6, 2.0), unit)
    X = np.random.default_rng(0).standard_normal((2, 200, 2))
    measured, error = lyapunov_exponents(linearize(network, X))
    without = tanh_network(5, 1.0)
    others = np.delete(np.arange(6), unit)
    with torch.no_grad():
        for name, weight in network.recurrent.named_parameters():
            kept = weight[others][:, others] if name == "weight_hh_l0" else weight[others]
            getattr(without.recurrent, name).copy_(kept)
    expected, _ = lyapunov_exponents(linearize(without, X))
    # They start from other directions, which the first steps forget.
    np.testing.assert_allclose(measured[:5], expected, atol=10 / 200)
    assert np.isneginf(measured[5]) and error[5] == 0
    first, _ = lyapunov_exponents(linearize(network, X), n_exponents=4)
    np.testing.assert_allclose(first, measured[:4], atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("size", [6, 40])
def test_recurrent_weights_of_low_rank_have_as_many_finite_exponents(rank, size):
    network, rng = tanh_network(size, 1.0), np.random.default_rng(rank)
    low = rng.standard_normal((size, rank)) @ rng.standard_normal((rank, size)) / size
    with torch.no_grad():
        network.recurrent.weight_hh_l0.copy_(torch.as_tensor(low))
    measured, _ = lyapunov_exponents(linearize(network, rng.standard_normal((3, 60, 2))))
    assert np.isfinite(measured).sum() == rank


@pytest.mark.parametrize("seed", range(3))
def test_relu_units_that_are_off_leave_no_exponent_of_mere_rounding(seed):
    network = tanh_network(6, 1.5, seed, "relu")
    lin = linearize(network, 1 + np.random.default_rng(seed).standard_normal((3, 8, 2)))
    weight = network.recurrent.weight_hh_l0.detach().numpy()
    living = []
    for states in lin.states.numpy():
        product = np.eye(len(weight))
        for z in states[1:]:
            product = (z > 0)[:, None] * (weight @ product)
        living.append(np.linalg.matrix_rank(product, tol=1e-9))
    measured, _ = lyapunov_exponents(lin)
    assert np.isfinite(measured).sum() == min(living)


@pytest.mark.parametrize("upwards", [False, True])
def test_of_a_chain_of_units_as_many_directions_die_as_it_moves_steps(upwards):
    """What QR puts for the first that dies may be the very direction of one that lives."""
    shift = torch.diag(torch.ones(5, dtype=torch.float64), -1 if upwards else 1)
    exponents, _ = lyapunov_exponents(given(shift.expand(4, 2, 6, 6)))
    np.testing.assert_array_equal(exponents, [0, 0, 0, -np.inf, -np.inf, -np.inf])


def test_many_directions_that_die_take_one_qr_more_a_step(monkeypatch):
    """One at a time, a large network with silent or few connections would take hours."""
    jacobians = torch.randn(
        5, 2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    jacobians[..., ::2] = 0
    whole, count = torch.linalg.qr, []
    monkeypatch.setattr(torch.linalg, "qr", lambda *a, **o: (count.append(1), whole(*a, **o))[1])
    exponents, _ = lyapunov_exponents(given(jacobians))
    assert np.isfinite(exponents).sum() == 10
    assert len(count) <= 2 * 4


def test_directions_that_die_differ_between_trials():
    # The first trial loses its first direction, the second its last.
    growth = torch.zeros(6, 2, 3, 3, dtype=torch.float64)
    growth[:, 0] = torch.diag(torch.tensor([0.0, 2.0, 0.5]))
    growth[:, 1] = torch.diag(torch.tensor([2.0, 0.5, 0.0]))
    measured, error = exponents_of(growth)
    np.testing.assert_allclose(measured, [np.log(2), np.log(0.5), -np.inf])
    np.testing.assert_allclose(error, 0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_size_of_the_jacobians_does_not_decide_what_dies(scale):
    jacobians = scale * np.random.default_rng(0).standard_normal((6, 2, 4, 4))
    measured, _ = exponents_of(torch.as_tensor(jacobians))
    assert np.isfinite(measured).all()


def test_long_chaotic_run_stays_finite():
    network = tanh_network(24, 3.0)
    X = 0.1 * np.random.default_rng(0).standard_normal((2, 1000, 2))
    measured, error = lyapunov_exponents(linearize(network, X), burn_in=100)
    assert np.isfinite(measured).all() and np.isfinite(error).all()
    assert measured[0] > 5 * error[0] > 0
    assert 1 < kaplan_yorke_dimension(measured) < 24


RUNS = {
    "tanh": ("tanh", 1.0, slice(None)),
    "chaotic": ("tanh", 3.0, slice(None)),
    "ragged": ("gru", 1.5, slice(None)),
    "units that die": ("relu", 1.5, slice(None)),
    "one trial": ("gru", 1.5, slice(1)),
}


@pytest.mark.parametrize("name", RUNS)
def test_one_factorisation_for_several_steps_gives_what_one_per_step_gives(name, monkeypatch):
    cell, gain, trials = RUNS[name]
    X = np.random.default_rng(0).standard_normal((3, 60, 2))[trials]
    mask = np.arange(60) < np.array([[60], [41], [22]]) if name == "ragged" else None
    lin = linearize(tanh_network(24, gain, cell=cell), X, mask)
    whole, counts = torch.linalg.qr, [0, 0]
    results = []
    for index, most in enumerate((16, 1)):

        def counted(*args, index=index, **options):
            counts[index] += 1
            return whole(*args, **options)

        monkeypatch.setattr(torch.linalg, "qr", counted)
        monkeypatch.setattr("kpflow_sklearn.spectra._growth._MOST_STEPS", most)
        results.append(lyapunov_spectrum(lin, burn_in=5))
    several, single = results
    np.testing.assert_allclose(several.exponents, single.exponents, atol=1e-7)
    np.testing.assert_allclose(several.std_error, single.std_error, atol=1e-7)
    assert several.dimension.value == pytest.approx(single.dimension.value, abs=1e-6)
    assert counts[0] < counts[1] * (1.05 if name == "chaotic" else 0.7)


def test_single_precision_network_is_followed_in_double():
    network, X = build(Case("tanh", "tanh"))
    double = lyapunov_exponents(linearize(network, X))[0]
    single = lyapunov_exponents(linearize(network.float(), X))[0]
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=1e-5)


# ------------------------------------------------------------------------------- Kaplan-Yorke

KNOWN_DIMENSIONS = {
    "Henon": ([0.419, -1.623], 1 + 0.419 / 1.623),
    "Lorenz": ([0.9056, 0.0, -14.5723], 2 + 0.9056 / 14.5723),
    "stable": ([-0.1, -1.0], 0.0),
    "cycle": ([0.0, -1.0], 1.0),
    "torus": ([0.0, 0.0, -1.0], 2.0),
    "unsorted": ([-14.5723, 0.9056, 0.0], 2 + 0.9056 / 14.5723),
    "sum never negative": ([0.5, 0.1, -0.2], 3.0),
    "sum exactly zero": ([1.0, -1.0], 2.0),
    "one direction": ([0.3], 1.0),
    "one stable direction": ([-0.3], 0.0),
    "next dies at once": ([0.5, -np.inf, -np.inf], 1.0),
    "all die at once": ([-np.inf, -np.inf], 0.0),
}


@pytest.mark.parametrize(
    "exponents, expected", KNOWN_DIMENSIONS.values(), ids=list(KNOWN_DIMENSIONS)
)
def test_kaplan_yorke_dimension(exponents, expected):
    measured = kaplan_yorke_dimension(exponents)
    assert isinstance(measured, float) and measured == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("exponents", [[], [1.0, float("nan")], [[0.1, -0.2]]])
def test_kaplan_yorke_refuses_what_is_no_spectrum(exponents):
    with pytest.raises(ValueError, match="exponents"):
        kaplan_yorke_dimension(exponents)


# -------------------------------------------------------------------------------------- errors

BAD_OPTIONS = {
    "more exponents than states": ({"n_exponents": 5}, "at most the number of states 4, got 5"),
    "no exponents": ({"n_exponents": 0}, "n_exponents == 0, must be >= 1"),
    "negative burn-in": ({"burn_in": -1}, "burn_in == -1, must be >= 0"),
    "all burnt in": ({"burn_in": 4}, "at least one of the 4 Jacobians J_2..J_T, got 4"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=list(BAD_OPTIONS))
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lyapunov_exponents(solve("gru").linearization, **options)


@pytest.mark.parametrize("option", ["n_exponents", "burn_in"])
def test_counts_must_be_whole_numbers(option):
    with pytest.raises(TypeError, match=f"{option} must be an instance of"):
        lyapunov_exponents(solve("gru").linearization, **{option: 1.5})


def test_a_single_step_has_no_exponents():
    network, X = build(Case("tanh", "tanh"))
    with pytest.raises(ValueError, match="at least one of the 0 Jacobians"):
        lyapunov_exponents(linearize(network, X[:, :1]))


def test_so_many_trials_are_followed_evenly_spaced(monkeypatch):
    lin = solve("gru").linearization
    every = [lyapunov_exponents(linearize(lin.network, lin.X[i : i + 1]))[0] for i in range(3)]
    whole = lyapunov_exponents(lin)[0]
    monkeypatch.setattr("kpflow_sklearn.lyapunov._MEMORY", 1)  # One trial at a time.
    np.testing.assert_allclose(lyapunov_exponents(lin)[0], whole, rtol=1e-12)
    np.testing.assert_allclose(lyapunov_exponents(lin, n_trials=1)[0], every[0], rtol=1e-12)
    two = lyapunov_exponents(lin, n_trials=2)[0]
    np.testing.assert_allclose(two, np.mean(every[::2], axis=0), rtol=1e-12)
    np.testing.assert_array_equal(
        lyapunov_exponents(lin, n_trials=50)[0], lyapunov_exponents(lin)[0]
    )


@pytest.mark.parametrize("n", [300, 512, 700])
def test_trials_are_followed_from_the_first_to_the_last(n):
    growth = np.where(np.arange(n) < n // 2, -1.0, 1.0)[:, None] * np.ones((2, 1, 1))
    exponents, _ = exponents_of(diagonal_jacobians(growth), n_trials=256)
    assert abs(exponents[0]) < 1e-12  # Both halves alike.


def test_trials_without_a_step_that_counts_are_not_chosen():
    n = 30
    mask = np.arange(4) < np.where(np.arange(n) == 7, 4, 1)[:, None]
    growth = np.full((3, n, 1), 0.5)
    measured, _ = exponents_of(diagonal_jacobians(growth), mask, n_trials=3)
    assert measured == pytest.approx([0.5])


def test_with_tol_as_many_trials_are_followed_as_the_errors_need():
    def followed(growth, tol):
        selected = []
        lin = given(diagonal_jacobians(growth))
        select = lin.tangent.select
        lin.tangent.select = lambda trials: selected.append(len(trials)) or select(trials)
        return lyapunov_spectrum(lin, tol=tol), lyapunov_spectrum(lin), sum(selected)

    def contracting(spread, seed):
        conditions = np.repeat([-spread, spread], 100)[:, None]  # Sorted, as in many data sets.
        noise = np.random.default_rng(seed).standard_normal((6, 200, 3))
        return conditions + spread * noise - 1 - np.arange(3)

    n_within = 0
    for seed in range(20):
        some, every, n = followed(contracting(0.03, seed), 0.02)
        assert n == 16 and some.std_error.max() <= 0.02
        n_within += (abs(some.exponents - every.exponents) <= 1.96 * some.std_error).sum()
    assert n_within >= 54
    some, every, n = followed(contracting(0.3, 0), 0.02)  # All trials are too few.
    assert n == 200 and some.std_error.min() > 0.02
    np.testing.assert_allclose(some.exponents, every.exponents, rtol=1e-12)
    # Here the exponents need 16 trials, and the dimension, about 1.5, needs more.
    near_zero = np.linspace(-0.02, 0.02, 64)[:, None] * np.ones((3, 1, 1)) + [0.05, -0.1]
    some, every, n = followed(near_zero, 0.02)
    assert 16 < n < 64 and some.dimension.std_error <= 0.02 * some.dimension.value
