"""RecurrentTrainer: train a recurrent network and keep snapshots of it."""

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
from kpflow_sklearn._common.modules import converted, set_training
from kpflow_sklearn._common.random import draw_seed, torch_generator
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.networks import (
    Loss,
    RecurrentNetwork,
    Targets,
    build_network,
    check_user_loss,
    to_tensors,
)
from kpflow_sklearn.training._layout import warn_of_channels_first
from kpflow_sklearn.training._loop import BatchLoss, train
from kpflow_sklearn.training._recurrent_model import RecurrentModel
from kpflow_sklearn.training._run import Run, RunSettings
from kpflow_sklearn.training._run_folder import RunFolder, name_settings


class RecurrentTrainer(RecurrentModel):
    """Train a recurrent network on trials and keep snapshots of it.

    The loss is L = (1/N) sum_bt w_bt l(readout(z_bt), y_bt), where z_t = f(z_{t-1}, x_t) and N is
    the number of valid (trial, step) pairs.

    Parameters
    ----------
    cell : {"gru", "tanh", "relu", "leaky", "leaky_voltage", "lstm"} or callable, default="gru"
        The step f. A callable (n_features, hidden_size) returns a module with
        ``forward(x_t, h) -> h``. The weights of the named cells have torch's names and shapes.
    hidden_size : int, default=64
        Number of units per layer.
    n_layers : int, default=1
        Number of layers; must be 1 for a callable cell.
    init_scale : float, default=1.0
        Gain g of the recurrent weights.
    recurrent_init : {"normal", "torch"}, default="normal"
        Distribution of the recurrent weights: N(0, g^2/hidden_size) in each gate block (spectral
        radius about g), or torch's default times g (radius about 0.577 g). All other weights have
        torch's default.
    dt, tau : float, default=1.0
        Time step and time constant of the leaky cells, alpha = dt / tau <= 1.
    noise_std : float, default=0.0
        Standard deviation of the Gaussian noise that is added to all states after each time step
        during training.
    learn_initial_state : bool, default=False
        Whether to train z_0, which is zero otherwise.
    constraint : callable, optional
        Function that is called with the network after every update, without gradient, and may
        change its weights in place, e.g. to enforce Dale's law.
    loss : {"auto", "mse", "cross_entropy"} or callable, default="auto"
        The loss l; "auto" is "cross_entropy" for integer or string targets, else "mse". A function
        ``loss(outputs, y)`` of two tensors returns l_bt, (n_trials, n_timesteps), from the
        outputs (n_trials, n_timesteps, n_outputs) and y: floats in the dtype of the outputs, or
        integers as int64, of the shape given to `fit`. One value per trial is repeated at every
        step, and the loss counts at the last valid one; without y, it is the next input. Outputs
        and y are zero on masked steps. Each trial must be judged on its own. The network then has
        as many outputs as the last axis of a three-dimensional y, otherwise one.
    activity_l2 : float, default=0.0
        Weight of the mean squared rate in the loss.
    weight_decay : float, default=0.0
        Weight decay of the optimizer.
    optimizer : {"adam", "sgd", "adamw", "rmsprop", "adagrad"} or class, default="adam"
        The optimizer, by its name in torch (in any case) or as a class or function that makes a
        ``torch.optim.Optimizer`` from (parameters, lr=..., weight_decay=...).
    learning_rate : float, default=1e-3
        Step size.
    max_iter : int, default=500
        Number of parameter updates ("iterations").
    batch_size : int or None, default=128
        Number of trials per update; None for all.
    tol : float, default=0.0
        Loss at which training stops early, averaged over the last pass over the trials; 0 never
        stops early.
    grad_clip : float, optional
        Largest norm of the gradient.
    snapshots : int or sequence of int, default=10
        Iterations at which the network's state is kept, or their number: they are then spaced
        evenly in log(1 + iteration), the first and last included.
    checkpoint_dir : path-like, optional
        Folder to which every snapshot is written when it is taken, as a plain state_dict. If a
        run is killed, the next `fit` continues it from its last snapshot, with bit-identical
        results on the same machine. This requires an integer ``random_state``.
    warm_start : bool, default=False
        Whether to continue from the network and optimizer of the last `fit` for another
        ``max_iter`` updates. The architecture then stays the same.
    device : str, default="cpu"
        Device to train on. An unpickled trainer is on the CPU until the next `fit`.
    dtype : {"float32", "float64"}, optional
        Precision of the network. The default is float32 for float32 input, else float64.
    random_state : int, RandomState or None, default=None
        Seed of initialisation, batches and noise. No global random generator is used.
    verbose : bool or int, default=False
        Whether to show a progress bar with the loss.

    Attributes
    ----------
    network_ : RecurrentNetwork
        The trained network (a `torch.nn.Module`).
    snapshots_ : list of Snapshot
        Iteration and state_dict of each snapshot.
    loss_curve_ : ndarray of shape (n_iter_,)
        Loss of each update's batch, before the update.
    interrupted_ : bool
        Whether a KeyboardInterrupt ended the training. The network is then that of the last
        snapshot.
    n_iter_ : int
        Number of updates made.
    classes_ : ndarray of shape (n_classes,)
        Class labels, only for cross_entropy.
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

    n_iter_: int
    _optimizer_state: dict[str, Any] | None
    _optimizer_kind: Any
    _generator_state: Tensor

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
        loss: Loss = "auto",
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
            Inputs. A 2-D X is read as trials of a single step, with a UserWarning.
        y : array-like, optional
            Targets: values (n_trials, n_timesteps, n_outputs), integer classes of each step
            (n_trials, n_timesteps), or one value or label per trial (n_trials,) at its last valid
            step. None predicts the next input. If ``loss`` is a function, y may also be numbers
            (n_trials, n_timesteps).
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weight w >= 0 of each step in the loss.

        Returns
        -------
        RecurrentTrainer
            Itself.

        Raises
        ------
        ValueError
            If a parameter or an array is invalid. The message names it.

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
        earlier = vars(self).copy() if self.warm_start and hasattr(self, "network_") else None
        trials, valid, single_step = self._check_trials(X, mask, reset=True)
        if not single_step:
            warn_of_channels_first(trials)
        targets = self._fit_targets(
            trials, y, valid, loss_weight, single_step, self.loss, float(self.activity_l2)
        )
        if earlier is None:
            self._begin(trials)
        else:
            self._continue(earlier)
        check_user_loss(self.objective_, self.network_, trials, targets, valid)
        generator = torch_generator(0)
        generator.set_state(self._generator_state)
        same_optimizer = self._optimizer_kind == self.optimizer
        set_training(self.network_, True)
        given = None if mask is None else {"mask": mask}
        about = {"X": X, "y": y, "metadata": given, "reconstruction_attributes": self._so_far}
        with FitTask.root(self, settings.max_iter, **about) as task:
            run = Run(
                self.network_,
                settings,
                len(trials),
                generator,
                first_iteration=self.n_iter_,
                optimizer_state=self._optimizer_state if same_optimizer else None,
                folder=self._folder(trials, targets, valid),
            )
            train(run, self._batch_loss(trials, valid, targets, generator), task)
        set_training(self.network_, False)
        self._add(run)
        self._generator_state = generator.get_state()
        return self

    def _begin(self, trials: np.ndarray) -> None:
        """Start from a new network, without updates."""
        seed = draw_seed(self.random_state)
        self.network_ = self._new_network(trials, seed)
        self._generator_state = torch_generator(seed + 1).get_state()
        self.snapshots_, self.loss_curve_, self.n_iter_ = [], np.empty(0), 0
        self._optimizer_state, self._optimizer_kind = None, self.optimizer

    def _continue(self, earlier: dict[str, Any]) -> None:
        """Start from the network of an earlier fit, given the attributes that it had set."""
        network = earlier["network_"]
        self._check_continues(network, earlier["n_features_in_"], earlier.get("classes_"))
        # A copy, because it is trained in place and this fit may fail. An unpickled network is on
        # the CPU.
        self.network_ = converted(copy_module(network), device=self.device)

    def _add(self, run: Run) -> None:
        """Add the result of a run to that of the updates before it."""
        # A run that continues knows the update from the snapshot with which the last one ended.
        new = {snapshot.iteration for snapshot in run.snapshots}
        earlier = [snapshot for snapshot in self.snapshots_ if snapshot.iteration not in new]
        self.snapshots_ = earlier + run.snapshots
        self.loss_curve_ = np.append(self.loss_curve_, run.losses)
        self.n_iter_ += run.n_iter
        self.interrupted_ = run.interrupted
        self._optimizer_state, self._optimizer_kind = run.optimizer_state, self.optimizer

    def _check_resumable(self) -> None:
        check_folder(self.checkpoint_dir, "checkpoint_dir")
        if not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                "checkpoint_dir requires an integer random_state, so that a run that was stopped "
                f"can be continued reproducibly, got {self.random_state!r}."
            )
        if self.warm_start:
            raise ValueError("checkpoint_dir and warm_start both continue a run; use only one.")

    def _folder(
        self, trials: np.ndarray, targets: Targets, valid: np.ndarray | None
    ) -> RunFolder | None:
        """Return the folder of the run that these settings and data describe."""
        if self.checkpoint_dir is None:
            return None
        free = ("checkpoint_dir", "verbose", "warm_start")
        fixed = {k: v for k, v in self.get_params().items() if k not in free}
        about = name_settings(
            fixed, X=trials, y=targets.values, loss_weight=targets.weight, mask=valid
        )
        return RunFolder(self.checkpoint_dir, about)

    def _check_parameters(self) -> RunSettings:
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
        return RunSettings.of(self)

    def _new_network(self, trials: np.ndarray, seed: int) -> RecurrentNetwork:
        dtype = self.dtype or ("float32" if trials.dtype == np.float32 else "float64")
        network = build_network(
            self.cell,
            trials.shape[-1],
            self.target_encoder_.n_outputs_,
            hidden_size=self.hidden_size,
            n_layers=self.n_layers,
            init_scale=float(self.init_scale),
            recurrent_init=self.recurrent_init,
            alpha=self.dt / self.tau,
            learn_initial_state=self.learn_initial_state,
            dtype=getattr(torch, dtype),
            seed=seed,
        )
        return converted(network, device=self.device)

    def _check_continues(
        self, network: RecurrentNetwork, n_features: int | None, classes: np.ndarray | None
    ) -> None:
        if self.n_features_in_ != n_features:
            raise ValueError(
                f"warm_start: X has {self.n_features_in_} features, but the trained network takes "
                f"{n_features}."
            )
        encoder = self.target_encoder_
        if network.n_outputs != encoder.n_outputs_:
            raise ValueError(
                f"warm_start: y has {encoder.n_outputs_} outputs, but the trained network "
                f"has {network.n_outputs}."
            )
        if not np.array_equal(encoder.classes_, classes):  # type: ignore[arg-type]
            raise ValueError(
                f"warm_start: y has the classes {encoder.classes_}, but the network was "
                f"trained on {classes}."
            )

    def _batch_loss(
        self,
        trials: np.ndarray,
        mask: np.ndarray | None,
        targets: Targets,
        generator: torch.Generator,
    ) -> BatchLoss:
        """Return the function from the indices of a batch to the loss of any part of it."""
        network, objective = self.network_, self.objective_
        inputs, valid = to_tensors(trials, mask, network)

        def batch_loss(batch: np.ndarray) -> Callable[[slice], Tensor]:
            noise = None
            if self.noise_std:
                shape = (len(batch), inputs.shape[1], network.n_states)
                # Drawn on the CPU for the whole batch, so that the numbers depend neither on the
                # device nor on the parts.
                noise = torch.randn(shape, generator=generator, dtype=inputs.dtype)
                noise *= float(self.noise_std)

            def part_loss(part: slice) -> Tensor:
                index = torch.as_tensor(batch[part], device=inputs.device)
                push = None if noise is None else noise[part].to(inputs.device)
                states = network.states(inputs[index], push)
                if valid is None:
                    return objective.value(network, states, targets[batch[part]], None)
                # The number of valid steps that so many trials have on average.
                n_valid = float(valid.sum()) * len(index) / len(valid)
                return objective.value(
                    network, states, targets[batch[part]], valid[index], n_valid
                )

            return part_loss

        return batch_loss


def _check_device(device: str) -> None:
    """Refuse a device that is unknown to torch or unavailable on this machine."""
    try:
        if not isinstance(device, str | torch.device) or torch.device(device).type == "meta":
            raise TypeError("nothing can be computed on device 'meta'")
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a device of torch, got {device!r}.") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} is not available on this machine ({str(error).splitlines()[0]}); "
            "train with device='cpu'. A network trained on that device predicts on the CPU here."
        ) from error
