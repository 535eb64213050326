"""Several runs in one picture: a colour each, and the median and range of those of one colour."""

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

#: The column that a display adds to its table: which run a row is of.
RUN_NUMBER = "_run"

_MISSING = "none"
_MISSING_COLOR = CATEGORY_COLORS[-1]  # Grey, which is not on the scale of numbers.


def run_columns(table: pd.DataFrame, own: Collection[str]) -> list[Any]:
    """Return the columns that tell runs apart: all but ``own``, those of a single run's table."""
    return [name for name in table if name not in own]


def number_runs(table: pd.DataFrame, own: Collection[str]) -> pd.DataFrame:
    """Return the table with the column `RUN_NUMBER`, one number for all rows of a run."""
    names = run_columns(table, own)
    if not names:
        return table.assign(**{RUN_NUMBER: 0})
    runs = table.groupby(names, dropna=False, observed=True, sort=False)
    return table.assign(**{RUN_NUMBER: runs.ngroup()})


@dataclass(frozen=True)
class Level:
    """One value of the hue: its colour, and the rows of the table that have it."""

    name: str
    color: Any
    rows: pd.DataFrame


def levels(table: pd.DataFrame, hue: str) -> Iterator[Level]:
    """Yield the levels of a column: numbers in order, on a scale of lightness; words by colour.

    Missing values, as of a parameter that was None, are a level "none", the last.

    Raises
    ------
    ValueError
        If the table has no such column, or more words than there are colours to tell apart.
    """
    if hue not in table:
        known = ", ".join(repr(name) for name in table if name != RUN_NUMBER)
        raise ValueError(f"hue must be a column of the table, got {hue!r}; it has {known}.")
    missing = table[hue].isna()
    values = table.loc[~missing, hue].unique()
    n_values = len(values) + bool(missing.any())
    if pd.api.types.is_numeric_dtype(table[hue]) and not pd.api.types.is_bool_dtype(table[hue]):
        values = np.sort(values)
        colors: Sequence = [*sequential_colors(len(values)), _MISSING_COLOR]
    elif n_values > len(CATEGORY_COLORS):
        raise ValueError(
            f"hue={hue!r} has {n_values} values, of which a figure tells at most "
            f"{len(CATEGORY_COLORS)} apart; draw some of them, or give numbers."
        )
    else:
        colors = CATEGORY_COLORS
    for value, color in zip(values, colors, strict=False):
        yield Level(str(value), color, table[table[hue] == value])
    if missing.any():
        yield Level(_MISSING, colors[len(values)], table[missing])


def one_run(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the rows by their place on the x axis; ValueError if they are of several runs."""
    if rows[RUN_NUMBER].nunique() > 1 or rows[by].duplicated().any():
        raise ValueError(
            "the table holds several runs: name the column that tells them apart as hue."
        )
    return rows.set_index(by).sort_index()


def draw_runs(
    ax: Axes, rows: pd.DataFrame, x: str, y: str, *, color: Any, style: dict[str, Any]
) -> int:
    """Draw the median of the runs over their range, or one run with its 95% interval.

    Median and range are drawn where all runs have a finite number, and nowhere else: over a set
    of runs that changes along x they would rise and fall with who is in it.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    rows : DataFrame
        Of one hue and operator, with `RUN_NUMBER`; a column ``std_error`` is that of ``y``.
    x, y : str
        Columns.
    color, style
        Of the line.

    Returns
    -------
    int
        The number of runs that have a finite number.

    Raises
    ------
    ValueError
        If a run has several numbers at a place, or several runs have no place in common.
    """
    known = rows[np.isfinite(rows[y])]
    if known.duplicated([x, RUN_NUMBER]).any():
        raise ValueError(
            f"the table holds several numbers of a run at one {x}: add a column that tells runs "
            'apart, "seed" say.'
        )
    n_runs = known[RUN_NUMBER].nunique()
    look = {"color": color, "markersize": 4, **style}
    if n_runs == 1 and "std_error" in known:
        line = known.sort_values(x)
        ax.errorbar(line[x], line[y], 1.96 * line["std_error"].fillna(0), capsize=2, **look)
    elif n_runs:
        shared = known.pivot(index=x, columns=RUN_NUMBER, values=y).dropna()
        if shared.empty:
            raise ValueError(
                f"the {n_runs} runs of a colour share no {x}: give them the same snapshots, or "
                "a colour each by a hue that tells them apart."
            )
        plot_range(shared, ax=ax, **look)
    return n_runs


def draw_levels(
    ax: Axes, table: pd.DataFrame, hue: str, x: str, y: str, operators: Sequence[str] = ()
) -> None:
    """Draw every level of the hue in its colour: one line, or one for each of the operators."""
    lines = {name: OPERATOR_LINE[name] for name in operators}
    drawn = []
    for level in levels(table, hue):
        parts = [(level.rows[level.rows["operator"] == name], lines[name]) for name in lines]
        counts = [
            draw_runs(ax, rows, x, y, color=level.color, style=style)
            for rows, style in parts or [(level.rows, {"marker": "o"})]
        ]
        drawn.append((level.name, level.color, max(counts)))
    _add_legend(ax, hue, drawn, lines)


def _add_legend(
    ax: Axes, hue: str, drawn: list[tuple[str, Any, int]], styles: dict[str, dict[str, Any]]
) -> None:
    """Name colours, with the number of runs of each, and what lines and markers stand for."""
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
