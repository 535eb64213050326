"""K, the parameter operator: how parameters move the states of one step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_positive_int, check_real, check_slice
from kpflow_sklearn.networks.tangents import LayerBlock, MapBlock, NetworkTangent
from kpflow_sklearn.operators._base import (
    LinearOperator,
    _Adjoint,
    steps_first,
    trials_first,
)
from kpflow_sklearn.operators._checks import check_tangent


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

    Raises
    ------
    TypeError
        If ``tangent`` is not a linearized network.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.J_theta
    ParameterJacobian((96,) -> (3, 5, 4), torch.float32)
    >>> gradient = lin.J_theta.T @ (lin.P.T @ lin.error(torch.zeros(3, 5, 1)))
    >>> gradient.shape
    torch.Size([96])
    """

    def __init__(self, tangent: NetworkTangent, blocks: list | None = None) -> None:
        check_tangent(tangent)
        self.tangent = tangent
        self.blocks = tangent.blocks() if blocks is None else blocks
        self._sizes = [block.n_parameters for block in self.blocks]
        super().__init__((sum(self._sizes),), tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, v: Tensor) -> Tensor:
        n_trials, n_timesteps, n_states = self.out_shape
        out = v.new_empty(n_timesteps, math.prod(v.shape[:-1]), n_trials, n_states)
        self.write(v, out)
        return trials_first(out, v.shape[:-1])

    def write(self, v: Tensor, out: Tensor) -> None:
        """Write J_theta v to ``out``, steps first, (T, k, B, H).

        Parameters
        ----------
        v : Tensor of shape (..., n_parameters)
            Parameter directions.
        out : Tensor of shape (n_timesteps, k, n_trials, n_states)
            Where the result goes, k the number of directions; its contents are overwritten.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> out = torch.empty(5, 2, 3, 4)
        >>> lin.J_theta.write(torch.ones(2, 96), out)
        >>> torch.allclose(out[:, 0].movedim(0, 1), lin.J_theta @ torch.ones(96))
        True
        """
        pieces = v.reshape(out.shape[1], v.shape[-1]).split(self._sizes, dim=-1)
        # The first block of each layer writes, the others add; what none writes to is zero.
        written: set[int] = set()
        for layer in self.tangent.slices:
            if all(getattr(block, "states", None) != layer for block in self.blocks):
                out[..., layer] = 0
        for block, piece in zip(self.blocks, pieces, strict=True):
            if isinstance(block, LayerBlock) and block.states.start not in written:
                written.add(block.states.start)
                block.write_forward(piece, out)
            else:
                block.add_forward(piece, out)

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        steps = steps_first(q)
        pieces = [block.adjoint(steps) for block in self.blocks]
        empty = q.new_empty(steps.shape[1], 0)
        v = torch.cat([empty, *pieces], dim=-1).div_(self.tangent.n_valid)
        return v.reshape(*q.shape[:-3], v.shape[-1])

    _apply_adjoint_in_place = _apply_adjoint

    def on_trials(self, trials: slice) -> ParameterJacobian:
        """Return the rows of some of the trials; N stays that of all of them."""
        check_slice(trials, "trials", self.out_shape[0])
        blocks = [block.select(trials) for block in self.blocks]
        return ParameterJacobian(self.tangent.select(trials), blocks)

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

        Raises
        ------
        ValueError
            If v is not a dense tensor of that shape.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> {name: tuple(w.shape) for name, w in lin.J_theta.to_parameters(torch.ones(96)).items()}
        {'weight_hh_l0': (12, 4), 'weight_ih_l0': (12, 2), 'bias_ih_l0': (12,), 'bias_hh_l0':
        (12,)}
        """
        is_dense = isinstance(v, Tensor) and v.layout == torch.strided and not v.is_meta
        if not is_dense or v.shape != self.in_shape:
            came = f"{v.layout} {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(f"v must be a dense tensor of shape {self.in_shape}, got {came}.")
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

    Attributes
    ----------
    jacobian : ParameterJacobian
        J_theta.
    activity_error : float
        Share of tr K that `compress` left out; 0 otherwise.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.K
    ParameterOperator((3, 5, 4) -> (3, 5, 4), torch.float32)
    >>> list(lin.K.components)
    ['reset', 'update', 'candidate_input', 'candidate_state']
    """

    def __init__(self, tangent: NetworkTangent, blocks: list | None = None) -> None:
        self.jacobian = ParameterJacobian(tangent, blocks)
        self.tangent = tangent
        self.activity_error = 0.0
        super().__init__(tangent.shape, tangent.shape, tangent.dtype, tangent.device)

    def _apply(self, q: Tensor) -> Tensor:
        return self.jacobian @ (self.jacobian.T @ q)

    def _apply_in_place(self, q: Tensor) -> Tensor:
        v, out = self.jacobian.T @ q, steps_first(q)
        self.jacobian.write(v, out)
        return trials_first(out, q.shape[:-3])

    def _adjoint(self) -> LinearOperator:
        return self

    @property
    def components(self) -> dict[str, ParameterOperator]:
        """The operators K_j of the single weight maps (or tensors); they sum to K."""
        return {
            part.name: ParameterOperator(self.tangent, [part])
            for block in self.jacobian.blocks
            for part in block.split()
        }

    def compress(self, tolerance: float = 0.0, rank: int | None = None) -> ParameterOperator:
        """Return K with the activity u_j of each weight map cut to its leading directions.

        What is left out is positive semidefinite, so every eigenvalue of the result is at most
        the one of K, and their sum falls short by ``activity_error`` of tr K. Costs fall by the
        ratio of directions kept. The parts of a user's cell
        and of a trained initial state are left as they are, and outside of that share.

        Parameters
        ----------
        tolerance : float, default=0.0
            Largest relative Frobenius norm of what is left out of each u_j.
        rank : int, optional
            Keep no more directions than this.

        Returns
        -------
        ParameterOperator
            The compressed operator, with its measured ``activity_error``.

        Raises
        ------
        TypeError, ValueError
            If ``tolerance`` is not between 0 and 1, or ``rank`` not a positive whole number.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> bool(lin.K.compress(tolerance=1e-3).activity_error < 1e-4)
        True
        """
        check_real(tolerance, "tolerance", 0, 1)
        if rank is not None:
            check_positive_int(rank, "rank")
        blocks, lost, total = [], 0.0, 0.0
        for block in self.jacobian.blocks:
            if isinstance(block, LayerBlock) and isinstance(block.block, MapBlock):
                kept, missing = block.block.compress(tolerance, rank)
                lost, total = lost + missing, total + kept.trace() + missing
                block = LayerBlock(kept, block.prefix, block.states)
            blocks.append(block)
        out = ParameterOperator(self.tangent, blocks)
        out.activity_error = lost / total if total else 0.0
        return out
