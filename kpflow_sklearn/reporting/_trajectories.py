"""The figure with the states of a recurrent network on the trials of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kpflow_sklearn._common.spacing import evenly_spaced
from kpflow_sklearn.plotting import N_DRAWN, TrajectoryDisplay
from kpflow_sklearn.reporting._pictures import Drawing, drawn


def choose_colors(
    chosen: tuple[ArrayLike | None, bool, str], tasks: ArrayLike | None, y: ArrayLike | None
) -> tuple[ArrayLike | None, bool, str]:
    """Return the colours, whether they are angles, and their name; by default tasks, else y."""
    if chosen[0] is None and tasks is not None:
        return tasks, False, "task"
    if chosen[0] is None and y is not None and np.ndim(y) < 3:
        return y, False, "y"
    return chosen


def draw_trajectories(
    analyzer: Any,
    X: ArrayLike | None,
    mask: ArrayLike | None,
    color_by: ArrayLike | None,
    cyclic: bool,
    label: str,
) -> dict[str, Any] | str:
    """Return the figure and the number of its trials, or the reason why nothing is drawn.

    Parameters
    ----------
    analyzer : KPFlowAnalyzer or TaskAlignmentAnalyzer
        Fitted.
    X : array-like of shape (n_trials, n_timesteps, n_features) or None
        Trials, of which at most 64 are drawn, evenly spaced.
    mask, color_by, cyclic, label
        Options of `TrajectoryDisplay.from_estimator`.

    Returns
    -------
    dict or str
        ``n`` and ``picture``, or the end of a sentence.
    """
    if X is None:
        return "the report was made without trials"
    trials = np.asarray(X)
    if trials.ndim == 2 or trials.shape[1] == 1:
        return "trials of a single step have no trajectories"
    some = evenly_spaced(len(trials), N_DRAWN)
    options = {
        "mask": None if mask is None else np.asarray(mask)[some],
        "color_by": None if color_by is None else np.asarray(color_by)[some],
        "cyclic": cyclic,
        "label": label,
    }

    def draw(ax: Any) -> None:
        TrajectoryDisplay.from_estimator(analyzer, trials[some], ax=ax, **options)

    return {"n": len(some), **drawn({"picture": Drawing(draw, size=(6.2, 4.4))})}
