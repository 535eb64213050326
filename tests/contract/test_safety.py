"""No file is executed, no host is reached, and nothing is written without a request."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kpflow_sklearn
from kpflow_sklearn import (
    CheckpointError,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    sweep,
)
from kpflow_sklearn._cli import main
from kpflow_sklearn.results import read_results

SOURCE = Path(kpflow_sklearn.__file__).parent
ROOT = SOURCE.parent
X = np.random.default_rng(0).standard_normal((6, 5, 2))
Y = X.cumsum(1)

# --------------------------------------------------------------- calls of the source code

# Calls that can execute the content of a file, and the option that makes some of them safe.
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "skops"}
SAFE_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
REFUSED = ("joblib.load", "pd.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package")
RUNNING = ("eval", "exec", "compile", "__import__")


def dangers(source: str) -> list[str]:
    """Return the calls and imports of a file that could execute data."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        calls += [name for name in names if name.split(".")[0] in UNPICKLING]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in SAFE_WITH:
            name, value = SAFE_WITH[called]
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            calls += [] if given.get(name) is value else [called]
        elif called in RUNNING or called.startswith(REFUSED):
            calls.append(called)
        elif called.endswith((".loads", ".load")) and called != "json.loads":
            calls += [] if called.startswith("self.folder") else [called]
    return calls


def test_the_package_calls_nothing_that_runs_data():
    by_file = {str(p): dangers(p.read_text(encoding="utf-8")) for p in SOURCE.rglob("*.py")}
    assert len(by_file) > 100 and {p: calls for p, calls in by_file.items() if calls} == {}


def test_dangers_are_found():
    for text in (
        "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)",
        "np.load(f)", "import pickle", "from pickle import loads", "joblib.load(f)",
        "pd.read_pickle(f)", "eval(text)", "exec(text)", "pickle.loads(b)",
    ):  # fmt: skip
        assert dangers(text), text


# ------------------------------------------------------------------------- files that would run


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def as_npz(path: Path, mark: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, X=np.array([Evil(mark)], dtype=object))


#: Each writes a file that touches the mark when it is unpickled.
KINDS: dict[str, Callable[[Path, Path], object]] = {
    "torch": lambda path, mark: torch.save({"state_dict": Evil(mark)}, path),
    "old_torch": lambda path, mark: torch.save(
        Evil(mark), path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda path, mark: path.write_bytes(pickle.dumps(Evil(mark))),
    "npz": as_npz,
}


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        return self.out(self.core(x)[0])


def trainer(folder: Path | None = None) -> RecurrentTrainer:
    options = {"hidden_size": 3, "max_iter": 3, "snapshots": 2, "random_state": 0}
    return RecurrentTrainer(**options, checkpoint_dir=folder)


def read_pattern(path: Path) -> None:
    KPFlowAnalyzer(SavedTraining(Module(), str(path.with_name("*.pt")))).fit(X, Y)


def read_file(path: Path) -> None:
    SavedTraining(Module(), path).fit(X, Y)


def read_layers(path: Path) -> None:
    layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    GramFlowAnalyzer(SavedTraining(layers, path)).fit(X[:, 0], Y[:, 0, 0])


def resume(path: Path) -> None:
    trainer(path.parent).fit(X, Y)


#: Functions that read a file, and its name. Those of a run's folder lie among sound ones.
READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "SavedTraining, a pattern": (read_pattern, "step_3.pt"),
    "SavedTraining, a file": (read_file, "last.ckpt"),
    "SavedTraining, safetensors": (read_file, "last.safetensors"),
    "GramFlowAnalyzer": (read_layers, "last.pt"), "checkpoint_dir": (resume, "latest.pt"),
    "checkpoint_dir, a snapshot": (resume, "snapshot-000000000.pt"),
    "results.csv": (read_results, "results.csv"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_would_run_is_refused_by_name(reader, kind, tmp_path):
    read, name = READERS[reader]
    if read is resume:
        trainer(tmp_path).fit(X, Y)
    mark = tmp_path / "ran"
    KINDS[kind](tmp_path / name, mark)
    with pytest.raises((CheckpointError, ValueError), match=name.replace(".", r"\.")):
        read(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_would_run_are_refused_by_name(kind, tmp_path, capsys):
    mark = tmp_path / "ran"
    KINDS[kind](tmp_path / "trials.npz", mark)
    assert main(["--data", str(tmp_path / "trials.npz"), "--out", str(tmp_path / "out")]) == 2
    assert "trials.npz" in capsys.readouterr().err
    assert not mark.exists()


FOREIGN = {
    "pickle": None,
    "a list": b"[1, 2]",
    "another table": b'{"schema_version": 2}',
    "no records": json.dumps({"schema_version": 2, "records": 3}).encode(),
    "half a file": b'{"schema_version": 2, "rec',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_in_the_cache_of_a_sweep_is_made_anew(name, tmp_path):
    analyzer = KPFlowAnalyzer(trainer())
    expected = sweep(analyzer, {"init_scale": [1.0]}, X, Y, cache_dir=tmp_path)
    (kept,) = tmp_path.glob("*.json")
    whole, mark = kept.read_bytes(), tmp_path / "ran"
    kept.write_bytes(FOREIGN[name] or pickle.dumps(Evil(mark)))
    again = sweep(analyzer, {"init_scale": [1.0]}, X, Y, cache_dir=tmp_path)
    assert again.equals(expected)
    assert kept.read_bytes() == whole
    assert not mark.exists()


def test_the_files_would_run_if_they_were_unpickled(tmp_path):
    for name, write in KINDS.items():
        mark, path = tmp_path / f"ran by {name}", tmp_path / name
        write(path, mark)
        if name == "npz":
            with np.load(path, allow_pickle=True) as file:
                file["X"]
        elif name == "pickle":
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert mark.exists(), name


# --------------------------------------------------------------------------- network and files

# Any attempt to reach a host fails, and what is opened for writing is printed in the end.
WATCH = """
import sys, os, socket

written = []

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"network: {event} {args}")
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        if not str(args[0]).endswith(("/nm", "ldconfig", "gcc", "uname", "lscpu", "fc-list")):
            written.append(f"{event} {args[0]}")
    if event == "open" and isinstance(args[0], (str, bytes)):
        flags = args[2] or 0
        writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writing and os.fsdecode(args[0]) != os.devnull:
            written.append(os.fsdecode(args[0]))
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        written.append(os.fsdecode(args[0]))

sys.addaudithook(watch)
"""

IMPORT = "import kpflow_sklearn, kpflow_sklearn.plotting, kpflow_sklearn.preprocessing"

ANALYSES = """
import numpy as np
from kpflow_sklearn import *
X = np.random.default_rng(0).standard_normal((6, 5, 2))
Y, tasks = X.cumsum(1), ["a", "a", "b", "b", "c", "c"]
small = RecurrentTrainer(hidden_size=3, max_iter=3, snapshots=2, random_state=0)
analyzer = KPFlowAnalyzer(small, random_state=0).fit(X, Y)
analyzer.transform(X), analyzer.predict(X), analyzer.verify(X, Y), repr(analyzer)
TaskAlignmentAnalyzer(small, random_state=0).fit(X, Y, tasks=tasks).transform(X)
GramFlowAnalyzer(FeedForwardTrainer((4,), max_iter=3, snapshots=2)).fit(X[:, 0], Y[:, 0])
sweep(analyzer, {"init_scale": [1.0]}, X, Y)
compare({"a": analyzer, "b": analyzer}, X)
"""

COMMAND = """
from kpflow_sklearn._cli import main
main(["--task", "flip_flop", "--hidden-size", "4", "--max-iter", "2", "--snapshots", "2",
      "--out", "asked_for"])
"""

REPORT = """
import os
import numpy as np
from kpflow_sklearn import *
X = np.random.default_rng(0).standard_normal((6, 5, 2))
small = RecurrentTrainer(hidden_size=3, max_iter=3, snapshots=2, random_state=0)
os.mkdir("asked_for")
report(KPFlowAnalyzer(small, random_state=0).fit(X, X), "asked_for/out.html", X, X)
"""

FOLDER = """
import numpy as np
from kpflow_sklearn import RecurrentTrainer
X = np.random.default_rng(0).standard_normal((6, 5, 2))
RecurrentTrainer(hidden_size=3, max_iter=3, snapshots=2, random_state=0,
    checkpoint_dir="asked_for").fit(X, X)
"""


def files_written(script: str, folder: Path) -> list[str]:
    """Run a script in a folder of its own, watched, and return what it wrote."""
    config = folder / "config"  # For the caches of Matplotlib and of torch.
    config.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": str(config), "TORCHINDUCTOR_CACHE_DIR": str(config / "torch"),
    }  # fmt: skip
    ending = "\nprint('written:', *written, sep='\\n')\n"
    command = [sys.executable, "-c", WATCH + script + ending]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    written = done.stdout.partition("written:\n")[2].splitlines()
    return [path for path in written if not path.startswith(str(config))]


slow = pytest.mark.slow


@pytest.mark.parametrize("script, asked", [
    pytest.param(IMPORT, False, marks=slow, id="import"),
    pytest.param(ANALYSES, False, marks=slow, id="analyses"),
    pytest.param(COMMAND, True, marks=slow, id="command"),
    pytest.param(REPORT, True, marks=slow, id="report"),
    pytest.param(FOLDER, True, marks=slow, id="checkpoint_dir"),
])  # fmt: skip
def test_nothing_is_written_unasked_and_no_host_is_reached(script, asked, tmp_path):
    written = files_written(script, tmp_path)
    inside = tmp_path / "asked_for"
    unasked = [p for p in written if not (tmp_path / p).is_relative_to(inside)]
    assert unasked == []
    assert bool(written) is asked
    expected = {"config", "asked_for"} if asked else {"config"}
    assert {p.name for p in tmp_path.iterdir()} == expected


@pytest.mark.parametrize("script, seen", [
    ("open('unasked', 'w').close()", "unasked"),
    ("import pathlib; pathlib.Path('made').mkdir()", "made"),
    ("import subprocess; subprocess.run(['true'])", "subprocess.Popen true"),
])  # fmt: skip
def test_files_and_processes_are_noticed(script, seen, tmp_path):
    assert files_written(script, tmp_path) == [seen]


def test_connections_are_noticed(tmp_path):
    with pytest.raises(AssertionError, match="network: socket"):
        files_written("socket.create_connection(('localhost', 9))", tmp_path)
