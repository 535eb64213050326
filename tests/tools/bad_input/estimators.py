"""Entries of the estimators: their parameters, their fit, and what is asked of them after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
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
from tests.tools.bad_input.hostile import Hostile, but, plain, without
from tests.tools.bad_input.networks import checkpoints, modules, perceptrons, steps
from tests.tools.bad_input.settings import (
    Anything,
    choice,
    count,
    flag,
    function,
    path,
    real,
    seed,
    verbosity,
    words,
)
from tests.tools.bad_input.trials import edges

DIVERGED = "ConvergenceWarning"


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every public method of every estimator."""
    for kind in MAKERS:
        yield _parameters(kind)
        yield from _methods(kind)


# ------------------------------------------------------------------------------- parameters


def snapshots() -> list[Hostile]:
    return [
        *plain("answer", 1, 2, 50, [0, 2], (1,), range(3), np.array([0, 2]), np.int64(2), [2, 0]),
        *plain(
            "error", None, 0, -1, 1.5, 2.0, "2", True, [], [0.5], [-1], [3], [[0, 1]], {}, "all"
        ),
        *plain("error", [None], [True], Anything(), np.array(2.0), 10**30, [10**30]),
    ]


def sizes() -> list[Hostile]:
    return [
        *plain("answer", [3], (1,), np.array([3, 2]), (np.int64(3),), range(1, 3)),
        *plain(
            "error", None, 3, 0, "3", "", [], (0,), (-1,), (1.5,), ("3",), (True,), {}, ((3,),)
        ),
        *plain("error", (None,), (10**30,), Anything(), True),
    ]


def optimizers() -> list[Hostile]:
    import torch

    return [
        *plain("answer", "adam", "sgd", torch.optim.RMSprop, torch.optim.SGD),
        *plain("error", None, "", "lbfgs", 3, True, [], dict, torch.optim.LBFGS, int, print),
        *plain("error", torch.optim, nn.Linear, Anything(), lambda: None, lambda p, lr: None),
    ]


def trainers(kind: str) -> list[Hostile]:
    if kind in ON_TABLES:
        good = MAKERS["FeedForwardTrainer"]
        mine = [*plain("answer", good(hidden_sizes=(1,))), *perceptrons()]
        wrong = MAKERS["RecurrentTrainer"]()
    else:
        good = MAKERS["RecurrentTrainer"]
        small = [good(hidden_size=1), good(cell="relu"), good(dtype="float32"), good(max_iter=0)]
        mine = [*plain("answer", *small, good(cell="lstm", n_layers=2)), *modules()]
        wild = [good(init_scale=1e200, cell="relu"), good(learning_rate=1e200)]
        mine += plain("either", *wild, warns=f"{DIVERGED}|overflow")
        wrong = MAKERS["FeedForwardTrainer"]()
    return mine + plain("error", 3, "gru", True, [], {}, Anything(), RecurrentTrainer, wrong, int)


def cells() -> list[Hostile]:
    def fails(n_features, hidden_size):
        raise RuntimeError("of the user's own")

    return [
        Hostile("numpy string", np.str_, "same"),
        *plain("answer", "tanh", "relu", "leaky", "leaky_voltage", "lstm", nn.GRUCell, nn.RNNCell),
        *plain("error", "", "GRU", "elman", b"gru", 3, None, True, [], {}, Anything(), int, print),
        *plain("error", nn.LSTMCell, nn.Linear, nn.GRU, nn.Identity, lambda: None, lambda a: None),
        *plain(
            "error", lambda a, b: None, lambda a, b: 3, nn.GRUCell(2, 3), nn.GRUCell(5, 7), fails
        ),
    ]


def _parameter_values(kind: str) -> Arguments:
    common = {"random_state": seed(), "verbose": verbosity()}
    loop = {
        "optimizer": optimizers(), "learning_rate": real(open_low=True), "max_iter": count(0),
        "batch_size": count(optional=True), "tol": real(), "snapshots": snapshots(),
        "init_scale": real(), "dtype": choice(optional=True), **common,
    }  # fmt: skip
    analysis = {"trainer": trainers(kind), "analysis_trials": count(), **common}
    return {
        "RecurrentTrainer": lambda: loop | {
            "cell": cells(), "hidden_size": count(), "n_layers": count(),
            "recurrent_init": choice(), "dt": real(open_low=True), "tau": real(open_low=True),
            "noise_std": real(), "learn_initial_state": flag(),
            "constraint": [*function(none="same"), *plain("answer", print_nothing)],
            "loss": choice(), "activity_l2": real(), "weight_decay": real(),
            "grad_clip": real(open_low=True, optional=True), "warm_start": flag(),
            "checkpoint_dir": path(FOLDER), "device": devices(),
        },
        "FeedForwardTrainer": lambda: loop | {
            "hidden_sizes": sizes(), "activation": choice(), "bias": flag(),
            "train_readout": flag(),
        },
        "SavedTraining": lambda: {
            "network": modules(), "checkpoints": checkpoints(), "recurrent": names(),
            "step": steps(), "readout": names(), "initial_state": starts(), "loss": choice(),
            "iterations": iterations(), "parameters": patterns(), "noise": choice(),
        },
        "KPFlowAnalyzer": lambda: analysis | {
            "n_components": count(), "operators": words(), "axes": words(),
            "rank_threshold": real(0, 1, open_low=True), "gram": choice(), "reduction": choice(),
            "method": choice(), "n_probes": count(4), "activity_tol": real(0, 1),
            "memory_limit": count(optional=True, largest=False), "pooling": choice(),
        },
        "TaskAlignmentAnalyzer": lambda: analysis | {"n_groups": count(optional=True)},
        "GramFlowAnalyzer": lambda: {
            "trainer": trainers(kind), "n_components": count(),
            "rank_threshold": real(0, 1, open_low=True), "gram_pairs": count(30, optional=True),
            "max_kernel_size": count(), **common,
        },
        "SequenceScaler": lambda: {"with_mean": flag(), "with_std": flag()},
        "SequenceVectorizer": lambda: {"pooling": choice()},
    }[kind]()  # fmt: skip


def print_nothing(network: nn.Module) -> None:
    """Constrain nothing."""


def devices() -> list[Hostile]:
    return plain("error", None, "", "abacus", -1, 1.5, "cpu:x", [], {}, True, Anything(), "meta")


def names() -> list[Hostile]:
    return [
        *plain("error", "", "no such", 3, 0.5, True, [], {}, b"rnn", Anything(), "rnn.x", ("a",))
    ]


def starts() -> list[Hostile]:
    return [
        *plain("answer", np.zeros(3), [0, 0, 0], (np.zeros(3),), np.zeros((1, 1, 3))),
        *plain("error", "", "no such", "rnn", 3, 0.5, True, [], (), {}, Anything(), np.zeros(4)),
        *plain(
            "error",
            ["a"] * 3,
            np.full(3, np.nan),
            [0, 0, np.inf],
            [None] * 3,
            b"rnn",
            [[1], [2, 3]],
        ),
        *plain("error", np.zeros(3, complex), (np.zeros(3), np.zeros(3))),
    ]


def iterations() -> list[Hostile]:
    return [
        *plain("answer", [5], (5,), np.array([5]), [np.int64(5)]),
        *plain(
            "error",
            3,
            0.5,
            "5",
            "",
            [],
            [1, 2],
            [1.5],
            ["5"],
            [-1],
            [True],
            {},
            [None],
            Anything(),
        ),
        *plain("error", [[5]], np.array(5), [float("nan")]),
    ]


def patterns() -> list[Hostile]:
    return [
        *plain("answer", ["rnn.*"], ("rnn.weight_hh_l0",), np.array(["rnn.*"])),
        *plain(
            "error", "rnn.*", "", 3, 0.5, True, ["no such"], [3], [None], {}, Anything(), [], ()
        ),
        *plain("error", ["out.*"], [["rnn.*"]]),
    ]


GOOD = {
    "RecurrentTrainer": {"cell": "gru", "hidden_size": 3, "n_layers": 1, "init_scale": 1.0,
        "recurrent_init": "normal", "dt": 1.0, "tau": 1.0, "noise_std": 0.0, "activity_l2": 0.0,
        "weight_decay": 0.0, "loss": "auto", "learning_rate": 0.5, "max_iter": 2, "tol": 0.0,
        "batch_size": None, "grad_clip": None, "dtype": None, "learn_initial_state": False,
        "warm_start": False, "verbose": False, "random_state": 0},
    "FeedForwardTrainer": {"activation": "relu", "bias": True, "train_readout": False,
        "init_scale": 1.0, "learning_rate": 0.125, "max_iter": 2, "tol": 0.0, "batch_size": None,
        "dtype": None, "random_state": 0, "verbose": False},
    "KPFlowAnalyzer": {"n_components": 2, "operators": ("K", "P", "PKP"), "random_state": 0,
        "axes": ("all", "time", "hidden"), "rank_threshold": 0.75, "gram": "natural",
        "reduction": "trace", "method": "auto", "n_probes": 30, "activity_tol": 0.0,
        "analysis_trials": 64, "memory_limit": None, "pooling": "last", "verbose": False},
    "TaskAlignmentAnalyzer": {"n_groups": None, "analysis_trials": 64, "random_state": 0,
        "verbose": False},
    "GramFlowAnalyzer": {"n_components": 2, "rank_threshold": 0.75, "gram_pairs": None,
        "max_kernel_size": 100, "random_state": 0, "verbose": False},
    "SavedTraining": {"loss": "auto", "noise": "off"},
    "SequenceScaler": {"with_mean": True, "with_std": True},
    "SequenceVectorizer": {"pooling": "flatten"},
}  # fmt: skip


def _parameters(kind: str) -> Entry:
    def call(**given: Any) -> Any:
        found = MAKERS[kind](**given).fit(**fit_data(kind))
        if hasattr(found, "transform") and kind.startswith("Sequence"):
            return found.transform(data()["X"])
        return found

    called = {"trainer": "trainer|network"}
    return Entry(kind, call, lambda: dict(GOOD[kind]), _parameter_values(kind), called)


# ---------------------------------------------------------------------------------- methods


def sequences(*, none: str = "error") -> list[Hostile]:
    """Values of X (n_trials, n_timesteps, n_features)."""
    return [
        *arrays.forms(),
        *arrays.no_array(none=none),
        Hostile("no features", lambda a: a[..., :0], "error"),
        Hostile("booleans", lambda a: a > 0, "answer"),
        Hostile("a list of frames", frames, "same"),
    ]


def frames(a: np.ndarray) -> list:
    import pandas as pd

    return [pd.DataFrame(trial) for trial in a]


def later(values: list[Hostile]) -> list[Hostile]:
    """X after the fit: as many trials as one likes, of the features that were there."""
    return [
        *(
            replace(v, warns=f"{v.warns}|feature names".strip("|"))
            for v in values
            if v.name != "half too many"
        ),
        Hostile("other features", lambda a: a[..., :1], "error"),
        Hostile("more features", lambda a: np.concatenate([a, a], -1), "error"),
    ]


def rows() -> list[Hostile]:
    """Values of X (n_samples, n_features)."""
    return [*arrays.forms(), *arrays.tables(), *arrays.no_array()]


def targets(*, later: bool = False) -> list[Hostile]:
    """Values of y (n_trials, n_timesteps, n_outputs)."""
    fate = "error" if later else "either"
    found = [
        *arrays.forms(),
        *arrays.no_array(none=fate),
        Hostile("other steps", lambda a: a[:, :-1], "error"),
        Hostile("no outputs", lambda a: a[..., :0], "error"),
        Hostile("other outputs", lambda a: a[..., :1], fate),
        Hostile("one number a trial", lambda a: a[:, 0, 0], fate),
        Hostile("one word a trial", lambda a: np.array(["b", "a"] * 2), fate),
        Hostile("objects a trial", lambda a: np.array(["b", "a"] * 2, object), fate),
        Hostile("one class", lambda a: np.zeros(len(a), int), fate),
        Hostile("a class a step", lambda a: (a[..., 0] > 0).astype(int), fate),
        Hostile("truth a step", lambda a: a[..., 0] > 0, fate),
        Hostile("words and numbers", lambda a: np.array(["b", 1, "a", 2], object), "error"),
        Hostile("a list of both", lambda a: ["b", 1, "a", 2], "error"),
        Hostile("a gap in words", lambda a: np.array(["b", None, "a", "a"], object), "error"),
        Hostile("NaN in words", lambda a: np.array(["b", np.nan, "a", "a"], object), "error"),
        Hostile("dates a trial", lambda a: np.zeros(len(a), "M8[s]"), "error"),
    ]
    return [replace(v, warns=f"{v.warns}|single sub-task".strip("|")) for v in found]


def values(*, later: bool = False) -> list[Hostile]:
    """Values of y (n_samples,)."""
    import pandas as pd

    column = "either"
    return [
        *without(arrays.forms(), "every second entry"),
        *without(arrays.no_array(), "ragged list", "ragged objects", "no steps", "one axis",
                 "one axis too many", "sparse"),
        Hostile("Series", pd.Series, "same"),
        Hostile("Series with an index", lambda a: pd.Series(a, np.arange(len(a)) + 5), "same"),
        Hostile("a column", lambda a: a[:, None], column),
        Hostile("two columns", lambda a: np.stack([a, a], 1), "error" if later else "answer"),
        Hostile("no columns", lambda a: a[:, None][:, :0], "error"),
        Hostile("three axes", lambda a: a[:, None, None], "error"),
        Hostile("booleans", lambda a: a > 0, "answer"),
    ]  # fmt: skip


def weights() -> list[Hostile]:
    """Values of loss_weight."""
    return [
        *arrays.forms(),
        *arrays.no_array(none="answer"),
        Hostile("negative", lambda a: -a, "error"),
        Hostile("zero", np.zeros_like, "error"),
        Hostile("tiny", lambda a: a * 1e-30, "answer"),
        Hostile("other steps", lambda a: a[:, :-1], "error"),
        Hostile("an axis of outputs", lambda a: a[..., None] * np.ones(N_OUTPUTS), "answer"),
        Hostile("an axis of others", lambda a: a[..., None] * np.ones(5), "error"),
        Hostile("booleans", lambda a: a > 1, "answer"),
    ]


def periods() -> list[Hostile]:
    return [
        *plain("answer", None, {"a": (0, 3)}, {"a": [0, 1]}, {1: (0, 1)}, {"a": (np.int64(0), 1)}),
        *plain(
            "error", {}, [], "a", 3, True, {"a": 3}, {"a": (0, 9)}, {"a": (1, 1)}, {"a": (2, 1)}
        ),
        *plain(
            "error", {"a": (0, 1.5)}, {"a": (0, 1, 2)}, {"a": "01"}, {"rest": (0, 1)}, Anything()
        ),
        *plain("error", {"a": (0, 2), "b": (1, 3)}, {"a": (None, 2)}, {"a": (False, True)}),
    ]


def _method_values(kind: str, method: str, name: str) -> list[Hostile]:
    on_tables, fits = kind in ON_TABLES, method.startswith("fit")
    scales = kind == "SequenceScaler" or kind == "SequenceVectorizer"
    if name == "X":
        if on_tables:
            return but(rows(), {"float32": "answer"}) if fits else later(rows())
        # Networks for float32 draw their weights as such, other ones.
        found = but(sequences(), {"float32": "answer"} if fits else {})
        alone = kind.startswith("Sequence")
        found = without(found, "half too many") if alone else found
        if fits or method in ("score", "verify"):
            return found
        return later(found) if not alone else found
    made = {
        "y": lambda: values(later=not fits) if on_tables else targets(later=not fits),
        "mask": arrays.masks, "loss_weight": weights,
        "tasks": lambda: arrays.labels(none="either"),
        "conditions": lambda: arrays.labels(none="answer"), "periods": periods,
        "X_analysis": lambda: without(sequences(none="either"), "half too many"),
        "y_analysis": lambda: but(targets(later=True), {"None": "either"}),
        "input_features": lambda: [], "sample_weight": lambda: [],
        "n_steps": lambda: count(0), "learning_rate": lambda: real(open_low=True, optional=True),
        "start": lambda: iteration(none="answer"), "first": iteration, "last": iteration,
        "record": records, "X_new": lambda: but(later(rows()), {"None": "answer"}),
        "transform": lambda: plain("either", None, "pandas", "no such", 3, []),
        "fit_params": lambda: [],
    }  # fmt: skip
    assert scales or name in made, f"{kind}.{method}({name})"
    return made[name]()


def iteration(*, none: str = "error") -> list[Hostile]:
    return [
        *plain(none, None),
        *(plain("either", np.int64(0), 0) if none == "error" else []),
        *plain(
            "error", -1, 1, 99, 0.5, "0", "", [], [0], {}, True, Anything(), float("nan"), 10**30
        ),
        *plain("error", np.array([0, 2])),
    ]


def records() -> list[Hostile]:
    return [
        *plain("answer", None, [0], (0, 1), range(2), np.array([0, 1]), [1, 0, 1], []),
        *plain(
            "error", 3, "01", "a", [-1], [99], [0.5], ["0"], [None], True, [True], {}, Anything()
        ),
        *plain("error", [[0]], [float("nan")]),
    ]


def _methods(kind: str) -> Iterator[Entry]:
    from tests.tools.bad_input.public import parameters, public_callables

    for name, function_ in public_callables().items():
        owner, _, method = name.partition(".")
        if owner != kind or not method or method == "network_at" or method.startswith("set_"):
            continue
        fits = method.startswith("fit")
        given = parameters(function_)
        hostile = {p: _method_values(kind, method, p) for p in given if p not in ("fit_params",)}
        if kind.startswith("Sequence"):
            hostile.pop("y", None)
        apart = {p: hostile.pop(p) for p in ("X_analysis", "y_analysis") if p in hostile}
        if "X" in given:
            hostile["*"] = edges(
                [p for p in given if p in hostile], fits=fits, has_steps=kind not in ON_TABLES
            )
        call = _caller(kind, method, fits)
        yield Entry(name, call, _good(kind, method, given), hostile)
        if apart:
            yield Entry(f"{name} (trials of their own)", call, _with_own_trials(kind), apart)


def _caller(kind: str, method: str, fits: bool) -> Any:
    def call(**arguments: Any) -> Any:
        estimator = MAKERS[kind]() if fits else fitted(kind)
        return getattr(estimator, method)(**arguments)

    return call


def _with_own_trials(kind: str) -> Any:
    def make() -> Arguments:
        found = fit_data(kind)
        return found | {"X_analysis": found["X"].copy(), "y_analysis": found["y"].copy()}

    return make


def _good(kind: str, method: str, names: list[str]) -> Any:
    source = table if kind in ON_TABLES else data
    extra = {"n_steps": 1, "learning_rate": 0.5, "first": 0, "last": 2}
    chosen = [n for n in names if n not in ("conditions",) or kind != "KPFlowAnalyzer"]

    def make() -> Arguments:
        found = {n: v for n, v in source().items() if n in chosen}
        found |= {n: v for n, v in extra.items() if n in names}
        if kind.startswith("Sequence"):
            found.pop("y", None)
        if "X_new" in names:
            found["X_new"] = table()["X"]
        return found

    return make
