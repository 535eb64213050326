"""The tasks of the command line: trials to train on, trials to analyse, and what colours them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpflow_sklearn.datasets import make_flip_flop, make_memory_pro, make_multitask

#: What a file may hold besides X.
FILE_ARRAYS = ("y", "mask", "loss_weight", "tasks", "conditions")


@dataclass(frozen=True)
class Task:
    """Trials, and settings that train on them within a minute or two.

    ``tasks`` and ``conditions`` label the analysed trials: X_analysis, or else X.
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
        """The trials whose states are drawn."""
        return self.X if self.X_analysis is None else self.X_analysis

    @property
    def drawn_mask(self) -> np.ndarray | None:
        """Their valid steps; trials given for analysis have no others."""
        return self.mask if self.X_analysis is None else None


def load_task(name: str, seed: int) -> Task:
    """Return one of the built-in tasks."""
    return {
        "memory_pro": _memory_pro,
        "flip_flop": _flip_flop,
        "multitask": _multitask,
        "digits": _digits,
    }[name](seed)


def load_file(path: str) -> Task:
    """Return the trials of an .npz file with arrays X and, optionally, those of `FILE_ARRAYS`.

    Raises
    ------
    ValueError
        If the file cannot be read or holds no X.
    """
    if not Path(path).is_file():
        raise ValueError(f"--data: there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except Exception as error:  # Whatever NumPy says of a foreign file, it is the file's fault.
        raise ValueError(
            f"--data: {path} is no .npz file of plain arrays ({error}). Trials of unequal length "
            "are padded with zeros, with an array mask (trials, steps); labels are saved as "
            "labels.astype(str)"
        ) from error
    if "X" not in arrays:
        raise ValueError(f"--data: {path} holds no array X, but {', '.join(arrays) or 'nothing'}")
    unknown = sorted(set(arrays) - {"X", *FILE_ARRAYS})
    if unknown:
        raise ValueError(
            f"--data: {path} holds {', '.join(unknown)}, of which nothing is known; the arrays "
            f"may be X, {', '.join(FILE_ARRAYS)}"
        )
    if "conditions" in arrays and "tasks" not in arrays:
        raise ValueError(
            f"--data: {path} holds conditions, which match trials of different tasks, but no tasks"
        )
    y = arrays.get("y")
    # A value or class a trial, or a class a step; else trajectories are coloured by the step.
    is_label = y is not None and (y.ndim == 1 or (y.ndim == 2 and y.dtype.kind in "iub"))
    labels = y if is_label else None
    return Task(
        arrays["X"],
        y,
        color_by=labels,
        color_label="y" if labels is not None else "",
        tasks=arrays.get("tasks"),
        conditions=arrays.get("conditions"),
        mask=arrays.get("mask"),
        loss_weight=arrays.get("loss_weight"),
    )


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
