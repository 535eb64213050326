"""A whole training run of a feed-forward network, on the rows on which it is analysed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.analyzers.gram._modes import ROUNDING
from kpflow_sklearn.analyzers.gram._prediction import (
    CLOSED,
    NONE,
    closed_or_kernel,
    kernel_losses,
    plain_descent,
    unstable_remark,
)
from kpflow_sklearn.analyzers.gram._snapshot import GramSnapshot
from kpflow_sklearn.analyzers.gram._verification import verify_kernel
from kpflow_sklearn.feedforward import Simulation, simulate_fields
from kpflow_sklearn.training import Snapshot

NO_UPDATE = "no update was made after the first snapshot; keep an earlier one"


class GramTraining:
    """The snapshots of a trainer on rows X, y; numpy in, numpy and pandas out.

    Parameters
    ----------
    trainer : FeedForwardModel
        Fitted.
    X, y : ndarray
        The rows analysed, (n_samples, n_features) and (n_samples, n_outputs).
    """

    def __init__(self, trainer: Any, X: np.ndarray, y: np.ndarray) -> None:
        self.trainer = trainer
        self._arrays = X, y
        self.X, self.y = (as_tensor(array, torch.float64) for array in (X, y))

    @cached_property
    def descent(self) -> tuple[float | None, str]:
        """The step size if training was gradient descent on these rows; and a remark on it."""
        return plain_descent(getattr(self.trainer, "_record", None), *self._arrays)

    @cached_property
    def readout_moved(self) -> bool:
        """Whether the readout differs between snapshots: else the layers' shares do not add up."""
        first, *later = [s.state for s in self.trainer.snapshots_]
        names = [name for name in first if name.startswith("readout.")]
        return any(not torch.equal(first[name], s[name]) for s in later for name in names)

    def at(self, snapshot: Snapshot) -> GramSnapshot:
        """Return the analysis of one snapshot."""
        network = self.trainer.network_at(snapshot)
        return GramSnapshot(
            network, snapshot.iteration, self.X, self.y, with_readout=self.readout_moved
        )

    def project(
        self, snapshot: Snapshot, X: np.ndarray, values: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        """Return K(X, own rows) u / sqrt(lambda), (n_samples, n_outputs * k)."""
        if not len(values):  # K was not finite, or no eigenvector converged.
            return np.zeros((len(X), 0))
        kernel = self.at(snapshot).kernel
        along = kernel.product_at(as_tensor(X, torch.float64), as_tensor(vectors)).numpy()
        sound = values > ROUNDING * values.max(initial=0.0)
        scale = np.where(sound, 1 / np.sqrt(np.where(sound, values, 1.0)), 0.0)
        return (along * scale).reshape(len(X), -1)

    def verify(self) -> pd.DataFrame:
        """Return the identities of the kernel, checked on the first and last snapshots."""
        first, last = self.trainer.snapshots_[0], self.trainer.snapshots_[-1]
        return verify_kernel(self.at(last), self.at(first))

    def attribute(self, first: Snapshot, last: Snapshot) -> pd.DataFrame:
        """Return each layer's share in what happened between two snapshots."""
        changes, sizes = self.at(last).step(self.at(first))
        table = pd.DataFrame({"loss_change": changes, "output_change": sizes})
        return table.rename_axis(index="layer")

    def simulate(
        self,
        snapshot: Snapshot,
        n_steps: int,
        X_new: np.ndarray | None,
        learning_rate: float,
        record: Sequence[int] | None = None,
    ) -> Simulation:
        """Follow gradient descent from a snapshot by closed fields."""
        return simulate_fields(
            self.at(snapshot).network,
            self.X,
            self.y,
            learning_rate=learning_rate,
            n_steps=n_steps,
            X_new=None if X_new is None else as_tensor(X_new, torch.float64),
            record=record,
            as_column=self.trainer._y_is_column,
        )

    def predicted_losses(self, largest: Sequence[float]) -> tuple[np.ndarray | None, str]:
        """Return the predicted loss before each update, or None, and what predicted it.

        Parameters
        ----------
        largest : sequence of float
            Largest eigenvalue of K at each snapshot, NaN where it is not known.

        Returns
        -------
        losses : ndarray of shape (n_iter,) or None
            NaN before the first snapshot, infinite where the prediction diverges.
        prediction : str
            What predicted them, with a remark after a colon.
        """
        rate, remark = self.descent
        if rate is None:
            return None, f"{NONE}: {remark}"
        snapshots, n_iter = self.trainer.snapshots_, self.trainer.n_iter_
        first = self.at(snapshots[0])
        if first.iteration >= n_iter:
            return None, f"{NONE}: {NO_UPDATE}"
        if first.iteration:
            remark = "; ".join(filter(None, [remark, f"from iteration {first.iteration} on"]))
        how = closed_or_kernel(first.network)
        if how == CLOSED:
            n_steps = n_iter - first.iteration
            found = self.simulate(snapshots[0], n_steps, None, rate)
            losses = np.full(n_iter, np.nan)
            losses[first.iteration :] = np.inf  # Beyond where the simulation stopped.
            known = found.loss[:n_steps]
            losses[first.iteration : first.iteration + len(known)] = known
            remark = "; ".join(filter(None, [remark, found.stopped]))
        else:
            kernels = (self.at(s).kernel for s in snapshots)  # One in memory at a time.
            starts = [s.iteration for s in snapshots]
            losses = kernel_losses(starts, kernels, first.residuals, len(self.X), rate, n_iter)
            rates = [rate * value / len(self.X) for value in largest]
            remark = "; ".join(filter(None, [remark, unstable_remark(starts, rates, n_iter)]))
        return losses, f"{how}: {remark}" if remark else how
