"""Figures of a report: drawn on white whatever the user's settings, and held as data URIs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kpflow_sklearn.plotting import matplotlib_is_here
from kpflow_sklearn.reporting._page import Picture, data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Above this many bytes lines are no longer kept as such, but painted.
MOST_BYTES = 400_000
_PIXELS_PER_INCH = 96  # Of CSS.


@dataclass(frozen=True)
class Drawing:
    """How a figure is drawn on an axes, its caption, and what it shows in words."""

    draw: Callable[[Axes], object]
    caption: str
    alt: str
    size: tuple[float, float] = (4.6, 3.4)


def drawn(drawings: Sequence[Drawing]) -> list[Picture]:
    """Return the figures; none where matplotlib is not installed."""
    return [_picture(drawing) for drawing in drawings] if matplotlib_is_here() else []


def _picture(drawing: Drawing) -> Picture:
    from matplotlib import style
    from matplotlib.figure import Figure

    # Letters as outlines, so that the page looks alike on every machine; fixed names of parts, so
    # that the same analysis gives the same bytes.
    fixed = {"svg.fonttype": "path", "svg.hashsalt": "kpflow_sklearn"}
    with style.context(["default", fixed]):
        figure = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        kind = "image/svg+xml"
        if buffer.tell() > MOST_BYTES:
            buffer, kind = io.BytesIO(), "image/png"
            figure.savefig(buffer, format="png", dpi=200)
    width, height = (round(_PIXELS_PER_INCH * inches) for inches in drawing.size)
    uri = data_uri(buffer.getvalue(), kind)
    return Picture(uri, width, height, drawing.caption, drawing.alt)
