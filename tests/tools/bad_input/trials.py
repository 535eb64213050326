"""Trials at the edge, all arguments changed together: one of a kind, constant, huge, tiny."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tests.tools.bad_input.arrays import read_only
from tests.tools.bad_input.hostile import Hostile

#: Which arguments hold trials, and on how many axes they go along with X.
AXES = {"X": 3, "y": 2, "mask": 2, "loss_weight": 2, "tasks": 1, "conditions": 1,
        "X_analysis": 3, "y_analysis": 2, "X_new": 3}  # fmt: skip
DIVERGES = "ConvergenceWarning|overflow"

Arguments = dict[str, Any]


def cut(*slices: slice) -> Callable[[Arguments], Arguments]:
    """Return what cuts trials, steps and features from all arguments that have them."""

    def change(arguments: Arguments) -> Arguments:
        return {
            name: a[slices[: min(AXES[name], a.ndim)]] if name in AXES and a is not None else a
            for name, a in arguments.items()
        }

    return change


def scaled(name: str, factor: float, dtype: type = float) -> Callable[[Arguments], Arguments]:
    """Return what multiplies one argument, and brings it to a type."""

    def change(arguments: Arguments) -> Arguments:
        return arguments | {name: (arguments[name] * factor).astype(dtype)}

    return change


def replaced(name: str, make: Callable[[np.ndarray], Any]) -> Callable[[Arguments], Arguments]:
    """Return what puts something else in the place of one argument."""
    return lambda arguments: arguments | {name: make(arguments[name])}


def edges(names: Iterable[str], *, fits: bool, has_steps: bool = True) -> list[Hostile]:
    """Return the cases for a callable with arguments of these names.

    Parameters
    ----------
    names : iterable of str
        Its arguments.
    fits : bool
        Whether it learns from the trials, so that their features may change.
    has_steps : bool, default=True
        Whether its X has an axis of steps.
    """
    one, every = slice(1), slice(None)
    cuts = {"one trial": (one,)}
    if has_steps:
        cuts |= {"one step": (every, one), "one step of one trial": (one, one)}
    if fits and has_steps:
        cuts |= {"one feature": (every, every, one), "one of all": (one, one, one)}
    if fits and not has_steps:
        cuts |= {"one feature": (every, one), "one of all": (one, one)}
    few = "single step|R\\^2 score is not well-defined|fewer than two samples"
    few += "|y_pred contains|single label"
    found = [Hostile(name, cut(*s), "either", warns=few) for name, s in cuts.items()]
    changes = {
        "constant X": replaced("X", np.ones_like),
        "zero X": replaced("X", np.zeros_like),
        "alike trials": replaced("X", lambda a: np.repeat(a[:1], len(a), axis=0)),
        "read-only X": replaced("X", read_only),
        "tiny X": scaled("X", 1e-30),
        "denormal X": scaled("X", 1e-310),
        "huge X": scaled("X", 1e30),
        "overflowing X": scaled("X", 1e308 / 2),
        "tiny float32 X": scaled("X", 1e-40, np.float32),
        "huge float32 X": scaled("X", 1e38, np.float32),
    }
    if "y" in names:
        changes |= {
            "constant y": replaced("y", np.ones_like),
            "zero y": replaced("y", np.zeros_like),
            "tiny y": scaled("y", 1e-30),
            "huge y": scaled("y", 1e30),
            "overflowing y": scaled("y", 1e300),
            "huge float32 y": scaled("y", 1e38, np.float32),
        }
    warns = f"{DIVERGES}|R\\^2 score|invalid value"
    found += [Hostile(name, change, "either", warns=warns) for name, change in changes.items()]
    return found
