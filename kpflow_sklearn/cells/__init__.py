"""Recurrent cells: the computation of one step, and the weight maps that it consists of.

``_base`` is the base class with its declarations, ``_builtin`` holds the built-in cells, and
``_ode`` the neural ODEs. ``_user_step`` runs the step of a user's module, and ``_frozen_draws``
records the random numbers that the step draws.
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
from kpflow_sklearn.cells._frozen_draws import ConstantDraws as ConstantDraws
from kpflow_sklearn.cells._frozen_draws import Recorder as Recorder
from kpflow_sklearn.cells._ode import NeuralODE, NeuralODECell
from kpflow_sklearn.cells._user_step import UserStep as UserStep
from kpflow_sklearn.cells._user_step import dropout_acts as dropout_acts

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
