"""The facts about a `KPFlowAnalyzer` for the template kpflow.html."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting import CollapseDisplay, LyapunovDisplay, SpectrumDisplay
from kpflow_sklearn.reporting._pictures import Drawing, Picture, drawn
from kpflow_sklearn.reporting._reading_kpflow import LABELS, course, read_analysis_in_words
from kpflow_sklearn.reporting._tables import (
    QUANTITIES,
    Measured,
    Table,
    error_cell,
    from_frame,
    over_training,
    reasons,
    spelled,
)
from kpflow_sklearn.results import select

_MOST_EXPONENTS = 10


#: One attribute of each analysis; the report needs all of them.
_SHOWN = (
    "spectra_",
    "eigenfunctions_",
    "lyapunov_exponents_",
    "weight_maps_",
    "signal_dimensions_",
)


def refuse_incomplete(analyzer: Any) -> None:
    """Refuse an analyzer that was fitted without some of its analyses."""
    if not all(hasattr(analyzer, name) for name in _SHOWN):
        raise ValueError(
            "analyzer must be fitted with all of its analyses, because the report shows them, got "
            f"analyses={analyzer.analyses!r}; leave this parameter out and fit again."
        )


def facts(analyzer: Any) -> dict[str, Any]:
    """Return the measurements over training, by axis, of weight maps and of perturbations."""
    results, maps, exponents = (
        analyzer.results_,
        analyzer.weight_maps_,
        analyzer.lyapunov_exponents_,
    )
    n_trials, n_timesteps = next(iter(analyzer.eigenfunctions_.values())).shape[1:3]
    last = analyzer.snapshots_[-1].iteration
    at_last = f"Weight maps at iteration {last}"
    return {
        "reading": read_analysis_in_words(analyzer),
        "count": f"{n_trials} trials of {n_timesteps} steps",
        "loss": course(select(results, "network", "loss")["value"]),
        "ranks": _courses(results, "rank"),
        "dimensions": _courses(results, "effective_dimension"),
        "n_missing": int(pd.isna(exponents).sum()),
        "n_dead": int(np.isneginf(exponents).sum()),
        "pictures": _pictures(analyzer),
        "spectra": drawn(
            {axis: _spectrum(analyzer, axis) for axis in analyzer.spectra_["axis"].unique()}
        ),
        "tables": {
            **_over_training(analyzer),
            "axes": _axes(results[results["iteration"] == last]),
            "signals": from_frame("Dimensions of signals", analyzer.signal_dimensions_),
            "weight_maps": from_frame(at_last, spelled(maps)) if len(maps) else None,
            "exponents": _exponents(analyzer),
        },
    }


def _courses(results: pd.DataFrame, quantity: str) -> dict[str, dict[str, Any]]:
    values = {
        label: select(results, operator, quantity, "time")["value"].dropna()
        for operator, label in LABELS.items()
    }
    return {label: course(series) for label, series in values.items() if len(series)}


def _pictures(analyzer: Any) -> dict[str, Picture | None]:
    display = CollapseDisplay(analyzer.results_, rank_threshold=analyzer.rank_threshold)
    drawings = {
        "loss": Drawing(lambda ax: display.plot_loss(ax=ax)),
        "dimension": Drawing(lambda ax: display.plot(quantity="effective_dimension", ax=ax)),
        "rank": Drawing(lambda ax: display.plot(quantity="rank", ax=ax)),
    }
    if np.isfinite(analyzer.lyapunov_exponents_).any():
        drawings["exponents"] = Drawing(lambda ax: LyapunovDisplay.from_estimator(analyzer, ax=ax))
    return drawn(drawings)


def _spectrum(analyzer: Any, axis: str) -> Drawing:
    return Drawing(lambda ax: SpectrumDisplay(analyzer.spectra_).plot(axis=axis, ax=ax))


def _on_time_axis(quantity: str, name: str) -> list[Measured]:
    return [
        Measured(f"{name} {label}", operator, quantity, "time", has_error=True)
        for operator, label in LABELS.items()
    ]


def _over_training(analyzer: Any) -> dict[str, Table]:
    bottleneck = analyzer.bottleneck_
    verdict = bottleneck.set_index("iteration")[["narrower", "ratio"]] if len(bottleneck) else None
    ranks = [Measured("loss", "network", "loss"), *_on_time_axis("rank", "rank")]
    dimensions = [
        *_on_time_axis("effective_dimension", "dim."),
        Measured("flow agreement", "PKP", "flow_agreement"),
    ]
    agreement = [
        Measured("direction agreement", "PKP", "direction_agreement"),
        Measured("operator agreement", "PKP", "operator_agreement", has_error=True),
    ]
    results = analyzer.results_
    return {
        "ranks": over_training("Bottleneck: ranks on the time axis", results, ranks, verdict),
        "dimensions": over_training("Effective dimensions on the time axis", results, dimensions),
        "agreement": over_training(
            "How far the parameters let the states move", results, agreement
        ),
    }


def _axes(results: pd.DataFrame) -> Table:
    """Return the numbers of one snapshot, with one row per operator and axis."""
    rows = []
    measured = results[results["operator"].isin(LABELS) & results["quantity"].isin(QUANTITIES)]
    for operator, axis in measured[["operator", "axis"]].drop_duplicates().to_numpy():
        row: dict[str, Any] = {"operator": LABELS[operator], "axis": axis}
        for quantity in QUANTITIES:
            name = quantity.replace("_", " ")
            for _, numbers in select(measured, operator, quantity, axis).iterrows():
                row[name] = numbers["value"]
                row[f"s.e. of {name}"] = error_cell(numbers, quantity)
        rows.append(row)
    return from_frame("Operators by axis", pd.DataFrame(rows), notes=reasons(measured))


def _exponents(analyzer: Any) -> Table:
    exponents = analyzer.lyapunov_exponents_
    columns = {"exponent": exponents, "s.e. of exponent": analyzer.lyapunov_std_error_}
    table = pd.DataFrame(columns, index=pd.RangeIndex(1, len(exponents) + 1, name="number"))
    name = f"Largest of {len(table)} exponents" if len(table) > _MOST_EXPONENTS else "Exponents"
    return from_frame(name, table.head(_MOST_EXPONENTS))
