"""Figures of a report: drawn on white, whatever the user's settings, and kept as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kpflow_sklearn.plotting import matplotlib_is_here

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: An SVG figure of more bytes than this is replaced by a PNG.
MOST_BYTES = 400_000
_PIXELS_PER_INCH = 96  # Of CSS.


@dataclass(frozen=True)
class Drawing:
    """How a figure is drawn on an axes, and its size in inches."""

    draw: Callable[[Axes], object]
    size: tuple[float, float] = (4.6, 3.4)


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, and its size in CSS pixels."""

    uri: str
    width: int
    height: int


def data_uri(content: bytes, kind: str) -> str:
    """Return the content of a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def drawn(drawings: Mapping[str, Drawing]) -> dict[str, Picture | None]:
    """Return the figures by name, each None if matplotlib is not installed."""
    here = matplotlib_is_here()
    return {name: _picture(drawing) if here else None for name, drawing in drawings.items()}


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
    return Picture(data_uri(buffer.getvalue(), kind), width, height)
