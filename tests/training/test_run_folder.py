"""Runs that are killed, interrupted or resumed."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from kpflow_sklearn import CheckpointError, KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.training import _loop
from kpflow_sklearn.training._run_folder import name_settings
from tests.oracles.cases import MyCell

X = np.random.default_rng(0).standard_normal((10, 6, 2))
Y = X.cumsum(1)
OPTIONS = {
    "hidden_size": 4, "max_iter": 60, "batch_size": 4, "noise_std": 0.1, "random_state": 0,
    "snapshots": [0, 7, 20, 33, 60], "learning_rate": 0.02,
}  # fmt: skip


def trainer(**options) -> RecurrentTrainer:
    return RecurrentTrainer(**OPTIONS | options)


class Killed(Exception):
    pass


def kill_after(monkeypatch: pytest.MonkeyPatch, n_updates: int, how: type = Killed) -> None:
    """Let the training fail in the midst of an update."""
    update, count = _loop._update, iter(range(10**9))

    def fail(*args):
        if next(count) == n_updates:
            args[0].zero_grad()
            with torch.no_grad():
                next(args[0].parameters()).add_(1.0)
            raise how
        return update(*args)

    monkeypatch.setattr(_loop, "_update", fail)


def assert_same_run(a: RecurrentTrainer, b: RecurrentTrainer) -> None:
    """Compare to the bit."""
    np.testing.assert_array_equal(a.loss_curve_, b.loss_curve_)
    assert [s.iteration for s in a.snapshots_] == [s.iteration for s in b.snapshots_]
    for mine, other in zip(a.snapshots_, b.snapshots_, strict=True):
        for name, value in mine.state.items():
            assert torch.equal(value, other.state[name]), (mine.iteration, name)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", torch.optim.RMSprop])
@pytest.mark.parametrize("n_updates", [0, 3, 7, 19, 20, 21, 59])
def test_a_killed_run_goes_on_to_the_bit(optimizer, n_updates, tmp_path):
    expected = trainer(optimizer=optimizer).fit(X, Y)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, n_updates)
        trainer(optimizer=optimizer, checkpoint_dir=tmp_path / "run").fit(X, Y)
    found = trainer(optimizer=optimizer, checkpoint_dir=tmp_path / "run").fit(X, Y)
    assert_same_run(found, expected)
    # A finished run is read, not made again.
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 0)
        again = trainer(optimizer=optimizer, checkpoint_dir=tmp_path / "run").fit(X, Y)
    assert_same_run(again, expected)


@pytest.mark.parametrize("cell", ["lstm", MyCell])
def test_any_cell_goes_on(cell, tmp_path):
    expected = trainer(cell=cell, learn_initial_state=True).fit(X, Y)
    options = {"cell": cell, "learn_initial_state": True, "checkpoint_dir": tmp_path}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 25)
        trainer(**options).fit(X, Y)
    assert_same_run(trainer(**options).fit(X, Y), expected)


def test_snapshots_on_disk_are_plain_state_dicts(tmp_path):
    found = trainer(checkpoint_dir=tmp_path).fit(X, Y)
    files = sorted(tmp_path.glob("snapshot-*.pt"))
    assert [int(f.stem.split("-")[1]) for f in files] == OPTIONS["snapshots"]
    for file, snapshot in zip(files, found.snapshots_, strict=True):
        state = torch.load(file, weights_only=True)
        assert all(torch.equal(state[k], v) for k, v in snapshot.state.items())
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("changed", "data", "named"),
    [
        ({"learning_rate": 0.03}, Y, "learning_rate was 0.02 and is 0.03"),
        ({"hidden_size": 5}, Y, "hidden_size was 4 and is 5"),
        ({}, Y + 1, "digest of y"),
    ],
)
def test_the_folder_of_another_run_is_refused(changed, data, named, tmp_path):
    trainer(checkpoint_dir=tmp_path).fit(X, Y)
    with pytest.raises(CheckpointError, match=named):
        trainer(checkpoint_dir=tmp_path, **changed).fit(X, data)


@pytest.mark.parametrize("name", ["latest.pt", "snapshot-000000020.pt"])
@pytest.mark.parametrize("content", [b"", b"no torch file", None])
def test_damaged_files_are_named(name, content, tmp_path):
    trainer(checkpoint_dir=tmp_path).fit(X, Y)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:100] if content is None else content)
    with pytest.raises(CheckpointError, match=name):
        trainer(checkpoint_dir=tmp_path).fit(X, Y)


def test_a_snapshot_of_another_run_is_not_taken_for_this_one_s(tmp_path):
    """As two processes leave it that use one folder at the same time."""
    trainer(checkpoint_dir=tmp_path / "own").fit(X, Y)
    trainer(checkpoint_dir=tmp_path / "other", random_state=1).fit(X, Y)
    name = "snapshot-000000020.pt"
    (tmp_path / "own" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CheckpointError, match=f"{name} is not what this run wrote"):
        trainer(checkpoint_dir=tmp_path / "own").fit(X, Y)


def _scaled(scale: float):
    return lambda network, by=scale: scale * by


def _clip(network, at=1.0):
    return at


def test_code_goes_by_what_it_was_made_with():
    """A partial by its function and arguments, with no address that another process has not."""
    words = [name_settings({"f": f})["f"] for f in (_scaled(0.5), _scaled(0.9), _clip)]
    assert len(set(words)) == 3 and "with 0.9, 0.9" in words[1]
    clipped = name_settings({"f": partial(_clip, at=2.0)})["f"]
    assert clipped == name_settings({"f": _clip})["f"] + " given at=2.0"
    assert " at 0x" not in name_settings({"f": partial(map, _clip)})["f"]


def test_a_function_of_other_source_makes_another_run(tmp_path):
    trainer(checkpoint_dir=tmp_path, constraint=lambda network: None).fit(X, Y)
    with pytest.raises(CheckpointError, match=r"constraint was .*source .* and is .*source"):
        trainer(checkpoint_dir=tmp_path, constraint=lambda network: network.zero_grad()).fit(X, Y)


@pytest.mark.parametrize("n_files", [0, 1, 4, 9])
def test_a_full_disk_is_named_and_leaves_what_was_whole(n_files, tmp_path, monkeypatch):
    expected = trainer().fit(X, Y)
    count = iter(range(10**9))

    def fill(descriptor):
        if next(count) == n_files:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fill)
        with pytest.raises(OSError, match=rf"No space left on device.*{re.escape(str(tmp_path))}"):
            trainer(checkpoint_dir=tmp_path).fit(X, Y)
    assert not list(tmp_path.glob("*.part")) and len(list(tmp_path.iterdir())) <= n_files
    assert_same_run(trainer(checkpoint_dir=tmp_path).fit(X, Y), expected)


def test_a_pickle_in_the_folder_is_not_executed(tmp_path):
    trainer(checkpoint_dir=tmp_path).fit(X, Y)
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (ran,)

    torch.save(Evil(), tmp_path / "latest.pt")
    with pytest.raises(CheckpointError, match=r"latest\.pt cannot be read"):
        trainer(checkpoint_dir=tmp_path).fit(X, Y)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_state": None}, "checkpoint_dir needs random_state to be an integer"),
        ({"warm_start": True}, "checkpoint_dir and warm_start both continue a run"),
    ],
)
def test_what_cannot_go_on_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer(checkpoint_dir=tmp_path, **options).fit(X, Y)


def test_a_diverging_run_goes_on_to_the_same_end(tmp_path):
    options = {"learning_rate": 1e30, "optimizer": "sgd", "noise_std": 0.0}
    with pytest.warns(ConvergenceWarning, match="diverged"):
        expected = trainer(**options).fit(X, Y)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="diverged"):
            found = trainer(**options, checkpoint_dir=tmp_path).fit(X, Y)
        assert_same_run(found, expected)


# ------------------------------------------------------------------------------ interruption


@pytest.mark.parametrize("n_updates", [0, 25])
def test_an_interrupted_training_ends_at_its_last_snapshot(n_updates, monkeypatch):
    whole = trainer().fit(X, Y)
    assert whole.interrupted_ is False
    kill_after(monkeypatch, n_updates, KeyboardInterrupt)
    reached = max(i for i in OPTIONS["snapshots"] if i <= n_updates)
    with pytest.warns(ConvergenceWarning, match=f"interrupted at iteration {n_updates + 1}"):
        found = trainer().fit(X, Y)
    assert found.interrupted_ and found.n_iter_ == reached == found.snapshots_[-1].iteration
    np.testing.assert_array_equal(found.loss_curve_, whole.loss_curve_[:reached])
    for name, value in found.network_.state_dict().items():
        assert torch.equal(value, found.snapshots_[-1].state[name])


def test_what_was_reached_is_analysed(monkeypatch):
    kill_after(monkeypatch, 25, KeyboardInterrupt)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        found = KPFlowAnalyzer(trainer(), random_state=0).fit(X, Y)
    assert found.results_["iteration"].unique().tolist() == [0, 7, 20]
    assert found.trainer_.interrupted_


# ---------------------------------------------------------------------- a process that is killed

SCRIPT = """
import sys
import numpy as np
from kpflow_sklearn import RecurrentTrainer
X = np.random.default_rng(0).standard_normal((10, 6, 2))
RecurrentTrainer(hidden_size=4, max_iter=3000, batch_size=4, noise_std=0.1, random_state=0,
    snapshots=list(range(0, 3001, 10)), checkpoint_dir=sys.argv[1]).fit(X, X.cumsum(1))
print("finished")
"""


def run_and_kill(folder: Path, rng: np.random.Generator) -> bool:
    """Start the script and kill it at a random moment of its training; False once it finishes."""
    done = len(list(folder.glob("snapshot-*.pt")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, env=environment
    ) as process:
        while process.poll() is None:  # Wait for progress, so that each kill is in the training.
            if len(list(folder.glob("snapshot-*.pt"))) > done:
                time.sleep(rng.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.005)
        return process.returncode != 0


@pytest.mark.parametrize("n_kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_process_killed_at_random_moments_ends_as_if_it_had_not_been(n_kills, tmp_path):
    rng, killed = np.random.default_rng(0), 0
    while killed < n_kills and run_and_kill(tmp_path, rng):
        killed += 1
    assert killed == n_kills
    options = {"hidden_size": 4, "max_iter": 3000, "batch_size": 4, "noise_std": 0.1}
    options |= {"random_state": 0, "snapshots": list(range(0, 3001, 10))}
    found = RecurrentTrainer(**options, checkpoint_dir=str(tmp_path)).fit(X, Y)
    assert_same_run(found, RecurrentTrainer(**options).fit(X, Y))
