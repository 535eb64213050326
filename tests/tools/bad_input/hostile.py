"""A hostile value, made from a good one, and the outcome that it must have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Hostile:
    """A value that users pass by mistake, or in an unexpected form.

    Attributes
    ----------
    name : str
        Its name in reports.
    make : callable
        Returns the value, given the good one.
    fate : {"same", "answer", "error", "either", "same or error"}
        The outcome. "same": the answer to the good value; "answer": finite numbers, or a reason
        for missing ones; "error": an error that names the argument; the others allow both.
    tolerance : float
        Relative tolerance for comparing answers.
    warns : str
        Pattern of the warnings that are expected.
    """

    name: str
    make: Callable[[Any], Any]
    fate: str
    tolerance: float = 1e-9
    warns: str = ""


def made(fate: str, makers: Mapping[str, Callable], **options: Any) -> list[Hostile]:
    """Return values that are made from the good one, by name."""
    return [Hostile(name, make, fate, **options) for name, make in makers.items()]


def plain(fate: str, *values: Any, warns: str = "") -> list[Hostile]:
    """Return values that do not depend on the good one."""
    return [Hostile(short(v), lambda _, v=v: v, fate, warns=warns) for v in values]


def short(value: Any) -> str:
    """Return a name for a value."""
    name = getattr(value, "__name__", None) or repr(value)
    return " ".join(name.split())[:40]


def but(values: Iterable[Hostile], fates: dict[str, str]) -> list[Hostile]:
    """Return the values, with other fates for those of some names."""
    named = dict(fates)
    out = [replace(v, fate=named.pop(v.name, v.fate)) for v in values]
    assert not named, f"no values are called {sorted(named)}"
    return out


def without(values: Iterable[Hostile], *names: str) -> list[Hostile]:
    """Return the values except those of some names."""
    values = list(values)
    assert set(names) <= {v.name for v in values}, f"no values are called {names}"
    return [v for v in values if v.name not in names]


def only(values: Iterable[Hostile], *names: str) -> list[Hostile]:
    """Return the values of some names."""
    return [v for v in values if v.name in names]


def warning(values: Iterable[Hostile], pattern: str) -> list[Hostile]:
    """Return the values, each allowed to cause one more kind of warning."""
    return [replace(v, warns=f"{v.warns}|{pattern}".strip("|")) for v in values]
