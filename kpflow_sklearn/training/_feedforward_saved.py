"""A multilayer perceptron that was trained elsewhere, with or without checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.modules import converted, named_once, set_training
from kpflow_sklearn._common.tensors import as_tensor, copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.feedforward import FeedForwardNetwork, recognise_feedforward
from kpflow_sklearn.networks import (
    refuse_same_memory,
    refuse_unusable,
    warn_of_gradient_hooks,
)
from kpflow_sklearn.training._feedforward_model import FeedForwardModel, check_table, check_values
from kpflow_sklearn.training._snapshots import Snapshot
from kpflow_sklearn.training._state_dicts import Checkpoints, load_each, refuse_meta, unwrapped


class SavedFeedForward(FeedForwardModel):
    """The trainer that `GramFlowAnalyzer` uses for a module or the `SavedTraining` of one.

    Parameters
    ----------
    network : Module
        A module that `recognise_feedforward` accepts. It is copied, never changed.
    checkpoints, iterations : optional
        The states of the module over training, as in `SavedTraining`.
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
            Inputs, on which the layers must reproduce the outputs of the module.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        SavedFeedForward
            Itself.

        Raises
        ------
        UnsupportedNetworkError
            If the analysis does not support this kind of module.
        CheckpointError
            If a checkpoint cannot be read, does not fit the module, or is not finite.
        ValueError
            If X, y or the number of iterations does not fit.
        """
        inputs = check_table(self, X, reset=True)
        original = unwrapped(self.network)
        if self.checkpoints is None:
            refuse_unusable(self.network, "network")
        else:
            refuse_meta(original)
        module = set_training(converted(copy_module(original), device="cpu"), False)
        view = recognise_feedforward(module)
        if inputs.shape[1] != view.n_features:
            raise ValueError(
                f"X has {inputs.shape[1]} features, but the network takes {view.n_features}."
            )
        check_values(y, inputs, view.n_outputs)
        self._y_is_column = as_array(y, "y").ndim == 2
        self.snapshots_ = []
        with FitTask.root(self, X=X, y=y):
            for iteration in load_each(lambda: module, self.checkpoints, self.iterations):
                _check_outputs(module, view, inputs[:8])
                self.snapshots_.append(Snapshot.take(iteration, view))
        named = named_once(original)
        trained = [name for name, p in named.items() if p.requires_grad]
        refuse_same_memory(original, named, trained)
        warn_of_gradient_hooks(original, trained)
        self.network_, self.n_iter_ = view, self.snapshots_[-1].iteration
        self.loss_curve_ = np.empty(0)
        return self


@torch.no_grad()
def _check_outputs(module: nn.Module, view: FeedForwardNetwork, X: np.ndarray) -> None:
    """Refuse a module whose layers do not reproduce its outputs on the rows of X."""
    rows = as_tensor(X, view.dtype)
    # Large weights may overflow to NaN, but then in both.
    if not torch.allclose(view(rows), module(rows), rtol=1e-4, atol=1e-6, equal_nan=True):
        raise UnsupportedNetworkError(
            f"the layers of {type(module).__name__} do not reproduce its outputs: it has a custom "
            "forward method or hooks."
        )
