"""K and its factor J_theta: how the parameters move the state within each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_positive_int, check_real, check_slice
from kpflow_sklearn.networks.tangents import LayerBlock, MapBlock, NetworkTangent
from kpflow_sklearn.operators._base import LinearOperator, as_trajectories, steps_first
from kpflow_sklearn.operators._checks import check_tangent


class ParameterJacobian(LinearOperator):
    """J_theta, the derivative of each step with respect to the parameters at fixed previous state.

    J_theta maps flat parameter directions (n_parameters,) to trajectories (n_trials, n_timesteps,
    n_states). Its adjoint is J_theta* = (1/N) J_theta^T. The coordinates are ordered by weight
    map; `to_parameters` converts them to named parameter tensors.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.
    blocks : list of parameter blocks, optional
        The parameters to include. The default is all of them.

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
        return as_trajectories(out, v.shape[:-1])

    def write(self, v: Tensor, out: Tensor) -> None:
        """Write J_theta v to ``out``, whose first axis is the steps.

        Parameters
        ----------
        v : Tensor of shape (..., n_parameters)
            k parameter directions.
        out : Tensor of shape (n_timesteps, k, n_trials, n_states)
            The result. Earlier contents are overwritten.

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
        # J_theta v = sum_j J_j v_j over the blocks j (weight maps): v is cut into the v_j
        # (k, n_parameters of block j). The first block of each layer writes, the others add;
        # the states of layers without a block are zero.
        pieces = v.reshape(out.shape[1], v.shape[-1]).split(self._sizes, dim=-1)
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
        # J_theta* q = (1/N) [J_1^T q, J_2^T q, ...], each J_j^T q (k, n_parameters of block j).
        steps = steps_first(q)
        pieces = [block.adjoint(steps) for block in self.blocks]
        empty = q.new_empty(steps.shape[1], 0)  # torch.cat needs a tensor even without blocks.
        v = torch.cat([empty, *pieces], dim=-1).div_(self.tangent.n_valid)
        return v.reshape(*q.shape[:-3], v.shape[-1])

    def on_trials(self, trials: slice) -> ParameterJacobian:
        """Return the rows of some of the trials. N remains the number for all trials."""
        check_slice(trials, "trials", self.out_shape[0])
        blocks = [block.select(trials) for block in self.blocks]
        return ParameterJacobian(self.tangent.select(trials), blocks)

    def _transpose_scale(self) -> float:
        return float(self.tangent.n_valid)

    def to_parameters(self, v: Tensor) -> dict[str, Tensor]:
        """Split a flat direction into the parameter tensors of the network.

        Parameters
        ----------
        v : Tensor of shape (n_parameters,)
            A direction, for example ``J.T @ q``.

        Returns
        -------
        dict of str to Tensor
            One entry per parameter tensor, under torch's names. A trained initial state is
            "initial_state".

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
            given = f"{v.layout} {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(f"v must be a dense tensor of shape {self.in_shape}, got {given}.")
        # The rows of one parameter may belong to several weight maps (gates).
        pieces: dict[str, dict[int, Tensor]] = {}
        for block, piece in zip(self.blocks, v.split(self._sizes), strict=True):
            for name, rows, values in block.to_parameters(piece):
                pieces.setdefault(name, {})[rows.start or 0] = values
        return {
            # A parameter without axes, such as a time constant, has no rows.
            name: torch.cat(parts) if parts[0].ndim else parts[0]
            for name, rows in pieces.items()
            for parts in [[rows[start] for start in sorted(rows)]]
        }


class ParameterOperator(LinearOperator):
    """K = J_theta J_theta*, self-adjoint and positive semidefinite.

    Equation: K = (1/N) J_theta J_theta^T, where N is the number of valid (trial, step) pairs. For
    built-in cells with a fixed z_0, K is block diagonal over hidden units (over pairs (h_i, c_i)
    for the LSTM).

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network.
    blocks : list of parameter blocks, optional
        The parameters to include. The default is all of them.

    Attributes
    ----------
    jacobian : ParameterJacobian
        J_theta.
    activity_error : float
        Share of the trace of the weight maps' part of K that `compress` left out, or 0 for an
        operator that is not compressed.

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
        # J_theta* q is complete before J_theta overwrites q.
        v, out = self.jacobian.T @ q, steps_first(q)
        self.jacobian.write(v, out)
        return as_trajectories(out, q.shape[:-3])

    def _adjoint(self) -> LinearOperator:
        return self

    @property
    def components(self) -> dict[str, ParameterOperator]:
        """The operators K_j of the single weight maps (or parameter tensors), which sum to K."""
        return {
            part.name: ParameterOperator(self.tangent, [part])
            for block in self.jacobian.blocks
            for part in block.split()
        }

    def compress(self, tolerance: float = 0.0, rank: int | None = None) -> ParameterOperator:
        """Return K with the activity u_j of each weight map projected on its leading directions.

        K minus the result is positive semidefinite, so each eigenvalue of the result is at most
        the corresponding one of K, and the trace of the weight maps' part is smaller by the share
        ``activity_error``. The cost of a product decreases in proportion to the number of
        directions kept. The terms of a user's cell, of weights that are computed from others and
        of a trained initial state are not compressed.

        Parameters
        ----------
        tolerance : float, default=0.0
            Largest relative error of each u_j, in the Frobenius norm, unless ``rank`` is smaller.
        rank : int, optional
            Largest number of directions kept per weight map.

        Returns
        -------
        ParameterOperator
            The compressed operator, with its measured ``activity_error``.

        Raises
        ------
        TypeError, ValueError
            If ``tolerance`` is not between 0 and 1, or ``rank`` is not a positive integer.

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
                # tr J_j J_j^T splits exactly into the parts kept and left out.
                kept, left_out = block.block.compress(tolerance, rank)
                lost, total = lost + left_out, total + kept.trace() + left_out
                block = LayerBlock(kept, block.prefix, block.states)
            blocks.append(block)
        out = ParameterOperator(self.tangent, blocks)
        out.activity_error = lost / total if total else 0.0
        return out
