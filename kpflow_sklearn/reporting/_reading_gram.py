"""The facts about a Gram flow for the template gram.txt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.reporting._reading_kpflow import course, with_errors
from kpflow_sklearn.reporting._templates import say
from kpflow_sklearn.results import select


def read_gram_in_words(analyzer: Any) -> str:
    """Return one paragraph: which layer learned, what K did, and what predicts training.

    Parameters
    ----------
    analyzer : GramFlowAnalyzer
        Fitted.

    Returns
    -------
    str
        A paragraph.
    """
    results = analyzer.results_
    table = analyzer.layer_table_.rename(index=_named, level="layer")
    flips = table["gate_flips"].dropna().groupby(level="layer").sum()
    method, _, remark = analyzer.prediction_.partition(": ")
    return say(
        "gram.txt",
        loss=course(select(results, "network", "loss")["value"]),
        changes=_changes(table),
        shares=_shares(table),
        rank=_ends(select(results, "K", "rank"), ".0f"),
        dimension=_ends(select(results, "K", "effective_dimension"), ".2f"),
        analyzer=analyzer,
        flips=[f"{count:.0f} in {layer}" for layer, count in flips.items()],
        method=method,
        remark=remark,
        predicted=_prediction(analyzer),
    )


def _named(layer: str) -> str:
    return "the readout" if layer == "readout" else f"layer {layer}"


def _changes(table: pd.DataFrame) -> list[str]:
    """Return each layer's share of the change of the loss, if several are measured."""
    changes = table["loss_change"].unstack("layer")[table.index.unique("layer")].iloc[1:]
    measured = len(changes) and changes.shape[1] > 1 and not changes.isna().any(axis=None)
    return [f"{v:+.3g} by {layer}" for layer, v in changes.sum().items()] if measured else []


def _shares(table: pd.DataFrame) -> list[str]:
    """Return the layer with the largest share in the decay, at the first and last snapshot."""
    shares = table["decay_share"].unstack("layer").dropna()
    if not len(shares) or shares.shape[1] < 2:
        return []
    ends = shares.iloc[sorted({0, len(shares) - 1})]
    return [
        f"{row.idxmax()} ({row.max():.0%})" + (f" at iteration {i}" if len(shares) > 1 else "")
        for i, row in ends.iterrows()
    ]


def _ends(rows: pd.DataFrame, form: str) -> list[str]:
    """Return the first and the last measured value, or only one if there is only one."""
    shown = list(with_errors(rows.dropna(subset="value"), form))
    return [shown[0], shown[-1]] if len(shown) > 1 else shown


def _prediction(analyzer: Any) -> dict[str, Any]:
    """Return the last predicted loss, the loss measured there, and the largest difference.

    The difference is relative to the measured loss, so updates with a loss of zero are left out.
    """
    predicted, measured = analyzer.predicted_loss_curve_, np.asarray(analyzer.loss_curve_)
    if predicted is None:
        return {}
    finite = np.flatnonzero(np.isfinite(predicted))
    if not len(finite):
        return {"before": None}
    positive = finite[measured[finite] > 0]
    differences = abs(predicted - measured)[positive] / measured[positive]
    last = finite[-1]
    return {
        "before": last + 1,
        "loss": predicted[last],
        "measured": measured[last],
        "worst": differences.max() if len(differences) else None,
        "all_positive": len(positive) == len(finite),
    }
