"""A task alignment as text: its matrices, and the facts for the template alignment.txt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.analyzers.alignment import describe_groups, margin
from kpflow_sklearn.reporting._reading_kpflow import course
from kpflow_sklearn.reporting._templates import say

#: Gradients conflict if their cosine is below this.
_CONFLICT = -0.05


def matrices_in_print(analyzer: Any) -> str:
    """Return the matrices of the last snapshot as text.

    Parameters
    ----------
    analyzer : TaskAlignmentAnalyzer
        Fitted.

    Returns
    -------
    str
        One table after the other.
    """
    parts = []
    for kind, table in analyzer.alignment_matrices_.items():
        form = "{:.3g}" if kind == "interference" else "{:+.2f}"
        shown = table.map(lambda v, form=form: "-" if pd.isna(v) else form.format(v))
        shown.index.name = shown.columns.name = None
        compared = " (second moments)" if of_moments(analyzer, kind) else ""
        parts.append(f"{kind}{compared}\n{shown.to_string()}")
    return "\n\n".join(parts)


def of_moments(analyzer: Any, kind: str) -> bool:
    """Return whether second moments were compared, because no conditions match the trials."""
    rows = analyzer.results_[analyzer.results_["quantity"] == kind]
    return bool((rows["reduction"] == "second moments").any())


def losses_of(analyzer: Any) -> pd.DataFrame:
    """Return the loss of each sub-task, with one row per iteration."""
    losses = analyzer.results_[analyzer.results_["quantity"] == "loss"]
    return losses.pivot(index="iteration", columns="task", values="value")


def read_alignment_in_words(analyzer: Any) -> str:
    """Return one paragraph: which tasks form groups, which conflict, and when this showed.

    Parameters
    ----------
    analyzer : TaskAlignmentAnalyzer
        Fitted.

    Returns
    -------
    str
        A paragraph.
    """
    history, losses = analyzer.grouping_history_, losses_of(analyzer)
    last = losses.iloc[-1].dropna()
    return say(
        "alignment.txt",
        loss=course(losses.mean(axis=1)),
        worst=(last.idxmax(), last.max()) if len(last) else None,
        best=(last.idxmin(), last.min()) if len(last) else None,
        groups=_groups(analyzer) if len(analyzer.tasks_) > 2 else None,
        conflict=_conflict(analyzer) if len(analyzer.tasks_) > 1 else None,
        limit=_CONFLICT,
        iterations=(history["iteration"].min(), history["iteration"].max()),
        operators=history["source"].iloc[0],
        analyzer=analyzer,
    )


def _groups(analyzer: Any) -> dict[str, Any]:
    """Return the final groups, their margin, and the source from which they were formed."""
    groups = analyzer.groups_.to_numpy()
    source, table = "final states", analyzer.alignment_matrices_.get("state")
    if table is None:
        source, whole = "operators over training", analyzer.cumulative_alignment_["update"]
        table = whole.loc[whole.index[-1][0]]
    matrix = table.to_numpy()
    apart = margin((matrix + matrix.T) / 2, groups)
    return {
        "source": source,
        "n": groups.max() + 1,
        "words": describe_groups(analyzer.tasks_, groups),
        "margin": None if np.isnan(apart) else apart,
    }


def _conflict(analyzer: Any) -> dict[str, Any]:
    """Return the smallest gradient cosine and, if it is a conflict, the weights that cause it."""
    history = analyzer.alignment_history_["gradient"].stack().dropna()
    cosine = history.min() if len(history) else None
    if cosine is None or cosine >= _CONFLICT:
        return {"cosine": cosine, "tasks": ()}
    iteration, *tasks = history.idxmin()
    by_map = analyzer.interference_by_map_.set_index(["iteration", "task", "other_task"])
    carriers = by_map.loc[(iteration, *tasks)].set_index("weight_map")["value"]
    carriers = carriers.drop("readout", errors="ignore").dropna()  # NaN if it overflows.
    last = analyzer.alignment_matrices_["gradient"].to_numpy()
    return {
        "cosine": cosine,
        "tasks": tasks,
        "iteration": iteration,
        "carrier": carriers.idxmin() if len(carriers) else None,
        "n_now": int((np.triu(last, 1) < _CONFLICT).sum()),
        "n_pairs": len(last) * (len(last) - 1) // 2,
    }
