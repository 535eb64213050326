"""The training run of a feed-forward network, evaluated on the analysed rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch

from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.analyzers.gram._modes import NEGLIGIBLE
from kpflow_sklearn.analyzers.gram._prediction import (
    CLOSED,
    FULL_BATCH,
    NONE,
    closed_or_kernel,
    kernel_losses,
    plain_descent,
    unstable_remark,
)
from kpflow_sklearn.analyzers.gram._snapshot import GramSnapshot
from kpflow_sklearn.analyzers.gram._verification import verify_kernel
from kpflow_sklearn.feedforward import Simulation, check_closed, simulate_fields
from kpflow_sklearn.training import Snapshot

NO_UPDATE = "no update was made after the first snapshot; keep an earlier one"


class GramTraining:
    """The snapshots of a fitted trainer, evaluated on rows X, y.

    Arguments are NumPy arrays, results are NumPy arrays or pandas tables.

    Parameters
    ----------
    trainer : FeedForwardModel
        The fitted trainer.
    X, y : ndarray
        The analysed rows, (n_samples, n_features) and (n_samples, n_outputs).
    """

    def __init__(self, trainer: Any, X: np.ndarray, y: np.ndarray) -> None:
        self.trainer = trainer
        self._arrays = X, y
        self.X, self.y = (as_tensor(array, torch.float64) for array in (X, y))

    @cached_property
    def descent(self) -> tuple[float | None, str]:
        """The step size if training was gradient descent on these rows, and a remark on it."""
        return plain_descent(getattr(self.trainer, "_record", None), *self._arrays)

    @cached_property
    def readout_moved(self) -> bool:
        """Whether the readout differs between snapshots, so that it is listed as a layer."""
        first, *later = [s.state for s in self.trainer.snapshots_]
        names = [name for name in first if name.startswith("readout.")]
        return any(not torch.equal(first[name], s[name]) for s in later for name in names)

    def step_size(self) -> float:
        """Return the step size of the trainer's fit, or raise unless it was plain descent."""
        rate, remark = self.descent
        if rate is None or remark:
            reason = remark.removeprefix(FULL_BATCH)
            raise ValueError(
                f"learning_rate must be given: {reason}, and simulate follows plain full-batch "
                "gradient descent."
            )
        return rate

    def snapshot(self, iteration: int, name: str) -> Snapshot:
        """Return the snapshot of an iteration; the error for a wrong one begins with ``name``."""
        is_whole = isinstance(iteration, Integral) and not isinstance(iteration, bool)
        snapshots = {s.iteration: s for s in self.trainer.snapshots_}
        if is_whole and iteration in snapshots:
            return snapshots[iteration]
        raise ValueError(
            f"{name}: there is no snapshot of iteration {iteration!r}; the snapshots are of "
            f"iterations {', '.join(map(str, snapshots))}."
        )

    def at(self, snapshot: Snapshot) -> GramSnapshot:
        """Return the analysis of one snapshot."""
        network = self.trainer.network_at(snapshot)
        return GramSnapshot(
            network, snapshot.iteration, self.X, self.y, with_readout=self.readout_moved
        )

    def project(
        self, snapshot: Snapshot, X: np.ndarray, values: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        """Return K(X, X_fit) u_i / sqrt(lambda_i), (n_samples, n_outputs * k)."""
        if not len(values):  # K is not finite, or no eigenvector converged.
            return np.zeros((len(X), 0))
        kernel = self.at(snapshot).kernel
        along = kernel.product_at(as_tensor(X, torch.float64), as_tensor(vectors)).numpy()
        # 1 / sqrt(lambda_i), or 0 for eigenvalues that are zero up to rounding.
        positive = values > NEGLIGIBLE * values.max(initial=0.0)
        scale = np.where(positive, 1 / np.sqrt(np.where(positive, values, 1.0)), 0.0)
        return (along * scale).reshape(len(X), -1)

    def verify(self) -> pd.DataFrame:
        """Check the identities of the last snapshot's kernel and of the change since the first."""
        first, last = self.trainer.snapshots_[0], self.trainer.snapshots_[-1]
        return verify_kernel(self.at(last), self.at(first))

    def attribute(self, first: Snapshot, last: Snapshot) -> pd.DataFrame:
        """Return each layer's share of the change between two snapshots."""
        changes, sizes = self.at(last).step(self.at(first))
        table = pd.DataFrame({"loss_change": changes, "output_change": sizes})
        return table.rename_axis(index="layer")

    def check_closed(self, snapshot: Snapshot) -> None:
        """Check that the fields of a snapshot's network determine their own change."""
        check_closed(self.at(snapshot).network)

    def simulate(
        self,
        snapshot: Snapshot,
        n_steps: int,
        X_new: np.ndarray | None,
        learning_rate: float,
        record: Sequence[int] | None = None,
    ) -> Simulation:
        """Simulate gradient descent from a snapshot by the closed equations of the fields."""
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
        """Return the predicted loss before each update, if any, and the method of prediction.

        Parameters
        ----------
        largest : sequence of float
            Largest eigenvalue of K at each snapshot; NaN if it is unknown.

        Returns
        -------
        losses : ndarray of shape (n_iter,) or None
            NaN before the first snapshot, and infinite from where the prediction overflows.
        prediction : str
            The method, possibly followed by a colon and a remark.
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
            simulation = self.simulate(snapshots[0], n_iter - first.iteration, None, rate)
            losses = np.full(n_iter, np.nan)
            losses[first.iteration :] = np.inf  # Overwritten up to where the simulation stopped.
            simulated = simulation.loss[: n_iter - first.iteration]
            losses[first.iteration : first.iteration + len(simulated)] = simulated
            warning = simulation.stopped
        else:
            kernels = (self.at(s).kernel for s in snapshots)  # Only one is in memory at a time.
            starts = [s.iteration for s in snapshots]
            losses = kernel_losses(starts, kernels, first.residuals, len(self.X), rate, n_iter)
            rates = [rate * value / len(self.X) for value in largest]
            warning = unstable_remark(starts, rates, n_iter)
        remark = "; ".join(filter(None, [remark, warning]))
        return losses, f"{how}: {remark}" if remark else how
