"""RecurrentTrainer: train a recurrent network and keep its state over training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import (
    check_choice,
    check_flag,
    check_folder,
    check_positive_int,
    check_real,
)
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.random import draw_seed, torch_generator
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.networks import RecurrentNetwork, Targets, build_network, to_tensors
from kpflow_sklearn.training._loop import BatchLoss, LoopSettings, train
from kpflow_sklearn.training._recurrent_model import RecurrentModel
from kpflow_sklearn.training._run_folder import RunFolder, name_settings


class RecurrentTrainer(RecurrentModel):
    """Train a recurrent network on trials and keep its state over training.

    The loss is L = (1/N) sum_bt w_bt l(readout(z_bt), y_bt), with z_t = f(z_{t-1}, x_t) and N the
    number of valid (trial, step) pairs.

    Parameters
    ----------
    cell : {"gru", "tanh", "relu", "leaky", "leaky_voltage", "lstm"} or callable, default="gru"
        The step f; a callable (n_features, hidden_size) returns a module with
        ``forward(x_t, h) -> h``. Built-in weights have torch's names and shapes.
    hidden_size : int, default=64
        Units of each layer.
    n_layers : int, default=1
        Layers of the stack; 1 for a callable cell.
    init_scale : float, default=1.0
        Gain g of the recurrent weights.
    recurrent_init : {"normal", "torch"}, default="normal"
        Recurrent weights N(0, g^2/hidden_size) in each gate block (spectral radius about g), or
        torch's default times g (radius about 0.577 g). Other weights are torch's default.
    dt, tau : float, default=1.0
        Time step and time constant of the leaky cells, alpha = dt / tau <= 1.
    noise_std : float, default=0.0
        Standard deviation of Gaussian noise added to all states after each training step.
    learn_initial_state : bool, default=False
        Whether z_0 (zero otherwise) is trained.
    constraint : callable, optional
        Called with the network after every update, without gradient, to change its weights in
        place (Dale's law, say).
    loss : {"auto", "mse", "cross_entropy"}, default="auto"
        "auto" takes cross_entropy for integer or string targets, else mse.
    activity_l2 : float, default=0.0
        Weight of the mean squared rate in the loss.
    weight_decay : float, default=0.0
        Handed to the optimizer.
    optimizer : {"adam", "sgd"} or torch.optim.Optimizer class, default="adam"
        Called with (parameters, lr=..., weight_decay=...).
    learning_rate : float, default=1e-3
        Step size.
    max_iter : int, default=500
        Number of parameter updates ("iterations").
    batch_size : int or None, default=128
        Trials of one update; None for all.
    tol : float, default=0.0
        Stop once the loss, averaged over the last pass over the trials, is at most this; 0 never
        stops early.
    grad_clip : float, optional
        Largest norm of the gradient.
    snapshots : int or sequence of int, default=10
        How many states to keep, spaced evenly in log(1 + iteration) with first and last
        included, or exactly which iterations.
    checkpoint_dir : path-like, optional
        Folder in which every snapshot is kept as it is taken. A run that was killed goes on from
        the last one, to the bit on one machine; it needs an integer ``random_state``. The
        snapshots there are plain state_dicts.
    warm_start : bool, default=False
        Continue from the last fit's network, whose architecture stays, and optimizer for another
        ``max_iter`` updates.
    device : str, default="cpu"
        Where to train. A pickle holds no device: what it brings back is on the CPU until the next
        ``fit``.
    dtype : {"float32", "float64"}, optional
        None keeps float32 input as it is and takes float64 for all other.
    random_state : int, RandomState or None, default=None
        Seed of initialisation, batches and noise; no global generator is used.
    verbose : bool or int, default=False
        Whether to show a progress bar with the loss.

    Attributes
    ----------
    network_ : RecurrentNetwork
        The trained network (a `torch.nn.Module`).
    snapshots_ : list of Snapshot
        Iteration and state_dict of each kept state.
    loss_curve_ : ndarray of shape (n_iter_,)
        Loss of each update's batch, before the update.
    interrupted_ : bool
        Whether a KeyboardInterrupt ended the training; the network is then that of the last
        snapshot before.
    n_iter_ : int
        Number of updates made.
    classes_ : ndarray of shape (n_classes,)
        Labels, for cross_entropy only.
    n_features_in_ : int
        Size of the last axis of X.

    Examples
    --------
    >>> from kpflow_sklearn import RecurrentTrainer
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> X, y = make_memory_pro(16, stimulus=4, memory=4, response=4, random_state=0)
    >>> trainer = RecurrentTrainer(hidden_size=8, max_iter=20, snapshots=3, random_state=0)
    >>> trainer.fit(X, y).predict(X).shape
    (16, 12, 3)
    >>> [snapshot.iteration for snapshot in trainer.snapshots_]
    [0, 4, 20]
    """

    _optimizer_state: dict[str, Any] | None
    _optimizer_kind: Any

    def __init__(
        self,
        cell: str | Callable[[int, int], nn.Module] = "gru",
        *,
        hidden_size: int = 64,
        n_layers: int = 1,
        init_scale: float = 1.0,
        recurrent_init: str = "normal",
        dt: float = 1.0,
        tau: float = 1.0,
        noise_std: float = 0.0,
        learn_initial_state: bool = False,
        constraint: Callable[[nn.Module], Any] | None = None,
        loss: str = "auto",
        activity_l2: float = 0.0,
        weight_decay: float = 0.0,
        optimizer: str | Callable[..., torch.optim.Optimizer] = "adam",
        learning_rate: float = 1e-3,
        max_iter: int = 500,
        batch_size: int | None = 128,
        tol: float = 0.0,
        grad_clip: float | None = None,
        snapshots: int | Sequence[int] = 10,
        checkpoint_dir: str | os.PathLike | None = None,
        warm_start: bool = False,
        device: str = "cpu",
        dtype: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.init_scale = init_scale
        self.recurrent_init = recurrent_init
        self.dt = dt
        self.tau = tau
        self.noise_std = noise_std
        self.learn_initial_state = learn_initial_state
        self.constraint = constraint
        self.loss = loss
        self.activity_l2 = activity_l2
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.tol = tol
        self.grad_clip = grad_clip
        self.snapshots = snapshots
        self.checkpoint_dir = checkpoint_dir
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @undone_if_it_fails
    @with_callbacks
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
    ) -> RecurrentTrainer:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs; a 2-D X is taken as trials of a single step, with a UserWarning.
        y : array-like, optional
            (n_trials, n_timesteps, n_outputs) values; (n_trials, n_timesteps) integers, a class
            at each step; (n_trials,), one value or label at the last valid step; None to predict
            the next input.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            w >= 0, what each step costs.

        Returns
        -------
        RecurrentTrainer
            Itself.

        Raises
        ------
        ValueError
            If a parameter or an array is not as described; the message names it.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=2, random_state=0).fit(X, y)
        >>> trainer.loss_curve_.shape
        (2,)
        """
        settings = self._check_parameters()
        continued = getattr(self, "network_", None) if self.warm_start else None
        before = (getattr(self, "n_features_in_", None), getattr(self, "classes_", None))
        trials, valid, single_step = self._check_trials(X, mask, reset=True)
        targets = self._fit_targets(
            trials, y, valid, loss_weight, single_step, self.loss, float(self.activity_l2)
        )
        if continued is None:
            seed = draw_seed(self.random_state)
            self.network_ = self._new_network(trials, seed)
            self._generator_state = torch_generator(seed + 1).get_state()
            self.snapshots_, self.n_iter_, optimizer_state = [], 0, None
            self.loss_curve_ = np.empty(0)
        else:
            self._check_continues(continued, *before)
            # Trained in place: a copy, should this fit fail. Out of a pickle it is on the CPU.
            self.network_ = copy_module(continued).to(self.device)
            same = self._optimizer_kind == self.optimizer
            optimizer_state = self._optimizer_state if same else None
        generator = torch_generator(0)
        generator.set_state(self._generator_state)
        self.network_.train()
        given = None if mask is None else {"mask": mask}
        about = {"X": X, "y": y, "metadata": given, "reconstruction_attributes": self._so_far}
        with FitTask.root(self, settings.max_iter, **about) as task:
            history = train(
                self.network_,
                self._batch_loss(trials, valid, targets, generator),
                len(trials),
                settings,
                generator,
                task,
                first_iteration=self.n_iter_,
                optimizer_state=optimizer_state,
                folder=self._folder(trials, targets, valid),
            )
        self.network_.eval()
        known = {s.iteration for s in self.snapshots_}
        new = [s for s in history.snapshots if s.iteration not in known]
        self.snapshots_ = self.snapshots_ + new
        self.loss_curve_ = np.append(self.loss_curve_, history.losses)
        self.n_iter_ += history.n_iter
        self.interrupted_ = history.interrupted
        self._optimizer_state, self._optimizer_kind = history.optimizer_state, self.optimizer
        self._generator_state = generator.get_state()
        return self

    def _check_resumable(self) -> None:
        check_folder(self.checkpoint_dir, "checkpoint_dir")
        if not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                "checkpoint_dir needs random_state to be an integer, so that a run that was "
                f"stopped goes on as it would have, got {self.random_state!r}."
            )
        if self.warm_start:
            raise ValueError("checkpoint_dir and warm_start both continue a run: give one.")

    def _folder(
        self, trials: np.ndarray, targets: Targets, valid: np.ndarray | None
    ) -> RunFolder | None:
        """Return the folder of this run, known by its settings and data."""
        if self.checkpoint_dir is None:
            return None
        free = ("checkpoint_dir", "verbose", "warm_start")
        chosen = {k: v for k, v in self.get_params().items() if k not in free}
        about = name_settings(
            chosen, X=trials, y=targets.values, loss_weight=targets.weight, mask=valid
        )
        return RunFolder(self.checkpoint_dir, about)

    def _check_parameters(self) -> LoopSettings:
        for name in ("hidden_size", "n_layers"):
            check_positive_int(getattr(self, name), name)
        for name in ("init_scale", "noise_std", "activity_l2"):
            check_real(getattr(self, name), name, 0)
        for name in ("dt", "tau"):
            check_real(getattr(self, name), name, 0, open_minimum=True)
        for name in ("learn_initial_state", "warm_start"):
            check_flag(getattr(self, name), name)
        if self.checkpoint_dir is not None:
            self._check_resumable()
        if self.dt > self.tau:
            raise ValueError(
                f"dt must be at most tau (alpha = dt / tau <= 1), got dt={self.dt} and "
                f"tau={self.tau}."
            )
        _check_device(self.device)
        check_choice(self.recurrent_init, "recurrent_init", ("normal", "torch"))
        if self.dtype is not None:
            check_choice(self.dtype, "dtype", ("float32", "float64"))
        if callable(self.cell) and self.n_layers != 1:
            raise ValueError(f"n_layers must be 1 for a callable cell, got {self.n_layers}.")
        return LoopSettings(
            self.optimizer,
            self.learning_rate,
            self.max_iter,
            self.batch_size,
            self.tol,
            self.snapshots,
            self.verbose,
            self.weight_decay,
            self.grad_clip,
            self.constraint,
        ).check()

    def _new_network(self, trials: np.ndarray, seed: int) -> RecurrentNetwork:
        dtype = self.dtype or ("float32" if trials.dtype == np.float32 else "float64")
        network = build_network(
            self.cell,
            trials.shape[-1],
            self.encoder_.n_outputs_,
            hidden_size=self.hidden_size,
            n_layers=self.n_layers,
            init_scale=float(self.init_scale),
            recurrent_init=self.recurrent_init,
            alpha=self.dt / self.tau,
            learn_initial_state=self.learn_initial_state,
            dtype=getattr(torch, dtype),
            seed=seed,
        )
        return network.to(self.device)

    def _check_continues(
        self, network: RecurrentNetwork, n_features: int | None, classes: np.ndarray | None
    ) -> None:
        if self.n_features_in_ != n_features:
            raise ValueError(
                f"warm_start: X has {self.n_features_in_} features, but the network to be "
                f"continued takes {n_features}."
            )
        found = network.n_outputs
        if found != self.encoder_.n_outputs_:
            raise ValueError(
                f"warm_start: y has {self.encoder_.n_outputs_} outputs, but the network to be "
                f"continued has {found}."
            )
        if not np.array_equal(self.encoder_.classes_, classes):  # type: ignore[arg-type]
            raise ValueError(
                f"warm_start: y has the classes {self.encoder_.classes_}, but the network to be "
                f"continued was trained on {classes}."
            )

    def _batch_loss(
        self,
        trials: np.ndarray,
        mask: np.ndarray | None,
        targets: Targets,
        generator: torch.Generator,
    ) -> BatchLoss:
        """Return the function from trial indices to the loss of any part of that batch."""
        network, objective = self.network_, self.objective_
        inputs, valid = to_tensors(trials, mask, network)

        def batch_loss(batch: np.ndarray) -> Callable[[slice], Tensor]:
            noise = None
            if self.noise_std:
                shape = (len(batch), inputs.shape[1], network.n_states)
                # Drawn on the CPU and for all: numbers depend neither on the device nor on parts.
                noise = torch.randn(shape, generator=generator, dtype=inputs.dtype)
                noise *= float(self.noise_std)

            def part_loss(part: slice) -> Tensor:
                index = torch.as_tensor(batch[part], device=inputs.device)
                push = None if noise is None else noise[part].to(inputs.device)
                states = network.states(inputs[index], push)
                if valid is None:
                    return objective.value(network, states, targets[batch[part]], None)
                share = float(valid.sum()) * len(index) / len(valid)
                found = targets[batch[part]], valid[index], share
                return objective.value(network, states, *found)

            return part_loss

        return batch_loss


def _check_device(device: str) -> None:
    """Refuse a device that torch does not know, or that this machine does not have."""
    try:
        if not isinstance(device, str | torch.device) or torch.device(device).type == "meta":
            raise TypeError("on which nothing can be computed")
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be one that torch knows, got {device!r}.") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} is not to be had here ({str(error).splitlines()[0]}): train with "
            "device='cpu'. A network trained there predicts here, on the CPU."
        ) from error
