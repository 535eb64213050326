"""The base of the two analyzers of recurrent networks: their trials, predictions and checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags, Tags
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import FitTask
from kpflow_sklearn._common.estimators import SequenceTransformer
from kpflow_sklearn.analyzers._analysis_set import AnalysisSet, read_analysis_set
from kpflow_sklearn.analyzers._base import Analyzer
from kpflow_sklearn.analyzers._trials import AnalysisTrials, choose_trials
from kpflow_sklearn.analyzers._verification import verify_network
from kpflow_sklearn.networks import RecurrentNetwork, check_user_loss
from kpflow_sklearn.training import Snapshot, as_trainer, is_classifying


class RecurrentAnalyzer(Analyzer, SequenceTransformer):
    """Base of the analyzers of recurrent networks, whose inputs are trials.

    A subclass also stores ``analysis_trials`` and ``random_state``; its ``fit`` calls
    `_fit_trainer`, chooses the trials to analyse and iterates over `_networks`.
    """

    analysis_trials: int

    _as_trainer = staticmethod(as_trainer)

    def __sklearn_tags__(self) -> Tags:
        """Return the tags, those of a classifier if the trainer is one."""
        tags = super().__sklearn_tags__()
        if is_classifying(self.trainer):
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
            tags.target_tags.required = True
        return tags

    def _check_inputs(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> np.ndarray:
        """Return X as trials, (n_trials, n_timesteps, n_features)."""
        trials, _, _ = self._check_trials(X, mask, reset=reset)
        return trials

    def _read_analysis_set(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        analysis_set: Mapping[str, Any] | None,
        X_analysis: ArrayLike | None,
        y_analysis: ArrayLike | None,
        **labels: ArrayLike | None,
    ) -> AnalysisSet | None:
        """Return the trials given for the analysis, checked before anything is trained."""
        # The check sees a copy, so that this estimator is unchanged if it fails.
        trials, _, single_step = self._stand_in()._check_trials(X, reset=True)
        alias = X_analysis, y_analysis
        return read_analysis_set(
            analysis_set, *alias, X=trials, y=y, single_step=single_step, **labels
        )

    def _choose_trials(
        self, X: ArrayLike, y: ArrayLike | None, seed: int, **options: Any
    ) -> AnalysisTrials:
        """Return the trials to analyse; the options are those of `choose_trials`."""
        trials, _, single_step = self._check_trials(X)
        trainer = self.trainer_
        chosen = choose_trials(
            trainer.target_encoder_,
            trials,
            y,
            n_trials=self.analysis_trials,
            single_step=single_step,
            seed=seed,
            **options,
        )
        about = chosen.X, chosen.targets, chosen.mask
        check_user_loss(trainer.objective_, trainer.network_, *about)
        return chosen

    def _networks(self, task: FitTask) -> Iterator[tuple[Snapshot, RecurrentNetwork]]:
        """Yield each snapshot with the network as it was then."""
        for snapshot in task.analysis(self.snapshots_, verbose=self.verbose):
            yield snapshot, self.trainer_.network_at(snapshot)

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> RecurrentAnalyzer:
        """Fit the trainer and analyse its snapshots; every subclass defines it."""
        raise NotImplementedError

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return one row per trial; every subclass defines it."""
        raise NotImplementedError

    def predict(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Predict targets with the trained network.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.

        Returns
        -------
        ndarray
            Predictions, in the form of the y given to `fit`.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X or mask has the wrong shape or contains NaN or infinity, or if the number of
            features of X differs from that of `fit`.

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
        return self._trainer_for(X, mask).predict(X, mask=mask)

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
        sample_weight: None = None,
    ) -> float:
        """Return the trained network's accuracy (class labels) or R^2 (real-valued targets).

        If the loss is a function, the score is minus its mean. Each of these scores is weighted by
        ``loss_weight``; `RecurrentTrainer.score` gives the equations.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        y : array-like, optional
            Targets, in the form of the y given to `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.
            Without it, a UserWarning is issued if `fit` was given one.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weights w >= 0 of the steps, or of each step's outputs; 1 by default. A UserWarning
            is issued if it is not given although the loss_weight of `fit` was zero somewhere.
        sample_weight : None
            Must be None; scikit-learn's pipelines pass it. Give weights as ``loss_weight``.

        Returns
        -------
        float
            The score; higher is better, and the best accuracy or R^2 is 1.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X, y, mask or loss_weight has the wrong shape or contains NaN or infinity, if the
            number of features of X differs from that of `fit`, or if sample_weight is not None.

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
        trainer = self._trainer_for(X, mask)
        weights = {"loss_weight": loss_weight, "sample_weight": sample_weight}
        return trainer.score(X, y, mask=mask, **weights)

    def trajectories(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return the trained network's states.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.

        Returns
        -------
        ndarray of shape (n_trials, n_timesteps, n_states)
            The states after each step.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X or mask has the wrong shape or contains NaN or infinity, or if the number of
            features of X differs from that of `fit`.

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
        return self._trainer_for(X, mask).trajectories(X, mask=mask)

    def verify(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
    ) -> pd.DataFrame:
        """Check the identities behind the analysis on the trained network, in float64.

        If the network or its loss does not compute in float64, the checks use the precision of the
        network and issue a UserWarning.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs. At most ``analysis_trials`` of the trials are used.
        y : array-like, optional
            Targets, in the form of the y given to `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weights w >= 0 of the steps, or of each step's outputs, in the loss; 1 by default.

        Returns
        -------
        DataFrame
            One row per identity, with columns identity, error (relative unless the identity says
            otherwise), tolerance and passed.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X, y, mask or loss_weight has the wrong shape or contains NaN or infinity, or if the
            number of features of X differs from that of `fit`.

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
