"""SavedTraining: a network somebody else trained, alone or with its checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kpflow_sklearn._loop import Snapshot
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.network import RecurrentNetwork
from kpflow_sklearn.recognition import recognise_network
from kpflow_sklearn.recurrent_model import RecurrentModel, to_tensors
from kpflow_sklearn.state_dicts import Checkpoints, load_each, unwrapped
from kpflow_sklearn.training import RecurrentTrainer


class SavedTraining(RecurrentModel):
    """A trained network that this package did not make, in a trainer's place.

    Nothing is trained: `fit` recognises the parts of the module, loads the checkpoints and checks
    that the rebuilt step reproduces the module's own states.

    Parameters
    ----------
    network : Module
        A module with one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear``
        readout. It is copied, never changed.
    checkpoints : str, path-like, or sequence of state_dict or path-like, optional
        The module's states over training: a file, a pattern such as ``"run/*.pt"``, or one by
        one. Files are read on the CPU by ``torch.load(weights_only=True)`` or, named
        ``*.safetensors``, by safetensors, and sorted by the number in their names. A state_dict
        may stand under "state_dict" or "model", and its keys may carry what DataParallel,
        torch.compile or a LightningModule put before them. None analyses the present state alone.
    recurrent, readout : str, optional
        Names of the two submodules, where the module has several.
    loss : {"auto", "mse", "cross_entropy"}, default="auto"
        What the network was trained on; "auto" as in `RecurrentTrainer`. Penalties on rates or
        weights that it was trained with are not part of Err.
    iterations : sequence of int, optional
        Number of parameter updates before each checkpoint; default the numbers in the names of
        files, else 0, 1, 2, ... Names in which two numbers vary need it, in the order of the
        list, or of the numbers in the names where ``checkpoints`` is a pattern.

    Attributes
    ----------
    network_ : RecurrentNetwork
        A copy of the module, as step, readout and initial state, in the last state.
    snapshots_ : list of Snapshot
        One a checkpoint.
    n_iter_ : int
        Iteration of the last checkpoint.
    loss_curve_ : ndarray of shape (0,)
        Empty: the losses of somebody else's training are not known.
    n_features_in_ : int
        Size of the last axis of X.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import SavedTraining
    >>> from kpflow_sklearn.datasets import make_flip_flop
    >>> X, y = make_flip_flop(8, n_timesteps=10, random_state=0)
    >>> module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 6), "out": torch.nn.Linear(6, 3)})
    >>> saved = SavedTraining(module, [module.state_dict()], iterations=[500]).fit(X, y)
    >>> saved.trajectories(X).shape
    (8, 10, 6)
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoints: Checkpoints = None,
        *,
        recurrent: str | None = None,
        readout: str | None = None,
        loss: str = "auto",
        iterations: Sequence[int] | None = None,
    ) -> None:
        self.network = network
        self.checkpoints = checkpoints
        self.recurrent = recurrent
        self.readout = readout
        self.loss = loss
        self.iterations = iterations

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
    ) -> SavedTraining:
        """Recognise the network and load its checkpoints; nothing is trained.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials, on which the rebuilt step is checked.
        y : array-like, optional
            Targets, in the forms that `RecurrentTrainer.fit` takes.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            w >= 0, what each step costs.

        Returns
        -------
        SavedTraining
            Itself.

        Raises
        ------
        UnsupportedNetworkError
            If the module is of a kind that the analysis cannot take.
        CheckpointError
            If a checkpoint cannot be read or does not fit the module.
        ValueError
            If X, y or the number of iterations do not fit.
        """
        if not isinstance(self.network, nn.Module):
            raise UnsupportedNetworkError(
                f"network must be a torch.nn.Module, got a {type(self.network).__name__}."
            )
        trials, valid, single_step = self._check_trials(X, mask, reset=True)
        module = copy.deepcopy(unwrapped(self.network)).eval()
        view = recognise_network(module, self.recurrent, self.readout)
        if not any(p.requires_grad for p in view.recurrent.parameters()):
            raise UnsupportedNetworkError(
                "no parameter of the recurrent part trains (requires_grad is False for all), so "
                "K is zero and there is nothing to analyse."
            )
        self._check_sizes(view, trials)
        self._fit_targets(trials, y, valid, loss_weight, single_step, self.loss, 0.0)
        self.encoder_.match_outputs(view.n_outputs)
        if self.encoder_.classes_ is not None:
            self.classes_ = self.encoder_.classes_
        self.snapshots_ = [
            Snapshot.take(iteration, view)
            for iteration in load_each(module, self.checkpoints, self.iterations)
        ]
        _check_states(view, trials, valid)
        if self.readout is None:
            _check_outputs(module, view, trials, valid)
        self.network_ = view
        self.n_iter_ = self.snapshots_[-1].iteration
        self.loss_curve_ = np.empty(0)
        return self

    def _check_sizes(self, view: RecurrentNetwork, trials: np.ndarray) -> None:
        expected = view.layers[0].n_features  # type: ignore[union-attr]
        if trials.shape[-1] != expected:
            raise ValueError(
                f"X has {trials.shape[-1]} features, but the network takes {expected}."
            )


def as_trainer(trainer: Any, *, clone: Callable, random_state: int, verbose: bool | int) -> Any:
    """Return an unfitted copy of what an analyzer was given as ``trainer``.

    None stands for a GRU of 64 units, and a bare module for ``SavedTraining(module)``. A trainer
    without a seed of its own takes ``random_state``.
    """
    if trainer is None:
        return RecurrentTrainer(random_state=random_state, verbose=verbose)
    if isinstance(trainer, nn.Module):
        return SavedTraining(trainer)
    if not isinstance(getattr(trainer, "estimator", trainer), RecurrentModel):
        raise ValueError(
            "trainer must be a RecurrentTrainer, a SavedTraining, a FrozenEstimator of one, a "
            f"torch.nn.Module or None, got {trainer!r}."
        )
    fresh = clone(trainer)
    if "random_state" in fresh.get_params(deep=False) and fresh.random_state is None:
        fresh.set_params(random_state=random_state)
    return fresh


def _check_states(view: RecurrentNetwork, trials: np.ndarray, mask: np.ndarray | None) -> None:
    """Compare the rebuilt step with the recurrent module's own forward pass."""
    core = view.recurrent
    if not isinstance(core, nn.RNNBase):
        return
    X, _ = to_tensors(trials[:8], None if mask is None else mask[:8], view)
    with torch.no_grad():
        ours = view.rates(view.states(X))
        theirs = core(X if core.batch_first else X.transpose(0, 1))[0]
    theirs = theirs if core.batch_first else theirs.transpose(0, 1)
    if not _same(ours, theirs):
        raise UnsupportedNetworkError(
            f"the rebuilt step does not reproduce the states of {type(core).__name__}: they "
            f"differ by up to {float((ours - theirs).abs().max()):.2g}."
        )


def _check_outputs(
    module: nn.Module, view: RecurrentNetwork, trials: np.ndarray, mask: np.ndarray | None
) -> None:
    """Compare readout(states) with what the whole module returns, where it can be called."""
    if module is view or isinstance(module, (nn.ModuleDict, nn.ModuleList)):
        return
    X, _ = to_tensors(trials[:8], None if mask is None else mask[:8], view)
    with torch.no_grad():
        ours = view(X)
        differences = []
        for layout in (X, X.transpose(0, 1)):  # A user's module may take steps first.
            try:
                returned = module(layout)
            except Exception as error:  # Whatever a user's forward asks for that is not X.
                differences.append(f"calling it failed ({error})")
                continue
            theirs = returned if isinstance(returned, Tensor) else returned[0]
            expected = _in_shape_of(theirs, ours)
            if expected is None:
                differences.append(f"it returns shape {tuple(theirs.shape)}")
            elif _same(expected, theirs):
                return
            else:
                gap = float((expected - theirs).abs().max())
                differences.append(f"they differ by up to {gap:.2g}")
    raise UnsupportedNetworkError(
        f"the readout of the recurrent states does not reproduce the outputs of "
        f"{type(module).__name__}: {differences[0]}. Give readout='...' to analyse that readout "
        "all the same."
    )


def _in_shape_of(theirs: Tensor, ours: Tensor) -> Tensor | None:
    """Return our outputs in the layout of theirs: all steps, steps first, or the last step."""
    for candidate in (ours, ours.transpose(0, 1), ours[:, -1]):
        if candidate.shape == theirs.shape:
            return candidate
    return None


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether two results are equal but for the rounding of some hundred steps."""
    size = max(1.0, float(theirs.abs().max()))
    return float((ours - theirs).abs().max()) <= 1e4 * torch.finfo(ours.dtype).eps * size
