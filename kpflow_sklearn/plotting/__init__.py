"""Figures of fitted analyzers; matplotlib is imported only when a figure is drawn.

There is one file per kind of figure. ``_display`` holds the base classes, and ``_runs`` draws
several runs in one figure. ``_style`` holds colours, lines and axes, and ``_coloring`` colours
trajectories by a value.
"""

from kpflow_sklearn._common.public import public_names
from kpflow_sklearn.plotting._alignment import AlignmentDisplay
from kpflow_sklearn.plotting._bottleneck import BottleneckDisplay
from kpflow_sklearn.plotting._collapse import CollapseDisplay
from kpflow_sklearn.plotting._gram import GramDisplay
from kpflow_sklearn.plotting._spectrum import LyapunovDisplay, SpectrumDisplay
from kpflow_sklearn.plotting._style import OPERATOR_STYLE as OPERATOR_STYLE
from kpflow_sklearn.plotting._style import matplotlib_is_here as matplotlib_is_here
from kpflow_sklearn.plotting._style import plot_range
from kpflow_sklearn.plotting._trajectory import N_DRAWN as N_DRAWN
from kpflow_sklearn.plotting._trajectory import TrajectoryDisplay

__all__ = [
    "AlignmentDisplay",
    "BottleneckDisplay",
    "CollapseDisplay",
    "GramDisplay",
    "LyapunovDisplay",
    "SpectrumDisplay",
    "TrajectoryDisplay",
    "plot_range",
]

__dir__ = public_names(__all__)
