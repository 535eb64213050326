"""Alignment matrices as rows of the results table."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpflow_sklearn.analyzers.alignment._task_flow import MATRICES, MOMENTS, TaskFlow
from kpflow_sklearn.results import Estimate, row


def alignment_rows(
    iteration: int, flow: TaskFlow, matrices: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return the rows of ``results_`` for one snapshot: losses, and every entry of the matrices.

    Parameters
    ----------
    iteration : int
        Of the snapshot.
    flow : TaskFlow
        Of the snapshot.
    matrices : dict of str to ndarray
        As from `TaskFlow.matrices`.

    Returns
    -------
    list of dict
        Rows of the schema.
    """
    tasks = flow.tasks
    sizes = tasks.member.sum(1)
    rows = [
        row(iteration, "network", "", "loss", float(loss), task=name, n_trials=int(size))
        for name, loss, size in zip(tasks.names, flow.losses, sizes, strict=True)
    ]
    for kind in MATRICES:
        if kind not in matrices:
            continue
        compared = flow.comparison if kind in ("update", "state") else ""
        for (i, j), value in np.ndenumerate(matrices[kind]):
            estimate = Estimate(float(value))
            if np.isnan(value):
                estimate = Estimate.missing(_reason(kind, matrices, i, j))
            rows.append(
                row(
                    iteration,
                    "network" if kind == "state" else "PKP",
                    "hidden" if compared == MOMENTS else "all",
                    kind,
                    estimate,
                    reduction=compared,
                    n_trials=int((tasks.member[i] | tasks.member[j]).sum()),
                    task=tasks.names[i],
                    other_task=tasks.names[j],
                )
            )
    return rows


def _reason(kind: str, matrices: dict[str, np.ndarray], i: int, j: int) -> str:
    """Say why an entry is missing."""
    if kind == "state":
        return "the states are zero where they are compared"
    if np.isnan(matrices["gradient"][i, j]):
        return "a task has no gradient"
    return "a task moves no states where they are compared"
