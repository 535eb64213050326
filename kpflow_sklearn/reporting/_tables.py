"""Tables of a report, made from the data frames of fitted analyzers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn.reporting._page import Cell, Table
from kpflow_sklearn.results import select

MOST_ROWS = 100
MISSING = Cell("–")


@dataclass(frozen=True)
class Measured:
    """A column of a table over training: which numbers of ``results_``, and their name.

    ``error`` names the column of their standard errors; empty for what has none, a loss say.
    """

    name: str
    operator: str
    quantity: str
    axis: str | None = None
    error: str = ""


def cell(value: Any, digits: int = 4) -> Cell:
    """Return a cell: numbers rounded and in full, what is missing as a dash."""
    if isinstance(value, (bool, np.bool_)):
        return Cell("yes" if value else "no")
    if pd.isna(value):
        return MISSING
    if not isinstance(value, (int, float, np.number)):
        return Cell(str(value))
    number = float(value)
    if number.is_integer() and abs(number) < 1e7:
        return Cell(f"{number:.0f}", number)
    text = f"{number:.{digits}g}"
    if 1e-4 <= abs(number) < 1e7:  # Without an exponent.
        text = np.format_float_positional(float(text), trim="-")
    return Cell(text, number)


def error_cell(row: pd.Series, quantity: str) -> Cell:
    """Return the standard error of a row of ``results_``, or why it is 0.

    A number is exact, or an estimated rank whose 95% interval holds a single integer.
    """
    if pd.isna(row["value"]):
        return MISSING
    if row["std_error"] == 0 and row["method"] == "exact":
        return Cell("exact", 0.0)
    if row["std_error"] == 0 and quantity == "rank":
        return Cell("bracketed", 0.0)
    return cell(row["std_error"], digits=2)


def evenly(n: int, at_most: int) -> np.ndarray:
    """Return at most so many indices below n, evenly spaced, the first and the last included."""
    return np.linspace(0, n - 1, min(n, at_most)).round().astype(int)


def over_training(
    name: str,
    results: pd.DataFrame,
    columns: Sequence[Measured],
    *,
    beside: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Return a table with a row a snapshot, and each number's standard error beside it.

    Parameters
    ----------
    name : str
        What is written above.
    results : DataFrame
        A ``results_`` table.
    columns : sequence of Measured
        What to show; what was not measured is left out.
    beside : DataFrame, optional
        Further columns, indexed by iteration.
    notes : sequence of str
        Remarks below; reasons of missing values are added.

    Returns
    -------
    Table
        The table.
    """
    found = [(c, select(results, c.operator, c.quantity, c.axis)) for c in columns]
    found = [(column, rows) for column, rows in found if len(rows)]
    headings = ["iteration"]
    for column, _ in found:
        headings += [column.name, column.error] if column.error else [column.name]
    headings += [] if beside is None else [str(name) for name in beside]
    iterations = results["iteration"].unique()
    shown = iterations[evenly(len(iterations), MOST_ROWS)]
    table = []
    for iteration in shown:
        row = [cell(iteration)]
        for column, rows in found:
            if iteration not in rows.index:
                row += [MISSING, MISSING] if column.error else [MISSING]
                continue
            row.append(cell(rows.loc[iteration, "value"]))
            row += [error_cell(rows.loc[iteration], column.quantity)] if column.error else []
        if beside is not None:
            row += [cell(value) for value in beside.loc[iteration]]
        table.append(row)
    more = [*_reasons(found), *_left_out(len(shown), len(iterations), "snapshots")]
    return Table(name, headings, table, [*notes, *more])


def _reasons(found: Sequence[tuple[Measured, pd.DataFrame]]) -> list[str]:
    """Say why numbers are missing, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for column, rows in found:
        for reason in rows.loc[rows["value"].isna(), "reason"].unique():
            by_reason.setdefault(str(reason), []).append(column.name)
    return [f"Missing in {', '.join(names)}: {reason}." for reason, names in by_reason.items()]


def _left_out(n_shown: int, n: int, what: str) -> list[str]:
    if n_shown == n:
        return []
    return [f"{n_shown} of {n} {what} are shown, evenly spaced; the analyzer holds all."]


def from_frame(
    name: str, frame: pd.DataFrame, *, notes: Sequence[str] = (), folded: bool = False
) -> Table:
    """Return a data frame as a table, its index first where that has names.

    Of many rows those of evenly spaced snapshots are kept, where they have an iteration.

    Parameters
    ----------
    name : str
        What is written above.
    frame : DataFrame
        Any.
    notes : sequence of str
        Remarks below.
    folded : bool
        Whether the table is shown on demand only.

    Returns
    -------
    Table
        The table.
    """
    if any(level is not None for level in frame.index.names):
        frame = frame.reset_index()
    total = len(frame)
    if total > MOST_ROWS and "iteration" in frame:
        iterations = frame["iteration"].unique()
        at_most = max(1, MOST_ROWS * len(iterations) // total)
        kept = iterations[evenly(len(iterations), at_most)]
        frame = frame[frame["iteration"].isin(kept)]
    headings = [str(column) for column in frame]
    rows = [[cell(v) for v in row] for row in frame.itertuples(index=False, name=None)]
    return Table(name, headings, rows, [*notes, *_left_out(len(rows), total, "rows")], folded)


def spelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its columns' names as words, which may be broken into lines."""
    return frame.rename(columns=lambda name: str(name).replace("_", " "))


def named_values(name: str, values: dict[str, Any], heading: str) -> Table:
    """Return a table of two columns: names and what they stand for."""
    rows = [[Cell(key), cell(value)] for key, value in values.items()]
    return Table(name, [heading, "value"], rows)
