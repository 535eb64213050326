"""Hostile values of settings: counts, numbers, choices, flags, seeds, callables, paths."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools.bad_input.hostile import Hostile, made, plain

NAN, INF = float("nan"), float("inf")


class Anything:
    """An object without a meaning."""

    def __repr__(self) -> str:
        return "Anything()"


def retyped(**types: Callable) -> list[Hostile]:
    """Return the good value in NumPy's types; None stays None."""
    makers = {k: lambda good, t=t: None if good is None else t(good) for k, t in types.items()}
    return made("same", {k.replace("_", " "): make for k, make in makers.items()})


def count(minimum: int = 1, *, optional: bool = False, largest: bool = True) -> list[Hostile]:
    """Return hostile integers, for a parameter that has a minimum."""
    return [
        *retyped(numpy_int=np.int64, small_int=np.int8),
        *plain("either" if optional else "error", None),
        *plain("error", minimum - 1, -7, 1.5, 2.0, np.float64(2), NAN, INF, "3", b"3", True,
               np.True_, 1j, [3], (3,), {3: 3}, np.array(3), np.array([3]), Anything()),
        *(plain("error", 10**30, 2**63) if largest else []),
    ]  # fmt: skip


def memory() -> list[Hostile]:
    """Return hostile limits of memory; more than 2 GiB is valid."""
    return [*count(optional=True, largest=False), *plain("same", 2**32)]


def real(
    low: float = 0, high: float = INF, *, open_low: bool = False, optional: bool = False
) -> list[Hostile]:
    """Return hostile real numbers, for a parameter within bounds."""
    outside = [low - 0.5, -1e300, *([low] * open_low), *([2 * high] if high < INF else [])]
    return [
        *retyped(numpy_float=np.float64), *plain("either" if optional else "error", None),
        *plain("error", *outside, NAN, INF, -INF, "0.5", 1j, True, np.False_, [0.5], {},
               Anything(), np.array(0.5), np.array([0.5, 1]), np.float32("nan"), Decimal("0.5"),
               Fraction(1, 2)),
        *plain("either", 1e-300, 1e300, 10**30, 10**400, np.float16(0.5),
               warns="ConvergenceWarning|overflow"),
    ]  # fmt: skip


def choice(*, optional: bool = False) -> list[Hostile]:
    """Return hostile strings, for a parameter that is one of several."""
    return [
        *retyped(numpy_string=np.str_), *plain("either" if optional else "error", None),
        *made("error", {"upper case": lambda good: str(good).upper() + "X",
                        "bytes": lambda good: str(good).encode(),
                        "list of it": lambda good: [good]}),
        *plain("error", "", "no such", 0, 3, NAN, True, (), Anything(), np.array(["a", "b"]), str),
    ]  # fmt: skip


def losses() -> list[Hostile]:
    """Return hostile losses, by name or as functions of (outputs, y)."""

    def squares(outputs, y):
        return (outputs - y).pow(2).mean(-1)

    return [
        *choice(), *plain("answer", squares),
        *plain("error", lambda outputs: outputs, lambda outputs, y: 3,
               lambda outputs, y: outputs, lambda outputs, y: squares(outputs, y).mean(),
               lambda outputs, y: squares(outputs, y).detach(),
               lambda outputs, y: squares(outputs, y) / squares(outputs, y).mean(), len, dict),
    ]  # fmt: skip


def words(*, none: str = "error") -> list[Hostile]:
    """Return hostile sequences of distinct strings."""
    return [
        *made("same", {"list": list, "array": lambda good: np.array(list(good))}),
        *made("error", {"twice": lambda good: [*good, list(good)[0]],
                        "one word": lambda good: list(good)[0],
                        "unknown word": lambda good: [*good, "no such"]}),
        *plain(none, None),
        *plain("error", (), [], "", 3, NAN, True, [3], [None], [[]], Anything(), np.array("K")),
    ]  # fmt: skip


def flag() -> list[Hostile]:
    """Return hostile booleans."""
    return [
        *retyped(numpy_bool=np.bool_),
        *plain("error", None, "yes", "", 2, -1, 0.5, NAN, [], [True], Anything(), np.array(True),
               np.array([True, False])),
    ]  # fmt: skip


def verbosity() -> list[Hostile]:
    """Return hostile values of ``verbose``, a boolean or an integer."""
    return [
        *retyped(numpy_bool=np.bool_), *plain("same", 0),
        *plain("error", None, "yes", "", -1, 0.5, NAN, [], [True], Anything(), np.array([1, 2])),
    ]  # fmt: skip


def seed(*, none: str = "answer") -> list[Hostile]:
    """Return hostile seeds."""
    return [
        *retyped(numpy_int=np.int64),
        *made("answer", {"RandomState": lambda _: np.random.RandomState(3)}), *plain(none, None),
        *plain("error", -1, 2**32, 10**30, 1.5, NAN, "seed", b"1", 1j, True, [1], (1, 2), {},
               np.array([1, 2]), np.random.default_rng(0), Anything()),
    ]  # fmt: skip


def function(*, none: str = "error") -> list[Hostile]:
    """Return values that are not callable."""
    return [
        *plain(none, None),
        *plain("error", "", "no such", 3, 0.5, NAN, True, [], [print], {}, Anything()),
    ]


def path(folder: Path, *, none: str = "same") -> list[Hostile]:
    """Return hostile paths of folders."""
    file = folder / "a file"
    file.write_text("not a folder")
    return [
        *made("either", {"string": lambda _: str(folder / "by string"),
                         "Path": lambda _: folder / "by Path"}),
        *plain(none, None),
        *plain("error", 3, 0.5, NAN, True, [], [str(folder)], b"bytes", "", "\0", Anything()),
        *made("error", {"a file": lambda _: str(file), "below a file": lambda _: file / "below"}),
    ]  # fmt: skip


def any_of(*values: Any, fate: str = "error") -> list[Hostile]:
    """Return values that no parameter takes which expects a certain object, and further ones."""
    common = [None, 0, 3, 0.5, NAN, True, "", "no such", [], (), {}, Anything(), np.zeros(3), int]
    return plain(fate, *common, *values)
