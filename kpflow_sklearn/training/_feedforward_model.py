"""The base of the estimators with a trained feed-forward network: predict and score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.arrays import as_array, check_numbers, check_squares, validated
from kpflow_sklearn._common.checks import check_sample_weight
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.feedforward import FeedForwardNetwork
from kpflow_sklearn.training._source import NetworkSource


def check_table(estimator: Any, X: ArrayLike, *, reset: bool) -> np.ndarray:
    """Return X (n_samples, n_features) as float32 if it has that dtype, else as float64."""
    return validated(estimator, X, reset=reset, dtype=[np.float64, np.float32], order="C")


def check_values(y: ArrayLike | None, X: np.ndarray, n_outputs: int | None = None) -> np.ndarray:
    """Return y as finite floats (n_samples, n_outputs), with one row per row of X."""
    if y is None:
        raise ValueError(
            "fit requires y to be passed, but the target y is None. "
            "Give y of shape (n_samples,) or (n_samples, n_outputs)."
        )
    values = as_array(y, "y")
    if values.dtype.kind not in "fiubO":
        raise ValueError(
            f"y must contain real numbers for the quadratic loss, got dtype {values.dtype}; "
            "encode labels as one column per class."
        )
    try:
        values = check_numbers(values, "y", dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y must contain finite real numbers: {error}") from error
    if values.ndim not in (1, 2):
        raise ValueError(
            f"y must have shape (n_samples,) or (n_samples, n_outputs), got {values.shape}."
        )
    if len(values) != len(X):
        raise ValueError(
            f"y has {len(values)} samples and X has {len(X)}: Found input variables with "
            f"inconsistent numbers of samples: [{len(X)}, {len(values)}]."
        )
    values = values.reshape(len(values), -1)
    if n_outputs is not None and values.shape[1] != n_outputs:
        raise ValueError(f"y must have {n_outputs} output(s), got {values.shape[1]}.")
    return values


@dataclass(frozen=True)
class TrainingRecord:
    """The settings and data of a fit, even if parameters or arrays are changed afterwards.

    Attributes
    ----------
    optimizer : str or callable
        The parameter of the trainer.
    learning_rate : float
        Step size.
    batch_size : int or None
        Samples per update; None for all of them, even if a larger size was given.
    digest : str
        `values_digest` of X and y.
    """

    optimizer: Any
    learning_rate: float
    batch_size: int | None
    digest: str


class FeedForwardModel(RegressorMixin, NetworkSource):
    """Base of the estimators with a feed-forward network: the network and its history.

    Attributes
    ----------
    network_ : FeedForwardNetwork
        The network in the state of the last iteration.
    """

    network_: FeedForwardNetwork
    n_features_in_: int
    _y_is_column: bool
    _record: TrainingRecord | None = None

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: y is required and may have several outputs."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.required = True
        tags.non_deterministic = False
        return tags

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The outputs f(X), in the form of the y given to `fit`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X has the wrong shape, contains NaN or infinity, or has other features than in
            `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> trainer = FeedForwardTrainer((4,), max_iter=2, random_state=0).fit(X, X[:, 0] ** 2)
        >>> trainer.predict(X).shape
        (6,)
        """
        check_is_fitted(self, "network_")
        inputs = as_tensor(check_table(self, X, reset=False), self.network_.dtype)
        with torch.no_grad():
            outputs = torch.cat([self.network_(rows) for rows in inputs.split(4096)])
        if outputs.dtype == torch.bfloat16:  # NumPy has no such type.
            outputs = outputs.float()
        if not outputs.isfinite().all():
            raise ValueError(
                f"X drives the network's outputs beyond the range of {outputs.dtype}, got values "
                f"up to {float(inputs.abs().max()):.3g}; scale X down."
            )
        return outputs.numpy() if self._y_is_column else outputs[:, 0].numpy()

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return R^2, averaged over outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights >= 0 of the samples, not all zero; 1 by default.

        Returns
        -------
        float
            The score; 1 is best.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y does not fit the network, if sample_weight has another shape, is negative
            or zero throughout, or if squares of y or the outputs overflow.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((8,), max_iter=100, random_state=0).fit(X, y)
        >>> 0 < trainer.score(X, y) < 1
        True
        """
        check_is_fitted(self, "network_")
        values = check_values(y, check_table(self, X, reset=False), self.network_.n_outputs)
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, len(values))
        outputs = self.predict(X)
        check_squares(values, outputs)
        return float(r2_score(values, outputs, sample_weight=sample_weight))
