"""Eigenvalues of the operators, and Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kpflow_sklearn._common.checks import check_subset, check_word
from kpflow_sklearn.plotting._display import TableDisplay
from kpflow_sklearn.plotting._runs import draw_levels, draw_runs, one_run
from kpflow_sklearn.plotting._style import CATEGORY_COLORS, OPERATOR_STYLE, plain_log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Below this share of the trace eigenvalues are rounding, and would only stretch the scale.
_SMALLEST_SHARE = 1e-10


class SpectrumDisplay(TableDisplay):
    """The eigenvalues of K, P and PKP* on one axis, as shares of their traces.

    Parameters
    ----------
    table : DataFrame
        The ``spectra_`` of a fitted `KPFlowAnalyzer`; further columns tell runs apart.
    hue : str, optional
        The column of the table that tells runs apart: a colour each. Several runs of a colour, of
        different seeds, are drawn as their median and range at the numbers that all of them have.
        A missing value is "none".

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
    >>> from kpflow_sklearn.plotting import SpectrumDisplay
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> SpectrumDisplay.from_estimator(analyzer).ax_.get_xlabel()
    'eigenvalue number, time axis'
    """

    _fitted = "spectra_"
    _columns = ("operator", "axis", "index", "eigenvalue", "share", "method")

    def plot(
        self,
        *,
        axis: str = "time",
        operators: Sequence[str] = tuple(OPERATOR_STYLE),
        ax: Axes | None = None,
    ) -> Self:
        """Draw the spectra at the last snapshot on one axis.

        Shares below 1e-10 are rounding: they count as zero in a median, and where all runs of a
        colour are below, nothing is drawn.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        operators : sequence of {"K", "P", "PKP"}, default=all
            Whose.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        SpectrumDisplay
            Itself.

        Raises
        ------
        ValueError
            If there are no eigenvalues on that axis, or several runs and no hue.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import SpectrumDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> SpectrumDisplay(analyzer.spectra_).plot(axis="all").ax_.get_xlabel()
        'eigenvalue number, whole space'
        """
        check_word(axis, "axis")
        check_subset(operators, "operators", tuple(OPERATOR_STYLE))
        table = self._by_run()
        on_axis = table[table["axis"] == axis]
        if not len(on_axis):
            known = ", ".join(map(repr, table["axis"].unique()))
            raise ValueError(f"there are no eigenvalues on axis={axis!r}, but on {known}.")
        chosen = self._without_rounding(on_axis)
        self._start(ax)
        if self.hue is None:
            for name in operators:
                rows = one_run(chosen[chosen["operator"] == name], "index")
                if len(rows):
                    self.ax_.plot(rows.index, rows["share"], markersize=4, **OPERATOR_STYLE[name])
            self.ax_.legend(frameon=False)
        else:
            draw_levels(self.ax_, chosen, self.hue, "index", "share", operators)
        self.ax_.set_yscale("log")
        plain_log_scale(self.ax_, "x")
        on = "whole space" if axis == "all" else f"{axis} axis"
        self.ax_.set_xlabel(f"eigenvalue number, {on}")
        self.ax_.set_ylabel("share of the trace")
        return self

    def _without_rounding(self, table: pd.DataFrame) -> pd.DataFrame:
        """Set shares that are rounding to zero, and leave out numbers where no run has another.

        Leaving out single runs would raise the median of those that remain.
        """
        share = table["share"]
        cut = table.assign(share=share.mask(share <= _SMALLEST_SHARE, 0.0))
        line = ["operator", "index", *([self.hue] if self.hue in table else [])]
        largest = cut.groupby(line, dropna=False, observed=True)["share"].transform("max")
        return cut[largest > 0]


class LyapunovDisplay(TableDisplay):
    """The Lyapunov exponents of a network on its trials, with 95% intervals over trials.

    Parameters
    ----------
    table : DataFrame
        Columns index (from 1), exponent and std_error, per unit of time, and
        kaplan_yorke_dimension with kaplan_yorke_std_error, the same in all rows of a run. Further
        columns tell runs apart.
    hue : str, optional
        The column of the table that tells runs apart: a colour each. Several runs of a colour, of
        different seeds, are drawn as their median and range at the numbers that all of them have.
        A missing value is "none".

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
    >>> from kpflow_sklearn.plotting import LyapunovDisplay
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> LyapunovDisplay.from_estimator(analyzer).ax_.get_xlabel()
    'exponent number'
    """

    _fitted = "lyapunov_exponents_"
    _columns = (
        "index",
        "exponent",
        "std_error",
        "kaplan_yorke_dimension",
        "kaplan_yorke_std_error",
    )

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        columns = {
            "index": np.arange(1, len(estimator.lyapunov_exponents_) + 1),
            "exponent": estimator.lyapunov_exponents_,
            "std_error": estimator.lyapunov_std_error_,
            "kaplan_yorke_dimension": estimator.kaplan_yorke_dimension_,
            "kaplan_yorke_std_error": estimator.kaplan_yorke_std_error_,
        }
        return cls(pd.DataFrame(columns))

    def plot(self, *, ax: Axes | None = None) -> Self:
        """Draw the exponents in descending order.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        LyapunovDisplay
            Itself.

        Raises
        ------
        ValueError
            If there are none, as trials of a single step have no exponents, or if there are
            several runs and no hue.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import LyapunovDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> LyapunovDisplay.from_estimator(analyzer).plot().ax_.get_ylabel()
        'Lyapunov exponent per unit of time'
        """
        table = self._by_run()
        table = table[np.isfinite(table["exponent"].astype(float))]
        if not len(table):
            raise ValueError(
                "there are no finite exponents to draw: trials need two steps, and the exponent "
                "of a direction that dies at once is minus infinity."
            )
        self._start(ax)
        if self.hue is None:
            one_run(table, "index")
            style: dict[str, Any] = {"marker": "o"}
            dimension, error = table.iloc[0][["kaplan_yorke_dimension", "kaplan_yorke_std_error"]]
            if pd.notna(dimension):
                spread = f" ± {error:.2g}" if error > 0 else ""
                style["label"] = f"Kaplan\N{EN DASH}Yorke dimension {dimension:.3g}{spread}"
            color = CATEGORY_COLORS[0]
            draw_runs(self.ax_, table, "index", "exponent", color=color, style=style)
            if "label" in style:
                self.ax_.legend(frameon=False)
        else:
            draw_levels(self.ax_, table, self.hue, "index", "exponent")
        self.ax_.axhline(0, color="0.6", linewidth=0.8)
        self.ax_.locator_params(axis="x", integer=True)
        self.ax_.set_xlabel("exponent number")
        self.ax_.set_ylabel("Lyapunov exponent per unit of time")
        return self
