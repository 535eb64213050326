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
from kpflow_sklearn.cells._ode import NeuralODE, NeuralODECell

__all__ = [
    "CELL_NAMES",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "LeakyCell",
    "LeakyVoltageCell",
    "NeuralODE",
    "NeuralODECell",
    "ReluCell",
    "TanhCell",
    "WeightMap",
    "make_cell",
]
