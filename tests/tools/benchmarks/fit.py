"""Section "fit": whole fits of an analyzer, which is what users wait for."""

from __future__ import annotations

from collections.abc import Callable

from sklearn.frozen import FrozenEstimator

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from tests.tools.benchmarks.problems import Problem, Size, make_problem, training_iteration
from tests.tools.benchmarks.products import TRAINING
from tests.tools.benchmarks.tables import Table
from tests.tools.benchmarks.timing import alternate, medians, milliseconds

WHOLE = "the whole fit"
_N_SNAPSHOTS = 8
#: A small step size, so that the networks stay near their initial weights.
_LEARNING_RATE = 1e-4


def _analysis(problem: Problem, n_snapshots: int, *only: str) -> Callable[[], object]:
    """Return a fit of an analyzer to a network that is trained already."""
    trainer = RecurrentTrainer(
        problem.size.cell,
        hidden_size=problem.size.hidden,
        max_iter=_N_SNAPSHOTS - 1,
        snapshots=range(n_snapshots),
        learning_rate=_LEARNING_RATE,
        random_state=0,
    ).fit(problem.X, problem.y)
    options = {"analyses": only} if only else {}
    analyzer = KPFlowAnalyzer(FrozenEstimator(trainer), random_state=0, **options)
    return lambda: analyzer.fit(problem.X, problem.y)


def fit(size: Size, repeats: int) -> Table:
    """Time whole fits of one size, with one snapshot and with eight, and each analysis alone."""
    problem = make_problem(size)
    table = Table(
        f"Fit: {size.label()}",
        ("analyses", "snapshots", "training iterations", "ms, median (range)"),
    )
    # Each is (analyses, number of snapshots); the training iteration has none.
    runs = {(name, 1): _analysis(problem, 1, name) for name in KPFlowAnalyzer().analyses}
    runs |= {(WHOLE, n): _analysis(problem, n) for n in (1, _N_SNAPSHOTS)}
    runs[TRAINING, 0] = training_iteration(problem)
    times = alternate({str(key): run for key, run in runs.items()}, repeats)
    middle = medians(times)
    unit = middle[str((TRAINING, 0))]
    for name, n_snapshots in runs:
        seconds = middle[str((name, n_snapshots))]
        spread = milliseconds(times[str((name, n_snapshots))])
        table.add(name, n_snapshots or None, seconds / unit, spread)
    table.remarks.append(
        "Analyses alone add up to more than the whole fit, which shares work among them."
    )
    return table
