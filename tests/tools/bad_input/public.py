"""What is public, read off the package itself: every callable and every parameter."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Iterator

PACKAGE = "kpflow_sklearn"
MODULES = (
    "", "datasets", "preprocessing", "operators", "spectra", "lyapunov", "plotting", "cells",
)  # fmt: skip

#: Methods that scikit-learn writes and users call: what they are given is judged too.
INHERITED = ("fit_transform", "get_feature_names_out", "score", "set_output")
#: Operators of Python that are part of the interface.
DUNDERS = ("__matmul__", "__add__", "__sub__", "__mul__", "__call__")

#: What takes no hostile values, and why. A name that ends in "*" stands for all that begin so.
EXEMPT = {
    "*.set_*_request": "scikit-learn's metadata routing, generated and tested there",
    "CheckpointError": "an exception, raised by the package alone",
    "UnsupportedNetworkError": "an exception, raised by the package alone",
    "Linearization": "made by linearize, whose arguments are judged",
    "LinearOperator*": "abstract: its methods are judged on every operator that there is",
    "Spectrum": "a result: made by spectrum, whose arguments are judged",
    "LyapunovSpectrum": "a result: made by lyapunov_spectrum, whose arguments are judged",
    "Cell*": "what the author of a cell declares; the package calls it with its own tensors",
    "GRUCell*": "a declaration: called by the package with its own tensors",
    "LSTMCell*": "a declaration: called by the package with its own tensors",
    "LeakyCell*": "a declaration: called by the package with its own tensors",
    "LeakyVoltageCell*": "a declaration: called by the package with its own tensors",
    "ReluCell*": "a declaration: called by the package with its own tensors",
    "TanhCell*": "a declaration: called by the package with its own tensors",
    "WeightMap*": "a declaration of the author of a cell",
    "*.network_at": "takes one of the estimator's own snapshots_",
    "ParameterJacobian.write": "the product without its checks, for the package's own operators",
    "*(blocks)": "a restriction to blocks that the linearization itself made",
    "Sequence*(y)": "ignored, for the convention of scikit-learn",
    "*.set_output": "scikit-learn's own",
    "*(sample_weight)": "of scikit-learn's RegressorMixin",
    "*(fit_params)": "the other arguments of fit, judged there",
    "sweep(fit_params)": "the other arguments of fit, judged there",
    "*(input_features)": "scikit-learn's own check",
    "plot_range(style)": "what Matplotlib takes for a line",
    "*(options)": "the arguments of OperatorSpectra, judged by their names",
    "*Display": "holds the tables of a fitted analyzer, which from_estimator hands it",
    "*Display.from_results": "the same, from a table",
    "*Display.from_estimators": "several analyzers, each as from_estimator takes it",
    "*Display*(hue)": "a column that from_estimators writes",
    "NeuralODE.__call__": "called by the trainer with sizes that it checked",
    "NeuralODECell.forward": "called by the network with its own tensors",
}


def public_callables() -> dict[str, Callable]:
    """Return every public function, class and method by name, a method as "Class.method"."""
    found: dict[str, Callable] = {}
    for path in MODULES:
        module = importlib.import_module(f"{PACKAGE}.{path}" if path else PACKAGE)
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in names:
            thing = getattr(module, name)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith(PACKAGE):
                continue
            if not hasattr(module, "__all__") and thing.__module__ != module.__name__:
                continue
            found[name] = thing
            if inspect.isclass(thing):
                found |= {f"{name}.{m}": getattr(thing, m) for m in _methods(thing)}
    return found


def _methods(kind: type) -> Iterator[str]:
    """Yield the names of the public methods that this package writes, or that users call."""
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
    """Return the names of a callable's parameters, but self."""
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def is_exempt(name: str) -> bool:
    """Whether a callable or parameter stands on the list of exceptions."""
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in EXEMPT)
