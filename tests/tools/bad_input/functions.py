"""Entries of public functions: of data sets, networks, spectra and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge

from kpflow_sklearn import (
    KPFlowAnalyzer,
    RecurrentTrainer,
    compare,
    datasets,
    linearize,
    lyapunov,
    report,
    spectra,
    sweep,
)
from kpflow_sklearn.cells import make_cell
from tests.tools.bad_input import arrays
from tests.tools.bad_input.entries import (
    FOLDER,
    TRAINER,
    Arguments,
    Entry,
    fitted,
    network,
    some,
)
from tests.tools.bad_input.estimators import later, positive, sequences, share, targets, weights
from tests.tools.bad_input.hostile import Hostile, but, made, only, plain, without
from tests.tools.bad_input.networks import modules
from tests.tools.bad_input.operators import linearized, operators_by_name
from tests.tools.bad_input.settings import (
    Anything,
    any_of,
    choice,
    count,
    flag,
    losses,
    memory,
    path,
    real,
    seed,
    words,
)
from tests.tools.bad_input.trials import edges

AXIS = [*choice(), *plain("answer", "all", "trial", "time", "hidden")]


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every public function that does not make an operator."""
    yield from _datasets()
    yield from _spectra()
    yield from _networks()
    yield _report()


def fixed(**values: Any) -> Callable[[], Arguments]:
    return lambda: dict(values)


# ---------------------------------------------------------------------------------- datasets


def _datasets() -> Iterator[Entry]:
    # Durations in steps: a huge one would be an array of that many steps.
    duration = without(real(), "1e+300", *plain_names(10**30, 10**400))
    common = {
        "n_trials": count(), "dt": without(positive(), "1e-300"), "noise_std": real(),
        "evenly_spaced": flag(), "random_state": seed(), "return_stimuli": flag(),
        **dict.fromkeys(("context", "stimulus", "memory", "response"), duration),
    }  # fmt: skip
    good = {"n_trials": 2, "dt": 1.0, "noise_std": 0.5, "evenly_spaced": False,
            "random_state": 0, "return_stimuli": True, "context": 1, "stimulus": 1, "memory": 1,
            "response": 1}  # fmt: skip
    tasks = [*words(), *plain("answer", ["dlygo"], ("React_Pro", "delay-anti"))]
    yield Entry("make_memory_pro", datasets.make_memory_pro, fixed(**good), common)
    yield Entry("make_multitask", datasets.make_multitask,
                fixed(tasks=("MemoryPro", "DelayAnti"), **good), {**common, "tasks": tasks},
    )  # fmt: skip
    few = {k: common[k] for k in ("n_trials", "noise_std", "evenly_spaced", "random_state")}
    yield Entry(
        "make_flip_flop", datasets.make_flip_flop,
        fixed(n_trials=2, n_bits=2, n_timesteps=3, pulse_probability=0.5, dt=1.0, noise_std=0.0,
              evenly_spaced=True, random_state=0),
        {**few, "n_bits": count(), "n_timesteps": count(), "pulse_probability": real(),
         "dt": positive()},
    )  # fmt: skip
    yield Entry(
        "fetch_neurogym", datasets.fetch_neurogym,
        lambda: {"task": Environment(), "n_trials": 2, "random_state": 0, "task_params": None},
        {"task": plain("error", None, 3, 0.5, True, [], {}, Anything(), int),
         "n_trials": count(), "random_state": seed(),
         "task_params": plain("error", 3, "dt", [], True, Anything())},
    )  # fmt: skip
    yield Entry(
        "pad_sequences", lambda sequences, **p: datasets.pad_sequences(*sequences, **p),
        lambda: {"sequences": ([np.ones((3, 2)), np.ones((1, 2))],), "n_timesteps": 4},
        {"n_timesteps": count(3, optional=True), "sequences": columns()},
    )  # fmt: skip
    yield Entry(
        "trials_first", lambda arrays: datasets.trials_first(*arrays),
        lambda: {"arrays": (np.arange(12.0).reshape(3, 2, 2),)}, {"arrays": TURNED},
    )  # fmt: skip


def plain_names(*values: Any) -> list[str]:
    return [v.name for v in plain("", *values)]


class Environment:
    """The part of an environment that `fetch_neurogym` uses."""

    action_space = SimpleNamespace(n=3)

    def __init__(self) -> None:
        self.unwrapped = self

    def seed(self, seed: int) -> None:
        self.rng = np.random.RandomState(seed)

    def new_trial(self) -> None:
        n = self.rng.randint(1, 4)
        self.ob, self.gt = self.rng.standard_normal((n, 2)), self.rng.randint(3, size=n)


def columns() -> list[Hostile]:
    """Return values of ``*sequences``: a tuple with, for each argument, a list of trials."""
    one, two = np.ones((3, 2)), np.ones((1, 2))

    def each(convert: Callable) -> Callable:
        return lambda given: ([convert(trial) for trial in given[0]],)

    return [
        *made("same", {
            "lists": each(np.ndarray.tolist), "integers": each(lambda a: a.astype(int)),
            "tensors": each(torch.as_tensor), "tensors with grad": each(arrays.with_grad),
            "frames": each(pd.DataFrame), "read-only": each(arrays.read_only),
        }),
        *made("answer", {"two arguments": lambda given: (given[0], [[1, 2, 3], [4]])}),
        *made("either", {"words": lambda _: ([list("abc"), ["d"]],)}),
        *plain(
            "error", (), ([],), (None,), (3,), ("text",), ([3, 4],), ([one, None],), ([one, []],),
            ([one], [one, two]), ([one], [two]), ([one, np.ones((1, 3))],), ({},), (True,),
            ([one, np.array([["a", "b"]])],), ([np.zeros((0, 2))],), ([[1, [2, 3]]],),
            (Anything(),), ([one, Anything()],), ([[1, 2], [None]],),
            ([one, two + 1j], [one, None]),
        ),
    ]  # fmt: skip


#: Values of ``*arrays``, steps first.
TURNED = [
    *made("same", {
        "lists": lambda given: (given[0].tolist(),),
        "tensor": lambda given: (torch.as_tensor(given[0]),),
        "tensor with grad": lambda given: (arrays.with_grad(given[0]),),
        "read-only": lambda given: (arrays.read_only(given[0]),),
        "reversed twice": lambda given: (given[0][::-1].copy()[::-1],),
    }),
    *made("answer", {"two": lambda given: (given[0], given[0][..., 0])}),
    *plain("error", (), (3,), (None,), ("text",), ([1, 2],), ({},), (Anything(),), (True,),
           (np.ones((3, 2)), np.ones((2, 3))), ([[1, 2], [3]],), (np.ones(3),)),
]  # fmt: skip


# ----------------------------------------------------------------------------------- spectra


def _spectra() -> Iterator[Entry]:
    lin, ops = linearized(), operators_by_name()
    options = {
        "op": [
            *any_of(network(), lin, np.zeros((3, 3)), ops["ParameterJacobian"].T),
            *plain("answer", ops["ParameterJacobian"], lin.P.T, lin.K @ lin.P, 0.0 * lin.P,
                   1e-100 * lin.P, 1e-170 * lin.P),
            *plain("either", 1e200 * lin.P, 1e100 * lin.K),
        ],
        "gram": choice(), "reduction": choice(), "method": choice(), "n_modes": count(0),
        "n_probes": count(4, optional=True), "tol": real(open_low=True),
        "memory_limit": memory(),
        "random_state": seed(),
    }  # fmt: skip
    good = {"op": lin.PKP, "gram": "natural", "reduction": "trace", "method": "auto", "n_modes": 2,
            "n_probes": 8, "tol": 0.02, "memory_limit": None, "random_state": 0}  # fmt: skip
    threshold = share(open_low=True)
    on_axis = {"axis": AXIS, **options}
    for name in ("spectrum", "trace", "effective_dimension"):
        yield Entry(name, getattr(spectra, name), fixed(axis="time", **good), on_axis)
    yield Entry("rank", spectra.rank, fixed(axis="time", rank_threshold=0.75, **good),
                {**on_axis, "rank_threshold": threshold})  # fmt: skip

    def each(**p: Any) -> Any:
        computed = spectra.OperatorSpectra(**p)
        return [[computed.on(axis), computed.rank(axis)] for axis in computed.axes]

    yield Entry("OperatorSpectra", each, fixed(axes=("time", "hidden"), **good),
                {"axes": words(), **options})  # fmt: skip
    of_k = spectra.OperatorSpectra(lin.K, random_state=0)
    for method in ("on", "route"):
        yield Entry(f"OperatorSpectra.{method}", getattr(of_k, method), fixed(axis="time"),
                    {"axis": AXIS})  # fmt: skip
    yield Entry("OperatorSpectra.rank", of_k.rank, fixed(axis="time", threshold=0.75),
                {"axis": AXIS, "threshold": threshold})  # fmt: skip
    yield Entry("OperatorSpectra.modes", of_k.modes, fixed(k=2, tolerance=0.01),
                {"k": count(), "tolerance": real(open_low=True)})  # fmt: skip
    for method in ("norm_square", "hidden_gram"):
        yield Entry(f"OperatorSpectra.{method}", getattr(of_k, method), dict, {})
    yield Entry("Spectrum.rank", of_k.on("time").rank, fixed(threshold=0.75),
                {"threshold": threshold})  # fmt: skip
    limits = {"memory_limit": memory(), "tol": real(open_low=True, optional=True)}
    for name, more in (("lyapunov_exponents", {}), ("lyapunov_spectrum", limits)):
        yield Entry(
            name, getattr(lyapunov, name),
            fixed(linearization=lin, n_exponents=2, burn_in=0, n_trials=3, **dict.fromkeys(more)),
            {"linearization": any_of(network(), lin.P), "n_exponents": count(optional=True),
             "n_trials": count(optional=True), "burn_in": count(0), **more},
        )  # fmt: skip
    yield Entry(
        "kaplan_yorke_dimension", lyapunov.kaplan_yorke_dimension,
        lambda: {"exponents": np.array([1.0, -1.0, -2.0])},
        {"exponents": [
            *arrays.forms(),
            *without(arrays.no_array(), "half too many", "one axis", "no steps", "minus infinity",
                     "ragged objects", "ragged list", "sparse"),
            *made("same", {"Series": pd.Series}),
            *made("answer", {"directions that die": lambda a: np.array([1.0, -np.inf]),
                             "all die": lambda a: np.array([-np.inf, -np.inf]),
                             "all grow": np.abs, "zero": np.zeros_like}),
            *made("error", {"two axes": lambda a: a[:, None]}),
        ]},
    )  # fmt: skip


# ----------------------------------------------------------------------------------- networks


def _networks() -> Iterator[Entry]:
    X = without(sequences(), "half too many")
    yield Entry(
        "linearize", lambda **p: _described(linearize(**p)),
        lambda: {"network": network(), **some("X", "mask")()},
        {"network": but(modules(), {"nothing trains": "answer", "other outputs": "answer",
                                     "no readout": "answer"}),
         "X": X, "mask": arrays.masks(), "*": edges(("X",), fits=False)},
    )  # fmt: skip
    yield Entry(
        "Linearization.error", linearized().error,
        lambda: {"loss": "auto", "activity_l2": 0.0, **some("y", "loss_weight")()},
        {"y": without(targets(), "other outputs", "one word per trial", "one number per trial"),
         "loss": losses(), "activity_l2": real(), "loss_weight": weights()},
    )  # fmt: skip
    yield Entry(
        "compare", compare,
        lambda: {"runs": {"a": fitted("RecurrentTrainer"), "b": fitted("KPFlowAnalyzer")},
                 "operators": ("states", "K", "P", "PKP"), "n_probes": 8, "random_state": 0,
                 **some("X", "mask")()},
        {"runs": runs(), "X": X, "mask": arrays.masks(), "operators": words(),
         "n_probes": count(4), "random_state": seed(), "*": edges(("X",), fits=False)},
    )  # fmt: skip
    yield Entry(
        "sweep", sweep,
        lambda: {"analyzer": _small(), "grid": {"init_scale": [0.5]}, "n_jobs": None, "n_seeds": 1,
                 "cache_dir": None, **some("X", "y")()},
        {"analyzer": any_of(Ridge, fate="error"), "grid": GRIDS, "X": SWEPT, "y": SWEPT,
         "n_jobs": but(count(optional=True, largest=False), {"-7": "answer"}),
         "n_seeds": count(), "cache_dir": path(FOLDER)},
    )  # fmt: skip
    yield Entry("load_example_run", lambda: dict(datasets.load_example_run()), dict, {})
    yield Entry("make_cell", make_cell, fixed(name="leaky", alpha=0.5),
                {"name": choice(), "alpha": share(open_low=True)}, {"name": "cell"})  # fmt: skip


def _small() -> KPFlowAnalyzer:
    return KPFlowAnalyzer(RecurrentTrainer(**TRAINER), operators=("K",), axes=("time",))


def _described(lin: Any) -> Arguments:
    return {"states": lin.states, "K": lin.K, "P": lin.P, "PKP": lin.PKP}


def runs() -> list[Hostile]:
    """Return values of ``runs``."""
    good = fitted("RecurrentTrainer")
    return [
        *plain("answer", {"a": good}, {1: good, 2: good}, {"a": good, "b": good}),
        *plain("error", {"a": RecurrentTrainer()}, {"a": None}, {"a": 3}, {"a": Ridge()},
               {"a": network()}, None, [good], good, "a", 3, {}, [], True, Anything(),
               {"a": [good]}, (good,)),
    ]  # fmt: skip


FAILS = "FitFailedWarning"
GRIDS = [
    *plain("answer", {}, {"init_scale": [0.5, 1.0]}, {"init_scale": np.array([0.5])},
           [{"init_scale": [0.5]}, {"init_scale": [2.0]}], {"trainer__init_scale": (1.0,)}),
    *plain("answer", {"init_scale": ["wrong"]}, {"cell": ["no such"]}, warns=FAILS),
    *plain("error", None, 3, "init_scale", True, [], {"init_scale": 0.5}, {"init_scale": []},
           {"no such": [1]}, {3: [1]}, [{"init_scale": 3}], [3], Anything(), {"init_scale": "a"},
           {"init_scale": None}),
]  # fmt: skip
#: Trials of a sweep: a fault of theirs is the failure of every cell, told in its row.
SWEPT = [
    *made("answer", {"float32": lambda a: a.astype(np.float32)}),
    *made("same", {"list": np.ndarray.tolist, "tensor with grad": arrays.with_grad}),
    *made("answer", {"NaN": lambda a: arrays.with_first(a, np.nan),
                     "too many": lambda a: np.concatenate([a, a])}, warns=FAILS),
    *plain("answer", 3, [], warns=FAILS), *plain("error", {}, Anything()),
]  # fmt: skip


def _report() -> Entry:
    """Return the entry of `report`, which takes a second per page: few values."""
    few = ("list", "float16", "tensor with grad", "NaN", "text", "sparse", "one axis", "no trials")
    X, y = later(sequences(none="either")), targets(later=True)
    return Entry(
        "report", lambda **p: str(report(**p).suffix),
        lambda: {"analyzer": fitted("KPFlowAnalyzer"), "path": FOLDER / "page.html",
                 **some("X", "y", "mask", "loss_weight")(), "color_by": np.arange(4.0),
                 "cyclic": False, "color_label": "a", "title": "b", "about": {"data": "c"}},
        {"analyzer": any_of(KPFlowAnalyzer(), Ridge(), KPFlowAnalyzer),
         "path": plain("error", None, 3, True, [], "", FOLDER, FOLDER / "a file" / "page.html"),
         "X": only([*X, *y], *few), "y": only(y, *few, "half too many", "other outputs"),
         "mask": only(arrays.masks(), "list", "tensor", "gap", "NaN"),
         "loss_weight": only(weights(), "list", "negative", "NaN", "zero"),
         "tasks": [*plain("answer", ["a", "b", "a", "b"]), *plain("error", 3)],
         "color_by": [*made("answer", {"list": list}), *plain("error", 3, [1, 2], {})],
         "cyclic": plain("error", None, "yes", 2), "color_label": plain("error", None, 3),
         "title": [*plain("answer", None), *plain("error", 3, [])],
         "about": [*plain("answer", None), *plain("error", 3, "a", [1])]},
    )  # fmt: skip
