"""The tables of a `GramFlowAnalyzer`, laid out from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

LAYER_COLUMNS = [
    "trace",
    "trace_share",
    "decay",
    "decay_share",
    "loss_change",
    "output_change",
    "active_share",
    "gate_flips",
    "balance_drift",
    "gram_trace",
    "gram_norm",
    "gram_effective_dimension",
]

MODE_COLUMNS = [
    "iteration",
    "mode",
    "eigenvalue",
    "amplitude",
    "loss_share",
    "next_iteration",
    "next_amplitude",
    "predicted_amplitude",
    "reason",
]


def layer_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the layers' rows, (iteration, layer) by quantity."""
    rows = results[results["operator"].str.startswith("K_")]
    rows = rows.assign(layer=rows["operator"].str.removeprefix("K_"))
    order = list(dict.fromkeys(zip(rows["iteration"], rows["layer"], strict=True)))
    table = rows.pivot(index=["iteration", "layer"], columns="quantity", values="value")
    columns = [name for name in LAYER_COLUMNS if name in table]
    table = table[columns].reindex(pd.MultiIndex.from_tuples(order, names=table.index.names))
    table.columns.name = None
    return table


def mode_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the modes' rows as a table."""
    return pd.DataFrame(rows, columns=MODE_COLUMNS).astype({"next_iteration": "Int64"})
