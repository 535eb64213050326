"""Entries of the displays and of Neural ODEs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from torch import nn

from kpflow_sklearn import RecurrentTrainer, cells, plotting
from tests.tools.bad_input import arrays
from tests.tools.bad_input.entries import MAKERS, TRAINER, Arguments, Entry, data, fit_data, fitted
from tests.tools.bad_input.estimators import later, sequences
from tests.tools.bad_input.hostile import Hostile, plain
from tests.tools.bad_input.public import is_exempt, parameters, public_callables
from tests.tools.bad_input.settings import Anything, any_of, choice, count, flag, real, words

#: The estimator that each display draws.
DRAWN = {
    "CollapseDisplay": "KPFlowAnalyzer", "SpectrumDisplay": "KPFlowAnalyzer",
    "LyapunovDisplay": "KPFlowAnalyzer", "BottleneckDisplay": "KPFlowAnalyzer",
    "TrajectoryDisplay": "KPFlowAnalyzer", "AlignmentDisplay": "TaskAlignmentAnalyzer",
    "GramDisplay": "GramFlowAnalyzer",
}  # fmt: skip
GOOD = {"operators": ("K", "P"), "quantity": "effective_dimension", "axis": "time",
        "kind": "flow", "iteration": 0, "panel": "loss", "cyclic": False,
        "label": "what"}  # fmt: skip


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every method of every display, and for Neural ODEs."""
    for name, thing in public_callables().items():
        owner, _, method = name.partition(".")
        if owner in DRAWN and method and not is_exempt(name):
            yield _entry(name, owner, method, [p for p in parameters(thing) if p in VALUES])
    frame = pd.DataFrame({"seed 0": [9.0, 4.0], "seed 1": [7.0, 5.0]})
    ranges = Entry(
        "plot_range",
        lambda **p: _closed(plotting.plot_range(**p).get_lines()[0].get_xydata()),
        lambda: {"values": frame.copy(), "ax": None},
        {"values": any_of([[1, 2]], pd.DataFrame()), "ax": _axes("")},
    )
    yield ranges
    yield from _neural_ode()


def _entry(name: str, owner: str, method: str, given: list[str]) -> Entry:
    kind = getattr(plotting, owner)

    def call(**p: Any) -> Any:
        on = kind if method == "from_estimator" else _drawn(owner)
        return _closed(getattr(on, method)(**p))

    def make() -> Arguments:
        found = {n: v for n, v in GOOD.items() if n in given}
        if owner == "GramDisplay" and "quantity" in given:
            found["quantity"] = "decay"
        if "estimator" in given:
            found["estimator"] = fitted(DRAWN[owner])
        if "color_by" in given:
            found["color_by"] = np.array([0.0, 1.0, 2.0, 3.0])
        return found | {n: data()[n] for n in ("X", "mask") if n in given}

    hostile = {p: VALUES[p](owner) for p in given}
    return Entry(name, call, make, hostile, {"estimator": "estimator|class"})


@cache
def _drawn(owner: str) -> Any:
    """Return a display, made of a fitted analyzer."""
    more = {"X": data()["X"]} if owner == "TrajectoryDisplay" else {}
    return _closed(getattr(plotting, owner).from_estimator(fitted(DRAWN[owner]), **more))


def _closed(display: Any) -> Any:
    import matplotlib.pyplot as plt

    plt.close("all")
    return display


def _estimators(owner: str) -> list[Hostile]:
    unfitted = MAKERS[DRAWN[owner]]()
    return any_of(unfitted, Ridge(), Ridge, MAKERS["SequenceScaler"]())


def _axes(_: str) -> list[Hostile]:
    return [v for v in any_of([1, 2, 3]) if v.name != "None"]


def _iterations(_: str) -> list[Hostile]:
    return [
        *plain("answer", None, np.int64(0)),
        *plain("error", 99, -1, 1, 0.5, "0", "", [0], [], {}, Anything(), float("nan")),
    ]


def _colours(_: str) -> list[Hostile]:
    """One number a trial."""
    return [
        *arrays.forms(),
        Hostile("Series", pd.Series, "same"),
        Hostile("all alike", np.ones_like, "answer"),
        Hostile("huge", lambda a: a * 1e30, "answer"),
        Hostile("NaN", lambda a: arrays.with_first(a, np.nan), "error"),
        Hostile("too few", lambda a: a[:-1], "error"),
        Hostile("two axes", lambda a: a[:, None], "error"),
        *plain("answer", None),
        *plain("error", 3, "text", [], {}, Anything()),
    ]


VALUES: dict[str, Callable[[str], list[Hostile]]] = {
    "estimator": _estimators, "ax": _axes, "quantity": lambda _: choice(),
    "axis": lambda _: choice(), "kind": lambda _: choice(),
    "panel": lambda _: choice(optional=True), "iteration": _iterations,
    "X": lambda _: later(sequences()), "mask": lambda _: arrays.masks(),
    "operators": lambda _: words(), "cyclic": lambda _: flag(),
    "label": lambda _: plain("error", None, 3, [], Anything()),
    "color_by": _colours,
}  # fmt: skip


# --------------------------------------------------------------------------------- Neural ODEs


class Field(nn.Module):
    """dz/dt = tanh(W z + U x) - z."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_features + hidden_size, hidden_size)

    def forward(self, z, x):
        import torch

        return torch.tanh(self.inner(torch.cat([x, z], -1))) - z


def _neural_ode() -> Iterator[Entry]:
    hostile = {"dt": real(open_low=True), "method": choice(), "n_substeps": count()}
    hostile["dt"] = [v for v in hostile["dt"] if v.name not in ("1e+300",)]
    good = {"dt": 0.5, "method": "euler", "n_substeps": 2}
    fields = any_of(lambda a, b: 3, lambda: None, Field(2, 3))
    unfit = [v for v in any_of(Field) if v.name != "Field"]

    def trained(**p: Any) -> Any:
        options = {**TRAINER, "cell": cells.NeuralODE(**p)}
        return RecurrentTrainer(**options).fit(**fit_data("RecurrentTrainer"))

    field = Field(2, 3)
    yield Entry("NeuralODE", trained, lambda: {"field": Field, **good},
                {"field": fields, **hostile}, {"field": "field|cell"})  # fmt: skip
    yield Entry("NeuralODECell", cells.NeuralODECell, lambda: {"field": field, **good},
                {"field": unfit, **hostile})  # fmt: skip
