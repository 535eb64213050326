"""A paragraph that reads a fitted Gram flow in words; each claim is one of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.reporting._reading import loss_sentence
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
    loss = select(analyzer.results_, "network", "loss")["value"]
    sentences = [
        loss_sentence(loss, "rows analysed"),
        _attribution_sentence(analyzer.layer_table_),
        _decay_sentence(analyzer.layer_table_),
        _kernel_sentence(analyzer),
        _gate_sentence(analyzer.layer_table_),
        _prediction_sentence(analyzer),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _named(layer: str) -> str:
    return layer if layer == "readout" else f"layer {layer}"


def _attribution_sentence(table: pd.DataFrame) -> str:
    changes = table["loss_change"].unstack("layer")[table.index.unique("layer")].iloc[1:]
    if not len(changes) or changes.shape[1] < 2 or changes.isna().any(axis=None):
        return ""
    parts = [f"{value:+.3g} by {_named(str(name))}" for name, value in changes.sum().items()]
    words = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Attributed exactly to the layers whose weights moved, this change is {words}."


def _decay_sentence(table: pd.DataFrame) -> str:
    shares = table["decay_share"].unstack("layer").dropna()
    if not len(shares) or shares.shape[1] < 2:
        return ""

    def largest(row: pd.Series) -> str:
        return f"{_named(str(row.idxmax()))} ({row.max():.0%})"

    first, last = largest(shares.iloc[0]), largest(shares.iloc[-1])
    words = f"Of the rate at which gradient descent lowers the loss most is due to {first}"
    if len(shares) == 1:
        return f"{words}."
    return f"{words} at iteration {shares.index[0]} and to {last} at iteration {shares.index[-1]}."


def _kernel_sentence(analyzer: Any) -> str:
    rank = select(analyzer.results_, "K", "rank").dropna(subset="value")
    dimension = select(analyzer.results_, "K", "effective_dimension").dropna(subset="value")
    if not len(rank) or not len(dimension):
        return ""

    def course(rows: pd.DataFrame, form: str) -> str:
        ends = [rows.iloc[0]] if len(rows) == 1 else [rows.iloc[0], rows.iloc[-1]]
        spread = [f" ± {row['std_error']:.2g}" if row["std_error"] else "" for row in ends]
        shown = [form.format(row["value"]) + s for row, s in zip(ends, spread, strict=True)]
        return shown[0] if len(shown) == 1 else f"from {shown[0]} to {shown[1]}"

    verb = "is" if len(rank) == 1 else "went"
    return (
        f"The rank of the kernel K, at {analyzer.rank_threshold:.0%} of its trace, {verb} "
        f"{course(rank, '{:.0f}')}, its effective dimension {course(dimension, '{:.2f}')}."
    )


def _gate_sentence(table: pd.DataFrame) -> str:
    flips = table["gate_flips"].dropna()
    if not len(flips):
        return ""
    by_layer = flips.groupby(level="layer").sum()
    parts = ", ".join(f"{value:.0f} in {_named(str(name))}" for name, value in by_layer.items())
    return f"Gates that differ from one snapshot to the next: {parts}."


def _prediction_sentence(analyzer: Any) -> str:
    how, _, remark = analyzer.prediction_.partition(": ")
    if analyzer.predicted_loss_curve_ is None:
        return f"Nothing predicts this training: {remark}."
    predicted, measured = analyzer.predicted_loss_curve_, np.asarray(analyzer.loss_curve_)
    known = np.isfinite(predicted)
    if not known.any():
        return f"The prediction by {how} is nowhere finite."
    last = int(np.flatnonzero(known)[-1])
    after = f" ({remark})" if remark else ""
    worst = float((abs(predicted - measured)[known] / measured[known]).max())
    return (
        f"Predicted by {how}{after}, the loss before update {last + 1} is {predicted[last]:.4g}; "
        f"it was {measured[last]:.4g}. The largest relative difference at any update predicted is "
        f"{worst:.2g}."
    )
