"""The public callables and their parameters, read from the package itself."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Iterator

PACKAGE = "kpflow_sklearn"
MODULES = (
    "", "datasets", "preprocessing", "operators", "spectra", "lyapunov", "plotting", "cells",
)  # fmt: skip

#: Methods inherited from scikit-learn whose arguments are judged too.
INHERITED = ("fit_transform", "get_feature_names_out", "score", "set_output")
#: Operators of Python that are part of the interface.
DUNDERS = ("__matmul__", "__add__", "__sub__", "__mul__", "__call__")

#: Callables and parameters without hostile values, and why; "*" stands for any characters.
EXEMPT = {
    "*.set_*_request": "scikit-learn's metadata routing, generated and tested there",
    "CheckpointError": "an exception, raised only by the package",
    "UnsupportedNetworkError": "an exception, raised only by the package",
    "Linearization": "made by linearize, whose arguments are judged",
    "LinearOperator*": "abstract: its methods are judged on every operator",
    "Spectrum": "a result: made by spectrum, whose arguments are judged",
    "LyapunovSpectrum": "a result: made by lyapunov_spectrum, whose arguments are judged",
    **dict.fromkeys(
        ("Cell*", "GRUCell*", "LSTMCell*", "LeakyCell*", "LeakyVoltageCell*", "ReluCell*",
         "TanhCell*", "WeightMap*"),
        "a declaration by the author of a cell: the package calls it with its own tensors",
    ),
    "*.network_at": "takes one of the estimator's own snapshots_",
    "*.network_after": "takes one of the estimator's own snapshots_",
    "ParameterJacobian.write": "the product without its checks, for the package's own operators",
    "*(blocks)": "a restriction to blocks that the linearization itself made",
    "Sequence*(y)": "ignored, for the convention of scikit-learn",
    "*.set_output": "scikit-learn's own",
    "*FeedForward*(sample_weight)": "of scikit-learn's RegressorMixin",
    "*(fit_params)": "the other arguments of fit, judged there",
    "*(input_features)": "scikit-learn's own check",
    "plot_range(style)": "what Matplotlib takes for a line",
    "*(options)": "the arguments of OperatorSpectra, judged by their names",
    "*Display": "holds the tables of a fitted analyzer, which from_estimator hands it",
    "*Display.from_results": "the same, from a table",
    "*Display.from_estimators": "several analyzers, each as from_estimator takes it",
    "*Display*(hue)": "a column that from_estimators writes",
    "NeuralODE.__call__": "called by the trainer with sizes that it checked",
    "NeuralODECell.forward": "called by the network with its own tensors",
}  # fmt: skip


def public_callables() -> dict[str, Callable]:
    """Return every public function, class and method by name, a method as "Class.method"."""
    callables: dict[str, Callable] = {}
    for path in MODULES:
        module = importlib.import_module(f"{PACKAGE}.{path}" if path else PACKAGE)
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in names:
            thing = getattr(module, name)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith(PACKAGE):
                continue
            if not hasattr(module, "__all__") and thing.__module__ != module.__name__:
                continue
            callables[name] = thing
            if inspect.isclass(thing):
                callables |= {f"{name}.{m}": getattr(thing, m) for m in _methods(thing)}
    return callables


def _methods(kind: type) -> Iterator[str]:
    """Yield the names of the public methods of this package, and of those in INHERITED."""
    if issubclass(kind, BaseException):
        return
    for name in dir(kind):
        if name.startswith("_") and name not in DUNDERS:
            continue
        owner = next((base for base in kind.__mro__ if name in vars(base)), object)
        ours = owner.__module__.startswith(PACKAGE)
        theirs = owner.__module__.startswith("sklearn") and name in INHERITED
        if (ours or theirs) and callable(getattr(kind, name)):
            yield name


def parameters(thing: Callable) -> list[str]:
    """Return the names of a callable's parameters except self."""
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def is_exempt(name: str) -> bool:
    """Whether a callable or parameter is exempt."""
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in EXEMPT)
