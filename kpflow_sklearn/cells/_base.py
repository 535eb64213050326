"""The base of cells, which declare their weight maps and how these combine into the next state.

A cell is z' = phi(a_1, ..., a_M, z) with a_j = W_j u_j, where phi acts unit by unit and each
weight is used once. Jacobian products and the parameter operator follow from this declaration, so
that no cell contains a hand-written derivative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightMap:
    """One affine map a_j = W_j u_j of a cell.

    Attributes
    ----------
    name : str
        Name of the gate that the map drives ("reset", "forget", ...).
    gate : int
        Index of its block of ``hidden_size`` rows in torch's weights.
    state, input : bool
        Whether u_j contains the rates of the previous state (``weight_hh``, ``bias_hh``), and
        whether it contains the input of the layer (``weight_ih``, ``bias_ih``).
    """

    name: str
    gate: int
    state: bool = True
    input: bool = True


class Cell:
    """Base class of the built-in cells.

    A subclass sets ``maps`` and ``n_gates`` and defines `combine`. ``n_parts`` is the number of
    state variables per unit (two for the LSTM). `rate` is the signal that a unit sends to the
    other units, to the next layer and to the readout.
    """

    name: str
    maps: tuple[WeightMap, ...]
    n_gates: int
    n_parts: int = 1

    def combine(self, a: tuple[Tensor, ...], z: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the parts of the next state for values ``a`` of the maps and the state ``z``.

        This must act elementwise: unit i of the result may only depend on unit i of ``a`` and
        ``z``.
        """
        raise NotImplementedError

    def rate(self, h: Tensor) -> Tensor:
        """Return the signal that a unit in state ``h`` sends on; by default, h itself."""
        return h

    def map_values(self, recurrent: Tensor, feedforward: Tensor) -> tuple[Tensor, ...]:
        """Return a_1, ..., a_M from gate-stacked products (..., n_gates * hidden_size)."""
        from_state = recurrent.chunk(self.n_gates, dim=-1)
        from_input = feedforward.chunk(self.n_gates, dim=-1)
        return tuple(
            from_state[m.gate] + from_input[m.gate]
            if m.state and m.input
            else (from_state if m.state else from_input)[m.gate]
            for m in self.maps
        )

    def derivatives(
        self, a: tuple[Tensor, ...], z: tuple[Tensor, ...]
    ) -> tuple[list[list[Tensor]], list[list[Tensor | None]]]:
        """Return the elementwise derivatives of `combine`.

        Because phi acts unit by unit, the gradient of the sum of one part of the result contains
        all partial derivatives of that part.

        Returns
        -------
        sensitivity : list of list of Tensor
            ``sensitivity[j][p]`` is the derivative of part p by a_j.
        direct : list of list of (Tensor or None)
            ``direct[q][p]`` is the derivative of part p by part q of the state; None if part p
            does not depend on it.
        """
        a = tuple(v.detach().requires_grad_() for v in a)
        z = tuple(v.detach().requires_grad_() for v in z)
        with torch.enable_grad():
            parts = self.combine(a, z)
            columns = [
                torch.autograd.grad(part.sum(), (*a, *z), retain_graph=True, allow_unused=True)
                for part in parts
            ]
        zero = torch.zeros_like(a[0])
        sensitivity = [
            [zero if (s := column[j]) is None else s for column in columns] for j in range(len(a))
        ]
        direct: list[list[Tensor | None]] = [
            [column[len(a) + q] for column in columns] for q in range(len(z))
        ]
        return sensitivity, direct

    def rate_derivative(self, h: Tensor) -> Tensor | None:
        """Return the elementwise derivative of `rate`; None if it is the identity."""
        h = h.detach().requires_grad_()
        with torch.enable_grad():
            rate = self.rate(h)
            return None if rate is h else torch.autograd.grad(rate.sum(), h)[0]
