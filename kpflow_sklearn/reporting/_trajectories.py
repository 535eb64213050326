"""The section with the states of a recurrent network on the trials of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kpflow_sklearn.plotting import TrajectoryDisplay
from kpflow_sklearn.reporting._page import Section
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._tables import evenly

N_DRAWN = 64
_TITLE = "State trajectories"


def trajectory_section(
    analyzer: Any,
    X: ArrayLike | None,
    mask: ArrayLike | None,
    color_by: ArrayLike | None,
    cyclic: bool,
    label: str,
) -> Section:
    """Return the section, or one that says why nothing is drawn.

    Parameters
    ----------
    analyzer : KPFlowAnalyzer or TaskAlignmentAnalyzer
        Fitted.
    X : array-like of shape (n_trials, n_timesteps, n_features) or None
        Trials, of which 64 at most are drawn, evenly spaced.
    mask, color_by, cyclic, label
        As `TrajectoryDisplay` takes them.

    Returns
    -------
    Section
        With one figure.
    """
    if X is None:
        return Section(_TITLE, ["Not drawn: the report was made without trials."])
    trials = np.asarray(X)
    if trials.ndim == 2 or trials.shape[1] == 1:
        return Section(_TITLE, ["Not drawn: trials of a single step have none."])
    some = evenly(len(trials), N_DRAWN)

    def draw(ax: Any) -> None:
        TrajectoryDisplay.from_estimator(
            analyzer,
            trials[some],
            mask=None if mask is None else np.asarray(mask)[some],
            color_by=None if color_by is None else np.asarray(color_by)[some],
            cyclic=cyclic,
            label=label,
            ax=ax,
        )

    picture = Drawing(
        draw,
        f"States of the trained network on {len(some)} trials, from step to step; dots end them.",
        f"{len(some)} state trajectories in the plane of their first two principal components.",
        size=(6.2, 4.4),
    )
    return Section(_TITLE, pictures=drawn([picture]))
