"""The registry: one entry a public callable, and every case that follows from it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tests.tools.bad_input import displays, estimators, functions
from tests.tools.bad_input.answers import flat, gaps
from tests.tools.bad_input.entries import Entry
from tests.tools.bad_input.hostile import Hostile
from tests.tools.bad_input.judge import Verdict, judge
from tests.tools.bad_input.public import is_exempt, parameters, public_callables


@dataclass(frozen=True)
class Case:
    """One hostile value of one parameter."""

    entry: Entry
    parameter: str
    hostile: Hostile

    @property
    def name(self) -> str:
        """What to call it in a report."""
        return f"{self.entry.name}({self.parameter}={self.hostile.name})"

    def run(self) -> Verdict:
        """Make the call and judge it."""
        arguments = self.entry.good()
        if self.parameter == "*":
            arguments, names = self.hostile.make(arguments), "|".join(arguments)
        else:
            arguments[self.parameter] = self.hostile.make(arguments.get(self.parameter))
            names = self.entry.called.get(self.parameter, self.parameter)
        return judge(
            self.entry.call,
            arguments,
            self.parameter,
            names=names,
            fate=self.hostile.fate,
            expected=lambda: good_answer(self.entry.name),
            tolerance=self.hostile.tolerance,
            warns=self.hostile.warns,
        )


@cache
def entries() -> dict[str, Entry]:
    """Return the whole registry by name."""
    every = [*estimators.every_entry(), *functions.every_entry(), *displays.every_entry()]
    found = {entry.name: entry for entry in every}
    assert len(found) == len(every), "an entry is there twice"
    return found


@cache
def good_answer(name: str) -> dict[str, Any]:
    """Return the flat answer to an entry's good call, which must be whole."""
    entry = entries()[name]
    found = flat(entry.call(**entry.good()))
    fault = gaps(found)
    assert not fault, f"{name}: {fault}"
    return found


def cases() -> Iterator[Case]:
    """Yield every case of the registry."""
    for entry in entries().values():
        for parameter, values in entry.hostile.items():
            for hostile in values:
                yield Case(entry, parameter, hostile)


def sample(per_parameter: int = 1) -> list[Case]:
    """Return some cases of every parameter, the same in every run."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases():
        groups.setdefault((case.entry.name, case.parameter), []).append(case)
    found = []
    for key, group in groups.items():
        rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
        chosen = rng.permutation(len(group))[:per_parameter]
        found += [group[i] for i in sorted(chosen)]
    return found


def missing() -> list[str]:
    """Return the public callables and parameters that nothing hostile is tried on."""
    tried: dict[str, set[str]] = {}
    for entry in entries().values():
        tried.setdefault(entry.callable, set()).update(p for p, v in entry.hostile.items() if v)
    found = []
    for name, thing in public_callables().items():
        if is_exempt(name):
            continue
        if name not in tried:
            found.append(name)
            continue
        given = [p for p in parameters(thing) if p not in tried[name]]
        found += [f"{name}({p})" for p in given if not is_exempt(f"{name}({p})")]
    return found
