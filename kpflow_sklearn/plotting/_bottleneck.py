"""Ranks of the operators over training, and which of K and P is narrower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting._display import TableDisplay
from kpflow_sklearn.plotting._runs import run_columns
from kpflow_sklearn.plotting._style import iteration_axis, plain_log_scale
from kpflow_sklearn.results import COLUMNS, OPERATORS, RANK_COLUMNS, bottleneck_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class BottleneckDisplay(TableDisplay):
    """The time-axis ranks of K, P and PKP* over training, and the name of the narrower operator.

    For several runs, distinguished by ``hue``, the figure shows the rank of P divided by that of
    K.

    Parameters
    ----------
    table : DataFrame
        The ``bottleneck_`` of a fitted `KPFlowAnalyzer`. Further columns distinguish runs.
    hue : str, optional
        The column of the table whose values are shown as colours. Several runs of one colour, for
        example with different seeds, are drawn as median and range at the iterations that all
        of them have. A missing value is shown as "none".

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
    >>> from kpflow_sklearn.plotting import BottleneckDisplay
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> BottleneckDisplay.from_estimator(analyzer).ax_.get_ylabel().splitlines()
    ['rank, time axis', '(narrower operator above)']
    """

    _fitted = "bottleneck_"
    _columns = RANK_COLUMNS

    @classmethod
    def from_results(
        cls, table: pd.DataFrame, *, hue: str | None = None, ax: Axes | None = None
    ) -> Self:
        """Draw the runs of a table, such as `sweep` returns.

        Parameters
        ----------
        table : DataFrame
            Rows of ``results_`` of several runs, with columns that distinguish the runs.
        hue : str, optional
            The column whose values are shown as colours.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        BottleneckDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If not all three operators were measured, there are several runs but no hue, or runs
            of one colour have no iteration in common.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, sweep
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import BottleneckDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2))
        >>> table = sweep(analyzer, {"cell": ["gru", "tanh"]}, X, y, n_seeds=2)
        >>> legend = BottleneckDisplay.from_results(table, hue="cell").ax_.get_legend()
        >>> [text.get_text() for text in legend.get_texts()][:2]
        ['gru (2 runs)', 'tanh (2 runs)']
        """
        names = run_columns(table, (*COLUMNS, "error"))
        runs: Any = table.groupby(names, dropna=False, sort=False) if names else [((), table)]
        tables = []
        for values, rows in runs:
            about = {str(name): value for name, value in zip(names, values, strict=True)}
            tables.append(bottleneck_table(rows).assign(**about))
        tables = [table for table in tables if len(table)] or tables
        return cls(pd.concat(tables, ignore_index=True), hue=hue).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the ranks, naming the narrower operator, or for several runs the ratios of ranks.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        BottleneckDisplay
            This display.

        Raises
        ------
        ValueError
            If the table is empty (not all three operators were measured), there are several runs
            but no hue, or runs of one colour have no iteration in common.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import BottleneckDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> len(BottleneckDisplay(analyzer.bottleneck_).plot().ax_.containers)
        3
        """
        if not len(self.table):
            raise ValueError("there are no ranks to compare: measure operators K, P and PKP.")
        self._start(ax)
        if self.hue is None:
            self._draw_ranks()
        else:
            self._draw_ratios()
        plain_log_scale(self.ax_)
        iteration_axis(self.ax_, int(self.table["iteration"].max()))
        return self

    def _draw_ranks(self) -> None:
        table = self._by_run()
        ranks = [
            table.assign(
                operator=name,
                value=table[f"{name}_rank"],
                std_error=table[f"{name}_rank_std_error"],
            )
            for name in OPERATORS
        ]
        self._draw_lines(pd.concat(ranks), "iteration", "value", OPERATORS)
        for _, row in self.table.iterrows():
            self.ax_.annotate(
                row["narrower"],
                (row["iteration"], 1.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize="x-small",
                rotation=45 if len(row["narrower"]) > 2 else 0,
            )
        self.ax_.set_ylabel("rank, time axis\n(narrower operator above)")

    def _draw_ratios(self) -> None:
        table = self._by_run()
        k, p = table["K_rank"], table["P_rank"]
        # Relative errors of independent factors add in quadrature.
        relative = np.hypot(table["K_rank_std_error"] / k, table["P_rank_std_error"] / p)
        ratios = table.assign(times=p / k, std_error=p / k * relative)
        self._draw_lines(ratios, "iteration", "times")
        self.ax_.axhline(1, color="0.6", linewidth=0.8)
        self.ax_.set_ylabel("rank of P / rank of K, time axis\n(above 1, K is narrower)")
