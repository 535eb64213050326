"""Recurrent cells: what one step computes, and the weight maps it consists of."""

from kpflow_sklearn.cells._base import Cell, WeightMap
from kpflow_sklearn.cells._builtin import (
    CELL_NAMES,
    GRUCell,
    LeakyCell,
    LeakyVoltageCell,
    LSTMCell,
    ReluCell,
    TanhCell,
    make_cell,
)

__all__ = [
    "CELL_NAMES",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "LeakyCell",
    "LeakyVoltageCell",
    "ReluCell",
    "TanhCell",
    "WeightMap",
    "make_cell",
]
