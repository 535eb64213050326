"""Entries of the estimators: their parameters, their fit, and the methods called after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from kpflow_sklearn import RecurrentTrainer
from tests.tools.bad_input import arrays
from tests.tools.bad_input.entries import (
    FOLDER,
    MAKERS,
    N_OUTPUTS,
    ON_TABLES,
    Arguments,
    Entry,
    data,
    fit_data,
    fitted,
    table,
)
from tests.tools.bad_input.hostile import Hostile, but, made, plain, warning, without
from tests.tools.bad_input.networks import (
    checkpoints,
    fails,
    modules,
    parts_given,
    perceptrons,
    steps,
)
from tests.tools.bad_input.public import parameters, public_callables
from tests.tools.bad_input.settings import (
    NAN,
    Anything,
    choice,
    count,
    flag,
    function,
    losses,
    memory,
    path,
    real,
    seed,
    verbosity,
    words,
)
from tests.tools.bad_input.trials import edges


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every public method of every estimator."""
    for kind in MAKERS:
        yield _parameters(kind)
        yield from _methods(kind)


# ------------------------------------------------------------------------------- parameters

positive = partial(real, open_low=True)
share = partial(real, 0, 1)
NAMES = plain("error", "", "no such", 3, 0.5, True, [], {}, b"rnn", Anything(), "rnn.x", ("a",))


def trainers(kind: str) -> list[Hostile]:
    """Return values of ``trainer``."""
    recurrent, layers = MAKERS["RecurrentTrainer"], MAKERS["FeedForwardTrainer"]
    common = (3, "gru", True, [], {}, Anything(), RecurrentTrainer, int)
    if kind in ON_TABLES:
        return [*plain("answer", layers(hidden_sizes=(1,))), *perceptrons(),
                *plain("error", *common, recurrent())]  # fmt: skip
    small = [recurrent(hidden_size=1), recurrent(cell="relu"), recurrent(dtype="float32"),
             recurrent(max_iter=0), recurrent(cell="lstm", n_layers=2)]  # fmt: skip
    wild = [recurrent(init_scale=1e200, cell="relu"), recurrent(learning_rate=1e200)]
    return [*plain("answer", *small), *modules(), *plain("error", *common, layers()),
            *plain("either", *wild, warns="ConvergenceWarning|overflow")]  # fmt: skip


def leave_alone(network: nn.Module) -> None:
    """Constrain nothing."""


COMMON = {"random_state": seed(), "verbose": verbosity()}
LOOP = {
    **COMMON, "learning_rate": positive(), "max_iter": count(0),
    "batch_size": count(optional=True), "tol": real(), "init_scale": real(),
    "dtype": choice(optional=True),
    "snapshots": [
        *plain("answer", 1, 2, 50, [0, 2], (1,), range(3), np.array([0, 2]), np.int64(2), [2, 0]),
        *plain("error", None, 0, -1, 1.5, 2.0, "2", True, [], [0.5], [-1], [3], [[0, 1]], {},
               "all", [None], [True], Anything(), np.array(2.0), 10**30, [10**30]),
    ],
    "optimizer": [
        *plain("answer", "adam", "SGD", "AdamW", "rmsprop", torch.optim.RMSprop, torch.optim.SGD),
        *plain("error", None, "", "lbfgs", 3, True, [], dict, torch.optim.LBFGS, int, print,
               torch.optim, nn.Linear, Anything(), lambda: None, lambda p, lr: None),
    ],
}  # fmt: skip
#: Of each class, the values of its parameters; a trainer's are made when its analyzer is tried.
PARAMETERS: dict[str, dict[str, list[Hostile]]] = {
    "RecurrentTrainer": LOOP | {
        "hidden_size": count(), "n_layers": count(), "recurrent_init": choice(), "dt": positive(),
        "tau": positive(), "noise_std": real(), "learn_initial_state": flag(), "loss": losses(),
        "activity_l2": real(), "weight_decay": real(), "grad_clip": positive(optional=True),
        "warm_start": flag(), "checkpoint_dir": path(FOLDER),
        "constraint": [*function(none="same"), *plain("answer", leave_alone)],
        "device": plain("error", None, "", "abacus", -1, 1.5, "cpu:x", [], {}, True, Anything(),
                        "meta"),
        "cell": [
            *made("same", {"numpy string": np.str_}),
            *plain("answer", "tanh", "relu", "leaky", "leaky_voltage", "lstm", nn.GRUCell,
                   nn.RNNCell),
            *plain("error", "", "GRU", "elman", b"gru", 3, None, True, [], {}, Anything(), int,
                   print, nn.LSTMCell, nn.Linear, nn.GRU, nn.Identity, lambda: None,
                   lambda a: None, lambda a, b: None, lambda a, b: 3, nn.GRUCell(2, 3),
                   nn.GRUCell(5, 7), fails),
        ],
    },
    "FeedForwardTrainer": LOOP | {
        "activation": choice(), "bias": flag(), "train_readout": flag(),
        "hidden_sizes": [
            *plain("answer", [3], (1,), np.array([3, 2]), (np.int64(3),), range(1, 3)),
            *plain("error", None, 3, 0, "3", "", [], (0,), (-1,), (1.5,), ("3",), (True,), {},
                   ((3,),), (None,), (10**30,), Anything(), True),
        ],
    },
    "SavedTraining": {
        "network": modules(), "checkpoints": checkpoints(), "recurrent": NAMES, "step": steps(),
        "readout": parts_given("readout"), "encoder": parts_given("encoder"), "loss": losses(),
        "noise": choice(), "layout": choice(),
        "check_outputs": flag(),
        "initial_state": [
            *plain("answer", np.zeros(3), [0, 0, 0], (np.zeros(3),), np.zeros((1, 1, 3))),
            *plain("error", "", "no such", "rnn", 3, 0.5, True, [], (), {}, Anything(),
                   np.zeros(4), ["a"] * 3, np.full(3, np.nan), [0, 0, np.inf], [None] * 3, b"rnn",
                   [[1], [2, 3]], np.zeros(3, complex), (np.zeros(3), np.zeros(3)),
                   [np.zeros(3)], [[0, 0, 0]], (["rnn"],), np.zeros((6, 3)), np.zeros),
        ],
        "iterations": [
            *plain("answer", [5], (5,), np.array([5]), [np.int64(5)]),
            *plain("error", 3, 0.5, "5", "", [], [1, 2], [1.5], ["5"], [-1], [True], {}, [None],
                   Anything(), [[5]], np.array(5), [NAN]),
        ],
        "parameters": [
            *plain("answer", ["rnn.*"], ("rnn.weight_hh_l0",), np.array(["rnn.*"])),
            *plain("error", "rnn.*", "", 3, 0.5, True, ["no such"], [3], [None], {}, Anything(),
                   [], (), ["out.*"], [["rnn.*"]]),
        ],
    },
    "KPFlowAnalyzer": COMMON | {
        "trainer": trainers("KPFlowAnalyzer"), "analysis_trials": count(), "n_components": count(),
        "operators": words(), "axes": words(), "analyses": words(),
        "rank_threshold": share(open_low=True),
        "gram": choice(), "reduction": choice(), "method": choice(),
        "n_probes": count(4, optional=True), "tol": real(open_low=True),
        "activity_tol": share(), "memory_limit": memory(),
        "pooling": choice(),
    },
    "TaskAlignmentAnalyzer": COMMON | {
        "trainer": trainers("TaskAlignmentAnalyzer"), "analysis_trials": count(),
        "n_groups": count(optional=True),
    },
    "GramFlowAnalyzer": COMMON | {
        "trainer": trainers("GramFlowAnalyzer"), "n_components": count(),
        "rank_threshold": share(open_low=True), "gram_pairs": count(30, optional=True),
        "max_kernel_size": count(),
    },
    "SequenceScaler": {"with_mean": flag(), "with_std": flag()},
    "SequenceVectorizer": {"pooling": choice()},
}  # fmt: skip

#: Parameters that differ from their defaults in good calls: exact in any dtype, and small.
GOOD: dict[str, Arguments] = {
    "RecurrentTrainer": {"batch_size": None, "learning_rate": 0.5},
    "FeedForwardTrainer": {"learning_rate": 0.125},
    "KPFlowAnalyzer": {"n_components": 2, "rank_threshold": 0.75, "activity_tol": 0.0},
    "GramFlowAnalyzer": {"n_components": 2, "rank_threshold": 0.75, "max_kernel_size": 100},
}


def _parameters(kind: str) -> Entry:
    def call(**given: Any) -> Any:
        estimator = MAKERS[kind](**given).fit(**fit_data(kind))
        return estimator.transform(data()["X"]) if kind.startswith("Sequence") else estimator

    def make() -> Arguments:
        return MAKERS[kind](**GOOD.get(kind, {})).get_params(deep=False)

    return Entry(kind, call, make, PARAMETERS[kind], {"trainer": "trainer|network"})


# ---------------------------------------------------------------------------------- methods


def sequences(*, none: str = "error") -> list[Hostile]:
    """Return values of X (n_trials, n_timesteps, n_features)."""
    return [
        *arrays.forms(), *arrays.no_array(none=none),
        *made("error", {"no features": lambda a: a[..., :0]}),
        *made("answer", {"booleans": lambda a: a > 0}),
        *made("same", {"a list of frames": lambda a: [pd.DataFrame(trial) for trial in a]}),
    ]  # fmt: skip


def later(values: list[Hostile]) -> list[Hostile]:
    """Return values of X after the fit: any number of trials, with the features of the fit."""
    kept = [v for v in values if v.name != "half too many"]
    return [
        *warning(kept, "feature names"),
        *made("error", {"other features": lambda a: a[..., :1],
                        "more features": lambda a: np.concatenate([a, a], -1)}),
    ]  # fmt: skip


def rows() -> list[Hostile]:
    """Return values of X (n_samples, n_features)."""
    return [*arrays.forms(), *arrays.tables(), *arrays.no_array()]


def targets(*, later: bool = False) -> list[Hostile]:
    """Return values of y (n_trials, n_timesteps, n_outputs)."""
    fate = "error" if later else "either"
    values = [
        *arrays.forms(), *arrays.no_array(none=fate),
        *made("error", {
            "other steps": lambda a: a[:, :-1], "no outputs": lambda a: a[..., :0],
            "words and numbers": lambda a: np.array(["b", 1, "a", 2], object),
            "a list of both": lambda a: ["b", 1, "a", 2],
            "a gap in words": lambda a: np.array(["b", None, "a", "a"], object),
            "NaN in words": lambda a: np.array(["b", np.nan, "a", "a"], object),
            "a date per trial": lambda a: np.zeros(len(a), "M8[s]"),
        }),
        *made(fate, {
            "other outputs": lambda a: a[..., :1], "one number per trial": lambda a: a[:, 0, 0],
            "one word per trial": lambda a: np.array(["b", "a"] * 2),
            "an object per trial": lambda a: np.array(["b", "a"] * 2, object),
            "one class": lambda a: np.zeros(len(a), int),
            "a class per step": lambda a: (a[..., 0] > 0).astype(int),
            "a boolean per step": lambda a: a[..., 0] > 0,
        }),
    ]  # fmt: skip
    return warning(values, "only one sub-task")


def values(*, later: bool = False) -> list[Hostile]:
    """Return values of y (n_samples,)."""
    return [
        *without(arrays.forms(), "every second entry"),
        *without(arrays.no_array(), "ragged list", "ragged objects", "no steps", "one axis",
                 "one axis too many", "sparse"),
        *made("same", {"Series": pd.Series, "Series with an index": arrays.reindexed}),
        *made("either", {"a column": lambda a: a[:, None]}),
        *made("error" if later else "answer", {"two columns": lambda a: np.stack([a, a], 1)}),
        *made("error", {"no columns": lambda a: a[:, None][:, :0],
                        "three axes": lambda a: a[:, None, None]}),
        *made("answer", {"booleans": lambda a: a > 0}),
    ]  # fmt: skip


def weights() -> list[Hostile]:
    """Return values of loss_weight."""
    return [
        *arrays.forms(), *arrays.no_array(none="answer"),
        *made("error", {"negative": np.negative, "zero": np.zeros_like,
                        "other steps": lambda a: a[:, :-1],
                        "an axis of others": lambda a: a[..., None] * np.ones(5)}),
        *made("answer", {"tiny": lambda a: a * 1e-30, "booleans": lambda a: a > 1,
                         "an axis of outputs": lambda a: a[..., None] * np.ones(N_OUTPUTS)}),
    ]  # fmt: skip


def iteration(*, none: str = "error") -> list[Hostile]:
    """Return values of an argument that names an iteration of the training."""
    return [
        *plain(none, None), *(plain("either", np.int64(0), 0) if none == "error" else []),
        *plain("error", -1, 1, 99, 0.5, "0", "", [], [0], {}, True, Anything(), NAN, 10**30,
               np.array([0, 2])),
    ]  # fmt: skip


SAMPLE_WEIGHTS = [
    *plain("same", None), *plain("error", 0, 1.0, "", "auto", [], [1] * 4, np.ones(4), {}, True,
                                 Anything()),
]  # fmt: skip


def analysis_sets() -> list[Hostile]:
    """Return values of analysis_set, a dict of trials and all that describes them."""

    def altered(key: str, change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
        return lambda given: given | {key: change(given[key])}

    return [
        *plain("error", {}, [], "X", "", 3, 0.5, True, Anything(), {"X": None}, {"y": 1}, {1: 2},
               [("X", 1)], {"X": "trials"}),
        *made("error", {
            "an array": lambda given: given["X"], "no targets": altered("y", lambda a: None),
            "an unknown key": lambda given: given | {"weights": given["mask"]},
            "half the targets": altered("y", lambda a: a[::2]),
            "NaN": altered("X", lambda a: a * np.nan),
            "other features": altered("X", lambda a: a[..., :1]),
            "other outputs": altered("y", lambda a: a[..., :1]),
            "a mask with a gap": altered("mask", lambda a: a[:, ::-1]),
            "negative weights": altered("loss_weight", np.negative),
            "half the labels": altered("tasks", lambda a: a[::2]),
        }),
        *made("answer", {
            "no weights": altered("loss_weight", lambda a: None),
            "no mask": altered("mask", lambda a: None),
            "no labels": altered("tasks", lambda a: None),
        }),
        *made("same", {"weights as a list": altered("loss_weight", lambda a: a.tolist())}),
    ]  # fmt: skip


PERIODS = [
    *plain("answer", None, {"a": (0, 3)}, {"a": [0, 1]}, {1: (0, 1)}, {"a": (np.int64(0), 1)}),
    *plain("error", {}, [], "a", 3, True, {"a": 3}, {"a": (0, 9)}, {"a": (1, 1)}, {"a": (2, 1)},
           {"a": (0, 1.5)}, {"a": (0, 1, 2)}, {"a": "01"}, {"rest": (0, 1)}, Anything(),
           {"a": (0, 2), "b": (1, 3)}, {"a": (None, 2)}, {"a": (False, True)}),
]  # fmt: skip
RECORDS = [
    *plain("answer", None, [0], (0, 1), range(2), np.array([0, 1]), [1, 0, 1], []),
    *plain("error", 3, "01", "a", [-1], [99], [0.5], ["0"], [None], True, [True], {}, Anything(),
           [[0]], [NAN]),
]  # fmt: skip
#: Arguments of methods with the same values wherever they occur; X and y follow below.
ARGUMENTS: dict[str, Callable[[], list[Hostile]]] = {
    "mask": arrays.masks, "loss_weight": weights, "tasks": partial(arrays.labels, none="either"),
    "conditions": arrays.labels, "periods": lambda: PERIODS, "record": lambda: RECORDS,
    "X_analysis": lambda: without(sequences(none="either"), "half too many"),
    "y_analysis": lambda: but(targets(later=True), {"None": "either"}),
    "n_steps": partial(count, 0), "learning_rate": partial(positive, optional=True),
    "start": partial(iteration, none="answer"), "first": iteration, "last": iteration,
    "X_new": lambda: but(later(rows()), {"None": "answer"}), "input_features": list,
    "analysis_set": analysis_sets,
    "transform": lambda: plain("either", None, "pandas", "no such", 3, []),
}  # fmt: skip


def _values_of(kind: str, method: str, name: str) -> list[Hostile]:
    on_tables, fits = kind in ON_TABLES, method.startswith("fit")
    if name == "y":
        return values(later=not fits) if on_tables else targets(later=not fits)
    if name == "sample_weight":
        return [] if on_tables else SAMPLE_WEIGHTS
    if name != "X":
        return ARGUMENTS[name]()
    if on_tables:
        return but(rows(), {"float32": "answer"}) if fits else later(rows())
    # The initial weights of a float32 network are drawn in float32, and differ.
    X = but(sequences(), {"float32": "answer"} if fits else {})
    if kind.startswith("Sequence"):
        return without(X, "half too many")
    return X if fits or method in ("score", "verify") else later(X)


def _methods(kind: str) -> Iterator[Entry]:
    for name, function_ in public_callables().items():
        owner, _, method = name.partition(".")
        if owner != kind or not method or method.startswith(("network_", "set_")):
            continue
        fits, given = method.startswith("fit"), parameters(function_)
        judged = [p for p in given if p != "fit_params"]
        if kind.startswith("Sequence"):
            judged = [p for p in judged if p != "y"]
        hostile = {p: _values_of(kind, method, p) for p in judged}
        apart = {p: hostile.pop(p) for p in ("X_analysis", "y_analysis") if p in hostile}
        in_one = {p: hostile.pop(p) for p in ("analysis_set",) if p in hostile}
        if "X" in given:
            hostile["*"] = edges(hostile, fits=fits, has_steps=kind not in ON_TABLES)
        call = _caller(kind, method, fits)
        yield Entry(name, call, lambda kind=kind, given=given: _good(kind, given), hostile)
        if apart:
            yield Entry(f"{name} (trials of their own)", call, lambda: _good_apart(kind), apart)
        if in_one:
            yield Entry(f"{name} (a set of trials)", call, lambda: _good_set(kind), in_one)


def _caller(kind: str, method: str, fits: bool) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        return getattr(MAKERS[kind]() if fits else fitted(kind), method)(**arguments)

    return call


def _good_apart(kind: str) -> Arguments:
    given = fit_data(kind)
    return given | {f"{name}_analysis": given[name].copy() for name in ("X", "y")}


def _good_set(kind: str) -> Arguments:
    given, analysed = fit_data(kind), data()
    del analysed["conditions"]
    return {"X": given["X"], "y": given["y"], "analysis_set": analysed}


def _good(kind: str, names: list[str]) -> Arguments:
    source = table() if kind in ON_TABLES else data()
    source |= {"n_steps": 1, "learning_rate": 0.5, "first": 0, "last": 2, "X_new": table()["X"]}
    unused = {"y"} if kind.startswith("Sequence") else set()
    unused |= {"conditions"} if kind == "KPFlowAnalyzer" else set()
    return {n: v for n, v in source.items() if n in names and n not in unused}
