"""A paragraph that reads a fitted task alignment in words; each claim is one of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.analyzers.alignment import describe_groups, margin

#: Conflicts weaker than this cosine are not spoken of.
_CONFLICT = -0.05
_ONE_RUN = "Which comes first differs from seed to seed: this is one run."


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
        parts.append(f"{kind}{_compared(analyzer, kind)}\n{shown.to_string()}")
    return "\n\n".join(parts)


def _compared(analyzer: Any, kind: str) -> str:
    """Say so where second moments were compared: they have no sign."""
    rows = analyzer.results_[analyzer.results_["quantity"] == kind]
    return " (second moments)" if (rows["reduction"] == "second moments").any() else ""


def read_alignment_in_words(analyzer: Any) -> str:
    """Return one paragraph: who shares, who interferes, and since when it could be seen.

    Parameters
    ----------
    analyzer : TaskAlignmentAnalyzer
        Fitted.

    Returns
    -------
    str
        A paragraph.
    """
    sentences = [
        _loss_sentence(analyzer.results_),
        _group_sentence(analyzer),
        _conflict_sentence(analyzer),
        _lead_sentence(analyzer),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _loss_sentence(results: pd.DataFrame) -> str:
    losses = results[results["quantity"] == "loss"]
    table = losses.pivot(index="iteration", columns="task", values="value")
    first, last = table.iloc[0], table.iloc[-1]
    return (
        f"From iteration {table.index[0]} to {table.index[-1]} the mean loss of the sub-tasks on "
        f"the analysis trials went from {first.mean():.3g} to {last.mean():.3g}; at the end it is "
        f"{last.max():.3g} for {last.idxmax()}, the worst, and {last.min():.3g} for "
        f"{last.idxmin()}, the best."
    )


def _group_sentence(analyzer: Any) -> str:
    groups = analyzer.groups_.to_numpy()
    if len(groups) < 3:
        return ""
    how, table = "final states", analyzer.alignment_matrices_.get("state")
    if table is None:
        how, whole = "operators over training", analyzer.cumulative_alignment_["update"]
        table = whole.loc[whole.index[-1][0]]
    matrix = table.to_numpy()
    words = describe_groups(analyzer.tasks_, groups)
    value = margin((matrix + matrix.T) / 2, groups)
    apart = (
        "" if np.isnan(value) else f" (mean alignment within minus between groups = {value:+.2f})"
    )
    return f"By their {how} the tasks fall into {groups.max() + 1} groups: {words}{apart}."


def _conflict_sentence(analyzer: Any) -> str:
    if len(analyzer.tasks_) < 2:
        return ""
    history = analyzer.alignment_history_["gradient"].stack().dropna()
    if not len(history):
        return "No sub-task has a gradient."
    worst = history.idxmin()
    if not history.min() < _CONFLICT:
        return (
            f"At no snapshot is the gradient cosine of two sub-tasks below {_CONFLICT} (the least "
            f"is {history.min():+.2f})."
        )
    iteration, task, other = worst
    maps = analyzer.interference_by_map_
    here = maps[
        (maps["iteration"] == iteration)
        & (maps["task"] == task)
        & (maps["other_task"] == other)
        & (maps["weight_map"] != "readout")
    ]
    carrier = here.loc[here["value"].idxmin()]
    last = analyzer.alignment_matrices_["gradient"]
    n_now = int((np.triu(last.to_numpy(), 1) < _CONFLICT).sum())
    return (
        f"The strongest conflict is that of {task} with {other} at iteration {iteration} "
        f"(gradient cosine {history.min():+.2f}), carried most by the weights of "
        f"{carrier['weight_map']}; at the last snapshot {n_now} of "
        f"{len(last) * (len(last) - 1) // 2} pairs of tasks have a cosine below {_CONFLICT}."
    )


def _lead_sentence(analyzer: Any) -> str:
    if analyzer.transition_ is None:
        return ""
    operators = analyzer.grouping_history_["source"].iloc[0]
    iterations = analyzer.grouping_history_["iteration"]
    if analyzer.transition_ == iterations.max():
        return (
            "The states show these groups at the last snapshot only: whether they last, and "
            "what came first, cannot be said."
        )
    states = f"The states show these groups for good from iteration {analyzer.transition_} on"
    if analyzer.transition_ == iterations.min():
        states += " (the first snapshot)"
    if analyzer.lead_ is None:
        return f"{states}; the {operators} alignment does not, up to the end. {_ONE_RUN}"
    start = analyzer.transition_ - analyzer.lead_
    when = (
        f"{analyzer.lead_} iterations earlier"
        if analyzer.lead_ > 0
        else "no earlier"
        if analyzer.lead_ == 0
        else f"{-analyzer.lead_} iterations later"
    )
    return f"{states}, the {operators} alignment from {start} on, {when}. {_ONE_RUN}"
