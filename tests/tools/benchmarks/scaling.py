"""Section "scaling": how the time of a product grows with trials, steps, units and probes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.tools.benchmarks.ours import product
from tests.tools.benchmarks.problems import Size, make_problem
from tests.tools.benchmarks.tables import Table
from tests.tools.benchmarks.timing import alternate, medians

SCALED = ("P", "K", "PKP*")
AXES = {"trials": "B", "steps": "T", "hidden": "H", "probes": "k"}
FACTORS = (0.5, 1, 2)


def scaling(base: Size, repeats: int) -> Table:
    """Return log-log slopes of the time around a base size, each axis halved and doubled."""
    table = Table(
        f"Log-log slopes of the time around {base.label()}, k={base.probes}",
        ("operator", "axis", "slope", "at", "ms, medians"),
    )
    for axis, letter in AXES.items():
        values = sorted({max(1, round(f * getattr(base, axis))) for f in FACTORS})
        runs = {}
        for value in values:
            problem = make_problem(replace(base, **{axis: value}))
            runs |= {f"{name} {value}": product(name)(problem) for name in SCALED}
        middle = medians(alternate(runs, repeats))
        for name in SCALED:
            seconds = np.array([middle[f"{name} {value}"] for value in values])
            slope = float(np.polyfit(np.log(values), np.log(seconds), 1)[0])
            points = ", ".join(map(str, values))
            table.add(name, letter, slope, points, ", ".join(f"{1e3 * v:.3g}" for v in seconds))
    table.rows.sort(key=lambda row: SCALED.index(row[0]))
    return table
