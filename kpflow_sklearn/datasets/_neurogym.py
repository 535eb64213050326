"""Trials of NeuroGym's tasks, as arrays for the estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kpflow_sklearn._common.checks import check_positive_int
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.datasets._padding import pad_sequences
from kpflow_sklearn.datasets._periods import RandomStateLike


def fetch_neurogym(
    task: str | Any,
    n_trials: int = 128,
    *,
    random_state: RandomStateLike = None,
    task_params: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make trials of a NeuroGym task.

    This needs the package neurogym, which requires an older version of NumPy. Install both
    packages in a separate environment by ``pip install 'kpflow-sklearn[neurogym]'``, and work
    there or save the arrays from there.

    Parameters
    ----------
    task : str or environment
        Name of a task, for example "PerceptualDecisionMaking-v0", or an environment with
        NeuroGym's ``new_trial``, ``ob`` and ``gt``.
    n_trials : int, default=128
        Number of trials.
    random_state : int, RandomState instance or None, default=None
        Source of the seed of the environment, which is passed to ``env.unwrapped.seed``.
    task_params : mapping, optional
        Arguments for the task's constructor, for example ``dt`` and ``timing``.

    Returns
    -------
    X : ndarray of shape (n_trials, n_timesteps, n_features), float64
        Observations. Shorter trials are padded.
    y : ndarray of shape (n_trials, n_timesteps) of int64, or (..., n_outputs) of float64
        The correct action at each step. A discrete action space gives integers, for
        ``loss="cross_entropy"``.
    mask : ndarray of bool, shape (n_trials, n_timesteps)
        Valid steps.

    Raises
    ------
    ModuleNotFoundError
        If ``task`` is a name and neurogym is not installed.
    TypeError, ValueError
        If ``n_trials`` is not a positive integer, ``task`` is not a name or an environment, or
        ``task_params`` is not a mapping.

    Examples
    --------
    >>> X, y, mask = fetch_neurogym(
    ...     "PerceptualDecisionMaking-v0", 64, random_state=0
    ... )  # doctest: +SKIP
    >>> KPFlowAnalyzer().fit(X, y, mask=mask)  # doctest: +SKIP
    """
    n_trials = check_positive_int(n_trials, "n_trials")
    if task_params is not None and not isinstance(task_params, Mapping):
        raise ValueError(f"task_params must be a mapping or None, got {task_params!r}.")
    if not isinstance(task, str) and not hasattr(task, "unwrapped"):
        raise ValueError(
            f"task must be the name of a task or an environment, got a {type(task).__name__}."
        )
    env = _make(task, task_params) if isinstance(task, str) else task
    env = env.unwrapped  # Wrappers count steps across trials.
    env.seed(draw_seed(random_state))
    observations, actions = [], []
    for _ in range(n_trials):
        env.new_trial()
        observations.append(np.array(env.ob, dtype=np.float64))
        actions.append(np.array(env.gt))
    discrete = hasattr(env.action_space, "n")
    targets = [a.astype(np.int64 if discrete else np.float64) for a in actions]
    X, y, mask = pad_sequences(observations, targets)
    return X, y, mask


def _make(task: str, task_params: Mapping[str, Any] | None) -> Any:
    try:
        import neurogym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "fetch_neurogym needs the package neurogym: pip install 'kpflow-sklearn[neurogym]', "
            "in a separate environment, because it requires an older version of NumPy."
        ) from error
    return neurogym.make(task, **dict(task_params or {}))
