"""Sweeps: one table, the same however its cells were run; failures are rows."""

from __future__ import annotations

import errno
import importlib
import json
import linecache
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.frozen import FrozenEstimator

import kpflow_sklearn
from kpflow_sklearn import (
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    sweep,
)
from kpflow_sklearn.datasets import make_memory_pro, make_multitask
from kpflow_sklearn.results import COLUMNS, select
from kpflow_sklearn.runs._sweep_cache import CellCache

EDITED = """
import torch

class Cell(torch.nn.Module):
    def __init__(self, n_features, hidden_size):
        super().__init__()
        self.step = torch.nn.RNNCell(n_features, hidden_size, bias={bias})
        self.hidden_size = hidden_size

    def forward(self, x, h):
        return self.step(x, h)
"""
GRID = {"init_scale": [0.5, 1.5], "cell": ["tanh", "gru"]}


class Scaled:
    """A loss that holds a tensor."""

    def __init__(self, scale: float) -> None:
        self.scale = torch.tensor(scale)

    def __call__(self, outputs, y):
        return ((outputs - y) ** 2).mean(-1) * self.scale


def task():
    return make_memory_pro(6, stimulus=2, memory=2, response=2, random_state=0)


def analyzer(**options) -> KPFlowAnalyzer:
    trainer = RecurrentTrainer(hidden_size=4, max_iter=4, snapshots=2, learning_rate=0.02)
    options = {"axes": ("time",), "analyses": ("spectra", "lyapunov")} | options
    return KPFlowAnalyzer(trainer, method="exact", **options)


def run(**options) -> pd.DataFrame:
    return sweep(analyzer(), GRID, *task(), n_seeds=2, **options)


@pytest.fixture(scope="module")
def serial() -> pd.DataFrame:
    return run()


def assert_equal(table: pd.DataFrame, expected: pd.DataFrame, **options) -> None:
    pd.testing.assert_frame_equal(table, expected, check_exact=True, **options)


def test_the_table_holds_the_results_of_each_fit(serial):
    assert list(serial) == ["cell", "init_scale", "seed", *COLUMNS, "error"]
    groups = serial.groupby(["init_scale", "cell", "seed"])
    assert groups.ngroups == 8 and (serial["error"] == "").all()
    cell = groups.get_group((1.5, "gru", 1)).reset_index(drop=True)
    single = analyzer().set_params(
        random_state=1, trainer__random_state=1, trainer__init_scale=1.5, trainer__cell="gru"
    )
    single.fit(*task())
    rows = cell[list(COLUMNS)].iloc[: len(single.results_)]
    assert_equal(rows, single.results_, check_dtype=False, check_categorical=False)
    assert isinstance(serial["operator"].dtype, pd.CategoricalDtype)
    exponent = select(cell, "network", "largest_lyapunov_exponent")
    assert exponent["value"].item() == single.lyapunov_exponents_.max()
    dimension = select(cell, "network", "kaplan_yorke_dimension").iloc[0]
    assert dimension["value"] == single.kaplan_yorke_dimension_
    assert dimension["std_error"] == single.kaplan_yorke_std_error_


def without_recurrence(network) -> None:
    network.recurrent.weight_hh_l0.zero_()


@pytest.mark.parametrize(
    "cell, n_trials, reason",
    [("tanh", 6, "minus infinity"), ("gru", 1, "a single trial of two steps")],
)
def test_a_missing_exponent_says_why(cell, n_trials, reason):
    X = np.ones((n_trials, 2, 2))
    grid = {"cell": [cell], "constraint": [without_recurrence]}
    table = sweep(analyzer(), grid, X, X[..., :1])
    exponent = select(table, "network", "largest_lyapunov_exponent").iloc[0]
    assert np.isnan(exponent["value"]) and exponent["reason"].startswith(reason)


def test_seeds_reach_the_trainer(serial):
    losses = serial[(serial["operator"] == "network") & (serial["quantity"] == "loss")]
    for _, group in losses.groupby(["init_scale", "cell", "iteration"]):
        assert len(group) == 2 and group["value"].nunique() == 2


@pytest.mark.slow
def test_two_processes_give_the_same_table(serial):
    assert_equal(run(n_jobs=2), serial)


def test_grids_may_be_lists_and_names_full():
    grid = [{"trainer__cell": ["tanh"]}, {"hidden_size": [3], "method": ["auto"]}]
    table = sweep(analyzer(), grid, *task())
    assert list(table)[:4] == ["cell", "seed", "hidden_size", "param_method"]
    assert set(table["method"]) >= {"exact"}
    assert table.groupby(["cell"], dropna=False).ngroups == 2
    assert_equal(sweep(analyzer(), iter(grid), *task()), table)


def test_the_default_trainer_has_parameters_too():
    table = sweep(KPFlowAnalyzer(axes=("time",)), {"max_iter": [0], "hidden_size": [3]}, *task())
    assert set(table["hidden_size"]) == {3}


def test_other_analyzers_are_swept_too():
    X, y, tasks = make_multitask(3, stimulus=2, memory=2, response=2, random_state=0)
    trainer = RecurrentTrainer(hidden_size=3, max_iter=2, snapshots=2)
    table = sweep(TaskAlignmentAnalyzer(trainer), {"cell": ["tanh", "gru"]}, X, y, tasks=tasks)
    assert table["quantity"].nunique() > 1 and (table["error"] == "").all()


# ----------------------------------------------------------------------------- failures and names


def test_a_failed_cell_is_a_row(tmp_path):
    grid = {"init_scale": [0.5, -1.0], "hidden_size": [3]}
    with pytest.warns(FitFailedWarning, match="1 of 2 cells of the sweep failed, .*init_scale"):
        table = sweep(analyzer(), grid, *task(), cache_dir=tmp_path)
    failed = table[table["error"] != ""]
    assert len(failed) == 1 and failed["init_scale"].item() == -1
    assert failed["error"].item().startswith("ValueError: init_scale == -1.0")
    assert failed[["iteration", "operator", "value", "n_trials"]].isna().all(axis=None)
    assert len(list(tmp_path.glob("*.json"))) == 1
    whole = sweep(analyzer(), {"init_scale": [0.5], "hidden_size": [3]}, *task())
    assert_equal(table[table["error"] == ""].reset_index(drop=True), whole)


def test_unknown_names_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match="grid: 'gain' is not a parameter of KPFlowAnalyzer or"):
        sweep(analyzer(), {"gain": [1]}, *task())
    with pytest.raises(ValueError, match="n_seeds"):
        sweep(analyzer(), GRID, *task(), n_seeds=0)


# --------------------------------------------------------------------------------------- the cache


def test_only_missing_and_broken_cells_are_run_again(tmp_path, serial, monkeypatch):
    assert_equal(run(cache_dir=tmp_path), serial)
    first, second, *others = sorted(tmp_path.glob("*.json"))
    assert len(others) == 6
    with monkeypatch.context() as patch:
        patch.setattr(KPFlowAnalyzer, "fit", lambda *args, **kwargs: 1 / 0)
        assert_equal(run(cache_dir=tmp_path), serial)
    first.write_text(first.read_text()[:100])
    second.write_text(json.dumps({"schema_version": 0, "records": []}))
    assert_equal(run(cache_dir=tmp_path), serial)


def test_the_cache_tells_cells_apart(tmp_path):
    X, y = task()
    small = {"init_scale": [0.5]}
    sweep(analyzer(), small, X, y, cache_dir=tmp_path)
    for options in (
        {"analyzer": analyzer(n_components=2)},
        {"analyzer": analyzer().set_params(trainer__max_iter=3)},
        {"X": X + 1e-12},
        {"y": -y},
        {"mask": np.ones(X.shape[:2], bool)},
        {"grid": {"init_scale": [0.6]}},
        {"n_seeds": 2},
    ):
        before = len(list(tmp_path.glob("*.json")))
        given = {"analyzer": analyzer(), "grid": small, "X": X, "y": y} | options
        sweep(**given, cache_dir=tmp_path)
        assert len(list(tmp_path.glob("*.json"))) == before + 1


def test_the_cache_knows_code_by_its_source(tmp_path, monkeypatch):
    """A class of cells or optimizers is identified by its code, not by its name."""
    (tmp_path / "edited.py").write_text(EDITED.format(bias=True))
    monkeypatch.syspath_prepend(str(tmp_path))
    grid = {"optimizer": [torch.optim.Adagrad], "max_iter": [1]}

    def n_files() -> int:
        from edited import Cell

        sweep(analyzer().set_params(trainer__cell=Cell), grid, *task(), cache_dir=tmp_path)
        return len(list(tmp_path.glob("*.json")))

    assert n_files() == n_files() == 1
    (tmp_path / "edited.py").write_text(EDITED.format(bias=False))
    linecache.checkcache()
    monkeypatch.delitem(sys.modules, "edited")
    importlib.invalidate_caches()
    assert n_files() == 2


@pytest.mark.parametrize("in_grid", [False, True])
def test_the_cache_tells_losses_apart(in_grid, tmp_path):
    def n_files(scale: float) -> int:
        loss = Scaled(scale)
        grid = {"loss": [loss], "max_iter": [1]} if in_grid else {"max_iter": [1]}
        table = sweep(analyzer().set_params(trainer__loss=loss), grid, *task(), cache_dir=tmp_path)
        assert (table["error"] == "").all()
        return len(list(tmp_path.glob("*.json")))

    assert [n_files(1.0), n_files(1.0), n_files(2.0)] == [1, 1, 2]


def test_a_full_disk_costs_the_cache_and_not_the_sweep(tmp_path, monkeypatch, caplog):
    def fill(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    small = {"init_scale": [0.5]}
    whole = sweep(analyzer(), small, *task())
    monkeypatch.setattr("os.fsync", fill)
    assert_equal(sweep(analyzer(), small, *task(), cache_dir=tmp_path), whole)
    assert not list(tmp_path.iterdir())
    assert "is not cached: [Errno 28] cannot be written: No space left" in caplog.text


def test_a_file_that_cannot_be_read_is_computed_again(tmp_path, monkeypatch, caplog):
    small = {"init_scale": [0.5]}
    whole = sweep(analyzer(), small, *task(), cache_dir=tmp_path)

    read = Path.read_text

    def refuse(path, **options):
        if tmp_path not in path.parents:  # Of a library.
            return read(path, **options)
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert_equal(sweep(analyzer(), small, *task(), cache_dir=tmp_path), whole)
    assert "a cached cell is computed again, because it cannot be read: [Errno 13]" in caplog.text


def test_the_cache_knows_checkpoints_by_their_contents(tmp_path):
    module = torch.nn.ModuleDict({"core": torch.nn.RNN(3, 4), "out": torch.nn.Linear(4, 3)})
    saved = KPFlowAnalyzer(SavedTraining(module, str(tmp_path / "step_*.pt")), random_state=0)

    def run_on(scale: float) -> pd.DataFrame:
        state = {name: scale * value for name, value in module.state_dict().items()}
        torch.save(state, tmp_path / "step_0.pt")
        return sweep(saved, {"n_components": [2]}, *task(), cache_dir=tmp_path / "cache")

    first, second = run_on(1.0), run_on(0.5)
    assert (run_on(1.0)["error"] == "").all()
    assert_equal(run_on(1.0), first)
    assert not second["value"].equals(first["value"])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_interruption_ends_the_sweep_and_not_one_training(tmp_path, serial, monkeypatch):
    """An interrupted training returns what it has, which must not count as a finished cell."""
    backward, count = torch.Tensor.backward, iter(range(10**9))

    def interrupt(*args):
        if next(count) == 10:  # In the third of eight cells, of four updates each.
            raise KeyboardInterrupt
        return backward(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.Tensor, "backward", interrupt)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            run(cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert_equal(run(cache_dir=tmp_path), serial)


def test_a_frozen_trainer_is_identified_by_its_weights(tmp_path):
    """Its parameters do not determine them, and it may have been interrupted itself."""
    X, y = task()

    def run_on(targets: np.ndarray) -> pd.DataFrame:
        trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=2, snapshots=2, random_state=0)
        trainer.fit(X, targets).interrupted_ = True
        frozen = KPFlowAnalyzer(FrozenEstimator(trainer), random_state=0)
        return sweep(frozen, {"n_components": [2]}, X, y, cache_dir=tmp_path)

    first, second = run_on(y), run_on(-y)
    assert not second["value"].equals(first["value"])
    assert_equal(run_on(y), first)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_hashed_is_named(tmp_path):
    grid = {"max_iter": [1]}
    silent = analyzer().set_params(trainer__constraint=lambda network: None)
    with pytest.raises(ValueError, match="cache_dir needs parameters .* a lambda cannot"):
        sweep(silent, grid, *task(), cache_dir=tmp_path)
    sweep(silent, grid, *task())


ROOT = str(Path(kpflow_sklearn.__file__).parents[1])
IN_ROOT = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}}
KEY = """
from pathlib import Path
from tests.runs.test_sweep import key_of_a_saved_training
print(key_of_a_saved_training(Path("."), 1.0))
"""


class Readout(torch.nn.Linear):
    """A readout whose representation holds a memory address."""

    part = object()

    def extra_repr(self) -> str:
        return repr(self.part)


def key_of_a_saved_training(folder: Path, value: float) -> str:
    core, out = torch.nn.GRU(2, 3), Readout(3, 1)
    module = torch.nn.ModuleDict({"core": core, "out": out})
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(value)
    saved = SavedTraining(module, [module.state_dict()])
    return CellCache(folder).shared_key(KPFlowAnalyzer(saved), (np.ones(3), None, {}))


def test_addresses_are_not_part_of_a_key(tmp_path, monkeypatch):
    key = key_of_a_saved_training(tmp_path, 1.0)
    monkeypatch.setattr(Readout, "part", object())
    assert key_of_a_saved_training(tmp_path, 1.0) == key


@pytest.mark.slow
def test_saved_networks_have_the_same_key_in_every_process(tmp_path):
    command = [sys.executable, "-c", KEY]
    elsewhere = subprocess.check_output(command, text=True, **IN_ROOT).strip()
    assert elsewhere == key_of_a_saved_training(tmp_path, 1.0)
    assert elsewhere != key_of_a_saved_training(tmp_path, 1.5)


SCRIPT = """
import sys
from tests.runs.test_sweep import run
run(cache_dir=sys.argv[1], n_jobs=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_killed_sweep_resumes(tmp_path, serial, n_jobs):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(n_jobs)]
    quiet = {"start_new_session": True, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **IN_ROOT, **quiet)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert 2 <= len(finished) < 8
    assert_equal(run(cache_dir=tmp_path), serial)
    for name, written in finished.items():
        assert (tmp_path / name).stat().st_mtime_ns == written


# -------------------------------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore")
def test_dask_gives_the_same_table(cluster, serial):
    with joblib.parallel_config(backend="dask"):
        assert_equal(run(), serial)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shards_of_trials_add_up(cluster):
    """K's unit Grams and the hidden Grams of K, P and PKP* are sums over trials."""
    X, y = task()
    trainer = analyzer().trainer.set_params(random_state=0).fit(X, y)
    whole = shard_sums(trainer.network_, X, len(X))
    shards = [X[:1], X[1:4], X[4:]]
    futures = [cluster.submit(shard_sums, trainer.network_, x, len(X)) for x in shards]
    parts = cluster.gather(futures)
    for name, expected in whole.items():
        total = sum(part[name] for part in parts)
        scale = abs(expected).max()
        # Sums in another order, in double precision.
        np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12 * scale)


def shard_sums(network, X, n_trials: int) -> dict[str, np.ndarray]:
    """Return a shard's part of the sums over trials, where N counts all trials."""
    from kpflow_sklearn import linearize
    from kpflow_sklearn.spectra import OperatorSpectra, unit_grams

    lin = linearize(network, X)
    share = len(X) / n_trials  # K and PKP* contain 1/N; P does not.
    grams = {
        name: OperatorSpectra(getattr(lin, name), axes=("hidden",), method="exact").hidden_gram()
        for name in ("K", "P", "PKP")
    }
    sums = {name: (1 if name == "P" else share) * g.numpy() for name, g in grams.items()}
    sums["unit Grams"] = share * np.concatenate([g.numpy() for _, _, g in unit_grams(lin.K)])
    return sums
