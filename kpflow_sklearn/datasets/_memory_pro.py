"""The memory-pro task: report a remembered direction after a delay."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from kpflow_sklearn._common.checks import check_flag, check_positive_int, check_real
from kpflow_sklearn._common.random import local_generator
from kpflow_sklearn.datasets._periods import (
    RandomStateLike,
    Rule,
    add_noise,
    build_trials,
    count_steps,
    draw_angles,
)


def make_memory_pro(
    n_trials: int = 128,
    *,
    context: float = 0,
    stimulus: float = 30,
    memory: float = 30,
    response: float = 30,
    dt: float = 1.0,
    noise_std: float = 0.0,
    evenly_spaced: bool = False,
    random_state: RandomStateLike = None,
    return_stimuli: bool = False,
) -> tuple[npt.NDArray[Any], ...]:
    """Make trials of the memory-pro task (also called delayed response).

    A direction is shown during the stimulus period. It must be reported when the fixation input
    turns off, after a memory period without the stimulus.

    Equation: on a trial with angle a, both the stimulus and the target during the response are
    (cos a, sin a).

    Parameters
    ----------
    n_trials : int, default=128
        Number of trials.
    context : float, default=0
        Length of the period before the stimulus, in units of time. May be 0.
    stimulus : float, default=30
        Length of the stimulus period, in units of time. At least one step.
    memory : float, default=30
        Length of the memory period, in units of time. May be 0.
    response : float, default=30
        Length of the response period, in units of time. At least one step.
    dt : float, default=1.0
        Length of a step, in units of time. Each period has ``round(length / dt)`` steps.
    noise_std : float, default=0.0
        Strength of the white Gaussian noise added to all inputs at all steps. Its standard
        deviation per step is ``noise_std / sqrt(dt)``. Targets have no noise.
    evenly_spaced : bool, default=False
        If True, trial k has the angle ``2 * pi * k / n_trials``. Together with ``noise_std=0``,
        this gives trials for an analysis. If False, angles are random and uniform on the circle.
    random_state : int, RandomState instance or None, default=None
        Source of the angles and the noise. None gives different trials at each call. NumPy's
        global generator is neither read nor changed unless it is passed in.
        The angles do not depend on `noise_std`.
    return_stimuli : bool, default=False
        If True, also return the angles.

    Returns
    -------
    X : ndarray of shape (n_trials, n_timesteps, 3), float64
        Inputs: fixation (1 until the response period, then 0), and the cosine and sine of
        the angle (0 outside the stimulus period).
    y : ndarray of shape (n_trials, n_timesteps, 3), float64
        Targets: fixation (1 until the response period, then 0), and the cosine and sine of
        the angle (0 before the response period).
    angles : ndarray of shape (n_trials,), float64
        Angle of the stimulus of each trial, in radians, in [0, 2 pi). Only returned if
        `return_stimuli` is True.

    Raises
    ------
    TypeError, ValueError
        If `n_trials` is not a positive integer, a length or `noise_std` is negative or not
        finite, `dt` is not positive, the stimulus or response period has no step, or
        `evenly_spaced` or `return_stimuli` is not a bool.

    See Also
    --------
    make_multitask : This task and related ones, with a context cue that names the task.

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
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> X, y, angles = make_memory_pro(
    ...     4, stimulus=2, memory=1, response=2, evenly_spaced=True, return_stimuli=True
    ... )
    >>> X.shape, y.shape
    ((4, 5, 3), (4, 5, 3))
    >>> (angles / 3.141592653589793).tolist()
    [0.0, 0.5, 1.0, 1.5]
    >>> X[0]
    array([[1., 1., 0.],
           [1., 1., 0.],
           [1., 0., 0.],
           [0., 0., 0.],
           [0., 0., 0.]])
    >>> y[0]
    array([[1., 0., 0.],
           [1., 0., 0.],
           [1., 0., 0.],
           [0., 1., 0.],
           [0., 1., 0.]])
    """
    n_trials = check_positive_int(n_trials, "n_trials")
    noise_std = check_real(noise_std, "noise_std", 0)
    evenly_spaced = check_flag(evenly_spaced, "evenly_spaced")
    return_stimuli = check_flag(return_stimuli, "return_stimuli")
    periods = count_steps(dt, context=context, stimulus=stimulus, memory=memory, response=response)

    rng = local_generator(random_state)
    angles = draw_angles(n_trials, evenly_spaced, rng)
    X, y = build_trials(angles, periods, Rule("memory"))
    X = add_noise(X, noise_std, dt, rng)
    return (X, y, angles) if return_stimuli else (X, y)
