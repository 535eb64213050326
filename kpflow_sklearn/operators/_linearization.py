"""Linearize a network on given trials: its states and the operators K, P and PKP*."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_mask, check_real, check_sequences
from kpflow_sklearn._common.modules import set_training
from kpflow_sklearn._common.tensors import copy_module, with_gradients
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks import (
    Loss,
    Objective,
    RecurrentNetwork,
    check_features,
    check_rebuilt,
    check_user_loss,
    recognise_network,
    refuse_unusable,
    target_encoder,
    to_tensors,
    warn_without_mask,
)
from kpflow_sklearn.operators._checks import refuse_undefined
from kpflow_sklearn.operators._parameter import ParameterJacobian, ParameterOperator
from kpflow_sklearn.operators._propagator import FlowPropagator
from kpflow_sklearn.operators._tangent_kernel import TangentKernel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Linearization:
    """A network linearized along its trajectories on given trials, as `linearize` returns it.

    Parameters
    ----------
    network : RecurrentNetwork
        The network. `linearize` makes one from a module.
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        Inputs, in the dtype of the network.
    mask : Tensor of bool, shape (n_trials, n_timesteps), or None
        Valid steps. None means all.

    Attributes
    ----------
    network : RecurrentNetwork
        The network as encoder, step, readout and initial state.
    states : Tensor of shape (n_trials, n_timesteps, n_states)
        Z, the states after every step. Those of an LSTM layer are all h, then all c.
    K, P, PKP : LinearOperator
        The parameter operator, the flow propagator and the tangent kernel, which act on
        trajectories of the shape of ``states``.
    J_theta : ParameterJacobian
        The factor of K = J_theta J_theta*.
    mask : Tensor of bool, shape (n_trials, n_timesteps), or None
        Valid steps. None means all.
    n_valid : int
        N, the number of valid (trial, step) pairs.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.states.shape, lin.n_valid
    (torch.Size([3, 5, 4]), 15)
    >>> change = -0.1 * (lin.PKP @ lin.error(torch.zeros(3, 5, 1)))  # Of the states, first order.
    >>> change.shape
    torch.Size([3, 5, 4])
    """

    def __init__(self, network: RecurrentNetwork, X: Tensor, mask: Tensor | None) -> None:
        self.network, self.X, self.mask = network, X, mask
        with torch.no_grad():
            self.states = network.states(X)
        self.tangent = network.tangent(X, self.states, mask)
        self.n_valid = self.tangent.n_valid

    @cached_property
    def J_theta(self) -> ParameterJacobian:  # noqa: N802
        """The derivative of each step with respect to the parameters."""
        return self.K.jacobian

    @cached_property
    def K(self) -> ParameterOperator:  # noqa: N802
        """The parameter operator."""
        return ParameterOperator(self.tangent)

    @cached_property
    def P(self) -> FlowPropagator:  # noqa: N802
        """The linearized flow propagator."""
        return FlowPropagator(self.tangent)

    @cached_property
    def PKP(self) -> TangentKernel:  # noqa: N802
        """The tangent kernel of the states."""
        return TangentKernel(self.K, self.P)

    @with_gradients
    def error(
        self,
        y: ArrayLike | None = None,
        *,
        loss: Loss = "auto",
        activity_l2: float = 0.0,
        loss_weight: ArrayLike | None = None,
    ) -> Tensor:
        """Return Err, the derivative of the loss at each step with respect to the state.

        Equation: L = (1/N) sum_bt w_bt l(readout(z_bt), y_bt) and Err_bt = w_bt dl/dz_bt, so that
        grad_theta L = J_theta* P* Err.

        Parameters
        ----------
        y : array-like, optional
            Targets, in any of the forms that `RecurrentTrainer.fit` accepts.
        loss : {"auto", "mse", "cross_entropy"} or callable, default="auto"
            The loss l. A function of (outputs, y) returns one number per trial and step, as for
            `RecurrentTrainer`.
        activity_l2 : float, default=0.0
            Weight of the penalty on the mean squared rate.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            The weights w. The default is 1 everywhere.

        Returns
        -------
        Tensor of shape (n_trials, n_timesteps, n_states)
            Err, zero on masked steps.

        Raises
        ------
        ValueError
            If y or loss_weight has the wrong shape or does not match the network's outputs, or if
            a function given as loss is not differentiable, is random or couples trials.
        UnsupportedNetworkError
            If the network has no readout.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> lin.error(torch.zeros(3, 5, 1)).shape
        torch.Size([3, 5, 4])
        """
        check_real(activity_l2, "activity_l2", 0)
        X = self.X.detach().cpu().numpy()
        mask = None if self.mask is None else self.mask.cpu().numpy()
        n_outputs = self.network.n_outputs
        encoder = target_encoder(loss).fit(X, y, mask=mask)
        encoder.match_outputs(n_outputs)
        targets = encoder.encode(X, y, mask=mask, loss_weight=loss_weight)
        objective = Objective(encoder.loss_, float(activity_l2))
        check_user_loss(objective, self.network, X, targets, mask)
        return objective.error(self.network, self.states, targets, self.mask)


@with_gradients
def linearize(
    network: torch.nn.Module, X: ArrayLike | Tensor, mask: ArrayLike | None = None
) -> Linearization:
    """Linearize a recurrent network along its trajectories.

    Equations: (P q)_t = q_t + J_t (P q)_{t-1} and K = (1/N) J_theta J_theta^T, with the states
    z_t = f(z_{t-1}, x_t; theta), the derivatives J_t = df/dz and J_theta = df/dtheta at fixed
    z_{t-1}, and the number N of valid (trial, step) pairs.

    Parameters
    ----------
    network : Module
        The ``network_`` of a fitted trainer, or a module with one ``torch.nn.RNN``, ``GRU`` or
        ``LSTM``, which may be that layer itself. Its readout is the only ``torch.nn.Linear`` that
        takes the states; without one, or with several, only `Linearization.error` is not
        available. If parts of a module have to be named, give it to `SavedTraining` and linearize
        the ``network_``.
    X : array-like of shape (n_trials, n_timesteps, n_features)
        Inputs. They are converted to the dtype of the network.
    mask : array-like of bool, shape (n_trials, n_timesteps), optional
        Valid steps, a prefix of each trial.

    Returns
    -------
    Linearization
        The states and the operators. Later training of ``network`` does not change them.

    Raises
    ------
    ValueError
        If X or mask has the wrong shape or contains NaN or infinity, or if the states overflow.
    UnsupportedNetworkError
        If the analysis does not support this kind of module, or if its step and readout do not
        reproduce its states or outputs on eight trials, spread over X, or if a derivative of the
        step is NaN.

    Warns
    -----
    UserWarning
        If a module without a recognised readout cannot be run on X, so that its states are not
        compared; if no mask is given, but the module takes lengths or a mask and trials end in
        constant steps; if gradients of the module differ from those of the analysis (detach in
        ``forward``, hooks).

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 8), "out": torch.nn.Linear(8, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.PKP
    TangentKernel((3, 5, 8) -> (3, 5, 8), torch.float32)
    >>> (lin.P @ lin.states).shape
    torch.Size([3, 5, 8])
    """
    if not isinstance(network, torch.nn.Module):
        raise UnsupportedNetworkError(
            f"network must be a torch.nn.Module, got a {type(network).__name__}."
        )
    recognise_network(network, needs_readout=False)  # Refuses faults that evaluation mode hides.
    module = set_training(copy_module(network), False)
    view = recognise_network(module, needs_readout=False)
    refuse_unusable(view, "network")
    array = check_sequences(X)
    valid = check_mask(mask, array)
    check_features(view, array)
    warn_without_mask(network, array, valid)
    lin = Linearization(view, *to_tensors(array, valid, view))
    if not lin.states.isfinite().all():
        entries = array if valid is None else array[valid]
        largest = entries.flat[abs(entries).argmax()]
        raise ValueError(
            f"The states of the network must stay within the range of {view.dtype} on X, got NaN "
            f"or infinity; the entry of largest magnitude is {largest:.3g}. Scale down X or the "
            "weights."
        )
    check_rebuilt(module, view, array, valid, original=network)
    refuse_undefined(lin.tangent)
    return lin
