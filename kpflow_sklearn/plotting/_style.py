"""The style of all figures: colours that colour-blind readers can distinguish, lines, axes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, with markers that distinguish the lines without colour.
OPERATOR_STYLE: dict[str, dict[str, Any]] = {
    "K": {"color": "#0072B2", "marker": "o", "label": "K"},
    "P": {"color": "#D55E00", "marker": "s", "label": "P"},
    "PKP": {"color": "#009E73", "marker": "^", "label": "PKP*"},
}

#: Lines of the operators in figures where colours have another meaning.
OPERATOR_LINE: dict[str, dict[str, Any]] = {
    "K": {"linestyle": "-", "marker": "o", "label": "K"},
    "P": {"linestyle": "--", "marker": "s", "label": "P"},
    "PKP": {"linestyle": ":", "marker": "^", "label": "PKP*"},
}

#: Colours of layers, from the lowest layer up.
LAYER_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

#: Colours of unordered categories: Okabe and Ito's, with black and grey instead of yellow.
CATEGORY_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
)

#: Settings of a legend beside the axes, where it covers no data.
BESIDE: dict[str, Any] = {
    "loc": "center left",
    "bbox_to_anchor": (1, 0.5),
    "frameon": False,
    "fontsize": "small",
}

_LONGEST_NAME = 24


def matplotlib_is_here() -> bool:
    """Return whether matplotlib, an optional dependency, is installed."""
    return find_spec("matplotlib") is not None


def colormap(cyclic: bool = False) -> Any:
    """Return a perceptually uniform colormap whose lightest colours are visible on white."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colors = colormaps["twilight" if cyclic else "viridis"](np.linspace(0, 1, 256))
    return ListedColormap(colors * [0.82, 0.82, 0.82, 1.0])


def sequential_colors(n: int) -> list:
    """Return n colours in order of lightness."""
    return [colormap()(k / max(n - 1, 1)) for k in range(n)]


def new_axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the only axes of a new figure."""
    if ax is not None:
        if not (hasattr(ax, "plot") and hasattr(ax, "figure")):
            raise TypeError(f"ax must be matplotlib Axes, got {ax!r}.")
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def short_name(name: object) -> str:
    """Return a name, cut off if it is too long for a figure."""
    text = str(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def plain_texts(legend: Any) -> None:
    """Show dollar signs in a legend as they are, not as mathematics."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def plot_range(values: pd.DataFrame, *, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw the median of several runs, with a band from the lowest to the highest run.

    Parameters
    ----------
    values : DataFrame of shape (n_points, n_runs)
        One column per run, for example per seed; the index is the x axis. NaN is ignored.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.
    **style
        Style of the line, as in ``ax.plot``.

    Returns
    -------
    Axes
        The axes of the figure.

    Raises
    ------
    TypeError
        If ``values`` is not a DataFrame, or is empty.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> from kpflow_sklearn.plotting import OPERATOR_STYLE, plot_range
    >>> ranks = pd.DataFrame({"seed 0": [9, 4], "seed 1": [7, 5]}, index=[0, 100])
    >>> ax = plot_range(ranks, ax=Figure().subplots(), **OPERATOR_STYLE["K"])
    >>> ax.lines[0].get_ydata().tolist()
    [8.0, 4.5]
    """
    if not hasattr(values, "median") or getattr(values, "empty", True):
        raise TypeError(f"values must be a DataFrame with one column per run, got {values!r}.")
    ax = new_axes(ax)
    (line,) = ax.plot(values.index, values.median(axis=1), **style)
    low, high = values.min(axis=1), values.max(axis=1)
    ax.fill_between(values.index, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return ax


def plain_log_scale(ax: Axes, which: str = "y") -> None:
    """Give an axis a logarithmic scale with plain numbers at 1, 2 and 5 of each decade.

    If at most one of these lies within the limits, other round numbers are shown.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    class Locator(LogLocator):
        def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
            ticks = super().tick_values(vmin, vmax)
            n_within = sum(vmin <= tick <= vmax for tick in ticks)
            return ticks if n_within > 1 else MaxNLocator(4).tick_values(vmin, vmax)

    ax.set(**{f"{which}scale": "log"})
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_locator(Locator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def iteration_axis(ax: Axes, last: int) -> None:
    """Give the x axis a scale for iterations that shows both the first and the last."""
    from matplotlib.ticker import StrMethodFormatter

    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_xlim(-0.05, max(last, 1) * 1.15)
    ax.set_xlabel("iteration")
