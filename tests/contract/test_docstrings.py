"""Every public name says what goes in, what comes out and what is refused, and shows a use.

The examples themselves are run as doctests with the rest of the suite.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest
from numpydoc.validate import validate

PACKAGE = "kpflow_sklearn"
MODULES = {
    "": None,
    "datasets": None,
    "preprocessing": ("SequenceScaler", "SequenceVectorizer"),
    "operators": None,
    "spectra": None,
    "lyapunov": ("lyapunov_exponents", "kaplan_yorke_dimension"),
    "plotting": None,
    "results": ("write_results", "read_results", "select"),
}
# numpydoc names: text and sections in order (GL, SS), every parameter with type and meaning (PR),
# what is returned (RT), an example (EX01).
CHECKS = {
    *("GL03", "GL05", "GL06", "GL07", "GL08", "SS01", "SS03", "SS04"),
    *("PR01", "PR02", "PR03", "PR04", "PR05", "PR07", "PR10", "RT01", "RT03", "EX01"),
}


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield each public function and class, and the methods that a class adds, by full name."""
    found = {}
    for module, names in MODULES.items():
        home = importlib.import_module(f"{PACKAGE}.{module}".rstrip("."))
        found |= {f"{home.__name__}.{name}": getattr(home, name) for name in names or home.__all__}
    classes = {kind for kind in found.values() if inspect.isclass(kind)}
    for name, member in found.items():
        yield name, member
        if inspect.isclass(member):
            yield from own_methods(name, member, classes - {member})


def own_methods(full: str, kind: type, others: set[type]) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class that the package wrote.

    What overrides a method of another public class means the same, and is documented there.
    """
    ours = [base for base in kind.__mro__ if base.__module__.startswith(PACKAGE)]
    documented = {name for base in others.intersection(ours) for name in vars(base)}
    for base in ours:
        for name, member in vars(base).items():
            if name.startswith("_") or name in documented:
                continue
            documented.add(name)
            # Fields have plain values, and stand among the attributes of the class.
            is_code = callable(member) or hasattr(member, "__get__")
            if is_code and getattr(code_of(member), "__module__", "").startswith(PACKAGE):
                yield f"{full}.{name}", member


def code_of(member: Any) -> Callable:
    """Return the function behind a method, property or class method."""
    for wrapper in ("fget", "func", "__func__"):
        member = getattr(member, wrapper, None) or member
    return member


OBJECTS = dict(public_objects())
each_object = pytest.mark.parametrize("name", OBJECTS, ids=lambda n: n.removeprefix(PACKAGE + "."))


def is_callable(member: Any) -> bool:
    """Tell functions, classes and methods from properties and other attributes."""
    return inspect.isclass(member) or callable(getattr(member, "__func__", member))


def breaches(name: str) -> list[str]:
    """Return what numpydoc finds wanting.

    A property needs no example, and the attributes of a dataclass are its parameters.
    """
    wanted = CHECKS if is_callable(OBJECTS[name]) else CHECKS - {"EX01", "RT01"}
    if is_dataclass(OBJECTS[name]) and "Attributes\n" in inspect.getdoc(OBJECTS[name]):
        wanted = wanted - {"PR01"}
    return [f"{code} {text}" for code, text in validate(name)["errors"] if code in wanted]


def refuses(function: Callable) -> bool:
    """Tell whether a function raises, or calls one of the checks of arguments, by itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [getattr(f, "attr", getattr(f, "id", "")) for f in calls]
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(tree))
    return raises or any(name.lstrip("_").startswith("check_") for name in names)


@each_object
def test_its_docstring_is_whole(name):
    assert breaches(name) == []


@each_object
def test_what_it_refuses_is_said(name):
    found = OBJECTS[name]
    function = found.__init__ if inspect.isclass(found) else code_of(found)
    # What dataclasses and exceptions write themselves has no source, and refuses nothing.
    is_written = inspect.isfunction(function) and not is_dataclass(found)
    if is_written and refuses(function):
        assert "Raises\n" in inspect.getdoc(found), f"{name} raises and does not say what"


#: What computes something of its own, and so says by which equation.
COMPUTES = [
    "KPFlowAnalyzer",
    "KPFlowAnalyzer.transform",
    "TaskAlignmentAnalyzer.transform",
    "GramFlowAnalyzer.attribute",
    "GramFlowAnalyzer.simulate",
    "GramFlowAnalyzer.score",
    "Linearization.error",
    "linearize",
    "compare",
    "preprocessing.SequenceScaler",
    "datasets.make_flip_flop",
    "datasets.make_memory_pro",
    "operators.FlowPropagator",
    "operators.ParameterOperator",
    "operators.TangentKernel",
    "spectra.OperatorSpectra",
    "spectra.Spectrum",
    "spectra.effective_dimension",
    "spectra.rank",
    "spectra.spectrum",
    "spectra.trace",
    "lyapunov.lyapunov_exponents",
]


@pytest.mark.parametrize("name", COMPUTES)
def test_what_it_computes_is_an_equation(name):
    assert "Equation" in inspect.getdoc(OBJECTS[f"{PACKAGE}.{name}"])


def test_the_walk_finds_methods_and_inherited_ones():
    assert len(OBJECTS) > 100
    for name in ("KPFlowAnalyzer.predict", "plotting.GramDisplay.plot", "Linearization.error"):
        assert f"{PACKAGE}.{name}" in OBJECTS


def test_what_is_wanting_is_found():
    def bare(x):
        """Return"""
        raise ValueError(x)

    OBJECTS[f"{__name__}.sample"] = bare
    globals()["sample"] = bare
    try:
        codes = {breach.split()[0] for breach in breaches(f"{__name__}.sample")}
    finally:
        del OBJECTS[f"{__name__}.sample"], globals()["sample"]
    assert {"SS03", "PR01", "EX01"} <= codes
    assert refuses(bare)
