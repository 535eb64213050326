"""TaskAlignmentAnalyzer: which sub-tasks share a subspace, and which interfere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import check_periods, check_positive_int, check_verbose
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.memory import explained
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.analyzers._forecast import announced_after_first, in_words
from kpflow_sklearn.analyzers._recurrent import RecurrentAnalyzer
from kpflow_sklearn.analyzers._trials import FEWER, AnalysisTrials
from kpflow_sklearn.analyzers.alignment._history import AlignmentHistory
from kpflow_sklearn.analyzers.alignment._sub_tasks import (
    SubTasks,
    check_tasks,
    classes_as_tasks,
    divide,
    refuse_user_loss,
)
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.analyzers.alignment._verification import verify_tasks
from kpflow_sklearn.networks import refuse_zero_kernel
from kpflow_sklearn.results import to_frame


class TaskAlignmentAnalyzer(RecurrentAnalyzer):
    """Find which sub-tasks of a recurrent network share a subspace, and which interfere.

    Under gradient descent the error of sub-task j changes the states on the trials of sub-task i
    by delta_ij = -P_i K_ij P_j* Err_j. The alignment of these changes, accumulated over training,
    is evidence of which sub-tasks will come to share their dynamics. The page "Reproductions" of
    the documentation says how often it was right before the states themselves showed this.

    Parameters
    ----------
    trainer : RecurrentTrainer, SavedTraining, FrozenEstimator or torch.nn.Module, optional
        The source of the network; a trainer is cloned and fitted. A module is analysed as it is,
        without training, like ``SavedTraining(module)``. The default None trains a GRU with 64
        units.
    n_groups : int, optional
        Number of groups into which the sub-tasks are put. By default it is the number with the
        best silhouette score.
    analysis_trials : int, default=64
        Number of trials that are analysed. They are drawn from X, equally many of each sub-task as
        far as possible, unless ``analysis_set`` is given to `fit`.
    random_state : int, RandomState or None, default=None
        Seed of the choice of trials. It is also passed to a trainer whose random_state is None.
    verbose : bool or int, default=False
        Whether to show a progress bar over the snapshots and, after the first snapshot, a forecast
        of the time. The default trainer then shows a progress bar of its own as well.

    Attributes
    ----------
    tasks_ : ndarray of shape (n_tasks,)
        Names of the sub-tasks.
    alignment_matrices_ : dict of str to DataFrame (task x other_task)
        Matrices at the last snapshot: "interference" <g_i, g_j> of the sub-tasks' gradients,
        "gradient" its cosine, "flow" cos(delta_ii, delta_ij), "update" cos(delta_ii, delta_jj) and
        "state" cos(Z_i, Z_j). Without ``conditions`` the last two are overlaps of second moments,
        tr(C_i C_j) / (|C_i| |C_j|). "state" does not exist if the sub-tasks are outputs. NaN marks
        an entry for which ``results_`` gives a reason.
    alignment_history_ : dict of str to DataFrame ((iteration, task) x other_task)
        The same matrices at every snapshot; ``.loc[iteration]`` selects one.
    cumulative_alignment_ : dict of str to DataFrame ((iteration, task) x other_task)
        Means of these matrices over training up to each snapshot, weighted by iterations. If an
        entry is missing at one end of an interval, the mean of that entry leaves this interval
        out.
    groups_ : Series of int, indexed by task
        The final groups, by average linkage on 1 - alignment. They are formed from the states at
        the last snapshot or, if the sub-tasks are outputs, from the cumulative operators.
    grouping_history_ : DataFrame
        One row per source (states, cumulative states, cumulative operators and cumulative
        gradients) and iteration: the groups, whether they are the final ones, the margin of the
        final groups, and its chance level over permuted task labels. The margin is NaN if no group
        holds two tasks, all tasks are in one group, or an alignment is missing; the chance level
        is also NaN for the matrix from which the final groups were formed.
    transition_ : int or None
        Iteration of the snapshot from which on the states show the final groups. It is None if
        there are no groups to tell apart, if there is only one snapshot, or if the sub-tasks are
        outputs.
    lead_ : int or None
        Number of iterations by which the cumulative update alignment (without ``conditions``, the
        flow alignment) shows the final groups for good before the states do. It is None if
        ``transition_`` is None, or if that alignment shows other groups at the last snapshot.
    interference_by_map_ : DataFrame
        Interference split by weight map, with columns iteration, weight_map, task, other_task and
        value. All maps but "readout", whose weights do not move the states, sum to the
        interference. NaN marks a value that overflows.
    interference_by_period_ : DataFrame or None
        Interference split by the periods in which the weights act on the states. The error itself
        may occur later, because P* carries it back in time. None without ``periods``.
    results_ : DataFrame
        All matrices and losses of the sub-tasks, with one row per iteration, quantity and pair of
        tasks. The column ``reduction`` says how trials of different tasks were compared.
    components_ : list of ndarray of shape (n_directions, n_states)
        For each sub-task, the directions that contain 95% of its own change delta_jj at the last
        snapshot.
    mean_state_ : ndarray of shape (n_states,)
        Mean state of the analysed trials at the last snapshot.
    trainer_, network_, snapshots_, loss_curve_, n_iter_, classes_, n_features_in_
        As in `KPFlowAnalyzer`.

    Notes
    -----
    The loss of sub-task i is L_i = (1/N_i) sum of w l over the N_i valid steps of its trials. A
    gradient step on L_j alone, with learning rate eta, changes L_i by -eta <g_i, g_j> to first
    order. A negative interference therefore means that learning task j hurts task i.

    Only the recurrent weights and a trained initial state move the states. The gradient of the
    readout is reported separately, in ``interference_by_map_``.

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
        analysis_set: Mapping[str, Any] | None = None,
        X_analysis: ArrayLike | None = None,
        y_analysis: ArrayLike | None = None,
    ) -> TaskAlignmentAnalyzer:
        """Fit the trainer and compare the sub-tasks at each of its snapshots.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs. A 2-D X of shape (n_trials, n_features) is treated as trials of a single step,
            with a UserWarning.
        y : array-like, optional
            Targets, in one of the forms that `KPFlowAnalyzer.fit` describes.
        tasks : array-like of shape (n_trials,), optional
            The sub-task of each trial, as strings or integers. Without it the outputs are the
            sub-tasks or, if y holds one class per trial, the classes. Needed if the loss is a
            function or y holds a class at every step.
        conditions : array-like of shape (n_trials,), optional
            Labels that trials of different sub-tasks share, for example their stimulus. "update"
            and "state" then compare trials of the same condition.
        periods : mapping of str to (start, stop), optional
            Periods of a trial, in steps, by which the interference is split. Steps outside all
            periods form the period "rest".
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weights w >= 0 of the steps, or of each step's outputs, in the loss; 1 by default.
        analysis_set : dict, optional
            Trials to analyse instead of a choice from X: the key "X" and, if needed, "y", "mask",
            "loss_weight", "tasks" and "conditions", in the forms of the arguments of these names.
            Without "mask" and "loss_weight", all of their steps are valid and have weight 1.
            Searches pass the dict on as a whole, not cut into folds.
        X_analysis, y_analysis : array-like, optional
            Another form of ``analysis_set={"X": X_analysis, "y": y_analysis}``. ``tasks`` and
            ``conditions`` then label these trials instead of those in X.

        Returns
        -------
        TaskAlignmentAnalyzer
            The fitted analyzer itself.

        Raises
        ------
        ValueError
            If a parameter or an array is not as described; the message names it.
        UnsupportedNetworkError
            If no parameter of the recurrent part trains, or if a derivative of the network's step
            is NaN.
        MemoryError
            If memory runs out.

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
        analysed = self._read_analysis_set(
            X, y, analysis_set, X_analysis, y_analysis, tasks=tasks, conditions=conditions
        )
        if analysed is not None:
            inputs, y_analysed = analysed.X, analysed.y
            tasks, conditions = analysed.tasks, analysed.conditions
        else:
            inputs, y_analysed = self._stand_in()._check_inputs(X, reset=True), y
        self._check_parameters()
        seed = draw_seed(self.random_state)
        n_chosen = self.analysis_trials if analysed is None else None
        limits = {"n_groups": self.n_groups, "n_chosen": n_chosen}
        labels = check_tasks(tasks, conditions, len(inputs), seed=seed, **limits)
        if labels.tasks is None:
            refuse_user_loss(self.trainer)
        steps = check_periods(periods, inputs.shape[1])
        with FitTask.root(self, 2, X=X, y=y) as task:
            self._fit_trainer(X, y, seed, task, mask=mask, loss_weight=loss_weight)
            encoder = self.trainer_.target_encoder_
            if labels.tasks is None:
                labels = classes_as_tasks(encoder, y_analysed, **limits)
            trials = self._choose_trials(
                X,
                y,
                seed,
                mask=mask,
                loss_weight=loss_weight,
                analysis_set=analysed,
                tasks=labels.tasks,
                conditions=labels.conditions,
            )
            sub_tasks = divide(trials, labels, encoder, self.n_groups)
            size = f"{trials.size} with {len(sub_tasks.names)} sub-tasks"
            with explained(f"{size} does not fit. {FEWER}"):
                self._analyse(trials, sub_tasks, steps, task)
        return self

    def _check_parameters(self) -> None:
        check_positive_int(self.analysis_trials, "analysis_trials")
        check_verbose(self.verbose)
        if self.n_groups is not None:
            check_positive_int(self.n_groups, "n_groups")

    @undone_if_it_fails
    def _analyse(
        self,
        trials: AnalysisTrials,
        tasks: SubTasks,
        periods: dict[str, np.ndarray] | None,
        task: FitTask,
    ) -> None:
        """Measure every snapshot, and set the attributes that describe the measurements."""
        refuse_zero_kernel(self.network_)
        rows: list[dict[str, Any]] = []
        matrices: dict[str, list[np.ndarray]] = defaultdict(list)
        by_map, by_period = [], []
        sizes = [(trials.X.shape[0], "trials"), (trials.X.shape[1], "steps")]
        what = in_words(len(self.snapshots_), [*sizes, (len(tasks.names), "sub-tasks")])
        networks = announced_after_first(
            self._networks(task), len(self.snapshots_), what, verbose=self.verbose
        )
        for snapshot, network in networks:
            iteration = snapshot.iteration
            lin = trials.linearize(network, iteration)
            flow = TaskFlow(lin, tasks, self.trainer_.objective_)
            rows += flow.rows(iteration)
            for kind, matrix in flow.matrices.items():
                matrices[kind].append(np.where(np.isfinite(matrix), matrix, np.nan))
            by_map.append(flow.interference_by_map().assign(iteration=iteration))
            if periods is not None:
                split = flow.interference_by_period(periods)
                by_period.append(split.assign(iteration=iteration))
        history = AlignmentHistory(
            [snapshot.iteration for snapshot in self.snapshots_],
            tasks.names,
            {kind: np.stack(series) for kind, series in matrices.items()},
            tasks.conditions is not None,
            self.n_groups,
        )
        self.tasks_ = tasks.names
        self.alignment_history_ = {k: history.frame(m) for k, m in history.matrices.items()}
        self.cumulative_alignment_ = {k: history.frame(m) for k, m in history.cumulative().items()}
        last = history.iterations[-1]
        self.alignment_matrices_ = {k: t.loc[last] for k, t in self.alignment_history_.items()}
        index = pd.Index(tasks.names, name="task")
        self.groups_ = pd.Series(history.final_groups, index=index, name="group")
        self.grouping_history_ = history.groupings()
        self.transition_, self.lead_ = history.transition, history.lead
        self.results_ = to_frame(rows)
        self.interference_by_map_ = _joined(by_map)
        self.interference_by_period_ = _joined(by_period) if periods is not None else None
        self.components_ = flow.subspaces()
        states = lin.states if lin.mask is None else lin.states[lin.mask]
        self.mean_state_ = states.flatten(0, -2).double().mean(0).cpu().numpy()

    def transform(self, X: ArrayLike, *, mask: ArrayLike | None = None) -> np.ndarray:
        """Return the share of each trial's states that lies in each sub-task's subspace.

        Equation: sum_t |C_j (z_t - m)|^2 / sum_t |z_t - m|^2, where m is ``mean_state_`` and the
        rows of C_j are the ``components_`` of sub-task j.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Inputs.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.

        Returns
        -------
        ndarray of shape (n_trials, n_tasks)
            Shares between 0 and 1; 0 for a trial that stays at the mean state.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If X or mask has the wrong shape or contains NaN or infinity, or if the number of
            features of X differs from that of `fit`.

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
        # z_t - m, (n_trials, n_timesteps, n_states), zero at steps that are not valid.
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
            Inputs. At most ``analysis_trials`` of the trials are used.
        y : array-like, optional
            Targets, in the form of the y given to `fit`.
        tasks : array-like of shape (n_trials,), optional
            The sub-task of each trial. Without it the outputs or classes are the sub-tasks, as in
            `fit`. If the outputs have no losses of their own, only the operators are checked.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            True at the valid steps, which must be a prefix of each trial; all steps by default.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weights w >= 0 of the steps, or of each step's outputs, in the loss; 1 by default.

        Returns
        -------
        DataFrame
            One row per identity, with columns identity, error (relative unless the identity says
            otherwise), tolerance and passed.

        Raises
        ------
        NotFittedError
            If the analyzer has not been fitted.
        ValueError
            If an array has the wrong shape or contains NaN or infinity, or if the number of
            features of X differs from that of `fit`.

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
        encoder = self.trainer_.target_encoder_
        labels = check_tasks(tasks, None, len(self._check_inputs(X)), n_groups=self.n_groups)
        if labels.tasks is None:
            labels = classes_as_tasks(encoder, y, n_groups=self.n_groups)
        if labels.tasks is None and not encoder.has_loss_per_output:
            return table
        trials = self._choose_trials(
            X, y, 0, mask=mask, loss_weight=loss_weight, tasks=labels.tasks
        )
        sub_tasks = divide(trials, labels, encoder, self.n_groups)
        of_tasks = verify_tasks(self.network_, trials, sub_tasks, self.trainer_.objective_)
        return pd.concat([table, of_tasks], ignore_index=True)

    @property
    def _n_features_out(self) -> int:
        return len(self.tasks_)


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of all snapshots, with the iteration as first column."""
    table = pd.concat(tables, ignore_index=True)
    return table[["iteration", *table.columns.drop("iteration")]]
