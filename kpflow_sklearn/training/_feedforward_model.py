"""What every source of a trained feed-forward network can do: predict, score, give its states."""

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
from kpflow_sklearn._common.estimators import NetworkSource
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.feedforward import FeedForwardNetwork
from kpflow_sklearn.training._loop import Snapshot


def check_table(estimator: Any, X: ArrayLike, *, reset: bool) -> np.ndarray:
    """Return X as a float array (n_samples, n_features); float32 stays, all other is float64."""
    return validated(estimator, X, reset=reset, dtype=[np.float64, np.float32], order="C")


def check_values(y: ArrayLike | None, X: np.ndarray, n_outputs: int | None = None) -> np.ndarray:
    """Return y as floats (n_samples, n_outputs), finite and as many as X has rows."""
    if y is None:
        raise ValueError(
            "fit requires y to be passed, but the target y is None. "
            "Give y of shape (n_samples,) or (n_samples, n_outputs)."
        )
    values = as_array(y, "y")
    if values.dtype.kind not in "fiubO":
        raise ValueError(
            f"y must hold real numbers for the quadratic loss, got dtype {values.dtype}; encode "
            "labels as one column a class."
        )
    try:
        values = check_numbers(values, "y", dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y must hold finite real numbers: {error}") from error
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
    """What a fit used, whatever becomes of the estimator's parameters and the arrays afterwards.

    Attributes
    ----------
    optimizer : str or callable
        As it was given.
    learning_rate : float
        Step size.
    batch_size : int or None
        Samples of one update; None for all, also where a batch could have held more.
    digest : str
        `values_digest` of X and y.
    """

    optimizer: Any
    learning_rate: float
    batch_size: int | None
    digest: str


class FeedForwardModel(RegressorMixin, NetworkSource):
    """Base of the sources of a feed-forward network: its network and its history.

    Attributes
    ----------
    network_ : FeedForwardNetwork
        The network, in the state of the last iteration.
    snapshots_ : list of Snapshot
        Its earlier states, by iteration.
    """

    network_: FeedForwardNetwork
    snapshots_: list[Snapshot]
    n_features_in_: int
    _y_is_column: bool
    _record: TrainingRecord | None = None

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: several outputs are taken, and y is needed."""
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
            f, in the form of the y given to `fit`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X has the wrong shape, holds NaN or infinity, or has other features than on fit.

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
            pieces = [self.network_(rows) for rows in inputs.split(4096)]
        found = torch.cat(pieces)
        if found.dtype == torch.bfloat16:  # Of which NumPy has no such type.
            found = found.float()
        if not found.isfinite().all():
            raise ValueError(
                f"X drives the network's outputs beyond what {found.dtype} holds, got values up "
                f"to {float(inputs.abs().max()):.3g}; scale X down."
            )
        outputs = found.numpy()
        return outputs if self._y_is_column else outputs[:, 0]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return R^2, averaged over outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights.

        Returns
        -------
        float
            The score; 1 is best.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y do not fit the network, or are too large for their squares.

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
        outputs = self.predict(X)
        check_squares(values, outputs)
        return float(r2_score(values, outputs, sample_weight=sample_weight))
