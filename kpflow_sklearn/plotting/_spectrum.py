"""Eigenvalues of the operators, and Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kpflow_sklearn._common.checks import check_subset, check_word
from kpflow_sklearn.plotting._display import TableDisplay
from kpflow_sklearn.plotting._style import CATEGORY_COLORS, plain_log_scale
from kpflow_sklearn.results import OPERATORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Eigenvalues below this share of the trace are rounding errors, which would stretch the scale.
_SMALLEST_SHARE = 1e-10


class SpectrumDisplay(TableDisplay):
    """The eigenvalues of K, P and PKP* on one axis, as shares of their traces.

    Parameters
    ----------
    table : DataFrame
        The ``spectra_`` of a fitted `KPFlowAnalyzer`. Further columns distinguish runs.
    hue : str, optional
        The column of the table whose values are shown as colours. Several runs of one colour, for
        example with different seeds, are drawn as median and range at the indices that all of
        them have. A missing value is shown as "none".

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
    >>> from kpflow_sklearn.plotting import SpectrumDisplay
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> SpectrumDisplay.from_estimator(analyzer).ax_.get_xlabel()
    'eigenvalue number, time axis'
    """

    _fitted = "spectra_"
    _columns = ("operator", "axis", "index", "eigenvalue", "residual", "share", "method")

    def plot(
        self,
        *,
        axis: str = "time",
        operators: Sequence[str] = OPERATORS,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the spectra at the last snapshot on one axis.

        Shares below 1e-10 are rounding errors, and eigenvalues below their residual cannot be told
        from zero. Both count as zero in a median, and nothing is drawn where all runs of a colour
        are zero. A line may end before that, because further eigenvalues have not converged.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        operators : sequence of {"K", "P", "PKP"}, default=all
            The operators to draw.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        SpectrumDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no eigenvalues on that axis, or there are several runs but no hue.

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
        operators = check_subset(operators, "operators", OPERATORS)
        table = self._by_run()
        on_axis = table[table["axis"] == axis]
        if not len(on_axis):
            axes = ", ".join(map(repr, table["axis"].unique()))
            raise ValueError(f"there are no eigenvalues on axis={axis!r}, only on {axes}.")
        self._start(ax)
        self._draw_lines(self._without_rounding(on_axis), "index", "share", operators)
        self.ax_.set_yscale("log")
        plain_log_scale(self.ax_, "x")
        on = "whole space" if axis == "all" else f"{axis} axis"
        self.ax_.set_xlabel(f"eigenvalue number, {on}")
        self.ax_.set_ylabel("share of the trace")
        return self

    def _without_rounding(self, table: pd.DataFrame) -> pd.DataFrame:
        """Set shares within their error to zero, and drop indices at which all runs are zero.

        Dropping single runs there would raise the median of the others.
        """
        share = table["share"]
        zero = share <= _SMALLEST_SHARE
        if "residual" in table:
            zero |= table["eigenvalue"] <= table["residual"]
        cut = table.assign(share=share.mask(zero, 0.0))
        line = ["operator", "index", *([self.hue] if self.hue in table else [])]
        largest = cut.groupby(line, dropna=False, observed=True)["share"].transform("max")
        return cut[largest > 0]


class LyapunovDisplay(TableDisplay):
    """The Lyapunov exponents of a network on its trials, with 95% intervals over trials.

    Parameters
    ----------
    table : DataFrame
        Columns index (from 1), exponent and std_error, per unit of time, and
        kaplan_yorke_dimension and kaplan_yorke_std_error, which are the same in all rows of a run.
        Further columns distinguish runs.
    hue : str, optional
        The column of the table whose values are shown as colours. Several runs of one colour, for
        example with different seeds, are drawn as median and range at the indices that all of
        them have. A missing value is shown as "none".

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
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        LyapunovDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no finite exponents (trials of a single step have none), or there are
            several runs but no hue.

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
                "there are no finite exponents to draw: trials need at least two steps, and "
                "directions that vanish in one step have an exponent of minus infinity."
            )
        self._start(ax)
        style: dict[str, Any] = {"color": CATEGORY_COLORS[0], "marker": "o"}
        if self.hue is None and pd.notna(dimension := table["kaplan_yorke_dimension"].iloc[0]):
            error = table["kaplan_yorke_std_error"].iloc[0]
            spread = f" ± {error:.2g}" if error > 0 else ""
            style["label"] = f"Kaplan\N{EN DASH}Yorke dimension {dimension:.3g}{spread}"
        self._draw_lines(table, "index", "exponent", **style)
        self.ax_.axhline(0, color="0.6", linewidth=0.8)
        self.ax_.locator_params(axis="x", integer=True)
        self.ax_.set_xlabel("exponent number")
        self.ax_.set_ylabel("Lyapunov exponent per unit of time")
        return self
