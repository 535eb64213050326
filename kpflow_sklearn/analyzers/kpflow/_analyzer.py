"""KPFlowAnalyzer: train a recurrent network, or take a trained one, and read K and P off it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import (
    check_choice,
    check_positive_int,
    check_real,
    check_subset,
    check_verbose,
)
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.memory import explained
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers._base import RecurrentAnalyzer
from kpflow_sklearn.analyzers._trials import FEWER, AnalysisTrials
from kpflow_sklearn.analyzers.kpflow._snapshot import (
    OPERATORS,
    Motion,
    SnapshotAnalysis,
    SpectralSettings,
    spectrum_table,
)
from kpflow_sklearn.lyapunov import N_FOLLOWED, lyapunov_spectrum
from kpflow_sklearn.preprocessing import POOLINGS, pooled
from kpflow_sklearn.results import Estimate, bottleneck_table, row, select, to_frame
from kpflow_sklearn.spectra import AXES, GRAMS, METHODS, N_PROBES, REDUCTIONS


class KPFlowAnalyzer(RecurrentAnalyzer):
    """Explain gradient descent on a recurrent network by its operators K and P.

    Under gradient descent the states of a recurrent network move by -eta PKP* Err: the error is
    carried back in time by P*, turned into a feasible change of each step by the parameter
    operator K, and carried forward by the propagator P. `fit` trains the network, linearizes
    every snapshot on the same trials and measures rank and effective dimension of K, P and PKP*.

    Equations: K = (1/N) J_theta J_theta^T and (P q)_t = q_t + J_t (P q)_{t-1}. With G = K, PP*
    or PKP*, reduced to an axis, the effective dimension is (tr G)^2 / tr G^2 and the rank the
    least r whose r largest eigenvalues reach ``rank_threshold`` of tr G.

    Parameters
    ----------
    trainer : RecurrentTrainer, SavedTraining, FrozenEstimator or torch.nn.Module, optional
        Where the network comes from; it is cloned and fitted. A module is analysed as it is, as
        by ``SavedTraining(module)``. None trains a GRU of 64 units.
    n_components : int, default=5
        Leading modes kept of each operator, and directions that `transform` projects on (at most
        the number of states).
    operators : sequence of {"K", "P", "PKP"}, default=("K", "P", "PKP")
        What to measure.
    axes : sequence of {"all", "trial", "time", "hidden"}, default=("all", "time", "hidden")
        Kept axes of the Grams; the time axis is always measured.
    rank_threshold : float, default=0.95
        Share of the whole trace that defines the rank.
    gram : {"natural", "square"}, default="natural"
        K, PKP* and PP*, or OO* for each operator.
    reduction : {"trace", "mean"}, default="trace"
        How a Gram is reduced to an axis: partial trace, or Gram of the averaged signal.
    method : {"auto", "exact", "randomized"}, default="auto"
        "auto" is exact where that is cheap; ``results_`` says which was used.
    n_probes : int, default=30
        Random vectors of an estimate; up to four times as many are drawn where the standard error
        of an effective dimension would exceed 2%.
    activity_tol : float, default=1e-6
        Largest part (relative Frobenius norm) of each weight map's activity that PKP* may leave
        out: the less varied the activity, the fewer products it then takes. ``results_`` holds the
        share of tr K so lost, ``activity_error``, about the square of this.
    analysis_trials : int, default=64
        Number of trials analysed, drawn from X (stratified by ``tasks``), unless ``X_analysis``
        is given to `fit`.
    memory_limit : int, optional
        Bytes that chunks of trials may take, beyond the linearized network itself (its states,
        derivatives and error signals, some tens of times the size of X with H features) and the
        eigenfunctions returned; default a quarter of what is free. Results do not
        depend on it beyond rounding, eigenfunctions beyond their `eigenpair_residual`.
        Where memory runs out all the same, chunks are halved.
    pooling : {"last", "mean", "flatten"}, default="last"
        How `transform` reduces the steps of a trial.
    random_state : int, RandomState or None, default=None
        Seed of the choice of trials, of the estimates, and of a trainer whose own is None.
    verbose : bool or int, default=False
        Whether to show a progress bar over snapshots (and a default trainer its own).

    Attributes
    ----------
    results_ : DataFrame
        One row for each (iteration, operator, axis, quantity): value, std_error (0 if exact),
        method, reduction, n_trials, and the reason where a value is missing.
    k_rank_, p_rank_, pkp_rank_ : float
        Time-axis ranks at the last snapshot; None for an operator not measured, NaN where
        ``results_`` says why.
    effective_dimensions_ : DataFrame
        Operator x axis, at the last snapshot; NaN where ``results_`` says why.
    spectra_ : DataFrame
        Leading eigenvalues of each operator on each axis at the last snapshot (at most 500):
        operator, axis, index, eigenvalue, share of the trace (NaN if that is zero or too large),
        method.
    bottleneck_ : DataFrame
        For each iteration the time-axis ranks (NaN where ``results_`` says why), their standard
        errors, which operator is the narrower one, and how many times.
    signal_dimensions_ : DataFrame
        For each iteration the effective dimension (hidden axis, uncentred) of Err, P*Err, KP*Err,
        PKP*Err and of the states Z; NaN where the signal is zero.
    weight_maps_ : DataFrame
        For each weight map the dimensions of its activity, sensitivity and K_j, with the bounds
        that hold; NaN where one of them is zero; empty for a user's cell or a trained initial
        state.
    singular_values_ : dict of str to ndarray of shape (k,)
        Largest singular values of each operator at the last snapshot.
    eigenfunctions_ : dict of str to ndarray of shape (k, n_trials, n_timesteps, n_states)
        The eigenfunctions of K, PKP* and PP* that belong to them; the entry of largest magnitude
        is positive.
    components_ : ndarray of shape (n_components_, n_states)
        Leading eigenvectors of hidden-axis PKP*: the directions in which training can move the
        states.
    n_components_ : int
        Their number.
    lyapunov_exponents_, lyapunov_std_error_ : ndarray of shape (n_states,)
        Per unit of time (``dt`` of the trainer), at the last snapshot, over the analysed trials
        (256 of them, evenly spaced, if there are more); empty for trials of a single step.
    kaplan_yorke_dimension_, kaplan_yorke_std_error_ : float
        Of these exponents; the error is the bootstrap's over trials. None where there are none.
    loss_curve_ : ndarray of shape (n_iter_,)
        The trainer's.
    n_iter_ : int
        Number of parameter updates.
    trainer_ : estimator
        The fitted trainer.
    network_ : Module
        Its network.
    snapshots_ : list of Snapshot
        Its states over training.
    classes_ : ndarray of shape (n_classes,)
        Labels, for a classification only.
    n_features_in_ : int
        Size of the last axis of X.

    Notes
    -----
    PKP* describes plain full-batch gradient descent on the analysed trials. Minibatches, momentum,
    clipping, Adam, weight decay and constraints are not this flow; the quantity
    ``flow_agreement``, the cosine of the predicted change of the states with the measured one up
    to the next snapshot, tells how far the description carries.

    Examples
    --------
    >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> X, y = make_memory_pro(8, stimulus=3, memory=3, response=3, evenly_spaced=True)
    >>> trainer = RecurrentTrainer(hidden_size=6, max_iter=10, snapshots=2, random_state=0)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> analyzer.bottleneck_["iteration"].tolist()
    [0, 10]
    >>> analyzer.transform(X).shape
    (8, 5)
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        n_components: int = 5,
        operators: Sequence[str] = OPERATORS,
        axes: Sequence[str] = ("all", "time", "hidden"),
        rank_threshold: float = 0.95,
        gram: str = "natural",
        reduction: str = "trace",
        method: str = "auto",
        n_probes: int = N_PROBES,
        activity_tol: float = 1e-6,
        analysis_trials: int = 64,
        memory_limit: int | None = None,
        pooling: str = "last",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.trainer = trainer
        self.n_components = n_components
        self.operators = operators
        self.axes = axes
        self.rank_threshold = rank_threshold
        self.gram = gram
        self.reduction = reduction
        self.method = method
        self.n_probes = n_probes
        self.activity_tol = activity_tol
        self.analysis_trials = analysis_trials
        self.memory_limit = memory_limit
        self.pooling = pooling
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
        tasks: ArrayLike | None = None,
        X_analysis: ArrayLike | None = None,
        y_analysis: ArrayLike | None = None,
    ) -> KPFlowAnalyzer:
        """Fit the trainer and analyse each of its snapshots.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs; a 2-D X is taken as trials of a single step, with a UserWarning.
        y : array-like, optional
            Targets, in the forms that `RecurrentTrainer.fit` takes.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            w >= 0, what each step costs.
        tasks : array-like of shape (n_trials,), optional
            A label a trial; the analysed trials hold each label in equal share.
        X_analysis, y_analysis : array-like, optional
            Trials to analyse instead of a choice from X, whole and of equal weight.

        Returns
        -------
        KPFlowAnalyzer
            Itself.

        Raises
        ------
        ValueError
            If a parameter or an array is not as described; the message names it.
        MemoryError
            If memory runs out even with the smallest chunks of trials.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, n_components=3, random_state=0)
        >>> analyzer.fit(X, y).results_.columns.tolist()[:4]
        ['iteration', 'operator', 'axis', 'quantity']
        """
        self._check_parameters()
        seed = draw_seed(self.random_state)
        with FitTask.root(self, 2, X=X, y=y) as task:
            self._fit_trainer(X, y, seed, task, mask=mask, loss_weight=loss_weight)
            trials = self._choose_trials(
                X,
                y,
                seed,
                mask=mask,
                loss_weight=loss_weight,
                tasks=tasks,
                X_analysis=X_analysis,
                y_analysis=y_analysis,
            )
            with explained(f"{trials.size} took more than there is. {FEWER}"):
                self._analyse(trials, self._settings(seed), task)
        return self

    def _check_parameters(self) -> None:
        check_positive_int(self.n_components, "n_components")
        check_positive_int(self.n_probes, "n_probes", minimum=4)
        check_real(self.activity_tol, "activity_tol", 0, 1)
        if self.memory_limit is not None:
            check_positive_int(self.memory_limit, "memory_limit", maximum=None)
        check_positive_int(self.analysis_trials, "analysis_trials")
        check_subset(self.operators, "operators", OPERATORS)
        check_subset(self.axes, "axes", AXES)
        check_real(self.rank_threshold, "rank_threshold", 0, 1, open_minimum=True)
        check_choice(self.gram, "gram", GRAMS)
        check_choice(self.reduction, "reduction", REDUCTIONS)
        check_choice(self.method, "method", METHODS)
        check_choice(self.pooling, "pooling", POOLINGS)
        check_verbose(self.verbose)

    def _settings(self, seed: int) -> SpectralSettings:
        axes = tuple(self.axes) if "time" in self.axes else (*self.axes, "time")
        return SpectralSettings(
            tuple(self.operators),
            axes,
            self.rank_threshold,
            self.gram,
            self.reduction,
            self.method,
            self.n_probes,
            self.memory_limit,
            seed,
        )

    @undone_if_it_fails
    def _analyse(self, trials: AnalysisTrials, settings: SpectralSettings, task: FitTask) -> None:
        rows: list[dict[str, Any]] = []
        signals: list[dict[str, Any]] = []
        previous: Motion | None = None
        decay = float(getattr(self.trainer_, "weight_decay", 0.0))
        objective = self.trainer_.objective_
        for iteration, network in self._networks(task):
            found = SnapshotAnalysis(network, iteration, trials, objective, self.activity_tol)
            spectra = found.spectra(settings)
            rows += found.rows(spectra, settings)
            if decay:  # Not part of PKP*: reported, so that it is not overlooked.
                n = len(trials.X)
                rows.append(row(found.iteration, "network", "", "weight_decay", decay, n_trials=n))
            signals.append(found.signal_dimensions())
            if previous is not None:
                agreement = previous.flow_agreement(found.motion)
                rows.append(_agreement_row(previous.iteration, agreement, trials))
            previous = found.motion
        nothing_later = Estimate.missing("there is no later snapshot to compare with")
        rows.append(_agreement_row(found.iteration, nothing_later, trials))
        rows += self._keep_modes(found, settings)
        self.components_ = found.hidden_components(self.n_components, settings, spectra)
        self.n_components_ = len(self.components_)
        self.results_ = to_frame(rows)
        self.spectra_ = spectrum_table(spectra, settings)
        self.signal_dimensions_ = pd.DataFrame(signals).set_index("iteration")
        self._describe_last(found, settings)

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Project the states of trials on ``components_``.

        Equation: C z_t, with the rows of C the components, then pooled over the valid steps t.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.

        Returns
        -------
        ndarray of shape (n_trials, n_components_)
            Projections at the last valid step or averaged over valid steps, or of shape
            (n_trials, n_timesteps * n_components_) for ``pooling="flatten"``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

        Examples
        --------
        >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
        >>> from kpflow_sklearn.datasets import make_memory_pro
        >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = KPFlowAnalyzer(trainer, n_components=3, random_state=0).fit(X, y)
        >>> analyzer.transform(X).shape
        (4, 3)
        """
        check_is_fitted(self, "components_")
        trials, valid, _ = self._check_trials(X, mask)
        if self.pooling == "flatten" and trials.shape[1] != self._n_timesteps:
            raise ValueError(
                f"pooling='flatten' needs X with {self._n_timesteps} steps as on fit, got "
                f"{trials.shape[1]}."
            )
        states = self.trainer_.trajectories(X, mask=mask)
        projected = states @ self.components_.T.astype(states.dtype)
        return pooled(projected, valid, self.pooling)

    @property
    def _n_features_out(self) -> int:
        steps = self._n_timesteps if self.pooling == "flatten" else 1
        return steps * self.n_components_

    def _keep_modes(
        self, last: SnapshotAnalysis, settings: SpectralSettings
    ) -> list[dict[str, Any]]:
        """Set the leading eigenpairs of the last snapshot; return rows of their residuals."""
        rows = []
        self.singular_values_, self.eigenfunctions_ = {}, {}
        for name in settings.operators:
            modes = last.modes(name, self.n_components, settings)
            values = modes.eigenvalues
            self.singular_values_[name] = np.sqrt(values) if name == "P" else values
            self.eigenfunctions_[name] = modes.eigenfunctions
            worst = Estimate.missing("there is no eigenfunction")
            if len(values):
                worst = Estimate(float(modes.residuals.max()))
            about: dict[str, Any] = {"n_trials": len(last.trials.X)}
            rows.append(row(last.iteration, name, "all", "eigenpair_residual", worst, **about))
        return rows

    def _describe_last(self, last: SnapshotAnalysis, settings: SpectralSettings) -> None:
        """Set the other attributes that belong to the last snapshot."""
        at_last = self.results_[self.results_["iteration"] == last.iteration]
        for name in OPERATORS:
            found = select(at_last, name, "rank", "time")["value"]
            setattr(self, f"{name.lower()}_rank_", float(found.iloc[0]) if len(found) else None)
        dimensions = at_last[at_last["quantity"] == "effective_dimension"]
        table = dimensions.pivot(index="operator", columns="axis", values="value")
        self.effective_dimensions_ = table.loc[list(settings.operators), list(settings.axes)]
        self.bottleneck_ = bottleneck_table(self.results_)
        self.weight_maps_ = last.weight_maps(settings)
        self.lyapunov_exponents_ = self.lyapunov_std_error_ = np.empty(0)
        self.kaplan_yorke_dimension_: float | None = None
        self.kaplan_yorke_std_error_: float | None = None
        if last.longest_trial >= 2:
            growth = lyapunov_spectrum(last.linearization, n_trials=N_FOLLOWED)
            dt = getattr(self.trainer_, "dt", 1.0)
            self.lyapunov_exponents_ = growth.exponents / dt
            self.lyapunov_std_error_ = growth.std_error / dt
            self.kaplan_yorke_dimension_ = growth.dimension.value
            self.kaplan_yorke_std_error_ = growth.dimension.std_error


def _agreement_row(iteration: int, agreement: Estimate, trials: AnalysisTrials) -> dict[str, Any]:
    return row(iteration, "PKP", "all", "flow_agreement", agreement, n_trials=len(trials.X))
