"""One hostile value, made from a good one, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Hostile:
    """A value that users hand in by mistake, or in another form than expected.

    Attributes
    ----------
    name : str
        What it is.
    make : callable
        Returns it, made from the good value.
    fate : {"same", "answer", "error", "either", "same or error"}
        "same": the answer that the good value has; "answer": a finite one, or missing with its
        reason; "error": one that names the argument; the others leave the choice.
    tolerance : float
        Relative, in comparing answers.
    warns : str
        Pattern of the warnings that are due.
    with_ : dict of str to callable
        Other arguments that have to change with it.
    """

    name: str
    make: Callable[[Any], Any]
    fate: str
    tolerance: float = 1e-9
    warns: str = ""
    with_: dict[str, Callable[[Any], Any]] = field(default_factory=dict)


def plain(fate: str, *values: Any, warns: str = "") -> list[Hostile]:
    """Return values that do not depend on the good one."""
    return [Hostile(short(v), lambda _, v=v: v, fate, warns=warns) for v in values]


def short(value: Any) -> str:
    """Return a name for a value."""
    name = getattr(value, "__name__", None) or repr(value)
    return " ".join(name.split())[:40]


def but(values: Iterable[Hostile], fates: dict[str, str]) -> list[Hostile]:
    """Return values of which some, by their names, meet another fate."""
    named = dict(fates)
    out = [replace(v, fate=named.pop(v.name, v.fate)) for v in values]
    assert not named, f"no values are called {sorted(named)}"
    return out


def without(values: Iterable[Hostile], *names: str) -> list[Hostile]:
    """Return the values but those of some names."""
    values = list(values)
    assert set(names) <= {v.name for v in values}, f"no values are called {names}"
    return [v for v in values if v.name not in names]
