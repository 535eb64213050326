"""State trajectories in their first principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn.plotting._style import new_axes, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class TrajectoryDisplay:
    """Trials as curves in the plane of the states' first two principal components.

    Parameters
    ----------
    states : ndarray of shape (n_trials, n_timesteps, n_states)
        States.
    mask : array-like of bool, shape (n_trials, n_timesteps), optional
        Valid steps.

    Attributes
    ----------
    projections_ : ndarray of shape (n_trials, n_timesteps, 2)
        The curves drawn.
    explained_variance_ratio_ : ndarray of shape (2,)
        Share of the variance of the valid states on each axis.
    ax_ : Axes
        Where the figure was drawn.
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
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        color_by: ArrayLike | None = None,
        cyclic: bool = False,
        label: str = "",
        ax: Axes | None = None,
    ) -> TrajectoryDisplay:
        """Draw a fitted estimator's state trajectories on trials.

        Parameters
        ----------
        estimator : KPFlowAnalyzer or RecurrentTrainer
            Fitted.
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.
        color_by : array-like of shape (n_trials,), optional
            A number a trial (the stimulus, say), or a name (the sub-task).
        cyclic : bool, default=False
            Whether these numbers are angles in radians.
        label : str, default=""
            What they are.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        TrajectoryDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not fit the estimator, or ``color_by`` is not one number a trial.

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
        display = cls(estimator.trajectories(X, mask=mask), mask)
        return display.plot(color_by=color_by, cyclic=cyclic, label=label, ax=ax)

    def plot(
        self,
        *,
        color_by: ArrayLike | None = None,
        cyclic: bool = False,
        label: str = "",
        ax: Axes | None = None,
    ) -> TrajectoryDisplay:
        """Draw the trajectories.

        Parameters
        ----------
        color_by : array-like of shape (n_trials,), optional
            A number a trial (the stimulus, say).
        cyclic : bool, default=False
            Whether these numbers are angles in radians.
        label : str, default=""
            What they are.
        ax : Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        TrajectoryDisplay
            Itself.

        Raises
        ------
        ValueError
            If ``color_by`` is not one number a trial.

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
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        self._project()
        self.ax_ = new_axes(ax)
        self.figure_ = self.ax_.figure
        n_trials = len(self.states)
        names, numbers = _numbered(np.zeros(n_trials) if color_by is None else color_by)
        if numbers.shape != (n_trials,):
            raise ValueError(
                f"color_by must hold one number a trial, shape ({n_trials},), got {numbers.shape}."
            )
        low, high = (0, 2 * np.pi) if cyclic else (numbers.min(), numbers.max() + 1e-12)
        mapping = ScalarMappable(Normalize(low, high), _colormap(cyclic))
        valid = (
            np.ones(self.states.shape[:2], bool) if self.mask is None else np.asarray(self.mask)
        )
        for curve, number, steps in zip(self.projections_, numbers, valid, strict=True):
            path = curve[steps.astype(bool)]
            color = mapping.to_rgba(number % (2 * np.pi) if cyclic else number)
            self.ax_.plot(*path.T, color=color, linewidth=1)
            self.ax_.plot(*path[-1], "o", color=color, markersize=4)
        shares = self.explained_variance_ratio_
        self.ax_.set_xlabel(f"PC 1 of states ({shares[0]:.0%} of variance)")
        self.ax_.set_ylabel(f"PC 2 of states ({shares[1]:.0%})")
        self.ax_.spines[["top", "right"]].set_visible(False)
        if color_by is not None:
            bar = self.figure_.colorbar(mapping, ax=self.ax_, label=label)
            if names is not None:  # A dollar sign in them is no mathematics.
                bar.set_ticks(range(len(names)), labels=names, parse_math=False)
            elif cyclic:
                bar.set_ticks([0, np.pi, 2 * np.pi], labels=["0", "π", "2π"])
        return self

    def _project(self) -> None:
        """Fit the plane on the valid states; a single unit gets an empty second axis."""
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


def _numbered(color_by: ArrayLike) -> tuple[list[str] | None, np.ndarray]:
    """Return numbers to colour by and, where names were given, the name of each."""
    values = np.asarray(color_by)
    if values.dtype.kind in "iufb":
        return None, values.astype(float)
    names, codes = np.unique(values.astype(str), return_inverse=True)
    return [short_name(name) for name in names], codes.reshape(values.shape).astype(float)


def _colormap(cyclic: bool) -> Any:
    """Return a perceptually uniform colormap whose lightest colours still show on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colors = colormaps["twilight" if cyclic else "viridis"](np.linspace(0, 1, 256))
    return ListedColormap(colors * [0.82, 0.82, 0.82, 1.0])
