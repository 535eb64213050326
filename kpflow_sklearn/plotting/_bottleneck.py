"""Which operator is the narrow one, over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn.plotting._style import (
    OPERATOR_STYLE,
    iteration_axis,
    new_axes,
    plain_log_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class BottleneckDisplay:
    """The time-axis ranks of K, P and PKP* over training, and the narrower operator's name.

    Parameters
    ----------
    bottleneck : DataFrame
        The ``bottleneck_`` of a fitted `KPFlowAnalyzer`.

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
    >>> BottleneckDisplay.from_estimator(analyzer).ax_.get_ylabel()
    'rank, time axis (narrower operator above)'
    """

    def __init__(self, bottleneck: pd.DataFrame) -> None:
        self.bottleneck = bottleneck

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None) -> BottleneckDisplay:
        """Draw a fitted analyzer's bottleneck.

        Parameters
        ----------
        estimator : KPFlowAnalyzer
            Fitted on all three operators.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        BottleneckDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If not all three operators were measured.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import BottleneckDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> BottleneckDisplay.from_estimator(analyzer).ax_.get_ylabel()
        'rank, time axis (narrower operator above)'
        """
        check_is_fitted(estimator, "bottleneck_")
        return cls(estimator.bottleneck_).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> BottleneckDisplay:
        """Draw the ranks, and the verdict above each snapshot.

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
            If the table is empty, because not all three operators were measured.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import BottleneckDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> len(BottleneckDisplay(analyzer.bottleneck_).plot().ax_.lines)
        3
        """
        table = self.bottleneck
        if not len(table):
            raise ValueError("there are no ranks to compare: measure operators K, P and PKP.")
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        for name, style in OPERATOR_STYLE.items():
            known = table.dropna(subset=[f"{name}_rank"])
            self.ax_.plot(known["iteration"], known[f"{name}_rank"], **style)
        plain_log_scale(self.ax_)
        iteration_axis(self.ax_, int(table["iteration"].max()))
        for _, row in table.iterrows():
            self.ax_.annotate(
                row["narrower"],
                (row["iteration"], 1.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize="x-small",
                rotation=45 if len(row["narrower"]) > 2 else 0,
            )
        self.ax_.set_ylabel("rank, time axis (narrower operator above)")
        self.ax_.legend(frameon=False)
        return self
