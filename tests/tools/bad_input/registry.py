"""The registry: one entry per public callable, and every case that follows from it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tests.tools.bad_input import displays, estimators, functions, operators
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
        """The name in reports."""
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
            self.entry.call, arguments, self.parameter, names=names, fate=self.hostile.fate,
            expected=lambda: good_answer(self.entry.name), tolerance=self.hostile.tolerance,
            warns=self.hostile.warns,
        )  # fmt: skip


@cache
def entries() -> dict[str, Entry]:
    """Return the whole registry by name."""
    parts = (estimators, functions, operators, displays)
    every = [entry for part in parts for entry in part.every_entry()]
    by_name = {entry.name: entry for entry in every}
    assert len(by_name) == len(every), "two entries have the same name"
    return by_name


@cache
def good_answer(name: str) -> dict[str, Any]:
    """Return the flat answer to an entry's good call, in which nothing may be missing."""
    entry = entries()[name]
    answer = flat(entry.call(**entry.good()))
    assert not gaps(answer), f"{name}: {gaps(answer)}"
    return answer


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
        if case.entry.callable == "report" and case.hostile.fate != "error":
            continue  # A page takes seconds.
        groups.setdefault((case.entry.name, case.parameter), []).append(case)
    chosen = []
    for key, group in groups.items():
        rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
        chosen += [group[i] for i in sorted(rng.permutation(len(group))[:per_parameter])]
    return chosen


def missing() -> list[str]:
    """Return the public callables and parameters without a hostile value."""
    tried: dict[str, set[str]] = {}
    for entry in entries().values():
        tried.setdefault(entry.callable, set()).update(p for p, v in entry.hostile.items() if v)
    untried = []
    for name, thing in public_callables().items():
        if name in tried:
            untried += [f"{name}({p})" for p in parameters(thing) if p not in tried[name]]
        else:
            untried.append(name)
    return [name for name in untried if not is_exempt(name) and not is_exempt(name.split("(")[0])]
