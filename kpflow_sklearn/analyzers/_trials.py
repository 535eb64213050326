"""The trials on which all snapshots are analysed, and their choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.checks import check_labels, check_mask
from kpflow_sklearn._common.memory import explained
from kpflow_sklearn.analyzers._analysis_set import AnalysisSet
from kpflow_sklearn.networks import RecurrentNetwork, TargetEncoder, Targets, to_tensors
from kpflow_sklearn.operators import Linearization, refuse_undefined

#: Advice for analyses that run out of memory.
FEWER = "Analyse fewer or shorter trials (analysis_trials, analysis_set), or in float32."


@dataclass(frozen=True)
class AnalysisTrials:
    """The trials on which all snapshots are analysed.

    Attributes
    ----------
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    targets : Targets
        Targets and their weights in the loss.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        True at the valid steps; None if all steps are valid.
    index : ndarray of int, shape (n_trials,), or None
        Indices of these trials in the X given to ``fit``; None for those of an analysis_set.
    """

    X: np.ndarray
    targets: Targets
    mask: np.ndarray | None
    index: np.ndarray | None = None

    @property
    def size(self) -> str:
        """The number of trials and steps, in words for an error message."""
        return f"the linearization on {self.X.shape[0]} trials of {self.X.shape[1]} steps"

    def linearize(self, network: RecurrentNetwork, iteration: int) -> Linearization:
        """Return the linearization of a network on these trials.

        Parameters
        ----------
        network : RecurrentNetwork
            The network as it was at ``iteration``.
        iteration : int
            Iteration to name in the error if the states overflow.

        Returns
        -------
        Linearization
            The states and the operators.

        Raises
        ------
        ValueError
            If the states overflow.
        UnsupportedNetworkError
            If a derivative of a user's step is NaN.
        MemoryError
            If the states or their derivatives do not fit into memory.
        """
        with explained(f"{self.size} does not fit. {FEWER}"):
            lin = Linearization(network, *to_tensors(self.X, self.mask, network))
        if not lin.states.isfinite().all():
            raise ValueError(
                f"the network's states overflow at iteration {iteration}; train with a smaller "
                "init_scale or learning_rate."
            )
        refuse_undefined(lin.tangent)
        return lin


def choose_trials(
    encoder: TargetEncoder,
    X: np.ndarray,
    y: ArrayLike | None,
    *,
    mask: ArrayLike | None,
    loss_weight: ArrayLike | None,
    n_trials: int,
    single_step: bool,
    seed: int,
    tasks: ArrayLike | None = None,
    conditions: ArrayLike | None = None,
    analysis_set: AnalysisSet | None = None,
) -> AnalysisTrials:
    """Return the trials to analyse: those of analysis_set, or a seeded choice from X."""
    if analysis_set is not None:
        analysis_set.warn_of_dropped(mask, loss_weight)
        return _given_trials(encoder, analysis_set, single_step)
    valid = check_mask(mask, X)
    tasks = None if tasks is None else check_labels(tasks, "tasks", len(X))
    index = choose_index(len(X), n_trials, tasks, conditions, seed)
    if loss_weight is not None:
        loss_weight = as_array(loss_weight, "loss_weight")
    # Encode all trials so that each is checked, then the chosen ones with their own normalization.
    encoder.encode(X, y, mask=valid, loss_weight=loss_weight, single_step=single_step)
    if loss_weight is not None and not loss_weight[index].any():
        raise ValueError(
            f"none of the {len(index)} trials chosen for the analysis has a positive loss_weight; "
            "raise analysis_trials, or give analysis_set."
        )
    targets = encoder.encode(
        X[index],
        None if y is None else as_array(y, "y")[index],
        mask=None if valid is None else valid[index],
        loss_weight=None if loss_weight is None else loss_weight[index],
        single_step=single_step,
    )
    return AnalysisTrials(X[index], targets, None if valid is None else valid[index], index)


def _given_trials(encoder: TargetEncoder, given: AnalysisSet, single_step: bool) -> AnalysisTrials:
    """Return the trials of an analysis_set with their targets."""
    with given.naming():
        targets = encoder.encode(
            given.X,
            given.y,
            mask=given.mask,
            loss_weight=given.loss_weight,
            single_step=single_step,
            name=given.name_of_y,
        )
    return AnalysisTrials(given.X, targets, given.mask)


def choose_index(
    n_available: int,
    n_trials: int,
    tasks: ArrayLike | None,
    conditions: ArrayLike | None,
    seed: int,
) -> np.ndarray:
    """Return the sorted indices of randomly chosen trials, equally many per task if possible.

    With ``conditions`` the same conditions are chosen for all tasks, beginning with those that
    occur in most tasks.

    Parameters
    ----------
    n_available, n_trials : int
        Number of trials to choose from, and number of trials to choose.
    tasks, conditions : array-like of shape (n_available,), optional
        Labels of the trials.
    seed : int
        Seed of the choice.

    Returns
    -------
    ndarray of int
        At most ``n_trials`` indices.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_available)
    if tasks is not None:
        labels = np.asarray(tasks)
        if conditions is not None:
            order = _by_condition(labels, np.asarray(conditions), order, rng)
        # The first trial of each task comes first, then the second of each task, and so on.
        order = order[np.argsort(_turns(labels, order)[order], kind="stable")]
    return np.sort(order[: min(n_trials, n_available)])


def _by_condition(
    labels: np.ndarray, conditions: np.ndarray, order: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sort trials by condition, beginning with the conditions of most tasks.

    Further trials of the same task and condition come after the first trial of every other pair.
    """
    names, codes = np.unique(conditions, return_inverse=True)
    task = np.unique(labels, return_inverse=True)[1]
    pairs = task * len(names) + codes
    n_tasks = np.bincount(np.unique(pairs) % len(names), minlength=len(names))
    rank = np.lexsort((rng.permutation(len(names)), -n_tasks)).argsort()
    order = order[np.argsort(rank[codes[order]], kind="stable")]
    return order[np.argsort(_turns(pairs, order)[order], kind="stable")]


def _turns(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return, for each trial, the number of trials with its label before it in ``order``."""
    turn = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return turn
