"""What all recurrent analyzers share: the trainer they fit, and the trained network's answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from kpflow_sklearn._validation import check_estimator_sequences
from kpflow_sklearn.checkpoints import as_trainer
from kpflow_sklearn.network import RecurrentNetwork
from kpflow_sklearn.trials import AnalysisTrials, choose_trials
from kpflow_sklearn.verification import verify_network


class RecurrentAnalyzer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the analyzers of recurrent networks.

    A subclass stores ``trainer``, ``analysis_trials``, ``random_state`` and ``verbose``; its
    ``fit`` calls `_fit_trainer`, chooses trials and goes through `_networks`. It defines
    ``transform`` and ``_n_features_out``.
    """

    trainer: Any
    analysis_trials: int
    verbose: bool | int
    n_features_in_: int

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: single steps (2-D) and sequences (3-D) are both taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.target_tags.required = False
        return tags

    def _fit_trainer(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        seed: int,
        *,
        mask: ArrayLike | None,
        loss_weight: ArrayLike | None,
    ) -> None:
        """Fit a clone of the trainer."""
        trials, _ = check_estimator_sequences(self, X, reset=True, warn=False)
        self.trainer_ = as_trainer(
            self.trainer, clone=clone, random_state=seed, verbose=self.verbose
        )
        # Handed on only where given: a frozen trainer takes no such arguments.
        options = {"mask": mask, "loss_weight": loss_weight}
        self.trainer_.fit(X, y, **{k: v for k, v in options.items() if v is not None})
        if self.trainer_.n_features_in_ != self.n_features_in_:
            raise ValueError(
                f"X has {self.n_features_in_} features, but the frozen trainer is expecting "
                f"{self.trainer_.n_features_in_} features as input."
            )
        self._copy_trainer_attributes()
        self._n_timesteps = trials.shape[1]

    def _choose_trials(
        self, X: ArrayLike, y: ArrayLike | None, seed: int, **options: ArrayLike | None
    ) -> AnalysisTrials:
        """Return the trials to analyse."""
        trials, single_step = check_estimator_sequences(self, X, reset=False, warn=False)
        return choose_trials(
            self.trainer_.encoder_,
            trials,
            y,
            n_trials=self.analysis_trials,
            single_step=single_step,
            seed=seed,
            **options,
        )

    def _networks(self) -> Iterator[tuple[int, RecurrentNetwork]]:
        """Yield the iteration of each snapshot and the network as it was then."""
        for snapshot in tqdm(self.snapshots_, disable=not self.verbose, desc="analysis"):
            yield snapshot.iteration, self.trainer_.network_at(snapshot)

    def _copy_trainer_attributes(self) -> None:
        trainer = self.trainer_
        self.network_, self.snapshots_ = trainer.network_, trainer.snapshots_
        self.loss_curve_, self.n_iter_ = trainer.loss_curve_, trainer.n_iter_
        if hasattr(trainer, "classes_"):
            self.classes_ = trainer.classes_
        elif hasattr(self, "classes_"):
            del self.classes_

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> RecurrentAnalyzer:
        """Fit the trainer and analyse its snapshots; every subclass defines it."""
        raise NotImplementedError

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        **fit_params: Any,
    ) -> np.ndarray:
        """Fit, then transform the same trials.

        Parameters
        ----------
        X, y, mask
            As in `fit`.
        **fit_params
            The other arguments of `fit`.

        Returns
        -------
        ndarray of shape (n_trials, n_features_out)
            As from `transform`.
        """
        return self.fit(X, y, mask=mask, **fit_params).transform(X, mask=mask)  # type: ignore[call-arg]

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return one row a trial; every subclass defines it."""
        raise NotImplementedError

    def predict(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Predict targets with the trained network.

        Parameters
        ----------
        X, mask
            As in `transform`.

        Returns
        -------
        ndarray
            In the form of the y given to `fit`.
        """
        check_is_fitted(self, "trainer_")
        check_estimator_sequences(self, X, reset=False, warn=False)
        return self.trainer_.predict(X, mask=mask)

    def score(
        self, X: ArrayLike, y: ArrayLike | None = None, *, mask: ArrayLike | None = None
    ) -> float:
        """Return the trained network's accuracy (classes) or R^2 (values).

        Parameters
        ----------
        X, y, mask
            As in `fit`.

        Returns
        -------
        float
            The score; 1 is best.
        """
        check_is_fitted(self, "trainer_")
        check_estimator_sequences(self, X, reset=False, warn=False)
        return self.trainer_.score(X, y, mask=mask)

    def trajectories(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return the trained network's states.

        Parameters
        ----------
        X, mask
            As in `transform`.

        Returns
        -------
        ndarray of shape (n_trials, n_timesteps, n_states)
            States after every step.
        """
        check_is_fitted(self, "trainer_")
        return self.trainer_.trajectories(X, mask=mask)

    def verify(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
    ) -> pd.DataFrame:
        """Check the identities behind the analysis on the trained network, in float64.

        Parameters
        ----------
        X, y, mask, loss_weight
            Trials, as in `fit`; at most ``analysis_trials`` of them are used.

        Returns
        -------
        DataFrame
            Columns identity, error (relative unless said otherwise), tolerance, passed.
        """
        check_is_fitted(self, "trainer_")
        chosen = self._choose_trials(X, y, 0, mask=mask, loss_weight=loss_weight)
        return verify_network(self.network_, chosen, self.trainer_.objective_)
