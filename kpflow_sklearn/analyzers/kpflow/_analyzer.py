"""KPFlowAnalyzer: measure the operators K, P and PKP* of a recurrent network over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from kpflow_sklearn.analyzers._recurrent import RecurrentAnalyzer
from kpflow_sklearn.analyzers._trials import FEWER, AnalysisTrials
from kpflow_sklearn.analyzers.kpflow._planned import forecast
from kpflow_sklearn.analyzers.kpflow._snapshot import (
    Motion,
    SnapshotAnalysis,
    SpectralSettings,
    spectrum_table,
)
from kpflow_sklearn.analyzers.kpflow._weight_maps import weight_map_table
from kpflow_sklearn.lyapunov import N_FOLLOWED, lyapunov_spectrum
from kpflow_sklearn.networks import refuse_zero_kernel
from kpflow_sklearn.preprocessing import POOLINGS, check_steps, pooled
from kpflow_sklearn.results import (
    OPERATORS,
    Estimate,
    bottleneck_table,
    row,
    select,
    to_frame,
)
from kpflow_sklearn.spectra import AXES, GRAMS, METHODS, REDUCTIONS, TOL, Modes

#: What can be computed, and the attributes that it sets besides rows of ``results_``.
ANALYSES = {
    "spectra": (
        "k_rank_",
        "p_rank_",
        "pkp_rank_",
        "effective_dimensions_",
        "spectra_",
        "bottleneck_",
    ),
    "modes": ("singular_values_", "eigenfunctions_", "components_", "n_components_"),
    "lyapunov": (
        "lyapunov_exponents_",
        "lyapunov_std_error_",
        "kaplan_yorke_dimension_",
        "kaplan_yorke_std_error_",
        "lyapunov_n_trials_",
    ),
    "weight_maps": ("weight_maps_",),
    "signals": ("signal_dimensions_",),
}


class KPFlowAnalyzer(RecurrentAnalyzer):
    """Explain gradient descent on a recurrent network in terms of its operators K and P.

    Under gradient descent the states of a recurrent network move by -eta PKP* Err. The adjoint P*
    propagates the error signal Err back in time, the parameter operator K turns the result into
    the change that the parameters can make at each step, and the propagator P carries these
    changes forward in time. `fit` trains the network, linearizes it at every snapshot on the same
    trials and measures the rank and the effective dimension of K, P and PKP*.

    Equations: K = (1/N) J_theta J_theta^T and (P q)_t = q_t + J_t (P q)_{t-1}. The Gram G of an
    operator is K, PP* or PKP*, reduced to an axis. Its effective dimension is (tr G)^2 / tr G^2,
    and its rank is the least r for which the r largest eigenvalues sum to ``rank_threshold`` times
    tr G.

    Parameters
    ----------
    trainer : RecurrentTrainer, SavedTraining, FrozenEstimator or torch.nn.Module, optional
        The source of the network; a trainer is cloned and fitted. A module is analysed as it is,
        without training, like ``SavedTraining(module)``. The default None trains a GRU with 64
        units.
    n_components : int, default=5
        Number of leading eigenfunctions computed for each operator. It is also the number of
        directions onto which `transform` projects, at most the number of states.
    operators : sequence of {"K", "P", "PKP"}, default=("K", "P", "PKP")
        Operators to measure. ("P",) alone also analyses networks of which only the readout trains,
        such as reservoirs, in which K is zero.
    axes : sequence of {"all", "trial", "time", "hidden"}, default=("all", "time", "hidden")
        Axes to which the Grams are reduced; "all" keeps the whole space. The time axis is always
        measured.
    rank_threshold : float, default=0.95
        Share of the whole trace that defines the rank.
    gram : {"natural", "square"}, default="natural"
        Definition of the Grams: "natural" takes K, PP* and PKP*; "square" takes OO* for each
        operator O.
    reduction : {"trace", "mean"}, default="trace"
        How a Gram is reduced to an axis: "trace" takes the partial trace over the other axes,
        "mean" takes the Gram of the signal averaged over them.
    method : {"auto", "exact", "randomized"}, default="auto"
        How spectra are computed. "auto" computes them exactly where that is cheap and otherwise
        estimates them with random vectors. The column ``method`` of ``results_`` says which was
        used.
    n_probes : int, optional
        Number of random vectors per estimate. By default as many as ``tol`` needs, from 30 to 120.
    tol : float, default=0.02
        Relative standard error at which an estimate is accurate enough, by more random vectors or,
        for Lyapunov exponents, by following more trials. A value left less accurate has a larger
        ``std_error`` in ``results_``.
    analyses : sequence of str, default=("spectra", "modes", "lyapunov", "weight_maps", "signals")
        What to compute. "spectra" are the traces, norms, effective dimensions and ranks of all
        snapshots; "signals" are the dimensions of the signals and the agreement of the flow with
        the updates; "modes" are the eigenfunctions and components of the last snapshot,
        "lyapunov" its Lyapunov exponents, and "weight_maps" its weight maps. For many snapshots,
        ``("spectra",)`` may be enough. The attributes of analyses that are left out do not exist.
    activity_tol : float, default=1e-6
        Largest part of the activity of each weight map (a weight matrix and its input) that may be
        left out of PKP*, as a relative Frobenius norm. The rest is a low-rank factor. The less
        varied the activity is, the more computation this saves. The share of tr K that is lost,
        about the square of this tolerance, is the quantity ``activity_error`` of ``results_``.
    analysis_trials : int, default=64
        Number of trials that are analysed. They are drawn from X (stratified by ``tasks``), unless
        ``analysis_set`` is given to `fit`.
    memory_limit : int, optional
        Memory in bytes for chunks of trials; by default a quarter of the free memory. The
        linearized network and the eigenfunctions are not included: the states, derivatives and
        error signals of a network with H states need roughly 10 to 100 times the memory of an
        array (n_trials, n_timesteps, H). If memory runs out nevertheless, the chunks are halved.
        This limit changes results only by rounding, and eigenfunctions only within their
        ``eigenpair_residual``.
    pooling : {"last", "mean", "flatten"}, default="last"
        How `transform` combines the steps of a trial: it takes the last valid step, takes the mean
        over the valid steps, or concatenates all steps.
    random_state : int, RandomState or None, default=None
        Seed for the choice of trials and for the random vectors. It is also passed to a trainer
        whose random_state is None.
    verbose : bool or int, default=False
        Whether to show a forecast of the time and memory of the analysis and a progress bar over
        the snapshots. The default trainer then shows a progress bar of its own as well.

    Attributes
    ----------
    results_ : DataFrame
        All measurements, with one row per iteration, operator, axis and quantity. The columns
        include value, std_error (0 if exact), method, reduction, n_trials, and the reason if a
        value is missing.
    k_rank_, p_rank_, pkp_rank_ : float
        Ranks on the time axis at the last snapshot. A rank is None if the operator was not
        measured, and NaN if ``results_`` gives a reason for its absence.
    effective_dimensions_ : DataFrame
        Effective dimensions at the last snapshot, with one row per operator and one column per
        axis. NaN marks a value for which ``results_`` gives a reason.
    spectra_ : DataFrame
        Leading eigenvalues (at most 500) of each operator on each axis at the last snapshot, with
        columns operator, axis, index, eigenvalue, residual, share and method. Each eigenvalue is
        within its residual of an exact one (0: exact up to rounding); those that have not
        converged are not listed. ``share`` is the eigenvalue divided by the trace; it is NaN if
        the trace is zero or overflows.
    bottleneck_ : DataFrame
        One row per iteration: the ranks on the time axis (NaN if ``results_`` gives a reason) with
        their standard errors, the narrower of the operators K and P, and the ratio of their
        ranks.
    signal_dimensions_ : DataFrame
        Uncentred effective dimensions, on the hidden axis, of the signals Err, P*Err, KP*Err and
        PKP*Err and of the states Z, with one row per iteration. NaN marks a signal that is zero.
    weight_maps_ : DataFrame
        One row per weight map: ranks and effective dimensions of its activity u_j, its sensitivity
        S_j and its term K_j of K, with upper bounds on the ranks. A dimension is NaN if u_j, S_j
        or K_j, respectively, is zero. The table is empty for a user-defined cell or a trained
        initial state.
    singular_values_ : dict of str to ndarray of shape (k,)
        Largest singular values of each operator at the last snapshot.
    eigenfunctions_ : dict of str to ndarray of shape (k, n_trials, n_timesteps, n_states)
        Eigenfunctions of K, PKP* and PP* that belong to ``singular_values_``. The sign is such
        that the entry of largest magnitude is positive.
    components_ : ndarray of shape (n_components_, n_states)
        Leading eigenvectors of PKP* on the hidden axis, as rows: the directions in which training
        can move the states. Neither this attribute nor the next exists if "PKP" is not among the
        operators, or "modes" not among the analyses.
    n_components_ : int
        Number of rows of ``components_``.
    lyapunov_exponents_, lyapunov_std_error_ : ndarray of shape (n_states,)
        Lyapunov exponents at the last snapshot with their standard errors, per unit of time
        (``dt`` of the trainer). They are averaged over as many of the analysed trials as ``tol``
        needs, at least 16 and at most 256, spread over all of them; over all of these with
        ``method="exact"``. Both arrays are empty for trials of a single step.
    kaplan_yorke_dimension_, kaplan_yorke_std_error_ : float
        Kaplan-Yorke dimension of these exponents with its bootstrap standard error over trials.
        Both are None if there are no exponents.
    lyapunov_n_trials_ : int
        Number of trials over which the exponents are averaged.
    loss_curve_ : ndarray of shape (n_iter_,)
        Training loss of each update's batch, as recorded by the trainer.
    n_iter_ : int
        Number of parameter updates.
    trainer_ : estimator
        The fitted trainer.
    network_ : Module
        The trained network.
    snapshots_ : list of Snapshot
        Parameters of the network over training.
    classes_ : ndarray of shape (n_classes,)
        Class labels. The attribute exists only for classification.
    n_features_in_ : int
        Size of the last axis of X.

    Notes
    -----
    PKP* describes plain full-batch gradient descent on the analysed trials. Minibatches, momentum,
    gradient clipping, Adam, weight decay and constraints are not part of this flow. Two quantities
    of ``results_`` compare it with the actual training. Each is the cosine of -PKP*Err with a
    change in the states: ``flow_agreement`` with the change by the next update, which shows what
    the optimizer and the batches do to the flow, and ``interval_agreement`` with the change up to
    the next snapshot. The latter may be small even for exact gradient descent, because the flow
    changes direction within the interval.

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
        n_probes: int | None = None,
        tol: float = TOL,
        analyses: Sequence[str] = tuple(ANALYSES),
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
        self.tol = tol
        self.analyses = analyses
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
        analysis_set: Mapping[str, Any] | None = None,
        X_analysis: ArrayLike | None = None,
        y_analysis: ArrayLike | None = None,
    ) -> KPFlowAnalyzer:
        """Fit the trainer and analyse each of its snapshots.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs. A 2-D X of shape (n_trials, n_features) is treated as trials of a single step,
            with a UserWarning.
        y : array-like, optional
            Targets. Their shape and dtype decide what the network learns:

            - floats of shape (n_trials, n_timesteps, n_outputs): the output at every step, with
              the mean squared error as loss;
            - integers of shape (n_trials, n_timesteps): a class label for every step, with the
              cross entropy as loss;
            - floats of shape (n_trials,): one value per trial, at its last valid step;
            - integers, booleans or strings of shape (n_trials,): one class label per trial, at its
              last valid step;
            - floats of shape (n_trials, n_outputs), if X is 2-D: the outputs at the single step;
            - None: the next input is predicted at every step, or the input itself is
              reconstructed if trials have a single step.

            The trainer's parameter ``loss`` can override the choice of the loss.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weights w >= 0 of the steps, or of each step's outputs, in the loss; 1 by default.
        tasks : array-like of shape (n_trials,), optional
            One label per trial. The analysed trials are drawn so that, as far as possible, all
            labels have the same number of trials.
        analysis_set : dict, optional
            Trials to analyse instead of a selection from X: the key "X" and, if needed, "y",
            "mask", "loss_weight" and "tasks", in the same forms as the arguments of the same
            names. Without "mask" and "loss_weight", all of their steps are valid and have weight
            1. Searches pass the dict on as a whole, not cut into folds.
        X_analysis, y_analysis : array-like, optional
            Another form of ``analysis_set={"X": X_analysis, "y": y_analysis}``.

        Returns
        -------
        KPFlowAnalyzer
            The fitted analyzer itself.

        Raises
        ------
        ValueError
            If a parameter or an array is not as described; the message names it.
        UnsupportedNetworkError
            If no parameter of the recurrent part trains, unless ``operators`` is ("P",), or if a
            derivative of the network's step is NaN.
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
        analysed = self._read_analysis_set(X, y, analysis_set, X_analysis, y_analysis, tasks=tasks)
        seed = draw_seed(self.random_state)
        with FitTask.root(self, 2, X=X, y=y) as task:
            self._fit_trainer(X, y, seed, task, mask=mask, loss_weight=loss_weight)
            if {"K", "PKP"} & set(self.operators):
                refuse_zero_kernel(self.network_)
            self._n_timesteps = self._check_inputs(X).shape[1]
            trials = self._choose_trials(
                X,
                y,
                seed,
                mask=mask,
                loss_weight=loss_weight,
                tasks=tasks,
                analysis_set=analysed,
            )
            with explained(f"{trials.size} does not fit. {FEWER}"):
                self._analyse(trials, self._settings(seed), task)
        return self

    def _check_parameters(self) -> None:
        check_positive_int(self.n_components, "n_components")
        if self.n_probes is not None:
            check_positive_int(self.n_probes, "n_probes", minimum=4)
        check_real(self.tol, "tol", 0, open_minimum=True)
        check_real(self.activity_tol, "activity_tol", 0, 1)
        if self.memory_limit is not None:
            check_positive_int(self.memory_limit, "memory_limit", maximum=None)
        check_positive_int(self.analysis_trials, "analysis_trials")
        check_subset(self.analyses, "analyses", tuple(ANALYSES))
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
            self.tol,
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
        n: dict[str, Any] = {"n_trials": len(trials.X)}
        for kept, network in self._networks(task):
            iteration = kept.iteration
            snapshot = SnapshotAnalysis(network, iteration, trials, objective, self.activity_tol)
            spectra = snapshot.spectra(settings)
            if not rows:
                sizes = len(self.snapshots_), int(self.n_components), self.analyses
                forecast(snapshot, spectra, settings, *sizes).announce(verbose=self.verbose)
            rows.append(row(iteration, "network", "", "loss", snapshot.loss, **n))
            if "spectra" in self.analyses:
                rows += snapshot.spectral_rows(spectra, settings)
            if decay:  # Listed so that it is not overlooked: PKP* does not contain it.
                rows.append(row(iteration, "network", "", "weight_decay", decay, **n))
            if "signals" in self.analyses:
                signals.append(snapshot.signal_dimensions())
                rows += snapshot.agreement_rows(self.trainer_.network_after(kept), previous)
                previous = snapshot.motion
        natural = spectra
        if not spectra["PKP"].has_hidden_gram:  # The settings ask for other axes or Grams.
            natural = snapshot.natural_spectra(settings)
        modes: dict[str, Modes] = {}
        if "signals" in self.analyses:
            nothing_later = Estimate.missing("there is no later snapshot to compare with")
            rows.append(row(iteration, "PKP", "all", "interval_agreement", nothing_later, **n))
            self.signal_dimensions_ = pd.DataFrame(signals).set_index("iteration")
        if "modes" in self.analyses:
            k = int(self.n_components)
            modes = {name: natural[name].modes(k) for name in settings.operators}
            rows += self._keep_modes(modes, iteration, n)
            if "PKP" in settings.operators:
                self.components_ = snapshot.hidden_components(k, natural["PKP"])
                self.n_components_ = len(self.components_)
        self.results_ = to_frame(rows)
        if "spectra" in self.analyses:
            self.spectra_ = spectrum_table(spectra, modes, settings)
            self._summarise_spectra(iteration, settings)
        if "weight_maps" in self.analyses:
            self.weight_maps_ = weight_map_table(natural["K"], settings.rank_threshold)
        if "lyapunov" in self.analyses:
            self._keep_lyapunov(snapshot)

    def __getattr__(self, name: str) -> Any:
        """Raise a clear error for an attribute whose analysis was left out.

        Raises
        ------
        NotFittedError
            If nothing has been fitted.
        AttributeError
            If the analysis was left out, or there is no such attribute.
        """
        missing = [key for key, names in ANALYSES.items() if name in names]
        if missing and "results_" in vars(self) and missing[0] not in self.analyses:
            raise AttributeError(
                f"{name} was not computed, because analyses={self.analyses!r} leaves out "
                f"{missing[0]!r}: add it to analyses and fit again."
            )
        return super().__getattr__(name)

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Project the states of trials onto ``components_``.

        Equation: C z_t, pooled over the valid steps t; the rows of C are the components.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.

        Returns
        -------
        ndarray of shape (n_trials, n_components_)
            Projections at the last valid step or averaged over the valid steps. With
            ``pooling="flatten"`` the shape is (n_trials, n_timesteps * n_components_).

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X or mask has the wrong shape or contains NaN or infinity, if the number of features
            of X differs from that of `fit`, or if "PKP" is not among the operators.

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
        self._check_components()
        trials, valid, _ = self._check_trials(X, mask)
        check_steps(self.pooling, trials, self._n_timesteps)
        states = self.trainer_.trajectories(X, mask=mask)
        projected = states @ self.components_.T.astype(states.dtype)
        return pooled(projected, valid, self.pooling)

    def _check_components(self) -> None:
        check_is_fitted(self, "results_")
        if not hasattr(self, "components_"):
            raise ValueError(
                "transform projects onto the leading directions of PKP*, which fit computes only "
                "if 'PKP' is among the operators and 'modes' among the analyses, got "
                f"operators={self.operators!r} and analyses={self.analyses!r}; add what is "
                "missing and fit again."
            )

    @property
    def _n_features_out(self) -> int:
        self._check_components()
        steps = self._n_timesteps if self.pooling == "flatten" else 1
        return steps * self.n_components_

    def _keep_modes(
        self, modes: dict[str, Modes], iteration: int, about: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Set the leading eigenpairs of the last snapshot and return the rows of residuals."""
        rows = []
        self.singular_values_, self.eigenfunctions_ = {}, {}
        for name, pairs in modes.items():
            values = pairs.eigenvalues
            self.singular_values_[name] = np.sqrt(values) if name == "P" else values
            self.eigenfunctions_[name] = pairs.eigenfunctions
            worst = Estimate.missing("there is no eigenfunction")
            if len(values):
                worst = Estimate(float(pairs.residuals.max()))
            rows.append(row(iteration, name, "all", "eigenpair_residual", worst, **about))
        return rows

    def _summarise_spectra(self, last: int, settings: SpectralSettings) -> None:
        """Set the attributes that are parts of ``results_``; ``last`` is the last iteration."""
        at_last = self.results_[self.results_["iteration"] == last]
        for name in OPERATORS:
            rank = select(at_last, name, "rank", "time")["value"]
            setattr(self, f"{name.lower()}_rank_", float(rank.iloc[0]) if len(rank) else None)
        dimensions = at_last[at_last["quantity"] == "effective_dimension"]
        table = dimensions.pivot(index="operator", columns="axis", values="value")
        self.effective_dimensions_ = table.loc[list(settings.operators), list(settings.axes)]
        self.bottleneck_ = bottleneck_table(self.results_)

    def _keep_lyapunov(self, last: SnapshotAnalysis) -> None:
        """Set the Lyapunov exponents of the last snapshot."""
        self.lyapunov_exponents_ = self.lyapunov_std_error_ = np.empty(0)
        self.kaplan_yorke_dimension_: float | None = None
        self.kaplan_yorke_std_error_: float | None = None
        self.lyapunov_n_trials_ = 0
        if last.longest_trial >= 2:
            growth = lyapunov_spectrum(
                last.linearization,
                n_trials=N_FOLLOWED,
                tol=None if self.method == "exact" else self.tol,
                memory_limit=self.memory_limit,
            )
            dt = getattr(self.trainer_, "dt", 1.0)
            self.lyapunov_exponents_ = growth.exponents / dt
            self.lyapunov_std_error_ = growth.std_error / dt
            self.kaplan_yorke_dimension_ = growth.dimension.value
            self.kaplan_yorke_std_error_ = growth.dimension.std_error
            self.lyapunov_n_trials_ = growth.n_trials
