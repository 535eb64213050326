"""Every public docstring describes parameters, results and errors, and has an example.

The examples are run as doctests with the rest of the suite.
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
    members = {}
    for module, names in MODULES.items():
        home = importlib.import_module(f"{PACKAGE}.{module}".rstrip("."))
        names = names or home.__all__
        members |= {f"{home.__name__}.{name}": getattr(home, name) for name in names}
    classes = {kind for kind in members.values() if inspect.isclass(kind)}
    for name, member in members.items():
        yield name, member
        if inspect.isclass(member):
            yield from added_methods(name, member, classes - {member})


def added_methods(full: str, kind: type, others: set[type]) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class adds to other public classes.

    An override of their methods has the same meaning, and is documented there.
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


def is_callable(member: Any) -> bool:
    """Tell functions, classes and methods from properties and other attributes."""
    return inspect.isclass(member) or callable(getattr(member, "__func__", member))


def breaches(name: str) -> list[str]:
    """Return the faults that numpydoc finds.

    A property needs no example, and the attributes of a dataclass are its parameters.
    """
    checks = CHECKS if is_callable(OBJECTS[name]) else CHECKS - {"EX01", "RT01"}
    if is_dataclass(OBJECTS[name]) and "Attributes\n" in inspect.getdoc(OBJECTS[name]):
        checks = checks - {"PR01"}
    return [f"{code} {text}" for code, text in validate(name)["errors"] if code in checks]


def refuses(function: Callable) -> bool:
    """Return whether a function itself raises, or calls a check of its arguments."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [getattr(f, "attr", getattr(f, "id", "")) for f in calls]
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(tree))
    return raises or any(name.lstrip("_").startswith("check_") for name in names)


def test_docstrings_are_complete():
    faults = {name: breaches(name) for name in OBJECTS}
    assert {name: breach for name, breach in faults.items() if breach} == {}


def test_errors_are_documented():
    for name, member in OBJECTS.items():
        function = member.__init__ if inspect.isclass(member) else code_of(member)
        # Generated constructors of dataclasses and exceptions have no source, and refuse nothing.
        is_written = inspect.isfunction(function) and not is_dataclass(member)
        if is_written and refuses(function):
            assert "Raises\n" in inspect.getdoc(member), f"{name} has no section Raises"


#: Functions and classes that compute something, and so must state an equation.
COMPUTES = [
    "KPFlowAnalyzer", "KPFlowAnalyzer.transform", "TaskAlignmentAnalyzer.transform",
    "GramFlowAnalyzer.attribute", "GramFlowAnalyzer.simulate", "GramFlowAnalyzer.score",
    "Linearization.error", "linearize", "compare", "preprocessing.SequenceScaler",
    "datasets.make_flip_flop", "datasets.make_memory_pro", "operators.FlowPropagator",
    "operators.ParameterOperator", "operators.TangentKernel", "spectra.OperatorSpectra",
    "spectra.Spectrum", "spectra.effective_dimension", "spectra.rank", "spectra.spectrum",
    "spectra.trace", "lyapunov.lyapunov_exponents",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPUTES)
def test_computations_state_an_equation(name):
    assert "Equation" in inspect.getdoc(OBJECTS[f"{PACKAGE}.{name}"])


def test_the_walk_finds_methods_and_inherited_ones():
    assert len(OBJECTS) > 100
    for name in ("KPFlowAnalyzer.predict", "plotting.GramDisplay.plot", "Linearization.error"):
        assert f"{PACKAGE}.{name}" in OBJECTS


def test_faults_of_a_docstring_are_found():
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
