"""The base of all three analyzers: fit the trainer, and keep its results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import CallbackSupportMixin, FitTask
from kpflow_sklearn._common.estimators import Estimator, undone_if_it_fails


class Analyzer(ClassNamePrefixFeaturesOutMixin, CallbackSupportMixin, TransformerMixin, Estimator):
    """Base of the analyzers, which fit a trainer and then analyse each of its snapshots.

    A subclass stores ``trainer`` and ``verbose``, and defines ``fit``, ``transform``,
    ``_n_features_out``, `_as_trainer` and `_check_inputs`.

    Attributes
    ----------
    trainer_, network_, snapshots_, loss_curve_, n_iter_ : object
        The fitted trainer and its results.
    classes_ : ndarray of shape (n_classes,)
        Class labels. The attribute exists only for classification.
    """

    trainer: Any
    verbose: bool | int
    n_features_in_: int

    #: Turns the parameter ``trainer`` into an unfitted trainer (see `training.as_trainer`).
    _as_trainer: Callable[..., Any]

    def _check_inputs(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> np.ndarray:
        """Return X as an array, checked as `fit` (``reset=True``) or the other methods do."""
        raise NotImplementedError

    @undone_if_it_fails
    def _fit_trainer(
        self, X: ArrayLike, y: ArrayLike | None, seed: int, task: FitTask, **options: Any
    ) -> None:
        """Fit a copy of the trainer as one part of ``task``, and store its results.

        The fitted trainer is kept even if the analysis fails later: training may take long.
        """
        self._check_inputs(X, reset=True)
        trainer = self._as_trainer(self.trainer, random_state=seed, verbose=self.verbose)
        # A frozen trainer accepts neither a mask nor a loss_weight, not even None.
        given = {name: value for name, value in options.items() if value is not None}
        training = task.part("training")
        with training.handed_to(trainer), training:
            trainer.fit(X, y, **given)
        if trainer.n_features_in_ != self.n_features_in_:
            raise ValueError(
                f"X has {self.n_features_in_} features, but the frozen trainer is expecting "
                f"{trainer.n_features_in_} features as input."
            )
        self._forget_fit()
        self.trainer_ = trainer
        self.network_, self.snapshots_ = trainer.network_, trainer.snapshots_
        self.loss_curve_, self.n_iter_ = trainer.loss_curve_, trainer.n_iter_
        if hasattr(trainer, "classes_"):
            self.classes_ = trainer.classes_

    def _trainer_for(self, X: ArrayLike, mask: ArrayLike | None = None) -> Any:
        """Check that X suits this analyzer, and return the fitted trainer."""
        check_is_fitted(self, "trainer_")
        self._check_inputs(X, mask)
        return self.trainer_
