"""The base classes of the displays: how they are made from estimators, and where they draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn.plotting._runs import (
    RUN_NUMBER,
    check_one_run,
    draw_levels,
    draw_runs,
    number_runs,
)
from kpflow_sklearn.plotting._style import OPERATOR_STYLE, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN = "run"


def _check_holds(estimator: Any, name: str) -> None:
    """Check that an analyzer is fitted and has an attribute; its own error says why not."""
    check_is_fitted(estimator, "results_")
    getattr(estimator, name)


class Display:
    """A figure of a fitted estimator.

    Attributes
    ----------
    ax_ : Axes
        The axes of the figure.
    figure_ : Figure
        The figure.
    """

    _fitted: str  # The fitted attribute that holds what is drawn.

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        """Return the display of a fitted estimator, without drawing it."""
        raise NotImplementedError

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **options: Any) -> Self:
        """Draw the results of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.
        **options
            Further arguments of `plot`.

        Returns
        -------
        Display
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the estimator has no results that `plot` can draw.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import LyapunovDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> LyapunovDisplay.from_estimator(analyzer).ax_.get_xlabel()
        'exponent number'
        """
        _check_holds(estimator, cls._fitted)
        return cls._of(estimator).plot(ax=ax, **options)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the figure; defined by each subclass."""
        raise NotImplementedError

    def _start(self, ax: Axes | None) -> Axes:
        """Set ``ax_`` (to ``ax``, or else the axes of a new figure) and ``figure_``."""
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        self.ax_.spines[["top", "right"]].set_visible(False)
        return self.ax_


class TableDisplay(Display):
    """A figure of a tidy table, of one run or of several that ``hue`` distinguishes.

    Parameters
    ----------
    table : DataFrame
        One row per number. Columns that a single run's table does not have distinguish the runs.
    hue : str, optional
        The column of the table whose values are shown as colours. Several runs of one colour, for
        example with different seeds, are drawn as median and range where all of them have a
        value.
    """

    _columns: Collection[str]  # The columns of the table of a single run.

    def __init__(self, table: pd.DataFrame, *, hue: str | None = None) -> None:
        self.table = table
        self.hue = hue

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        return cls(getattr(estimator, cls._fitted))

    @classmethod
    def from_estimators(
        cls, runs: Mapping[str, Any], *, hue: str = RUN, ax: Axes | None = None, **options: Any
    ) -> Self:
        """Draw several fitted estimators in one figure.

        Parameters
        ----------
        runs : mapping of str to estimator or sequence of estimators
            Fitted estimators by name, with one colour per name. Several estimators of one name,
            for example with different seeds, are drawn as median and range at the iterations (or
            indices) that all of them have.
        hue : str, default="run"
            Title of the legend.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.
        **options
            Further arguments of `plot`.

        Returns
        -------
        Display
            The display, drawn.

        Raises
        ------
        NotFittedError
            If one of the estimators is not fitted.
        ValueError
            If ``runs`` is not a mapping or is empty, or estimators of one name have no iteration
            in common.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import LyapunovDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> LyapunovDisplay.from_estimators({"gru": analyzer}).ax_.get_xlabel()
        'exponent number'
        """
        if not isinstance(runs, Mapping) or not runs:
            raise ValueError(f"runs must map names to fitted estimators, got {runs!r}.")
        displays: list[Self] = []
        tables: list[pd.DataFrame] = []
        for name, fitted in runs.items():
            for estimator in fitted if isinstance(fitted, Sequence) else [fitted]:
                _check_holds(estimator, cls._fitted)
                displays.append(cls._of(estimator))
                about: dict[str, Any] = {RUN_NUMBER: len(tables), hue: str(name)}
                tables.append(displays[-1].table.assign(**about))
        display = displays[0]
        display._check_alike(displays[1:])
        display.table, display.hue = pd.concat(tables, ignore_index=True), hue
        return display.plot(ax=ax, **options)

    def _by_run(self) -> pd.DataFrame:
        """Return the table with the number of each row's run."""
        return number_runs(self.table, self._columns)

    def _draw_lines(
        self, rows: pd.DataFrame, x: str, y: str, operators: Sequence[str] = (), **style: Any
    ) -> None:
        """Draw one run, or every level of the hue, with one line per operator if there are any.

        Parameters
        ----------
        rows : DataFrame
            Rows from `_by_run`.
        x, y : str
            Columns of ``rows``.
        operators : sequence of str
            Operators to draw, in the column "operator"; empty for tables without operators.
        **style
            Style of the line of a single run without operators.
        """
        if self.hue is not None:
            draw_levels(self.ax_, rows, self.hue, x, y, operators)
            return
        lines = [(rows[rows["operator"] == name], OPERATOR_STYLE[name]) for name in operators]
        for line, look in lines or [(rows, style)]:
            check_one_run(line, x)
            draw_runs(self.ax_, line, x, y, **look)
        if operators or "label" in style:
            self.ax_.legend(frameon=False)

    def _check_alike(self, others: Sequence[Self]) -> None:
        """Refuse runs whose numbers have different meanings."""
