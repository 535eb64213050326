"""The base of the estimators that give a network and its history."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kpflow_sklearn._common.callbacks import CallbackSupportMixin
from kpflow_sklearn._common.estimators import Estimator
from kpflow_sklearn._common.modules import load_state, set_training
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.training._snapshots import Snapshot


class NetworkSource(CallbackSupportMixin, Estimator):
    """Base of the estimators that train or load a network and keep snapshots of it."""

    network_: Any
    snapshots_: list[Snapshot]

    def network_at(self, snapshot: Snapshot) -> Any:
        """Return a copy of the network as it was at ``snapshot``.

        Parameters
        ----------
        snapshot : Snapshot
            An entry of ``snapshots_``.

        Returns
        -------
        Module
            A copy that shares no parameters with the estimator's network.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> trainer = FeedForwardTrainer((4,), max_iter=2, random_state=0).fit(X, X[:, 0] ** 2)
        >>> trainer.network_at(trainer.snapshots_[0]).n_outputs  # Before training.
        1
        """
        return self._in_state(snapshot.state)

    def network_after(self, snapshot: Snapshot) -> Any:
        """Return a copy of the network as it was one update after ``snapshot``.

        Parameters
        ----------
        snapshot : Snapshot
            An entry of ``snapshots_``.

        Returns
        -------
        Module or None
            A copy that shares no parameters with the estimator's network; None if neither the
            update nor a snapshot of the next iteration was kept.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> trainer = FeedForwardTrainer((4,), max_iter=2, random_state=0).fit(X, X[:, 0] ** 2)
        >>> trainer.network_after(trainer.snapshots_[-1]) is None  # Training ended.
        True
        """
        state = snapshot.updated
        if state is None:
            following = (s.state for s in self.snapshots_ if s.iteration == snapshot.iteration + 1)
            state = next(following, None)
        return None if state is None else self._in_state(state)

    def _in_state(self, state: dict[str, Tensor]) -> Any:
        network = copy_module(self._to_copy)
        load_state(network, state)
        return network

    @property
    def _to_copy(self) -> Any:
        """The network that is copied and filled with the state of a snapshot."""
        return self.network_

    def _so_far(self) -> dict[str, Any]:
        """Return the fitted attributes as if training ended now."""
        return {"network_": set_training(copy_module(self.network_), False)}
