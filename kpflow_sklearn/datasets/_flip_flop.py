"""The flip-flop task: remember the sign of the last pulse on each of several channels."""

from __future__ import annotations

import numpy as np

from kpflow_sklearn._common.checks import check_flag, check_positive_int, check_real
from kpflow_sklearn._common.random import local_generator
from kpflow_sklearn.datasets._periods import (
    FloatArray,
    RandomStateLike,
    add_noise,
)


def make_flip_flop(
    n_trials: int = 128,
    *,
    n_bits: int = 3,
    n_timesteps: int = 100,
    pulse_probability: float = 0.1,
    dt: float = 1.0,
    noise_std: float = 0.0,
    evenly_spaced: bool = False,
    random_state: RandomStateLike = None,
) -> tuple[FloatArray, FloatArray]:
    """Make trials of the flip-flop task with any number of bits.

    Each bit receives pulses of either sign at random times, independently of the other bits. Its
    target is the sign of its last pulse. Every bit receives a pulse at the first step, so that
    the target is always defined.

    Equation: y_bti is the sign of the last non-zero pulse x_bsi with s <= t.

    Parameters
    ----------
    n_trials : int, default=128
        Number of trials.
    n_bits : int, default=3
        Number of bits, which is the number of input channels and of output channels.
    n_timesteps : int, default=100
        Length of a trial, in steps.
    pulse_probability : float, default=0.1
        Probability of a pulse on one bit, per unit of time. The probability per step, from the
        second step on, is ``min(1, pulse_probability * dt)``.
    dt : float, default=1.0
        Length of a step, in units of time.
    noise_std : float, default=0.0
        Strength of the white Gaussian noise added to all inputs at all steps. Its standard
        deviation per step is ``noise_std / sqrt(dt)``. Targets have no noise.
    evenly_spaced : bool, default=False
        If True, the signs at the first step run through all ``2 ** n_bits`` patterns in order:
        trial k starts with the binary digits of ``k % 2 ** n_bits``, with the highest digit on
        bit 0 and -1 for the digit 0. If False, these signs are random. Later pulses are random
        in both cases. For the same integer `random_state`, they are the same in both.
    random_state : int, RandomState instance or None, default=None
        Source of the pulses and the noise. None gives different trials at each call. NumPy's
        global generator is neither read nor changed unless it is passed in.
        The pulses do not depend on `noise_std`.

    Returns
    -------
    X : ndarray of shape (n_trials, n_timesteps, n_bits), float64
        Inputs: the pulses (-1, 0 or 1) plus the noise.
    y : ndarray of shape (n_trials, n_timesteps, n_bits), float64
        Targets: the sign (-1 or 1) of the last pulse on each bit, up to and including that step.

    Raises
    ------
    TypeError, ValueError
        If `n_trials`, `n_bits` or `n_timesteps` is not a positive integer, `pulse_probability`
        or `noise_std` is negative or not finite, `dt` is not positive, or `evenly_spaced` is
        not a bool.

    References
    ----------
    .. [1] D. Sussillo and O. Barak (2013). "Opening the black box: low-dimensional dynamics in
       high-dimensional recurrent neural networks." Neural Computation 25, 626-649.

    Examples
    --------
    >>> from kpflow_sklearn.datasets import make_flip_flop
    >>> X, y = make_flip_flop(
    ...     4, n_bits=2, n_timesteps=6, pulse_probability=0.3, evenly_spaced=True, random_state=0
    ... )
    >>> X.shape, y.shape
    ((4, 6, 2), (4, 6, 2))
    >>> y[:, 0]
    array([[-1., -1.],
           [-1.,  1.],
           [ 1., -1.],
           [ 1.,  1.]])
    """
    n_trials = check_positive_int(n_trials, "n_trials")
    n_bits = check_positive_int(n_bits, "n_bits")
    n_timesteps = check_positive_int(n_timesteps, "n_timesteps")
    pulse_probability = check_real(pulse_probability, "pulse_probability", 0)
    dt = check_real(dt, "dt", 0, open_minimum=True)
    noise_std = check_real(noise_std, "noise_std", 0)
    evenly_spaced = check_flag(evenly_spaced, "evenly_spaced")

    rng = local_generator(random_state)
    shape = (n_trials, n_timesteps, n_bits)
    pulses = _draw_pulses(shape, min(1.0, pulse_probability * dt), rng)
    if evenly_spaced:
        pulses[:, 0] = _sign_patterns(n_trials, n_bits)
    return add_noise(pulses, noise_std, dt, rng), _hold_last_pulse(pulses)


def _draw_pulses(
    shape: tuple[int, int, int], probability: float, rng: np.random.RandomState
) -> FloatArray:
    """Return pulses of random sign, at the first step always and later with `probability`."""
    signs = rng.choice([-1.0, 1.0], size=shape)
    present = rng.uniform(size=shape) < probability
    present[:, 0] = True
    return np.where(present, signs, 0.0)


def _sign_patterns(n_trials: int, n_bits: int) -> FloatArray:
    """Return the binary digits of the trial numbers as signs, (n_trials, n_bits)."""
    trials = np.arange(n_trials)[:, np.newaxis]
    place = np.arange(n_bits)[::-1]
    return np.where((trials >> place) & 1, 1.0, -1.0)


def _hold_last_pulse(pulses: FloatArray) -> FloatArray:
    """Return, at each step, the value of the last pulse up to and including that step."""
    steps = np.arange(pulses.shape[1])[:, np.newaxis]
    last_pulse = np.maximum.accumulate(np.where(pulses != 0.0, steps, 0), axis=1)
    return np.take_along_axis(pulses, last_pulse, axis=1)
