"""Loss and the operators' dimensions over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn.plotting._style import (
    OPERATOR_STYLE,
    iteration_axis,
    new_axes,
    plain_log_scale,
)
from kpflow_sklearn.results import select

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CollapseDisplay:
    """How a quantity of K, P and PKP* changes over training, with error bars.

    Parameters
    ----------
    results : DataFrame
        The ``results_`` of a fitted `KPFlowAnalyzer`.
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

    def __init__(self, results: pd.DataFrame, *, rank_threshold: float = 0.95) -> None:
        self.results = results
        self.rank_threshold = rank_threshold

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        quantity: str = "effective_dimension",
        axis: str = "time",
        ax: Axes | None = None,
    ) -> CollapseDisplay:
        """Draw a fitted analyzer's operators over training.

        Parameters
        ----------
        estimator : KPFlowAnalyzer
            Fitted.
        quantity : {"effective_dimension", "rank", "trace", "norm"}
            What to draw.
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        CollapseDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the results hold no such quantity on that axis.

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
        check_is_fitted(estimator, "results_")
        display = cls(estimator.results_, rank_threshold=estimator.rank_threshold)
        return display.plot(quantity=quantity, axis=axis, ax=ax)

    def plot(
        self,
        *,
        quantity: str = "effective_dimension",
        axis: str = "time",
        ax: Axes | None = None,
    ) -> CollapseDisplay:
        """Draw one quantity of the operators over training.

        Parameters
        ----------
        quantity : {"effective_dimension", "rank", "trace", "norm"}
            What to draw.
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        CollapseDisplay
            Itself.

        Raises
        ------
        ValueError
            If the results hold no such quantity on that axis.

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
        chosen = self.results[
            (self.results["quantity"] == quantity)
            & (self.results["axis"] == axis)
            & self.results["operator"].isin(list(OPERATOR_STYLE))
        ]
        if chosen.empty:
            raise ValueError(f"results hold no quantity {quantity!r} on axis {axis!r}.")
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        for name, style in OPERATOR_STYLE.items():
            line = select(chosen, name, quantity)
            known = line[np.isfinite(line["value"])]
            if len(known):
                self.ax_.errorbar(
                    known.index,
                    known["value"],
                    yerr=1.96 * known["std_error"],
                    capsize=3,
                    markersize=5,
                    **style,
                )
        label = quantity.replace("_", " ")
        if quantity == "rank":
            label = f"rank ({self.rank_threshold:.0%} of trace)"
        self.ax_.set_ylabel(f"{label}, {axis} axis")
        plain_log_scale(self.ax_)
        iteration_axis(self.ax_, int(chosen["iteration"].max()))
        self.ax_.legend(frameon=False)
        return self

    def plot_loss(self, *, ax: Axes | None = None) -> CollapseDisplay:
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
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        loss = select(self.results, "network", "loss")["value"]
        self.ax_.plot(loss.index, loss, color="black", marker="o", markersize=5)
        if (loss > 0).all():
            self.ax_.set_yscale("log")
        self.ax_.set_ylabel("loss, analysis trials")
        iteration_axis(self.ax_, int(loss.index.max()))
        return self
