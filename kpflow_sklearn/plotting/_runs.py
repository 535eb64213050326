"""Several runs in one figure: one colour per level of the hue, with median and range."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kpflow_sklearn.plotting._style import (
    BESIDE,
    CATEGORY_COLORS,
    OPERATOR_LINE,
    plain_texts,
    plot_range,
    sequential_colors,
    short_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The column that a display adds to its table: the number of the run.
RUN_NUMBER = "_run"

_MISSING = "none"
_MISSING_COLOR = CATEGORY_COLORS[-1]  # Grey, which is not on the scale of numbers.


def run_columns(table: pd.DataFrame, single: Collection[str]) -> list[Any]:
    """Return the columns that distinguish runs, which a single run's table does not have."""
    return [name for name in table if name not in single]


def number_runs(table: pd.DataFrame, single: Collection[str]) -> pd.DataFrame:
    """Return the table with the column `RUN_NUMBER`, which numbers the runs."""
    names = run_columns(table, single)
    if not names:
        return table.assign(**{RUN_NUMBER: 0})
    runs = table.groupby(names, dropna=False, observed=True, sort=False)
    return table.assign(**{RUN_NUMBER: runs.ngroup()})


@dataclass(frozen=True)
class Level:
    """One value of the hue, with its colour and its rows of the table."""

    name: str
    color: Any
    rows: pd.DataFrame


def levels(table: pd.DataFrame, hue: str) -> Iterator[Level]:
    """Yield the levels of a column: numbers on a scale of lightness, words in distinct colours.

    Missing values, for example of a parameter that was None, form the last level, "none".

    Raises
    ------
    ValueError
        If the table has no such column, or the column has more words than there are colours.
    """
    if hue not in table:
        columns = ", ".join(repr(name) for name in table if name != RUN_NUMBER)
        raise ValueError(f"hue must be a column of the table, got {hue!r}; it has {columns}.")
    missing = table[hue].isna()
    values = table.loc[~missing, hue].unique()
    n_values = len(values) + bool(missing.any())
    if pd.api.types.is_numeric_dtype(table[hue]) and not pd.api.types.is_bool_dtype(table[hue]):
        values = np.sort(values)
        colors: Sequence = [*sequential_colors(len(values)), _MISSING_COLOR]
    elif n_values > len(CATEGORY_COLORS):
        raise ValueError(
            f"hue={hue!r} has {n_values} values, but there are only {len(CATEGORY_COLORS)} "
            "colours for words; draw fewer values, or use numbers."
        )
    else:
        colors = CATEGORY_COLORS
    for value, color in zip(values, colors, strict=False):
        yield Level(str(value), color, table[table[hue] == value])
    if missing.any():
        yield Level(_MISSING, colors[len(values)], table[missing])


def check_one_run(rows: pd.DataFrame, x: str) -> None:
    """Refuse rows of more than one run."""
    if rows[RUN_NUMBER].nunique() > 1 or rows[x].duplicated().any():
        raise ValueError(
            "the table contains several runs: set hue to the column that distinguishes them."
        )


def draw_runs(ax: Axes, rows: pd.DataFrame, x: str, y: str, **style: Any) -> int:
    """Draw the median and range of several runs, or one run with its 95% interval.

    Median and range are drawn only where all runs have a finite value. If runs dropped out along
    x, the median would change for that reason alone.

    Parameters
    ----------
    ax : Axes
        Axes to draw on.
    rows : DataFrame
        Rows of one hue and operator, with `RUN_NUMBER`. A column ``std_error`` holds the standard
        errors of ``y``.
    x, y : str
        Columns of ``rows``.
    **style
        Style of the line, with its colour.

    Returns
    -------
    int
        The number of runs that have a finite value.

    Raises
    ------
    ValueError
        If a run has several values at one x, or several runs have no x in common.
    """
    rows = rows[np.isfinite(rows[y])].sort_values(x)
    if rows.duplicated([x, RUN_NUMBER]).any():
        raise ValueError(
            f"the table contains several values of one run at the same {x}: add a column that "
            'distinguishes runs, for example "seed".'
        )
    n_runs = rows[RUN_NUMBER].nunique()
    style = {"markersize": 4, **style}
    if n_runs == 1 and "std_error" in rows:
        ax.errorbar(rows[x], rows[y], 1.96 * rows["std_error"].fillna(0), capsize=2, **style)
    elif n_runs == 1:
        ax.plot(rows[x], rows[y], **style)
    elif n_runs:
        shared = rows.pivot(index=x, columns=RUN_NUMBER, values=y).dropna()
        if shared.empty:
            raise ValueError(
                f"the {n_runs} runs of one colour have no {x} in common: give them the same "
                "snapshots, or different colours by another hue."
            )
        plot_range(shared, ax=ax, **style)
    return n_runs


def draw_levels(
    ax: Axes, table: pd.DataFrame, hue: str, x: str, y: str, operators: Sequence[str] = ()
) -> None:
    """Draw every level of the hue in its colour, with one line per operator if there are any."""
    lines = {name: OPERATOR_LINE[name] for name in operators}
    drawn = []
    for level in levels(table, hue):
        parts = [(level.rows[level.rows["operator"] == name], lines[name]) for name in lines]
        counts = [
            draw_runs(ax, rows, x, y, color=level.color, **style)
            for rows, style in parts or [(level.rows, {"marker": "o"})]
        ]
        drawn.append((level.name, level.color, max(counts)))
    _add_legend(ax, hue, drawn, lines)


def _add_legend(
    ax: Axes, hue: str, drawn: list[tuple[str, Any, int]], styles: dict[str, dict[str, Any]]
) -> None:
    """Explain the colours, with the number of runs of each, and the lines of the operators."""
    from matplotlib.lines import Line2D

    several = any(n > 1 for _, _, n in drawn)
    entries = [
        Line2D([], [], color=color, label=short_name(name) + (f" ({n} runs)" if several else ""))
        for name, color, n in drawn
    ]
    if len(styles) > 1:
        entries += [
            Line2D([], [], **{**style, "color": "0.4", "label": style["label"]})
            for style in styles.values()
        ]
    title = hue.replace("_", " ") + (": median, range" if several else "")
    plain_texts(ax.legend(handles=entries, title=title, **BESIDE))
