"""The sections of a report on a `TaskAlignmentAnalyzer`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kpflow_sklearn.plotting import AlignmentDisplay
from kpflow_sklearn.reporting._origin import KPFLOW as PAPER
from kpflow_sklearn.reporting._page import Section, Table
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._reading_alignment import read_alignment_in_words as read
from kpflow_sklearn.reporting._tables import from_frame, named_values, spelled

__all__ = ["PAPER", "SUBJECT", "count", "read", "sections"]

SUBJECT = "Task alignment"

MEANINGS = {
    "interference": "inner products of the gradients; a step of rate η on task j alone changes "
    "the loss of task i by −η times the entry, so that j hurts i where it is negative",
    "gradient": "cosines of the gradients",
    "flow": "cosine of what the error of j does to the states of i with what the error of i does",
    "update": "cosine of what each task's error does to its own states",
    "state": "cosine of the states",
}
_MOMENTS = {
    "update": "overlap of the second moments of what each task's error does to its own states",
    "state": "overlap of the second moments of the states",
}
_MOST_TASKS, _MOST_UNFOLDED = 40, 60


def sections(analyzer: Any) -> list[Section]:
    """Return what was measured: matrices, groups over training, and what carries interference."""
    return [_matrices(analyzer), _groups(analyzer), _carriers(analyzer)]


def count(analyzer: Any) -> str:
    """Say on how much the network was analysed."""
    losses = analyzer.results_[analyzer.results_["quantity"] == "loss"]
    trials = losses.groupby("task", observed=True)["n_trials"].first()
    shared = "state" not in analyzer.alignment_matrices_  # Outputs have all trials in common.
    return f"{trials.max() if shared else trials.sum()} trials of {len(trials)} sub-tasks"


def _matrices(analyzer: Any) -> Section:
    kinds = list(analyzer.alignment_matrices_)
    last = analyzer.snapshots_[-1].iteration
    words = (
        "The error of each sub-task moves the states of every other one. Row i is acted on, "
        f"column j acts; at iteration {last}."
    )
    pictures = [_heatmap(analyzer, kind) for kind in kinds]
    tables = [_matrix(analyzer, kind) for kind in kinds]
    if len(analyzer.tasks_) > _MOST_TASKS:
        tables, words = [], f"{words} The entries are in results_."
    return Section("Alignment", [words], drawn(pictures), tables)


def _heatmap(analyzer: Any, kind: str) -> Drawing:
    n_tasks = len(analyzer.tasks_)
    meaning = _MOMENTS[kind] if _is_of_moments(analyzer, kind) else MEANINGS[kind]
    # Inches, so that all names can be read.
    longest = min(24, max(len(str(task)) for task in analyzer.tasks_))
    more = 0.15 * max(0, n_tasks - 8) + 0.07 * max(0, longest - 10)
    return Drawing(
        lambda ax: AlignmentDisplay.from_estimator(analyzer, kind=kind, ax=ax),
        f"{kind.capitalize()}: {meaning}.",
        f"Heatmap of the {kind} matrix of {n_tasks} sub-tasks.",
        size=(5.6 + more, 4.0 + more),
    )


def _is_of_moments(analyzer: Any, kind: str) -> bool:
    """Tell whether second moments were compared, for want of matched conditions."""
    rows = analyzer.results_[analyzer.results_["quantity"] == kind]
    return bool((rows["reduction"] == "second moments").any())


def _matrix(analyzer: Any, kind: str) -> Table:
    rows = analyzer.results_[analyzer.results_["quantity"] == kind]
    rows = rows[rows["iteration"] == rows["iteration"].max()]
    notes = [f"Missing: {reason}." for reason in sorted(set(rows["reason"]) - {""})]
    if _is_of_moments(analyzer, kind):
        notes.insert(0, "Overlap of second moments, for want of matched conditions: no sign.")
    matrix = analyzer.alignment_matrices_[kind]
    return from_frame(kind.capitalize(), matrix.rename_axis("i \\ j", axis=0), notes=notes)


def _groups(analyzer: Any) -> Section:
    words = (
        "The final groups are those of the final states, or of the cumulative operators where the "
        "sub-tasks are outputs. The margin is the mean alignment within them less that between; "
        "chance is the share of permuted task labels that reach it. Which comes first, states or "
        "operators, differs from seed to seed: this is one run."
    )
    history = analyzer.grouping_history_
    pictures = []
    if history["margin"].notna().any():
        pictures.append(
            Drawing(
                lambda ax: AlignmentDisplay.from_estimator(analyzer).plot_history(ax=ax),
                "Margin of the final groups over training; the transition of the states and the "
                "lead of the operators are marked where there are any.",
                "Margin of the final groups over training, by states and operators. "
                f"Transition: {_or_none(analyzer.transition_)}; lead: {_or_none(analyzer.lead_)}.",
                size=(6.2, 3.8),
            )
        )
    when = {
        "transition: iteration from which the states show the final groups": analyzer.transition_,
        "lead: iterations by which the operators show them earlier": analyzer.lead_,
    }
    tables = [
        _task_table(analyzer),
        named_values("When", {k: _or_none(v) for k, v in when.items()}, "what"),
        from_frame("Groups at every snapshot", spelled(history), folded=True),
    ]
    return Section("Groups", [words], drawn(pictures), tables)


def _or_none(iteration: int | None) -> int | str:
    return "none" if iteration is None else iteration


def _task_table(analyzer: Any) -> Table:
    losses = analyzer.results_[analyzer.results_["quantity"] == "loss"]
    table = losses.pivot(index="iteration", columns="task", values="value")
    trials = losses.groupby("task", observed=True)["n_trials"].first()
    names = [str(task) for task in analyzer.tasks_]
    frame = pd.DataFrame(
        {
            "task": names,
            "group": analyzer.groups_.to_numpy(),
            "trials": trials[names].to_numpy(),
            f"loss at iteration {table.index[0]}": table.iloc[0][names].to_numpy(),
            f"loss at iteration {table.index[-1]}": table.iloc[-1][names].to_numpy(),
        }
    )
    return from_frame("Sub-tasks", frame)


def _carriers(analyzer: Any) -> Section:
    words = (
        "Interference split by weight map and, where periods were given, by those at whose steps "
        "the weights act. The readout does not move the states and is no part of the sum."
    )
    tables = [_at_last(analyzer.interference_by_map_, "weight map")]
    if analyzer.interference_by_period_ is not None:
        tables.append(_at_last(analyzer.interference_by_period_, "period"))
    return Section("What carries interference", [words], tables=tables)


def _at_last(table: pd.DataFrame, by: str) -> Table:
    last = table["iteration"].max()
    rows = table[table["iteration"] == last].drop(columns="iteration")
    carriers = [name for name in rows if name not in ("task", "other_task", "value")]
    wide = rows.pivot(index=[*carriers, "task"], columns="other_task", values="value")
    wide.index.names = [str(name).replace("_", " ") for name in wide.index.names]
    name = f"Interference by {by} at iteration {last}"
    return from_frame(name, wide, folded=len(wide) > _MOST_UNFOLDED)
