"""The sub-tasks: the labels that define them, and the trials and targets of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.checks import check_labels, plain_repr
from kpflow_sklearn._common.fingerprints import name_of
from kpflow_sklearn.analyzers._trials import AnalysisTrials, choose_index
from kpflow_sklearn.networks import TargetEncoder, Targets, as_labels


@dataclass(frozen=True)
class TaskLabels:
    """The sub-task and the condition of each trial that may be analysed.

    Attributes
    ----------
    tasks : ndarray of shape (n_trials,), or None
        Label of each trial's sub-task; None if the outputs are the sub-tasks.
    conditions : ndarray of shape (n_trials,), or None
        Label of each trial's condition, shared by trials of different sub-tasks.
    """

    tasks: np.ndarray | None = None
    conditions: np.ndarray | None = None


@dataclass(frozen=True)
class SubTasks:
    """The sub-tasks into which the analysed trials, or the outputs, are divided.

    Attributes
    ----------
    names : ndarray of shape (n_tasks,)
        Sorted labels, or the indices of the outputs.
    member : ndarray of bool, shape (n_tasks, n_trials)
        The trials of each task. If tasks are outputs, all trials belong to each.
    targets : list of Targets
        The target values and loss weights of each task.
    by_output : bool
        Whether the tasks are outputs rather than groups of trials.
    conditions : ndarray of int, shape (n_trials,), or None
        Index of each trial's condition. Trials of different tasks are compared if they share it.
    """

    names: np.ndarray
    member: np.ndarray
    targets: list[Targets]
    by_output: bool
    conditions: np.ndarray | None = None


def check_tasks(
    tasks: ArrayLike | None,
    conditions: ArrayLike | None,
    n_trials: int,
    *,
    n_groups: int | None = None,
    n_chosen: int | None = None,
    seed: int = 0,
) -> TaskLabels:
    """Check the labels that a user gives to trials, before anything is trained.

    The labels must name at least two tasks, and at least ``n_groups``. The analysed trials must
    include every task and, for any two tasks, a condition that they share.

    Parameters
    ----------
    tasks, conditions : array-like of shape (n_trials,), or None
        Labels of the sub-tasks and of the conditions.
    n_trials : int
        Number of labelled trials.
    n_groups : int, optional
        Number of groups into which the sub-tasks are to be put.
    n_chosen : int, optional
        Number of trials that `choose_index` will choose for the analysis, with ``seed``. By
        default all labelled trials are analysed.
    seed : int, default=0
        Seed of the choice.
    """
    if tasks is None:
        if conditions is not None:
            raise ValueError("conditions match trials of different tasks; give tasks too.")
        return TaskLabels()
    labels = check_labels(tasks, "tasks", n_trials)
    n_tasks = len(np.unique(labels))
    if n_tasks < 2:
        raise ValueError(
            f"tasks must name at least two sub-tasks, got only {labels[:1].tolist()}."
        )
    _check_counts(n_tasks, n_groups, n_chosen)
    if conditions is None:
        return TaskLabels(labels)
    matched = check_labels(conditions, "conditions", n_trials)
    index = choose_index(n_trials, n_chosen or n_trials, labels, matched, seed)
    _check_shared(labels[index], matched[index])
    return TaskLabels(labels, matched)


def classes_as_tasks(
    encoder: TargetEncoder,
    y: ArrayLike | None,
    *,
    n_groups: int | None = None,
    n_chosen: int | None = None,
) -> TaskLabels:
    """Return the classes of the trials as labels if y has one per trial, and else no labels.

    There must be at least ``n_groups`` classes, and at most ``n_chosen``.
    """
    if y is None or encoder.loss_ != "cross_entropy" or encoder.form_ != "last_step":
        return TaskLabels()
    classes = as_labels(y, "y").ravel()
    _check_counts(len(np.unique(classes)), n_groups, n_chosen)
    return TaskLabels(classes)


def _check_counts(n_tasks: int, n_groups: int | None, n_chosen: int | None) -> None:
    """Check that the tasks suffice for the groups, and the chosen trials for the tasks."""
    if n_groups is not None and n_groups > n_tasks:
        raise ValueError(f"n_groups must be at most {n_tasks}, one per task, got {n_groups}.")
    if n_chosen is not None and n_tasks > n_chosen:
        raise ValueError(
            f"analysis_trials={n_chosen} leaves some of the {n_tasks} tasks without a trial; "
            "raise it."
        )


def _check_shared(tasks: np.ndarray, conditions: np.ndarray) -> None:
    """Check that any two tasks have trials of a common condition."""
    names, task = np.unique(tasks, return_inverse=True)
    distinct, condition = np.unique(conditions, return_inverse=True)
    occurs = np.zeros((len(names), len(distinct)), dtype=int)
    occurs[task, condition] = 1
    disjoint = np.argwhere(occurs @ occurs.T == 0)
    if len(disjoint):
        i, j = disjoint[0]
        raise ValueError(
            "conditions must be labels that any two tasks share, got no common label of "
            f"{plain_repr(names[i])} and {plain_repr(names[j])} among the trials to analyse; "
            "leave conditions out to compare second moments instead."
        )


def divide(
    trials: AnalysisTrials,
    labels: TaskLabels,
    encoder: TargetEncoder,
    n_groups: int | None = None,
) -> SubTasks:
    """Divide the analysed trials by their labels or, without labels, by the outputs.

    Outputs can be sub-tasks only if each has a loss of its own, as with loss="mse". There must be
    at least ``n_groups`` sub-tasks; a single one is allowed, with a UserWarning.
    """
    if labels.tasks is not None:
        chosen = slice(None) if trials.index is None else trials.index
        conditions = None if labels.conditions is None else labels.conditions[chosen]
        tasks = tasks_by_label(labels.tasks[chosen], trials.targets, conditions)
    elif not encoder.has_loss_per_output:
        _refuse_outputs(encoder.loss_)
    else:
        tasks = tasks_by_output(trials.targets, encoder.n_outputs_)
    _check_counts(len(tasks.names), n_groups, None)
    if len(tasks.names) < 2:
        warn_caller(
            "there is only one sub-task, so nothing can be compared; give tasks.", UserWarning
        )
    return tasks


def refuse_user_loss(trainer: Any) -> None:
    """Refuse outputs as sub-tasks if the loss of the trainer is a function."""
    loss = getattr(getattr(trainer, "estimator", trainer), "loss", None)
    if callable(loss):
        _refuse_outputs(loss)


def _refuse_outputs(loss: Any) -> NoReturn:
    """Refuse outputs as sub-tasks under a loss that is not a mean over the outputs."""
    why = "y has a class at every step"
    if callable(loss):
        why = f"the loss is a function, here {name_of(loss)}"
    raise ValueError(
        f"tasks must be given if {why}, because the outputs have no losses of their own; give "
        "one label per trial."
    )


def tasks_by_label(
    labels: ArrayLike, targets: Targets, conditions: ArrayLike | None = None
) -> SubTasks:
    """Return one sub-task per label; its trials are those that carry the label."""
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    member = codes == np.arange(len(names))[:, None]
    matched = None if conditions is None else np.unique(conditions, return_inverse=True)[1]
    return SubTasks(names, member, [targets] * len(names), False, matched)


def tasks_by_output(targets: Targets, n_outputs: int) -> SubTasks:
    """Return one sub-task per output of an mse loss; their losses sum to the whole loss.

    Every trial belongs to each sub-task and is a condition of its own.
    """
    n_trials = len(targets.values)
    weight = targets.weight if targets.weight.ndim == 3 else targets.weight[..., None]
    # Task j weights the outputs by row j of the identity, w_bt e_j.
    each = [Targets(targets.values, weight * e_j) for e_j in np.eye(n_outputs, dtype=weight.dtype)]
    member = np.ones((n_outputs, n_trials), dtype=bool)
    return SubTasks(np.arange(n_outputs), member, each, True, np.arange(n_trials))
