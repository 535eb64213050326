"""Pro and anti versions of memory, delay and reaction tasks, with a context cue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kpflow_sklearn._common.checks import check_flag, check_positive_int, check_real
from kpflow_sklearn._common.random import local_generator
from kpflow_sklearn.datasets._periods import (
    N_CHANNELS,
    FloatArray,
    Periods,
    RandomStateLike,
    Rule,
    add_noise,
    build_trials,
    count_steps,
    draw_angles,
)

RULES = {
    "MemoryPro": Rule("memory"),
    "MemoryAnti": Rule("memory", anti=True),
    "DelayPro": Rule("delay"),
    "DelayAnti": Rule("delay", anti=True),
    "ReactPro": Rule("react"),
    "ReactAnti": Rule("react", anti=True),
}

# Short names from the literature. "delayanti" is not an alias, because it is a spelling of
# DelayAnti here, whereas it names the memory task in other code.
ALIASES = {
    "delaygo": "MemoryPro",
    "dlygo": "MemoryPro",
    "dlyanti": "MemoryAnti",
    "fdgo": "DelayPro",
    "fdanti": "DelayAnti",
    "reactgo": "ReactPro",
}


def make_multitask(
    n_trials: int = 128,
    *,
    tasks: Sequence[str] = ("MemoryPro", "MemoryAnti", "DelayPro", "DelayAnti"),
    context: float = 10,
    stimulus: float = 10,
    memory: float = 10,
    response: float = 10,
    dt: float = 1.0,
    noise_std: float = 0.0,
    evenly_spaced: bool = False,
    random_state: RandomStateLike = None,
    return_stimuli: bool = False,
) -> tuple[npt.NDArray[Any], ...]:
    """Make trials of several tasks for one network, with a cue that names the task.

    All tasks require a direction during the response period: that of the stimulus (Pro) or the
    opposite one (Anti). They differ in when the stimulus is shown; see the Notes.

    Parameters
    ----------
    n_trials : int, default=128
        Number of trials **per task**: the arrays hold ``len(tasks) * n_trials`` trials.
    tasks : sequence of str, default=("MemoryPro", "MemoryAnti", "DelayPro", "DelayAnti")
        Names of the tasks: the four of the default, "ReactPro", "ReactAnti", or aliases (see the
        Notes). Case, hyphens, underscores and spaces are ignored.
    context : float, default=10
        Length of the period before the stimulus, in units of time. May be 0.
    stimulus : float, default=10
        Length of the stimulus period, in units of time. At least one step.
    memory : float, default=10
        Length of the memory period, in units of time. May be 0.
    response : float, default=10
        Length of the response period, in units of time. At least one step.
    dt : float, default=1.0
        Length of a step, in units of time. Each period has ``round(length / dt)`` steps.
    noise_std : float, default=0.0
        Strength of the white Gaussian noise added to all inputs, including the context cue, at
        all steps. Its standard deviation per step is ``noise_std / sqrt(dt)``. Targets have no
        noise.
    evenly_spaced : bool, default=False
        If True, trial k of each task has the angle ``2 * pi * k / n_trials``, so that trials
        are matched across tasks. Together with ``noise_std=0``, this gives trials for an
        analysis. If False, angles are random, uniform on the circle, and differ between tasks.
    random_state : int, RandomState instance or None, default=None
        Source of the angles and the noise. None gives different trials at each call. NumPy's
        global generator is neither read nor changed unless it is passed in.
        The angles do not depend on `noise_std`.
    return_stimuli : bool, default=False
        If True, also return the angles.

    Returns
    -------
    X : ndarray of shape (n_tasks * n_trials, n_timesteps, 3 + n_tasks), float64
        Inputs: fixation, the cosine and sine of the stimulus angle (0 while the stimulus is
        off), and one column per task, in the order of `tasks`, which is 1 throughout the
        trials of that task and 0 in all others. Trials of one task are consecutive.
    y : ndarray of shape (n_tasks * n_trials, n_timesteps, 3), float64
        Targets: fixation (1 until the response period, then 0), and the cosine and sine of
        the required direction (0 before the response period).
    tasks : ndarray of shape (n_tasks * n_trials,), str
        Name of the task of each trial, for example "MemoryPro", whatever alias was given.
    angles : ndarray of shape (n_tasks * n_trials,), float64
        Angle of the stimulus of each trial (not of the target, also in Anti tasks), in radians,
        in [0, 2 pi). Only returned if `return_stimuli` is True.

    Raises
    ------
    TypeError, ValueError
        If a task is unknown or named twice, `tasks` is empty or not a sequence of names,
        `n_trials` is not a positive integer, a length or `noise_std` is negative or not
        finite, `dt` is not positive, the stimulus or response period has no step, or
        `evenly_spaced` or `return_stimuli` is not a bool.

    See Also
    --------
    make_memory_pro : The MemoryPro task alone, without a cue.

    Notes
    -----
    The trials of all tasks have the same length.

    ======  =============================================  ===================================
    Task    Stimulus input                                 Fixation input
    ======  =============================================  ===================================
    Memory  on during the stimulus period                  off during the response period
    Delay   on from the stimulus period to the end         off during the response period
    React   on during the response period                  always on
    ======  =============================================  ===================================

    Aliases: "delaygo" and "dlygo" are MemoryPro, "dlyanti" is MemoryAnti, "fdgo" is DelayPro,
    "fdanti" is DelayAnti, "reactgo" is ReactPro.

    .. warning::
       "delaygo" is MemoryPro, but "delayanti" is DelayAnti, in any spelling. In the code of [2]_,
       "delayanti" is the memory task: write "MemoryAnti" or "dlyanti" for it.

    References
    ----------
    .. [1] L. N. Driscoll, K. Shenoy and D. Sussillo (2022). "Flexible multitask computation in
       recurrent networks utilizes shared dynamical motifs." bioRxiv 2022.08.15.503870;
       Nature Neuroscience 27, 1349-1363 (2024).
    .. [2] G. R. Yang, M. R. Joglekar, H. F. Song, W. T. Newsome and X.-J. Wang (2019). "Task
       representations in neural networks trained to perform many cognitive tasks."
       Nature Neuroscience 22, 297-306.

    Examples
    --------
    >>> from kpflow_sklearn.datasets import make_multitask
    >>> X, y, tasks, angles = make_multitask(
    ...     2, tasks=["MemoryPro", "fdanti"], evenly_spaced=True, return_stimuli=True
    ... )
    >>> X.shape, y.shape
    ((4, 40, 5), (4, 40, 3))
    >>> tasks.tolist()
    ['MemoryPro', 'MemoryPro', 'DelayAnti', 'DelayAnti']
    >>> X[:, 0, 3:]
    array([[1., 0.],
           [1., 0.],
           [0., 1.],
           [0., 1.]])
    """
    n_trials = check_positive_int(n_trials, "n_trials")
    noise_std = check_real(noise_std, "noise_std", 0)
    evenly_spaced = check_flag(evenly_spaced, "evenly_spaced")
    return_stimuli = check_flag(return_stimuli, "return_stimuli")
    names = _canonical_names(tasks)
    periods = count_steps(dt, context=context, stimulus=stimulus, memory=memory, response=response)

    rng = local_generator(random_state)
    angles = np.stack([draw_angles(n_trials, evenly_spaced, rng) for _ in names])
    X, y = _build_cued_trials(names, angles, periods)
    X = add_noise(X, noise_std, dt, rng)
    labels = np.repeat(names, n_trials)
    return (X, y, labels, angles.ravel()) if return_stimuli else (X, y, labels)


def _build_cued_trials(
    names: list[str], angles: FloatArray, periods: Periods
) -> tuple[FloatArray, FloatArray]:
    """Return inputs with the context cue, and targets, for `angles` (n_tasks, n_trials)."""
    n_tasks, n_trials = angles.shape
    X = np.zeros((n_tasks, n_trials, periods.n_timesteps, N_CHANNELS + n_tasks))
    y = np.zeros((n_tasks, n_trials, periods.n_timesteps, N_CHANNELS))
    for j, name in enumerate(names):
        X[j, ..., :N_CHANNELS], y[j] = build_trials(angles[j], periods, RULES[name])
        X[j, ..., N_CHANNELS + j] = 1.0
    return X.reshape(-1, *X.shape[2:]), y.reshape(-1, *y.shape[2:])


def _canonical_names(tasks: Sequence[str]) -> list[str]:
    """Return the canonical names of `tasks`, or raise if one is unknown or named twice."""
    # A string is a sequence of letters, but never a sequence of task names.
    requested = [] if isinstance(tasks, str) or not np.iterable(tasks) else list(tasks)
    if not requested:
        raise ValueError(
            f"tasks must be a non-empty sequence of task names, got {tasks!r}. {_known_tasks()}"
        )
    names = [_canonical_name(task) for task in requested]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ValueError(
                f"tasks must name each task once, got {name} twice in {requested!r}. "
                f"{_known_tasks()}"
            )
    return names


def _canonical_name(task: Any) -> str:
    """Return the canonical name of one task."""
    spellings = ALIASES | {name.lower(): name for name in RULES}
    key = task.lower().translate(str.maketrans("", "", "-_ ")) if isinstance(task, str) else None
    if key not in spellings:
        raise ValueError(f"tasks must hold known task names, got {task!r}. {_known_tasks()}")
    return spellings[key]


def _known_tasks() -> str:
    """Return the sentence that lists the known tasks and aliases."""
    aliases = ", ".join(f"{alias} ({name})" for alias, name in ALIASES.items())
    return f"Known tasks: {', '.join(RULES)}. Aliases: {aliases}."
