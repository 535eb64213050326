"""A KPFlow analysis as text: its table, and the facts for the template kpflow.txt."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kpflow_sklearn.reporting._templates import say
from kpflow_sklearn.results import select

LABELS = {"K": "K", "P": "P", "PKP": "PKP*"}
#: Below this cosine, the text says that the update departed from the flow.
_WEAK = 0.3


def table_of(results: pd.DataFrame, bottleneck: pd.DataFrame) -> pd.DataFrame:
    """Return the table to print: one row per snapshot, with each operator's rank and dimension.

    Parameters
    ----------
    results, bottleneck : DataFrame
        The ``results_`` and ``bottleneck_`` of a `KPFlowAnalyzer`.

    Returns
    -------
    DataFrame
        Numbers on the time axis as text, indexed by iteration.
    """
    loss = select(results, "network", "loss")["value"]
    columns = {"loss": loss.map("{:.4g}".format)}
    for name, label in LABELS.items():
        ranks = select(results, name, "rank", "time")
        dimensions = select(results, name, "effective_dimension", "time")
        columns[f"rank {label}"] = with_errors(ranks, ".0f")
        columns[f"eff. dim. {label}"] = with_errors(dimensions, ".2f")
    agreement = select(results, "PKP", "flow_agreement")["value"]
    columns["flow agr."] = agreement.map(lambda v: "-" if pd.isna(v) else f"{v:+.2f}")
    if len(bottleneck):
        verdict = bottleneck.set_index("iteration")
        columns["narrower"] = verdict["narrower"]
        columns["ratio"] = verdict["ratio"].map(lambda r: "-" if pd.isna(r) else f"{r:.3g}")
    return pd.DataFrame(columns, index=loss.index)


def with_errors(rows: pd.DataFrame, form: str) -> pd.Series:
    """Return values as text, with their standard errors where they are estimates."""
    shown = {}
    for iteration, row in rows.iterrows():
        value = "-" if pd.isna(row["value"]) else format(row["value"], form)
        shown[iteration] = f"{value} ± {row['std_error']:.2g}" if row["std_error"] > 0 else value
    return pd.Series(shown, dtype=object)


def course(values: pd.Series) -> dict[str, Any]:
    """Return the first and last measured values over iterations; nothing if all are missing."""
    values = values.dropna()
    if not len(values):
        return {}
    start, end = values.index[0], values.index[-1]
    return {"start": start, "end": end, "first": values.iloc[0], "last": values.iloc[-1]}


def read_analysis_in_words(analyzer: Any) -> str:
    """Return one paragraph on what K and P did, computed from the tables.

    Parameters
    ----------
    analyzer : KPFlowAnalyzer
        Fitted.

    Returns
    -------
    str
        A paragraph.
    """
    n_timesteps, n_states = next(iter(analyzer.eigenfunctions_.values())).shape[2:]
    results, signals = analyzer.results_, analyzer.signal_dimensions_
    states, change = signals["Z"].iloc[[0, -1]], signals["PKP*Err"].iloc[-1]
    measured = not pd.isna([*states, change]).any()
    return say(
        "kpflow.txt",
        loss=course(select(results, "network", "loss")["value"]),
        n_timesteps=n_timesteps,
        analyzer=analyzer,
        n_states=n_states,
        states=list(states)[: len(signals)] if measured else [],
        change=change,
        agreement=_agreement(results),
        **_ranks(analyzer.bottleneck_),
    )


def _ranks(bottleneck: pd.DataFrame) -> dict[str, Any]:
    """Return each operator's ranks as a range, and which of K and P is narrower."""
    counts, narrower = bottleneck["narrower"].value_counts(), {}
    if len(counts) == 1 and counts.index[0] in ("K", "P"):
        name, ratios = counts.index[0], bottleneck["ratio"].agg(["min", "max"])
        within = bottleneck["PKP_rank"] <= bottleneck[f"{name}_rank"]
        narrower = {"name": name, "n_within": int(within.sum())}
        narrower["ratios"] = ratios.map("{:.3g}".format).unique()
    return {
        "n_ranks": len(bottleneck),
        "ranks": {name: _range(bottleneck, name) for name in LABELS},
        "narrower": narrower,
        "verdicts": [f"{verdict} at {count}" for verdict, count in counts.items()],
    }


def _range(bottleneck: pd.DataFrame, name: str) -> str:
    """Return an operator's ranks, with the largest standard error if they are estimates."""
    values = bottleneck[f"{name}_rank"].dropna()
    if not len(values):
        return "missing"
    ends = dict.fromkeys(f"{rank:.0f}" for rank in (values.min(), values.max()))
    largest = bottleneck[f"{name}_rank_std_error"].max()
    return " to ".join(ends) + (f" (± {largest:.2g} at most)" if largest > 0 else "")


def _agreement(results: pd.DataFrame) -> dict[str, Any]:
    """Return the range of the flow's agreement with single updates, and where it is weak."""
    agreement = select(results, "PKP", "flow_agreement")["value"].dropna()
    if not len(agreement):
        return {}
    weak = list(agreement.index[agreement < _WEAK])
    high = agreement.max() if len(agreement) > 1 else None
    return {"low": agreement.min(), "high": high, "limit": _WEAK, "weak": weak}
