"""Loss and the operators' dimensions over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from kpflow_sklearn._common.checks import check_subset, check_word
from kpflow_sklearn.plotting._display import TableDisplay
from kpflow_sklearn.plotting._runs import draw_levels, draw_runs, one_run
from kpflow_sklearn.plotting._style import OPERATOR_STYLE, iteration_axis, plain_log_scale
from kpflow_sklearn.results import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPERATORS = tuple(OPERATOR_STYLE)


class CollapseDisplay(TableDisplay):
    """How a quantity of K, P and PKP* changes over training, with error bars.

    Parameters
    ----------
    table : DataFrame
        The ``results_`` of a fitted `KPFlowAnalyzer`, or what `sweep` returns: further columns
        tell runs apart.
    hue : str, optional
        The column of the table that tells runs apart, "cell" say: a colour each. Several runs of
        a colour, of different seeds, are drawn as their median and range at the iterations that
        all of them have, a single one with its 95% intervals. A missing value is "none".
    rank_threshold : float, default=0.95
        For the label of ranks.

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
        found = {display.rank_threshold for display in (self, *others)}
        if len(found) > 1:
            raise ValueError(f"runs must have one rank_threshold, got {sorted(found)}.")

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
            Rows of ``results_``, of several runs with columns that tell them apart.
        hue : str, optional
            As of the class.
        rank_threshold : float, default=0.95
            As of the class.
        ax : Axes, optional
            Where to draw; default a new figure.
        **options
            As `plot` takes them.

        Returns
        -------
        CollapseDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the results hold no such quantity on that axis, or several runs and no hue, or the
            runs of a colour have no iteration in common.

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
            What to draw.
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        operators : sequence of {"K", "P", "PKP"}, default=all
            Whose.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        CollapseDisplay
            Itself.

        Raises
        ------
        ValueError
            If the results hold no such quantity on that axis, or several runs and no hue, or the
            runs of a colour have no iteration in common.

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
        check_subset(operators, "operators", OPERATORS)
        table = self._by_run()
        chosen = table[
            (table["quantity"] == quantity)
            & (table["axis"] == axis)
            & table["operator"].isin(list(operators))
            & (table["task"] == "")
        ]
        if chosen.empty:
            raise ValueError(f"results hold no quantity {quantity!r} on axis {axis!r}.")
        self._start(ax)
        self._draw(chosen, {name: OPERATOR_STYLE[name] for name in OPERATORS if name in operators})
        label = quantity.replace("_", " ")
        if quantity == "rank":
            label = f"rank ({self.rank_threshold:.0%} of trace)"
        self.ax_.set_ylabel(f"{label}, {axis} axis")
        plain_log_scale(self.ax_)
        iteration_axis(self.ax_, int(chosen["iteration"].max()))
        return self

    def _draw(self, chosen: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
        """Draw lines of the operators, in their colours or in those of the hue."""
        if self.hue is None:
            for name, style in styles.items():
                rows = chosen[chosen["operator"] == name]
                one_run(rows, "iteration")
                color = style["color"]
                draw_runs(self.ax_, rows, "iteration", "value", color=color, style=style)
            self.ax_.legend(frameon=False)
            return
        draw_levels(self.ax_, chosen, self.hue, "iteration", "value", tuple(styles))

    def plot_loss(self, *, ax: Axes | None = None) -> Self:
        """Draw the loss of the analysis trials over training.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        CollapseDisplay
            Itself.

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
        table = self._by_run()
        rows = table[
            (table["operator"] == "network")
            & (table["quantity"] == "loss")
            & (table["task"] == "")
        ]
        self._start(ax)
        if self.hue is None:
            one_run(rows, "iteration")
            style = {"marker": "o"}
            draw_runs(self.ax_, rows, "iteration", "value", color="black", style=style)
        else:
            draw_levels(self.ax_, rows, self.hue, "iteration", "value")
        if (rows["value"] > 0).all():
            self.ax_.set_yscale("log")
        self.ax_.set_ylabel("loss, analysis trials")
        iteration_axis(self.ax_, int(rows["iteration"].max()))
        return self
