"""Sections that every report has: what was checked, all settings, versions, how to cite."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting import matplotlib_is_here
from kpflow_sklearn.reporting._page import Cell, Section, Table
from kpflow_sklearn.reporting._reading_training import source_of, training_in_words
from kpflow_sklearn.reporting._tables import from_frame, named_values

_NOT_VERIFIED = (
    "Not run: the report was made without trials. report(analyzer, path, X, y) checks on them the "
    "identities behind these numbers: gradients, adjoints, one gradient step."
)
KPFLOW = (
    "J. Hazelden, L. Driscoll, E. Shlizerman, E. Shea-Brown. KPFlow: An Operator Perspective on "
    "Dynamic Collapse Under Gradient Descent Training of Recurrent Networks. arXiv:2507.06381."
)
GRAM_FLOW = (
    "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram Metrics. "
    "arXiv:2606.09744."
)
_VERIFIED = (
    "Checked by independent computations in float64, on the network in its last state and the "
    "data given to this report; errors are relative unless said otherwise."
)
_LONGEST = 300  # Characters of a setting.


def facts(analyzer: Any, count: str, score: float | None) -> list[str]:
    """Return lines that say what was trained on what, and how well it does it.

    Parameters
    ----------
    analyzer : estimator
        A fitted analyzer.
    count : str
        On how much it was analysed.
    score : float or None
        Of the network on the trials of the report, if there are any.

    Returns
    -------
    list of str
        Lines.
    """
    n_features = analyzer.n_features_in_
    inputs = f"{n_features} input{'s' if n_features != 1 else ''}"
    names = getattr(analyzer, "feature_names_in_", None)
    if names is not None:
        inputs += f" ({_shortened(', '.join(map(str, names)))})"
    snapshots = analyzer.snapshots_
    found = [
        f"Trained: {training_in_words(analyzer)}",
        f"Analysed: {count} at {len(snapshots)} snapshot{'s' if len(snapshots) > 1 else ''}; "
        f"{inputs}",
    ]
    if hasattr(analyzer, "classes_"):
        labels = _shortened(", ".join(map(str, analyzer.classes_)))
        found.append(f"Classes: {len(analyzer.classes_)} ({labels})")
    if score is not None:
        kind = "Accuracy" if hasattr(analyzer, "classes_") else "R²"
        found.append(f"{kind} on the data given to this report: {score:.3g}")
    if not matplotlib_is_here():
        found.append(
            "No figures: matplotlib is not installed (pip install 'kpflow-sklearn[plot]')"
        )
    return found


def verification_section(checks: pd.DataFrame | None) -> Section:
    """Return the section on the identities checked, which says so if there were none."""
    if checks is None:
        return Section("Verification", [_NOT_VERIFIED])
    n_passed, n = int(checks["passed"].sum()), len(checks)
    doubt = "" if n_passed == n else " Those that do not put the numbers above in doubt."
    words = f"{n_passed} of {n} identities hold.{doubt} {_VERIFIED}"
    return Section("Verification", [words], tables=[from_frame("Identities", checks)])


def settings_section(analyzer: Any) -> Section:
    """Return the section with all parameters of the analyzer and its trainer."""
    trainer = source_of(analyzer)
    return Section(
        "Settings",
        tables=[_settings(analyzer, leave_out=("trainer",)), _settings(trainer)],
    )


def _settings(estimator: Any, leave_out: tuple[str, ...] = ()) -> Table:
    defaults = inspect.signature(type(estimator).__init__).parameters
    rows = []
    for name, value in estimator.get_params(deep=False).items():
        if name in leave_out:
            continue
        is_default = _in_words(defaults[name].default) == _in_words(value)
        rows.append([Cell(name), Cell(_in_words(value)), Cell("" if is_default else "yes")])
    headings = ["parameter", "value", "changed"]
    return Table(type(estimator).__name__, headings, rows)


def _in_words(value: Any) -> str:
    """Return a value as text of bearable length; arrays and networks may be large."""
    if isinstance(value, (np.ndarray, list, tuple, dict, set)):
        return _shortened(reprlib.repr(value))
    if inspect.isclass(value) or inspect.isroutine(value):
        return str(value.__qualname__)
    return _shortened(value if isinstance(value, str) else repr(value))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def origin_section(about: Mapping[str, str], paper: str, software: str) -> Section:
    """Return the section with versions, seed and command, and what to cite."""
    cite = f"To cite: {paper} Computed with {software}."
    values = {name: _shortened(value) for name, value in about.items()}
    return Section("Origin", [cite], tables=[named_values("Versions and origin", values, "what")])
