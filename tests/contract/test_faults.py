"""Training faults: gradients that vanish, losses that diverge, memory that runs out."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
    linearize,
)
from kpflow_sklearn._common.memory import Allowance, OutOfMemory, explained
from kpflow_sklearn.operators import FlowPropagator, ParameterJacobian
from kpflow_sklearn.spectra import OperatorSpectra
from tests.oracles.spectrum_checks import leading_modes

rng = np.random.default_rng(0)
X = rng.standard_normal((12, 8, 2))
Y = X.cumsum(1)
MASK = np.arange(8) < rng.integers(2, 9, 12)[:, None]
TASKS = np.repeat(["a", "b", "c"], 4)
ROWS, VALUES = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))


def recurrent(**options) -> RecurrentTrainer:
    settings = {"hidden_size": 5, "max_iter": 12, "snapshots": 3, "random_state": 0}
    return RecurrentTrainer(**settings | options)


def feedforward(**options) -> FeedForwardTrainer:
    settings = {"hidden_sizes": (6,), "max_iter": 12, "snapshots": 3, "random_state": 0}
    return FeedForwardTrainer(**settings | options)


ANALYSES: dict[str, Callable[[Any], Any]] = {
    "KPFlowAnalyzer": lambda t: KPFlowAnalyzer(t, n_probes=8, random_state=0).fit(X, Y),
    "TaskAlignmentAnalyzer":
        lambda t: TaskAlignmentAnalyzer(t, random_state=0).fit(X, Y, tasks=TASKS),
    "GramFlowAnalyzer": lambda t: GramFlowAnalyzer(t, random_state=0).fit(ROWS, VALUES),
}  # fmt: skip


def assert_honest(results: pd.DataFrame) -> None:
    """Check that every number is finite, or missing for a reason."""
    missing = results["value"].isna()
    assert (missing == (results["reason"] != "")).all()
    assert np.isfinite(results["value"][~missing]).all()
    assert np.isfinite(results["std_error"][~missing]).all()


# ---------------------------------------------------------------------------------- divergence

# Of each kind one that leaves the range of floats in the middle of its run.
DIVERGING = {"optimizer": "sgd", "learning_rate": 1e6, "max_iter": 60, "snapshots": range(61)}
WILD = {
    "relu": lambda **o: recurrent(cell="relu", **DIVERGING | o),
    "gru": lambda **o: recurrent(cell="gru", **DIVERGING | {"learning_rate": 1e300} | o),
    "float32": lambda **o: recurrent(cell="relu", dtype="float32", **DIVERGING | o),
    "feed-forward": lambda **o: feedforward(activation="identity", **DIVERGING | o),
}


@pytest.mark.parametrize("name", WILD)
def test_a_diverging_training_stops_at_its_last_finite_snapshot(name):
    data = (ROWS, VALUES) if name == "feed-forward" else (X, Y)
    with pytest.warns(ConvergenceWarning, match="training diverged.*no longer finite"):
        trainer = WILD[name]().fit(*data)
    assert trainer.n_iter_ < 60
    assert trainer.n_iter_ == len(trainer.loss_curve_) == trainer.snapshots_[-1].iteration
    assert np.isfinite(trainer.loss_curve_).all()
    for snapshot in trainer.snapshots_:
        assert all(torch.isfinite(value).all() for value in snapshot.state.values())


@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_diverged_training_is_analysed_in_finite_numbers(analysis, tmp_path):
    # FeedForwardTrainer keeps no folder.
    has_folder = analysis != "GramFlowAnalyzer"
    name, options = ("relu", {"checkpoint_dir": tmp_path}) if has_folder else ("feed-forward", {})
    # The last finite snapshot of a relu may have weights whose states overflow: keep few.
    with pytest.warns(ConvergenceWarning, match="diverged"):
        analyzer = ANALYSES[analysis](WILD[name](snapshots=[0, 1], **options))
    assert_honest(analyzer.results_)
    if has_folder:
        files = sorted(tmp_path.glob("snapshot-*.pt"))
        assert [int(f.stem.split("-")[1]) for f in files] == [0, 1]
        for file in files:
            state = torch.load(file, weights_only=True)
            assert all(torch.isfinite(value).all() for value in state.values())


# --------------------------------------------------------------------------- vanishing gradients


def silence(module: torch.nn.Module) -> None:
    """Make every relu silent: no error passes it."""
    for name, p in module.named_parameters():
        if "bias" in name and not name.startswith("readout."):
            p.fill_(-1e3)


VANISHED = "^the gradient vanished.*: at iteration 12"


@pytest.mark.parametrize("analysis", ANALYSES)
def test_a_gradient_that_vanishes_is_named_and_analysed(analysis):
    source = recurrent(cell="relu", constraint=silence)
    if analysis == "GramFlowAnalyzer":
        source = feedforward(activation="sigmoid", init_scale=1e9)
    with pytest.warns(ConvergenceWarning, match=VANISHED):
        analyzer = ANALYSES[analysis](source)
    assert_honest(analyzer.results_)
    assert np.isfinite(analyzer.loss_curve_).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_below_rounding_has_vanished_too(dtype):
    # Only the first of many steps tells, and a state that shrinks a hundredfold at each.
    def forget(module: torch.nn.Module) -> None:
        module.recurrent.weight_hh_l0.fill_(0.01 / 5)

    pulses = np.zeros((12, 30, 2))
    pulses[:, 0] = X[:, 0]
    weight = np.zeros((12, 30))
    weight[:, -1] = 1.0

    class NoBias(torch.nn.Module):
        def __init__(self, n_features: int, hidden_size: int) -> None:
            super().__init__()
            self.ih = torch.nn.Linear(n_features, hidden_size, bias=False)

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.ih(x) + 0.01 * h)

    source = recurrent(cell=NoBias, dtype=dtype)
    with pytest.warns(ConvergenceWarning, match=VANISHED):
        source.fit(pulses, np.ones((12, 30, 1)), loss_weight=weight)


@pytest.mark.parametrize("grad_clip", [1e-18, 1e-200])
def test_a_gradient_is_small_before_it_is_clipped_or_not_at_all(grad_clip):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        recurrent(grad_clip=grad_clip).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match=VANISHED):
        recurrent(cell="relu", constraint=silence, grad_clip=grad_clip).fit(X, Y)


def test_a_loss_that_grew_is_named_first_where_a_gradient_vanished():
    source = recurrent(cell="tanh", optimizer="sgd", learning_rate=1e6)
    with pytest.warns(ConvergenceWarning, match=VANISHED) as caught:
        losses = source.fit(X, Y).loss_curve_
    said = str(caught[0].message)
    assert losses[-1] > losses[0]
    grew = f"after the loss grew from {losses[0]:.3g} to {losses[-1]:.3g} (lower learning_rate):"
    assert said.startswith(f"the gradient vanished {grew}") and "minimum" not in said


def test_a_loss_at_its_minimum_is_named_as_a_cause():
    # One step of one feature and two values for it: no network does better than their mean.
    source = recurrent(cell="tanh", optimizer="sgd", learning_rate=0.5, max_iter=400)
    with pytest.warns(ConvergenceWarning, match="^the gradient vanished: .* is at a minimum"):
        trainer = source.fit(np.ones((2, 1, 1)), np.array([[[1.0]], [[-1.0]]]))
    assert trainer.loss_curve_[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("fault", ["vanished", "diverged"])
@pytest.mark.parametrize("nested", [False, True])
def test_faults_are_told_where_the_fit_was_called(fault, nested):
    options = {"constraint": silence} if fault == "vanished" else {"learning_rate": 1e300}
    source = recurrent(cell="relu", optimizer="sgd", **options)
    options = {"analyses": ("lyapunov",), "random_state": 0}
    analyzer = KPFlowAnalyzer(source, **options) if nested else source
    with pytest.warns(ConvergenceWarning, match=fault) as caught:
        line = inspect.currentframe().f_lineno + 1
        analyzer.fit(X, Y)
    places = [(w.filename, w.lineno) for w in caught if fault in str(w.message)]
    assert places == [(__file__, line)]


def test_a_perfect_fit_has_not_vanished():
    recurrent(cell="tanh").fit(np.zeros((4, 5, 2)), np.zeros((4, 5, 1)), loss_weight=None)


# ------------------------------------------------------------------------------- out of memory

FAILURES = {
    "torch": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "cuda": getattr(torch, "OutOfMemoryError", RuntimeError)("CUDA out of memory. Tried to"),
    "numpy": MemoryError("Unable to allocate 8.00 GiB for an array"),
    "bare": MemoryError(),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_work_is_begun_anew_with_half_as_much(failure):
    tried = []

    def work() -> str:
        tried.append(allowance.amount)
        if allowance.amount > 20:
            raise failure
        return "done"

    allowance = Allowance(100, 1, "")
    assert allowance.run(work) == "done"
    assert tried == [100, 50, 25, 12]
    assert allowance.run(work) == "done" and tried[-1] == 12


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_work_that_never_fits_ends_in_one_error(failure):
    def work() -> None:
        raise failure

    with pytest.raises(MemoryError, match="^memory ran out: lower this$") as caught:
        Allowance(8, 3, "lower this").run(work)
    assert caught.value.__cause__ is failure
    # Other work in chunks passes on an error that is explained already.
    calls = []

    def passes_on() -> None:
        calls.append(1)
        raise caught.value

    with pytest.raises(OutOfMemory, match="lower this"):
        Allowance(100, 1, "another").run(passes_on)
    assert calls == [1]


def test_other_errors_are_left_alone():
    def work() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Allowance(100, 1, "").run(work)
    with pytest.raises(RuntimeError, match="shapes"), explained("x"):
        work()


@contextmanager
def no_more_than(n_entries: float, patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let larger products of P and J_theta fail, as an allocator would."""
    failed: list[int] = []

    def limited(function: Callable) -> Callable:
        def product(op, q, *rest):
            n = q.numel() // np.prod(op.in_shape) * np.prod(op.out_shape)
            if n > n_entries:
                failed.append(int(n))
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return function(op, q, *rest)

        return product

    with patch.context() as inside:
        for owner, name in ((FlowPropagator, "_forward"), (ParameterJacobian, "_apply")):
            inside.setattr(owner, name, limited(getattr(owner, name)))
        yield failed


@pytest.fixture(scope="module")
def lin():
    return linearize(recurrent(cell="gru", max_iter=0, snapshots=1).fit(X, Y).network_, X)


def spectrum_and_rank(op) -> list[float]:
    axes = ("all", "time", "hidden")
    spectra = OperatorSpectra(op, axes=axes, method="randomized", n_probes=6, random_state=0)
    computed = [spectra.on(axis) for axis in axes]
    ranks = [spectra.rank(axis).value for axis in axes]
    return [x.effective_dimension.value for x in computed] + ranks + [computed[0].trace.value]


@pytest.mark.parametrize("operator", ["P", "PKP"])
def test_spectra_survive_a_lack_of_memory(lin, operator, monkeypatch):
    op = getattr(lin, operator)
    expected = spectrum_and_rank(op)
    with no_more_than(20 * 2 * 8 * 5, monkeypatch) as failed:
        in_chunks = spectrum_and_rank(op)
    assert failed
    np.testing.assert_allclose(in_chunks, expected, rtol=1e-9)


@pytest.mark.parametrize("operator, n_vectors", [("P", 6), ("PKP", 24)])
def test_modes_survive_a_lack_of_memory(lin, operator, n_vectors, monkeypatch):
    monkeypatch.setattr("kpflow_sklearn.spectra._modes.DENSE_LIMIT", 0)
    op = getattr(lin, operator)
    expected = leading_modes(op, 3, tolerance=1e-9, random_state=0)
    with no_more_than(n_vectors * 8 * 5, monkeypatch) as failed:
        modes = leading_modes(op, 3, tolerance=1e-9, random_state=0)
    assert failed
    np.testing.assert_allclose(modes.eigenvalues, expected.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(modes.eigenfunctions, expected.eigenfunctions, atol=1e-6)


def test_an_analysis_that_never_fits_names_what_to_lower(lin, monkeypatch):
    message = r"memory ran out: .*\(12, 8, 5\).*memory_limit was 1000000 bytes.*analysis_trials"
    spectra = OperatorSpectra(lin.P, method="randomized", memory_limit=10**6, random_state=0)
    with no_more_than(0, monkeypatch), pytest.raises(MemoryError, match=message):
        spectra.on("time")


@pytest.mark.parametrize("analysis, place, message", [
    ("KPFlowAnalyzer", "networks._network.RecurrentNetwork.tangent",
     "12 trials of 8 steps.*analysis_trials"),
    ("TaskAlignmentAnalyzer", "analyzers.alignment._task_flow.TaskFlow.matrices",
     "12 trials.* with 3 sub-tasks"),
    ("GramFlowAnalyzer", "analyzers.gram._snapshot.GramSnapshot.kernel_rows",
     "40 rows.*max_kernel_size"),
])  # fmt: skip
def test_analyses_that_do_not_fit_name_what_to_lower(analysis, place, message, monkeypatch):
    def fail(*args):
        raise FAILURES["numpy"]

    patched = property(fail) if place.endswith("matrices") else fail
    monkeypatch.setattr(f"kpflow_sklearn.{place}", patched)
    source = feedforward() if analysis == "GramFlowAnalyzer" else recurrent()
    with pytest.raises(MemoryError, match=f"memory ran out: .*{message}"):
        ANALYSES[analysis](source)


TRAININGS = {
    "full batch": {}, "minibatch": {"batch_size": 8}, "noise": {"noise_std": 0.3, "batch_size": 7},
    "penalty, clipping": {"activity_l2": 0.1, "grad_clip": 0.5},
}  # fmt: skip


def limit_samples(patch: pytest.MonkeyPatch, n: int) -> None:
    """Let forward passes on more than ``n`` samples fail."""
    for place in ("networks.RecurrentNetwork.states", "feedforward.FeedForwardNetwork.forward"):
        owner, _, name = place.rpartition(".")
        module, _, cls = owner.rpartition(".")
        kind = getattr(__import__(f"kpflow_sklearn.{module}", fromlist=[cls]), cls)
        whole = getattr(kind, name)

        def limited(self, x, *rest, whole=whole):
            if len(x) > n:
                raise FAILURES["torch"]
            return whole(self, x, *rest)

        patch.setattr(kind, name, limited)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "ragged"])
@pytest.mark.parametrize("name", TRAININGS)
def test_training_survives_a_lack_of_memory(name, mask, monkeypatch):
    expected = recurrent(**TRAININGS[name]).fit(X, Y, mask=mask)
    limit_samples(monkeypatch, 3)
    in_parts = recurrent(**TRAININGS[name]).fit(X, Y, mask=mask)
    np.testing.assert_allclose(in_parts.loss_curve_, expected.loss_curve_, rtol=1e-10)
    for mine, other in zip(in_parts.snapshots_, expected.snapshots_, strict=True):
        for key, value in mine.state.items():
            torch.testing.assert_close(value, other.state[key], rtol=1e-8, atol=1e-10)


def test_feedforward_training_survives_a_lack_of_memory(monkeypatch):
    expected = feedforward().fit(ROWS, VALUES)
    limit_samples(monkeypatch, 7)
    in_parts = feedforward().fit(ROWS, VALUES)
    np.testing.assert_allclose(in_parts.loss_curve_, expected.loss_curve_, rtol=1e-12)


def test_a_training_that_never_fits_names_its_sizes(monkeypatch):
    limit_samples(monkeypatch, 0)
    message = "memory ran out: one update on 4 of 12 samples.*samples smaller.*batch_size"
    with pytest.raises(MemoryError, match=message):
        recurrent(batch_size=4).fit(X, Y)


SCRIPT = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from kpflow_sklearn import linearize
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.spectra import OperatorSpectra

net = build_network("tanh", 2, 2, hidden_size=64, n_layers=1, init_scale=1.0,
    recurrent_init="normal", alpha=1.0, learn_initial_state=False, dtype=torch.float32, seed=0)
lin = linearize(net, np.random.default_rng(0).standard_normal((400, 50, 2)))

def measure(limit):
    spectra = OperatorSpectra(lin.PKP, axes=("time",), method="randomized", memory_limit=limit,
        n_probes=30, random_state=0)
    return spectra.on("time").effective_dimension.value

expected = measure(10**8)
held = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if "VmSize" in line][0]
resource.setrlimit(resource.RLIMIT_AS, (held + 60 * 2**20,) * 2)
print(expected, measure(10**10))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_short_of_memory_gets_the_same_numbers():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    expected, measured = map(float, done.stdout.split())
    assert measured == pytest.approx(expected, rel=1e-4)  # Of sums in single precision.
    assert "memory ran out; retrying with chunks of half the size" in done.stderr
