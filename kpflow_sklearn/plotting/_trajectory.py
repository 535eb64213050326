"""State trajectories in the plane of their first two principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.checks import check_flag, check_word
from kpflow_sklearn.plotting._coloring import Coloring
from kpflow_sklearn.plotting._display import Display

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: Number of trials in figures of the report and the command; more curves would hide each other.
N_DRAWN = 64


class TrajectoryDisplay(Display):
    """Trials as curves in the plane of the first two principal components of the states.

    Parameters
    ----------
    states : ndarray of shape (n_trials, n_timesteps, n_states)
        States of the network.
    mask : array-like of bool, shape (n_trials, n_timesteps), optional
        Valid steps.

    Attributes
    ----------
    projections_ : ndarray of shape (n_trials, n_timesteps, 2)
        The curves drawn.
    explained_variance_ratio_ : ndarray of shape (2,)
        Fraction of the variance of the valid states along each axis.
    ax_ : Axes
        The axes of the figure.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> from kpflow_sklearn.plotting import TrajectoryDisplay
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> display = TrajectoryDisplay.from_estimator(analyzer, X)
    >>> display.projections_.shape
    (4, 6, 2)
    """

    def __init__(self, states: np.ndarray, mask: ArrayLike | None = None) -> None:
        self.states = states
        self.mask = mask

    @classmethod
    def from_estimator(  # type: ignore[override]
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        ax: Axes | None = None,
        **options: Any,
    ) -> Self:
        """Draw the state trajectories of a fitted estimator on trials.

        Parameters
        ----------
        estimator : KPFlowAnalyzer or RecurrentTrainer
            A fitted estimator.
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.
        **options
            Further arguments of `plot`.

        Returns
        -------
        TrajectoryDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not fit the estimator, or ``color_by`` does not fit the trials or steps.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import TrajectoryDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> display = TrajectoryDisplay.from_estimator(analyzer, X)
        >>> display.projections_.shape
        (4, 6, 2)
        """
        check_is_fitted(estimator)
        return cls(estimator.trajectories(X, mask=mask), mask).plot(ax=ax, **options)

    def plot(
        self,
        *,
        color_by: ArrayLike | None = None,
        cyclic: bool = False,
        label: str = "",
        ax: Axes | None = None,
    ) -> Self:
        """Draw the trajectories, with a dot at the last valid step of each.

        Parameters
        ----------
        color_by : array-like of shape (n_trials,) or (n_trials, n_timesteps), optional
            Values that are shown as colours, one per trial (for example the stimulus) or one per
            step. Words, and up to 20 different integers, have one colour each; other numbers have
            a continuous scale. By default the colour shows the step.
        cyclic : bool, default=False
            Whether the values are angles in radians.
        label : str, default=""
            Title of the legend or colour bar.
        ax : Axes, optional
            Axes to draw on; by default those of a new figure.

        Returns
        -------
        TrajectoryDisplay
            This display.

        Raises
        ------
        ValueError
            If ``color_by`` does not fit the trials, or is not numbers although ``cyclic`` is True.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> from kpflow_sklearn.plotting import TrajectoryDisplay
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> states = analyzer.trajectories(X)
        >>> len(TrajectoryDisplay(states).plot(color_by=[0, 1, 2, 3]).ax_.lines)
        8
        """
        check_flag(cyclic, "cyclic")
        check_word(label, "label")
        shape = self.states.shape[:2]
        values = np.broadcast_to(np.arange(1, shape[1] + 1.0), shape)
        if color_by is None:
            label = label or "step"
        else:
            values = as_array(color_by, "color_by")
            if values.shape not in (shape[:1], shape):
                raise ValueError(
                    f"color_by must have one value per trial, shape {shape[:1]}, or per step, "
                    f"shape {shape}, got shape {values.shape}."
                )
            if values.dtype.kind in "fc" and not np.isfinite(values).all():
                raise ValueError("color_by must be finite, got NaN or infinity.")
            if cyclic and values.dtype.kind not in "iuf":
                raise ValueError(
                    f"color_by must be angles in radians if cyclic=True, got dtype {values.dtype}."
                )
        self._project()
        self._start(ax)
        valid = np.ones(shape, bool) if self.mask is None else np.asarray(self.mask, dtype=bool)
        of_steps = values.ndim == 2
        coloring = Coloring(values[valid] if of_steps else values, cyclic=cyclic, label=label)
        for curve, value, steps in zip(self.projections_, values, valid, strict=True):
            colors = coloring(value[steps] if of_steps else value)
            self._draw_trial(curve[steps], colors, faint=coloring.categories is not None)
        shares = self.explained_variance_ratio_
        self.ax_.set_xlabel(f"PC 1 of states ({shares[0]:.0%} of variance)")
        self.ax_.set_ylabel(f"PC 2 of states ({shares[1]:.0%})")
        coloring.explain(self.ax_)
        return self

    def _draw_trial(self, path: np.ndarray, colors: np.ndarray, *, faint: bool) -> None:
        """Draw a trial in one colour, or in one per step; ``faint`` then gives dots on a line."""
        if colors.ndim == 1:
            color = tuple(colors)
            self.ax_.plot(*path.T, color=color, linewidth=1)
            self.ax_.plot(*path[-1], "o", color=color, markersize=4)
            return
        from matplotlib.collections import LineCollection

        pieces = np.stack([path[:-1], path[1:]], axis=1)
        lines = LineCollection(list(pieces), colors=colors[1:], linewidths=1)
        if faint:
            lines.set_alpha(0.2)
            self.ax_.scatter(path[:, 0], path[:, 1], c=colors, s=4, linewidths=0, zorder=2)
        self.ax_.add_collection(lines)
        self.ax_.plot(*path[-1], "o", color=colors[-1], markersize=4)
        self.ax_.autoscale_view()

    def _project(self) -> None:
        """Fit the plane on the valid states; for a single unit, the second axis is zero."""
        n_trials, n_timesteps, n_states = self.states.shape
        flat = self.states.reshape(-1, n_states)
        valid = np.ones(len(flat), bool) if self.mask is None else np.asarray(self.mask).ravel()
        used = flat[valid.astype(bool)]
        k = min(2, n_states, len(used))
        self.projections_ = np.zeros((n_trials, n_timesteps, 2))
        self.explained_variance_ratio_ = np.zeros(2)
        if np.ptp(used, axis=0).max() > 0:
            plane = PCA(n_components=k, svd_solver="full").set_output(transform="default")
            plane.fit(used)
            shape = (n_trials, n_timesteps, k)
            self.projections_[..., :k] = plane.transform(flat).reshape(shape)
            self.explained_variance_ratio_[:k] = plane.explained_variance_ratio_
