"""Common parts of the task generators: periods of a trial, and trials from rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from kpflow_sklearn._common.checks import check_real

FloatArray: TypeAlias = npt.NDArray[np.float64]
RandomStateLike: TypeAlias = int | np.random.RandomState | None

FIXATION = 0
DIRECTION = slice(1, 3)  # the cosine and the sine of an angle
N_CHANNELS = 3


@dataclass(frozen=True)
class Periods:
    """Numbers of steps in the four periods of a trial, in temporal order."""

    context: int
    stimulus: int
    memory: int
    response: int

    @property
    def stimulus_onset(self) -> int:
        """First step of the stimulus period."""
        return self.context

    @property
    def memory_onset(self) -> int:
        """First step of the memory period."""
        return self.context + self.stimulus

    @property
    def response_onset(self) -> int:
        """First step of the response period."""
        return self.memory_onset + self.memory

    @property
    def n_timesteps(self) -> int:
        """Number of steps of the whole trial."""
        return self.response_onset + self.response


def count_steps(dt: Any, *, context: Any, stimulus: Any, memory: Any, response: Any) -> Periods:
    """Convert the lengths of the periods from units of time to steps."""
    dt = check_real(dt, "dt", 0, open_minimum=True)
    lengths = {"context": context, "stimulus": stimulus, "memory": memory, "response": response}
    steps = {name: round(check_real(length, name, 0) / dt) for name, length in lengths.items()}
    # A trial needs a stimulus and a response.
    for name in ("stimulus", "response"):
        if steps[name] == 0:
            raise ValueError(
                f"{name} must last at least one step of dt={dt!r}, got {lengths[name]!r}."
            )
    return Periods(**steps)


@dataclass(frozen=True)
class Rule:
    """The rule of a task: when the stimulus is shown, and whether the response is opposite."""

    family: Literal["memory", "delay", "react"]
    anti: bool = False

    def stimulus_steps(self, periods: Periods) -> slice:
        """Return the steps during which the stimulus is on."""
        onset = periods.response_onset if self.family == "react" else periods.stimulus_onset
        offset = periods.memory_onset if self.family == "memory" else periods.n_timesteps
        return slice(onset, offset)

    def fixation_steps(self, periods: Periods) -> slice:
        """Return the steps during which the fixation input is on."""
        # In a reaction task, the stimulus is the go signal, and the fixation input stays on.
        return slice(periods.n_timesteps if self.family == "react" else periods.response_onset)


def build_trials(
    angles: FloatArray, periods: Periods, rule: Rule
) -> tuple[FloatArray, FloatArray]:
    """Return noise-free inputs and targets (n_trials, n_timesteps, 3), one trial per angle."""
    X = np.zeros((len(angles), periods.n_timesteps, N_CHANNELS))
    y = np.zeros_like(X)
    direction = np.column_stack([np.cos(angles), np.sin(angles)])[:, np.newaxis]
    go = periods.response_onset

    X[:, rule.fixation_steps(periods), FIXATION] = 1.0
    X[:, rule.stimulus_steps(periods), DIRECTION] = direction
    y[:, :go, FIXATION] = 1.0
    # The sign turns the direction of an anti task by pi without rounding errors.
    y[:, go:, DIRECTION] = -direction if rule.anti else direction
    return X, y


def draw_angles(n_trials: int, evenly_spaced: bool, rng: np.random.RandomState) -> FloatArray:
    """Return stimulus angles in [0, 2 pi), equally spaced or random and uniform."""
    if evenly_spaced:
        return 2.0 * np.pi * np.arange(n_trials) / n_trials
    return rng.uniform(0.0, 2.0 * np.pi, size=n_trials)


def add_noise(
    X: FloatArray, noise_std: float, dt: float, rng: np.random.RandomState
) -> FloatArray:
    """Return X with white Gaussian noise on every entry."""
    if noise_std == 0.0:
        return X
    # The division by sqrt(dt) makes the noise integrated over a given time independent of dt.
    noisy = X + rng.normal(scale=noise_std / np.sqrt(dt), size=X.shape)
    if not np.isfinite(noisy).all():
        raise ValueError(
            f"noise_std / sqrt(dt) is too large for float64, got noise_std={noise_std:g} and "
            f"dt={dt:g}."
        )
    return noisy
