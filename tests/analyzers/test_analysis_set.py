"""The trials to analyse instead of a choice from X, with their own mask, weights and labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, TaskAlignmentAnalyzer

rng = np.random.default_rng(0)
X = rng.standard_normal((6, 5, 2))
Y = X.cumsum(1)
MASK = np.arange(5) < np.array([5, 3, 4, 2, 5, 1])[:, None]
WEIGHT = rng.integers(1, 4, (6, 5)) * np.array([1, 1, 0, 1, 1.0])
TASKS, CONDITIONS = np.array(["a", "b"] * 3), np.array([0, 0, 1, 1, 2, 2])
PADDED = X * MASK[..., None]
TRAINER = RecurrentTrainer("tanh", hidden_size=3, max_iter=2, snapshots=2, random_state=0)
KPFLOW = KPFlowAnalyzer(TRAINER, operators=("K",), axes=("time",), random_state=0)
ALIGNMENT = TaskAlignmentAnalyzer(TRAINER, random_state=0)


@pytest.mark.parametrize("analyzer", [KPFLOW, ALIGNMENT], ids=["kpflow", "alignment"])
@pytest.mark.parametrize("names", [(), ("mask",), ("loss_weight",), ("mask", "loss_weight")])
def test_a_set_that_holds_what_fit_was_given_is_analysed_as_x_is(analyzer, names):
    given = {name: {"mask": MASK, "loss_weight": WEIGHT}[name] for name in names}
    labels = {"tasks": TASKS, "conditions": CONDITIONS}
    labels = labels if analyzer is ALIGNMENT else {"tasks": TASKS}
    by_choice = clone(analyzer).fit(X, Y, **given, **labels)
    by_set = clone(analyzer).fit(X, Y, **given, analysis_set={"X": X, "y": Y, **given, **labels})
    pd.testing.assert_frame_equal(by_set.results_, by_choice.results_)


@pytest.mark.parametrize("analyzer", [KPFLOW, ALIGNMENT], ids=["kpflow", "alignment"])
def test_the_old_names_are_an_alias(analyzer):
    by_set = clone(analyzer).fit(X, Y, analysis_set={"X": X[:3], "y": Y[:3]})
    by_alias = clone(analyzer).fit(X, Y, X_analysis=X[:3], y_analysis=Y[:3])
    pd.testing.assert_frame_equal(by_set.results_, by_alias.results_)


@pytest.mark.parametrize("length", [3, len(X)])
def test_searches_do_not_cut_the_set_into_folds(length):
    whole = {"X": X[:length], "y": Y[:length]}
    search = GridSearchCV(KPFLOW, {"trainer__learning_rate": [0.1]}, cv=2, refit=False)
    search.set_params(
        error_score="raise", scoring=lambda fitted, *_: fitted.results_["n_trials"].max()
    )
    search.fit(X, Y, analysis_set=whole)
    assert search.cv_results_["mean_test_score"] == [length]


@pytest.mark.parametrize(
    ("given", "dropped"),
    [
        ({"loss_weight": WEIGHT}, "loss_weight was given for X .* 'loss_weight'"),
        ({"mask": MASK}, "mask was given for X .* every step of these is valid; .* 'mask'"),
    ],
)
def test_a_set_without_what_fit_was_given_is_warned_of(given, dropped):
    with pytest.warns(UserWarning, match=dropped):
        clone(KPFLOW).fit(PADDED, Y, **given, analysis_set={"X": PADDED, "y": Y})
    # Trials without padding need no mask.
    clone(KPFLOW).fit(PADDED, Y, mask=MASK, analysis_set={"X": X, "y": Y})
