"""Loss, and ranks and dimensions of the operators, over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from kpflow_sklearn._common.checks import check_subset, check_word
from kpflow_sklearn.plotting._display import TableDisplay
from kpflow_sklearn.plotting._style import iteration_axis, plain_log_scale
from kpflow_sklearn.results import COLUMNS, OPERATORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CollapseDisplay(TableDisplay):
    """A quantity of K, P and PKP* over training, with error bars.

    Parameters
    ----------
    table : DataFrame
        The ``results_`` of a fitted `KPFlowAnalyzer`, or the table that `sweep` returns. Further
        columns distinguish runs.
    hue : str, optional
        The column of the table whose values are shown as colours, for example "cell". Several
        runs of one colour, for example with different seeds, are drawn as median and range at the
        iterations that all of them have; a single run is drawn with its 95% intervals. A missing
        value is shown as "none".
    rank_threshold : float, default=0.95
        Threshold of the ranks, for the label.

    Attributes
    ----------
    ax_ : Axes
        The axes of the figure.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> from kpflow_sklearn.plotting import CollapseDisplay
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> display = CollapseDisplay.from_estimator(analyzer, quantity="rank")
    >>> display.ax_.get_ylabel()
    'rank (95% of trace), time axis'
    """

    _fitted = "results_"
    _columns = (*COLUMNS, "error")

    def __init__(
        self, table: pd.DataFrame, *, hue: str | None = None, rank_threshold: float = 0.95
    ) -> None:
        super().__init__(table, hue=hue)
        self.rank_threshold = rank_threshold

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        return cls(estimator.results_, rank_threshold=estimator.rank_threshold)

    def _check_alike(self, others: Sequence[Self]) -> None:
        thresholds = {display.rank_threshold for display in (self, *others)}
        if len(thresholds) > 1:
            raise ValueError(f"runs must have the same rank_threshold, got {sorted(thresholds)}.")

    @classmethod
    def from_results(
        cls,
        table: pd.DataFrame,
        *,
        hue: str | None = None,
        rank_threshold: float = 0.95,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the runs of a table, such as `sweep` returns.

        Parameters
        ----------
        table : DataFrame
            Rows of ``results_`` of several runs, with columns that distinguish the runs.
        hue : str, optional
            The column whose values are shown as colours.
        rank_threshold : float, default=0.95
            Threshold of the ranks, for the label.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.
        **options
            Further arguments of `plot`.

        Returns
        -------
        CollapseDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the table has no such quantity on that axis, there are several runs but no hue, or
            runs of one colour have no iteration in common.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, sweep
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import CollapseDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2))
        >>> table = sweep(analyzer, {"cell": ["gru", "tanh"]}, X, y, n_seeds=2)
        >>> legend = CollapseDisplay.from_results(table, hue="cell").ax_.get_legend()
        >>> [text.get_text() for text in legend.get_texts()][:2]
        ['gru (2 runs)', 'tanh (2 runs)']
        """
        return cls(table, hue=hue, rank_threshold=rank_threshold).plot(ax=ax, **options)

    def plot(
        self,
        *,
        quantity: str = "effective_dimension",
        axis: str = "time",
        operators: Sequence[str] = OPERATORS,
        ax: Axes | None = None,
    ) -> Self:
        """Draw one quantity of the operators over training.

        Parameters
        ----------
        quantity : {"effective_dimension", "rank", "trace", "norm"}
            The quantity to draw.
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        operators : sequence of {"K", "P", "PKP"}, default=all
            The operators to draw.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        CollapseDisplay
            This display.

        Raises
        ------
        ValueError
            If the table has no such quantity on that axis, there are several runs but no hue, or
            runs of one colour have no iteration in common.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import CollapseDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> CollapseDisplay(analyzer.results_).plot(axis="hidden").ax_.get_ylabel()
        'effective dimension, hidden axis'
        """
        check_word(quantity, "quantity")
        check_word(axis, "axis")
        operators = check_subset(operators, "operators", OPERATORS)
        operators = [name for name in OPERATORS if name in operators]
        rows = self._rows(operators, quantity)
        rows = rows[rows["axis"] == axis]
        if rows.empty:
            raise ValueError(f"the table has no quantity {quantity!r} on axis {axis!r}.")
        self._start(ax)
        self._draw_lines(rows, "iteration", "value", operators)
        label = quantity.replace("_", " ")
        if quantity == "rank":
            label = f"rank ({self.rank_threshold:.0%} of trace)"
        self.ax_.set_ylabel(f"{label}, {axis} axis")
        plain_log_scale(self.ax_)
        iteration_axis(self.ax_, int(rows["iteration"].max()))
        return self

    def _rows(self, operators: Sequence[str], quantity: str) -> pd.DataFrame:
        """Return the rows of a quantity on all trials, with the number of their run."""
        table = self._by_run()
        chosen = (table["quantity"] == quantity) & (table["task"] == "")
        return table[chosen & table["operator"].isin(operators)]

    def plot_loss(self, *, ax: Axes | None = None) -> Self:
        """Draw the loss of the analysis trials over training.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        CollapseDisplay
            This display.

        Raises
        ------
        ValueError
            If the table has no losses, there are several runs but no hue, or runs of one colour
            have no iteration in common.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import CollapseDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> CollapseDisplay(analyzer.results_).plot_loss().ax_.get_ylabel()
        'loss, analysis trials'
        """
        rows = self._rows(["network"], "loss")
        if rows.empty:
            raise ValueError("the table has no losses, for example because every run failed.")
        self._start(ax)
        self._draw_lines(rows, "iteration", "value", color="black", marker="o")
        if (rows["value"] > 0).all():
            plain_log_scale(self.ax_)
        self.ax_.set_ylabel("loss, analysis trials")
        iteration_axis(self.ax_, int(rows["iteration"].max()))
        return self
