"""Hostile values of settings: counts, numbers, choices, flags, seeds, callables, paths."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools.bad_input.hostile import Hostile, plain

NAN, INF = float("nan"), float("inf")


class Anything:
    """An object that is nothing in particular."""

    def __repr__(self) -> str:
        return "Anything()"


def count(minimum: int = 1, *, optional: bool = False, largest: bool = True) -> list[Hostile]:
    """Whole numbers of at least a minimum."""
    return [
        Hostile("numpy int", lambda good: None if good is None else np.int64(good), "same"),
        Hostile("small int", lambda good: None if good is None else np.int8(good), "same"),
        *plain("either" if optional else "error", None),
        *plain("error", minimum - 1, -7, 1.5, 2.0, np.float64(2), NAN, INF, "3", b"3", True),
        *plain("error", np.True_, 1j, [3], (3,), {3: 3}, np.array(3), np.array([3]), Anything()),
        *(plain("error", 10**30, 2**63) if largest else []),
    ]


def real(
    low: float = 0, high: float = INF, *, open_low: bool = False, optional: bool = False
) -> list[Hostile]:
    """Real numbers within bounds."""
    outside = [
        low - 0.5,
        -1e300,
        *([low] if open_low else []),
        *([2 * high] if high < INF else []),
    ]
    found = [
        Hostile("numpy float", lambda good: None if good is None else np.float64(good), "same"),
        *plain("either" if optional else "error", None),
        *plain(
            "error", *outside, NAN, INF, -INF, "0.5", 1j, True, np.False_, [0.5], {}, Anything()
        ),
        *plain(
            "error",
            np.array(0.5),
            np.array([0.5, 1]),
            np.float32("nan"),
            Decimal("0.5"),
            Fraction(1, 2),
        ),
    ]
    wild = "ConvergenceWarning|overflow"
    return found + plain("either", 1e-300, 1e300, 10**30, 10**400, np.float16(0.5), warns=wild)


def choice(*, optional: bool = False) -> list[Hostile]:
    """One of several words."""
    return [
        Hostile("numpy string", lambda good: None if good is None else np.str_(good), "same"),
        *plain("either" if optional else "error", None),
        Hostile("upper case", lambda good: str(good).upper() + "X", "error"),
        Hostile("bytes", lambda good: str(good).encode(), "error"),
        Hostile("list of it", lambda good: [good], "error"),
        *plain("error", "", "no such", 0, 3, NAN, True, (), Anything(), np.array(["a", "b"]), str),
    ]


def words(*, none: str = "error") -> list[Hostile]:
    """Sequences of distinct words out of several."""
    return [
        Hostile("list", list, "same"),
        Hostile("array", lambda good: np.array(list(good)), "same"),
        Hostile("twice", lambda good: [*good, list(good)[0]], "error"),
        Hostile("one word", lambda good: list(good)[0], "error"),
        Hostile("unknown word", lambda good: [*good, "no such"], "error"),
        *plain(none, None),
        *plain("error", (), [], "", 3, NAN, True, [3], [None], [[]], Anything(), np.array("K")),
    ]


def flag() -> list[Hostile]:
    """Return what is no flag, or another form of one."""
    return [
        Hostile("numpy bool", lambda good: np.bool_(good), "same"),
        *plain("error", None, "yes", "", 2, -1, 0.5, NAN, [], [True], Anything()),
        *plain("error", np.array(True), np.array([True, False])),
    ]


def verbosity() -> list[Hostile]:
    """Return what is neither a flag nor how much to say."""
    return [
        Hostile("numpy bool", lambda good: np.bool_(good), "same"),
        *plain("same", 0),
        *plain("error", None, "yes", "", -1, 0.5, NAN, [], [True], Anything(), np.array([1, 2])),
    ]


def seed(*, none: str = "answer") -> list[Hostile]:
    """Seeds, as scikit-learn takes them."""
    return [
        Hostile("numpy int", lambda good: np.int64(good), "same"),
        Hostile("RandomState", lambda good: np.random.RandomState(3), "answer"),
        *plain(none, None),
        *plain("error", -1, 2**32, 10**30, 1.5, NAN, "seed", b"1", 1j, True, [1], (1, 2), {}),
        *plain("error", np.array([1, 2]), np.random.default_rng(0), Anything()),
    ]


def function(*, none: str = "error") -> list[Hostile]:
    """Callables."""
    return [
        *plain(none, None),
        *plain("error", "", "no such", 3, 0.5, NAN, True, [], [print], {}, Anything()),
    ]


def path(folder: Path, *, none: str = "same") -> list[Hostile]:
    """Where something is kept on disk."""
    file = folder / "a file"
    file.write_text("not a folder")
    return [
        Hostile("string", lambda good: str(folder / "by string"), "either"),
        Hostile("Path", lambda good: folder / "by Path", "either"),
        *plain(none, None),
        *plain("error", 3, 0.5, NAN, True, [], [str(folder)], b"bytes", "", "\0", Anything()),
        Hostile("a file", lambda good: str(file), "error"),
        Hostile("below a file", lambda good: file / "below", "error"),
    ]


def any_of(*values: Any, fate: str = "error") -> list[Hostile]:
    """Return what nothing but a certain object can be mistaken for, with further values."""
    common = [None, 0, 3, 0.5, NAN, True, "", "no such", [], (), {}, Anything(), np.zeros(3), int]
    return plain(fate, *common, *values)
