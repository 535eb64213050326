"""Entries of the displays and of Neural ODEs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge
from torch import nn

from kpflow_sklearn import RecurrentTrainer, cells, plotting
from tests.tools.bad_input import arrays
from tests.tools.bad_input.entries import MAKERS, TRAINER, Arguments, Entry, data, fit_data, fitted
from tests.tools.bad_input.estimators import later, positive, sequences
from tests.tools.bad_input.hostile import Hostile, made, plain, without
from tests.tools.bad_input.public import is_exempt, parameters, public_callables
from tests.tools.bad_input.settings import NAN, Anything, any_of, choice, count, flag, words

#: The estimator that each display draws.
DRAWN = {
    **dict.fromkeys(["CollapseDisplay", "SpectrumDisplay", "LyapunovDisplay", "BottleneckDisplay",
                     "TrajectoryDisplay"], "KPFlowAnalyzer"),
    "AlignmentDisplay": "TaskAlignmentAnalyzer", "GramDisplay": "GramFlowAnalyzer",
}  # fmt: skip
GOOD = {"operators": ("K", "P"), "quantity": "effective_dimension", "axis": "time",
        "kind": "flow", "iteration": 0, "panel": "loss", "cyclic": False,
        "label": "what"}  # fmt: skip
AXES = without(any_of([1, 2, 3]), "None")
#: Values of the parameters of methods; an estimator's depend on the display.
VALUES: dict[str, list[Hostile]] = {
    "ax": AXES, "quantity": choice(), "axis": choice(), "kind": choice(),
    "panel": choice(optional=True), "operators": words(), "cyclic": flag(),
    "X": later(sequences()), "mask": arrays.masks(),
    "label": plain("error", None, 3, [], Anything()),
    "iteration": [*plain("answer", None, np.int64(0)),
                  *plain("error", 99, -1, 1, 0.5, "0", "", [0], [], {}, Anything(), NAN)],
    "color_by": [
        *arrays.forms(), *made("same", {"Series": pd.Series}),
        *made("answer", {"all alike": np.ones_like, "huge": lambda a: a * 1e30}),
        *made("error", {"NaN": lambda a: arrays.with_first(a, np.nan), "too few": lambda a: a[:-1],
                        "two axes": lambda a: a[:, None]}),
        *plain("answer", None), *plain("error", 3, "text", [], {}, Anything()),
    ],
}  # fmt: skip


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every method of every display, and for Neural ODEs."""
    for name, function in public_callables().items():
        owner, _, method = name.partition(".")
        if owner in DRAWN and method and not is_exempt(name):
            yield _entry(name, owner, method, parameters(function))
    frame = pd.DataFrame({"seed 0": [9.0, 4.0], "seed 1": [7.0, 5.0]})
    yield Entry(
        "plot_range",
        lambda **p: _closed(plotting.plot_range(**p).get_lines()[0].get_xydata()),
        lambda: {"values": frame.copy(), "ax": None},
        {"values": any_of([[1, 2]], pd.DataFrame()), "ax": AXES},
    )
    yield from _neural_ode()


def _entry(name: str, owner: str, method: str, given: list[str]) -> Entry:
    kind = getattr(plotting, owner)

    def call(**p: Any) -> Any:
        on = kind if method == "from_estimator" else _drawn(owner)
        return _closed(getattr(on, method)(**p))

    def make() -> Arguments:
        made_now = {"color_by": np.arange(4.0), **data()}
        if "estimator" in given:
            made_now["estimator"] = fitted(DRAWN[owner])
        if owner == "GramDisplay":
            made_now["quantity"] = "decay"
        return {n: v for n, v in (GOOD | made_now).items() if n in given}

    values = VALUES | {"estimator": any_of(MAKERS[DRAWN[owner]](), Ridge(), Ridge,
                                           MAKERS["SequenceScaler"]())}  # fmt: skip
    hostile = {p: values[p] for p in given if p in values}
    return Entry(name, call, make, hostile, {"estimator": "estimator|class"})


@cache
def _drawn(owner: str) -> Any:
    """Return a display, made from a fitted analyzer."""
    more = {"X": data()["X"]} if owner == "TrajectoryDisplay" else {}
    return _closed(getattr(plotting, owner).from_estimator(fitted(DRAWN[owner]), **more))


def _closed(display: Any) -> Any:
    plt.close("all")
    return display


# --------------------------------------------------------------------------------- Neural ODEs


class Field(nn.Module):
    """dz/dt = tanh(W z + U x) - z."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_features + hidden_size, hidden_size)

    def forward(self, z, x):
        return torch.tanh(self.inner(torch.cat([x, z], -1))) - z


def _neural_ode() -> Iterator[Entry]:
    hostile = {"dt": without(positive(), "1e+300"), "method": choice(), "n_substeps": count()}
    good, field = {"dt": 0.5, "method": "euler", "n_substeps": 2}, Field(2, 3)

    def trained(**p: Any) -> Any:
        options = {**TRAINER, "cell": cells.NeuralODE(**p)}
        return RecurrentTrainer(**options).fit(**fit_data("RecurrentTrainer"))

    fields = any_of(lambda a, b: 3, lambda: None, Field(2, 3))
    yield Entry("NeuralODE", trained, lambda: {"field": Field, **good},
                {"field": fields, **hostile}, {"field": "field|cell"})  # fmt: skip
    yield Entry("NeuralODECell", cells.NeuralODECell, lambda: {"field": field, **good},
                {"field": any_of(), **hostile})  # fmt: skip
