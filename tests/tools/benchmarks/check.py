"""Check that all contenders compute the same, at a size that takes no time."""

from __future__ import annotations

from tests.tools.benchmarks import stored
from tests.tools.benchmarks.problems import CELLS, Size, make_problem
from tests.tools.benchmarks.products import OURS, PRODUCTS, difference, runnable

TOLERANCE = 1e-4


def check() -> int:
    """Compare every contender's product with ours, relative, and return their number."""
    n_compared = 0
    for cell in CELLS:
        problem = make_problem(Size(cell, 0).tiny())
        for operator, contenders in PRODUCTS.items():
            able, _ = runnable(contenders, problem.size, max_gb=1.0)
            products = {name: prepare(problem)() for name, prepare in able.items()}
            stored.forget_jacobians()
            reference = products.pop(OURS)
            for name, other in products.items():
                if other is None:  # Bare matrix products compute nothing.
                    continue
                error = difference(other, reference)
                if not error <= TOLERANCE:
                    raise AssertionError(f"{cell}, {operator}: {name} differs by {error:.1e}")
                n_compared += 1
    return n_compared
