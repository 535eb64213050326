"""The built-in cells, with torch's order of gates, so that weights are those of ``torch.nn``."""

from __future__ import annotations

import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_real
from kpflow_sklearn.cells._base import Cell, WeightMap

Parts = tuple[Tensor, ...]


class TanhCell(Cell):
    """h' = tanh(W [h, x, 1, 1])."""

    name = "tanh"
    maps = (WeightMap("recurrent", 0),)
    n_gates = 1

    def combine(self, a: Parts, z: Parts) -> Parts:
        """Return the next hidden state."""
        return (torch.tanh(a[0]),)


class ReluCell(TanhCell):
    """h' = relu(W [h, x, 1, 1])."""

    name = "relu"

    def combine(self, a: Parts, z: Parts) -> Parts:
        """Return the next hidden state."""
        return (torch.relu(a[0]),)


class LeakyCell(Cell):
    """h' = (1 - alpha) h + alpha tanh(W [h, x, 1, 1]), alpha = dt / tau."""

    name = "leaky"
    maps = (WeightMap("recurrent", 0),)
    n_gates = 1

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def combine(self, a: Parts, z: Parts) -> Parts:
        """Return the next hidden state."""
        return ((1 - self.alpha) * z[0] + self.alpha * torch.tanh(a[0]),)


class LeakyVoltageCell(LeakyCell):
    """h' = (1 - alpha) h + alpha W [tanh(h), x, 1, 1]: h is a voltage, tanh(h) the rate."""

    name = "leaky_voltage"

    def combine(self, a: Parts, z: Parts) -> Parts:
        """Return the next voltage."""
        return ((1 - self.alpha) * z[0] + self.alpha * a[0],)

    def rate(self, h: Tensor) -> Tensor:
        """Return the firing rate tanh(h)."""
        return torch.tanh(h)


class GRUCell(Cell):
    """Torch's GRU: the reset gate multiplies the recurrent part of the candidate and its bias.

    The candidate has two maps, one of the input and one of the state, because the reset gate
    multiplies only the latter.
    """

    name = "gru"
    maps = (
        WeightMap("reset", 0),
        WeightMap("update", 1),
        WeightMap("candidate_input", 2, state=False),
        WeightMap("candidate_state", 2, input=False),
    )
    n_gates = 3

    def combine(self, a: Parts, z: Parts) -> Parts:
        """Return the next hidden state."""
        reset, update = torch.sigmoid(a[0]), torch.sigmoid(a[1])
        candidate = torch.tanh(a[2] + reset * a[3])
        return ((1 - update) * candidate + update * z[0],)


class LSTMCell(Cell):
    """Torch's LSTM; the state of a unit is the pair (h, c)."""

    name = "lstm"
    maps = (
        WeightMap("input_gate", 0),
        WeightMap("forget_gate", 1),
        WeightMap("cell_candidate", 2),
        WeightMap("output_gate", 3),
    )
    n_gates = 4
    n_parts = 2

    def combine(self, a: Parts, z: Parts) -> Parts:
        """Return the next hidden and cell states."""
        cell = torch.sigmoid(a[1]) * z[1] + torch.sigmoid(a[0]) * torch.tanh(a[2])
        return torch.sigmoid(a[3]) * torch.tanh(cell), cell


_CELLS: dict[str, type[Cell]] = {
    cell.name: cell
    for cell in (GRUCell, TanhCell, ReluCell, LeakyCell, LeakyVoltageCell, LSTMCell)
}
CELL_NAMES: tuple[str, ...] = tuple(_CELLS)


def make_cell(name: str, alpha: float = 1.0) -> Cell:
    """Return the built-in cell of that name.

    Parameters
    ----------
    name : str
        One of ``CELL_NAMES``.
    alpha : float, default=1.0
        dt / tau of the leaky cells; other cells ignore it.

    Returns
    -------
    Cell
        The cell.

    Raises
    ------
    ValueError
        If there is no cell of that name.
    """
    if not isinstance(name, str) or name not in _CELLS:
        raise ValueError(
            f"cell must be one of {', '.join(map(repr, CELL_NAMES))} or a callable "
            f"(n_features, hidden_size) -> module, got {name!r}."
        )
    check_real(alpha, "alpha", 0, 1, open_minimum=True)
    kind = _CELLS[name]
    return kind(alpha) if issubclass(kind, LeakyCell) else kind()
