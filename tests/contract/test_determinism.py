"""The same seed gives the same numbers, and no global state is changed."""

from __future__ import annotations

import copy
import io
import pickle
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from torch import nn

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    compare,
    linearize,
    report,
    sweep,
)
from kpflow_sklearn._cli import main
from kpflow_sklearn.datasets import (
    load_example_run,
    make_flip_flop,
    make_memory_pro,
    make_multitask,
    pad_sequences,
    trials_first,
)
from kpflow_sklearn.lyapunov import lyapunov_exponents
from kpflow_sklearn.operators import FlowPropagator
from kpflow_sklearn.plotting import (
    AlignmentDisplay,
    CollapseDisplay,
    GramDisplay,
    LyapunovDisplay,
    SpectrumDisplay,
    TrajectoryDisplay,
)
from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer
from kpflow_sklearn.spectra import OperatorSpectra
from tests.oracles.cases import MyCell
from tests.oracles.spectrum_checks import leading_modes
from tests.tools.global_state import global_state

matplotlib.use("agg")

rng = np.random.default_rng(0)
X = rng.standard_normal((9, 4, 2))
Y = X.cumsum(1)
MASK = np.arange(4) < rng.integers(2, 5, 9)[:, None]
TASKS = np.repeat(["a", "b", "c"], 3)
ROWS, VALUES = rng.standard_normal((50, 4)), rng.standard_normal((50, 2))


def recurrent(seed: int | None = 0, cell: Any = "gru", **options) -> RecurrentTrainer:
    settings = {"hidden_size": 4, "max_iter": 3, "snapshots": 2, "batch_size": 4}
    return RecurrentTrainer(cell, random_state=seed, **settings | {"noise_std": 0.1} | options)


def feedforward(seed: int | None = 0) -> FeedForwardTrainer:
    return FeedForwardTrainer((6, 5), max_iter=5, snapshots=2, batch_size=16, random_state=seed)


class Module(nn.Module):
    """A network that the package did not make."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(2, 4, batch_first=True, dtype=torch.float64)
        self.out = nn.Linear(4, 2, dtype=torch.float64)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-0.5, 0.5, p.numel(), dtype=p.dtype).reshape(p.shape) + i)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        return self.out(self.core(x)[0])


MODULE = Module()
# Each estimator with a seed, and the data on which it is fitted.
MASKED, LABELLED = {"mask": MASK}, {"tasks": TASKS}
ESTIMATORS: dict[str, tuple[Callable[[int | None], Any], tuple, dict]] = {
    "RecurrentTrainer": (recurrent, (X, Y), MASKED),
    "RecurrentTrainer, user's cell": (lambda s: recurrent(s, MyCell), (X, Y), {}),
    "FeedForwardTrainer": (feedforward, (ROWS, VALUES), {}),
    "KPFlowAnalyzer": (lambda s: KPFlowAnalyzer(
        recurrent(s), method="randomized", n_probes=4, analysis_trials=5, random_state=s
    ), (X, Y), MASKED | LABELLED),
    "KPFlowAnalyzer, trainer without seed": (
        lambda s: KPFlowAnalyzer(recurrent(None), random_state=s), (X, TASKS), {}),
    "TaskAlignmentAnalyzer": (lambda s: TaskAlignmentAnalyzer(
        recurrent(None), analysis_trials=6, random_state=s
    ), (X, Y), LABELLED),
    "GramFlowAnalyzer": (lambda s: GramFlowAnalyzer(
        feedforward(None), gram_pairs=40, random_state=s
    ), (ROWS, VALUES), {}),
    "GramFlowAnalyzer, by products": (lambda s: GramFlowAnalyzer(
        feedforward(None), max_kernel_size=20, random_state=s
    ), (ROWS, VALUES), {}),
    "SavedTraining": (lambda s: KPFlowAnalyzer(
        SavedTraining(MODULE), method="randomized", n_probes=4, analysis_trials=4, random_state=s
    ), (X, Y), {}),
}  # fmt: skip
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


@cache
def fitted(name: str, seed: int | None = 0) -> Any:
    """Return an estimator fitted once for all tests, which must not change it."""
    make, data, options = ESTIMATORS[name]
    return make(seed).fit(*data, **options)


def numbers(model: Any, data: tuple) -> dict[str, np.ndarray]:
    """Return all numbers of a fitted estimator."""
    values: dict[str, Any] = {"loss_curve_": model.loss_curve_, "predict": model.predict(data[0])}
    for s in model.snapshots_:
        values |= {f"{s.iteration} {key}": value.numpy() for key, value in s.state.items()}
    if hasattr(model, "transform"):
        values["transform"] = model.transform(data[0])
        values["results_"] = model.results_[["value", "std_error"]].to_numpy()
    for name in ("eigenfunctions_", "eigenvectors_", "lyapunov_exponents_", "layer_kernels_"):
        value = getattr(model, name, {})
        values |= value if isinstance(value, dict) else {name: value}
    return values


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@every_estimator
def test_the_same_seed_gives_the_same_numbers(name):
    _, data, options = ESTIMATORS[name]
    expected = numbers(fitted(name), data)
    again = pickle.loads(pickle.dumps(clone(fitted(name))))
    for _ in range(1 + (name == "RecurrentTrainer")):  # The second is of a fitted estimator.
        assert_same(numbers(again.fit(*data, **options), data), expected)
    other = numbers(fitted(name, seed=1), data)
    assert any(not np.array_equal(other[key], value) for key, value in expected.items())


@every_estimator
def test_fitted_estimators_survive_pickling(name):
    data, model = ESTIMATORS[name][1], fitted(name)
    expected = numbers(model, data)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(file), copy.deepcopy(model)):
        assert_same(numbers(copied, data), expected)


@pytest.mark.parametrize("make", [make_memory_pro, make_flip_flop, make_multitask])
def test_data_depend_on_their_seed_alone(make):
    first, again, other = (make(5, noise_std=0.2, random_state=seed) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        np.testing.assert_array_equal(make(5, noise_std=0.2, random_state=3)[0], first[0])


@pytest.mark.parametrize(
    "operator, method",
    [
        ("K", "auto"),
        ("P", "randomized"),
        ("PKP", "randomized"),
        pytest.param("K", "randomized", marks=pytest.mark.slow),
        pytest.param("P", "auto", marks=pytest.mark.slow),
    ],
)
def test_chunks_change_no_more_than_rounding(operator, method, monkeypatch):
    if method == "auto":
        monkeypatch.setattr("kpflow_sklearn.spectra._routes.DENSE_LIMIT", 0)
    op = getattr(linearize(recurrent().fit(X, Y).network_, X[:4]), operator)
    axes = ("all", "trial", "time", "hidden")
    answers = []
    for limit in (2**30, 1):
        spectra = OperatorSpectra(
            op, axes=axes, method=method, n_probes=4, memory_limit=limit, random_state=0
        )
        values = [spectra.on(axis) for axis in axes]
        modes = leading_modes(op, 2, tolerance=1e-9, memory_limit=limit, random_state=0)
        answers.append([
            *(x.trace.value for x in values),
            *(x.effective_dimension.value for x in values),
            *(x.effective_dimension.std_error for x in values),
            *(spectra.rank(axis).value for axis in axes),
            *modes.eigenvalues,
        ])  # fmt: skip
    # An error of an estimate is a difference of like numbers: its rounding is the larger.
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_sweep_depends_on_its_seeds_alone(n_jobs):
    analyzer = KPFlowAnalyzer(recurrent(), method="randomized", n_probes=4)
    grid = {"init_scale": [0.5, 1.5]}
    expected = sweep(analyzer, grid, X, Y, n_seeds=2)
    again = sweep(analyzer, grid, X, Y, n_seeds=2, n_jobs=n_jobs)
    pd.testing.assert_frame_equal(again, expected, check_exact=True)


# ------------------------------------------------------------------------- the rest of the process


def analysed() -> KPFlowAnalyzer:
    return KPFlowAnalyzer(recurrent(None), random_state=None).fit(X, Y, mask=MASK)


def every_answer() -> None:
    model = analysed()
    model.transform(X), model.predict(X), model.score(X, Y, mask=MASK), model.trajectories(X)
    model.verify(X, Y, mask=MASK)
    for display in (CollapseDisplay, SpectrumDisplay, LyapunovDisplay):
        display.from_estimator(model)
    TrajectoryDisplay.from_estimator(model, X)
    repr(model), model._repr_html_()


def every_answer_on_tasks() -> None:
    model = TaskAlignmentAnalyzer(recurrent(None)).fit(X, Y, tasks=TASKS)
    model.transform(X), model.verify(X, Y)
    AlignmentDisplay.from_estimator(model)


def every_answer_on_layers() -> None:
    model = GramFlowAnalyzer(FeedForwardTrainer((6,), max_iter=5, snapshots=2)).fit(ROWS, VALUES)
    model.transform(ROWS), model.predict(ROWS), model.simulate(3), model.attribute(0, 5)
    GramDisplay.from_estimator(model)


def every_answer_on_operators() -> None:
    lin = linearize(MODULE, X, MASK)
    lin.error(Y), lin.P @ lin.states, lin.K.compress(0.1), lin.PKP.to_scipy()
    lyapunov_exponents(lin)
    OperatorSpectra(lin.PKP, method="randomized").on("all")


def every_data() -> None:
    make_memory_pro(3), make_flip_flop(3), make_multitask(3), load_example_run()
    padded, mask = pad_sequences([X[0], X[1, :3]])
    trials_first(padded)
    SequenceScaler().fit_transform(padded, mask=mask)
    SequenceVectorizer().fit_transform(X)


def fit_with_a_fault() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recurrent(None, "relu", optimizer="sgd", learning_rate=1e30).fit(X, Y)


CALLS = {
    "analyzer": every_answer,
    "analyzer of tasks": every_answer_on_tasks,
    "analyzer of layers": every_answer_on_layers,
    "operators": every_answer_on_operators,
    "data": every_data,
    "user's cell": lambda: recurrent(None, MyCell).fit(X, Y),
    "SavedTraining": lambda: SavedTraining(MODULE).fit(X, Y).predict(X),
    "sweep": lambda: sweep(KPFlowAnalyzer(recurrent()), {"init_scale": [1.0]}, X, Y),
    "compare": lambda: compare({"a": analysed(), "b": analysed()}, X),
    "a fault": fit_with_a_fault,
}


@pytest.mark.parametrize("name", CALLS)
def test_no_global_state_is_changed(name):
    CALLS[name]()  # Modules imported on first use may add filters for their own warnings.
    before = global_state()
    CALLS[name]()
    after = global_state()
    assert [key for key in before if before[key] != after[key]] == []


def command(folder: Path) -> None:
    np.savez(folder / "trials.npz", X=X, y=Y)
    quick = ["--hidden-size", "4", "--max-iter", "2", "--snapshots", "2", "--out", str(folder)]
    assert main(["--data", str(folder / "trials.npz"), *quick]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [command, lambda f: report(analysed(), f / "a.html", X, Y, mask=MASK)],
    ids=["command", "report"],
)
def test_output_changes_no_global_state(call, tmp_path, capsys):
    call(tmp_path)
    before = global_state()
    call(tmp_path)
    after = global_state()
    assert [key for key in before if before[key] != after[key]] == []


def test_changes_of_global_state_are_noticed():
    assert global_state() == global_state()
    before = global_state()
    with torch.random.fork_rng():
        torch.randn(1)
        assert global_state()["torch"] != before["torch"]
    with np.errstate(over="raise"):
        assert global_state()["errors"] != before["errors"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert global_state()["warnings"] != before["warnings"]


def test_the_global_generators_decide_nothing():
    answers = []
    for seed in (0, 1):
        state = np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            answers.append(numbers(fitted.__wrapped__("KPFlowAnalyzer"), (X, Y)))
        np.random.set_state(state)  # noqa: NPY002
    assert_same(*answers)


def test_threads_draw_what_each_would_alone():
    """Modules of a user draw from torch's global generator, which is one for all threads."""

    def slow_cell(n_features, hidden_size):
        first = torch.nn.Linear(n_features, hidden_size)
        time.sleep(0.01)  # Long enough for another thread to begin.
        cell = MyCell(n_features, hidden_size)
        cell.first = first
        return cell

    def start(seed):
        trainer = RecurrentTrainer(slow_cell, hidden_size=4, max_iter=0, random_state=seed)
        return trainer.fit(X, Y).network_.state_dict()

    before = torch.get_rng_state()
    alone = [start(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(start, range(4)))
    assert torch.equal(torch.get_rng_state(), before)
    for mine, other in zip(together, alone, strict=True):
        assert all(torch.equal(mine[name], value) for name, value in other.items())


def test_separate_chunks_are_what_was_tested():
    # The limits above cut P into single trials: else they would test nothing.
    op = linearize(recurrent().fit(X, Y).network_, X).P
    assert isinstance(op, FlowPropagator)
    spectra = OperatorSpectra(op, method="randomized", n_probes=4, memory_limit=1)
    assert spectra.sketcher._chunk == 1
