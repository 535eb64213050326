"""The facts about a `TaskAlignmentAnalyzer` for the template alignment.html."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kpflow_sklearn.plotting import AlignmentDisplay
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._reading_alignment import (
    losses_of,
    of_moments,
    read_alignment_in_words,
)
from kpflow_sklearn.reporting._tables import Table, from_frame, named_values, reasons, spelled

_MOST_TASKS, _MOST_UNFOLDED = 40, 60


def facts(analyzer: Any) -> dict[str, Any]:
    """Return the matrices, the groups over training, and the parts of the interference."""
    kinds, n_tasks = list(analyzer.alignment_matrices_), len(analyzer.tasks_)
    trials = _n_trials(analyzer)
    shared = "state" not in kinds  # Sub-tasks that are outputs share all trials.
    transition, lead = (
        "none" if iteration is None else iteration
        for iteration in (analyzer.transition_, analyzer.lead_)
    )
    history = analyzer.grouping_history_
    margin = Drawing(
        lambda ax: AlignmentDisplay.from_estimator(analyzer).plot_history(ax=ax), (6.2, 3.8)
    )
    when = {
        "transition: iteration from which the states show the final groups": transition,
        "lead: iterations by which the operators show them earlier": lead,
    }
    carriers = {
        "weight map": analyzer.interference_by_map_,
        "period": analyzer.interference_by_period_,
    }
    few = n_tasks <= _MOST_TASKS
    return {
        "reading": read_alignment_in_words(analyzer),
        "count": f"{trials.max() if shared else trials.sum()} trials of {n_tasks} sub-tasks",
        "of_moments": [kind for kind in kinds if of_moments(analyzer, kind)],
        "transition": transition,
        "lead": lead,
        "heatmaps": drawn({kind: _heatmap(analyzer, kind) for kind in kinds}),
        "pictures": drawn({"margin": margin} if history["margin"].notna().any() else {}),
        "tables": {
            "matrices": {kind: _matrix(analyzer, kind) for kind in kinds} if few else {},
            "tasks": _task_table(analyzer),
            "when": named_values("When", when),
            "history": from_frame("Groups at every snapshot", spelled(history), folded=True),
            "carriers": [_at_last(t, by) for by, t in carriers.items() if t is not None],
        },
    }


def _heatmap(analyzer: Any, kind: str) -> Drawing:
    # Inches, so that all names are legible.
    longest = min(24, max(len(str(task)) for task in analyzer.tasks_))
    more = 0.15 * max(0, len(analyzer.tasks_) - 8) + 0.07 * max(0, longest - 10)
    return Drawing(
        lambda ax: AlignmentDisplay.from_estimator(analyzer, kind=kind, ax=ax),
        size=(5.6 + more, 4.0 + more),
    )


def _matrix(analyzer: Any, kind: str) -> Table:
    rows = analyzer.results_[analyzer.results_["quantity"] == kind]
    rows = rows[rows["iteration"] == rows["iteration"].max()]
    matrix = analyzer.alignment_matrices_[kind].rename_axis("i \\ j", axis=0)
    return from_frame(kind.capitalize(), matrix, notes=reasons(rows))


def _n_trials(analyzer: Any) -> pd.Series:
    losses = analyzer.results_[analyzer.results_["quantity"] == "loss"]
    return losses.groupby("task", observed=True)["n_trials"].first()


def _task_table(analyzer: Any) -> Table:
    losses, names = losses_of(analyzer), [str(task) for task in analyzer.tasks_]
    columns = {
        "task": names,
        "group": analyzer.groups_.to_numpy(),
        "trials": _n_trials(analyzer)[names].to_numpy(),
    }
    for iteration in losses.index[[0, -1]]:
        columns[f"loss at iteration {iteration}"] = losses.loc[iteration, names].to_numpy()
    return from_frame("Sub-tasks", pd.DataFrame(columns))


def _at_last(table: pd.DataFrame, by: str) -> Table:
    last = table["iteration"].max()
    rows = spelled(table[table["iteration"] == last].drop(columns="iteration"))
    carriers = [name for name in rows if name not in ("task", "other task", "value")]
    wide = rows.pivot(index=[*carriers, "task"], columns="other task", values="value")
    name = f"Interference by {by} at iteration {last}"
    return from_frame(name, wide, folded=len(wide) > _MOST_UNFOLDED)
