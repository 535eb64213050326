"""The tables, groups and errors of TaskAlignmentAnalyzer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from kpflow_sklearn import RecurrentTrainer, SavedTraining, TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers._trials import AnalysisTrials, choose_index
from kpflow_sklearn.analyzers.alignment._grouping import (
    chance_of_margin,
    describe_groups,
    first_lasting,
    group_tasks,
    margin,
)
from kpflow_sklearn.analyzers.alignment._history import AlignmentHistory
from kpflow_sklearn.analyzers.alignment._sub_tasks import tasks_by_label
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.datasets import make_flip_flop, make_multitask
from kpflow_sklearn.results import COLUMNS

PERIODS = {"context": 2, "stimulus": 3, "memory": 3, "response": 2}
MATRICES = ("interference", "gradient", "flow", "update", "state")
NAMES = ("MemoryPro", "MemoryAnti", "DelayPro", "ReactAnti")
ITERATIONS = [0, 2, 8]
X, Y, TASKS, ANGLES = make_multitask(
    5, tasks=NAMES, **PERIODS, evenly_spaced=True, return_stimuli=True
)
STIMULUS = np.round(1000 * ANGLES).astype(int)


def trainer(cell: str = "gru", **options) -> RecurrentTrainer:
    defaults = {"hidden_size": 6, "max_iter": 8, "snapshots": ITERATIONS, "random_state": 0}
    return RecurrentTrainer(cell, **defaults | options)


def analyzer(cell: str = "gru", **options) -> TaskAlignmentAnalyzer:
    return TaskAlignmentAnalyzer(trainer(cell), random_state=0, **options)


@pytest.fixture
def no_training(monkeypatch):
    """Let a test fail if it trains a network."""
    monkeypatch.setattr(RecurrentTrainer, "fit", lambda *args, **options: pytest.fail("trained"))


def losses_of(fitted: TaskAlignmentAnalyzer) -> pd.DataFrame:
    return fitted.results_[fitted.results_["quantity"] == "loss"]


@pytest.fixture(scope="module")
def fitted() -> TaskAlignmentAnalyzer:
    periods = {"stimulus": (2, 5), "response": (8, 10)}
    return analyzer(n_groups=2).fit(X, Y, tasks=TASKS, conditions=STIMULUS, periods=periods)


# ------------------------------------------------------------------------------------ attributes


def test_tables_are_labelled_and_of_every_snapshot(fitted):
    names = sorted(NAMES)
    assert fitted.tasks_.tolist() == names
    assert set(fitted.alignment_matrices_) == set(MATRICES)
    for tables in (fitted.alignment_history_, fitted.cumulative_alignment_):
        for table in tables.values():
            assert table.index.names == ["iteration", "task"]
            assert table.index.get_level_values(0).unique().tolist() == ITERATIONS
            assert table.columns.tolist() == names
    for kind, table in fitted.alignment_matrices_.items():
        pd.testing.assert_frame_equal(table, fitted.alignment_history_[kind].loc[8])
        assert table.index.tolist() == table.columns.tolist() == names


def test_losses_and_matrices_are_those_of_the_flow_at_each_snapshot(fitted):
    trials = AnalysisTrials(X, fitted.trainer_.target_encoder_.encode(X, Y), None)
    tasks = tasks_by_label(TASKS, trials.targets, STIMULUS)
    for snapshot in fitted.snapshots_:
        lin = trials.linearize(fitted.trainer_.network_at(snapshot), snapshot.iteration)
        flow = TaskFlow(lin, tasks, fitted.trainer_.objective_)
        losses = losses_of(fitted).set_index("iteration")["value"].loc[snapshot.iteration]
        np.testing.assert_allclose(losses, flow.losses, rtol=1e-6)
        for kind, matrix in flow.matrices.items():
            table = fitted.alignment_history_[kind].loc[snapshot.iteration]
            np.testing.assert_allclose(table, matrix, rtol=1e-12)


def test_results_hold_every_matrix_entry_and_loss(fitted):
    results = fitted.results_
    assert list(results.columns) == list(COLUMNS)
    assert results["value"].notna().all() and (results["method"] == "exact").all()
    assert len(results) == len(ITERATIONS) * (4 + len(MATRICES) * 16)
    for kind in MATRICES:
        rows = results[(results["quantity"] == kind) & (results["iteration"] == 8)]
        table = rows.pivot(index="task", columns="other_task", values="value")
        np.testing.assert_array_equal(table, fitted.alignment_matrices_[kind])
        compared = "matched conditions" if kind in ("update", "state") else ""
        assert (rows["reduction"] == compared).all()


def test_interference_is_split_by_map_and_period(fitted):
    maps = fitted.interference_by_map_
    states = maps[maps["weight_map"] != "readout"]
    for table in (states, fitted.interference_by_period_):
        summed = table.groupby(["iteration", "task", "other_task"])["value"].sum()
        expected = fitted.alignment_history_["interference"].stack()
        np.testing.assert_allclose(summed, expected, atol=1e-9)
    assert set(fitted.interference_by_period_["period"]) == {"stimulus", "response", "rest"}


def test_without_conditions_second_moments_are_compared():
    unmatched = analyzer().fit(X, Y, tasks=TASKS)
    rows = unmatched.results_[unmatched.results_["quantity"].isin(["update", "state"])]
    assert (rows["reduction"] == "second moments").all() and (rows["axis"] == "hidden").all()
    assert unmatched.interference_by_period_ is None
    assert "cumulative flow" in set(unmatched.grouping_history_["source"])


def test_lead_is_the_difference_of_two_lasting_groupings(fitted):
    table = fitted.grouping_history_
    final = describe_groups(fitted.tasks_, fitted.groups_.to_numpy())

    def lasting(source):
        rows = table[table["source"] == source]
        assert ((rows["groups"] == final) == rows["is_final"]).all()
        wrong = rows.loc[~rows["is_final"], "iteration"]
        later = rows.loc[rows["iteration"] > wrong.max() if len(wrong) else rows.index >= 0]
        return later["iteration"].min() if len(later) else None

    assert fitted.transition_ == lasting("state")
    called = lasting("cumulative update")
    assert fitted.lead_ == (None if called is None else fitted.transition_ - called)


def test_shares_of_states_in_the_subspaces(fitted):
    shares = fitted.transform(X)
    assert shares.shape == (20, 4) and (shares >= 0).all() and (shares <= 1).all()
    states = fitted.trajectories(X) - fitted.mean_state_
    for j, directions in enumerate(fitted.components_):
        inside = ((states @ directions.T) ** 2).sum((1, 2)) / (states**2).sum((1, 2))
        np.testing.assert_allclose(shares[:, j], inside, rtol=1e-6)
    assert fitted.get_feature_names_out().shape == (4,)


def test_padding_changes_nothing():
    mask = np.ones(X.shape[:2], bool)
    mask[::3, 7:] = False
    longer = np.pad(X, ((0, 0), (0, 4), (0, 0)), constant_values=9.0)
    targets = np.pad(Y, ((0, 0), (0, 4), (0, 0)), constant_values=-9.0)
    wide = np.pad(mask, ((0, 0), (0, 4)))
    options = {"tasks": TASKS, "conditions": STIMULUS}
    short = analyzer().fit(X, Y, mask=mask, **options)
    padded = analyzer().fit(longer, targets, mask=wide, **options)
    for kind in MATRICES:
        np.testing.assert_allclose(
            padded.alignment_matrices_[kind], short.alignment_matrices_[kind], atol=1e-8
        )
    np.testing.assert_allclose(
        padded.transform(longer, mask=wide), short.transform(X, mask=mask), atol=1e-7
    )


# ------------------------------------------------------------------- other tasks, other networks


def test_the_bits_of_a_flip_flop_are_tasks():
    bits, targets = make_flip_flop(12, n_bits=3, n_timesteps=9, random_state=0)
    by_output = analyzer().fit(bits, targets)
    assert by_output.tasks_.tolist() == by_output.groups_.index.tolist() == [0, 1, 2]
    assert set(by_output.alignment_matrices_) == set(MATRICES) - {"state"}
    assert by_output.transition_ is None and by_output.lead_ is None
    assert by_output.transform(bits).shape == (12, 3)


def test_classes_of_trials_are_tasks():
    by_class = analyzer().fit(X, np.array(["left", "right"] * 10))
    assert by_class.tasks_.tolist() == ["left", "right"]
    assert "state" in by_class.alignment_matrices_
    assert by_class.groups_.tolist() == [0, 1] and by_class.transition_ is None


def test_integer_labels_of_unequal_sizes():
    labels = np.r_[[7], [3] * 12, [5] * 7]
    unequal = analyzer().fit(X, Y, tasks=labels)
    assert unequal.tasks_.tolist() == [3, 5, 7]
    sizes = losses_of(unequal).groupby("task")["n_trials"].first()
    assert sizes.to_dict() == {"3": 12, "5": 7, "7": 1}


def test_saved_networks_and_checkpoints():
    module = torch.nn.ModuleDict(
        {"rnn": torch.nn.GRU(X.shape[2], 5, batch_first=True), "out": torch.nn.Linear(5, 3)}
    )
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-0.4, 0.4, generator=torch.Generator().manual_seed(0))
    states = [{k: (1 + i) * v.clone() for k, v in module.state_dict().items()} for i in range(3)]
    saved = SavedTraining(module, states, iterations=[0, 5, 9])
    of_saved = TaskAlignmentAnalyzer(saved, random_state=0).fit(X, Y, tasks=TASKS)
    index = of_saved.alignment_history_["flow"].index.get_level_values(0)
    assert index.unique().tolist() == [0, 5, 9]


@pytest.mark.parametrize("cell", ["tanh", "lstm", "leaky_voltage"])
def test_other_cells(cell):
    results = analyzer(cell).fit(X, Y, tasks=TASKS, conditions=STIMULUS).results_
    assert results["value"].notna().all()


def test_all_trials_given_for_the_analysis_are_analysed():
    options = {"X_analysis": X, "y_analysis": Y, "tasks": TASKS}
    separate = analyzer(analysis_trials=1).fit(X[:7], Y[:7], **options)
    assert separate.tasks_.tolist() == sorted(NAMES)
    assert (losses_of(separate)["n_trials"] == 5).all()


@pytest.mark.parametrize("n_trials", [4, 8, 12])
def test_a_choice_of_trials_takes_the_same_conditions_of_every_task(n_trials):
    chosen = analyzer(analysis_trials=n_trials).fit(X, Y, tasks=TASKS, conditions=STIMULUS)
    assert (losses_of(chosen)["n_trials"] == n_trials // 4).all()
    # The trials match one by one: with equal inputs but for the cue, all states can be compared.
    assert chosen.alignment_history_["state"].loc[0].notna().all(axis=None)


def test_a_task_that_is_solved_has_no_gradient():
    network = trainer().fit(X, Y)
    solved = network.predict(X)
    targets = np.where((TASKS == "MemoryPro")[:, None, None], solved, Y)
    frozen = TaskAlignmentAnalyzer(FrozenEstimator(network), random_state=0)
    solved_one = frozen.fit(X, targets, tasks=TASKS)
    results = solved_one.results_
    rows = results[(results["iteration"] == 8) & results["value"].isna()]
    assert set(rows["reason"]) == {"a task has no gradient"}
    assert set(rows["quantity"]) == {"gradient", "flow", "update"}
    assert ((rows["task"] == "MemoryPro") | (rows["other_task"] == "MemoryPro")).all()
    assert solved_one.groups_.notna().all() and np.isfinite(solved_one.transform(X)).all()


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tasks": ["a"] * 20}, "tasks must name at least two sub-tasks, got only ['a']"),
        ({"tasks": TASKS[:-1]}, "tasks must hold one label per trial, shape (20,), got (19,)"),
        ({"tasks": np.full(20, np.nan)}, "tasks must be strings or integers without gaps"),
        ({"tasks": [None, *TASKS[1:]]}, "tasks must be strings or integers without gaps"),
        ({"tasks": [0.5] * 20}, "tasks must be strings or integers without gaps, got 0.5"),
        ({"tasks": np.array([1, *TASKS[1:]], dtype=object)}, "all strings or all integers"),
        ({"tasks": np.zeros(20, complex)}, "tasks must be strings or integers without gaps"),
        ({"tasks": ["a", np.nan] * 10}, "tasks must be strings or integers without gaps, got nan"),
        ({"tasks": ["a", 1] * 10}, "all strings or all integers"),
        ({"conditions": STIMULUS}, "give tasks too"),
        ({"tasks": TASKS, "conditions": STIMULUS[1:]}, "conditions must hold one label per trial"),
        ({"tasks": TASKS, "conditions": np.arange(20)}, "any two tasks share"),
        ({"tasks": TASKS, "periods": {"a": (3, 3)}}, "0 <= start < stop <= 10"),
        ({"tasks": TASKS, "periods": {"a": (0, 11)}}, "0 <= start < stop <= 10"),
        ({"tasks": TASKS, "periods": {"a": 3}}, "periods['a'] must be (start, stop)"),
        ({"tasks": TASKS, "periods": {"a": (0, 3), "b": (2, 4)}}, "overlaps another period"),
        ({"tasks": TASKS, "periods": {"rest": (0, 3)}}, "must not use the name"),
        ({"tasks": TASKS, "periods": [(0, 3)]}, "periods must map names to (start, stop)"),
    ],
)
def test_wrong_arguments_are_named_before_the_training(options, message, no_training):
    with pytest.raises(ValueError) as raised:
        analyzer().fit(X, Y, **options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"analysis_trials": 3}, "analysis_trials=3 leaves some of the 4 tasks without a trial"),
        ({"n_groups": 5}, "n_groups must be at most 4, one per task, got 5"),
        ({"n_groups": 0}, "n_groups == 0, must be >= 1"),
        ({"n_groups": "two"}, "n_groups must be an instance of int"),
    ],
)
def test_wrong_parameters_are_named(options, message, no_training):
    with pytest.raises((ValueError, TypeError), match=message):
        analyzer(**options).fit(X, Y, tasks=TASKS)


def test_classes_at_every_step_need_labels():
    labels = np.random.default_rng(0).integers(0, 2, X.shape[:2])
    with pytest.raises(ValueError, match="tasks must be given if y has a class at every step"):
        analyzer().fit(X, labels)
    assert analyzer().fit(X, labels, tasks=TASKS).results_["value"].notna().all()


def test_a_single_output_is_a_single_task():
    with pytest.warns(UserWarning, match="only one sub-task"):
        single = analyzer().fit(X, Y[..., :1])
    assert single.tasks_.tolist() == [0] and single.groups_.tolist() == [0]


# ---------------------------------------------------------------------------- choice of trials


@pytest.mark.parametrize("seed", range(20))
def test_no_task_is_left_out_of_the_choice_and_shares_are_equal(seed):
    # A has forty conditions, B twenty of them, C three.
    labels = np.repeat(["A", "B", "C"], [40, 20, 3])
    conditions = np.r_[np.arange(40), np.arange(20), np.arange(3)]
    index = choose_index(63, 18, labels, conditions, seed)
    chosen = [set(conditions[index][labels[index] == task]) for task in "ABC"]
    assert sorted(len(c) for c in chosen) == [3, 7, 8]
    assert chosen[2] <= chosen[0] & chosen[1] and len(chosen[0] & chosen[1]) == 7


def test_a_choice_without_common_conditions_is_refused_before_the_training(no_training):
    # a and b share 0, b and c share 1, a and c share 2: one trial per task cannot match all.
    labels, conditions = list("aabbcc"), [0, 2, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="any two tasks share"):
        analyzer(analysis_trials=3).fit(X[:6], Y[:6], tasks=labels, conditions=conditions)


def test_classes_that_the_choice_would_leave_out_are_named():
    with pytest.raises(ValueError, match="analysis_trials=3 leaves some of the 5 tasks"):
        analyzer(analysis_trials=3).fit(X, np.array(list("abcde") * 4))


# -------------------------------------------------------------------------------------- grouping

BLOCKS = np.array([[1, 0.1, 0.9, 0], [0.1, 1, 0, 0.8], [0.9, 0, 1, 0.1], [0, 0.8, 0.1, 1]])
ONE_MISSING = np.ones((4, 4))
ONE_MISSING[2] = ONE_MISSING[:, 2] = np.nan
UNLIKE = np.array([[1, np.nan, -0.8], [np.nan] * 3, [-0.8, np.nan, 1]])


@pytest.mark.parametrize(
    "matrix, n_groups, expected",
    [
        (BLOCKS, None, [0, 1, 0, 1]),
        (BLOCKS, 3, [0, 1, 0, 2]),
        (BLOCKS, 1, [0, 0, 0, 0]),
        (np.eye(2), None, [0, 1]),
        (np.ones((4, 4)), None, [0, 0, 0, 0]),
        (np.kron(np.eye(3), np.ones((2, 2))), None, [0, 0, 1, 1, 2, 2]),
        # A task without similarities stands alone, even if the others are unlike each other.
        (ONE_MISSING, 1, [0, 0, 1, 0]),
        (UNLIKE, None, [0, 1, 2]),
        (UNLIKE, 1, [0, 1, 0]),
        (np.full((3, 3), np.nan), None, [0, 1, 2]),
    ],
)
def test_groups_of_a_known_matrix(matrix, n_groups, expected):
    assert group_tasks(matrix, n_groups).tolist() == expected


@pytest.mark.parametrize("n_tasks", [3, 4, 5, 6])
@pytest.mark.parametrize("similarity", [1.0, 0.3, 0.7, -0.1])
def test_tasks_that_differ_by_rounding_alone_are_one_group(n_tasks, similarity):
    # The means of equal distances differ in the last digit, and so may the cosines themselves.
    alike = np.full((n_tasks, n_tasks), similarity)
    noise = np.random.default_rng(0).uniform(-1e-15, 1e-15, alike.shape)
    assert not group_tasks(alike).any()
    assert not group_tasks(alike + noise).any()
    # A larger difference still separates.
    alike[0, 1:] -= 1e-9
    assert group_tasks(alike).tolist() == [0, *[1] * (n_tasks - 1)]


def test_as_many_groups_as_asked_for_whatever_the_ties():
    for n_groups in (1, 2, 3, 4):
        assert len(set(group_tasks(np.eye(4), n_groups))) == n_groups


def test_margin_and_its_chance():
    groups = np.array([0, 1, 0, 1])
    assert margin(BLOCKS, groups) == pytest.approx(0.85 - 0.05)
    assert chance_of_margin(BLOCKS, groups) == pytest.approx(1 / 3)
    assert np.isnan(margin(BLOCKS, np.zeros(4, int))) and np.isnan(margin(BLOCKS, np.arange(4)))
    assert np.isnan(chance_of_margin(BLOCKS, np.arange(4)))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((9, 9))
    assert 0.01 < chance_of_margin(noise + noise.T, np.arange(9) % 2) < 1


def test_first_lasting_grouping():
    a, b = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert first_lasting([a, b, a, a], a) == 2
    assert first_lasting([a, a], a) == 0
    assert first_lasting([a, b], a) is None
    assert first_lasting([], a) is None


def test_cumulative_means_are_weighted_by_iterations():
    series = np.array([0.0, 1.0, 3.0])[:, None, None] * np.ones((3, 2, 2))
    history = AlignmentHistory([0, 1, 5], np.arange(2), {"flow": series}, False, None)
    # Trapezoids: 0.5 over one iteration, then 2 over four.
    expected = [0, 0.5, (0.5 + 8) / 5]
    np.testing.assert_allclose(history.cumulative()["flow"][:, 0, 1], expected)
    series[1] = np.nan
    assert history.cumulative()["flow"][0, 0, 0] == 0
    assert np.isnan(history.cumulative()["flow"][1:]).all()


def history_of(state: np.ndarray, n_groups: int | None, iterations: list[int]) -> AlignmentHistory:
    matrices = {kind: np.stack([state] * len(iterations)) for kind in ("state", "update")}
    matrices["gradient"] = matrices["state"]
    return AlignmentHistory(iterations, np.arange(len(state)), matrices, True, n_groups)


@pytest.mark.parametrize(
    "state, n_groups, iterations, transition",
    [
        (BLOCKS, 2, [0, 5], 0),
        (BLOCKS, 2, [0], None),
        (BLOCKS, 1, [0, 5], None),
        (BLOCKS, 4, [0, 5], None),
        (np.eye(2), None, [0, 5], None),
    ],
)
def test_no_transition_without_groups_or_with_one_snapshot(
    state, n_groups, iterations, transition
):
    assert history_of(state, n_groups, iterations).transition == transition


def test_the_matrix_that_defines_the_groups_has_no_chance_level():
    table = history_of(BLOCKS, 2, [0, 5]).groupings()
    missing = table[table["chance"].isna()]
    assert missing[["source", "iteration"]].to_numpy().tolist() == [["state", 5]]


def test_transition_and_lead_of_a_known_history():
    other = BLOCKS[[0, 2, 1, 3]][:, [0, 2, 1, 3]]
    matrices = {
        "state": np.stack([other, other, other, BLOCKS]),
        "gradient": np.stack([BLOCKS] * 4),
        "update": np.stack([other, BLOCKS, BLOCKS, BLOCKS]),
    }
    history = AlignmentHistory([0, 10, 30, 40], np.array(list("abcd")), matrices, True, 2)
    assert history.final_groups.tolist() == [0, 1, 0, 1]
    assert history.transition == 40
    # After ten iterations both groupings count alike; after thirty the right one prevails.
    assert history.lead in (30, 10)
    assert history.lasting_from("cumulative gradient") == 0
    assert history.groupings()["groups"].iloc[-1] == "a + c | b + d"
