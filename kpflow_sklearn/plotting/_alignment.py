"""The alignment of sub-tasks: matrices as heatmaps, and groups over training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kpflow_sklearn._common.checks import check_choice
from kpflow_sklearn.plotting._display import Display
from kpflow_sklearn.plotting._style import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "interference": "interference ⟨g_i, g_j⟩",
    "gradient": "gradient cosine",
    "flow": "flow alignment",
    "update": "update alignment",
    "state": "state alignment",
}
#: Okabe and Ito's colours, with markers and lines that can be told apart without colour.
SOURCE_STYLE: dict[str, dict[str, Any]] = {
    "state": {"color": "black", "marker": "o"},
    "cumulative update": {"color": "#D55E00", "marker": "s"},
    "cumulative flow": {"color": "#D55E00", "marker": "s"},
    "cumulative gradient": {"color": "#0072B2", "linestyle": "--"},
}
SCALES = {
    "interference": "decrease of L_i per unit step on L_j",
    "gradient": "cosine of gradients",
    "flow": "cosine of the states' changes",
    "update": "cosine of the states' changes",
    "state": "cosine of states",
}
#: Up to this number of sub-tasks, the values are written into the heatmap.
_MAX_WRITTEN = 8


class AlignmentDisplay(Display):
    """The alignment of sub-tasks: one matrix as a heatmap, or the groups over training.

    Parameters
    ----------
    alignment_history : mapping of str to DataFrame
        The ``alignment_history_`` of a fitted `TaskAlignmentAnalyzer`.
    grouping_history : DataFrame
        Its ``grouping_history_``, with the margin of the final groups by source and iteration.
    matched : bool, default=True
        Whether update and state compare matched trials rather than second moments.
    transition : int, optional
        Its ``transition_``: the iteration from which the states stay in the final groups.
    lead : int, optional
        Its ``lead_``: the number of iterations by which the operators do so earlier.

    Attributes
    ----------
    ax_ : Axes
        The axes of the figure.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
    >>> from kpflow_sklearn.datasets import make_multitask
    >>> from kpflow_sklearn.plotting import AlignmentDisplay
    >>> periods = {"context": 2, "stimulus": 2, "memory": 2, "response": 2}
    >>> X, y, tasks = make_multitask(2, **periods, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
    >>> analyzer = analyzer.fit(X, y, tasks=tasks)
    >>> AlignmentDisplay.from_estimator(analyzer, kind="flow").ax_.get_title()
    'flow alignment, iteration 2'
    """

    def __init__(
        self,
        alignment_history: Mapping[str, pd.DataFrame],
        grouping_history: pd.DataFrame,
        *,
        matched: bool = True,
        transition: int | None = None,
        lead: int | None = None,
    ) -> None:
        self.alignment_history = alignment_history
        self.grouping_history = grouping_history
        self.matched = matched
        self.transition = transition
        self.lead = lead

    _fitted = "alignment_history_"

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        return cls(
            estimator.alignment_history_,
            estimator.grouping_history_,
            matched="cumulative update" in set(estimator.grouping_history_["source"]),
            transition=estimator.transition_,
            lead=estimator.lead_,
        )

    def plot(
        self, *, kind: str = "update", iteration: int | None = None, ax: Axes | None = None
    ) -> Self:
        """Draw one matrix as a heatmap with its values.

        Parameters
        ----------
        kind : {"interference", "gradient", "flow", "update", "state"}, default="update"
            The matrix to draw.
        iteration : int, optional
            Iteration of the snapshot; by default the last one.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        AlignmentDisplay
            This display.

        Raises
        ------
        ValueError
            If there is no such matrix or no such snapshot.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
        >>> from kpflow_sklearn.datasets import make_multitask
        >>> from kpflow_sklearn.plotting import AlignmentDisplay
        >>> periods = {"context": 2, "stimulus": 2, "memory": 2, "response": 2}
        >>> X, y, tasks = make_multitask(2, **periods, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
        >>> analyzer = analyzer.fit(X, y, tasks=tasks)
        >>> display = AlignmentDisplay(analyzer.alignment_history_, analyzer.grouping_history_)
        >>> display.plot(kind="gradient", iteration=0).ax_.get_title()
        'gradient cosine, iteration 0'
        """
        check_choice(kind, "kind", tuple(self.alignment_history))
        table = self.alignment_history[kind]
        iterations = table.index.get_level_values("iteration").unique()
        iteration = int(iterations[-1]) if iteration is None else iteration
        if not isinstance(iteration, int | np.integer) or iteration not in iterations:
            choices = ", ".join(map(str, iterations))
            raise ValueError(f"iteration must be that of a snapshot ({choices}), got {iteration}.")
        matrix = table.loc[iteration]
        self._start(ax)
        values = matrix.to_numpy()
        largest = 1.0 if kind != "interference" else np.nanmax(np.abs(values), initial=1e-300)
        self.ax_.spines[:].set_visible(True)
        image = self.ax_.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
        names = [short_name(name) for name in matrix.columns]
        # Names may contain dollar signs, which must not start mathematics.
        few = len(names) <= _MAX_WRITTEN
        turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if few else {"rotation": 90}
        self.ax_.set_xticks(range(len(names)), names, parse_math=False, **turned)
        self.ax_.set_yticks(range(len(names)), names, parse_math=False)
        symmetric = kind in ("update", "state")
        self.ax_.set_xlabel("task" if symmetric else "task j, whose error acts")
        self.ax_.set_ylabel("task" if symmetric else "task i, acted on")
        moments = symmetric and not self.matched
        of = "\nof second moments" if moments else ""
        self.ax_.set_title(f"{TITLES[kind]}{of}, iteration {iteration}", fontsize="medium")
        if few:
            self._write_values(values, largest)
        scale = "overlap of second moments" if moments else SCALES[kind]
        self.figure_.colorbar(image, ax=self.ax_, fraction=0.046, pad=0.04, label=scale)
        return self

    def _write_values(self, values: np.ndarray, largest: float) -> None:
        texts = {place: "" if np.isnan(v) else f"{v:.2g}" for place, v in np.ndenumerate(values)}
        size = "small" if max(map(len, texts.values())) < 7 else "x-small"
        for (i, j), text in texts.items():
            shown = text.replace("-", "\N{MINUS SIGN}")
            color = "white" if abs(values[i, j]) > 0.6 * largest else "black"
            self.ax_.text(j, i, shown, ha="center", va="center", color=color, fontsize=size)

    def plot_history(self, *, ax: Axes | None = None) -> Self:
        """Draw the margin of the final groups over training, for states and operators.

        The margin is the mean alignment within the final groups minus that between them. Dotted
        lines mark the transition of the states and that of the operators.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        AlignmentDisplay
            This display.

        Raises
        ------
        ValueError
            If no group contains two tasks, so that the margin is undefined.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
        >>> from kpflow_sklearn.datasets import make_multitask
        >>> from kpflow_sklearn.plotting import AlignmentDisplay
        >>> periods = {"context": 2, "stimulus": 2, "memory": 2, "response": 2}
        >>> X, y, tasks = make_multitask(2, **periods, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
        >>> analyzer = analyzer.fit(X, y, tasks=tasks)
        >>> display = AlignmentDisplay(analyzer.alignment_history_, analyzer.grouping_history_)
        >>> display.plot_history().ax_.get_ylabel()
        'margin of the final groups'
        """
        table = self.grouping_history
        if table["margin"].isna().all():
            raise ValueError(
                "there is no margin to draw: no final group contains two tasks, all tasks are in "
                "one group, or the alignment is missing; see grouping_history_, and n_groups of "
                "the analyzer."
            )
        self._start(ax)
        for source, style in SOURCE_STYLE.items():
            rows = table[table["source"] == source]
            if len(rows):
                self.ax_.plot(
                    rows["iteration"], rows["margin"], label=source, markersize=4, **style
                )
        self.ax_.axhline(0, color="0.6", linewidth=0.8)
        # The axis is linear, unlike in other figures over training, to show the lead.
        self.ax_.set_xlabel("iteration")
        self.ax_.set_ylabel("margin of the final groups")
        self._mark_lead()
        self.ax_.legend(framealpha=0.8, edgecolor="none")
        return self

    def _mark_lead(self) -> None:
        if self.transition is None:
            return
        label = f"states, from iteration {self.transition}"
        self.ax_.axvline(self.transition, color="black", linestyle=":", label=label)
        if self.lead is not None:
            start = self.transition - self.lead
            label = f"operators, from iteration {start}"
            self.ax_.axvline(start, color="#D55E00", linestyle=":", label=label)
