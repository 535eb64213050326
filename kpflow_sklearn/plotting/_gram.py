"""Training of a feed-forward network: loss, shares of the layers, and decay of the modes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from kpflow_sklearn._common.checks import check_choice
from kpflow_sklearn.plotting._display import Display
from kpflow_sklearn.plotting._style import LAYER_COLORS, iteration_axis, new_axes, plain_log_scale
from kpflow_sklearn.results import select

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = ("loss", "layers", "modes")
_SHOWN_INTERVALS = 3
#: Modes with a smaller share of the loss are not drawn: rounding and other modes move them.
_LEAST_SHARE = 1e-4


class GramDisplay(Display):
    """The training of a feed-forward network in up to three panels: loss, layers and modes.

    Parameters
    ----------
    results, layer_table, mode_table : DataFrame
        ``results_``, ``layer_table_`` and ``mode_table_`` of a fitted `GramFlowAnalyzer`.
    loss_curve : ndarray of shape (n_iter,)
        Loss before each update; empty if unknown.
    predicted_loss_curve : ndarray of shape (n_iter,), optional
        Predicted loss before each update.
    prediction : str, default=""
        How the loss was predicted, for the legend.

    Attributes
    ----------
    ax_ : Axes or ndarray of Axes of shape (3,)
        The axes of the figure.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
    >>> from kpflow_sklearn.plotting import GramDisplay
    >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
    >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
    >>> analyzer = GramFlowAnalyzer(trainer, random_state=0).fit(X, X[:, 0] ** 2)
    >>> GramDisplay.from_estimator(analyzer, panel="loss").ax_.get_ylabel()
    'loss'
    """

    def __init__(
        self,
        results: pd.DataFrame,
        layer_table: pd.DataFrame,
        mode_table: pd.DataFrame,
        *,
        loss_curve: np.ndarray,
        predicted_loss_curve: np.ndarray | None = None,
        prediction: str = "",
    ) -> None:
        self.results = results
        self.layer_table = layer_table
        self.mode_table = mode_table
        self.loss_curve = loss_curve
        self.predicted_loss_curve = predicted_loss_curve
        self.prediction = prediction

    _fitted = "results_"

    @classmethod
    def _of(cls, estimator: Any) -> Self:
        return cls(
            estimator.results_,
            estimator.layer_table_,
            estimator.mode_table_,
            loss_curve=estimator.loss_curve_,
            predicted_loss_curve=estimator.predicted_loss_curve_,
            prediction=estimator.prediction_,
        )

    def plot(self, *, panel: str | None = None, quantity: str = "decay", ax: Any = None) -> Self:
        """Draw one panel or all three.

        Parameters
        ----------
        panel : {"loss", "layers", "modes"}, optional
            The panel to draw; by default all three, side by side.
        quantity : {"decay", "trace"}, default="decay"
            The quantity whose shares are drawn for the layers: the rate at which each layer
            lowers the loss, or tr K.
        ax : Axes, or sequence of three Axes for all panels, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        GramDisplay
            This display.

        Raises
        ------
        ValueError
            If panel or quantity is unknown, or all panels are drawn and ``ax`` is not three axes.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> from kpflow_sklearn.plotting import GramDisplay
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, random_state=0).fit(X, X[:, 0] ** 2)
        >>> display = GramDisplay.from_estimator(analyzer)
        >>> display.plot(panel="layers", quantity="trace").ax_.get_ylabel()
        'share of tr K'
        """
        check_choice(quantity, "quantity", ("decay", "trace"))
        self.ax_: Any
        if panel is not None:
            check_choice(panel, "panel", PANELS)
            self._draw(panel, self._start(ax), quantity)
            return self
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")[1]
        self.ax_ = np.asarray(ax, dtype=object).ravel()
        if len(self.ax_) != len(PANELS):
            raise ValueError(f"ax must hold {len(PANELS)} axes for all panels, got {ax!r}.")
        self.figure_ = new_axes(self.ax_[0]).figure
        for name, axes in zip(PANELS, self.ax_, strict=True):
            axes.spines[["top", "right"]].set_visible(False)
            self._draw(name, axes, quantity)
        return self

    def _draw(self, panel: str, ax: Axes, quantity: str) -> None:
        if panel == "loss":
            self._draw_loss(ax)
        elif panel == "layers":
            self._draw_layers(ax, quantity)
        else:
            self._draw_modes(ax)

    def _draw_loss(self, ax: Axes) -> None:
        at_snapshots = select(self.results, "network", "loss")["value"].dropna()
        updates = np.arange(len(self.loss_curve))
        if len(updates):
            ax.plot(updates, self.loss_curve, color="black", label="training")
        ax.plot(
            at_snapshots.index, at_snapshots, "o", color="black", markersize=4, label="snapshots"
        )
        if (at_snapshots > 0).all():
            plain_log_scale(ax)
        if self.predicted_loss_curve is not None:
            # Keep the limits of the measured loss; a diverging prediction would dwarf it.
            ax.set_ylim(ax.get_ylim())
            label = textwrap.fill(f"predicted: {self.prediction}", 45)
            ax.plot(
                updates, self.predicted_loss_curve, "--", color="#D55E00", linewidth=2, label=label
            )
        ax.set_ylabel("loss")
        iteration_axis(ax, max([len(updates), *at_snapshots.index]))
        ax.legend(framealpha=0.8, fontsize="small")

    def _draw_layers(self, ax: Axes, quantity: str) -> None:
        shares: Any = self.layer_table[f"{quantity}_share"].unstack("layer")
        names = [str(name) for name in self.layer_table.index.unique("layer")]
        colors = [LAYER_COLORS[k % len(LAYER_COLORS)] for k in range(len(names))]
        labels = [name if name == "readout" else f"layer {name}" for name in names]
        if len(shares) == 1:  # A single snapshot is drawn as bars.
            bottom = 0.0
            for name, color, label in zip(names, colors, labels, strict=True):
                ax.bar([0], shares[name], bottom=bottom, color=color, label=label)
                bottom += float(shares[name].iloc[0])
            ax.set_xticks([0], [f"iteration {shares.index[0]}"])
        else:
            columns = [shares[name].to_numpy() for name in names]
            ax.stackplot(shares.index, *columns, colors=colors, labels=labels, edgecolor="white")
            iteration_axis(ax, int(shares.index.max()))
            ax.set_xlim(0, int(shares.index.max()))
        ax.set_ylim(0, 1)
        what = {"decay": "decay of the loss", "trace": "tr K"}[quantity]
        ax.set_ylabel(f"share of {what}")
        ax.legend(loc="lower left")

    def _draw_modes(self, ax: Axes) -> None:
        table = self.mode_table[self.mode_table["next_iteration"].notna()]
        table = table[table["loss_share"] > _LEAST_SHARE]
        starts = table["iteration"].unique()[:_SHOWN_INTERVALS]
        ax.axhline(0, color="0.8", linewidth=1, zorder=0)
        shown = table[table["iteration"].isin(starts)]
        left = shown["next_amplitude"] / shown["amplitude"]
        predicted = (shown["predicted_amplitude"] / shown["amplitude"]).dropna()
        # Keep the limits of the measured modes; a predicted growth would dwarf them.
        lowest, highest = min(0.0, left.min()), max(0.0, left.max())
        margin = 0.1 * (highest - lowest or 1.0)
        if len(starts):
            ax.set_ylim(lowest - margin, highest + margin)
        for color, start in zip(LAYER_COLORS, starts, strict=False):
            modes = shown[shown["iteration"] == start].sort_values("eigenvalue")
            label = f"iteration {start} to {modes['next_iteration'].iloc[0]}"
            x = modes["eigenvalue"]
            ax.plot(x, left[modes.index], "o", color=color, markersize=5, label=label)
            dashes = predicted.reindex(modes.index)
            if dashes.notna().any():
                ax.plot(x, dashes, "_", color=color, markersize=14)
        if len(starts):
            plain_log_scale(ax, "x")
            title = "dots: measured"
            if len(predicted):
                beyond = not predicted.between(lowest - margin, highest + margin).all()
                title += ", dashes: predicted" + (" (some out of range)" if beyond else "")
            ax.legend(framealpha=0.8, title=title)
        else:
            ax.text(0.5, 0.5, "no mode was measured at two snapshots", ha="center")
        ax.set_xlabel("eigenvalue of K")
        ax.set_ylabel("remaining fraction of the mode")
