"""Recurrent cells: what one step computes, and the weight maps it consists of.

``_base`` says what a cell declares, ``_builtin`` holds the built-in ones, ``_ode`` neural ODEs,
``_user_step`` steps from elsewhere.
"""

from kpflow_sklearn._common.public import public_names
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
from kpflow_sklearn.cells._user_step import UserStep as UserStep

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

__dir__ = public_names(__all__)
