"""What all recurrent analyzers share: the trainer they fit, and the trained network's answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, clone
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import CallbackSupportMixin, FitTask
from kpflow_sklearn._common.estimators import SequenceTransformer, undone_if_it_fails
from kpflow_sklearn.analyzers._trials import AnalysisTrials, choose_trials
from kpflow_sklearn.analyzers._verification import verify_network
from kpflow_sklearn.networks import RecurrentNetwork
from kpflow_sklearn.training import as_trainer


class RecurrentAnalyzer(
    ClassNamePrefixFeaturesOutMixin, CallbackSupportMixin, SequenceTransformer
):
    """Base of the analyzers of recurrent networks.

    A subclass stores ``trainer``, ``analysis_trials``, ``random_state`` and ``verbose``; its
    ``fit`` calls `_fit_trainer`, chooses trials and goes through `_networks`. It defines
    ``transform`` and ``_n_features_out``.
    """

    trainer: Any
    analysis_trials: int
    verbose: bool | int

    @undone_if_it_fails
    def _fit_trainer(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        seed: int,
        task: FitTask,
        *,
        mask: ArrayLike | None,
        loss_weight: ArrayLike | None,
    ) -> None:
        """Fit a clone of the trainer, as a part of the task that is this fit.

        It stays where the analysis fails: a training may have taken long.
        """
        trials, _, _ = self._check_trials(X, reset=True)
        trainer = as_trainer(self.trainer, clone=clone, random_state=seed, verbose=self.verbose)
        # Handed on only where given: a frozen trainer takes no such arguments.
        options = {"mask": mask, "loss_weight": loss_weight}
        given = {k: v for k, v in options.items() if v is not None}
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
        self._copy_trainer_attributes()
        self._n_timesteps = trials.shape[1]

    def _choose_trials(
        self, X: ArrayLike, y: ArrayLike | None, seed: int, **options: ArrayLike | None
    ) -> AnalysisTrials:
        """Return the trials to analyse."""
        trials, _, single_step = self._check_trials(X)
        return choose_trials(
            self.trainer_.encoder_,
            trials,
            y,
            n_trials=self.analysis_trials,
            single_step=single_step,
            seed=seed,
            **options,
        )

    def _networks(self, task: FitTask) -> Iterator[tuple[int, RecurrentNetwork]]:
        """Yield the iteration of each snapshot and the network as it was then."""
        for snapshot in task.analysis(self.snapshots_, verbose=self.verbose):
            yield snapshot.iteration, self.trainer_.network_at(snapshot)

    def _copy_trainer_attributes(self) -> None:
        trainer = self.trainer_
        self.network_, self.snapshots_ = trainer.network_, trainer.snapshots_
        self.loss_curve_, self.n_iter_ = trainer.loss_curve_, trainer.n_iter_
        if hasattr(trainer, "classes_"):
            self.classes_ = trainer.classes_

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> RecurrentAnalyzer:
        """Fit the trainer and analyse its snapshots; every subclass defines it."""
        raise NotImplementedError

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return one row a trial; every subclass defines it."""
        raise NotImplementedError

    def predict(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Predict targets with the trained network.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.

        Returns
        -------
        ndarray
            In the form of the y given to `fit`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.predict(X).shape == y.shape
        True
        """
        check_is_fitted(self, "trainer_")
        self._check_trials(X, mask)
        return self.trainer_.predict(X, mask=mask)

    def score(
        self, X: ArrayLike, y: ArrayLike | None = None, *, mask: ArrayLike | None = None
    ) -> float:
        """Return the trained network's accuracy (classes) or R^2 (values).

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        y : array-like, optional
            Targets, in the form given to `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.

        Returns
        -------
        float
            The score; 1 is best.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X, y or mask have the wrong shape, hold NaN or infinity, or X has other features
            than on fit.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.score(X, y) < 1
        True
        """
        check_is_fitted(self, "trainer_")
        self._check_trials(X, mask)
        return self.trainer_.score(X, y, mask=mask)

    def trajectories(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return the trained network's states.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.

        Returns
        -------
        ndarray of shape (n_trials, n_timesteps, n_states)
            States after every step.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.trajectories(X).shape
        (4, 6, 4)
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
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs; at most ``analysis_trials`` trials are used.
        y : array-like, optional
            Targets, in the form given to `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            w >= 0, what each step costs.

        Returns
        -------
        DataFrame
            Columns identity, error (relative unless said otherwise), tolerance, passed.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X, y, mask or loss_weight have the wrong shape, hold NaN or infinity, or X has other
            features than on fit.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> bool(analyzer.verify(X, y)["passed"].all())
        True
        """
        check_is_fitted(self, "trainer_")
        chosen = self._choose_trials(X, y, 0, mask=mask, loss_weight=loss_weight)
        return verify_network(self.network_, chosen, self.trainer_.objective_)
