"""Estimates over many seeds: unbiased, with intervals that cover the truth as often as they say.

Every number is compared with the same number of a dense matrix. ``shape`` is that of the
trajectories; singular vectors are random, so that each axis sees the whole spectrum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom

from kpflow_sklearn import Linearization, linearize
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.spectra import OperatorSpectra
from kpflow_sklearn.spectra._half_factor import HalfFactor
from kpflow_sklearn.spectra._moments import widening
from tests.oracles.cases import solve
from tests.oracles.spectrum_checks import (
    MatrixOperator,
    count_leading,
    dense_gram,
    descending_eigenvalues,
    matrix_with,
    operator_of,
    reduce,
)
from tests.spectra.rank_coverage import STRAINS, Strain, measure

N_SEEDS, FEW_SEEDS = 200, 100  # Of the slow and of the fast tier.
SIZE = 576
INDEX = np.arange(1, SIZE + 1)
# Singular values; the eigenvalues of the Gram are their squares.
SPECTRA = {
    "steep": 1 / INDEX,
    "geometric": 0.7**INDEX,
    "slow": INDEX**-0.5,
    "flat": np.ones(SIZE),
    "rank three": np.r_[3.0, 2.0, 1.0, np.zeros(SIZE - 3)],
}
SHAPE, MANY_TRIALS = (2, 24, 12), (24, 2, 12)
FAST, OFTEN = ("gru P",), ("steep", "slow", "gru P")
AXES = ("all", "time", "hidden", "trial")
QUANTITIES = ("trace", "square", "effective_dimension")


@cache
def network(cell: str, gain: float, shape: tuple[int, int, int] = (2, 20, 30)) -> Linearization:
    """Return a network, linearized on trajectories larger than those of the cases."""
    options = {"n_layers": 1, "init_scale": gain, "recurrent_init": "normal", "alpha": 0.4}
    options |= {"learn_initial_state": False, "dtype": torch.float64, "seed": 3}
    X = np.random.default_rng(7).standard_normal((*shape[:2], 2))
    return linearize(build_network(cell, 2, 2, hidden_size=shape[2], **options), X)


@cache
def operator_with_gram(regime: str) -> tuple[LinearOperator, np.ndarray]:
    """Return an operator and its dense natural Gram."""
    if regime == "P of 12 trials":
        op = network("gru", 1.3, (12, 10, 5)).P
        dense = op.to_dense().numpy()
        return op, dense @ dense.T
    name, _, which = regime.partition(" ")
    if which in ("K", "P", "PKP"):
        return operator_of(name, which), dense_gram(solve(name).dense, which)
    matrix = matrix_with(SPECTRA[regime.removesuffix(", many trials")])
    shape = MANY_TRIALS if regime.endswith("many trials") else SHAPE
    return MatrixOperator(matrix, shape), matrix @ matrix.T


@cache
def truth(regime: str, axis: str) -> dict[str, float]:
    """Return trace, square and effective dimension of the reduced Gram."""
    op, whole = operator_with_gram(regime)
    gram = reduce(whole, op.out_shape, axis, "trace")
    total, square = np.trace(gram), (gram**2).sum()
    return {"trace": total, "square": square, "effective_dimension": total**2 / square}


def axes_of(regime: str) -> tuple[str, ...]:
    """Return the axes of a regime that are looked at: not those of two entries."""
    if regime in SPECTRA:
        return ("all", "time", "hidden")
    return ("trial",) if regime.endswith("many trials") else AXES


@dataclass(frozen=True)
class Sample:
    """What many seeds gave for one number, as deviations from the truth."""

    error: np.ndarray
    std_error: np.ndarray
    widened: np.ndarray
    truth: float

    @property
    def n_covered(self) -> int:
        """Number of the 95% intervals that hold the truth."""
        return int((abs(self.error) <= 1.96 * self.std_error).sum())

    @property
    def rms(self) -> float:
        return float(np.sqrt((self.error**2).mean()))

    @property
    def stated(self) -> float:
        """Root mean square of the standard error, less what makes up for few probes."""
        return float(np.sqrt(((self.std_error / self.widened) ** 2).mean()))

    def check_unbiased(self, share: float = 0.0) -> None:
        """Require a mean error of zero, or below a share of the standard error."""
        of_mean = self.error.std(ddof=1) / len(self.error) ** 0.5
        assert abs(self.error.mean()) < 4 * of_mean + share * self.std_error.mean()


def sample(
    regime: str,
    *,
    n_probes: int | None = 30,
    n_modes: int = 10,
    n_seeds: int | None = None,
) -> dict[tuple[str, str], Sample]:
    """Estimate everything with seeds 0, 1, ..."""
    few = FEW_SEEDS if regime in FAST else N_SEEDS
    return _sample(regime, n_probes, n_modes, n_seeds or few)


@cache
def _sample(
    regime: str, n_probes: int | None, n_modes: int, n_seeds: int
) -> dict[tuple[str, str], Sample]:
    op, _ = operator_with_gram(regime)
    axes = axes_of(regime)
    measured: dict[tuple[str, str], list] = {(a, q): [] for a in axes for q in QUANTITIES}
    for seed in range(n_seeds):
        options = {"n_modes": n_modes, "n_probes": n_probes, "random_state": seed}
        shared = OperatorSpectra(op, axes=axes, method="randomized", **options)
        widened = widening(shared.sketch.inner)
        for axis, quantity in measured:
            value, error, reason = getattr(shared.on(axis), quantity)[:3]
            assert not reason
            measured[axis, quantity].append((value, error, widened))
    samples = {}
    for (axis, quantity), rows in measured.items():
        expected = truth(regime, axis)[quantity]
        values, errors, widened = np.array(rows).T
        samples[axis, quantity] = Sample(values - expected, errors, widened, expected)
    return samples


def quantities_of(regime: str) -> list[tuple[str, str]]:
    """Return axes and quantities that differ: the trace is the same on every axis."""
    axes = axes_of(regime)
    return [(a, q) for a in axes for q in QUANTITIES if q != "trace" or a == axes[0]]


def every_quantity(regimes: tuple[str, ...]) -> pytest.MarkDecorator:
    cases = [
        pytest.param(r, a, q, marks=[] if r in FAST else pytest.mark.slow)
        for r in regimes
        for a, q in quantities_of(r)
    ]
    return pytest.mark.parametrize("regime, axis, quantity", cases)


# ----------------------------------------------------------------------------------- coverage

# Where the share of intervals that hold the truth is not 93 to 97%, and what it is. An effective
# dimension nearly as large as its axis has no error of first order, and of the second one too
# much is stated (the error is below 0.3%).
OUTSIDE = {
    ("gru P", "trial", "effective_dimension"): 0.990,
}
COVERED = (
    *(regime for regime in SPECTRA if regime != "rank three"),
    *("steep, many trials", "slow, many trials"),
    *("gru P", "gru PKP", "lstm PKP", "tanh-ragged P"),
    "P of 12 trials",
)


def coverage_cases() -> Iterator:
    for regime in COVERED:
        for axis, quantity in quantities_of(regime):
            measured = OUTSIDE.get((regime, axis, quantity))
            reason = f"covers in {measured}"
            marks = [] if measured is None else pytest.mark.xfail(strict=True, reason=reason)
            yield pytest.param(regime, axis, quantity, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("regime, axis, quantity", list(coverage_cases()))
def test_intervals_cover_the_truth_in_95_of_100(regime, axis, quantity):
    assert 930 <= sample(regime, n_seeds=1000)[axis, quantity].n_covered <= 970


def adaptive_cases() -> Iterator:
    # On its axis of three trials P has an effective dimension of 2.9, see above: here the
    # estimates that come out too high come with too small an error.
    reason = "covers in 0.864, standard error 0.011"
    for regime in ("slow", "gru P"):
        for axis, quantity in quantities_of(regime):
            outside = (regime, axis, quantity) == ("gru P", "trial", "effective_dimension")
            marks = pytest.mark.xfail(strict=True, reason=reason) if outside else []
            yield pytest.param(regime, axis, quantity, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("regime, axis, quantity", list(adaptive_cases()))
def test_intervals_cover_the_truth_where_the_probes_suffice_for_a_target(regime, axis, quantity):
    measured = sample(regime, n_seeds=1000, n_probes=None)[axis, quantity]
    assert measured.n_covered >= 930


@pytest.mark.slow
@pytest.mark.parametrize("n_probes", [4, 8])
@pytest.mark.parametrize("regime", ["steep", "geometric", "gru PKP"])
def test_intervals_cover_the_truth_with_few_probes(regime, n_probes):
    least = binom.ppf(1e-3, 300, 0.93)
    for key, measured in sample(regime, n_probes=n_probes, n_seeds=300).items():
        assert measured.n_covered >= least, key


@every_quantity(OFTEN)
def test_intervals_cover_the_truth(regime, axis, quantity):
    measured = sample(regime)[axis, quantity]
    assert measured.n_covered >= binom.ppf(1e-3, len(measured.error), 0.93)


@every_quantity(OFTEN)
def test_standard_error_is_the_size_of_the_error(regime, axis, quantity):
    measured = sample(regime)[axis, quantity]
    # A standard deviation from 200 draws errs by 5%, from 100 or skewed draws by up to twice that.
    assert measured.stated / measured.rms == pytest.approx(1, abs=0.2)
    assert (measured.widened > 1 + 1.7 / 30).all()


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["all", "time", "hidden"])
def test_error_falls_with_the_square_root_of_the_probes(axis):
    few, many = (sample("gru P", n_probes=m, n_seeds=N_SEEDS) for m in (10, 30))
    for key in quantities_of("gru P"):
        if key[0] == axis:  # Each of the two errs by 5 to 10%.
            assert few[key].rms / many[key].rms == pytest.approx(np.sqrt(3), rel=0.25), key
            assert few[key].stated / many[key].stated == pytest.approx(np.sqrt(3), rel=0.15), key


@pytest.mark.slow
def test_relative_error_of_a_trace_is_that_of_the_effective_dimension():
    # sqrt(2 / (m d)) for m probes of a Gram of effective dimension d.
    measured = sample("slow", n_modes=0, n_probes=10)["all", "trace"]
    expected = measured.truth * np.sqrt(2 / (10 * truth("slow", "all")["effective_dimension"]))
    assert measured.rms == pytest.approx(expected, rel=0.2)
    assert measured.stated == pytest.approx(expected, rel=0.05)


# --------------------------------------------------------------------------------------- bias


@every_quantity(OFTEN)
def test_trace_and_square_are_unbiased_and_their_ratio_nearly(regime, axis, quantity):
    nearly = 0.1 if quantity == "effective_dimension" else 0.0
    sample(regime)[axis, quantity].check_unbiased(nearly)


@pytest.mark.slow
@every_quantity(("slow",))
def test_few_probes_without_modes_are_unbiased(regime, axis, quantity):
    nearly = 0.1 if quantity == "effective_dimension" else 0.0
    sample(regime, n_probes=10, n_modes=0)[axis, quantity].check_unbiased(nearly)


def plain_samples(op: LinearOperator, n_probes: int, seed: int) -> torch.Tensor:
    """Return A w for n_probes white w, (T, k, B, H)."""
    half = HalfFactor(op, 1.0, seed)
    ((_, steps),) = half.rows(half.white(range(n_probes)), op.out_shape[0])
    return steps


@pytest.mark.slow
def test_squares_of_estimates_would_be_biased():
    op, m, expected = operator_with_gram("slow")[0], 10, truth("slow", "all")
    plug_in = np.empty(N_SEEDS)
    for seed in range(N_SEEDS):
        y = plain_samples(op, m, seed).movedim(1, 0).flatten(1)
        plug_in[seed] = ((y @ y.T) ** 2).sum() / m**2
    # For normal w, E |A w|^4 = (tr G)^2 + 2 tr G^2.
    bias = (expected["trace"] ** 2 + expected["square"]) / m
    spread = plug_in.std() / N_SEEDS**0.5
    assert abs(plug_in.mean() - expected["square"] - bias) < 4 * spread
    ours = sample("slow", n_probes=m, n_modes=0)["all", "square"]
    assert bias > 10 * abs(ours.error.mean())


@pytest.mark.slow
def test_effective_dimension_from_squares_of_estimates_would_be_too_low():
    op, m, expected = (
        operator_with_gram("slow")[0],
        10,
        truth("slow", "time")["effective_dimension"],
    )
    plug_in = np.empty(N_SEEDS)
    for seed in range(N_SEEDS):
        y = plain_samples(op, m, seed).flatten(1)
        gram = y @ y.T
        plug_in[seed] = gram.trace() ** 2 / (gram**2).sum()
    bias = expected - plug_in.mean()
    assert bias > 10 * plug_in.std() / N_SEEDS**0.5
    ours = sample("slow", n_probes=m, n_modes=0)["time", "effective_dimension"]
    assert bias > 4 * abs(ours.error.mean())


# ---------------------------------------------------------------------- modes and more probes


@pytest.mark.slow
@pytest.mark.parametrize("regime, factor", [("steep", 10), ("lstm PKP", 3)])
def test_deflated_modes_reduce_the_error_of_steep_spectra(regime, factor):
    plain, deflated = (sample(regime, n_modes=k, n_seeds=50) for k in (0, 10))
    for key in quantities_of(regime):
        assert deflated[key].rms < plain[key].rms / factor, key
        assert deflated[key].stated < plain[key].stated / factor, key


@pytest.mark.parametrize("regime", ["geometric", "slow", "gru P"])
def test_probes_are_drawn_until_their_error_is_small(regime):
    numbers = set()
    for seed in range(4):
        options = {"n_modes": 10, "random_state": seed}
        shared = OperatorSpectra(operator_with_gram(regime)[0], method="randomized", **options)
        dimensions = [shared.on(axis).effective_dimension for axis in AXES]
        n = shared.sketch.n_probes
        numbers.add(n)
        assert n >= 120 or all(d.std_error <= 0.02 * d.value for d in dimensions)
        assert shared.sketch.sampled["time"].shape[0] == n
        # The traces are of all of them.
        values = shared.sketch.trace0 + shared.sketch.traces
        trace = shared.on("time").trace.value / shared.sketch.magnitude**2
        assert trace == pytest.approx(values.mean(), rel=1e-12)
    assert numbers <= {*range(30, 121, 15)}  # Half as many again at a time.
    assert (numbers == {30}) == (regime == "geometric")


# -------------------------------------------------------------------- rank on the whole space


NETWORKS = ("gru 1.3", "tanh 1.0", "tanh 1.6", "relu 1.0", "lstm 1.3", "leaky 1.3")


@cache
def operator_and_eigenvalues(name: str) -> tuple[LinearOperator, np.ndarray]:
    """Return an operator and the eigenvalues of its dense Gram."""
    if name in SPECTRA:
        return operator_with_gram(name)[0], descending_eigenvalues(operator_with_gram(name)[1])
    cell, gain, which = name.split()
    op = getattr(network(cell, float(gain)), which)
    dense = op.to_dense().numpy()
    return op, descending_eigenvalues(dense @ dense.T if which == "P" else dense)


def rank_errors(name: str, threshold: float, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of ranks on the whole space, and their standard errors."""
    op, values = operator_and_eigenvalues(name)
    expected, ranks = count_leading(values, threshold - 1e-12), []
    for seed in range(n_seeds):
        shared = OperatorSpectra(op, axes=("all",), method="randomized", random_state=seed)
        ranks.append(shared.rank("all", threshold))
    assert not any(rank.reason for rank in ranks)
    return np.array([(rank.value - expected, rank.std_error) for rank in ranks]).T


RANKS = ("steep", "slow", "flat", *(f"{n} {o}" for n in NETWORKS for o in ("P", "PKP")))
THRESHOLDS = (0.8, 0.95, 0.99)


@pytest.mark.parametrize("name, threshold", [("tanh 1.6 P", 0.95), ("gru 1.3 PKP", 0.99)])
def test_ranks_on_the_whole_space_are_within_their_error(name, threshold):
    error, std_error = rank_errors(name, threshold, 3)
    assert (abs(error) <= 1.96 * std_error).all()


@pytest.mark.slow
@pytest.mark.parametrize("name, threshold", list(product(RANKS, THRESHOLDS)))
def test_ranks_of_many_seeds_are_within_their_error(name, threshold):
    error, std_error = rank_errors(name, threshold, 20)
    assert (abs(error) <= 1.96 * std_error).sum() >= 16
    assert abs(error.mean()) <= std_error.mean()


QUICK = Strain("P", "tanh", 1.0, 2, 30, 32)
SEEDS = [(QUICK, 1)] + [
    pytest.param(
        strain, 20 if strain.n_trials * strain.n_units < 400 else 3, marks=pytest.mark.slow
    )
    for strain in STRAINS
]


@pytest.mark.parametrize("strain, n_seeds", SEEDS, ids=lambda x: getattr(x, "name", ""))
def test_ranks_at_strained_sizes_are_within_their_error(strain, n_seeds):
    for _, measured in measure(strain, range(n_seeds), "randomized"):
        assert measured.n_within >= binom.ppf(1e-3, n_seeds, 0.93)
        assert abs(measured.bias) < 0.5 + 3 / n_seeds**0.5 and measured.relative < 0.05
        for rank, true in zip(measured.ranks, measured.true, strict=True):
            if rank.method != "randomized" and rank.bounds is not None:
                assert rank.bounds[0] <= true <= rank.bounds[1]
