"""The tasks of the command line: trials to train on and to analyse, with their colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpflow_sklearn.datasets import make_flip_flop, make_memory_pro, make_multitask

#: The arrays that a file may contain besides X.
FILE_ARRAYS = ("y", "mask", "loss_weight", "tasks", "conditions")


@dataclass(frozen=True)
class Task:
    """Trials, with a number of updates that takes a minute or two.

    ``tasks`` and ``conditions`` label the analysed trials, which are X_analysis if given and X
    otherwise.
    """

    X: np.ndarray
    y: np.ndarray | None
    X_analysis: np.ndarray | None = None
    y_analysis: np.ndarray | None = None
    color_by: np.ndarray | None = None
    color_label: str = ""
    cyclic: bool = False
    max_iter: int = 300
    tasks: np.ndarray | None = None
    conditions: np.ndarray | None = None
    mask: np.ndarray | None = None
    loss_weight: np.ndarray | None = None

    @property
    def drawn(self) -> np.ndarray:
        """The trials whose state trajectories are drawn."""
        return self.X if self.X_analysis is None else self.X_analysis

    @property
    def drawn_mask(self) -> np.ndarray | None:
        """The valid steps of these trials; X_analysis has no padding."""
        return self.mask if self.X_analysis is None else None


def load_task(name: str, seed: int) -> Task:
    """Return a built-in task."""
    return {
        "memory_pro": _memory_pro,
        "flip_flop": _flip_flop,
        "multitask": _multitask,
        "digits": _digits,
    }[name](seed)


def load_file(path: str) -> Task:
    """Return the trials of an .npz file with an array X and, optionally, those of `FILE_ARRAYS`.

    Raises
    ------
    ValueError
        If the file cannot be read, or its arrays are not those expected.
    """
    if not Path(path).is_file():
        raise ValueError(f"--data: the file {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy raises errors of many types for files that it cannot read.
        raise ValueError(
            f"--data: {path} is not an .npz file of plain arrays ({error}). Pad trials of unequal "
            "length with zeros and add an array mask (trials, steps); save labels as "
            "labels.astype(str)"
        ) from error
    if "X" not in arrays:
        names = ", ".join(arrays) or "no arrays"
        raise ValueError(f"--data: {path} must contain an array X, but contains {names}")
    unknown = sorted(set(arrays) - {"X", *FILE_ARRAYS})
    if unknown:
        raise ValueError(
            f"--data: {path} contains unknown arrays: {', '.join(unknown)}; the arrays may be X, "
            f"{', '.join(FILE_ARRAYS)}"
        )
    if "conditions" in arrays and "tasks" not in arrays:
        raise ValueError(
            f"--data: {path} contains conditions, which match trials of different tasks, but not "
            "tasks"
        )
    y = arrays.get("y")
    # One value or class per trial, or one class per step, colours trajectories.
    is_label = y is not None and (y.ndim == 1 or (y.ndim == 2 and y.dtype.kind in "iub"))
    colors: dict[str, Any] = {"color_by": y, "color_label": "y"} if is_label else {}
    labels: dict[str, Any] = {name: arrays.get(name) for name in FILE_ARRAYS if name != "y"}
    return Task(arrays["X"], y, **colors, **labels)


def _memory_pro(seed: int) -> Task:
    periods: dict[str, Any] = {"stimulus": 20, "memory": 20, "response": 20}
    X, y = make_memory_pro(256, **periods, noise_std=0.1, random_state=seed)
    Xa, ya, angles = make_memory_pro(32, **periods, evenly_spaced=True, return_stimuli=True)
    return Task(X, y, Xa, ya, angles, "stimulus angle", cyclic=True)


def _flip_flop(seed: int) -> Task:
    X, y = make_flip_flop(256, n_timesteps=60, noise_std=0.1, random_state=seed)
    Xa, ya = make_flip_flop(32, n_timesteps=60, evenly_spaced=True, random_state=seed + 1)
    signs = np.array(["\N{MINUS SIGN}", "0", "+"])[np.sign(ya).astype(int) + 1]
    held = np.array([["".join(bits) for bits in trial] for trial in signs])
    return Task(X, y, Xa, ya, held, "bits held")


def _multitask(seed: int) -> Task:
    noise = 0.1 * np.sqrt(2)
    X, y, _ = make_multitask(64, noise_std=noise, random_state=seed)
    Xa, ya, tasks, angles = make_multitask(16, evenly_spaced=True, return_stimuli=True)
    stimulus = np.round(1e6 * angles).astype(int)
    return Task(X, y, Xa, ya, max_iter=500, tasks=tasks, conditions=stimulus)


def _digits(seed: int) -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    X = digits.images / 16.0
    return Task(X, digits.target, color_by=digits.target, color_label="digit")
