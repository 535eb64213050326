"""GramFlowAnalyzer: what each layer of a feed-forward network does in gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.arrays import naming
from kpflow_sklearn._common.callbacks import CallbackSupportMixin, FitTask, with_callbacks
from kpflow_sklearn._common.checks import check_positive_int, check_real, check_verbose
from kpflow_sklearn._common.estimators import Estimator, undone_if_it_fails
from kpflow_sklearn._common.memory import explained
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers.gram._course import GramTraining
from kpflow_sklearn.analyzers.gram._modes import eigenpairs, mode_rows
from kpflow_sklearn.analyzers.gram._snapshot import GramSettings
from kpflow_sklearn.analyzers.gram._tables import layer_table, mode_table
from kpflow_sklearn.feedforward import LEAST_PAIRS, Simulation, check_closed, choose_pairs
from kpflow_sklearn.results import to_frame
from kpflow_sklearn.training import as_feedforward_trainer, check_table, check_values

#: Rows that `verify` takes, at most.
N_VERIFIED = 256


class GramFlowAnalyzer(
    ClassNamePrefixFeaturesOutMixin, CallbackSupportMixin, TransformerMixin, Estimator
):
    """Explain gradient descent on a feed-forward network by its layerwise Gram kernels.

    Under gradient descent on L = (1/2N) sum r^2 the residuals r = f - y move by
    dr/dt = -(1/N) K r. K is a sum over layers, K_l = Q_{l-1} * S_l elementwise: the Gram of what
    enters the layer, times the co-activation of what the layer does to the output. `fit` trains
    the network, takes each snapshot apart by layers on the rows of X, and predicts training.

    Parameters
    ----------
    trainer : FeedForwardTrainer, SavedTraining, FrozenEstimator or torch.nn.Module, optional
        Where the network comes from; it is cloned and fitted. A ``torch.nn.Sequential`` of Linear
        and elementwise activations is analysed as it is, alone or with its checkpoints as
        ``SavedTraining(module, checkpoints)``. None trains one hidden layer of 64 units.
    n_components : int, default=10
        Leading eigenvectors of K, for `transform` and ``mode_table_``.
    rank_threshold : float, default=0.95
        Share of the trace of K that defines its rank.
    gram_pairs : int or None, default=None
        Pairs of samples whose weight Grams W_l^T D_m D_n W_l are measured: all, exactly, if there
        are no more, else so many drawn at random, at least 30. None takes all where that is
        little work (up to 2000 samples for layers of 64 units, 500 for 256), else 10 000.
    max_kernel_size : int, default=1500
        Largest n_samples * n_outputs for which the matrix K is formed during `fit`; beyond, only
        its leading eigenvalues are computed, by products.
    random_state : int, RandomState or None, default=None
        Seed of the pairs, of the iteration for eigenvectors, and of a trainer whose own is None.
    verbose : bool or int, default=False
        Whether to show a progress bar over snapshots (and a default trainer its own).

    Attributes
    ----------
    results_ : DataFrame
        One row for each (iteration, operator, quantity), with operators "K", "K_1" to "K_L",
        "K_readout" if it trains or moved between snapshots, and "network": value, std_error (0 if
        exact), method, and the reason where a value is missing.
    layer_table_ : DataFrame
        The layers' part of it, a row for each (iteration, layer), a column for each quantity; NaN
        where ``results_`` holds a reason.
    mode_table_ : DataFrame
        A row for each (iteration, mode): eigenvalue of K, amplitude of the residuals on its
        eigenvector then and at the next snapshot, and what K, standing still, predicts for it if
        training was gradient descent on these rows; ``reason`` says why a number is missing, or
        what to think of it.
    eigenvalues_ : ndarray of shape (k,)
        Of K at the last snapshot, descending: all if the matrix was formed, else the leading ones.
    eigenvectors_ : ndarray of shape (n_samples * n_outputs, n_components_)
        The leading ones, none if K overflows; the entry of largest magnitude is positive.
    n_components_ : int
        Their number.
    kernel_ : ndarray of shape (n_samples * n_outputs, n_samples * n_outputs)
        K = J J^T at the last snapshot, sample after sample; computed when asked for.
    layer_kernels_ : dict of str to ndarray
        Its terms K_l, "1" to "L" and "readout" if it trains; computed when asked for.
    loss_curve_ : ndarray of shape (n_iter_,)
        The trainer's: loss of each update's batch, before the update.
    predicted_loss_curve_ : ndarray of shape (n_iter_,) or None
        The same predicted from the first snapshot alone (and the kernels of later ones); NaN
        before it, infinite where it overflows. None if nothing predicts it, as for rows that the
        trainer was not fitted on, for the reason in ``prediction_``.
    prediction_ : str
        What predicted it: "closed fields" (exact, for one hidden layer and a fixed readout),
        "kernel, frozen between snapshots" (elsewhere, two hidden layers too), or "none"; with a
        remark after a colon, as where a frozen kernel diverges.
    trainer_ : estimator
        The fitted trainer.
    network_ : FeedForwardNetwork
        Its network.
    snapshots_ : list of Snapshot
        Its states over training.
    n_iter_ : int
        Number of parameter updates.
    X_fit_ : ndarray of shape (n_samples, n_features)
        The rows analysed.
    n_features_in_ : int
        Number of columns of X.

    Notes
    -----
    K, its layers, and the attribution of steps hold for any depth, any elementwise activation and
    a trained readout too. Gates, flips and balance are those of piecewise linear activations
    (ReLU, leaky ReLU, identity). `simulate` needs a fixed readout and one hidden layer, or two
    until the first gate of the upper one flips. The decay is that of plain full-batch gradient
    descent: momentum, Adam and minibatches are not this flow, but the attribution of their steps
    is exact all the same. All is computed in float64, whatever the network's dtype.

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
        """Return the tags: several outputs are taken, and y is needed."""
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
            Targets.

        Returns
        -------
        GramFlowAnalyzer
            Itself.

        Raises
        ------
        UnsupportedNetworkError
            If a module has a layer of a kind that the analysis cannot take; the message names it.
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
        # On a copy: this estimator stays as it is until it is trained.
        inputs = check_table(self._stand_in(), X, reset=True)
        targets = check_values(y, inputs)
        seed = draw_seed(self.random_state)
        with FitTask.root(self, 2, X=X, y=y) as task:
            self._fit_trainer(X, y, targets.shape[1], seed, task)
            # Copies: the caller may change the arrays, and what is computed later must not.
            self.X_fit_, self._y_fit = inputs.copy(), targets.copy()
            with explained(
                f"the kernel on {len(inputs)} rows took more than there is. Give fewer rows, or "
                f"lower max_kernel_size={self.max_kernel_size} or gram_pairs={self.gram_pairs}."
            ):
                self._analyse(self._settings(len(inputs), seed), task)
        return self

    def _settings(self, n_samples: int, seed: int) -> GramSettings:
        width = max((linear.out_features for linear in self.network_.hidden[1:]), default=0)
        pairs, all_pairs = choose_pairs(n_samples, self.gram_pairs, seed, width)
        return GramSettings(
            self.n_components,
            self.rank_threshold,
            self.max_kernel_size,
            pairs,
            all_pairs,
            seed,
        )

    @undone_if_it_fails
    def _fit_trainer(
        self, X: ArrayLike, y: ArrayLike, n_outputs: int, seed: int, task: FitTask
    ) -> None:
        check_table(self, X, reset=True)
        trainer = as_feedforward_trainer(
            self.trainer, clone=clone, random_state=seed, verbose=self.verbose
        )
        training = task.part("training")
        with training.handed_to(trainer), training:
            trainer.fit(X, y)
        if trainer.n_features_in_ != self.n_features_in_:
            raise ValueError(
                f"X has {self.n_features_in_} features, but the frozen trainer is expecting "
                f"{trainer.n_features_in_} features as input."
            )
        if trainer.network_.n_outputs != n_outputs:
            raise ValueError(
                f"y has {n_outputs} outputs, but the frozen trainer's network has "
                f"{trainer.network_.n_outputs}."
            )
        self._forget_fit()
        self.trainer_ = trainer
        self.network_, self.snapshots_ = trainer.network_, trainer.snapshots_
        self.loss_curve_, self.n_iter_ = trainer.loss_curve_, trainer.n_iter_

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
        for snapshot in task.analysis(self.snapshots_, verbose=self.verbose):
            found = training.at(snapshot)
            first = first or found
            spectrum, values, vectors = eigenpairs(found.kernel, settings)
            rows += found.kernel_rows(settings, spectrum)
            rows += found.layer_rows(settings)
            rows += found.step_rows(previous, first)
            if previous is not None:
                modes += mode_rows(previous, leading, found, *training.descent)
            previous, leading = found, (values, vectors)
            largest.append(float(values[0]) if len(values) else np.nan)
        modes += mode_rows(found, leading, None, *training.descent)
        self.eigenvalues_, self.eigenvectors_ = spectrum.eigenvalues.copy(), vectors
        self._leading_values = values
        self.n_components_ = len(values)
        self.results_ = to_frame(rows)
        self.layer_table_ = layer_table(self.results_)
        self.mode_table_ = mode_table(modes)
        self.predicted_loss_curve_, self.prediction_ = training.predicted_losses(largest)

    @property
    def layer_kernels_(self) -> dict[str, np.ndarray]:
        """Each K_l at the last snapshot, (n_samples * n_outputs) squared.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self, "results_")
        return self._training.at(self.snapshots_[-1]).layer_kernels()

    @property
    def kernel_(self) -> np.ndarray:
        """K at the last snapshot, (n_samples * n_outputs) squared."""
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
            K(X, X_fit_) u_i / sqrt(lambda_i) for each output; zero where lambda_i is zero. With
            T of several outputs as ``T.reshape(n_samples * n_outputs, -1)``, inner products of
            rows approximate K.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X has the wrong shape, holds NaN or infinity, or has other features than on fit.

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
        inputs = check_table(self, X, reset=False)
        found = self._training.project(
            self.snapshots_[-1], inputs, self._leading_values, self.eigenvectors_
        )
        if not np.isfinite(found).all():
            raise ValueError(
                "X is too large for the kernel in float64, got values up to "
                f"{abs(inputs).max():.3g}; scale X down."
            )
        return found

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict targets with the trained network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the form of the y given to `fit`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X has the wrong shape, holds NaN or infinity, or has other features than on fit.

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
        check_is_fitted(self, "trainer_")
        check_table(self, X, reset=False)
        return self.trainer_.predict(X)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the trained network's R^2, averaged over outputs.

        Equation: 1 - sum (y - f)^2 / sum (y - mean y)^2 of each output.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        float
            The score; 1 is best.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y have the wrong shape, hold NaN or infinity, or X has other features than on
            fit.

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
        check_is_fitted(self, "trainer_")
        check_table(self, X, reset=False)
        return self.trainer_.score(X, y)

    def verify(self, X: ArrayLike, y: ArrayLike) -> pd.DataFrame:
        """Check the identities behind the analysis on the trained network, in float64.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Inputs; the first 256 rows are used.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        DataFrame
            Columns identity, error (relative), tolerance, passed.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

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
        inputs = check_table(self, X, reset=False)
        targets = check_values(y, inputs, self.network_.n_outputs)
        return GramTraining(self.trainer_, inputs[:N_VERIFIED], targets[:N_VERIFIED]).verify()

    def attribute(self, first: int, last: int) -> pd.DataFrame:
        """Split what happened between any two snapshots over the layers, exactly.

        Equation: Delta f = sum_l bbar_l . (Delta W_l xbar_{l-1} + Delta b_l), by secant gates.

        Parameters
        ----------
        first, last : int
            Iterations of two of the ``snapshots_``.

        Returns
        -------
        DataFrame
            Indexed by layer ("1" to "L" and "readout"): ``loss_change``, which adds up to the
            change of the loss for any optimizer and any step, and ``output_change``, the root mean
            square of the layer's share of Delta f.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If there is no snapshot of such an iteration; the message lists them.

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
        return self._training.attribute(
            self._snapshot(first, "first"), self._snapshot(last, "last")
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
        """Follow gradient descent by the fields on the rows of X alone: no weight enters a step.

        Equation: H_1 <- H_1 - (eta / N) Q_0 ((r a) * phi'(H_1)), exact for one hidden layer at any
        step size while gates come and go. Two hidden layers are followed by (H_1, C_1) until the
        first gate of the upper one flips.

        Parameters
        ----------
        n_steps : int
            Updates to follow.
        X_new : array-like of shape (n_new, n_features), optional
            Rows to predict along, which do not take part in training.
        start : int, optional
            Iteration of the snapshot to start from; default the first.
        learning_rate : float, optional
            Step size; default that of the trainer's fit, if it was such a descent on these rows.
        record : sequence of int, optional
            After how many steps to keep outputs and fields; default after the last.

        Returns
        -------
        Simulation
            loss (n_steps + 1,), and outputs, outputs_new and fields after the recorded steps. It
            stops where the system ceases to be closed or the loss overflows, and says so.

        Raises
        ------
        ValueError
            If the fields of the network do not determine their own change (three hidden layers,
            or two of a smooth activation), if its readout trains, or if the trainer's updates are
            no full-batch gradient descent on these rows and no learning_rate is given.

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
        snapshot = self.snapshots_[0] if start is None else self._snapshot(start, "start")
        check_closed(training.at(snapshot).network)
        if learning_rate is None:
            learning_rate, remark = training.descent
            if learning_rate is None or remark:
                why_not = remark.removeprefix("full-batch descent; ")
                raise ValueError(
                    f"learning_rate must be given: {why_not}, and simulate follows plain "
                    "full-batch gradient descent."
                )
        check_real(learning_rate, "learning_rate", 0, open_minimum=True)
        with naming("X_new"):
            new = None if X_new is None else check_table(self, X_new, reset=False)
        return training.simulate(snapshot, n_steps, new, learning_rate, record)

    def _snapshot(self, iteration: int, name: str) -> Any:
        is_whole = isinstance(iteration, Integral) and not isinstance(iteration, bool)
        for snapshot in self.snapshots_:
            if is_whole and snapshot.iteration == iteration:
                return snapshot
        known = ", ".join(str(s.iteration) for s in self.snapshots_)
        raise ValueError(
            f"{name}: there is no snapshot of iteration {iteration!r}; there are {known}."
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_components_ * self.network_.n_outputs


def _check_record(record: Sequence[int], n_steps: int) -> None:
    """Refuse what is no sequence of whole numbers of steps."""
    with naming("record"):
        steps = np.asarray(record)
    if steps.ndim != 1 or (len(steps) and steps.dtype.kind not in "iu"):
        raise ValueError(f"record must be a sequence of integers, got {record!r}.")
    if len(steps) and not (steps.min() >= 0 and steps.max() <= n_steps):
        raise ValueError(f"record must lie between 0 and n_steps={n_steps}, got {steps.tolist()}.")
