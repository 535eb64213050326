"""Properties of interference and groups that hold for every network, over generated cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from kpflow_sklearn.analyzers.alignment._grouping import group_tasks
from kpflow_sklearn.analyzers.alignment._sub_tasks import tasks_by_label
from kpflow_sklearn.analyzers.alignment._task_flow import TaskFlow
from kpflow_sklearn.networks import Objective, Targets
from tests.oracles.generated import both_tiers, linearizations


@both_tiers(lin=linearizations(), seed=st.integers(0, 100))
def test_interference_is_a_gram_and_weighted_losses_are_the_loss(lin, seed):
    rng, n_trials = np.random.default_rng(seed), len(lin.states)
    shape = (*lin.states.shape[:2], lin.network.n_outputs)
    targets = Targets(rng.standard_normal(shape), rng.uniform(0, 2, shape[:2]))
    labels = rng.integers(0, 2, n_trials)
    flow = TaskFlow(lin, tasks_by_label(labels, targets), Objective("mse"))
    values = np.linalg.eigvalsh(flow.matrices["interference"])
    assert (values >= -1e-12 * max(values.max(), 1e-300)).all()
    for matrix in flow.matrices.values():
        assert np.isnan(matrix).any() or np.isfinite(matrix).all()
    whole = Objective("mse").value(lin.network, lin.states, targets, lin.mask).detach().item()
    assert flow.losses @ flow.counts.numpy() / flow.counts.sum() == pytest.approx(whole, rel=1e-12)


@both_tiers(n=st.integers(1, 7), n_groups=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_groups_do_not_depend_on_the_order_of_tasks(n, n_groups, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix, order = vectors @ vectors.T, rng.permutation(n)
    for wanted in (None, min(n_groups, n)):
        groups = group_tasks(matrix, wanted)
        moved = group_tasks(matrix[np.ix_(order, order)], wanted)
        same = groups[:, None] == groups
        assert (same[np.ix_(order, order)] == (moved[:, None] == moved)).all()
        assert wanted is None or len(set(groups)) == wanted
