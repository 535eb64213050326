"""TaskAlignmentAnalyzer: which sub-tasks will share a subspace, before the states show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import FitTask, warn_caller, with_callbacks
from kpflow_sklearn._common.checks import (
    check_labels,
    check_periods,
    check_positive_int,
    check_verbose,
)
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.memory import explained
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers._base import RecurrentAnalyzer
from kpflow_sklearn.analyzers._trials import FEWER, AnalysisTrials, check_analysed, choose_index
from kpflow_sklearn.analyzers.alignment._history import AlignmentHistory
from kpflow_sklearn.analyzers.alignment._rows import alignment_rows
from kpflow_sklearn.analyzers.alignment._sub_tasks import (
    SubTasks,
    match_conditions,
    tasks_by_label,
    tasks_by_output,
)
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.analyzers.alignment._verification import verify_tasks
from kpflow_sklearn.networks import as_labels
from kpflow_sklearn.results import to_frame


class TaskAlignmentAnalyzer(RecurrentAnalyzer):
    """Find which sub-tasks of a recurrent network share a subspace, and which interfere.

    The error of each sub-task moves the states of every other one by delta_ij = -P_i K_ij P_j*
    Err_j. How these changes align, summed over training, tells which tasks will come to share
    their dynamics, as a rule long before their states do.

    Parameters
    ----------
    trainer : RecurrentTrainer, SavedTraining, FrozenEstimator or torch.nn.Module, optional
        Where the network comes from; it is cloned and fitted. A module is analysed as it is.
        None trains a GRU of 64 units.
    n_groups : int, optional
        Number of groups that tasks are put into; default the one of best silhouette.
    analysis_trials : int, default=64
        Number of trials analysed, drawn from X in equal share of the tasks, unless
        ``X_analysis`` is given to `fit`.
    random_state : int, RandomState or None, default=None
        Seed of the choice of trials, and of a trainer whose own is None.
    verbose : bool or int, default=False
        Whether to show a progress bar over snapshots (and a default trainer its own).

    Attributes
    ----------
    tasks_ : ndarray of shape (n_tasks,)
        Names of the sub-tasks.
    alignment_matrices_ : dict of str to DataFrame (task x other_task)
        At the last snapshot: "interference" <g_i, g_j>, "gradient" its cosine, "flow"
        cos(delta_ii, delta_ij), "update" cos(delta_ii, delta_jj), "state" cos(Z_i, Z_j).
        Without ``conditions`` the last two are the overlap of second moments,
        tr(C_i C_j) / (|C_i| |C_j|). "state" is missing where tasks are outputs. An entry is NaN
        where ``results_`` says why.
    alignment_history_ : dict of str to DataFrame ((iteration, task) x other_task)
        The same at every snapshot; ``.loc[iteration]`` is one matrix.
    cumulative_alignment_ : dict of str to DataFrame ((iteration, task) x other_task)
        Their means over training up to each snapshot, weighted by iterations.
    groups_ : Series of int, indexed by task
        The final groups: of the final states, or, where tasks are outputs, of the cumulative
        operators. Average linkage on 1 - alignment.
    grouping_history_ : DataFrame
        For each source (states, their cumulative mean, cumulative operators and gradients) and
        iteration: groups, whether they are the final ones, the margin of the final groups (NaN
        where no group holds two tasks, all are in one, or the alignment is unknown), and its
        chance level over permuted task labels (NaN too for the groups' own matrix).
    transition_ : int or None
        The iteration from which the groups of the states stay the final ones, at the earliest the
        first snapshot; None if there are no groups to tell apart, or a single snapshot.
    lead_ : int or None
        By how many iterations the cumulative update alignment (flow, if unmatched) shows the
        final groups for good before the states do; None if it never does.
    interference_by_map_ : DataFrame
        Interference split by weight map: iteration, weight_map, task, other_task, value. All but
        "readout", whose weights do not move the states, sum to the interference. A value is NaN
        where it overflows.
    interference_by_period_ : DataFrame or None
        Interference split by the periods at whose steps the weights act on the states; the error
        may come later, carried back by P*.
    results_ : DataFrame
        All matrices and losses of the tasks, tidy; ``reduction`` says how trials were compared.
    components_ : list of ndarray of shape (n_directions, n_states)
        For each task the directions that hold 95% of its own flow delta_jj, at the last snapshot.
    mean_state_ : ndarray of shape (n_states,)
        Mean state of the analysed trials.
    trainer_, network_, snapshots_, loss_curve_, n_iter_, classes_, n_features_in_
        As of `KPFlowAnalyzer`.

    Notes
    -----
    -eta <g_i, g_j> is the change of L_i by a gradient step of rate eta on L_j alone, where L_j
    is (1/N_j) sum of w l over the N_j valid steps of task j: negative entries mean that j hurts i.
    Only recurrent weights (and a trained initial state) move the states; the gradient of the
    readout is reported apart.

    Examples
    --------
    >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
    >>> from kpflow_sklearn.datasets import make_multitask
    >>> X, y, tasks = make_multitask(4, context=2, stimulus=2, memory=2, response=2)
    >>> trainer = RecurrentTrainer(hidden_size=8, max_iter=10, snapshots=3, random_state=0)
    >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
    >>> analyzer.fit(X, y, tasks=tasks).alignment_matrices_["flow"].shape
    (4, 4)
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        n_groups: int | None = None,
        analysis_trials: int = 64,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.trainer = trainer
        self.n_groups = n_groups
        self.analysis_trials = analysis_trials
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        tasks: ArrayLike | None = None,
        conditions: ArrayLike | None = None,
        periods: Mapping[str, tuple[int, int]] | None = None,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
        X_analysis: ArrayLike | None = None,
        y_analysis: ArrayLike | None = None,
    ) -> TaskAlignmentAnalyzer:
        """Fit the trainer and compare the sub-tasks at each of its snapshots.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs; a 2-D X is taken as trials of a single step, with a UserWarning.
        y : array-like, optional
            Targets, in the forms that `RecurrentTrainer.fit` takes.
        tasks : array-like of shape (n_trials,), optional
            The sub-task of each trial, strings or integers; of ``X_analysis``, where that is
            given. Without it the outputs are the sub-tasks or, for one class a trial, the
            classes.
        conditions : array-like of shape (n_trials,), optional
            What trials of different tasks have in common, a stimulus say: update and state then
            compare trials of equal condition. Of ``X_analysis``, where that is given.
        periods : mapping of str to (start, stop), optional
            Periods of a trial in steps, by which interference is split; what they leave out is
            "rest".
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            w >= 0, what each step costs.
        X_analysis, y_analysis : array-like, optional
            Trials to analyse instead of a choice from X, whole and of equal weight.

        Returns
        -------
        TaskAlignmentAnalyzer
            Itself.

        Raises
        ------
        ValueError
            If a parameter or an array is not as described; the message names it.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
        >>> from kpflow_sklearn.datasets import make_multitask
        >>> periods = {"context": 2, "stimulus": 2, "memory": 2, "response": 2}
        >>> X, y, tasks = make_multitask(2, **periods, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
        >>> analyzer.fit(X, y, tasks=tasks).alignment_matrices_["interference"].shape
        (4, 4)
        """
        # On a copy: this estimator stays as it is until it is trained.
        analysed, _, single_step = self._stand_in()._check_trials(X, reset=True)
        if X_analysis is not None:
            analysed = check_analysed(X_analysis, single_step)
        check_positive_int(self.analysis_trials, "analysis_trials")
        check_verbose(self.verbose)
        if self.n_groups is not None:
            check_positive_int(self.n_groups, "n_groups")
        seed = draw_seed(self.random_state)
        labels = self._check_labels(tasks, conditions, analysed)
        if labels is not None:
            self._check_choice(labels, conditions, X_analysis is None, seed)
        steps = check_periods(periods, analysed.shape[1])
        with FitTask.root(self, 2, X=X, y=y) as task:
            self._fit_trainer(X, y, seed, task, mask=mask, loss_weight=loss_weight)
            if labels is None and self._has_a_class_each():
                asked: Any = y if X_analysis is None else y_analysis
                labels = as_labels(asked, "y").ravel()
                self._check_choice(labels, None, X_analysis is None, seed)
            trials = self._choose_trials(
                X,
                y,
                seed,
                mask=mask,
                loss_weight=loss_weight,
                tasks=labels if X_analysis is None else None,
                conditions=conditions if X_analysis is None else None,
                X_analysis=X_analysis,
                y_analysis=y_analysis,
            )
            sub_tasks = self._sub_tasks(labels, conditions, trials)
            with explained(f"{len(sub_tasks.names)} sub-tasks and {trials.size}. {FEWER}"):
                self._analyse(trials, sub_tasks, steps, task)
        return self

    def _check_labels(
        self, tasks: ArrayLike | None, conditions: ArrayLike | None, X: np.ndarray
    ) -> np.ndarray | None:
        """Return the labels, all that is wrong with them named before anything is trained."""
        if tasks is None:
            if conditions is not None:
                raise ValueError("conditions match trials of different tasks: give tasks too.")
            return None
        labels = check_labels(tasks, "tasks", len(X))
        n_tasks = len(np.unique(labels))
        if n_tasks < 2:
            raise ValueError(
                f"tasks must name at least two sub-tasks, got {labels[:1].tolist()} only."
            )
        self._check_n_groups(n_tasks)
        if conditions is not None:
            match_conditions(labels, check_labels(conditions, "conditions", len(labels)))
        return labels

    def _check_choice(
        self, labels: np.ndarray, conditions: ArrayLike | None, is_chosen: bool, seed: int
    ) -> None:
        """Refuse a choice that would leave out a task, or all conditions that two share."""
        if not is_chosen:
            return
        n_tasks = len(np.unique(labels))
        if n_tasks > self.analysis_trials:
            raise ValueError(
                f"analysis_trials={self.analysis_trials} leaves some of the {n_tasks} tasks "
                "without a trial; raise it."
            )
        if conditions is not None:
            index = choose_index(len(labels), self.analysis_trials, labels, conditions, seed)
            match_conditions(labels[index], np.asarray(conditions)[index])

    def _check_n_groups(self, n_tasks: int) -> None:
        if self.n_groups is not None and self.n_groups > n_tasks:
            raise ValueError(f"n_groups must be at most {n_tasks} tasks, got {self.n_groups}.")

    def _has_a_class_each(self) -> bool:
        encoder = self.trainer_.encoder_
        return encoder.loss_ == "cross_entropy" and encoder.form_ == "last_step"

    def _sub_tasks(
        self, labels: np.ndarray | None, conditions: ArrayLike | None, trials: AnalysisTrials
    ) -> SubTasks:
        encoder = self.trainer_.encoder_
        if labels is None:
            if encoder.loss_ == "cross_entropy":
                raise ValueError(
                    "tasks must be given for classes at every step, as y has: their outputs have "
                    "no losses of their own."
                )
            found = tasks_by_output(trials.targets, encoder.n_outputs_)
        else:
            chosen = slice(None) if trials.index is None else trials.index
            matched = None if conditions is None else np.asarray(conditions)[chosen]
            found = tasks_by_label(labels[chosen], trials.targets, matched)
        if len(found.names) < 2:
            warn_caller(
                "there is a single sub-task, so that nothing can be compared; give tasks.",
                UserWarning,
            )
        self._check_n_groups(len(found.names))
        return found

    @undone_if_it_fails
    def _analyse(
        self,
        trials: AnalysisTrials,
        tasks: SubTasks,
        periods: dict[str, np.ndarray] | None,
        task: FitTask,
    ) -> None:
        rows: list[dict[str, Any]] = []
        series: dict[str, list[np.ndarray]] = {}
        by_map, by_period = [], []
        for iteration, network in self._networks(task):
            lin = trials.linearize(network, iteration)
            flow = TaskFlow(lin, tasks, self.trainer_.objective_)
            matrices = flow.matrices()
            for kind, matrix in matrices.items():
                finite = np.where(np.isfinite(matrix), matrix, np.nan)
                series.setdefault(kind, []).append(finite)
            rows += alignment_rows(iteration, flow, matrices)
            by_map.append(flow.interference_by_map().assign(iteration=iteration))
            if periods is not None:
                found = flow.interference_by_period(periods)
                by_period.append(found.assign(iteration=iteration))
        self._describe(tasks, {kind: np.stack(found) for kind, found in series.items()})
        self.results_ = to_frame(rows)
        self.interference_by_map_ = _joined(by_map)
        self.interference_by_period_ = _joined(by_period) if periods is not None else None
        self.components_ = flow.subspaces()
        states = lin.states if lin.mask is None else lin.states[lin.mask]
        self.mean_state_ = states.flatten(0, -2).double().mean(0).cpu().numpy()

    def _describe(self, tasks: SubTasks, matrices: dict[str, np.ndarray]) -> None:
        """Set what is read off the matrices of all snapshots."""
        history = AlignmentHistory(
            [snapshot.iteration for snapshot in self.snapshots_],
            tasks.names,
            matrices,
            tasks.conditions is not None,
            self.n_groups,
        )
        self.tasks_ = tasks.names
        self.alignment_history_ = {kind: history.frame(m) for kind, m in matrices.items()}
        self.cumulative_alignment_ = {
            kind: history.frame(m) for kind, m in history.cumulative().items()
        }
        last = history.iterations[-1]
        self.alignment_matrices_ = {
            kind: table.loc[last] for kind, table in self.alignment_history_.items()
        }
        index = pd.Index(tasks.names, name="task")
        self.groups_ = pd.Series(history.final_groups, index=index, name="group")
        self.grouping_history_ = history.groupings()
        self.transition_ = history.lasting_from("state")
        called = history.lasting_from(f"cumulative {history.operator_kind}")
        known = self.transition_ is not None and called is not None
        self.lead_ = self.transition_ - called if known else None  # type: ignore[operator]

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return how much of each trial's states lies where each task's flow moves them.

        Equation: sum_t |C_j (z_t - z)|^2 / sum_t |z_t - z|^2, with z the mean state and the rows
        of C_j the ``components_`` of task j.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.

        Returns
        -------
        ndarray of shape (n_trials, n_tasks)
            Share, 0 to 1, of the sum over steps of |z - mean_state_|^2 inside the span of
            ``components_`` of each task; 0 for a trial that stays at the mean.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or mask have the wrong shape, hold NaN or infinity, or X has other features than
            on fit.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
        >>> from kpflow_sklearn.datasets import make_multitask
        >>> periods = {"context": 2, "stimulus": 2, "memory": 2, "response": 2}
        >>> X, y, tasks = make_multitask(2, **periods, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
        >>> analyzer.fit(X, y, tasks=tasks).transform(X).shape
        (8, 4)
        """
        check_is_fitted(self, "components_")
        _, valid, _ = self._check_trials(X, mask)
        states = self.trainer_.trajectories(X, mask=mask)
        centred = states.astype(np.float64) - self.mean_state_
        if valid is not None:
            centred *= valid[..., None]
        total = (centred**2).sum((1, 2))
        inside = np.stack([((centred @ c.T) ** 2).sum((1, 2)) for c in self.components_], axis=1)
        shares = inside / np.where(total > 0, total, 1)[:, None]
        return shares.clip(0, 1).astype(states.dtype)

    def verify(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        tasks: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
    ) -> pd.DataFrame:
        """Check the identities behind the analysis on the trained network, in float64.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs; at most ``analysis_trials`` trials are used.
        y : array-like, optional
            Targets, in the form given to `fit`.
        tasks : array-like of shape (n_trials,), optional
            The sub-task of each trial. Without it the outputs or classes are the sub-tasks, as on
            fit; for classes at every step the operators alone are checked.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            w >= 0, what each step costs.

        Returns
        -------
        DataFrame
            Columns identity, error (relative unless said otherwise), tolerance, passed.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If an array has the wrong shape, or holds NaN or infinity, or X has other features
            than on fit.

        Examples
        --------
        >>> from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
        >>> from kpflow_sklearn.datasets import make_multitask
        >>> periods = {"context": 2, "stimulus": 2, "memory": 2, "response": 2}
        >>> X, y, tasks = make_multitask(2, **periods, random_state=0)
        >>> trainer = RecurrentTrainer(hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        >>> analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=0)
        >>> analyzer = analyzer.fit(X, y, tasks=tasks)
        >>> bool(analyzer.verify(X, y, tasks=tasks)["passed"].all())
        True
        """
        table = super().verify(X, y, mask=mask, loss_weight=loss_weight)
        labels = self._check_labels(tasks, None, self._check_trials(X)[0])
        if labels is None and self.trainer_.encoder_.loss_ == "cross_entropy":
            if not self._has_a_class_each():
                return table
            asked: Any = y
            labels = as_labels(asked, "y").ravel()
        options = {"mask": mask, "loss_weight": loss_weight, "tasks": labels}
        trials = self._choose_trials(X, y, 0, **options)
        sub_tasks = self._sub_tasks(labels, None, trials)
        more = verify_tasks(self.network_, trials, sub_tasks, self.trainer_.objective_)
        return pd.concat([table, more], ignore_index=True)

    @property
    def _n_features_out(self) -> int:
        return len(self.tasks_)


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the tables of all snapshots under each other, the iteration first."""
    table = pd.concat(tables, ignore_index=True)
    return table[["iteration", *table.columns.drop("iteration")]]
