"""The facts about a `GramFlowAnalyzer` for the template gram.html."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting import GramDisplay, SpectrumDisplay
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._reading_gram import read_gram_in_words
from kpflow_sklearn.reporting._reading_kpflow import course
from kpflow_sklearn.reporting._tables import (
    QUANTITIES,
    Measured,
    from_frame,
    over_training,
    reasons,
    spelled,
)
from kpflow_sklearn.results import select


def facts(analyzer: Any) -> dict[str, Any]:
    """Return the measurements of the training, its layers, kernel and modes."""
    results = analyzer.results_
    values = np.asarray(analyzer.eigenvalues_)
    shares = values / select(results, "K", "trace")["value"].iloc[-1]
    drawings = {
        "loss": _panel(analyzer, panel="loss"),
        "modes": _panel(analyzer, panel="modes"),
        "decay": _panel(analyzer, panel="layers", quantity="decay"),
        "trace": _panel(analyzer, panel="layers", quantity="trace"),
    }
    if len(values) and values[0] > 0:
        drawings["spectrum"] = _spectrum(shares)
    columns = [
        Measured("loss", "network", "loss"),
        Measured("decay", "K", "decay"),
        *(Measured(q.replace("_", " "), "K", q, has_error=True) for q in QUANTITIES),
    ]
    layers = results[results["operator"].str.startswith("K_")]
    return {
        "reading": read_gram_in_words(analyzer),
        "count": f"{len(analyzer.X_fit_)} rows",
        "loss": course(select(results, "network", "loss")["value"]),
        "shares": shares,
        "pictures": drawn(drawings),
        "tables": {
            "training": over_training("Loss and kernel K", results, columns),
            "layers": from_frame("Layers", _with_errors(analyzer, layers), notes=reasons(layers)),
            "modes": from_frame("Modes", spelled(analyzer.mode_table_), folded=True),
        },
    }


def _panel(analyzer: Any, **options: Any) -> Drawing:
    return Drawing(lambda ax: GramDisplay.from_estimator(analyzer, ax=ax, **options))


def _spectrum(shares: np.ndarray) -> Drawing:
    spectrum = pd.DataFrame({"operator": "K", "axis": "sample", "share": shares})
    spectrum["index"] = np.arange(1, len(shares) + 1)
    return Drawing(lambda ax: SpectrumDisplay(spectrum).plot(axis="sample", ax=ax))


def _with_errors(analyzer: Any, layers: pd.DataFrame) -> pd.DataFrame:
    """Return the layers' table, with a column of standard errors beside each estimate."""
    table: pd.DataFrame = analyzer.layer_table_.copy()
    estimated = layers[(layers["method"] == "randomized") & layers["value"].notna()]
    for quantity in [name for name in table if (estimated["quantity"] == name).any()]:
        rows = estimated[estimated["quantity"] == quantity]
        keys = [rows["iteration"], rows["operator"].str.removeprefix("K_")]
        errors = pd.Series(rows["std_error"].to_numpy(), index=pd.MultiIndex.from_arrays(keys))
        place = list(table).index(quantity) + 1
        table.insert(place, f"s.e. of {quantity}", errors.reindex(table.index))
    return spelled(table)
