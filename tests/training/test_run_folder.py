"""Runs that are killed, interrupted or resumed, and the folders they leave."""

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
    "hidden_size": 4, "max_iter": 24, "batch_size": 4, "noise_std": 0.1, "random_state": 0,
    "snapshots": [0, 4, 10, 17, 24], "learning_rate": 0.02,
}  # fmt: skip


def trainer(**options) -> RecurrentTrainer:
    return RecurrentTrainer(**OPTIONS | options)


class Killed(Exception):
    pass


def kill_after(monkeypatch: pytest.MonkeyPatch, n_updates: int, how: type = Killed) -> None:
    """Let the training fail in the middle of an update."""
    update, count = _loop._update, iter(range(10**9))

    def fail(run, *args):
        if next(count) == n_updates:
            run.module.zero_grad()
            with torch.no_grad():
                next(run.module.parameters()).add_(1.0)
            raise how
        return update(run, *args)

    monkeypatch.setattr(_loop, "_update", fail)


def assert_same_run(a: RecurrentTrainer, b: RecurrentTrainer) -> None:
    """Compare two runs bit by bit."""
    np.testing.assert_array_equal(a.loss_curve_, b.loss_curve_)
    assert [s.iteration for s in a.snapshots_] == [s.iteration for s in b.snapshots_]
    for mine, other in zip(a.snapshots_, b.snapshots_, strict=True):
        for name, value in mine.state.items():
            assert torch.equal(value, other.state[name]), (mine.iteration, name)


@pytest.mark.parametrize(
    ("options", "n_updates"),
    [
        *(({"optimizer": "adam"}, n) for n in (0, 3, 9, 10, 23)),
        ({"optimizer": "sgd"}, 12),
        ({"optimizer": torch.optim.RMSprop}, 12),
        ({"cell": "lstm", "learn_initial_state": True}, 13),
        ({"cell": MyCell, "learn_initial_state": True}, 13),
    ],
)
def test_a_killed_run_goes_on_to_the_bit(options, n_updates, tmp_path):
    expected = trainer(**options).fit(X, Y)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, n_updates)
        trainer(**options, checkpoint_dir=tmp_path / "run").fit(X, Y)
    resumed = trainer(**options, checkpoint_dir=tmp_path / "run").fit(X, Y)
    assert_same_run(resumed, expected)
    # A finished run is read, not repeated.
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 0)
        again = trainer(**options, checkpoint_dir=tmp_path / "run").fit(X, Y)
    assert_same_run(again, expected)


def test_snapshots_on_disk_are_plain_state_dicts(tmp_path):
    fitted = trainer(checkpoint_dir=tmp_path).fit(X, Y)
    files = sorted(tmp_path.glob("snapshot-*.pt"))
    assert [int(f.stem.split("-")[1]) for f in files] == OPTIONS["snapshots"]
    for file, snapshot in zip(files, fitted.snapshots_, strict=True):
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


@pytest.mark.parametrize("name", ["latest.pt", "snapshot-000000010.pt"])
@pytest.mark.parametrize("content", [b"", b"no torch file", None])
def test_damaged_files_are_named(name, content, tmp_path):
    trainer(checkpoint_dir=tmp_path).fit(X, Y)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:100] if content is None else content)
    with pytest.raises(CheckpointError, match=name):
        trainer(checkpoint_dir=tmp_path).fit(X, Y)


def test_a_snapshot_of_another_run_is_not_taken_for_this_one_s(tmp_path):
    # Two processes that use one folder at the same time leave such a file.
    trainer(checkpoint_dir=tmp_path / "first").fit(X, Y)
    trainer(checkpoint_dir=tmp_path / "second", random_state=1).fit(X, Y)
    name = "snapshot-000000010.pt"
    (tmp_path / "first" / name).write_bytes((tmp_path / "second" / name).read_bytes())
    with pytest.raises(CheckpointError, match=f"{name} is not the file that this run wrote"):
        trainer(checkpoint_dir=tmp_path / "first").fit(X, Y)


def _scaled(scale: float):
    return lambda network, by=scale: scale * by


def _clip(network, at=1.0):
    return at


def test_code_goes_by_what_it_was_made_with():
    # Addresses would differ in another process.
    words = [name_settings({"f": f})["f"] for f in (_scaled(0.5), _scaled(0.9), _clip)]
    assert len(set(words)) == 3 and "with 0.9, 0.9" in words[1]
    clipped = name_settings({"f": partial(_clip, at=2.0)})["f"]
    assert clipped == name_settings({"f": _clip})["f"] + " given at=2.0"
    for f in (partial(map, _clip), partial(_clip, at=object()), [object()]):
        assert " at 0x" not in name_settings({"f": f})["f"]
    words = name_settings({"f": partial(_clip, at=set("badc"))})["f"]
    assert words.endswith(" given at={'a', 'b', 'c', 'd'}")


def test_a_function_of_other_source_makes_another_run(tmp_path):
    trainer(checkpoint_dir=tmp_path, constraint=lambda network: None).fit(X, Y)
    with pytest.raises(CheckpointError, match=r"constraint was .*source .* and is .*source"):
        trainer(checkpoint_dir=tmp_path, constraint=lambda network: network.zero_grad()).fit(X, Y)


def _squares(outputs, y):
    return ((outputs - y) ** 2 * SCALE).mean(-1)


SCALE = torch.tensor(2.0)


class Scaled:
    """A loss with an attribute, the repr of which would be another in each process."""

    def __init__(self, scale):
        self.scale = torch.tensor(scale)

    def __call__(self, outputs, y):
        return _squares(outputs, y) * self.scale


def test_a_loss_goes_by_what_it_computes_with(tmp_path, monkeypatch):
    fitted = trainer(checkpoint_dir=tmp_path / "a", loss=_squares).fit(X, Y)
    again = trainer(checkpoint_dir=tmp_path / "a", loss=_squares).fit(X, Y)
    assert_same_run(again, fitted)
    trainer(checkpoint_dir=tmp_path / "b", loss=Scaled(1.0)).fit(X, Y)
    trainer(checkpoint_dir=tmp_path / "b", loss=Scaled(1.0)).fit(X, Y)
    message = "another run: loss was {} .* and is {}"
    with pytest.raises(CheckpointError, match=message.format("Scaled", "Scaled")):
        trainer(checkpoint_dir=tmp_path / "b", loss=Scaled(3.0)).fit(X, Y)
    with pytest.raises(CheckpointError, match=message.format("_squares", "'mse'")):
        trainer(checkpoint_dir=tmp_path / "a", loss="mse").fit(X, Y)
    monkeypatch.setitem(globals(), "SCALE", torch.tensor(4.0))
    with pytest.raises(CheckpointError, match=message.format("_squares", "_squares")):
        trainer(checkpoint_dir=tmp_path / "a", loss=_squares).fit(X, Y)


@pytest.mark.parametrize("n_files", [0, 1, 9])
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
        ({"random_state": None}, "checkpoint_dir requires an integer random_state"),
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
            fitted = trainer(**options, checkpoint_dir=tmp_path).fit(X, Y)
        assert_same_run(fitted, expected)


# ------------------------------------------------------------------------------ interruption


@pytest.mark.parametrize("n_updates", [0, 13])
def test_an_interrupted_training_ends_at_its_last_snapshot(n_updates, monkeypatch):
    whole = trainer().fit(X, Y)
    assert whole.interrupted_ is False
    kill_after(monkeypatch, n_updates, KeyboardInterrupt)
    reached = max(i for i in OPTIONS["snapshots"] if i <= n_updates)
    with pytest.warns(ConvergenceWarning, match=f"interrupted at iteration {n_updates + 1}"):
        fitted = trainer().fit(X, Y)
    assert fitted.interrupted_ and fitted.n_iter_ == reached == fitted.snapshots_[-1].iteration
    np.testing.assert_array_equal(fitted.loss_curve_, whole.loss_curve_[:reached])
    for name, value in fitted.network_.state_dict().items():
        assert torch.equal(value, fitted.snapshots_[-1].state[name])


def test_what_was_reached_is_analysed(monkeypatch):
    kill_after(monkeypatch, 13, KeyboardInterrupt)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        fitted = KPFlowAnalyzer(trainer(), axes=("time",), random_state=0).fit(X, Y)
    assert fitted.results_["iteration"].unique().tolist() == [0, 4, 10]
    assert fitted.trainer_.interrupted_


# ---------------------------------------------------------------------- a process that is killed

SCRIPT = """
import sys
import numpy as np
from kpflow_sklearn import RecurrentTrainer
X, n = np.random.default_rng(0).standard_normal((10, 6, 2)), int(sys.argv[2])
RecurrentTrainer(hidden_size=4, max_iter=n, batch_size=4, noise_std=0.1, random_state=0,
    snapshots=list(range(0, n + 1, 10)), checkpoint_dir=sys.argv[1]).fit(X, X.cumsum(1))
"""


def run_and_kill(folder: Path, max_iter: int, rng: np.random.Generator) -> bool:
    """Kill the script at a random moment of its training; return False once it finishes."""
    done = len(list(folder.glob("snapshot-*.pt")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(max_iter)], env=environment
    ) as process:
        while process.poll() is None:  # Wait for progress, so that each kill is in the training.
            if len(list(folder.glob("snapshot-*.pt"))) > done:
                time.sleep(rng.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.005)
        return process.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize(("n_kills", "max_iter"), [(1, 100), (20, 3000)])
def test_a_process_killed_at_random_moments_ends_as_if_it_had_not_been(
    n_kills, max_iter, tmp_path
):
    rng, killed = np.random.default_rng(0), 0
    while killed < n_kills and run_and_kill(tmp_path, max_iter, rng):
        killed += 1
    assert killed == n_kills
    options = {"hidden_size": 4, "max_iter": max_iter, "batch_size": 4, "noise_std": 0.1}
    options |= {"random_state": 0, "snapshots": list(range(0, max_iter + 1, 10))}
    resumed = RecurrentTrainer(**options, checkpoint_dir=str(tmp_path)).fit(X, Y)
    assert_same_run(resumed, RecurrentTrainer(**options).fit(X, Y))
