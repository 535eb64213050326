"""What the figures share: colours that colour-blind readers can tell apart, and axes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, with markers that tell the lines apart in grey as well.
OPERATOR_STYLE: dict[str, dict[str, Any]] = {
    "K": {"color": "#0072B2", "marker": "o", "label": "K"},
    "P": {"color": "#D55E00", "marker": "s", "label": "P"},
    "PKP": {"color": "#009E73", "marker": "^", "label": "PKP*"},
}

#: Layers, from the lowest.
LAYER_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

_LONGEST_NAME = 24


def matplotlib_is_here() -> bool:
    """Tell whether figures can be drawn: matplotlib is an extra."""
    return find_spec("matplotlib") is not None


#: The same for what has no order: Okabe and Ito's, with black and grey in place of yellow.
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

#: Where a legend of many entries covers nothing.
BESIDE: dict[str, Any] = {
    "loc": "center left",
    "bbox_to_anchor": (1, 0.5),
    "frameon": False,
    "fontsize": "small",
}

#: Lines of the operators where colours stand for something else.
OPERATOR_LINE: dict[str, dict[str, Any]] = {
    "K": {"linestyle": "-", "marker": "o", "label": "K"},
    "P": {"linestyle": "--", "marker": "s", "label": "P"},
    "PKP": {"linestyle": ":", "marker": "^", "label": "PKP*"},
}


def colormap(cyclic: bool = False) -> Any:
    """Return a perceptually uniform colormap whose lightest colours still show on white."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colors = colormaps["twilight" if cyclic else "viridis"](np.linspace(0, 1, 256))
    return ListedColormap(colors * [0.82, 0.82, 0.82, 1.0])


def sequential_colors(n: int) -> list:
    """Return n colours in an order that shows."""
    return [colormap()(k / max(n - 1, 1)) for k in range(n)]


def new_axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the only axes of a new figure."""
    if ax is not None:
        if not (hasattr(ax, "plot") and hasattr(ax, "figure")):
            raise TypeError(f"ax must be Axes of matplotlib, got {ax!r}.")
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def short_name(name: object) -> str:
    """Return a name that leaves room for the figure."""
    text = str(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def plain_texts(legend: Any) -> None:
    """Keep a dollar sign in a name from being read as mathematics."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def plot_range(values: pd.DataFrame, *, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw several runs as their median, with a band from the lowest to the highest of them.

    Parameters
    ----------
    values : DataFrame of shape (n_points, n_runs)
        One column a run (a seed, say); the index is the x axis. NaN is left out.
    ax : Axes, optional
        Where to draw; default a new figure.
    **style
        Of the line, as ``ax.plot`` takes it.

    Returns
    -------
    Axes
        Where it was drawn.

    Raises
    ------
    TypeError
        If ``values`` is no DataFrame, or an empty one.

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
        raise TypeError(f"values must be a DataFrame, one column a run, got {values!r}.")
    ax = new_axes(ax)
    (line,) = ax.plot(values.index, values.median(axis=1), **style)
    low, high = values.min(axis=1), values.max(axis=1)
    ax.fill_between(values.index, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return ax


def plain_log_scale(ax: Axes, which: str = "y") -> None:
    """Put an axis on a logarithmic scale with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set(**{f"{which}scale": "log"})
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def iteration_axis(ax: Axes, last: int) -> None:
    """Put training iterations on a scale that shows both the first steps and the last."""
    from matplotlib.ticker import StrMethodFormatter

    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_xlim(-0.05, max(last, 1) * 1.15)
    ax.set_xlabel("iteration")
    ax.spines[["top", "right"]].set_visible(False)
