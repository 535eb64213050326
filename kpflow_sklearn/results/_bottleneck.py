"""The bottleneck table: the ranks of K, P and PKP*, and which of K and P is narrower."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kpflow_sklearn.results._estimate import OPERATORS
from kpflow_sklearn.results._table import select, with_whole_numbers

RANKS = [f"{name}_rank{of}" for name in OPERATORS for of in ("", "_std_error")]
RANK_COLUMNS = ["iteration", *RANKS, "narrower", "ratio"]


def bottleneck_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return the time-axis ranks over training and the narrower of K and P.

    ``narrower`` names the operator with the smaller rank. It is "neither" if the rank of PKP*
    exceeds both by more than 1.96 standard errors, and "undecided" if those of K and P differ by
    no more than that or one of the three is missing. ``ratio`` is the larger rank of K and P over
    the smaller. Exact ranks that differ by one count as different; the ratio shows how little they
    differ.

    Parameters
    ----------
    results : DataFrame
        A ``results_`` table; the result is empty unless K, P and PKP were measured.

    Returns
    -------
    DataFrame
        Columns iteration, K_rank, K_rank_std_error (0 if exact), the same two for P and PKP,
        narrower, ratio. Columns of whole numbers are integers.
    """
    ranks = {name: select(results, name, "rank", "time") for name in OPERATORS}
    if any(len(table) == 0 for table in ranks.values()):
        return pd.DataFrame(columns=RANK_COLUMNS)
    rows = []
    for iteration in ranks["K"].index:
        value = {name: float(table.loc[iteration, "value"]) for name, table in ranks.items()}
        error = {name: float(table.loc[iteration, "std_error"]) for name, table in ranks.items()}
        numbers = [number for name in OPERATORS for number in (value[name], error[name])]
        rows.append([iteration, *numbers, *_judge(value, error)])
    table = pd.DataFrame(rows, columns=RANK_COLUMNS).astype({"ratio": "float64"})
    return table.assign(**with_whole_numbers(table[RANKS]))


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
