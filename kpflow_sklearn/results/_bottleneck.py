"""Which operator is the narrow one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kpflow_sklearn.results._table import select

OPERATORS = ("K", "P", "PKP")
RANKS = [f"{name}_rank{of}" for name in OPERATORS for of in ("", "_std_error")]
RANK_COLUMNS = ["iteration", *RANKS, "narrower", "ratio"]


def bottleneck_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the time-axis ranks over training and which operator they call the bottleneck.

    ``narrower`` is "K" or "P", the one with the smaller rank, and ``ratio`` how many times
    smaller it is; "neither" if the rank of PKP* exceeds both by more than 1.96 standard errors,
    and "undecided" if K's and P's differ by less or one of the three is missing. Ranks are whole
    numbers: an exact difference of one is a difference, and the ratio says how little it is.

    Parameters
    ----------
    results : DataFrame
        A ``results_`` table; the result is empty unless K, P and PKP were measured.

    Returns
    -------
    DataFrame
        Columns iteration, K_rank, K_rank_std_error (0 if exact), the same of P and PKP, narrower,
        ratio.
    """
    ranks = {name: select(results, name, "rank", "time") for name in OPERATORS}
    if any(len(found) == 0 for found in ranks.values()):
        return pd.DataFrame(columns=RANK_COLUMNS)
    rows = []
    for iteration in ranks["K"].index:
        value = {name: float(found.loc[iteration, "value"]) for name, found in ranks.items()}
        error = {name: float(found.loc[iteration, "std_error"]) for name, found in ranks.items()}
        found = [number for name in OPERATORS for number in (value[name], error[name])]
        rows.append([iteration, *found, *_judge(value, error)])
    return pd.DataFrame(rows, columns=RANK_COLUMNS)


def _judge(value: dict[str, float], error: dict[str, float]) -> tuple[str, float]:
    k, p, pkp = value["K"], value["P"], value["PKP"]
    if not np.isfinite([k, p]).all():
        return "undecided", float("nan")
    ratio, wider = max(k, p) / min(k, p), "K" if k > p else "P"
    if not np.isfinite(pkp):
        return "undecided", ratio
    if pkp - value[wider] > 1.96 * np.hypot(error["PKP"], error[wider]):
        return "neither", ratio
    if abs(k - p) <= 1.96 * np.hypot(error["K"], error["P"]):
        return "undecided", ratio
    return ("K" if k < p else "P"), ratio
