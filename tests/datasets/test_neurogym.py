"""NeuroGym's trials, by an environment with its interface; by the package itself where it is."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.datasets import fetch_neurogym


class Task:
    """What of a NeuroGym environment is used: ``new_trial`` leaves ``ob`` and ``gt``."""

    def __init__(self, discrete: bool = True) -> None:
        self.action_space = SimpleNamespace(n=3) if discrete else SimpleNamespace(shape=(2,))

    @property
    def unwrapped(self):
        """The environment inside the wrappers."""
        return self

    def seed(self, seed: int) -> None:
        """Seed the environment."""
        self.rng = np.random.RandomState(seed)

    def new_trial(self) -> None:
        """Draw a trial of random length."""
        n = self.rng.randint(3, 8)
        self.ob = self.rng.standard_normal((n, 4)).astype(np.float32)
        self.gt = np.zeros(n, int)
        self.gt[-1] = self.rng.randint(1, 3)
        if not hasattr(self.action_space, "n"):
            self.gt = np.stack([self.gt, -self.gt], axis=1).astype(np.float32)


def test_trials_are_padded_and_seeded():
    X, y, mask = fetch_neurogym(Task(), 20, random_state=1)
    assert X.shape[0] == 20 and X.dtype == np.float64 and y.dtype == np.int64
    assert X.shape[:2] == y.shape == mask.shape
    assert len(set(mask.sum(1))) > 1
    last = mask.sum(1) - 1
    assert (y[np.arange(20), last] > 0).all() and (y.sum(1) == y[np.arange(20), last]).all()
    again = fetch_neurogym(Task(), 20, random_state=1)
    for a, b in zip((X, y, mask), again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(fetch_neurogym(Task(), 20, random_state=2)[2], mask)


def test_values_of_a_continuous_task():
    X, y, _ = fetch_neurogym(Task(discrete=False), 3, random_state=0)
    assert y.shape == (*X.shape[:2], 2) and y.dtype == np.float64


def test_they_train_a_network():
    X, y, mask = fetch_neurogym(Task(), 12, random_state=1)
    trainer = RecurrentTrainer(hidden_size=4, max_iter=3, snapshots=2, random_state=0)
    analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y, mask=mask)
    assert list(analyzer.classes_) == [0, 1, 2]


def test_neurogym_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurogym", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kpflow-sklearn\[neurogym\]'"):
        fetch_neurogym("PerceptualDecisionMaking-v0")
    with pytest.raises(ValueError, match="n_trials == 0, must be >= 1"):
        fetch_neurogym(Task(), 0)


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_the_package_itself():
    pytest.importorskip("neurogym")
    name, timing = "PerceptualDecisionMaking-v0", {"stimulus": ("choice", [100, 300, 500])}
    options = {"dt": 50, "timing": timing}
    X, y, mask = fetch_neurogym(name, 10, random_state=0, task_params=options)
    assert X.shape == (10, mask.shape[1], 3) and y.max() <= 2
    assert len(set(mask.sum(1))) > 1
    again = fetch_neurogym(name, 10, random_state=0, task_params=options)
    np.testing.assert_array_equal(X, again[0])
