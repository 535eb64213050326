"""A copy of the network of `SavedTraining`, viewed anew in the state of each checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from kpflow_sklearn._common.modules import named_once, parameters_of
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks import (
    RecurrentNetwork,
    check_rebuilt,
    is_given_as_values,
    recognise_network,
    refuse_untrained,
    refuse_unusable,
    to_tensors,
)
from kpflow_sklearn.training._recurrent_parts import (
    copied_with_parts,
    train_alone,
    warn_of_parts_without_checkpoints,
)
from kpflow_sklearn.training._snapshots import Snapshot
from kpflow_sklearn.training._state_dicts import (
    are_equal,
    fixed_parts,
    load_each,
    refuse_meta,
    unwrapped,
)

N_FEW = 8  # Number of trials on which the parts are recognised.


class SavedNetwork:
    """A copy of the user's network, in which only theta trains, and its view as parts.

    Parameters
    ----------
    saved : SavedTraining
        The estimator, whose parameters name the parts and the checkpoints.
    X : ndarray of shape (n_trials, n_timesteps, n_features)
        Inputs.
    mask : ndarray of bool, shape (n_trials, n_timesteps), or None
        Valid steps.
    """

    def __init__(self, saved: Any, X: np.ndarray, mask: np.ndarray | None) -> None:
        self.saved, self.X, self.mask = saved, X, mask
        self.few = X[:N_FEW] if mask is None else np.where(mask[:N_FEW, :, None], X[:N_FEW], 0)
        self.original = unwrapped(saved.network)
        # A copy that is never run, so that it keeps no values that are computed from its weights.
        self._unrun, self._unrun_parts = copied_with_parts(
            self.original, readout=saved.readout, encoder=saved.encoder
        )
        if saved.checkpoints is None:
            refuse_unusable(self._unrun, "network")
        else:
            refuse_meta(self._unrun)
        if saved.parameters is not None:
            train_alone(self._unrun, saved.parameters)
        #: Names of the parameters that differ between a checkpoint and the network as given.
        self.changed: set[str] = set()
        self.renewed()

    def renewed(self) -> nn.Module:
        """Replace the copy by a new one, which has not been run, and return it."""
        self.module, self.parts = copied_with_parts(self._unrun, **self._unrun_parts)
        return self.module

    def view(self) -> RecurrentNetwork:
        """Return the copy in its present state, split into its parts."""
        like = next(iter(parameters_of(self.module).values()), torch.empty(0))
        return recognise_network(
            self.module,
            self.saved.recurrent,
            **self.parts,
            step=self.saved.step,
            initial_state=self.saved.initial_state,
            X=as_tensor(self.few, like.dtype, like.device),
            frozen=self.saved.noise == "frozen",
        )

    def check_parts(self, view: RecurrentNetwork) -> None:
        """Check that the encoder takes X, and that a parameter of the recurrent part trains.

        Raises UnsupportedNetworkError if not.
        """
        inputs = to_tensors(self.few, None, view)[0]
        with torch.no_grad():
            view.encode(inputs)
        refuse_untrained(
            self.module, view, inputs, self.saved.initial_state, self.saved.parameters
        )

    def read_checkpoints(self) -> tuple[list[Snapshot], RecurrentNetwork]:
        """Load each checkpoint into a new copy, and return their snapshots and the last view.

        Raises CheckpointError or ValueError as `load_each` does, and UnsupportedNetworkError if
        z_0, given as values, is not that of the module at the first checkpoint.
        """
        saved, snapshots = self.saved, []
        fixed = fixed_parts(self.original)
        for iteration in load_each(self.renewed, saved.checkpoints, saved.iterations, fixed):
            view = self.view()  # z_0 may be a copy of what was loaded.
            self._note_changes()
            snapshots.append(Snapshot.take(iteration, view))
            is_first = saved.checkpoints is not None and len(snapshots) == 1
            if is_first and is_given_as_values(saved.initial_state):
                self._check_start(view)
        if len(snapshots) > 1:
            warn_of_parts_without_checkpoints(self.module, **self.parts)
        return snapshots, view

    def _note_changes(self) -> None:
        given = named_once(self._unrun)
        self.changed |= {
            name for name, p in named_once(self.module).items() if not are_equal(p, given[name])
        }

    def _check_start(self, view: RecurrentNetwork) -> None:
        try:
            self.check_rebuilt(view)
        except UnsupportedNetworkError as error:
            raise UnsupportedNetworkError(
                f"at the first checkpoint: {error} Values of initial_state are the same at all "
                "checkpoints: if z_0 was trained, give its name."
            ) from error

    def check_rebuilt(self, view: RecurrentNetwork, **options: Any) -> None:
        """Compare a view with the copy in the same state, by `check_rebuilt` of networks."""
        check_rebuilt(
            self.module,
            view,
            self.X,
            self.mask,
            initial_state=self.saved.initial_state,
            check_outputs=self.saved.check_outputs,
            changed=self.changed,
            **options,
        )
