"""Trials of NeuroGym's tasks, in the arrays that the estimators take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kpflow_sklearn._common.random import local_generator
from kpflow_sklearn.datasets._padding import pad_sequences
from kpflow_sklearn.datasets._periods import RandomStateLike, check_count


def fetch_neurogym(
    task: str | Any,
    n_trials: int = 128,
    *,
    random_state: RandomStateLike = None,
    task_params: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make trials of a NeuroGym task, each from its first step on.

    Needs the package neurogym, which pins an older NumPy: install it, with this package, in an
    environment of its own (``pip install 'kpflow-sklearn[neurogym]'``), or save the arrays there.

    Parameters
    ----------
    task : str or environment
        Name of a task, such as "PerceptualDecisionMaking-v0", or an environment with NeuroGym's
        ``new_trial``, ``ob`` and ``gt``.
    n_trials : int, default=128
        Number of trials.
    random_state : int, RandomState instance or None, default=None
        Seed of the environment, given to ``env.unwrapped.seed``.
    task_params : mapping, optional
        Passed to the task's constructor, ``dt`` and ``timing`` say.

    Returns
    -------
    X : ndarray of shape (n_trials, n_timesteps, n_features), float64
        Observations; shorter trials are padded.
    y : ndarray of shape (n_trials, n_timesteps) of int64, or (..., n_outputs) of float64
        The action that is right at each step: integers for a discrete action space, for
        ``loss="cross_entropy"``, else values.
    mask : ndarray of bool, shape (n_trials, n_timesteps)
        Valid steps.

    Raises
    ------
    ModuleNotFoundError
        If ``task`` is a name and neurogym is not installed.
    ValueError
        If ``n_trials`` is not a positive integer.

    Examples
    --------
    >>> X, y, mask = fetch_neurogym(
    ...     "PerceptualDecisionMaking-v0", 64, random_state=0
    ... )  # doctest: +SKIP
    >>> KPFlowAnalyzer().fit(X, y, mask=mask)  # doctest: +SKIP
    """
    n_trials = check_count("n_trials", n_trials)
    if task_params is not None and not isinstance(task_params, Mapping):
        raise ValueError(f"task_params must be a mapping or None, got {task_params!r}.")
    if not isinstance(task, str) and not hasattr(task, "unwrapped"):
        raise ValueError(
            f"task must be the name of a task or an environment, got a {type(task).__name__}."
        )
    env = _make(task, task_params) if isinstance(task, str) else task
    seed = int(local_generator(random_state).randint(np.iinfo(np.int32).max))
    own = env.unwrapped
    own.seed(seed)
    # The environment itself, outside of wrappers that count steps across trials.
    observations, actions = [], []
    for _ in range(n_trials):
        own.new_trial()
        observations.append(np.array(own.ob, dtype=np.float64))
        actions.append(np.array(own.gt))
    discrete = hasattr(own.action_space, "n")
    targets = [a.astype(np.int64 if discrete else np.float64) for a in actions]
    X, y, mask = pad_sequences(observations, targets)
    return X, y, mask


def _make(task: str, task_params: Mapping[str, Any] | None) -> Any:
    try:
        import neurogym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "fetch_neurogym needs the package neurogym: pip install 'kpflow-sklearn[neurogym]', "
            "in an environment of its own, because it pins an older NumPy."
        ) from error
    return neurogym.make(task, **dict(task_params or {}))
