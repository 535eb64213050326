"""What every source of a trained recurrent network can do: predict, score, give its states."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.estimators import NetworkSource, SequenceEstimator
from kpflow_sklearn.networks import Objective, RecurrentNetwork, TargetEncoder, Targets, to_tensors
from kpflow_sklearn.training._loop import Snapshot


class RecurrentModel(NetworkSource, SequenceEstimator):
    """Base of `RecurrentTrainer` and `SavedTraining`: a fitted network and its history.

    Attributes
    ----------
    network_ : RecurrentNetwork
        The network, in the state of the last iteration.
    snapshots_ : list of Snapshot
        Its earlier states, by iteration.
    encoder_ : TargetEncoder
        The form of y.
    objective_ : Objective
        The loss.
    """

    network_: RecurrentNetwork
    snapshots_: list[Snapshot]
    encoder_: TargetEncoder
    objective_: Objective
    classes_: np.ndarray

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: a seed gives the same network again."""
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags

    def _check_trials(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, bool]:
        trials, valid, single_step = super()._check_trials(X, mask, reset=reset)
        if single_step:
            warn_caller(
                f"X of shape {trials[:, 0].shape} is taken as {len(trials)} trials of a single "
                "step; give an array of shape (n_trials, n_timesteps, n_features) for sequences.",
                UserWarning,
            )
        return trials, valid, single_step

    def _fit_targets(
        self,
        trials: np.ndarray,
        y: ArrayLike | None,
        mask: np.ndarray | None,
        loss_weight: ArrayLike | None,
        single_step: bool,
        loss: str,
        activity_l2: float,
    ) -> Targets:
        """Learn the form of y; sets ``encoder_``, ``objective_`` and, for labels, ``classes_``."""
        self.encoder_ = TargetEncoder(loss).fit(trials, y, mask=mask, single_step=single_step)
        self.objective_ = Objective(self.encoder_.loss_, activity_l2)
        if self.encoder_.classes_ is not None:
            self.classes_ = self.encoder_.classes_
        elif hasattr(self, "classes_"):
            del self.classes_
        return self.encoder_.encode(
            trials, y, mask=mask, loss_weight=loss_weight, single_step=single_step
        )

    def _run(self, trials: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return states and outputs, in pieces so that many trials fit."""
        inputs, _ = to_tensors(trials, mask, self.network_)
        states, outputs = [], []
        with torch.no_grad():
            for piece in inputs.split(512):
                states.append(self.network_.states(piece))
                outputs.append(self.network_.outputs(states[-1]))
                if not outputs[-1].isfinite().all():
                    raise ValueError(
                        "X drives the network's states or outputs beyond what "
                        f"{self.network_.dtype} holds, got values up to {abs(trials).max():.3g}; "
                        "scale X down."
                    )
        return torch.cat(states).cpu().numpy(), torch.cat(outputs).cpu().numpy()

    def trajectories(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return the network's states on trials.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps; states elsewhere are zero.

        Returns
        -------
        ndarray of shape (n_trials, n_timesteps, n_states)
            States after every step; an LSTM layer's are all h, then all c.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=2, random_state=0).fit(X, y)
        >>> trainer.trajectories(X).shape
        (4, 6, 4)
        """
        check_is_fitted(self, "network_")
        trials, valid, _ = self._check_trials(X, mask)
        states = self._run(trials, valid)[0]
        return states if valid is None else states * valid[..., None]

    def predict(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Predict targets in the form of the y given to `fit`.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.

        Returns
        -------
        ndarray
            (n_trials, n_timesteps, n_outputs) values, (n_trials, n_timesteps) classes, or one
            value or class a trial, (n_trials,).

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=2, random_state=0).fit(X, y)
        >>> trainer.predict(X).shape == y.shape
        True
        """
        check_is_fitted(self, "network_")
        trials, valid, single_step = self._check_trials(X, mask)
        predicted = self.encoder_.decode(self._run(trials, valid)[1], valid)
        is_single_series = single_step and self.encoder_.form_ == "next_input"
        return predicted[:, 0] if is_single_series else predicted

    def score(
        self, X: ArrayLike, y: ArrayLike | None = None, *, mask: ArrayLike | None = None
    ) -> float:
        """Return the accuracy (classes) or R^2 (values, mean over outputs) on valid steps.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        y : array-like
            Targets, in the form given to `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.

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
        >>> from kpflow_sklearn import RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=2, random_state=0).fit(X, y)
        >>> trainer.score(X, y) < 1
        True
        """
        check_is_fitted(self, "network_")
        trials, valid, single_step = self._check_trials(X, mask)
        outputs = self._run(trials, valid)[1]
        return self.encoder_.score(trials, y, outputs, mask=valid, single_step=single_step)
