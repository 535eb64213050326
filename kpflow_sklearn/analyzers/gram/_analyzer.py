"""GramFlowAnalyzer: how each layer of a feed-forward network takes part in gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.arrays import naming
from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import check_positive_int, check_real, check_verbose
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.memory import explained
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers._base import Analyzer
from kpflow_sklearn.analyzers._forecast import announced_after_first, in_words
from kpflow_sklearn.analyzers.gram._course import GramTraining
from kpflow_sklearn.analyzers.gram._modes import eigenpairs, mode_rows, mode_table
from kpflow_sklearn.analyzers.gram._snapshot import GramSettings, layer_table
from kpflow_sklearn.feedforward import LEAST_PAIRS, Simulation, choose_pairs
from kpflow_sklearn.results import to_frame
from kpflow_sklearn.training import as_feedforward_trainer, check_table, check_values

#: Largest number of rows that `verify` uses.
N_VERIFIED = 256


class GramFlowAnalyzer(Analyzer):
    """Explain gradient descent on a feed-forward network by its layerwise Gram kernels.

    Under gradient descent on L = (1/2N) sum r^2 the residuals r = f - y move by
    dr/dt = -(1/N) K r. The kernel K is a sum over the layers of elementwise products
    K_l = Q_{l-1} * S_l. Here Q_{l-1} is the Gram matrix of the layer's inputs, and the
    co-activation S_l is that of the derivatives of the output with respect to the layer's
    preactivations. `fit` trains the network, computes these kernels at each snapshot on the rows
    of X, and predicts the loss curve.

    Parameters
    ----------
    trainer : FeedForwardTrainer, SavedTraining, FrozenEstimator or torch.nn.Module, optional
        The source of the network; a trainer is cloned and fitted. A ``torch.nn.Sequential`` of
        Linear layers and elementwise activations is analysed as it is, without training; to
        analyse it together with its checkpoints, pass ``SavedTraining(module, checkpoints)``. The
        default None trains a network with one hidden layer of 64 units.
    n_components : int, default=10
        Number of leading eigenvectors of K that `transform` and ``mode_table_`` use.
    rank_threshold : float, default=0.95
        Share of the trace of K that defines its rank: the rank is the least number of leading
        eigenvalues whose sum reaches this share.
    gram_pairs : int or None, default=None
        Number of pairs of samples for which the weight Grams W_l^T D_m D_n W_l are measured (at
        least 30). The pairs are drawn at random, but if there are at most this many, all pairs are
        taken and the result is exact. None takes all pairs when this is little work (up to 2000
        samples for layers of 64 units, up to 500 for 256 units), and otherwise 10 000.
    max_kernel_size : int, default=1500
        Largest n_samples * n_outputs for which `fit` forms K as a matrix. For larger problems only
        the leading eigenvalues are computed, from matrix-vector products.
    random_state : int, RandomState or None, default=None
        Seed of the pairs and of the iterative eigensolver. It is also passed to a trainer whose
        random_state is None.
    verbose : bool or int, default=False
        Whether to show a progress bar over the snapshots and, after the first snapshot, a forecast
        of the time. The default trainer then shows a progress bar of its own as well.

    Attributes
    ----------
    results_ : DataFrame
        All measurements, with one row per iteration, operator and quantity. The operators are
        "K", "K_1" to "K_L", "K_readout" if the readout is trained or moved between snapshots, and
        "network". The columns include the value, std_error (0 if exact), method, and the reason
        if a value is missing.
    layer_table_ : DataFrame
        The rows of ``results_`` about layers as a table with one row per (iteration, layer) and
        one column per quantity. NaN marks a value for which ``results_`` gives a reason.
    mode_table_ : DataFrame
        One row per iteration and leading eigenvector (mode) of K: the eigenvalue, the amplitude
        of the residuals along the mode at this snapshot and at the next one, and the amplitude
        predicted with K held constant (only if training was gradient descent on these rows). The
        column ``reason`` says why a number is missing or should be read with care.
    eigenvalues_ : ndarray of shape (k,)
        Eigenvalues of K at the last snapshot in descending order: all of them if K was formed as
        a matrix, otherwise the leading ones.
    eigenvectors_ : ndarray of shape (n_samples * n_outputs, n_components_)
        Leading eigenvectors of K at the last snapshot, as columns; there are none if K overflows.
        The sign is such that the entry of largest magnitude is positive.
    n_components_ : int
        Number of eigenvectors in ``eigenvectors_``.
    kernel_ : ndarray of shape (n_samples * n_outputs, n_samples * n_outputs)
        K = J J^T at the last snapshot. The outputs of a sample are adjacent rows. The matrix is
        computed on access.
    layer_kernels_ : dict of str to ndarray
        The terms K_l of K, with keys "1" to "L", and "readout" if the readout is trained. They
        are computed on access.
    loss_curve_ : ndarray of shape (n_iter_,)
        Training loss of each update's batch before the update, as recorded by the trainer.
    predicted_loss_curve_ : ndarray of shape (n_iter_,) or None
        Prediction of ``loss_curve_`` from the first snapshot (and the kernels of later
        snapshots). It is NaN before the first snapshot and infinite after an overflow. None if no
        prediction is possible, for example when the trainer was fitted on other rows; the reason
        is in ``prediction_``.
    prediction_ : str
        How ``predicted_loss_curve_`` was computed: "closed fields" (exact; for one hidden layer
        with a fixed readout), "kernel, frozen between snapshots" (all other networks, including
        those with two hidden layers), or "none". A remark may follow after a colon, for example
        that the prediction with a frozen kernel diverges.
    trainer_ : estimator
        The fitted trainer.
    network_ : FeedForwardNetwork
        The trained network.
    snapshots_ : list of Snapshot
        Parameters of the network over training.
    n_iter_ : int
        Number of parameter updates.
    X_fit_ : ndarray of shape (n_samples, n_features)
        The analysed rows.
    n_features_in_ : int
        Number of columns of X.

    Notes
    -----
    The kernel K, its terms and the attribution of steps are defined for networks of any depth with
    any elementwise activation, and also when the readout is trained. Gates, flips and balance are
    properties of piecewise linear activations (ReLU, leaky ReLU, identity). `simulate` needs a
    fixed readout and one hidden layer, or two until the first gate of the upper one flips. The
    decay of the loss is that of plain full-batch gradient descent. It does not describe momentum,
    Adam or minibatches, although the attribution of their steps is exact as well. All computations
    use float64, whatever the network's dtype.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> trainer = FeedForwardTrainer((16, 16), max_iter=50, snapshots=2)
    >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0)
    >>> analyzer.fit(scale(X), scale(y)).transform(scale(X)).shape
    (442, 3)
    >>> analyzer.layer_table_.index.tolist()
    [(0, '1'), (0, '2'), (50, '1'), (50, '2')]
    """

    _as_trainer = staticmethod(as_feedforward_trainer)

    def __init__(
        self,
        trainer: Any = None,
        *,
        n_components: int = 10,
        rank_threshold: float = 0.95,
        gram_pairs: int | None = None,
        max_kernel_size: int = 1500,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.trainer = trainer
        self.n_components = n_components
        self.rank_threshold = rank_threshold
        self.gram_pairs = gram_pairs
        self.max_kernel_size = max_kernel_size
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: y is required and may have several outputs."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.required = True
        return tags

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> GramFlowAnalyzer:
        """Fit the trainer and analyse each of its snapshots on the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Real-valued targets.

        Returns
        -------
        GramFlowAnalyzer
            The fitted analyzer itself.

        Raises
        ------
        UnsupportedNetworkError
            If the network contains a layer of a kind that cannot be analysed; the message names
            the layer.
        ValueError
            If a parameter or an array is not as described; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.layer_table_.index.tolist()
        [(0, '1'), (4, '1')]
        """
        check_positive_int(self.n_components, "n_components")
        check_real(self.rank_threshold, "rank_threshold", 0, 1, open_minimum=True)
        if self.gram_pairs is not None:
            check_positive_int(self.gram_pairs, "gram_pairs", minimum=LEAST_PAIRS)
        check_positive_int(self.max_kernel_size, "max_kernel_size")
        check_verbose(self.verbose)
        # Check on a copy, so that this estimator is unchanged until the trainer is fitted.
        inputs = self._stand_in()._check_inputs(X, reset=True)
        targets = check_values(y, inputs)
        seed = draw_seed(self.random_state)
        with FitTask.root(self, 2, X=X, y=y) as task:
            self._fit_trainer(X, y, seed, task)
            # Keep copies: kernel_ and simulate use these rows after the caller's may have changed.
            self.X_fit_, self._y_fit = inputs.copy(), targets.copy()
            with explained(
                f"the kernel on {len(inputs)} rows does not fit. Give fewer rows, or "
                f"lower max_kernel_size={self.max_kernel_size} or gram_pairs={self.gram_pairs}."
            ):
                self._analyse(self._settings(len(inputs), seed), task)
        return self

    def _check_inputs(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> np.ndarray:
        """Return X as a table, (n_samples, n_features)."""
        return check_table(self, X, reset=reset)

    @undone_if_it_fails
    def _fit_trainer(
        self, X: ArrayLike, y: ArrayLike | None, seed: int, task: FitTask, **options: Any
    ) -> None:
        super()._fit_trainer(X, y, seed, task, **options)
        n_outputs = check_values(y, self._check_inputs(X)).shape[1]
        if self.network_.n_outputs != n_outputs:
            raise ValueError(
                f"y has {n_outputs} outputs, but the frozen trainer's network has "
                f"{self.network_.n_outputs}."
            )

    def _settings(self, n_samples: int, seed: int) -> GramSettings:
        width = max((linear.out_features for linear in self.network_.hidden[1:]), default=0)
        pairs, all_pairs = choose_pairs(n_samples, self.gram_pairs, seed, width)
        return GramSettings(
            self.n_components, self.rank_threshold, self.max_kernel_size, pairs, all_pairs, seed
        )

    @property
    def _training(self) -> GramTraining:
        return GramTraining(self.trainer_, self.X_fit_, self._y_fit)

    @undone_if_it_fails
    def _analyse(self, settings: GramSettings, task: FitTask) -> None:
        training = self._training
        rows: list[dict[str, Any]] = []
        modes: list[dict[str, Any]] = []
        first = previous = None
        largest: list[float] = []
        leading = (np.empty(0), np.empty((0, 0)))
        n = len(self.snapshots_)
        what = in_words(n, [(len(self.X_fit_), "samples")])
        snapshots = task.analysis(self.snapshots_, verbose=self.verbose)
        for snapshot in announced_after_first(snapshots, n, what, verbose=self.verbose):
            current = training.at(snapshot)
            first = first or current
            spectrum, values, vectors = eigenpairs(current.kernel, settings)
            rows += current.kernel_rows(settings, spectrum)
            rows += current.layer_rows(settings)
            rows += current.step_rows(previous, first)
            if previous is not None:
                modes += mode_rows(previous, leading, current, *training.descent)
            previous, leading = current, (values, vectors)
            largest.append(float(values[0]) if len(values) else np.nan)
        modes += mode_rows(current, leading, None, *training.descent)
        self.eigenvalues_, self.eigenvectors_ = spectrum.eigenvalues.copy(), vectors
        self._leading_values = values
        self.n_components_ = len(values)
        self.results_ = to_frame(rows)
        self.layer_table_ = layer_table(self.results_)
        self.mode_table_ = mode_table(modes)
        self.predicted_loss_curve_, self.prediction_ = training.predicted_losses(largest)

    @property
    def layer_kernels_(self) -> dict[str, np.ndarray]:
        """Terms K_l of the kernel at the last snapshot, square of size n_samples * n_outputs.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        """
        check_is_fitted(self, "results_")
        return self._training.at(self.snapshots_[-1]).layer_kernels()

    @property
    def kernel_(self) -> np.ndarray:
        """Kernel K at the last snapshot, square of size n_samples * n_outputs."""
        return np.sum(list(self.layer_kernels_.values()), axis=0)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Project K(X, X_fit_) at the last snapshot on the leading eigenvectors of K.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs * n_components_)
            K(X, X_fit_) u_i / sqrt(lambda_i) for each output and component i, or zero if lambda_i
            is zero. For several outputs, let T be the result reshaped to
            (n_samples * n_outputs, n_components_): the inner products of its rows approximate K.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X has the wrong shape, contains NaN or infinity, or differs from the X of `fit` in
            its number of features.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.transform(X).shape
        (6, 3)
        """
        check_is_fitted(self, "results_")
        inputs = self._check_inputs(X)
        projected = self._training.project(
            self.snapshots_[-1], inputs, self._leading_values, self.eigenvectors_
        )
        if not np.isfinite(projected).all():
            raise ValueError(
                "X is too large for the kernel in float64, got values up to "
                f"{abs(inputs).max():.3g}; scale X down."
            )
        return projected

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict targets with the trained network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, in the form of the y given to `fit`.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X has the wrong shape, contains NaN or infinity, or differs from the X of `fit` in
            its number of features.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.predict(X).shape
        (6,)
        """
        return self._trainer_for(X).predict(X)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the trained network's R^2, averaged over outputs.

        Equation: 1 - sum (y - f)^2 / sum (y - mean y)^2 for each output.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        float
            The score; the best value is 1.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X or y has the wrong shape or contains NaN or infinity, or if the number of features
            of X differs from that of `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.score(X, y) < 1
        True
        """
        return self._trainer_for(X).score(X, y)

    def verify(self, X: ArrayLike, y: ArrayLike) -> pd.DataFrame:
        """Check the identities behind the analysis on the trained network, in float64.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs. Only the first 256 rows are used.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        DataFrame
            One row per identity, with columns identity, error (relative), tolerance and passed.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X or y has the wrong shape or contains NaN or infinity, or if the number of features
            of X differs from that of `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, random_state=0).fit(X, y)
        >>> bool(analyzer.verify(X, y)["passed"].all())
        True
        """
        check_is_fitted(self, "results_")
        inputs = self._check_inputs(X)
        targets = check_values(y, inputs, self.network_.n_outputs)
        return GramTraining(self.trainer_, inputs[:N_VERIFIED], targets[:N_VERIFIED]).verify()

    def attribute(self, first: int, last: int) -> pd.DataFrame:
        """Attribute the change between two snapshots to the layers, exactly.

        Equation: Delta f = sum_l bbar_l . (Delta W_l xbar_{l-1} + Delta b_l), with secant slopes
        of the activations.

        Parameters
        ----------
        first, last : int
            Iterations of two of the ``snapshots_``.

        Returns
        -------
        DataFrame
            One row per layer ("1" to "L" and "readout"). The column ``loss_change`` is the layer's
            share of the change of the loss; the shares sum to this change for any optimizer and
            any step. The column ``output_change`` is the root mean square of the layer's share of
            Delta f.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If there is no snapshot of one of the iterations; the message lists the iterations of
            all snapshots.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> shares = analyzer.attribute(0, 4)["loss_change"]
        >>> shares.index.tolist(), bool(shares.sum() < 0)
        (['1', 'readout'], True)
        """
        check_is_fitted(self, "results_")
        training = self._training
        return training.attribute(
            training.snapshot(first, "first"), training.snapshot(last, "last")
        )

    def simulate(
        self,
        n_steps: int,
        X_new: ArrayLike | None = None,
        *,
        start: int | None = None,
        learning_rate: float | None = None,
        record: Sequence[int] | None = None,
    ) -> Simulation:
        """Simulate gradient descent in terms of the preactivations on the rows of X alone.

        Equation: H_1 <- H_1 - (eta / N) Q_0 ((r a) * phi'(H_1)), where no weight matrix appears.
        For one hidden layer it is exact at any step size, also when gates flip. Two hidden layers
        are described by (H_1, C_1) until the first gate of the upper layer flips.

        Parameters
        ----------
        n_steps : int
            Number of updates to simulate.
        X_new : array-like of shape (n_new, n_features), optional
            Additional rows whose outputs are predicted. They do not take part in training.
        start : int, optional
            Iteration of the snapshot to start from; by default the first snapshot.
        learning_rate : float, optional
            Step size eta. By default it is the trainer's learning rate, provided that the trainer
            used full-batch gradient descent on these rows.
        record : sequence of int, optional
            Numbers of steps after which outputs and fields are kept; by default only after the
            last step.

        Returns
        -------
        Simulation
            The loss, of shape (n_steps + 1,), and the outputs, outputs_new and fields after the
            recorded steps. The simulation stops early, and says why, when the equations cease to
            be closed or the loss overflows.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If the preactivations do not determine their own change (three hidden layers, or two
            with a smooth activation), if the readout is trained, or if learning_rate is None and
            the trainer did not use full-batch gradient descent on these rows.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> y = X[:, 0] ** 2
        >>> trainer = FeedForwardTrainer((4,), max_iter=4, snapshots=2, random_state=0)
        >>> analyzer = GramFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.simulate(4).loss.shape
        (5,)
        """
        check_is_fitted(self, "results_")
        check_positive_int(n_steps, "n_steps", minimum=0)
        if record is not None:
            _check_record(record, n_steps)
        training = self._training
        snapshot = self.snapshots_[0] if start is None else training.snapshot(start, "start")
        training.check_closed(snapshot)
        eta = training.step_size() if learning_rate is None else learning_rate
        check_real(eta, "learning_rate", 0, open_minimum=True)
        with naming("X_new"):
            new = None if X_new is None else self._check_inputs(X_new)
        return training.simulate(snapshot, n_steps, new, eta, record)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_ * self.network_.n_outputs


def _check_record(record: Sequence[int], n_steps: int) -> None:
    """Check that ``record`` is a sequence of integers between 0 and ``n_steps``."""
    with naming("record"):
        steps = np.asarray(record)
    if steps.ndim != 1 or (len(steps) and steps.dtype.kind not in "iu"):
        raise ValueError(f"record must be a sequence of integers, got {record!r}.")
    if len(steps) and not (steps.min() >= 0 and steps.max() <= n_steps):
        raise ValueError(f"record must lie between 0 and n_steps={n_steps}, got {steps.tolist()}.")
