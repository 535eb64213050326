"""Checkpoints on disk as other tools write them: torch, Lightning, skorch, safetensors."""

from __future__ import annotations

import argparse
import datetime
import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kpflow_sklearn import CheckpointError, GramFlowAnalyzer, SavedTraining
from kpflow_sklearn.training._state_dicts import load_checkpoint
from tests.training.plain_torch import ITERATIONS, X, Y, trained


def states() -> list[OrderedDict]:
    return [OrderedDict(state) for state in trained("gru")[1]]


def saved(checkpoints, **options) -> SavedTraining:
    return SavedTraining(trained("gru")[0], checkpoints, **options).fit(X, Y)


def assert_is_their_training(fitted: SavedTraining, iterations=ITERATIONS) -> None:
    """Check iteration and tensors of every snapshot against those that were saved."""
    assert [s.iteration for s in fitted.snapshots_] == list(iterations)
    for snapshot, state in zip(fitted.snapshots_, states(), strict=True):
        torch.testing.assert_close(
            snapshot.state["readout.bias"], state["decoder.bias"], rtol=0, atol=0
        )
        torch.testing.assert_close(
            snapshot.state["recurrent.weight_hh_l0"], state["core.weight_hh_l0"], rtol=0, atol=0
        )


def write(folder: Path, pattern: str = "model_{}.pt", wrap=lambda state: state) -> str:
    for iteration, state in zip(ITERATIONS, states(), strict=True):
        torch.save(wrap(state), folder / pattern.format(iteration))
    return str(folder / pattern.format("*"))


def prefixed(prefix: str):
    return lambda state: OrderedDict((prefix + k, v) for k, v in state.items())


# ---------------------------------------------------------------------------- order and iterations


@pytest.mark.parametrize(
    "pattern", ["model_{}.pt", "ckpt{}", "v2-step={}.ckpt", "{}.pth", "net[1]-{}.pt"]
)
def test_files_are_sorted_by_the_number_in_their_names(tmp_path, pattern):
    write(tmp_path, pattern)
    assert_is_their_training(saved(tmp_path / "*"))
    shuffled = sorted(tmp_path.iterdir(), key=lambda path: path.name[::-1])
    assert_is_their_training(saved(shuffled))
    assert_is_their_training(saved([str(path) for path in shuffled]))


def test_the_number_may_be_that_of_the_folder(tmp_path):
    for iteration, state in zip(ITERATIONS, states(), strict=True):
        (tmp_path / f"step{iteration}").mkdir()
        torch.save(state, tmp_path / f"step{iteration}" / "model.pt")
    assert_is_their_training(saved(str(tmp_path / "*" / "model.pt")))


@pytest.mark.parametrize("name, iteration", [("last.pt", 0), ("at_500.pt", 500), ("a1_b2.pt", 0)])
def test_a_single_file(tmp_path, name, iteration):
    torch.save(states()[0], tmp_path / name)
    fitted = saved(tmp_path / name)
    assert [s.iteration for s in fitted.snapshots_] == [iteration]


def lightning_names(folder: Path) -> list[Path]:
    paths = []
    for epoch, state in enumerate(states()):
        paths.append(folder / f"epoch={9 + epoch}-step={90 + 10 * epoch}.ckpt")
        torch.save(state, paths[-1])
    return paths


def test_two_varying_numbers_need_iterations(tmp_path):
    paths = lightning_names(tmp_path)
    with pytest.raises(CheckpointError, match=r"2 numbers vary .*Give iterations=\[\.\.\.\]"):
        saved(tmp_path / "*.ckpt")
    # Sorted by the numbers, 9 before 10, not by the letters.
    assert_is_their_training(saved(tmp_path / "*.ckpt", iterations=ITERATIONS))
    assert_is_their_training(saved(paths, iterations=ITERATIONS))
    backwards = saved(paths[::-1], iterations=ITERATIONS)
    torch.testing.assert_close(
        backwards.snapshots_[0].state["readout.bias"], states()[-1]["decoder.bias"]
    )


BAD_NAMES = {
    "no number": (["a.pt", "b.pt"], "*.pt", r"must differ only in one number.*'.*a.pt' and "),
    "another file": (["m_1.pt", "m_2.pt", "best.pt"], "*.pt", "best.pt.* differ in more"),
    "equal numbers": (["m_1.pt", "m_01.pt"], "*.pt", r"0 numbers vary|iterations must increase"),
    "nothing": ([], "*.pt", r"checkpoints='.*\*\.pt' matches no file"),
    "a folder": (
        ["m_1.pt"],
        "",
        r"is a directory; give a pattern of its files, for example '.*\*.pt'",
    ),
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_tell_no_order(tmp_path, name):
    files, pattern, message = BAD_NAMES[name]
    for file in files:
        torch.save(states()[0], tmp_path / file)
    with pytest.raises(ValueError, match=message):
        saved(tmp_path / pattern)


NOT_COUNTS = {
    "decimals": "best-0.{}.pt",
    "powers of ten": "m_{}e3.pt",
    "thousands": "s_{}k.pt",
    "groups of digits": "step_{}_000.pt",
    "a loss in percent": "val_loss={}.ckpt",
    "accuracies": "acc0.{}_e5.pt",
    "seeds": "seed_{}/model.pt",
    "dates": "2024-03-{}.pt",
    "dates without separators": "model_202403{}.pt",
    "times": "2024-03-01_10-{}-00.pt",
    "seconds": "17000000{}.pt",
}


@pytest.mark.parametrize("kind", NOT_COUNTS)
def test_numbers_that_are_no_counts_are_not_taken_as_iterations(tmp_path, kind):
    paths = [tmp_path / NOT_COUNTS[kind].format(n) for n in (25, 11, 19)]
    for path, state in zip(paths, states(), strict=True):
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)
    message = (
        r"does not count parameter updates.*with iterations=\[\.\.\.\], one for each of the 3"
    )
    pattern = tmp_path / NOT_COUNTS[kind].format("*")
    for given in (pattern, paths):
        with pytest.raises(CheckpointError, match=message):
            saved(given)
    assert_is_their_training(saved(paths, iterations=ITERATIONS))
    assert saved(paths[0]).n_iter_ == 0  # A single file has no order, and no iteration either.


COUNTS = [
    "v1.2_{}.pt",
    "loss=0.3-step={}.ckpt",
    "2024-03-01/model_{}.pt",
    "lr1e-3_{}.pt",
    "{}_256.pt",
]


@pytest.mark.parametrize("pattern", COUNTS)
def test_other_numbers_may_stand_beside_a_count(tmp_path, pattern):
    (tmp_path / pattern).parent.mkdir(exist_ok=True)
    assert_is_their_training(saved(write(tmp_path, pattern)))


def test_a_pattern_with_iterations_sorts_decimals_by_value(tmp_path):
    for name, state in zip(("0.095", "0.25", "0.3"), states(), strict=True):
        torch.save(state, tmp_path / f"loss={name}.pt")
    assert_is_their_training(saved(tmp_path / "*.pt", iterations=ITERATIONS))


# ---------------------------------------------------------------------------- what is in the files


def lightning(state: OrderedDict) -> dict:
    """Return a file as Lightning writes it: the network is one attribute of the module."""
    rest = {"criterion.weight": torch.ones(3), "accuracy.total": torch.tensor(3)}
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed("net.")(state) | rest,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "name": "gru"},
    }


def compiled_part(state: OrderedDict) -> OrderedDict:
    return OrderedDict((k.replace("core.", "core._orig_mod."), v) for k, v in state.items())


LAYOUTS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 1},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(0.5)},
    "DataParallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled inside DataParallel": prefixed("module._orig_mod."),
    "DataParallel inside compiled, nested": lambda s: {"model": prefixed("_orig_mod.module.")(s)},
    "a compiled part": compiled_part,
    "Lightning": lightning,
    "a Lightning attribute inside another": prefixed("system.model."),
    "weights": lambda state: {"weights": state, "step": 5},
    "an average": lambda state: {"ema_state_dict": state},
    "a key of their own": lambda state: {"rnn_state_dict": state, "optimizer": {"state": {}}},
    "a key within a key": lambda state: {"model": {"state_dict": state, "ema": state}},
    "a key within one of their own": lambda s: {"run": {"model": s}, "optimizer": {"state": {}}},
    "NumPy's scalar": lambda state: {"state_dict": state, "loss": np.float64(0.25)},
    "an array": lambda state: {"state_dict": state, "losses": np.arange(3.0)},
    "a date": lambda state: {"state_dict": state, "when": datetime.datetime(2024, 1, 2)},
    "a path": lambda state: {"state_dict": state, "hparams": {"folder": Path("x")}},
    "a namespace": lambda state: lightning(state) | {"hyper_parameters": argparse.Namespace(h=4)},
    "a defaultdict": lambda state: {"state_dict": state, "log": defaultdict(list, loss=[0.3])},
    "weights in a defaultdict": lambda state: defaultdict(None, state),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    assert_is_their_training(saved(write(tmp_path, wrap=LAYOUTS[layout])))
    direct = [LAYOUTS[layout](state) for state in states()]
    assert_is_their_training(saved(direct, iterations=ITERATIONS))


def test_the_keys_must_tell_which_weights_are_meant(tmp_path):
    torch.save({0: states()[0], 100: states()[1]}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="more than once, under the keys 0, 100; give the"):
        saved(tmp_path / "run.pt")


def test_keys_within_keys_must_tell_too():
    runs = {"runs": {0: states()[0], 1: states()[1]}}
    with pytest.raises(CheckpointError, match="once, under the keys 'runs'/0, 'runs'/1; give"):
        saved([runs])


@pytest.mark.parametrize(
    "content, message",
    [
        (
            {"model": [1]},
            "none of the network's tensors .* 'model', a list. Give what net",
        ),
        ({"model": nn.Tanh()}, "'model', a Tanh. Give what network.state_dict() returns"),
        ({"run": {"lr": 1.0, "seed": 2}}, "'run', a dict of 'lr', 'seed'. Give what network"),
        (nn.Tanh(), "must be a state_dict, got a Tanh. Give its state_dict()"),
    ],
)
def test_a_checkpoint_without_weights_is_described(content, message):
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(").replace(")", r"\)")):
        saved([content])


@pytest.mark.parametrize(
    "given, remedy",
    [
        (states()[0], r"a OrderedDict; give a single state_dict as \[state_dict\]"),
        (iter(states()), "a list_iterator; give the list of its values, because it can be read"),
    ],
)
def test_checkpoints_that_are_not_a_sequence_are_refused(given, remedy):
    with pytest.raises(CheckpointError, match=f"must be a file, .* got {remedy}"):
        saved(given)


class Wrapped(nn.Module):
    """A network around the one that was trained, which changes its inputs."""

    def __init__(self, trains: bool) -> None:
        super().__init__()
        self.scale = nn.Linear(X.shape[-1], X.shape[-1], bias=False).double()
        nn.init.eye_(self.scale.weight).requires_grad_(trains)
        self.net = trained("gru")[0]

    def forward(self, x):
        return self.net(self.scale(x))


def test_a_wrapper_around_the_network_reads_its_checkpoints(tmp_path):
    names = {"recurrent": "net.core", "readout": "net.decoder"}
    pattern = write(tmp_path)
    assert_is_their_training(SavedTraining(Wrapped(False), pattern, **names).fit(X, Y))
    for trained_too in (
        None,
        ["net.core.*"],
    ):  # Left out of theta, it has been trained all the same.
        wrapped = SavedTraining(Wrapped(True), pattern, parameters=trained_too, **names)
        with pytest.raises(CheckpointError, match=r"missing keys \['scale.weight'\], unexpected"):
            wrapped.fit(X, Y)


class Tied(nn.Module):
    """A network whose readout is tied to its input weights."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.RNN(4, 4, batch_first=True)
        self.out = nn.Linear(4, 4, bias=False)
        self.out.weight = self.core.weight_ih_l0


def test_tied_weights_may_be_saved_once():
    module = Tied()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    once = {k: v for k, v in state.items() if k != "core.weight_ih_l0"}
    load_checkpoint(module, once | {"out.weight": torch.ones(4, 4)}, "state")
    assert (module.core.weight_ih_l0 == 1).all()
    with pytest.raises(
        CheckpointError, match="different values of core.weight_ih_l0, out.weight.*give"
    ):
        load_checkpoint(module, state | {"out.weight": torch.zeros(4, 4)}, "state")


@pytest.mark.slow
def test_what_torch_itself_writes(tmp_path):
    module = trained("gru")[0]
    torch.save(nn.DataParallel(module).state_dict(), tmp_path / "parallel_1.pt")
    torch.save(torch.compile(module).state_dict(), tmp_path / "compiled_1.pt")
    torch.save(module.state_dict(), tmp_path / "legacy_1.pt", _use_new_zipfile_serialization=False)
    expected = saved(None).predict(X)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(saved(path).predict(X), expected)
    for wrapped in (nn.DataParallel(module), torch.compile(module)):
        fitted = SavedTraining(wrapped, tmp_path / "compiled_1.pt").fit(X, Y)
        np.testing.assert_array_equal(fitted.predict(X), expected)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    for iteration, state in zip(ITERATIONS, states(), strict=True):
        safetensors.save_file(dict(state), tmp_path / f"model-{iteration}.safetensors")
    assert_is_their_training(saved(str(tmp_path / "*.safetensors")))
    (tmp_path / "model-3.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(CheckpointError, match=r"model-3.safetensors' cannot be read"):
        saved(str(tmp_path / "*.safetensors"))


def test_a_skorch_run(tmp_path):
    skorch = pytest.importorskip("skorch")
    from skorch.callbacks import TrainEndCheckpoint

    module = trained("gru")[0]
    net = skorch.NeuralNetRegressor(
        type(module),
        module__kind=nn.GRU,
        module__batch_first=True,
        max_epochs=2,
        train_split=None,
        verbose=0,
        callbacks=[TrainEndCheckpoint(dirname=str(tmp_path))],
    )
    net.fit(X, Y)
    fitted = saved(tmp_path / "train_end_params.pt")
    np.testing.assert_allclose(fitted.predict(X), net.predict(X), rtol=1e-12)
    with pytest.raises(CheckpointError, match="missing keys .*unexpected keys .*param_groups"):
        saved(tmp_path / "train_end_optimizer.pt")


def test_a_feed_forward_network_comes_from_files_too(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    for iteration in (100, 20):
        torch.save(
            {"model": prefixed("module.")(module.state_dict())}, tmp_path / f"{iteration}.pt"
        )
    fitted = GramFlowAnalyzer(SavedTraining(module, tmp_path / "*.pt"), random_state=0)
    fitted.fit(X[:, 0], Y[:, 0, :1])
    assert [s.iteration for s in fitted.snapshots_] == [20, 100]


# ------------------------------------------------------------------------------ files that are not


class Executes:
    """A pickle that would run code on loading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    mark = tmp_path / "executed"
    torch.save({"state_dict": states()[0], "extra": Executes(mark)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Executes(mark)))
    torch.save(trained("gru")[0], tmp_path / "c.pt")
    for name in "abc":
        with pytest.raises(CheckpointError, match=rf"{name}.pt' cannot be read .* never loaded"):
            saved(tmp_path / f"{name}.pt")
    assert not mark.exists()


def test_a_class_that_cannot_be_replaced_is_named(tmp_path):
    content = {"state_dict": states()[0], "when": datetime.datetime(2024, 1, 2)}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    message = (
        r"contains a pickled datetime.datetime, .*inside 'with torch.serialization.safe_globals"
    )
    with pytest.raises(CheckpointError, match=message):
        saved(tmp_path / "a.pt")
    with torch.serialization.safe_globals([datetime.datetime]):
        assert saved(tmp_path / "a.pt").n_iter_ == 0


class Log(dict):
    """A dictionary of another class."""


def test_a_container_that_is_not_torchs_is_named(tmp_path):
    torch.save({"model": states()[0], "log": Log(loss=1)}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match="contains a pickled tests.training.*Log, and pickled"
    ):
        saved(tmp_path / "a.pt")


def test_torchs_table_of_safe_classes_is_left_as_it_was(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"model": states()[0], "x": argparse.Namespace()}, tmp_path / "a.pt")
    saved(tmp_path / "a.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def truncated(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_half_written_files_are_named(tmp_path, share):
    pattern = write(tmp_path)
    truncated(tmp_path / "model_3.pt", share)
    with pytest.raises(CheckpointError, match=r"model_3.pt' cannot be read as tensors: .+"):
        saved(pattern)


def test_foreign_files_are_named(tmp_path):
    (tmp_path / "x.pt").write_text("epoch,loss\n1,0.3\n")
    np.save(tmp_path / "y.npy", X)
    for name in ("x.pt", "y.npy", "absent.pt"):
        with pytest.raises(CheckpointError, match=f"{name}' (cannot be read|matches no file)"):
            saved(tmp_path / name)
    torch.save(torch.ones(3), tmp_path / "z.pt")
    with pytest.raises(CheckpointError, match="z.pt' must be a state_dict, got a Tensor"):
        saved(tmp_path / "z.pt")


def test_a_file_of_another_network_is_named_with_its_keys(tmp_path):
    pattern = write(tmp_path)
    other = {"model": {**states()[1], "extra": torch.ones(1)}}
    del other["model"]["decoder.bias"]
    torch.save(other, tmp_path / "model_3.pt")
    message = (
        r"model_3.pt' does not fit TheirNetwork: missing keys \['decoder.bias'\], unexpected keys "
        r"\['extra'\]"
    )
    with pytest.raises(CheckpointError, match=message):
        saved(pattern)


def test_a_network_that_is_there_twice_is_not_guessed_at(tmp_path):
    both = prefixed("model.")(states()[0]) | prefixed("ema.")(states()[1])
    message = r"'.*both.pt' contains .* more than once, with the prefixes 'model.', 'ema.'"
    torch.save({"state_dict": both}, tmp_path / "both.pt")
    with pytest.raises(CheckpointError, match=message):
        saved(tmp_path / "both.pt")


def test_safetensors_is_asked_for_by_name(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kpflow-sklearn\[safetensors\]'"):
        saved(tmp_path / "a.safetensors")
