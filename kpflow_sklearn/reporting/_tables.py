"""Tables of a report, made from the data frames of fitted analyzers.

Pandas' Styler does not serve: its HTML marks neither the scope of headings nor columns of numbers,
and has no place for the full number beside the rounded one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn._common.spacing import evenly_spaced
from kpflow_sklearn.results import select

MOST_ROWS = 100
QUANTITIES = ("rank", "effective_dimension", "trace", "norm")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the text shown, and the full number if it is one."""

    text: str
    value: float | None = None


MISSING = Cell("–")


@dataclass(frozen=True)
class Table:
    """A table with a name above it and remarks below."""

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: list[str] = field(default_factory=list)
    folded: bool = False  #: Whether the rows are hidden until the reader asks for them.

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        places = range(len(self.headings))
        return [any(row[k].value is not None for row in self.rows) for k in places]


@dataclass(frozen=True)
class Measured:
    """A column of a table over training: its name, and which numbers of ``results_`` it holds."""

    name: str
    operator: str
    quantity: str
    axis: str | None = None
    has_error: bool = False  #: Whether a column of standard errors follows.


def cell(value: Any, digits: int = 4) -> Cell:
    """Return a cell: a number rounded and in full, a missing value as a dash."""
    if isinstance(value, Cell):
        return value
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

    It is 0 if the number is exact, or a rank whose 95% interval contains a single integer.
    """
    if pd.isna(row["value"]):
        return MISSING
    if row["std_error"] == 0 and row["method"] == "exact":
        return Cell("exact", 0.0)
    if row["std_error"] == 0 and quantity == "rank":
        return Cell("bracketed", 0.0)
    return cell(row["std_error"], digits=2)


def over_training(
    name: str,
    results: pd.DataFrame,
    columns: Sequence[Measured],
    beside: pd.DataFrame | None = None,
) -> Table:
    """Return a table with one row per snapshot, standard errors and reasons for missing values.

    Parameters
    ----------
    name : str
        The name of the table.
    results : DataFrame
        A ``results_`` table.
    columns : sequence of Measured
        The columns; those that were not measured are left out.
    beside : DataFrame, optional
        Further columns, indexed by iteration.

    Returns
    -------
    Table
        The table.
    """
    frame = pd.DataFrame(index=pd.Index(results["iteration"].unique(), name="iteration"))
    shown = []
    for column in columns:
        rows = select(results, column.operator, column.quantity, column.axis)
        if not len(rows):
            continue
        shown.append(rows.assign(quantity=column.name))
        frame[column.name] = rows["value"]
        if column.has_error:
            errors = {i: error_cell(row, column.quantity) for i, row in rows.iterrows()}
            frame[f"s.e. of {column.name}"] = pd.Series(errors, dtype=object)
    frame = frame if beside is None else frame.join(beside)
    return from_frame(name, frame, notes=reasons(pd.concat(shown)) if shown else [])


def reasons(rows: pd.DataFrame) -> list[str]:
    """Return one sentence for each reason why values of ``results_`` are missing."""
    missing = rows[rows["value"].isna()].groupby("reason", sort=False)["quantity"].unique()
    return [
        f"Missing in {', '.join(str(name).replace('_', ' ') for name in names)}: {reason}."
        for reason, names in missing.items()
    ]


def from_frame(
    name: str, frame: pd.DataFrame, *, notes: Sequence[str] = (), folded: bool = False
) -> Table:
    """Return a data frame as a table.

    An index with names becomes the first columns. If there are too many rows, only those of evenly
    spaced snapshots are kept.

    Parameters
    ----------
    name : str
        The name of the table.
    frame : DataFrame
        Numbers, words or cells.
    notes : sequence of str
        Remarks below the table.
    folded : bool
        Whether the rows are hidden until the reader asks for them.

    Returns
    -------
    Table
        The table.
    """
    if any(level is not None for level in frame.index.names):
        frame = frame.reset_index()
    notes, total = list(notes), len(frame)
    if total > MOST_ROWS and "iteration" in frame:
        iterations = frame["iteration"].unique()
        at_most = max(1, MOST_ROWS * len(iterations) // total)
        kept = iterations[evenly_spaced(len(iterations), at_most)]
        frame = frame[frame["iteration"].isin(kept)]
        notes.append(
            f"{len(frame)} of {total} rows are shown, at evenly spaced snapshots; the analyzer "
            "has all of them."
        )
    rows = [[cell(v) for v in row] for row in frame.itertuples(index=False, name=None)]
    return Table(name, [str(column) for column in frame], rows, notes, folded)


def spelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with spaces for underscores in its column names, so that lines can break."""
    return frame.rename(columns=lambda name: str(name).replace("_", " "))


def named_values(name: str, values: Mapping[str, Any]) -> Table:
    """Return a table of names and their values."""
    rows = [[Cell(key), cell(value)] for key, value in values.items()]
    return Table(name, ["name", "value"], rows)
