"""Section "products": P, P*, K and PKP* times k probes, and what has to be made ready for them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tests.tools.benchmarks import autodiff, gemms, stored
from tests.tools.benchmarks.ours import ACTIVITY_RANK, ACTIVITY_TOL, in_place, operator_of, product
from tests.tools.benchmarks.problems import (
    Contender,
    Problem,
    Size,
    make_problem,
    training_iteration,
)
from tests.tools.benchmarks.tables import Table
from tests.tools.benchmarks.timing import alternate, medians, milliseconds

OURS, GEMMS, TRAINING = "kpflow_sklearn", "bare GEMMs", "training iteration, 500 trials"
BY_TOL = f"{OURS}, activity to {ACTIVITY_TOL:g}"
BY_RANK = f"{OURS}, activity of rank {ACTIVITY_RANK}"

IN_PLACE, RANK_IN_PLACE = f"{OURS}, in place", f"{BY_RANK}, in place"

#: By operator and name; the first of each operator is what the others are compared with.
PRODUCTS: dict[str, dict[str, Contender]] = {
    "P": {
        OURS: product("P"),
        IN_PLACE: in_place("P"),
        GEMMS: gemms.propagator,
        "stored J, vmap over probes and trials": stored.propagator_vmapped,
        "stored J, bmm over trials": stored.propagator_batched,
    },
    "P*": {OURS: product("P*"), IN_PLACE: in_place("P*"), GEMMS: gemms.adjoint_propagator},
    "K": {
        OURS: product("K"),
        IN_PLACE: in_place("K"),
        RANK_IN_PLACE: in_place("K", rank=ACTIVITY_RANK),
        BY_TOL: product("K", tolerance=ACTIVITY_TOL),
        BY_RANK: product("K", rank=ACTIVITY_RANK),
        GEMMS: gemms.parameter_operator,
        "torch.func, vmap": autodiff.parameter_operator,
    },
    "PKP*": {
        OURS: product("PKP*"),
        IN_PLACE: in_place("PKP*"),
        BY_TOL: product("PKP*", tolerance=ACTIVITY_TOL),
        GEMMS: gemms.tangent_kernel,
        "torch.func, vmap": autodiff.tangent_kernel,
        "torch.func, one probe at a time": autodiff.tangent_kernel_in_a_loop,
        "curvlinops": autodiff.curvlinops_kernel,
    },
}

#: Work done once for a network and its trials.
PREPARATIONS: dict[str, Callable[[Problem], object]] = {
    OURS: lambda p: operator_of(p, "PKP*"),
    BY_TOL: lambda p: operator_of(p, "PKP*", tolerance=ACTIVITY_TOL),
    BY_RANK: lambda p: operator_of(p, "PKP*", rank=ACTIVITY_RANK),
    "torch.func pullback": autodiff.tangent_kernel,
    "stored J by torch.func.jacrev": stored.form_jacobians,
    "curvlinops": autodiff.curvlinops_kernel,
}


def runnable(contenders: dict[str, object], size: Size, max_gb: float) -> tuple[dict, list[str]]:
    """Return the contenders that can run, and a remark on each that cannot."""
    able, remarks = {}, []
    for name, contender in contenders.items():
        if name.startswith("stored J") and size.jacobian_gb() > max_gb:
            remarks.append(f"{name}: left out, the Jacobians take {size.jacobian_gb():.1f} GB.")
        elif name == "curvlinops" and not autodiff.HAS_CURVLINOPS:
            remarks.append(f"{name}: left out, it is not installed.")
        else:
            able[name] = contender
    return able, remarks


def difference(other: Tensor, reference: Tensor) -> float:
    """Return |other - reference| / |reference|."""
    return float((other - reference).norm() / reference.norm())


def products(size: Size, repeats: int, max_gb: float) -> list[Table]:
    """Return tables of the times of the products of one size, and of their preparations.

    Jacobians of more than ``max_gb`` are not stored.
    """
    problem = make_problem(size)
    table = Table(
        f"Products with {size.probes} probes: {size.label()}",
        ("operator", "contender", "x kpflow", "x GEMMs", "training iterations")
        + ("relative difference", "ms, median (range)"),
    )
    table.remarks.append(
        "The bare GEMMs of K are those of the whole activity; a factor of it needs fewer."
    )
    for operator in PRODUCTS:
        _one_operator(problem, operator, table, repeats, max_gb)
    return [table, _preparations(problem, repeats, max_gb)]


def _one_operator(
    problem: Problem, operator: str, table: Table, repeats: int, max_gb: float
) -> None:
    contenders, remarks = runnable(PRODUCTS[operator], problem.size, max_gb)
    runs = {name: prepare(problem) for name, prepare in contenders.items()}
    runs[TRAINING] = training_iteration(problem)
    reference = runs[OURS]()
    differences = {}

    def inspect(name: str, result: object) -> None:
        if isinstance(result, Tensor):
            differences[name] = difference(result, reference)

    times = alternate(runs, repeats, inspect)
    stored.forget_jacobians()
    middle = medians(times)
    for name, seconds in times.items():
        ratios = (middle[name] / middle[base] for base in (OURS, GEMMS, TRAINING))
        table.add(operator, name, *ratios, differences.get(name), milliseconds(seconds))
    table.remarks += remarks


def _preparations(problem: Problem, repeats: int, max_gb: float) -> Table:
    table = Table(
        f"Preparation, once for a network and its trials: {problem.size.label()}",
        ("contender", "x kpflow", "training iterations", "ms, median (range)"),
    )
    contenders, table.remarks = runnable(PREPARATIONS, problem.size, max_gb)
    runs = {name: lambda f=f: f(problem) for name, f in contenders.items()}
    times = alternate({**runs, TRAINING: training_iteration(problem)}, repeats)
    middle = medians(times)
    for name, seconds in times.items():
        ratios = (middle[name] / middle[base] for base in (OURS, TRAINING))
        table.add(name, *ratios, milliseconds(seconds))
    return table
