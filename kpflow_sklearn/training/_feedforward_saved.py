"""A multilayer perceptron somebody else trained, alone or with its checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.feedforward import FeedForwardNetwork, recognise_feedforward
from kpflow_sklearn.networks import refuse_unusable
from kpflow_sklearn.training._feedforward_model import FeedForwardModel, check_table, check_values
from kpflow_sklearn.training._feedforward_trainer import FeedForwardTrainer
from kpflow_sklearn.training._loop import Snapshot
from kpflow_sklearn.training._recurrent_saved import SavedTraining
from kpflow_sklearn.training._state_dicts import Checkpoints, load_each, unwrapped


class SavedFeedForward(FeedForwardModel):
    """What `GramFlowAnalyzer` makes of a module, or of the `SavedTraining` of one.

    Parameters
    ----------
    network : Module
        As `recognise_feedforward` takes it. It is copied, never changed.
    checkpoints, iterations : optional
        The module's states over training, as `SavedTraining` takes them.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoints: Checkpoints = None,
        *,
        iterations: Sequence[int] | None = None,
    ) -> None:
        self.network = network
        self.checkpoints = checkpoints
        self.iterations = iterations

    @undone_if_it_fails
    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> SavedFeedForward:
        """Recognise the network and load its checkpoints; nothing is trained.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs, on which the layers are checked to give the module's outputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        SavedFeedForward
            Itself.

        Raises
        ------
        UnsupportedNetworkError
            If the module is of a kind that the analysis cannot take.
        CheckpointError
            If a checkpoint cannot be read, does not fit the module, or is not finite.
        ValueError
            If X, y or the number of iterations do not fit.
        """
        inputs = check_table(self, X, reset=True)
        if self.checkpoints is None:
            refuse_unusable(self.network, "network")
        module = copy.deepcopy(unwrapped(self.network)).cpu().eval()
        view = recognise_feedforward(module)
        if inputs.shape[1] != view.n_features:
            raise ValueError(
                f"X has {inputs.shape[1]} features, but the network takes {view.n_features}."
            )
        check_values(y, inputs, view.n_outputs)
        self._y_is_column = as_array(y, "y").ndim == 2
        self.snapshots_ = []
        given = self.checkpoints is not None
        with FitTask.root(self, X=X, y=y):
            loaded = load_each(module, self.checkpoints, self.iterations)
            for index, iteration in enumerate(loaded):
                refuse_unusable(module, f"checkpoints[{index}]" if given else "network")
                _check_outputs(module, view, inputs[:8])
                self.snapshots_.append(Snapshot.take(iteration, view))
        self.network_, self.n_iter_ = view, self.snapshots_[-1].iteration
        self.loss_curve_ = np.empty(0)
        return self


@torch.no_grad()
def _check_outputs(module: nn.Module, view: FeedForwardNetwork, X: np.ndarray) -> None:
    """Refuse a module whose layers do not give its outputs on some rows."""
    some = as_tensor(X, view.dtype)
    # Large weights may overflow, but then in both.
    if not torch.allclose(view(some), module(some), rtol=1e-4, atol=1e-6, equal_nan=True):
        raise UnsupportedNetworkError(
            f"the layers of {type(module).__name__} do not reproduce its outputs: it has a "
            "forward or hooks of its own."
        )


def as_feedforward_trainer(
    trainer: Any, *, clone: Callable, random_state: int, verbose: bool | int
) -> Any:
    """Return an unfitted copy of what `GramFlowAnalyzer` was given as ``trainer``.

    None stands for ``FeedForwardTrainer(hidden_sizes=(64,))``. A trainer without a seed of its own
    takes ``random_state``.
    """
    if trainer is None:
        return FeedForwardTrainer((64,), random_state=random_state, verbose=verbose)
    if isinstance(trainer, nn.Module):
        return SavedFeedForward(trainer)
    if isinstance(trainer, SavedTraining):
        return _of_saved(trainer)
    if not isinstance(getattr(trainer, "estimator", trainer), FeedForwardModel):
        raise ValueError(
            "trainer must be a FeedForwardTrainer, a SavedTraining, a FrozenEstimator of one, a "
            f"torch.nn.Module or None, got {trainer!r}."
        )
    fresh = clone(trainer)
    if "random_state" in fresh.get_params(deep=False) and fresh.random_state is None:
        fresh.set_params(random_state=random_state)
    return fresh


def _of_saved(saved: SavedTraining) -> SavedFeedForward:
    """Read a `SavedTraining` whose network is feed-forward."""
    for name in ("recurrent", "step", "readout", "initial_state", "parameters"):
        if getattr(saved, name) is not None:
            raise ValueError(
                f"{name} must be None for a feed-forward network, whose last Linear is the "
                f"readout, got {getattr(saved, name)!r}."
            )
    if saved.loss not in ("auto", "mse"):
        raise ValueError(
            f"loss must be 'mse' or 'auto' for a feed-forward network, got {saved.loss!r}: the "
            "kernel's equations are those of a quadratic loss."
        )
    return SavedFeedForward(saved.network, saved.checkpoints, iterations=saved.iterations)
