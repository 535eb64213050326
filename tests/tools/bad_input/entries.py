"""Entries of the registry, and the small data and estimators of good calls."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn.preprocessing import SequenceScaler, SequenceVectorizer
from tests.tools.bad_input.hostile import Hostile

FOLDER = Path(tempfile.mkdtemp(prefix="bad_input_"))
N_TRIALS, N_STEPS, N_FEATURES, N_OUTPUTS, N_UNITS = 4, 3, 2, 2, 3

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One public callable with the hostile values of its parameters.

    Attributes
    ----------
    name : str
        As in `public_callables`; the text after " (" distinguishes entries of one callable.
    call : callable
        Makes the call with keyword arguments, and returns the answer.
    good : callable
        Returns fresh arguments of a correct call.
    hostile : dict of str to list of Hostile
        By parameter; "*" stands for cases that change several arguments at once.
    called : dict of str to str
        The names of parameters in errors, if they differ.
    """

    name: str
    call: Callable[..., Any]
    good: Callable[[], Arguments]
    hostile: dict[str, list[Hostile]]
    called: dict[str, str] = field(default_factory=dict)

    @property
    def callable(self) -> str:
        """Name of the public callable."""
        return self.name.split(" (")[0]


def data() -> Arguments:
    """Return trials of small integers, which are exact in every dtype."""
    rng = np.random.default_rng(1)
    X = rng.integers(-2, 3, (N_TRIALS, N_STEPS, N_FEATURES)).astype(float)
    y = rng.integers(-2, 3, (N_TRIALS, N_STEPS, N_OUTPUTS)).astype(float)
    mask = np.arange(N_STEPS) < np.array([3, 2, 3, 1])[:, None]
    weight = rng.integers(1, 3, (N_TRIALS, N_STEPS)).astype(float)
    tasks = np.array(["b", "a", "c", "a"])
    conditions = np.array(["u", "u", "u", "v"])
    return {"X": X, "y": y, "mask": mask, "loss_weight": weight, "tasks": tasks,
            "conditions": conditions}  # fmt: skip


def table() -> Arguments:
    """Return rows for the feed-forward estimators."""
    rng = np.random.default_rng(2)
    X = rng.integers(-2, 3, (6, N_FEATURES)).astype(float)
    return {"X": X, "y": rng.integers(-2, 3, 6).astype(float)}


def some(*names: str, of: Callable[[], Arguments] = data) -> Callable[[], Arguments]:
    """Return a maker of some of the data."""
    return lambda: {name: value for name, value in of().items() if name in names}


class Network(nn.Module):
    """A network that a user might have trained."""

    def __init__(self, kind: type = nn.GRU, n_layers: int = 1) -> None:
        super().__init__()
        self.rnn = kind(N_FEATURES, N_UNITS, n_layers, batch_first=True)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def network(kind: type = nn.GRU, **options: Any) -> nn.Module:
    """Return an untrained network in float64, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(kind, **options).double()


def perceptron() -> nn.Sequential:
    """Return an untrained multilayer perceptron, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(N_FEATURES, 4), nn.ReLU(), nn.Linear(4, 1)).double()


TRAINER = {"cell": "gru", "hidden_size": N_UNITS, "max_iter": 2, "snapshots": 2, "random_state": 0}
MAKERS: dict[str, Callable[..., Any]] = {
    "RecurrentTrainer": lambda **p: RecurrentTrainer(**TRAINER | p),
    "SavedTraining": lambda **p: SavedTraining(**{"network": network()} | p),
    "KPFlowAnalyzer": lambda **p: KPFlowAnalyzer(**_analysis("RecurrentTrainer") | p),
    "TaskAlignmentAnalyzer": lambda **p: TaskAlignmentAnalyzer(
        **_analysis("RecurrentTrainer") | p),
    "FeedForwardTrainer": lambda **p: FeedForwardTrainer(
        **{"hidden_sizes": (4,), "max_iter": 2, "snapshots": 2, "random_state": 0} | p),
    "GramFlowAnalyzer": lambda **p: GramFlowAnalyzer(**_analysis("FeedForwardTrainer") | p),
    "SequenceScaler": SequenceScaler, "SequenceVectorizer": SequenceVectorizer,
}  # fmt: skip
ON_TABLES = ("FeedForwardTrainer", "GramFlowAnalyzer")


def _analysis(trainer: str) -> Arguments:
    return {"trainer": MAKERS[trainer](), "random_state": 0}


def fit_data(kind: str) -> Arguments:
    """Return the trials on which an estimator of this kind is fitted."""
    if kind in ON_TABLES:
        return table()
    names = ["X", "y", *(["tasks"] if kind == "TaskAlignmentAnalyzer" else [])]
    return {name: data()[name] for name in names}


@cache
def fitted(kind: str) -> Any:
    """Return an estimator fitted on the good data, shared by all calls of its methods."""
    return MAKERS[kind]().fit(**fit_data(kind))
