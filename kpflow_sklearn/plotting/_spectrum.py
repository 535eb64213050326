"""Eigenvalues of the operators, and Lyapunov exponents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn.plotting._style import OPERATOR_STYLE, new_axes, plain_log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Below this share of the trace eigenvalues are rounding, and would only stretch the scale.
_SMALLEST_SHARE = 1e-10


class SpectrumDisplay:
    """The eigenvalues of K, P and PKP* on one axis, as shares of their traces.

    Parameters
    ----------
    spectra : DataFrame
        The ``spectra_`` of a fitted `KPFlowAnalyzer`.

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

    def __init__(self, spectra: pd.DataFrame) -> None:
        self.spectra = spectra

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, axis: str = "time", ax: Axes | None = None
    ) -> SpectrumDisplay:
        """Draw a fitted analyzer's spectra at the last snapshot.

        Parameters
        ----------
        estimator : KPFlowAnalyzer
            Fitted.
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        SpectrumDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If there are no eigenvalues on that axis.

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
        check_is_fitted(estimator, "spectra_")
        return cls(estimator.spectra_).plot(axis=axis, ax=ax)

    def plot(self, *, axis: str = "time", ax: Axes | None = None) -> SpectrumDisplay:
        """Draw the spectra on one axis.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}, default="time"
            The axis of the Grams.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        SpectrumDisplay
            Itself.

        Raises
        ------
        ValueError
            If there are no eigenvalues on that axis.

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
        chosen = self.spectra[self.spectra["axis"] == axis]
        if not len(chosen):
            known = ", ".join(map(repr, self.spectra["axis"].unique()))
            raise ValueError(f"there are no eigenvalues on axis={axis!r}, but on {known}.")
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        for name, style in OPERATOR_STYLE.items():
            rows = chosen[(chosen["operator"] == name) & (chosen["share"] > _SMALLEST_SHARE)]
            if len(rows):
                self.ax_.plot(rows["index"], rows["share"], markersize=4, **style)
        self.ax_.set_yscale("log")
        plain_log_scale(self.ax_, "x")
        on = "whole space" if axis == "all" else f"{axis} axis"
        self.ax_.set_xlabel(f"eigenvalue number, {on}")
        self.ax_.set_ylabel("share of the trace")
        self.ax_.spines[["top", "right"]].set_visible(False)
        self.ax_.legend(frameon=False)
        return self


class LyapunovDisplay:
    """The Lyapunov exponents of a network on its trials, with 95% intervals over trials.

    Parameters
    ----------
    exponents, std_error : ndarray of shape (n,)
        As of a fitted `KPFlowAnalyzer`, per unit of time.
    kaplan_yorke_dimension : float, optional
        For the label.

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

    def __init__(
        self,
        exponents: np.ndarray,
        std_error: np.ndarray,
        kaplan_yorke_dimension: float | None = None,
    ) -> None:
        self.exponents = exponents
        self.std_error = std_error
        self.kaplan_yorke_dimension = kaplan_yorke_dimension

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None) -> LyapunovDisplay:
        """Draw a fitted analyzer's exponents at the last snapshot.

        Parameters
        ----------
        estimator : KPFlowAnalyzer
            Fitted.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        LyapunovDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If there are no exponents: trials of a single step have none.

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
        check_is_fitted(estimator, "lyapunov_exponents_")
        return cls(
            estimator.lyapunov_exponents_,
            estimator.lyapunov_std_error_,
            estimator.kaplan_yorke_dimension_,
        ).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> LyapunovDisplay:
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
            If there are none: trials of a single step have no exponents.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import LyapunovDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> exponents, error = analyzer.lyapunov_exponents_, analyzer.lyapunov_std_error_
        >>> LyapunovDisplay(exponents, error).plot().ax_.get_ylabel()
        'Lyapunov exponent per unit of time'
        """
        values, error = np.asarray(self.exponents), 1.96 * np.asarray(self.std_error)
        finite = np.isfinite(values)
        if not finite.any():
            raise ValueError("there are no finite exponents to draw (trials need two steps).")
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        index = np.arange(1, len(values) + 1)[finite]
        label = None
        if self.kaplan_yorke_dimension is not None:
            label = f"Kaplan\N{EN DASH}Yorke dimension {self.kaplan_yorke_dimension:.3g}"
        bars = np.nan_to_num(error[finite])
        self.ax_.errorbar(
            index, values[finite], bars, color="#0072B2", marker="o", markersize=3, label=label
        )
        self.ax_.axhline(0, color="0.6", linewidth=0.8)
        self.ax_.set_xlabel("exponent number")
        self.ax_.set_ylabel("Lyapunov exponent per unit of time")
        self.ax_.spines[["top", "right"]].set_visible(False)
        if label:
            self.ax_.legend(frameon=False)
        return self
