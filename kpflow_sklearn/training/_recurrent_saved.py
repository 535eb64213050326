"""SavedTraining: a network somebody else trained, alone or with its checkpoints."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from torch import nn

from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import check_choice
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks import (
    RecurrentNetwork,
    Step,
    check_rebuilt,
    recognise_network,
    refuse_unusable,
)
from kpflow_sklearn.training._loop import Snapshot
from kpflow_sklearn.training._recurrent_model import RecurrentModel
from kpflow_sklearn.training._recurrent_trainer import RecurrentTrainer
from kpflow_sklearn.training._state_dicts import Checkpoints, load_each, unwrapped

logger = logging.getLogger("kpflow_sklearn")


class SavedTraining(RecurrentModel):
    """A trained network that this package did not make, in a trainer's place.

    Nothing is trained: `fit` recognises the parts of the module, loads the checkpoints and checks
    that the rebuilt step reproduces the module's own states.

    Parameters
    ----------
    network : Module
        A module with one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear``
        readout, or any other whose ``step`` is named. It is copied, never changed.
    checkpoints : str, path-like, or sequence of state_dict or path-like, optional
        The module's states over training: a file, a pattern such as ``"run/*.pt"``, or one by
        one. Files are read on the CPU by ``torch.load(weights_only=True)`` or, named
        ``*.safetensors``, by safetensors, and sorted by the number in their names. A state_dict
        may stand under "state_dict" or "model", and its keys may carry what DataParallel,
        torch.compile or a LightningModule put before them. None analyses the present state alone.
    recurrent : str, optional
        Name of the recurrent submodule, where the module has several. With ``step`` it is the
        submodule whose step that is; one that is not of the three kinds is a cell itself.
    step : str or callable, optional
        What computes h_t from (x_t, h_{t-1}): the name of a submodule or method, or a function
        (network, x_t, h). Derivatives then come from automatic differentiation. Its parameters
        are theta, or all of the network's but those of readout and z_0 for a method or function.
    readout : str, optional
        Name of the readout, where the module has several Linear ones; a readout that is named may
        be any module that maps the state of each step alone.
    initial_state : str, array-like or tuple of these, optional
        z_0: the name of a tensor of the network, trained if that is a parameter that trains, or
        values; default zero. A tuple where the state is one; the readout sees its first part.
    loss : {"auto", "mse", "cross_entropy"}, default="auto"
        What the network was trained on; "auto" as in `RecurrentTrainer`. Penalties on rates or
        weights that it was trained with are not part of Err.
    iterations : sequence of int, optional
        Number of parameter updates before each checkpoint; default the numbers in the names of
        files, else 0, 1, 2, ... Names in which two numbers vary need it, in the order of the
        list, or of the numbers in the names where ``checkpoints`` is a pattern.
    parameters : sequence of str, optional
        Names of the network's parameters, or patterns such as ``"core.weight_*"``, that are
        theta; the others count as fixed. Default all that train.
    noise : {"off", "frozen"}, default="off"
        What a random step does. "off" is evaluation mode, and an error if it is random even
        then. "frozen" analyses one realisation of what the step draws from torch's generator,
        dropout included: one for every step, common to all trials, the same in every run.

    Attributes
    ----------
    network_ : RecurrentNetwork
        A copy of the module, as step, readout and initial state, in the last state.
    snapshots_ : list of Snapshot
        One a checkpoint.
    n_iter_ : int
        Iteration of the last checkpoint.
    noise_sources_ : list of str
        Dropout found in the recurrent part, which ``noise="off"`` switched off.
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
        step: Step | None = None,
        readout: str | None = None,
        initial_state: Any = None,
        loss: str = "auto",
        iterations: Sequence[int] | None = None,
        parameters: Sequence[str] | None = None,
        noise: str = "off",
    ) -> None:
        self.network = network
        self.checkpoints = checkpoints
        self.recurrent = recurrent
        self.step = step
        self.readout = readout
        self.initial_state = initial_state
        self.loss = loss
        self.iterations = iterations
        self.parameters = parameters
        self.noise = noise

    def __sklearn_clone__(self) -> SavedTraining:
        others = {k: v for k, v in self.get_params(deep=False).items() if k != "network"}
        network = self.network
        if isinstance(network, nn.Module):
            network = copy_module(network)
        return type(self)(network, **clone(others, safe=False))

    @undone_if_it_fails
    @with_callbacks
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

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import SavedTraining
        >>> from kpflow_sklearn.datasets import make_flip_flop
        >>> X, y = make_flip_flop(4, n_timesteps=5, random_state=0)
        >>> module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 3)})
        >>> SavedTraining(module).fit(X, y).n_iter_
        0
        """
        if not isinstance(self.network, nn.Module):
            raise UnsupportedNetworkError(
                f"network must be a torch.nn.Module, got a {type(self.network).__name__}."
            )
        check_choice(self.noise, "noise", ("off", "frozen"))
        for name in ("recurrent", "readout"):
            found = getattr(self, name)
            if found is not None and not (isinstance(found, str) and found):
                raise ValueError(f"{name} must be the name of a submodule, got {found!r}.")
        trials, valid, single_step = self._check_trials(X, mask, reset=True)
        try:
            module = copy_module(unwrapped(self.network)).eval()
        except RuntimeError as error:  # Torch cannot copy what hooks compute.
            raise UnsupportedNetworkError(f"network cannot be copied: {error}") from error
        if self.checkpoints is None:
            refuse_unusable(module, "network")
        if self.parameters is not None:
            _train_alone(module, self.parameters)
        view = self._recognise(module)
        if not any(p.requires_grad for p in view.recurrent.parameters()):
            raise UnsupportedNetworkError(
                "no parameter of the recurrent part trains (requires_grad is False for all, or "
                f"parameters={self.parameters!r} names none), so K is zero and there is nothing "
                "to analyse."
            )
        self.noise_sources_ = _dropout_in(view.recurrent)
        if self.noise_sources_:
            logger.info("noise=%r: %s", self.noise, ", ".join(self.noise_sources_))
        self._check_sizes(view, trials)
        self._fit_targets(trials, y, valid, loss_weight, single_step, self.loss, 0.0)
        self.encoder_.match_outputs(view.n_outputs)
        if self.encoder_.classes_ is not None:
            self.classes_ = self.encoder_.classes_
        self.snapshots_ = []
        given = self.checkpoints is not None
        with FitTask.root(self, X=X, y=y):
            loaded = load_each(module, self.checkpoints, self.iterations)
            for index, iteration in enumerate(loaded):
                refuse_unusable(module, f"checkpoints[{index}]" if given else "network")
                view = self._recognise(module)  # z_0 may be a copy of what was loaded.
                self.snapshots_.append(Snapshot.take(iteration, view))
        check_rebuilt(module, view, trials, valid, compare_outputs=self.readout is None)
        self.network_ = view
        self.n_iter_ = self.snapshots_[-1].iteration
        self.loss_curve_ = np.empty(0)
        return self

    def _recognise(self, module: nn.Module) -> RecurrentNetwork:
        return recognise_network(
            module,
            self.recurrent,
            self.readout,
            step=self.step,
            initial_state=self.initial_state,
            frozen=self.noise == "frozen",
        )

    def _check_sizes(self, view: RecurrentNetwork, trials: np.ndarray) -> None:
        expected = getattr(view.layers[0], "n_features", trials.shape[-1])
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


def _train_alone(module: nn.Module, patterns: Sequence[str]) -> None:
    """Leave those parameters that are named to train, and no others."""
    is_sequence = isinstance(patterns, Iterable) and not isinstance(patterns, str | Mapping)
    if not (is_sequence and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(f"parameters must be a sequence of names, got {patterns!r}.")
    named = dict(module.named_parameters())
    for pattern in patterns:
        if not fnmatch.filter(named, pattern):
            raise ValueError(
                f"parameters: {pattern!r} is no parameter of {type(module).__name__}; it has "
                f"{', '.join(map(repr, named))}."
            )
    for name, p in named.items():
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        p.requires_grad_(p.requires_grad and chosen)


def _dropout_in(part: nn.Module) -> list[str]:
    """Return the dropout that a recurrent part holds, in words."""
    found = [f"dropout={part.dropout}"] if isinstance(part, nn.RNNBase) and part.dropout else []
    for name, m in part.named_modules():
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.p:
            found.append(f"{name} ({type(m).__name__}, p={m.p})")
    return found
