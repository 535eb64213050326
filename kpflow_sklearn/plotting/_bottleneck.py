"""Which operator is the narrow one, over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting._display import TableDisplay
from kpflow_sklearn.plotting._runs import draw_levels, draw_runs, one_run, run_columns
from kpflow_sklearn.plotting._style import OPERATOR_STYLE, iteration_axis, plain_log_scale
from kpflow_sklearn.results import COLUMNS, RANK_COLUMNS, bottleneck_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class BottleneckDisplay(TableDisplay):
    """The time-axis ranks of K, P and PKP* over training, and the narrower operator's name.

    Of several runs, told apart by ``hue``: how many times the rank of P is that of K.

    Parameters
    ----------
    table : DataFrame
        The ``bottleneck_`` of a fitted `KPFlowAnalyzer`; further columns tell runs apart.
    hue : str, optional
        The column of the table that tells runs apart: a colour each. Several runs of a colour, of
        different seeds, are drawn as their median and range at the iterations that all of them
        have. A missing value is "none".

    Attributes
    ----------
    ax_ : Axes
        Where the figure was drawn.
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
            Rows of ``results_``, of several runs with columns that tell them apart.
        hue : str, optional
            As of the class.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        BottleneckDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If not all three operators were measured, or there are several runs and no hue, or the
            runs of a colour have no iteration in common.

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
        found = []
        for values, rows in runs:
            named = {str(n): value for n, value in zip(names, values, strict=True)}
            found.append(bottleneck_table(rows).assign(**named))
        whole = [ranks for ranks in found if len(ranks)] or found
        return cls(pd.concat(whole, ignore_index=True), hue=hue).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the ranks, and the verdict above each snapshot; of several runs, the ratio.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        BottleneckDisplay
            Itself.

        Raises
        ------
        ValueError
            If the table is empty, because not all three operators were measured, or if it holds
            several runs and there is no hue, or the runs of a colour have no iteration in common.

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
            self._draw_ratios(self.hue)
        plain_log_scale(self.ax_)
        iteration_axis(self.ax_, int(self.table["iteration"].max()))
        return self

    def _draw_ranks(self) -> None:
        table = self._by_run()
        one_run(table, "iteration")
        for name, style in OPERATOR_STYLE.items():
            rank = f"{name}_rank"
            rows = table.assign(std_error=table[f"{rank}_std_error"])
            draw_runs(self.ax_, rows, "iteration", rank, color=style["color"], style=style)
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
        self.ax_.legend(frameon=False)

    def _draw_ratios(self, hue: str) -> None:
        table = self._by_run()
        k, p = table["K_rank"], table["P_rank"]
        relative = np.hypot(table["K_rank_std_error"] / k, table["P_rank_std_error"] / p)
        ratios = table.assign(times=p / k, std_error=p / k * relative)
        draw_levels(self.ax_, ratios, hue, "iteration", "times")
        self.ax_.axhline(1, color="0.6", linewidth=0.8)
        self.ax_.set_ylabel("rank of P / rank of K, time axis\n(above 1, K is the narrower)")
