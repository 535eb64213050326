"""Section "spectra": what the products are used for, in units of training iterations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kpflow_sklearn import KPFlowAnalyzer
from kpflow_sklearn.analyzers._trials import AnalysisTrials
from kpflow_sklearn.analyzers.kpflow._snapshot import SnapshotAnalysis
from kpflow_sklearn.networks import Objective, Targets
from kpflow_sklearn.spectra import OperatorSpectra
from kpflow_sklearn.spectra._gramians import propagator_gram
from tests.tools.benchmarks import gemms
from tests.tools.benchmarks.ours import ACTIVITY_TOL, operator_of
from tests.tools.benchmarks.problems import (
    Contender,
    Problem,
    Size,
    make_problem,
    training_iteration,
)
from tests.tools.benchmarks.products import TRAINING
from tests.tools.benchmarks.tables import Table
from tests.tools.benchmarks.timing import alternate, medians, milliseconds

GRAMIANS, N_MODES = "P: exact Gramians", 20


@dataclass(frozen=True)
class Analysis:
    """A contender of this section, and what its result says of its accuracy."""

    prepare: Contender
    describe: Callable[[Problem, Any], str]


def _exact_gramians(problem: Problem) -> Callable[[], object]:
    op = operator_of(problem, "P")
    return lambda: propagator_gram(op)


def _describe_gramians(problem: Problem, result: Any) -> str:
    _, by_trial, square = result
    return f"effective dimension {float(by_trial.sum()) ** 2 / float(square):.5g}"


def _parameter_spectrum(**compression: float) -> Analysis:
    def prepare(problem: Problem) -> Callable[[], object]:
        whole = operator_of(problem, "K")

        def run() -> object:
            op = whole.compress(**compression) if compression else whole
            return OperatorSpectra(op, method="exact").on("all")

        return run

    def describe(problem: Problem, spectrum: Any) -> str:
        n = len(spectrum.eigenvalues)
        return f"effective dimension {spectrum.effective_dimension.value:.5g} of {n} eigenvalues"

    return Analysis(prepare, describe)


def _modes(operator: str) -> Analysis:
    def prepare(problem: Problem) -> Callable[[], object]:
        op = operator_of(problem, operator)
        return lambda: OperatorSpectra(op, random_state=0).modes(N_MODES)

    def describe(problem: Problem, modes: Any) -> str:
        residual = worst_residual(problem, operator, modes.eigenvalues, modes.eigenfunctions)
        reported = modes.residuals.max()
        return f"{len(modes[0])} modes, worst residual {residual:.1e} (reported {reported:.1e})"

    return Analysis(prepare, describe)


def worst_residual(
    problem: Problem, operator: str, values: np.ndarray, functions: np.ndarray
) -> float:
    """Return the largest |G v - lambda v| / lambda, by products with the operator itself."""
    op = operator_of(problem, operator)
    gram = op @ op.T if operator == "P" else op
    v = torch.as_tensor(functions).to(op.dtype)
    scale = torch.as_tensor(values)
    rest = (gram @ v).double() - scale[:, None, None, None] * v.double()
    return float((rest.flatten(1).norm(dim=1) / scale).max())


def _snapshot(problem: Problem) -> Callable[[], object]:
    analyzer = KPFlowAnalyzer()
    settings, tolerance = analyzer._settings(0), analyzer.activity_tol
    weight = np.ones(problem.y.shape[:2], dtype=np.float32)
    trials = AnalysisTrials(problem.X, Targets(problem.y, weight), None)

    def run() -> object:
        analysis = SnapshotAnalysis(problem.network, 0, trials, Objective("mse"), tolerance)
        return analysis.spectral_rows(analysis.spectra(settings), settings)

    return run


def _describe_snapshot(problem: Problem, rows: Any) -> str:
    dimensions = [r for r in rows if r["quantity"] == "effective_dimension"]
    present = [r for r in dimensions if r["value"] > 0]
    n_missing = len(dimensions) - len(present)
    missing = f", {n_missing} of {len(dimensions)} missing" if n_missing else ""
    worst = max(present, key=lambda r: r["std_error"] / r["value"])
    if worst["std_error"] == 0:
        return "all effective dimensions exact" + missing
    error = worst["std_error"] / worst["value"]
    where = f"{worst['operator']}, {worst['axis']}"
    return f"worst std. error of an effective dimension {error:.2%} ({where}){missing}"


ANALYSES: dict[str, Analysis] = {
    GRAMIANS: Analysis(_exact_gramians, _describe_gramians),
    "K: full spectrum": _parameter_spectrum(),
    f"K: full spectrum, activity to {ACTIVITY_TOL:g}": _parameter_spectrum(tolerance=ACTIVITY_TOL),
    f"P: {N_MODES} leading modes": _modes("P"),
    f"PKP*: {N_MODES} leading modes": _modes("PKP*"),
    "default analysis of a snapshot": Analysis(_snapshot, _describe_snapshot),
}


def spectra(size: Size, repeats: int) -> Table:
    """Time the analyses of one size and read off how accurate they are."""
    problem = make_problem(size)
    table = Table(
        f"Spectra: {size.label()}",
        ("what", "training iterations", "accuracy", "ms, median (range)"),
    )
    runs = {name: analysis.prepare(problem) for name, analysis in ANALYSES.items()}
    runs[TRAINING] = training_iteration(problem)
    runs[gemms.GRAMIANS], share = gemms.gramians(problem)
    said = {TRAINING: ""}

    def inspect(name: str, result: object) -> None:
        if name in ANALYSES:
            said[name] = ANALYSES[name].describe(problem, result)

    times = alternate(runs, repeats, inspect)
    middle = medians(times)
    for name, words in said.items():
        table.add(name, middle[name] / middle[TRAINING], words, milliseconds(times[name]))
    ratio = middle[GRAMIANS] / (middle[gemms.GRAMIANS] / share)
    table.remarks.append(
        f"{GRAMIANS}: {ratio:.3g} times their bare GEMMs (per trial and step five products "
        f"H x H, timed on {share:.0%} of the steps)."
    )
    return table
