"""The base of the estimators with a trained recurrent network: predict, score, trajectories."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import ClassifierTags, Tags
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.estimators import SequenceEstimator, routing_advice
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.networks import (
    Loss,
    Objective,
    RecurrentNetwork,
    TargetEncoder,
    Targets,
    check_user_loss,
    target_encoder,
    to_tensors,
)
from kpflow_sklearn.training._source import NetworkSource


class RecurrentModel(NetworkSource, SequenceEstimator):
    """Base of `RecurrentTrainer` and `SavedTraining`: a fitted network and its history.

    Attributes
    ----------
    network_ : RecurrentNetwork
        The network in the state of the last iteration.
    target_encoder_ : TargetEncoder
        Converts targets between the form of y and the network's outputs.
    objective_ : Objective
        The loss.
    """

    network_: RecurrentNetwork
    target_encoder_: TargetEncoder
    objective_: Objective
    classes_: np.ndarray
    loss: Loss

    #: Whether the loss_weight of the last `fit` was zero at some targets.
    _fitted_with_gaps = False

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: reproducible with a seed; a classifier with loss="cross_entropy"."""
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        if isinstance(self.loss, str) and self.loss == "cross_entropy":
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
            tags.target_tags.required = True
        return tags

    def _check_trials(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, bool]:
        trials, valid, single_step = super()._check_trials(X, mask, reset=reset)
        if single_step:
            warn_caller(
                f"X of shape {trials[:, 0].shape} is read as {len(trials)} trials of a single "
                "step; for sequences, give an array of shape (n_trials, n_timesteps, n_features).",
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
        loss: Loss,
        activity_l2: float,
    ) -> Targets:
        """Encode y; set ``target_encoder_``, ``objective_`` and, for labels, ``classes_``."""
        self.target_encoder_ = target_encoder(loss).fit(
            trials, y, mask=mask, single_step=single_step
        )
        self.objective_ = Objective(self.target_encoder_.loss_, activity_l2)
        if self.target_encoder_.classes_ is not None:
            self.classes_ = self.target_encoder_.classes_
        elif hasattr(self, "classes_"):
            del self.classes_
        targets = self.target_encoder_.encode(
            trials, y, mask=mask, loss_weight=loss_weight, single_step=single_step
        )
        self._remember_padding(mask)
        self._fitted_with_gaps = _has_gaps(targets.weight, mask, self.target_encoder_.form_)
        return targets

    def _run(self, trials: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return states and outputs, computed in pieces to bound the memory."""
        inputs, _ = to_tensors(trials, mask, self.network_)
        states, outputs = [], []
        with torch.no_grad():
            for piece in inputs.split(512):
                states.append(self.network_.states(piece))
                outputs.append(self.network_.outputs(states[-1]))
                if not outputs[-1].isfinite().all():
                    raise ValueError(
                        "X drives the network's states or outputs beyond the range of "
                        f"{self.network_.dtype}, got values up to {abs(trials).max():.3g}; "
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
            Valid steps. The states at other steps are returned as zero. Without it, a UserWarning
            is issued if `fit` was given one and trials end in constant steps.

        Returns
        -------
        ndarray of shape (n_trials, n_timesteps, n_states)
            States after every step. Those of an LSTM layer are all h, then all c.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask has the wrong shape or contains NaN or infinity, or if X has other
            features than in `fit`.

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
        self._warn_if_padded(trials, valid)
        states = self._run(trials, valid)[0]
        return states if valid is None else states * valid[..., None]

    def predict(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Predict targets in the form of the y given to `fit`.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial. Without it, a UserWarning is issued if `fit` was
            given one and trials end in constant steps.

        Returns
        -------
        ndarray
            Values (n_trials, n_timesteps, n_outputs), classes (n_trials, n_timesteps), or one
            value or class per trial (n_trials,). If ``loss`` is a function, the outputs
            (n_trials, n_timesteps, n_outputs), or those of the last valid step (n_trials,
            n_outputs) if y holds one value per trial.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask has the wrong shape or contains NaN or infinity, or if X has other
            features than in `fit`.

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
        self._warn_if_padded(trials, valid)
        predicted = self.target_encoder_.decode(self._run(trials, valid)[1], valid)
        is_single_series = single_step and self.target_encoder_.form_ == "next_input"
        return predicted[:, 0] if is_single_series else predicted

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
        sample_weight: None = None,
    ) -> float:
        """Return the accuracy (classes) or R^2 (values) on valid steps, weighted by loss_weight.

        If ``loss`` is a function, the score is minus its weighted mean. Equations, with the
        weights w >= 0 of ``loss_weight``:

        - accuracy: sum_bt w_bt [prediction is right] / sum_bt w_bt;
        - R^2 of output o: 1 - sum_bt w_bto (y_bto - yhat_bto)^2 / sum_bt w_bto (y_bto - m_o)^2,
          where m_o = sum_bt w_bto y_bto / sum_bt w_bto. The score is the mean over the outputs
          whose weights are not all zero;
        - a function l as loss: -sum_bt w_bt l_bt / sum_bt w_bt, without the penalty on rates.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        y : array-like
            Targets, in the form given to `fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps. Without it, a UserWarning is issued if `fit` was given one.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weights w >= 0 of the steps, or of each step's outputs; 1 by default. Without it, a
            UserWarning is issued if that of `fit` was zero at some targets.
        sample_weight : None
            Must be None, which scikit-learn's pipelines pass; ``loss_weight`` takes weights.

        Returns
        -------
        float
            The score; higher is better, and the best accuracy or R^2 is 1.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X, y, mask or loss_weight has the wrong shape or contains NaN or infinity, if X has
            other features than in `fit`, or if sample_weight is not None.

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
        _refuse_sample_weight(sample_weight)
        trials, valid, single_step = self._check_trials(X, mask)
        self._warn_without_mask(valid)
        if loss_weight is None and self._fitted_with_gaps:
            warn_caller(
                "the loss_weight given to fit was zero at some targets, but score was given none, "
                "so it counts every target. Give the loss_weight of X, all ones to count every "
                f"target. {routing_advice('loss_weight', 'fit', 'score')}",
                UserWarning,
            )
        outputs = self._run(trials, valid)[1]
        if callable(self.objective_.loss):
            targets = self.target_encoder_.encode(
                trials, y, mask=valid, loss_weight=loss_weight, single_step=single_step
            )
            return -self._mean_loss(trials, outputs, targets, valid)
        return self.target_encoder_.score(
            trials, y, outputs, mask=valid, loss_weight=loss_weight, single_step=single_step
        )

    def _mean_loss(
        self, trials: np.ndarray, outputs: np.ndarray, targets: Targets, mask: np.ndarray | None
    ) -> float:
        """Return the weighted mean of the loss, computed on the device of the network."""
        check_user_loss(self.objective_, self.network_, trials, targets, mask)
        device = self.network_.initial_state.device
        valid = None if mask is None else as_tensor(mask, device=device)
        return self.objective_.mean_loss(as_tensor(outputs, device=device), targets, valid)


def _has_gaps(weight: np.ndarray, mask: np.ndarray | None, form: str) -> bool:
    """Return whether the weight in the loss is zero at a target of this form of y."""
    counts = weight > 0
    if form == "last_step":
        return not counts.any(axis=1).all()
    if form == "next_input" and counts.shape[1] > 1:  # A trial's last step has no target.
        counts, mask = counts[:, :-1], None if mask is None else mask[:, 1:]
    return not (counts if mask is None else counts[mask]).all()


def _refuse_sample_weight(sample_weight: None) -> None:
    if sample_weight is not None:
        raise ValueError(
            "sample_weight must be None, because trials are weighted step by step, got a "
            f"{type(sample_weight).__name__}; give loss_weight of shape (n_trials, n_timesteps), "
            "for example np.repeat(sample_weight[:, None], n_timesteps, axis=1)."
        )
