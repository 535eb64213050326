"""Trials at the edge, with all arguments changed together: single, constant, huge, tiny."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np

from tests.tools.bad_input.arrays import read_only
from tests.tools.bad_input.hostile import Hostile, made

#: The arguments that hold trials, and the number of axes that they share with X.
AXES = {"X": 3, "y": 2, "mask": 2, "loss_weight": 2, "tasks": 1, "conditions": 1,
        "X_analysis": 3, "y_analysis": 2, "X_new": 3}  # fmt: skip
FEW = ("single step|R\\^2 score is not well-defined|fewer than two samples|y_pred contains|"
       "single label")  # fmt: skip
EXTREME = "ConvergenceWarning|overflow|R\\^2 score|invalid value"

Arguments = dict[str, Any]


def cut(*slices: slice) -> Callable[[Arguments], Arguments]:
    """Return a function that cuts trials, steps and features from all arguments with them."""

    def change(arguments: Arguments) -> Arguments:
        return {
            name: a[slices[: min(AXES[name], a.ndim)]] if name in AXES and a is not None else a
            for name, a in arguments.items()
        }

    return change


def changed(name: str, make: Callable[[np.ndarray], Any]) -> Callable[[Arguments], Arguments]:
    """Return a function that changes one argument."""
    return lambda arguments: arguments | {name: make(arguments[name])}


def scaled(name: str, factor: float, dtype: type = float) -> Callable[[Arguments], Arguments]:
    """Return a function that multiplies one argument, and converts it to a type."""
    return changed(name, lambda a: (a * factor).astype(dtype))


def edges(names: Container[str], *, fits: bool, has_steps: bool = True) -> list[Hostile]:
    """Return the cases for a callable with arguments of these names.

    Parameters
    ----------
    names : container of str
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
    if fits:
        all_steps, first_step = ((every,), (one,)) if has_steps else ((), ())
        cuts |= {"one feature": (every, *all_steps, one), "one of all": (one, *first_step, one)}
    changes = {
        "constant X": changed("X", np.ones_like), "zero X": changed("X", np.zeros_like),
        "alike trials": changed("X", lambda a: np.repeat(a[:1], len(a), axis=0)),
        "read-only X": changed("X", read_only), "tiny X": scaled("X", 1e-30),
        "denormal X": scaled("X", 1e-310), "huge X": scaled("X", 1e30),
        "overflowing X": scaled("X", 1e308 / 2), "tiny float32 X": scaled("X", 1e-40, np.float32),
        "huge float32 X": scaled("X", 1e38, np.float32),
    }  # fmt: skip
    if "y" in names:
        changes |= {
            "constant y": changed("y", np.ones_like), "zero y": changed("y", np.zeros_like),
            "tiny y": scaled("y", 1e-30), "huge y": scaled("y", 1e30),
            "overflowing y": scaled("y", 1e300), "huge float32 y": scaled("y", 1e38, np.float32),
        }  # fmt: skip
    cut_all = {name: cut(*slices) for name, slices in cuts.items()}
    return [*made("either", cut_all, warns=FEW), *made("either", changes, warns=EXTREME)]
