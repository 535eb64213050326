"""Section "spectra": what the products are used for, in units of training iterations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kpflow_sklearn import KPFlowAnalyzer, linearize
from kpflow_sklearn.analysis import AnalysisTrials, SnapshotAnalysis
from kpflow_sklearn.gramians import propagator_gram
from kpflow_sklearn.losses import Objective
from kpflow_sklearn.modes import leading_modes
from kpflow_sklearn.spectra import OperatorSpectra
from kpflow_sklearn.targets import Targets
from tests.benchmarks import gemms
from tests.benchmarks.ours import ACTIVITY_TOL, OPERATORS
from tests.benchmarks.problems import (
    Contender,
    Problem,
    Size,
    make_problem,
    training_iteration,
)
from tests.benchmarks.products import TRAINING
from tests.benchmarks.tables import Table
from tests.benchmarks.timing import alternate, medians, milliseconds

GRAMIANS, N_MODES = "P: exact Gramians", 20


@dataclass(frozen=True)
class Analysis:
    """A contender of this section, and what its result says of its accuracy."""

    prepare: Contender
    describe: Callable[[Problem, Any], str]


def _exact_gramians(problem: Problem) -> Callable[[], object]:
    op = linearize(problem.network, problem.X).P
    return lambda: propagator_gram(op)


def _describe_gramians(problem: Problem, result: Any) -> str:
    _, by_trial, square = result
    return f"effective dimension {float(by_trial.sum()) ** 2 / float(square):.5g}"


def _parameter_spectrum(activity_tol: float) -> Analysis:
    def prepare(problem: Problem) -> Callable[[], object]:
        op = linearize(problem.network, problem.X, activity_tol=activity_tol).K
        return lambda: OperatorSpectra(op, method="exact").on("all")

    def describe(problem: Problem, found: Any) -> str:
        n = len(found.eigenvalues)
        return f"effective dimension {found.effective_dimension.value:.5g} of {n} eigenvalues"

    return Analysis(prepare, describe)


def _modes(operator: str) -> Analysis:
    def prepare(problem: Problem) -> Callable[[], object]:
        op = OPERATORS[operator](linearize(problem.network, problem.X))
        return lambda: leading_modes(op, N_MODES, random_state=0)

    def describe(problem: Problem, found: Any) -> str:
        residual = worst_residual(problem, operator, *found)
        return f"{len(found[0])} modes, worst residual {residual:.1e}"

    return Analysis(prepare, describe)


def worst_residual(
    problem: Problem, operator: str, values: np.ndarray, functions: np.ndarray
) -> float:
    """Return the largest |G v - lambda v| / lambda, by products with the operator itself."""
    op = OPERATORS[operator](linearize(problem.network, problem.X))
    gram = op @ op.T if operator == "P" else op
    v = torch.as_tensor(functions).to(op.dtype)
    scale = torch.as_tensor(values)
    rest = (gram @ v).double() - scale[:, None, None, None] * v.double()
    return float((rest.flatten(1).norm(dim=1) / scale).max())


def _snapshot(problem: Problem) -> Callable[[], object]:
    settings = KPFlowAnalyzer()._settings(0)
    weight = np.ones(problem.y.shape[:2], dtype=np.float32)
    trials = AnalysisTrials(problem.X, Targets(problem.y, weight), None)

    def run() -> object:
        found = SnapshotAnalysis(problem.network, 0, trials, Objective("mse"))
        return found.rows(found.spectra(settings), settings)

    return run


def _describe_snapshot(problem: Problem, rows: Any) -> str:
    found = [r for r in rows if r["quantity"] == "effective_dimension"]
    known = [r for r in found if r["value"] > 0]
    n_missing = len(found) - len(known)
    missing = f", {n_missing} of {len(found)} missing" if n_missing else ""
    worst = max(known, key=lambda r: r["std_error"] / r["value"])
    if worst["std_error"] == 0:
        return "all effective dimensions exact" + missing
    error = worst["std_error"] / worst["value"]
    where = f"{worst['operator']}, {worst['axis']}"
    return f"worst std. error of an effective dimension {error:.2%} ({where}){missing}"


ANALYSES: dict[str, Analysis] = {
    GRAMIANS: Analysis(_exact_gramians, _describe_gramians),
    "K: full spectrum": _parameter_spectrum(0.0),
    f"K: full spectrum, activity_tol={ACTIVITY_TOL:g}": _parameter_spectrum(ACTIVITY_TOL),
    f"P: {N_MODES} leading modes": _modes("P"),
    f"PKP*: {N_MODES} leading modes": _modes("PKP*"),
    "default analysis of a snapshot": Analysis(_snapshot, _describe_snapshot),
}


def affordable(size: Size, max_gb: float) -> tuple[dict[str, Analysis], list[str]]:
    """Return the analyses whose memory is within the limit, and a remark on the others."""
    need = 4 * size.jacobian_gb()  # Two such arrays in float64.
    if need <= max_gb:
        return ANALYSES, []
    rest = {name: v for name, v in ANALYSES.items() if name != GRAMIANS}
    return rest, [f"{GRAMIANS}: left out, they may take {need:.1f} GB (see --max-gb)."]


def spectra(size: Size, repeats: int, max_gb: float) -> Table:
    """Time the analyses of one size and read off how accurate they are."""
    problem = make_problem(size)
    table = Table(
        f"Spectra: {size.label()}",
        ("what", "training iterations", "accuracy", "ms, median (range)"),
    )
    chosen, table.remarks = affordable(size, max_gb)
    runs = {name: analysis.prepare(problem) for name, analysis in chosen.items()}
    runs[TRAINING] = training_iteration(problem)
    shares = {}
    if GRAMIANS in chosen:
        for dtype in (torch.float32, torch.float64):
            runs[f"bmm {dtype}"], shares[f"bmm {dtype}"] = gemms.gramians(problem, dtype)
    said = {TRAINING: ""}

    def inspect(name: str, result: object) -> None:
        if name in chosen:
            said[name] = chosen[name].describe(problem, result)

    times = alternate(runs, repeats, inspect)
    middle = medians(times)
    for name in said:
        table.add(name, middle[name] / middle[TRAINING], said[name], milliseconds(times[name]))
    for name, share in shares.items():
        ratio = middle[GRAMIANS] / (middle[name] / share)
        label = name.removeprefix("bmm torch.")
        table.remarks.append(
            f"{GRAMIANS}: {ratio:.3g} times their bare GEMMs in {label} (per trial and step five "
            f"products H x H; {share:.0%} of the steps timed)."
        )
    return table
