"""Colours that show a value: on a scale, or one per category."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kpflow_sklearn.plotting._style import (
    BESIDE,
    CATEGORY_COLORS,
    colormap,
    plain_texts,
    sequential_colors,
    short_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to this number, different integers are categories.
_MAX_CATEGORIES = 20


class Coloring:
    """A map from values to colours, with its legend or colour bar.

    Words, and up to 20 different integers, are categories. Up to 8 categories have distinct
    colours and a legend; more than 8 have the colours of a scale and a colour bar. All other
    numbers have a continuous scale.

    Parameters
    ----------
    values : ndarray
        All values to be coloured.
    cyclic : bool
        Whether the values are angles in radians.
    label : str
        Title of the legend or colour bar.
    """

    def __init__(self, values: np.ndarray, *, cyclic: bool, label: str) -> None:
        from matplotlib.colors import Normalize

        self.cyclic, self.label = cyclic, label
        values = _plain(values)
        self.categories: np.ndarray | None = None
        if values.dtype.kind != "f" and not cyclic:
            distinct = np.unique(values)
            if values.dtype.kind not in "iu" or len(distinct) <= _MAX_CATEGORIES:
                self.categories = distinct
        if self.categories is None:
            low, high = (0, 2 * np.pi) if cyclic else (values.min(), values.max() + 1e-12)
            self.norm = Normalize(low, high)
            self.whole = bool((values == np.round(values)).all())
        else:
            n = len(self.categories)
            few = n <= len(CATEGORY_COLORS)
            self.colors: Any = CATEGORY_COLORS[:n] if few else sequential_colors(n)

    def __call__(self, values: Any) -> np.ndarray:
        """Return the RGBA colours of values (...), of shape (..., 4)."""
        from matplotlib.colors import to_rgba_array

        if self.categories is not None:
            return to_rgba_array(self.colors)[np.searchsorted(self.categories, _plain(values))]
        numbers = np.asarray(values, dtype=float)
        scaled = self.norm(numbers % (2 * np.pi) if self.cyclic else numbers)
        return np.asarray(colormap(self.cyclic)(scaled))

    def explain(self, ax: Axes) -> None:
        """Add the legend or the colour bar."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import BoundaryNorm, ListedColormap
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        if self.categories is None:
            mapping = ScalarMappable(self.norm, colormap(self.cyclic))
            bar = ax.figure.colorbar(mapping, ax=ax, label=self.label)
            if self.cyclic:
                bar.set_ticks([0, np.pi, 2 * np.pi], labels=["0", "π", "2π"])
            elif self.whole:
                bar.locator = MaxNLocator(integer=True)
                bar.update_ticks()
            return
        names = [short_name(category) for category in self.categories]
        if len(names) <= len(CATEGORY_COLORS):
            handles = [
                Line2D([], [], color=color, marker="o", markersize=4, label=name)
                for color, name in zip(self.colors, names, strict=True)
            ]
            plain_texts(ax.legend(handles=handles, title=self.label, **BESIDE))
            return
        edges = np.arange(len(names) + 1)
        mapping = ScalarMappable(BoundaryNorm(edges, len(names)), ListedColormap(self.colors))
        bar = ax.figure.colorbar(mapping, ax=ax, label=self.label)
        bar.set_ticks((edges[:-1] + 0.5).tolist(), labels=names, parse_math=False)
        bar.minorticks_off()


def _plain(values: Any) -> np.ndarray:
    """Return numbers and booleans as an array, and all other values as words."""
    array = np.asarray(values)
    return array if array.dtype.kind in "iufb" else array.astype(str)
