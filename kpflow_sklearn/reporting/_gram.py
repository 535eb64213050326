"""The sections of a report on a `GramFlowAnalyzer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting import GramDisplay, SpectrumDisplay
from kpflow_sklearn.reporting._origin import GRAM_FLOW as PAPER
from kpflow_sklearn.reporting._page import Section
from kpflow_sklearn.reporting._pictures import Drawing, drawn
from kpflow_sklearn.reporting._reading_gram import read_gram_in_words as read
from kpflow_sklearn.reporting._tables import Measured, from_frame, over_training, spelled
from kpflow_sklearn.results import select

__all__ = ["PAPER", "SUBJECT", "count", "read", "sections"]

SUBJECT = "Gram flow"


def sections(analyzer: Any) -> list[Section]:
    """Return what was measured: training, its layers, kernel and modes."""
    return [_training(analyzer), _layers(analyzer), _kernel(analyzer)]


def count(analyzer: Any) -> str:
    """Say on how much the network was analysed."""
    return f"{len(analyzer.X_fit_)} rows"


def _training(analyzer: Any) -> Section:
    words = (
        "Under gradient descent on L = (1/2N) |r|² the residuals r move by "
        "−(1/N) K r. K is a sum over layers: the Gram of what enters a layer times, "
        "elementwise, the co-activation of what the layer does to the output. Predicted by: "
        f"{analyzer.prediction_}. This is one run: other seeds may differ."
    )
    loss = select(analyzer.results_, "network", "loss")["value"]
    drawings = [
        _panel(
            analyzer,
            "loss",
            "Loss of each update, measured and predicted.",
            f"Loss over training, from {loss.iloc[0]:.3g} to {loss.iloc[-1]:.3g}.",
        ),
        _panel(
            analyzer,
            "modes",
            "What is left of the residuals along leading eigenvectors of K at the next snapshot.",
            "Decay of the leading modes of the residuals, measured and predicted.",
        ),
    ]
    columns = [Measured("loss", "network", "loss"), Measured("decay", "K", "decay")]
    for quantity in ("rank", "effective_dimension", "trace", "norm"):
        name = quantity.replace("_", " ")
        columns.append(Measured(name, "K", quantity, error=f"s.e. of {name}"))
    notes = [
        "decay: the rate at which gradient descent lowers the loss. rank: eigenvalues that hold "
        f"{analyzer.rank_threshold:.0%} of the trace of K."
    ]
    table = over_training("Loss and kernel K", analyzer.results_, columns, notes=notes)
    return Section("Training", [words], drawn(drawings), [table])


def _panel(analyzer: Any, panel: str, caption: str, alt: str, **options: Any) -> Drawing:
    def draw(ax: Any) -> None:
        GramDisplay.from_estimator(analyzer, panel=panel, ax=ax, **options)

    return Drawing(draw, caption, alt)


def _layers(analyzer: Any) -> Section:
    words = (
        "loss change: what the layer's weights did to the loss since the previous snapshot, "
        "exactly, whatever the optimizer. gate flips: (row, unit) pairs that switched since then. "
        "gram: of the weight Grams, averaged over pairs of rows."
    )
    drawings = [
        _panel(
            analyzer,
            "layers",
            f"Shares of the layers in the {what}.",
            f"Shares of the layers in the {what} over training.",
            quantity=quantity,
        )
        for quantity, what in (("decay", "decay of the loss"), ("trace", "trace of K"))
    ]
    table = from_frame(
        "Layers", spelled(_with_errors(analyzer)), notes=_reasons(analyzer.results_)
    )
    return Section("Layers", [words], drawn(drawings), [table])


def _with_errors(analyzer: Any) -> pd.DataFrame:
    """Return the layers' table with standard errors beside what was estimated."""
    table: pd.DataFrame = analyzer.layer_table_.copy()
    rows = analyzer.results_[analyzer.results_["operator"].str.startswith("K_")]
    estimated = rows[(rows["method"] == "randomized") & rows["value"].notna()]
    for quantity in [name for name in table if (estimated["quantity"] == name).any()]:
        own = estimated[estimated["quantity"] == quantity]
        keys = [own["iteration"], own["operator"].str.removeprefix("K_")]
        errors = pd.Series(own["std_error"].to_numpy(), index=pd.MultiIndex.from_arrays(keys))
        place = list(table).index(quantity) + 1
        table.insert(place, f"s.e. of {quantity}", errors.reindex(table.index))
    return table


def _reasons(results: pd.DataFrame) -> list[str]:
    rows = results[results["operator"].str.startswith("K_") & results["value"].isna()]
    named = rows.groupby("reason", sort=False)["quantity"].unique()
    return [
        f"Missing in {', '.join(str(name).replace('_', ' ') for name in names)}: {reason}."
        for reason, names in named.items()
    ]


def _kernel(analyzer: Any) -> Section:
    values = np.asarray(analyzer.eigenvalues_)
    last = analyzer.snapshots_[-1].iteration
    trace = select(analyzer.results_, "K", "trace")["value"].iloc[-1]
    pictures = []
    if len(values) and values[0] > 0:
        spectrum = pd.DataFrame({"operator": "K", "axis": "sample", "share": values / trace})
        spectrum["index"] = np.arange(1, len(values) + 1)
        pictures.append(
            Drawing(
                lambda ax: SpectrumDisplay(spectrum).plot(axis="sample", ax=ax),
                f"Eigenvalues of K at iteration {last}.",
                f"{len(values)} eigenvalues of K as shares of its trace, the largest "
                f"{values[0] / trace:.0%}.",
            )
        )
    words = (
        "Amplitudes of the residuals along leading eigenvectors of K, and what K, standing still, "
        "predicts for them at the next snapshot."
    )
    tables = [from_frame("Modes", spelled(analyzer.mode_table_), folded=True)]
    return Section("Kernel and its modes", [words], drawn(pictures), tables)
