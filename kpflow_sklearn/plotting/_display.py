"""What all displays share: how they come from estimators, and where they draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn.plotting._runs import RUN_NUMBER, number_runs
from kpflow_sklearn.plotting._style import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN = "run"


class Display:
    """A figure of a fitted estimator.

    Attributes
    ----------
    ax_ : Axes
        Where the figure was drawn.
    figure_ : Figure
        The figure.
    """

    _fitted: str  # The attribute that tells whether an estimator has what is drawn.

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        """Return the display of a fitted estimator, not yet drawn."""
        raise NotImplementedError

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **options: Any) -> Self:
        """Draw what a fitted estimator found.

        Parameters
        ----------
        estimator : estimator
            Fitted.
        ax : Axes, optional
            Where to draw; default a new figure.
        **options
            As `plot` takes them.

        Returns
        -------
        Display
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it holds nothing of what is to be drawn, as said of `plot`.

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
        check_is_fitted(estimator, cls._fitted)
        return cls._of(estimator).plot(ax=ax, **options)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw; every subclass defines it."""
        raise NotImplementedError

    def _start(self, ax: Axes | None) -> Axes:
        """Set ``ax_``, ``ax`` or that of a new figure, and ``figure_``."""
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        self.ax_.spines[["top", "right"]].set_visible(False)
        return self.ax_


class TableDisplay(Display):
    """A figure of a tidy table, of one run or, told apart by ``hue``, of several.

    Parameters
    ----------
    table : DataFrame
        One row a number. Any column that a single run's table does not have tells runs apart.
    hue : str, optional
        The column of the table whose values get a colour each. What remains of a colour, runs of
        other seeds say, is drawn as median and range where all of them have a number.
    """

    _columns: Collection[str]  # Of the table of a single run.

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
            Fitted, by the name of each colour; several of a name, of different seeds say, are
            drawn as their median and range at the iterations (or numbers) they all have.
        hue : str, default="run"
            What the names are, for the legend.
        ax : Axes, optional
            Where to draw; default a new figure.
        **options
            As `plot` takes them.

        Returns
        -------
        Display
            The display, drawn.

        Raises
        ------
        NotFittedError
            If one of them is not fitted.
        ValueError
            If ``runs`` is no mapping, or empty, or several of a name have no iteration in common.

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
        for name, found in runs.items():
            for estimator in found if isinstance(found, Sequence) else [found]:
                check_is_fitted(estimator, cls._fitted)
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

    def _check_alike(self, others: Sequence[Self]) -> None:
        """Refuse runs whose numbers do not mean the same."""
