"""Entries of functions, operators and displays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from kpflow_sklearn import (
    KPFlowAnalyzer,
    Linearization,
    RecurrentTrainer,
    compare,
    datasets,
    linearize,
    lyapunov,
    operators,
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
    data,
    fitted,
    network,
    some,
)
from tests.tools.bad_input.estimators import later, sequences, targets, weights
from tests.tools.bad_input.hostile import Hostile, but, plain, without
from tests.tools.bad_input.networks import modules
from tests.tools.bad_input.settings import (
    Anything,
    any_of,
    choice,
    count,
    flag,
    path,
    real,
    seed,
    words,
)
from tests.tools.bad_input.trials import edges

AXIS = [*choice(), *plain("answer", "all", "trial", "time", "hidden")]


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every public function, and for the classes that are no estimators."""
    yield from _datasets()
    yield from _operators()
    yield from _spectra()
    yield from _networks()


def fixed(**values: Any) -> Callable[[], Arguments]:
    return lambda: dict(values)


# ---------------------------------------------------------------------------------- datasets


def _datasets() -> Iterator[Entry]:
    lengths = ("context", "stimulus", "memory", "response")
    wide = [
        v
        for v in real()
        if v.name
        not in (
            "1e+300",
            "1" + "0" * 39,
        )
    ]
    wide = [v for v in wide if not v.name.startswith("1000")]
    common = {
        "n_trials": count(), "dt": [v for v in real(open_low=True) if v.name != "1e-300"],
        "noise_std": real(), "evenly_spaced": flag(), "random_state": seed(),
        "return_stimuli": flag(), **dict.fromkeys(lengths, wide),
    }  # fmt: skip
    numbers = {"n_trials": 2, "dt": 1.0, "noise_std": 0.5, "evenly_spaced": False,
               "random_state": 0, "return_stimuli": True}  # fmt: skip
    steps = dict.fromkeys(lengths, 1)
    names = [*words(), *plain("answer", ["dlygo"], ("React_Pro", "delay-anti"))]
    yield Entry("make_memory_pro", datasets.make_memory_pro, fixed(**numbers, **steps), common)
    yield Entry(
        "make_multitask", datasets.make_multitask,
        fixed(tasks=("MemoryPro", "DelayAnti"), **numbers, **steps), {**common, "tasks": names},
    )  # fmt: skip
    flip = {"n_trials": 2, "n_bits": 2, "n_timesteps": 3, "pulse_probability": 0.5, "dt": 1.0,
            "noise_std": 0.0, "evenly_spaced": True, "random_state": 0}  # fmt: skip
    kinds = {
        "n_bits": count(),
        "n_timesteps": count(),
        "pulse_probability": real(),
        "dt": real(open_low=True),
    }
    few = {k: common[k] for k in ("n_trials", "noise_std", "evenly_spaced", "random_state")}
    yield Entry("make_flip_flop", datasets.make_flip_flop, fixed(**flip), {**few, **kinds})
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
        lambda: {"arrays": (np.arange(12.0).reshape(3, 2, 2),)},
        {"arrays": turned()},
    )  # fmt: skip


def with_grad(a: np.ndarray) -> Tensor:
    return torch.tensor(a, requires_grad=True)


class Environment:
    """What `fetch_neurogym` asks of an environment."""

    action_space = SimpleNamespace(n=3)

    def __init__(self) -> None:
        self.unwrapped = self

    def seed(self, seed: int) -> None:
        self.rng = np.random.RandomState(seed)

    def new_trial(self) -> None:
        n = self.rng.randint(1, 4)
        self.ob, self.gt = self.rng.standard_normal((n, 2)), self.rng.randint(3, size=n)


def columns() -> list[Hostile]:
    """Values of ``*sequences``: a tuple with, for each argument, a list of trials."""
    one, two = np.ones((3, 2)), np.ones((1, 2))
    return [
        Hostile("lists", lambda s: ([a.tolist() for a in s[0]],), "same"),
        Hostile("integers", lambda s: ([a.astype(int) for a in s[0]],), "same"),
        Hostile("tensors", lambda s: ([torch.as_tensor(a) for a in s[0]],), "same"),
        Hostile("tensors with grad", lambda s: ([with_grad(a) for a in s[0]],), "same"),
        Hostile("frames", lambda s: ([pd.DataFrame(a) for a in s[0]],), "same"),
        Hostile("read-only", lambda s: ([arrays.read_only(a) for a in s[0]],), "same"),
        Hostile("two arguments", lambda s: (s[0], [[1, 2, 3], [4]]), "answer"),
        Hostile("words", lambda s: ([list("abc"), ["d"]],), "either"),
        *plain(
            "error", (), ([],), (None,), (3,), ("text",), ([3, 4],), ([one, None],), ([one, []],),
            ([one], [one, two]), ([one], [two]), ([one, np.ones((1, 3))],), ({},), (True,),
            ([one, np.array([["a", "b"]])],), ([np.zeros((0, 2))],), ([[1, [2, 3]]],),
            (Anything(),),
            ([one, Anything()],), ([[1, 2], [None]],), ([one, two + 1j], [one, None]),
        ),
    ]  # fmt: skip


def turned() -> list[Hostile]:
    """Values of ``*arrays``, steps first."""
    return [
        Hostile("lists", lambda s: (s[0].tolist(),), "same"),
        Hostile("tensor", lambda s: (torch.as_tensor(s[0]),), "same"),
        Hostile("tensor with grad", lambda s: (torch.tensor(s[0], requires_grad=True),), "same"),
        Hostile("read-only", lambda s: (arrays.read_only(s[0]),), "same"),
        Hostile("reversed twice", lambda s: (s[0][::-1].copy()[::-1],), "same"),
        Hostile("two", lambda s: (s[0], s[0][..., 0]), "answer"),
        *plain("error", (), (3,), (None,), ("text",), ([1, 2],), ({},), (Anything(),), (True,)),
        *plain("error", (np.ones((3, 2)), np.ones((2, 3))), ([[1, 2], [3]],), (np.ones(3),)),
    ]


# --------------------------------------------------------------------------------- operators


@cache
def linearized() -> Linearization:
    return linearize(network(), data()["X"], data()["mask"])


@cache
def made() -> dict[str, operators.LinearOperator]:
    lin = linearized()
    return {
        "ParameterJacobian": lin.J_theta, "ParameterOperator": lin.K, "FlowPropagator": lin.P,
        "InversePropagator": lin.P.inverse(), "TangentKernel": lin.PKP,
    }  # fmt: skip


def trajectories() -> list[Hostile]:
    """Right factors of ``@``; the good value is a tensor in the operator's dtype."""
    return [
        Hostile("array", lambda q: q.numpy(), "same"),
        Hostile("array of integers", lambda q: q.numpy().astype(int), "same"),
        Hostile("read-only array", lambda q: arrays.read_only(q.numpy()), "same"),
        Hostile("object array", lambda q: q.numpy().astype(object), "same"),
        Hostile("reversed array", lambda q: q.numpy()[::-1].copy()[::-1], "same"),
        Hostile("with grad", lambda q: q.clone().requires_grad_(), "same"),
        Hostile("strided", lambda q: q.repeat_interleave(2, -1)[..., ::2], "same"),
        Hostile("expanded", lambda q: q[..., :1].expand(q.shape), "answer"),
        Hostile("several", lambda q: torch.stack([q, q]), "answer"),
        Hostile("none of them", lambda q: torch.stack([q])[:0], "either"),
        Hostile("zero", torch.zeros_like, "answer"),
        Hostile("tiny", lambda q: q * 1e-300, "answer"),
        Hostile("huge", lambda q: q * 1e100, "answer"),
        Hostile("float32", lambda q: q.float(), "error"),
        Hostile("integers", lambda q: q.long(), "error"),
        Hostile("complex", lambda q: q + 0j, "error"),
        Hostile("complex array", lambda q: q.numpy() + 1j, "error"),
        Hostile("array of words", lambda q: q.numpy().astype(str), "error"),
        Hostile("array of None", lambda q: np.full(q.shape, None), "error"),
        Hostile("other shape", lambda q: q[..., :1], "error"),
        Hostile("no axis", lambda q: q.sum(), "error"),
        Hostile("in no memory", lambda q: q.to("meta"), "error"),
        Hostile("sparse", lambda q: q.to_sparse(), "error"),
        *plain("error", None, 3, 0.5, "text", [], [1.0], {}, True, Anything(), np.array(3.0)),
    ]


def _operators() -> Iterator[Entry]:
    tangent = any_of("K", network())
    blocks: dict[str, list[Hostile]] = {}
    for name, op in made().items():
        kind = getattr(operators, name)
        if name == "TangentKernel":
            yield Entry(
                name, lambda **p: operators.TangentKernel(**p),
                lambda: {"parameter_operator": linearized().K, "propagator": linearized().P},
                {"parameter_operator": any_of(linearized().P),
                 "propagator": any_of(linearized().K)},
            )  # fmt: skip
        else:
            yield Entry(
                name,
                kind,
                lambda: {"tangent": linearized().tangent},
                {"tangent": tangent, **blocks},
            )
        yield from _operator_methods(name, op)


def _operator_methods(name: str, op: operators.LinearOperator) -> Iterator[Entry]:
    rng = np.random.default_rng(0)
    q = torch.as_tensor(rng.integers(-2, 3, op.in_shape).astype(float))
    for method, argument in (("__matmul__", "other"), ("apply_", "q")):
        hostile = trajectories()
        if method == "apply_":
            lost = ("array", "array of integers", "read-only array", "object array",
                    "reversed array", "expanded")  # fmt: skip
            hostile = [*without(hostile, *lost), *plain("error", np.zeros(op.in_shape))]

        def call(method: str = method, **p: Any) -> Any:
            (given,) = p.values()
            if method == "__matmul__":
                return op @ given
            return op.apply_(given.clone() if isinstance(given, Tensor) else given)

        yield Entry(
            f"{name}.{method}", call, lambda argument=argument: {argument: q.clone()},
            {argument: hostile}, {argument: f"{name}|_Adjoint"},
        )  # fmt: skip
    other = any_of("K", np.zeros(op.out_shape), linearized().states)
    if name != "ParameterJacobian":
        other = [*other, *plain("error", made()["ParameterJacobian"])]
    hostile, called = {"other": other}, {"other": f"{name}|_Scaled"}
    good = lambda: {"other": op}  # noqa: E731
    yield Entry(f"{name}.__add__", lambda other: op + other, good, hostile, called)
    yield Entry(f"{name}.__sub__", lambda other: op - other, good, hostile, called)
    factors = [v for v in real(-1e400) if v.fate == "error" and v.name not in ("-inf", "-1e+300")]
    yield Entry(
        f"{name}.__mul__", lambda factor: op * factor, lambda: {"factor": 2.0},
        {"factor": [*factors, *plain("answer", -1, 0, np.float64(3), 2)]},
        {"factor": name},
    )  # fmt: skip
    yield Entry(
        f"{name}.to_dense",
        op.to_dense,
        lambda: {"chunk_size": 7},
        {"chunk_size": count(largest=False)},
    )
    yield Entry(f"{name}.to_scipy", op.to_scipy, dict, {})
    slices = [
        *plain("either", slice(None), slice(0, 1), slice(-1, None), slice(9, 12), slice(2, 1)),
        *any_of([0, 1], np.array([True, False, True, False]), slice("a"), slice(0.5)),
    ]
    yield Entry(
        f"{name}.on_trials", op.on_trials, lambda: {"trials": slice(0, 2)}, {"trials": slices}
    )
    if name == "ParameterJacobian":
        vectors = without(trajectories(), "several", "array", "array of integers",
                          "read-only array", "object array", "reversed array", "none of them",
                          "complex", "float32", "integers")  # fmt: skip
        yield Entry(f"{name}.to_parameters", op.to_parameters, lambda: {"v": q.clone()},
                    {"v": [*vectors, *plain("error", np.zeros(op.in_shape))]})  # fmt: skip
    if name == "ParameterOperator":
        yield Entry(f"{name}.compress", op.compress, lambda: {"tolerance": 0.0, "rank": None},
                    {"tolerance": real(0, 1), "rank": count(optional=True)})  # fmt: skip
    if name == "FlowPropagator":
        yield Entry(f"{name}.inverse", op.inverse, dict, {})


# ----------------------------------------------------------------------------------- spectra


def _spectra() -> Iterator[Entry]:
    options = {
        "gram": choice(), "reduction": choice(), "method": choice(), "n_modes": count(0),
        "n_probes": count(4), "memory_limit": count(optional=True, largest=False),
        "random_state": seed(),
    }  # fmt: skip
    good = {"gram": "natural", "reduction": "trace", "method": "auto", "n_modes": 2, "n_probes": 8,
            "memory_limit": None, "random_state": 0}  # fmt: skip
    ops = [
        *any_of(network(), linearized(), np.zeros((3, 3)), made()["ParameterJacobian"].T),
        *plain(
            "answer",
            made()["ParameterJacobian"],
            linearized().P.T,
            linearized().K @ linearized().P,
        ),
        *plain("answer", 0.0 * linearized().P, 1e-100 * linearized().P, 1e-170 * linearized().P),
        *plain("either", 1e200 * linearized().P, 1e100 * linearized().K),
    ]
    for name in ("spectrum", "trace", "effective_dimension", "rank"):
        hostile = {"op": ops, "axis": AXIS, **options}
        first = {"op": linearized().PKP, "axis": "time", **good}
        if name == "rank":
            hostile["rank_threshold"], first["rank_threshold"] = real(0, 1, open_low=True), 0.75
        yield Entry(name, getattr(spectra, name), fixed(**first), hostile)

    def each(**p: Any) -> Any:
        found = spectra.OperatorSpectra(**p)
        return [[found.on(axis), found.rank(axis)] for axis in found.axes]

    first = {"op": linearized().PKP, "axes": ("time", "hidden"), **good}
    yield Entry("OperatorSpectra", each, fixed(**first),
                {"op": ops, "axes": words(), **options})  # fmt: skip
    found = spectra.OperatorSpectra(linearized().K, random_state=0)
    one = {"axis": AXIS}
    yield Entry("OperatorSpectra.on", found.on, fixed(axis="time"), one)
    yield Entry("OperatorSpectra.rank", found.rank, fixed(axis="time", threshold=0.75),
                {**one, "threshold": real(0, 1, open_low=True)})  # fmt: skip
    yield Entry("OperatorSpectra.route", found.route, fixed(axis="time"), one)
    yield Entry("OperatorSpectra.norm_square", found.norm_square, dict, {})
    yield Entry("OperatorSpectra.hidden_gram", found.hidden_gram, dict, {})
    yield Entry("Spectrum.rank", found.on("time").rank, fixed(threshold=0.75),
                {"threshold": real(0, 1, open_low=True)})  # fmt: skip
    for name in ("lyapunov_exponents", "lyapunov_spectrum"):
        yield Entry(
            name, getattr(lyapunov, name),
            lambda: {"linearization": linearized(), "n_exponents": 2, "burn_in": 0,
                     "n_trials": 3},
            {"linearization": any_of(network(), linearized().P),
             "n_exponents": count(optional=True), "n_trials": count(optional=True),
             "burn_in": count(0)},
        )  # fmt: skip
    yield Entry(
        "kaplan_yorke_dimension", lyapunov.kaplan_yorke_dimension,
        lambda: {"exponents": np.array([1.0, -1.0, -2.0])},
        {"exponents": [
            *arrays.forms(),
            *without(arrays.no_array(), "half too many", "one axis", "no steps", "minus infinity",
                     "ragged objects", "ragged list", "sparse"),
            Hostile("Series", pd.Series, "same"),
            Hostile("directions that die", lambda a: np.array([1.0, -np.inf]), "answer"),
            Hostile("all die", lambda a: np.array([-np.inf, -np.inf]), "answer"),
            Hostile("all grow", np.abs, "answer"),
            Hostile("zero", np.zeros_like, "answer"),
            Hostile("two axes", lambda a: a[:, None], "error"),
        ]},
    )  # fmt: skip


# ----------------------------------------------------------------------------------- networks


def _networks() -> Iterator[Entry]:
    X = without(sequences(), "half too many")
    yield Entry(
        "linearize", lambda **p: _described(linearize(**p)),
        lambda: {"network": network(), **some("X", "mask")()},
        {"network": but(modules(), {"nothing trains": "answer", "other outputs": "answer"}),
         "X": X, "mask": arrays.masks(),
         "*": edges(("X",), fits=False)},
    )  # fmt: skip
    yield Entry(
        "Linearization.error", linearized().error,
        lambda: {"loss": "auto", "activity_l2": 0.0, **some("y", "loss_weight")()},
        {"y": without(targets(), "other outputs", "one word a trial", "one number a trial"),
         "loss": choice(), "activity_l2": real(), "loss_weight": weights()},
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
        {"analyzer": any_of(Ridge, fate="error"), "grid": grids(), "X": swept(), "y": swept(),
         "n_jobs": but(count(optional=True, largest=False), {"-7": "answer"}),
         "n_seeds": count(), "cache_dir": path(FOLDER)},
    )  # fmt: skip
    yield from _reports()
    yield Entry("load_example_run", lambda: dict(datasets.load_example_run()), dict, {})
    yield Entry("make_cell", make_cell, fixed(name="leaky", alpha=0.5),
                {"name": choice(), "alpha": real(0, 1, open_low=True)},
                {"name": "cell"})  # fmt: skip


def _reports() -> Iterator[Entry]:
    """Yield the entry of `report`, whose pages take a second each: few values."""
    few = ("list", "float16", "tensor with grad", "NaN", "text", "sparse", "one axis", "no trials")
    chosen = [v for v in (*later(sequences(none="either")), *targets(later=True)) if v.name in few]
    half = [v for v in targets(later=True) if v.name in (*few, "half too many", "other outputs")]
    yield Entry(
        "report", lambda **p: str(report(**p).suffix),
        lambda: {"analyzer": fitted("KPFlowAnalyzer"), "path": FOLDER / "page.html",
                 **some("X", "y", "mask", "loss_weight")(), "color_by": np.arange(4.0),
                 "cyclic": False, "color_label": "a", "title": "b", "about": {"data": "c"}},
        {"analyzer": any_of(KPFlowAnalyzer(), Ridge(), KPFlowAnalyzer),
         "path": plain("error", None, 3, True, [], "", FOLDER, FOLDER / "a file" / "page.html"),
         "X": chosen, "y": half,
         "mask": [v for v in arrays.masks() if v.name in ("list", "tensor", "gap", "NaN")],
         "loss_weight": [v for v in weights() if v.name in ("list", "negative", "NaN", "zero")],
         "tasks": [*plain("answer", ["a", "b", "a", "b"]), *plain("error", 3)],
         "color_by": [Hostile("list", list, "answer"), *plain("error", 3, [1, 2], {})],
         "cyclic": plain("error", None, "yes", 2), "color_label": plain("error", None, 3),
         "title": [*plain("answer", None), *plain("error", 3, [])],
         "about": [*plain("answer", None), *plain("error", 3, "a", [1])]},
    )  # fmt: skip


def _small() -> KPFlowAnalyzer:
    return KPFlowAnalyzer(RecurrentTrainer(**TRAINER), operators=("K",), axes=("time",))


def swept() -> list[Hostile]:
    """Return trials; what is wrong with them is the failure of every cell, in its row."""
    return [
        Hostile("float32", lambda a: a.astype(np.float32), "answer"),
        Hostile("list", lambda a: a.tolist(), "same"),
        Hostile("tensor with grad", lambda a: torch.tensor(a, requires_grad=True), "same"),
        Hostile("NaN", lambda a: arrays.with_first(a, np.nan), "answer", warns="FitFailedWarning"),
        Hostile("too many", lambda a: np.concatenate([a, a]), "answer", warns="FitFailedWarning"),
        *plain("answer", 3, [], warns="FitFailedWarning"),
        *plain("error", {}, Anything()),
    ]


def _described(lin: Linearization) -> Arguments:
    return {"states": lin.states, "K": lin.K, "P": lin.P, "PKP": lin.PKP}


def runs() -> list[Hostile]:
    good = fitted("RecurrentTrainer")
    unfitted = RecurrentTrainer()
    return [
        *plain("answer", {"a": good}, {1: good, 2: good}, {"a": good, "b": good}),
        *plain("error", {"a": unfitted}, {"a": None}, {"a": 3}, {"a": Ridge()}, {"a": network()}),
        *plain(
            "error", None, [good], good, "a", 3, {}, [], True, Anything(), {"a": [good]}, (good,)
        ),
    ]


def grids() -> list[Hostile]:
    return [
        *plain(
            "answer",
            {},
            {"init_scale": [0.5, 1.0]},
            [{"init_scale": [0.5]}, {"init_scale": [2.0]}],
        ),
        *plain("answer", {"init_scale": np.array([0.5])}, {"trainer__init_scale": (1.0,)}),
        *plain(
            "answer", {"init_scale": ["wrong"]}, {"cell": ["no such"]}, warns="FitFailedWarning"
        ),
        *plain("error", None, 3, "init_scale", True, [], {"init_scale": 0.5}, {"init_scale": []}),
        *plain(
            "error",
            {"no such": [1]},
            {3: [1]},
            [{"init_scale": 3}],
            [3],
            Anything(),
            {"init_scale": "a"},
        ),
        *plain("error", {"init_scale": None}),
    ]
