"""Several runs in one picture: a colour each, and the median and range of those of one colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class Level:
    """One value of the hue: its colour, and the rows of the table that have it."""

    name: str
    color: Any
    rows: pd.DataFrame


def levels(table: pd.DataFrame, hue: str) -> Iterator[Level]:
    """Yield the levels of a column: numbers in order, on a scale of lightness; words by colour.

    Raises
    ------
    ValueError
        If the table has no such column, or more words than there are colours to tell apart.
    """
    if hue not in table:
        known = ", ".join(map(repr, table))
        raise ValueError(f"hue must be a column of the table, got {hue!r}; it has {known}.")
    values = table[hue].dropna().unique()
    if pd.api.types.is_numeric_dtype(table[hue]) and not pd.api.types.is_bool_dtype(table[hue]):
        values = np.sort(values)
        colors: Sequence = sequential_colors(len(values))
    elif len(values) > len(CATEGORY_COLORS):
        raise ValueError(
            f"hue={hue!r} has {len(values)} values, of which a figure tells at most "
            f"{len(CATEGORY_COLORS)} apart; draw some of them, or give numbers."
        )
    else:
        colors = CATEGORY_COLORS
    for value, color in zip(values, colors, strict=False):
        yield Level(str(value), color, table[table[hue] == value])


def one_run(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the rows by their place on the x axis; ValueError if one holds several numbers."""
    if rows[by].duplicated().any():
        raise ValueError(
            "the table holds several runs: name the column that tells them apart as hue."
        )
    return rows.set_index(by).sort_index()


def draw_runs(
    ax: Axes, rows: pd.DataFrame, x: str, y: str, *, color: Any, style: dict[str, Any]
) -> int:
    """Draw the median of the runs over their range, or one run with its 95% interval.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    rows : DataFrame
        Of one hue and operator; a column ``std_error`` is that of ``y``.
    x, y : str
        Columns.
    color, style
        Of the line.

    Returns
    -------
    int
        The largest number of runs at a place.
    """
    known = rows[np.isfinite(rows[y])]
    run = known.groupby(x, observed=True).cumcount()
    n_runs = int(run.max()) + 1 if len(run) else 0
    look = {"color": color, "markersize": 4, **style}
    if n_runs == 1 and "std_error" in known:
        line = known.sort_values(x)
        ax.errorbar(line[x], line[y], 1.96 * line["std_error"].fillna(0), capsize=2, **look)
    elif n_runs:
        plot_range(known.assign(run=run).pivot(index=x, columns="run", values=y), ax=ax, **look)
    return n_runs


def draw_levels(
    ax: Axes, table: pd.DataFrame, hue: str, x: str, y: str, operators: Sequence[str] = ()
) -> None:
    """Draw every level of the hue in its colour: one line, or one for each of the operators."""
    lines = {name: OPERATOR_LINE[name] for name in operators}
    drawn = {}
    for level in levels(table, hue):
        parts = [(level.rows[level.rows["operator"] == name], lines[name]) for name in lines]
        counts = [
            draw_runs(ax, rows, x, y, color=level.color, style=style)
            for rows, style in parts or [(level.rows, {"marker": "o"})]
        ]
        drawn[level.name] = (level.color, max(counts))
    _add_legend(ax, hue, drawn, lines)


def _add_legend(
    ax: Axes, hue: str, drawn: dict[str, tuple[Any, int]], styles: dict[str, dict[str, Any]]
) -> None:
    """Name colours, with the number of runs of each, and what lines and markers stand for."""
    from matplotlib.lines import Line2D

    several = any(n > 1 for _, n in drawn.values())
    entries = [
        Line2D([], [], color=color, label=short_name(name) + (f" ({n} runs)" if several else ""))
        for name, (color, n) in drawn.items()
    ]
    if len(styles) > 1:
        entries += [
            Line2D([], [], **{**style, "color": "0.4", "label": style["label"]})
            for style in styles.values()
        ]
    title = hue.replace("_", " ") + (": median, range" if several else "")
    plain_texts(ax.legend(handles=entries, title=title, **BESIDE))
