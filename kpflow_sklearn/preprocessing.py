"""Transformers of trials for pipelines: scale the features, or turn each trial into a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import OneToOneFeatureMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from kpflow_sklearn._common.checks import check_choice, check_flag, last_valid_step
from kpflow_sklearn._common.estimators import SequenceTransformer, undone_if_it_fails

__all__ = ["SequenceScaler", "SequenceVectorizer"]


class SequenceScaler(OneToOneFeatureMixin, SequenceTransformer, auto_wrap_output_keys=None):
    """Standardise each feature over trials and steps.

    Equation: x_btf -> (x_btf - mean_f) / std_f, where the mean and the standard deviation are
    taken over all valid (b, t) by scikit-learn's ``StandardScaler``.

    Parameters
    ----------
    with_mean : bool, default=True
        Whether to subtract the mean.
    with_std : bool, default=True
        Whether to divide by the standard deviation. Features with standard deviation zero are
        divided by 1.

    Attributes
    ----------
    mean_, scale_ : ndarray of shape (n_features,), or None
        The mean that is subtracted from each feature, and the scale by which it is divided.
    n_features_in_ : int
        Size of the last axis of X.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn.preprocessing import SequenceScaler
    >>> X = np.arange(12.0).reshape(2, 3, 2)
    >>> SequenceScaler().fit_transform(X).std(axis=(0, 1)).round(6)
    array([1., 1.])
    """

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    @undone_if_it_fails
    def fit(self, X: ArrayLike, y: Any = None, *, mask: ArrayLike | None = None) -> SequenceScaler:
        """Compute the mean and the standard deviation of each feature.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials. A 2-D X is read as trials of one step.
        y : Ignored
            Present for API consistency.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps. Other steps are ignored.

        Returns
        -------
        SequenceScaler
            The fitted scaler.

        Raises
        ------
        ValueError
            If X or mask has the wrong shape or X contains NaN or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceScaler
        >>> X = np.arange(12.0).reshape(2, 3, 2)
        >>> SequenceScaler().fit(X).mean_
        array([5., 6.])
        """
        check_flag(self.with_mean, "with_mean")
        check_flag(self.with_std, "with_std")
        trials, valid, _ = self._check_trials(X, mask, reset=True)
        self._remember_padding(valid)
        rows = trials.reshape(-1, trials.shape[-1]) if valid is None else trials[valid]
        scaler = StandardScaler(with_mean=self.with_mean, with_std=self.with_std)
        with np.errstate(over="ignore", invalid="ignore"):
            self._scaler = scaler.set_output(transform="default").fit(rows)
        # The variance is checked because scale_ is 1 where it is infinite.
        moments = [m for m in (self._scaler.mean_, self._scaler.var_) if m is not None]
        if not np.isfinite(moments).all():
            raise ValueError(
                f"X is too large for its mean and variance in {rows.dtype}, got values up to "
                f"{abs(rows).max():.3g}. Scale X down."
            )
        self.mean_ = self._scaler.mean_ if self.with_mean else None
        self.scale_ = self._scaler.scale_
        return self

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Scale trials.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials. A 2-D X is read as trials of one step.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.

        Returns
        -------
        ndarray of the shape of X
            Scaled trials, zero at invalid steps.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X or mask has the wrong shape, X contains NaN or infinity, or the number of features
            differs from that in `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceScaler
        >>> X = np.arange(12.0).reshape(2, 3, 2)
        >>> SequenceScaler(with_std=False).fit(X).transform(X)[0, 0]
        array([-5., -5.])
        """
        return self._map(X, mask, "transform")

    def inverse_transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Undo `transform`.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Scaled trials.
        mask : array-like of bool, optional
            Valid steps.

        Returns
        -------
        ndarray of the shape of X
            Trials in the units of the X given to `fit`, zero at invalid steps.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X or mask has the wrong shape, X contains NaN or infinity, or the number of features
            differs from that in `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceScaler
        >>> X = np.arange(12.0).reshape(2, 3, 2)
        >>> scaler = SequenceScaler().fit(X)
        >>> bool(np.allclose(scaler.inverse_transform(scaler.transform(X)), X))
        True
        """
        return self._map(X, mask, "inverse_transform")

    def _map(self, X: ArrayLike, mask: ArrayLike | None, method: str) -> np.ndarray:
        check_is_fitted(self, "scale_")
        trials, valid, single_step = self._check_trials(X, mask, reset=False)
        self._warn_if_padded(trials, valid)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = getattr(self._scaler, method)(trials.reshape(-1, trials.shape[-1]))
        out = rows.reshape(trials.shape)
        if valid is not None:
            out[~valid] = 0
        if not np.isfinite(out).all():
            raise ValueError(
                f"X is too large for {method} in {out.dtype}, got values up to "
                f"{abs(trials).max():.3g}."
            )
        return out[:, 0] if single_step else out

    def set_output(self, *, transform: str | None = None) -> SequenceScaler:
        """Return the scaler unchanged, because trials have three axes and cannot become tables.

        A pipeline that contains the scaler can still be set to return tables.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, optional
            Ignored.

        Returns
        -------
        SequenceScaler
            The scaler.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceScaler
        >>> type(SequenceScaler().set_output(transform="pandas").fit_transform(np.ones((2, 3, 1))))
        <class 'numpy.ndarray'>
        """
        return self


class SequenceVectorizer(SequenceTransformer):
    """Turn each trial into a row: all its steps, its last valid step, or the mean over its steps.

    Parameters
    ----------
    pooling : {"flatten", "last", "mean"}, default="flatten"
        How to combine the steps of a trial: concatenate all steps, keep the last valid step, or
        take the mean over valid steps.

    Attributes
    ----------
    n_features_in_ : int
        Size of the last axis of X.
    n_timesteps_ : int
        Number of steps in `fit`.

    Examples
    --------
    >>> import numpy as np
    >>> from kpflow_sklearn.preprocessing import SequenceVectorizer
    >>> vectorizer = SequenceVectorizer().fit(np.zeros((4, 2, 3)))
    >>> vectorizer.get_feature_names_out().tolist()
    ['x0_t0', 'x1_t0', 'x2_t0', 'x0_t1', 'x1_t1', 'x2_t1']
    """

    def __init__(self, *, pooling: str = "flatten") -> None:
        self.pooling = pooling

    @undone_if_it_fails
    def fit(
        self, X: ArrayLike, y: Any = None, *, mask: ArrayLike | None = None
    ) -> SequenceVectorizer:
        """Store the numbers of features and steps.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials. A 2-D X is read as trials of one step.
        y : Ignored
            Present for API consistency.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.

        Returns
        -------
        SequenceVectorizer
            The fitted vectorizer.

        Raises
        ------
        ValueError
            If ``pooling`` is not one of its choices, X or mask has the wrong shape, or X contains
            NaN or infinity.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceVectorizer
        >>> X = np.arange(12.0).reshape(2, 3, 2)
        >>> SequenceVectorizer().fit(X).n_timesteps_
        3
        """
        check_choice(self.pooling, "pooling", POOLINGS)
        trials, valid, _ = self._check_trials(X, mask, reset=True)
        self._remember_padding(valid)
        self.n_timesteps_ = trials.shape[1]
        return self

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return one row per trial.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials. For ``pooling="flatten"``, they must have as many steps as in `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.

        Returns
        -------
        ndarray of shape (n_trials, n_features) or (n_trials, n_timesteps * n_features)
            One row per trial. With ``pooling="flatten"``, invalid steps are zero.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X or mask is invalid, or, with ``pooling="flatten"``, the number of steps differs
            from that in `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceVectorizer
        >>> X = np.arange(12.0).reshape(2, 3, 2)
        >>> SequenceVectorizer(pooling="last").fit(X).transform(X)
        array([[ 4.,  5.],
               [10., 11.]])
        """
        check_is_fitted(self, "n_timesteps_")
        trials, valid, _ = self._check_trials(X, mask, reset=False)
        self._warn_if_padded(trials, valid)
        check_steps(self.pooling, trials, self.n_timesteps_)
        if valid is not None:
            trials = trials * valid[..., None]
        return pooled(trials, valid, self.pooling)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> np.ndarray:
        """Return the names of the columns, for example "x0_t3" for feature 0 at step 3.

        Parameters
        ----------
        input_features : array-like of str, optional
            Names of the features. The default is those seen in `fit`, or x0, x1, ...

        Returns
        -------
        ndarray of str
            One name per column.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the number of names differs from the number of features.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceVectorizer
        >>> X = np.arange(12.0).reshape(2, 3, 2)
        >>> SequenceVectorizer(pooling="mean").fit(X).get_feature_names_out().tolist()
        ['x0_mean', 'x1_mean']
        """
        check_is_fitted(self, "n_timesteps_")
        names = _check_feature_names_in(self, input_features)
        if self.pooling != "flatten":
            return np.array([f"{name}_{self.pooling}" for name in names], dtype=object)
        steps = range(self.n_timesteps_)
        return np.array([f"{name}_t{t}" for t in steps for name in names], dtype=object)


POOLINGS = ("last", "mean", "flatten")


def check_steps(pooling: str, trials: np.ndarray, n_timesteps: int) -> None:
    """Check that trials whose steps are concatenated have as many steps as on fit."""
    if pooling == "flatten" and trials.shape[1] != n_timesteps:
        raise ValueError(
            f"pooling='flatten' needs X with {n_timesteps} steps as on fit, got {trials.shape[1]}."
        )


def pooled(values: np.ndarray, valid: np.ndarray | None, pooling: str) -> np.ndarray:
    """Combine the steps of each trial into one row.

    Parameters
    ----------
    values : ndarray of shape (n_trials, n_timesteps, n)
        Values, zero at invalid steps.
    valid : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps.
    pooling : {"last", "mean", "flatten"}
        The last valid step, the mean over valid steps, or all steps side by side.

    Returns
    -------
    ndarray of shape (n_trials, n) or (n_trials, n_timesteps * n)
        One row per trial.
    """
    if pooling == "last":
        return values[np.arange(len(values)), last_valid_step(valid, values)]
    if pooling == "mean":
        n_valid = values.shape[1] if valid is None else valid.sum(1)[:, None, None]
        return (values / np.asarray(n_valid, values.dtype)).sum(1)  # The sum alone may overflow.
    return values.reshape(len(values), -1)
