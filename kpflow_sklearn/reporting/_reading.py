"""A paragraph that reads a fitted analysis in words; each claim is computed from its numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kpflow_sklearn.results import select

#: Below this cosine the flow is said not to describe the training.
_WEAK = 0.3


def table_of(results: pd.DataFrame, bottleneck: pd.DataFrame) -> pd.DataFrame:
    """Return the table to print: a row a snapshot, time-axis rank and dimension an operator."""
    loss = select(results, "network", "loss")["value"]
    columns = {"loss": loss.map("{:.4g}".format)}
    for name in ("K", "P", "PKP"):
        label = name.replace("PKP", "PKP*")
        rank = select(results, name, "rank", "time")
        dimension = select(results, name, "effective_dimension", "time")
        columns[f"rank {label}"] = _formatted(rank, "{:.0f}")
        columns[f"eff. dim. {label}"] = _formatted(dimension, "{:.2f}")
    agreement = select(results, "PKP", "flow_agreement")["value"]
    columns["flow agr."] = agreement.map(lambda v: "-" if pd.isna(v) else f"{v:+.2f}")
    if len(bottleneck):
        found = bottleneck.set_index("iteration")
        columns["narrower"] = found["narrower"]
        columns["ratio"] = found["ratio"].map(lambda r: "-" if pd.isna(r) else f"{r:.3g}")
    return pd.DataFrame(columns, index=loss.index)


def _formatted(rows: pd.DataFrame, form: str) -> pd.Series:
    """Write values with their standard error where they have one."""

    def one(row: pd.Series) -> str:
        if pd.isna(row["value"]):
            return "-"
        value = form.format(row["value"])
        return f"{value} ± {row['std_error']:.2g}" if row["std_error"] > 0 else value

    return pd.Series({i: one(r) for i, r in rows.iterrows()}, dtype=object)


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
    bottleneck = analyzer.bottleneck_
    sentences = [
        loss_sentence(select(analyzer.results_, "network", "loss")["value"]),
        _rank_sentence(bottleneck, n_timesteps, analyzer.rank_threshold),
        _narrow_sentence(bottleneck),
        _state_sentence(analyzer.signal_dimensions_, n_states),
        _agreement_sentence(analyzer.results_),
    ]
    return " ".join(s for s in sentences if s)


def loss_sentence(loss: pd.Series, where: str = "analysis trials") -> str:
    """Say where the loss went, given by iteration."""
    first, last = loss.iloc[0], loss.iloc[-1]
    if len(loss) == 1:
        return f"At iteration {loss.index[0]} the loss on the {where} is {last:.3g}."
    verb = "fell" if last < first else "rose" if last > first else "stayed"
    return (
        f"From iteration {loss.index[0]} to {loss.index[-1]} the loss on the {where} "
        f"{verb} from {first:.3g} to {last:.3g}."
    )


def _range(values: pd.Series) -> str:
    values = values.dropna()
    if not len(values):
        return "not available"
    low, high = values.min(), values.max()
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _ranks(bottleneck: pd.DataFrame, name: str) -> str:
    """Return an operator's ranks as a range, with the largest standard error if estimated."""
    largest = bottleneck[f"{name}_rank_std_error"].max()
    estimated = f" (± {largest:.2g} at most)" if largest > 0 else ""
    return _range(bottleneck[f"{name}_rank"]) + estimated


def _rank_sentence(bottleneck: pd.DataFrame, n_timesteps: int, threshold: float) -> str:
    if not len(bottleneck):
        return ""
    k, p, pkp = (_ranks(bottleneck, name) for name in ("K", "P", "PKP"))
    return (
        f"On the time axis ({n_timesteps} steps) the rank, at {threshold:.0%} of the trace, is "
        f"{k} for K, {p} for P and {pkp} for the tangent kernel PKP*."
    )


def _narrow_sentence(bottleneck: pd.DataFrame) -> str:
    if not len(bottleneck):
        return ""
    named = bottleneck["narrower"]
    n = len(named)
    if named.isin(["K", "P"]).all() and named.nunique() == 1:
        name, ratio = named.iloc[0], bottleneck["ratio"]
        span = " to ".join(dict.fromkeys(f"{r:.3g}" for r in (ratio.min(), ratio.max())))
        where = "At every snapshot" if n > 1 else "There"
        within = int((bottleneck["PKP_rank"] <= bottleneck[f"{name}_rank"]).sum())
        kept = "at all of them" if within == n else f"at {within} of {n}"
        return (
            f"{where} {name} is the narrower of the two, {span} times, and the rank of PKP* stays "
            f"within that of {name} {kept if n > 1 else ('too' if within else 'not')}."
        )
    counts = ", ".join(f"{name} at {count}" for name, count in named.value_counts().items())
    return (
        f"Which operator is the narrower one changes or is not clear: {counts} of {n} snapshots."
    )


def _state_sentence(signals: pd.DataFrame, n_states: int) -> str:
    first, last = signals["Z"].iloc[0], signals["Z"].iloc[-1]
    change = signals["PKP*Err"].iloc[-1]
    if pd.isna([first, last, change]).any():
        return ""
    verb = "went" if len(signals) > 1 else "is"
    span = f"from {first:.2f} to {last:.2f}" if len(signals) > 1 else f"{last:.2f}"
    return (
        f"The effective dimension of the states (of {n_states}) {verb} {span}; that of the change "
        f"which the next gradient step would make is {change:.2f} at the end."
    )


def _agreement_sentence(results: pd.DataFrame) -> str:
    agreement = select(results, "PKP", "flow_agreement")["value"].dropna()
    if not len(agreement):
        return ""
    words = (
        "PKP* describes plain gradient descent on these trials; the cosine of its prediction with "
        f"the states' change to the next snapshot ranged from {agreement.min():+.2f} to "
        f"{agreement.max():+.2f}."
    )
    weak = agreement[agreement < _WEAK]
    if len(weak):
        at = ", ".join(map(str, weak.index))
        words += (
            f" It is below {_WEAK} from iteration {at} to the next snapshot: there the training, "
            "its optimizer, batches and step size, did not follow this flow."
        )
    return words
