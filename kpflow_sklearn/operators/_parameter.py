"""K, the parameter operator: how parameters move the states of one step."""

from __future__ import annotations

import torch
from torch import Tensor

from kpflow_sklearn.operators._base import LinearOperator, _Adjoint
from kpflow_sklearn.tangent import NetworkTangent


class ParameterJacobian(LinearOperator):
    """J_theta, the derivative of each step's result by the parameters, previous states fixed.

    Maps flat parameter directions (n_parameters,) to trajectories (n_trials, n_timesteps,
    n_states). Its adjoint is J_theta* = (1/N) J_theta^T. The coordinates follow the weight maps;
    `to_parameters` names them.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.
    blocks : list of parameter blocks, optional
        Restrict the parameters to these; default all.
    """

    def __init__(self, tangent: NetworkTangent, blocks: list | None = None) -> None:
        self.tangent = tangent
        self.blocks = tangent.blocks() if blocks is None else blocks
        self._sizes = [block.n_parameters for block in self.blocks]
        super().__init__((sum(self._sizes),), tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, v: Tensor) -> Tensor:
        n_trials, n_timesteps, n_states = self.out_shape
        out = v.new_zeros(n_timesteps, *v.shape[:-1], n_trials, n_states)
        for block, piece in zip(self.blocks, v.split(self._sizes, dim=-1), strict=True):
            out += block.forward(piece)
        return out.movedim(0, -2)

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        q = q.movedim(-2, 0)
        pieces = [block.adjoint(q) for block in self.blocks]
        empty = q.new_zeros(*q.shape[1:-2], 0)
        return torch.cat([empty, *pieces], dim=-1) / self.tangent.n_valid

    def _adjoint(self) -> LinearOperator:
        return _Adjoint(self)

    def _transpose_scale(self) -> float:
        return float(self.tangent.n_valid)

    def to_parameters(self, v: Tensor) -> dict[str, Tensor]:
        """Name a flat direction by the parameters of the network.

        Parameters
        ----------
        v : Tensor of shape (n_parameters,)
            A direction, for instance ``J.T @ q``.

        Returns
        -------
        dict of str to Tensor
            One entry a parameter tensor, under torch's names; "initial_state" if it trains.
        """
        pieces: dict[str, dict[int, Tensor]] = {}
        for block, piece in zip(self.blocks, v.split(self._sizes), strict=True):
            for name, rows, values in block.to_parameters(piece):
                pieces.setdefault(name, {})[rows.start or 0] = values
        return {
            name: torch.cat([rows[start] for start in sorted(rows)])
            for name, rows in pieces.items()
        }


class ParameterOperator(LinearOperator):
    """K = J_theta J_theta*, self-adjoint and positive semidefinite.

    Equation: K = (1/N) J_theta J_theta^T with N the number of valid (trial, step) pairs. For
    built-in cells K is block diagonal over hidden units (the LSTM's over pairs (h_i, c_i)).

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.
    blocks : list of parameter blocks, optional
        Restrict the parameters to these; default all.
    """

    def __init__(self, tangent: NetworkTangent, blocks: list | None = None) -> None:
        self.jacobian = ParameterJacobian(tangent, blocks)
        self.tangent = tangent
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, q: Tensor) -> Tensor:
        return self.jacobian @ (self.jacobian.T @ q)

    def _adjoint(self) -> LinearOperator:
        return self

    @property
    def components(self) -> dict[str, ParameterOperator]:
        """The operators K_j of the single weight maps (or tensors); they sum to K."""
        return {
            block.name: ParameterOperator(self.tangent, [block])
            for block in self.tangent.blocks(split=True)
        }
