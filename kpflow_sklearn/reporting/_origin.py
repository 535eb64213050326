"""The facts in every report, for the templates page.html and common.html."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.reporting._reading_training import source_of, training_in_words
from kpflow_sklearn.reporting._tables import Table, from_frame, named_values

_LONGEST = 300  # Characters of a setting.


def common_facts(analyzer: Any, origin: Mapping[str, str]) -> dict[str, Any]:
    """Return the network's training, inputs and classes, all parameters, and versions."""
    about = {name: _shortened(value) for name, value in origin.items()}
    return {
        "training": training_in_words(analyzer),
        "features": _listed(getattr(analyzer, "feature_names_in_", ())),
        "classes": _listed(getattr(analyzer, "classes_", ())),
        "parameters": (_settings(analyzer, leave_out="trainer"), _settings(source_of(analyzer))),
        "versions": named_values("Versions and origin", about),
    }


def _settings(estimator: Any, leave_out: str = "") -> Table:
    parameters = inspect.signature(type(estimator).__init__).parameters
    rows = []
    for name, value in estimator.get_params(deep=False).items():
        shown, default = _in_words(value), _in_words(parameters[name].default)
        if name != leave_out:
            rows.append((name, shown, "" if shown == default else "yes"))
    frame = pd.DataFrame(rows, columns=["parameter", "value", "changed"])
    return from_frame(type(estimator).__name__, frame)


def _in_words(value: Any) -> str:
    """Return a value as text, shortened because arrays and networks may be large."""
    if isinstance(value, (np.ndarray, list, tuple, dict, set)):
        return _shortened(reprlib.repr(value))
    if inspect.isclass(value) or inspect.isroutine(value):
        return str(value.__qualname__)
    return _shortened(value if isinstance(value, str) else repr(value))


def _listed(names: Any) -> str:
    return _shortened(", ".join(map(str, names)))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
