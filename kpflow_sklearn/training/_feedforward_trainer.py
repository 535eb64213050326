"""FeedForwardTrainer: train a multilayer perceptron and keep snapshots of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import (
    check_choice,
    check_flag,
    check_positive_int,
    check_real,
    is_sequence,
)
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.fingerprints import values_digest
from kpflow_sklearn._common.random import draw_seed, torch_generator
from kpflow_sklearn._common.tensors import as_tensor
from kpflow_sklearn.feedforward import ACTIVATIONS, FeedForwardNetwork, build_feedforward
from kpflow_sklearn.training._feedforward_model import (
    FeedForwardModel,
    TrainingRecord,
    check_table,
    check_values,
)
from kpflow_sklearn.training._loop import train
from kpflow_sklearn.training._run import Run, RunSettings


class FeedForwardTrainer(FeedForwardModel):
    """Train a multilayer perceptron with a fixed readout on a quadratic loss.

    The network is f(x) = a X_L + c with X_l = phi(W_l X_{l-1} + b_l). By default only W_l and b_l
    train; a is random, and c is the mean of y. The loss is L = (1/2N) sum |f(x_n) - y_n|^2 over
    the N samples, summed over outputs.

    Parameters
    ----------
    hidden_sizes : sequence of int, default=(64,)
        Number of units of each hidden layer.
    activation : str, default="relu"
        The function phi: "relu", "leaky_relu", "identity", "tanh", "sigmoid", "softplus", "gelu"
        or "silu".
    bias : bool, default=True
        Whether hidden layers have trained biases b_l.
    train_readout : bool, default=False
        Whether to train a and, with ``bias``, c. The closed dynamics of the fields require a fixed
        readout.
    init_scale : float, default=1.0
        Gain g of the hidden weights, which are drawn from N(0, k g^2 / fan_in), with k = 2 for
        ReLU and similar functions, else k = 1. Biases are initially zero; a is drawn from
        N(0, 1 / fan_in).
    optimizer : {"sgd", "adam", "adamw", "rmsprop", "adagrad"} or class, default="sgd"
        The optimizer, as in `RecurrentTrainer`. Training with "sgd" and ``batch_size=None`` is
        the gradient descent that the kernel and the closed fields describe.
    learning_rate : float, default=0.1
        Step size eta.
    max_iter : int, default=500
        Number of parameter updates ("iterations").
    batch_size : int or None, default=None
        Number of samples per update; None for all.
    tol : float, default=0.0
        Loss at which training stops early, averaged over the last pass over the samples; 0 never
        stops early.
    snapshots : int or sequence of int, default=10
        Iterations at which the network's state is kept, or their number: they are then spaced
        evenly in log(1 + iteration), the first and last included.
    dtype : {"float32", "float64"}, optional
        Precision of the network. The default is float32 for float32 input, else float64.
    random_state : int, RandomState or None, default=None
        Seed of initialisation and batches. No global random generator is used.
    verbose : bool or int, default=False
        Whether to show a progress bar with the loss.

    Attributes
    ----------
    network_ : FeedForwardNetwork
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
    n_features_in_ : int
        Number of columns of X.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from kpflow_sklearn import FeedForwardTrainer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> trainer = FeedForwardTrainer((32,), max_iter=50, snapshots=3, random_state=0)
    >>> trainer.fit(scale(X), scale(y)).predict(scale(X)).shape
    (442,)
    >>> [snapshot.iteration for snapshot in trainer.snapshots_]
    [0, 6, 50]
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (64,),
        *,
        activation: str = "relu",
        bias: bool = True,
        train_readout: bool = False,
        init_scale: float = 1.0,
        optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
        learning_rate: float = 0.1,
        max_iter: int = 500,
        batch_size: int | None = None,
        tol: float = 0.0,
        snapshots: int | Sequence[int] = 10,
        dtype: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.bias = bias
        self.train_readout = train_readout
        self.init_scale = init_scale
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.tol = tol
        self.snapshots = snapshots
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @undone_if_it_fails
    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> FeedForwardTrainer:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        FeedForwardTrainer
            Itself.

        Raises
        ------
        ValueError
            If a parameter or an array is invalid. The message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> trainer = FeedForwardTrainer((4,), max_iter=2, random_state=0).fit(X, X[:, 0] ** 2)
        >>> trainer.loss_curve_.shape
        (2,)
        """
        settings = self._check_parameters()
        inputs = check_table(self, X, reset=True)
        values = check_values(y, inputs)
        self._y_is_column = as_array(y, "y").ndim == 2
        seed = draw_seed(self.random_state)
        self.network_ = self._new_network(inputs, values, seed)
        x = as_tensor(inputs, self.network_.dtype)
        targets = as_tensor(values, self.network_.dtype)

        def batch_loss(batch: np.ndarray) -> Callable[[slice], torch.Tensor]:
            index = torch.arange(len(x)) if len(batch) == len(x) else torch.as_tensor(batch)

            def part_loss(part: slice) -> torch.Tensor:
                rows = index[part]
                squares = (self.network_(x[rows]) - targets[rows]) ** 2
                return squares.sum() / (2 * len(rows))

            return part_loss

        about = {"X": X, "y": y, "reconstruction_attributes": self._so_far}
        with FitTask.root(self, settings.max_iter, **about) as task:
            run = Run(self.network_, settings, len(x), torch_generator(seed + 1))
            train(run, batch_loss, task)
        self.snapshots_, self.loss_curve_ = run.snapshots, np.array(run.losses)
        self.n_iter_, self.interrupted_ = run.n_iter, run.interrupted
        batched = self.batch_size is not None and self.batch_size < len(x)
        self._record = TrainingRecord(
            self.optimizer,
            float(self.learning_rate),
            self.batch_size if batched else None,
            values_digest(inputs, values),
        )
        return self

    def _check_parameters(self) -> RunSettings:
        sizes = self.hidden_sizes
        if not (is_sequence(sizes) and tuple(sizes)):
            raise ValueError(
                "hidden_sizes must be a sequence of at least one number of units, one per layer, "
                f"got {sizes!r}. A network without hidden layers (depth 0) is linear regression."
            )
        for size in sizes:
            check_positive_int(size, "hidden_sizes")
        check_choice(self.activation, "activation", tuple(ACTIVATIONS))
        check_flag(self.bias, "bias")
        check_flag(self.train_readout, "train_readout")
        check_real(self.init_scale, "init_scale", 0)
        if self.dtype is not None:
            check_choice(self.dtype, "dtype", ("float32", "float64"))
        return RunSettings.of(self)

    def _new_network(self, X: np.ndarray, y: np.ndarray, seed: int) -> FeedForwardNetwork:
        dtype = self.dtype or ("float32" if X.dtype == np.float32 else "float64")
        network = build_feedforward(
            X.shape[1],
            tuple(self.hidden_sizes),
            y.shape[1],
            activation=self.activation,
            bias=bool(self.bias),
            train_readout=bool(self.train_readout),
            init_scale=self.init_scale,
            dtype=getattr(torch, dtype),
            seed=seed,
        )
        with torch.no_grad():
            network.readout.bias.copy_(as_tensor(y.mean(0)))
        return network
