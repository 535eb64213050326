"""Many trials, snapshots, steps and fits: memory stays within its limit and does not grow.

The large forms print memory and time: ``pytest -m slow -s tests/contract/test_load.py``.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kpflow_sklearn
from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ROOT = Path(kpflow_sklearn.__file__).parents[1]

# The beginning of each script: peaks of resident memory, from the kernel.
MEASURE = """
import gc, json, sys, time
import numpy as np, torch
torch.set_num_threads(1)
import kpflow_sklearn.analyzers.kpflow._snapshot as analysis
from kpflow_sklearn import *
sizes = json.loads(sys.argv[1])

def memory(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) * 1024

def forget_peak():
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

def data(n_trials, n_timesteps):
    X = np.random.default_rng(0).standard_normal((n_trials, n_timesteps, 3)).astype(np.float32)
    return X, X.cumsum(1)[..., :2] / 10

linearized, init = {}, analysis.SnapshotAnalysis.__init__

def noted(self, *args):
    init(self, *args)
    if not linearized:
        linearized["peak"] = memory("VmHWM")
        forget_peak()
        linearized["held"] = memory("VmRSS")

analysis.SnapshotAnalysis.__init__ = noted
start = time.time()

def report(**measures):
    measures |= {"peak": memory("VmHWM"), "linearized": linearized}
    measures |= {"seconds": time.time() - start, "processor": time.process_time()}
    print("measured:" + json.dumps(measures))
"""

ANALYSE = """
X, y = data(sizes["n_trials"], sizes["n_timesteps"])
trainer = RecurrentTrainer(sizes["cell"], hidden_size=sizes["hidden_size"], init_scale=1.0,
    max_iter=1, batch_size=64, snapshots=[0], random_state=0)
analyzer = KPFlowAnalyzer(trainer, operators=("K", "P"), axes=("time", "hidden"), n_components=1,
    n_probes=8, analysis_trials=sizes["n_trials"], memory_limit=sizes["memory_limit"],
    random_state=0).fit(X, y)
assert set(analyzer.results_["n_trials"]) == {sizes["n_trials"]}
missing = analyzer.results_["value"].isna()
assert (missing == (analyzer.results_["reason"] != "")).all()
assert analyzer.predict(X).shape == y.shape and np.isfinite(analyzer.score(X, y))
report(ranks=[analyzer.k_rank_, analyzer.p_rank_])
"""

SNAPSHOTS = """
X, y = data(8, 10)
n = sizes["n_snapshots"]
held, network_at = [], RecurrentTrainer.network_at

def counted(self, snapshot):
    held.append(memory("VmRSS"))
    return network_at(self, snapshot)

RecurrentTrainer.network_at = counted
trainer = RecurrentTrainer(hidden_size=8, max_iter=n - 1, snapshots=range(n), random_state=0)
analyzer = KPFlowAnalyzer(trainer, axes=("time",), random_state=0).fit(X, y)
assert analyzer.results_["iteration"].nunique() == len(analyzer.snapshots_) == n
report(growth=(held[-1] - held[n // 10]) / (n - n // 10))
"""

LOOP = """
X, y = data(12, 8)
rows, values, tasks = X[:, 0], y[:, 0], ["a", "b", "c"] * 4
held, tensors = [], []
while len(held) < 20 or time.time() - start < sizes["seconds"]:
    seed = len(held)
    trainer = RecurrentTrainer(hidden_size=5, max_iter=3, snapshots=2, random_state=seed)
    KPFlowAnalyzer(trainer, random_state=seed).fit(X, y).transform(X)
    TaskAlignmentAnalyzer(trainer, random_state=seed).fit(X, y, tasks=tasks).transform(X)
    layers = FeedForwardTrainer((4,), max_iter=3, snapshots=2, random_state=seed)
    GramFlowAnalyzer(layers, random_state=seed).fit(rows, values).transform(rows)
    gc.collect()
    held.append(memory("VmRSS"))
    tensors.append(sum(type(x) is torch.Tensor for x in gc.get_objects()))
late = slice(len(held) // 4, None)  # After warm-up.
slope = np.polyfit(np.arange(len(held))[late], np.array(held)[late], 1)[0]
report(n_fits=len(held), slope=slope, tensors=tensors[5:])
"""


def measured(script: str, **sizes: object) -> dict:
    """Run a script in a process of its own and return what it reports."""
    # Freed memory goes back at once, so that what is resident is what is in use.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE + script, json.dumps(sizes)]
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout.partition("measured:")[2])
    print(sizes, {name: value for name, value in measures.items() if name != "tensors"})
    return measures


def check_limit(**sizes) -> None:
    """Check that the analysis needed no more than its limit beside the arrays it returns."""
    measures = measured(ANALYSE, **sizes)
    trajectory = 4 * sizes["n_trials"] * sizes["n_timesteps"] * sizes["hidden_size"]
    # Eigenfunctions of two operators and one more signal; libraries that are loaded when needed.
    allowed = sizes["memory_limit"] + 3 * trajectory + 40 * 2**20
    used = measures["peak"] - measures["linearized"]["held"]
    assert used <= allowed, f"{used / 1e6:.0f} MB used of {allowed / 1e6:.0f}"


@pytest.mark.slow
@on_linux
def test_the_memory_limit_holds():
    # Without it, the sketches of P alone would take about 60 trajectories of 2.3 MB each.
    check_limit(n_trials=300, n_timesteps=30, hidden_size=64, cell="tanh", memory_limit=20 * 2**20)


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm", "leaky_voltage"])
def test_the_memory_limit_holds_for_other_cells(cell):
    size = 25 if cell == "lstm" else 50
    check_limit(n_trials=600, n_timesteps=50, hidden_size=size, cell=cell, memory_limit=60 * 2**20)


@on_linux
@pytest.mark.slow
def test_ten_thousand_trials_fit():
    check_limit(n_trials=10_000, n_timesteps=100, hidden_size=128, cell="tanh", memory_limit=10**9)


def assert_whole(results, n_snapshots: int) -> None:
    assert results["iteration"].nunique() == n_snapshots
    assert (results["value"].isna() == (results["reason"] != "")).all()


def test_many_snapshots_are_analysed():
    X = np.random.default_rng(0).standard_normal((4, 5, 2))
    trainer = RecurrentTrainer(hidden_size=3, max_iter=29, snapshots=range(30), random_state=0)
    analyzer = KPFlowAnalyzer(trainer, axes=("time",), operators=("K",), random_state=0).fit(X, X)
    assert_whole(analyzer.results_, 30)


@on_linux
@pytest.mark.slow
def test_a_thousand_snapshots_take_no_more_memory():
    # Bytes per snapshot: rows of the tables, but no network.
    assert measured(SNAPSHOTS, n_snapshots=1000)["growth"] < 100e3


@pytest.mark.parametrize(
    "n_timesteps, n_trials, hidden_size",
    [(80, 2, 4), pytest.param(2000, 16, 64, marks=pytest.mark.slow)],
)
def test_long_trials_are_analysed(n_timesteps, n_trials, hidden_size):
    X = np.random.default_rng(0).standard_normal((n_trials, n_timesteps, 2)).astype(np.float32)
    trainer = RecurrentTrainer(
        hidden_size=hidden_size, max_iter=2, snapshots=2, grad_clip=1.0, random_state=0
    )
    analyzer = KPFlowAnalyzer(trainer, n_components=1, random_state=0).fit(X, X.cumsum(1) / 30)
    assert_whole(analyzer.results_, 2)
    assert analyzer.results_["value"].notna().mean() > 0.9
    assert np.isfinite(analyzer.lyapunov_exponents_).all()


def live_tensors() -> int:
    gc.collect()
    return sum(type(x) is torch.Tensor for x in gc.get_objects())


@pytest.mark.slow
def test_repeated_fits_leave_nothing_behind():
    X = np.random.default_rng(0).standard_normal((6, 4, 2))
    tasks, counts = ["a", "b", "c"] * 2, []
    for seed in range(4):
        trainer = RecurrentTrainer(hidden_size=3, max_iter=2, snapshots=2, random_state=seed)
        KPFlowAnalyzer(trainer, random_state=seed).fit(X, X).transform(X)
        TaskAlignmentAnalyzer(trainer, random_state=seed).fit(X, X, tasks=tasks).transform(X)
        layers = FeedForwardTrainer((4,), max_iter=2, snapshots=2, random_state=seed)
        GramFlowAnalyzer(layers, random_state=seed).fit(X[:, 0], X[:, 1]).transform(X[:, 0])
        counts.append(live_tensors())
    assert len(set(counts[2:])) == 1, counts


@on_linux
@pytest.mark.slow
def test_a_loop_of_fits_does_not_grow():
    measures = measured(LOOP, seconds=240)
    assert len(set(measures["tensors"])) == 1
    # A day of it, at the rate of the test, would add less than the package itself takes.
    per_day = measures["slope"] * measures["n_fits"] * 86400 / measures["seconds"]
    assert per_day < 500e6, (
        f"{measures['slope']:.0f} bytes per fit, {per_day / 1e6:.0f} MB per day"
    )
