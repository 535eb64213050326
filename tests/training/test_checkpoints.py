"""Networks that somebody else trained: modules and state_dicts from a plain torch loop."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from kpflow_sklearn import (
    CheckpointError,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    UnsupportedNetworkError,
)
from kpflow_sklearn.results import select
from kpflow_sklearn.training import Snapshot
from tests.training.plain_torch import (
    ITERATIONS,
    KINDS,
    LABELS,
    MASK,
    N_FEATURES,
    N_OUTPUTS,
    N_STEPS,
    N_TRIALS,
    N_UNITS,
    X,
    Y,
    seeded,
    squared_error,
    trained,
)


def analyzer(trainer, **options) -> KPFlowAnalyzer:
    return KPFlowAnalyzer(trainer, axes=("time",), random_state=0, **options)


@cache
def analysed(name: str) -> KPFlowAnalyzer:
    return analyzer(SavedTraining(*trained(name), iterations=ITERATIONS)).fit(X, Y)


# ------------------------------------------------------------------------- what is read off them


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_at_each_checkpoint_is_that_of_plain_torch(name):
    module, states = trained(name)
    fitted = select(analysed(name).results_, "network", "loss")["value"]
    expected = []
    for state in states:
        copied = copy.deepcopy(module)
        copied.load_state_dict(state)
        with torch.no_grad():
            expected.append(float(squared_error(copied(torch.as_tensor(X)))))
    assert list(fitted.index) == ITERATIONS
    np.testing.assert_allclose(fitted, expected, rtol=1e-12)
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("name", KINDS)
def test_predictions_are_those_of_the_last_checkpoint(name):
    module, states = trained(name)
    saved = SavedTraining(module, states[:2]).fit(X, Y)
    copied = copy.deepcopy(module)
    copied.load_state_dict(states[1])
    with torch.no_grad():
        expected = copied(torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(saved.predict(X), expected, atol=1e-14)
    assert saved.trajectories(X).shape == (N_TRIALS, N_STEPS, KINDS[name].n_states)
    assert saved.n_iter_ == 1
    assert saved.loss_curve_.shape == (0,)


@pytest.mark.parametrize("name", KINDS)
def test_the_identities_hold_on_their_network(name):
    table = analysed(name).verify(X, Y)
    assert table["passed"].all(), table


@pytest.mark.parametrize("wrap", [lambda saved: saved, analyzer], ids=["alone", "analysed"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_their_module_is_not_changed(mode, wrap):
    module, states = trained("gru")
    module = copy.deepcopy(module).train(mode == "train")
    module.drop.p = 0.9
    before = copy.deepcopy(module.state_dict())
    saved_before = copy.deepcopy(states)
    # The last state that is loaded is not the present one.
    reverse = SavedTraining(module, states[::-1], iterations=ITERATIONS)
    wrap(reverse).fit(X, Y).predict(X)
    assert module.training == module.drop.training == (mode == "train")
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    for state, old in zip(states, saved_before, strict=True):
        for name, value in state.items():
            torch.testing.assert_close(value, old[name], rtol=0, atol=0)


def test_dropout_plays_no_part():
    module, states = trained("gru")
    module = copy.deepcopy(module).train()
    module.drop.p = 0.9
    fitted = analyzer(SavedTraining(module, states, iterations=ITERATIONS)).fit(X, Y)
    pd.testing.assert_frame_equal(fitted.results_, analysed("gru").results_)


def test_a_bare_module_is_analysed_as_it_is():
    module, states = trained("gru")
    module = copy.deepcopy(module)
    module.load_state_dict(states[0])
    fitted = analyzer(module).fit(X, Y)
    assert isinstance(fitted.trainer_, SavedTraining)
    assert fitted.n_iter_ == 0
    assert fitted.loss_curve_.shape == (0,)
    assert fitted.results_["iteration"].unique().tolist() == [0]
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, states[0][name], rtol=0, atol=0)
    # Iteration 0 is not the last one elsewhere.
    of_the_last = ["flow_agreement", "interval_agreement", "eigenpair_residual"]
    same = fitted.results_[~fitted.results_["quantity"].isin(of_the_last)]
    same = same.reset_index(drop=True)
    first = analysed("gru").results_.query("iteration == 0 and quantity not in @of_the_last")
    pd.testing.assert_frame_equal(same, first.reset_index(drop=True))


def test_iterations_are_counted_without_being_given():
    module, states = trained("gru")
    fitted = SavedTraining(module, states).fit(X, Y)
    assert [s.iteration for s in fitted.snapshots_] == [0, 1, 2]
    present = SavedTraining(module, iterations=[500]).fit(X, Y)
    assert [s.iteration for s in present.snapshots_] == [500] == [present.n_iter_]


def test_a_mask_goes_to_their_network():
    module, states = trained("lstm, 2 layers")
    fitted = analyzer(SavedTraining(module, states)).fit(X, Y, mask=MASK)
    copied = copy.deepcopy(module)
    copied.load_state_dict(states[-1])
    with torch.no_grad():
        outputs = copied(torch.as_tensor(X)).numpy()
    loss = select(fitted.results_, "network", "loss")["value"].loc[2]
    assert loss == pytest.approx(((outputs - Y) ** 2)[MASK].mean(), rel=1e-12)


def test_their_classes_are_the_outputs():
    module, _ = trained("gru")
    fitted = SavedTraining(module).fit(X, LABELS)
    with torch.no_grad():
        logits = module(torch.as_tensor(X)).numpy()[:, -1]
    np.testing.assert_array_equal(fitted.predict(X), np.array(["a", "b", "c"])[logits.argmax(1)])
    # The trials at hand show two of the three classes that the readout knows.
    partial = SavedTraining(module).fit(X, [0, 2, 0, 2, 0, 2])
    np.testing.assert_array_equal(partial.predict(X), logits.argmax(1))
    assert list(partial.classes_) == [0, 1, 2]


def test_a_network_in_single_precision_stays_so():
    module = copy.deepcopy(trained("gru")[0]).float()
    fitted = SavedTraining(module).fit(X, Y)
    assert fitted.predict(X).dtype == np.float32
    double = SavedTraining(trained("gru")[0]).fit(X, Y)
    np.testing.assert_allclose(fitted.predict(X), double.predict(X), atol=1e-5)


def test_a_pair_of_recurrent_parts_and_readouts_is_told_apart_by_name():
    first, second = trained("gru")[0], trained("tanh")[0]
    both = nn.ModuleDict({"first": first, "second": second})
    fitted = SavedTraining(both, recurrent="second.core", readout="second.decoder").fit(X, Y)
    np.testing.assert_allclose(
        fitted.predict(X), SavedTraining(second).fit(X, Y).predict(X), rtol=1e-14
    )


# ----------------------------------------------------------- frozen trainers, and our weights


@cache
def own_trainer(cell: str = "gru") -> RecurrentTrainer:
    trainer = RecurrentTrainer(
        cell, hidden_size=N_UNITS, max_iter=8, snapshots=3, learning_rate=0.02, random_state=0
    )
    return trainer.fit(X, Y)


def assert_same_analysis(fitted: KPFlowAnalyzer, expected: KPFlowAnalyzer, rtol: float) -> None:
    pd.testing.assert_frame_equal(fitted.results_, expected.results_, rtol=rtol)
    pd.testing.assert_frame_equal(fitted.bottleneck_, expected.bottleneck_, rtol=rtol)
    np.testing.assert_allclose(fitted.components_, expected.components_, atol=100 * rtol)
    np.testing.assert_allclose(fitted.predict(X), expected.predict(X), rtol=rtol)


def test_a_frozen_trainer_is_analysed_without_training():
    trainer = own_trainer()
    fitted = analyzer(FrozenEstimator(trainer)).fit(X, Y)
    assert fitted.network_ is trainer.network_
    assert fitted.n_iter_ == 8
    np.testing.assert_array_equal(fitted.loss_curve_, trainer.loss_curve_)
    assert_same_analysis(fitted, analyzer(trainer).fit(X, Y), rtol=0)


def test_a_frozen_trainer_can_be_analysed_on_other_trials():
    other = np.random.default_rng(9).standard_normal((3, 7, N_FEATURES))
    target = np.zeros((3, 7, N_OUTPUTS))
    fitted = analyzer(FrozenEstimator(own_trainer())).fit(other, target)
    predicted = own_trainer().predict(other)
    loss = select(fitted.results_, "network", "loss")["value"].loc[8]
    assert loss == pytest.approx((predicted**2).mean(), rel=1e-12)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_our_weights_in_torchs_module_give_the_same_analysis(cell):
    trainer = own_trainer(cell)
    core = seeded({"gru": nn.GRU, "lstm": nn.LSTM}[cell], N_FEATURES, N_UNITS)
    readout = seeded(nn.Linear, N_UNITS, N_OUTPUTS)
    module = nn.ModuleDict({"recurrent": core, "readout": readout})
    kept = {s.iteration: s.state for s in trainer.snapshots_}
    fitted = analyzer(saved_training(module, kept)).fit(X, Y)
    without = copy.copy(trainer)
    without.snapshots_ = [Snapshot(*pair) for pair in kept.items()]
    assert_same_analysis(fitted, analyzer(FrozenEstimator(without)).fit(X, Y), rtol=1e-10)
    # With checkpoints at n and n + 1 the update from n is known.
    kept |= {s.iteration + 1: s.updated for s in trainer.snapshots_ if s.updated}
    fitted = analyzer(saved_training(module, kept)).fit(X, Y)
    expected = analyzer(FrozenEstimator(trainer)).fit(X, Y)
    measured, of_trainer = (
        select(a.results_, "PKP", "flow_agreement")["value"].dropna() for a in (fitted, expected)
    )
    assert len(of_trainer) == len(trainer.snapshots_) - 1
    pd.testing.assert_series_equal(measured.loc[of_trainer.index], of_trainer, rtol=1e-10)


def saved_training(module: nn.Module, kept: dict[int, dict]) -> SavedTraining:
    """Return the training with checkpoints of a module without z_0, by iteration."""
    states = [{k: v for k, v in kept[n].items() if k != "initial_state"} for n in sorted(kept)]
    return SavedTraining(module, states, iterations=sorted(kept))


# ---------------------------------------------------------------------------------------- errors


BAD_STATES = {
    "missing key": (
        {"decoder.bias": None},
        r"checkpoints\[1\] does not fit TheirNetwork: missing keys \['decoder.bias'\], unexpected",
    ),
    "unexpected key": (
        {"extra": torch.ones(1)},
        r"checkpoints\[1\] .* missing keys \[\], unexpected keys \['extra'\]",
    ),
    "other shape": (
        {"decoder.bias": torch.ones(7)},
        r"checkpoints\[1\] .* other shapes \['decoder.bias \(7,\) for \(3,\)'\]",
    ),
    "no tensor": ({"decoder.bias": 0.5}, r"checkpoints\[1\] .*decoder.bias"),
    "no state_dict": (3, r"checkpoints\[1\] must be a state_dict, got a int"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_checkpoint_that_does_not_fit_is_named(name):
    entries, message = BAD_STATES[name]
    module, states = trained("gru")
    changed = entries
    if isinstance(entries, dict):
        changed = {k: v for k, v in (states[1] | entries).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        SavedTraining(module, [states[0], changed, states[2]]).fit(X, Y)


BAD_ITERATIONS = {
    "too few": ([0, 1], "iterations must give one number for each of the 3 checkpoints, got 2"),
    "fractions": ([0.2, 1.0, 1.7], "iterations must .* integers"),
    "words": ("abc", "iterations must .* integers"),
    "not increasing": ([0, 5, 5], r"iterations must increase from at least 0, got \[0, 5, 5\]"),
    "negative": ([-1, 0, 1], r"iterations must increase from at least 0, got \[-1, 0, 1\]"),
}


@pytest.mark.parametrize("name", BAD_ITERATIONS)
def test_iterations_are_checked(name):
    iterations, message = BAD_ITERATIONS[name]
    with pytest.raises(ValueError, match=message):
        SavedTraining(*trained("gru"), iterations=iterations).fit(X, Y)


CORE = seeded(nn.GRU, N_FEATURES, N_UNITS)
FIRST, SECOND = (seeded(nn.Linear, N_UNITS, N_OUTPUTS, seed=k) for k in (1, 2))
UNSUPPORTED = {
    "bidirectional": (
        {"core": seeded(nn.GRU, N_FEATURES, N_UNITS, bidirectional=True), "out": FIRST},
        {},
        "GRU with bidirectional=True cannot be analysed",
    ),
    "projection": (
        {"core": seeded(nn.LSTM, N_FEATURES, N_UNITS, proj_size=2), "out": FIRST},
        {},
        "LSTM with proj_size=2 cannot be analysed",
    ),
    "no readout": (
        {"core": CORE},
        {},
        "readout: expected exactly one torch.nn.Linear in ModuleDict .*found none",
    ),
    "no readout that fits": (
        {"core": CORE, "out": seeded(nn.Linear, 7, N_OUTPUTS)},
        {},
        "with in_features=4, found none; give its name as readout='...'",
    ),
    "two readouts": (
        {"core": CORE, "a": FIRST, "b": SECOND},
        {},
        "found 'a', 'b'; give its name as readout='...'",
    ),
    "no recurrent part": (
        {"out": FIRST},
        {},
        "recurrent: expected exactly one torch.nn.RNN, GRU or LSTM in ModuleDict, found none",
    ),
    "a cell alone": (
        {"core": seeded(nn.GRUCell, N_FEATURES, N_UNITS), "out": FIRST},
        {},
        "recurrent: expected exactly one torch.nn.RNN, GRU or LSTM .* found none",
    ),
    "two recurrent parts": (
        {"core": CORE, "second": seeded(nn.GRU, N_FEATURES, N_UNITS), "out": FIRST},
        {},
        "found 'core', 'second'; give its name as recurrent='...'",
    ),
    "unknown name": (
        {"core": CORE, "a": FIRST, "b": SECOND},
        {"readout": "c"},
        "readout='c' is not a submodule or attribute of ModuleDict, whose submodules are 'core'",
    ),
    "a named readout that does not fit": (
        {"core": CORE, "out": seeded(nn.Linear, 7, N_OUTPUTS)},
        {"readout": "out"},
        "the readout takes 7 values, but the state, or the first part of it, has 4",
    ),
    "a name of the wrong kind": (
        {"core": CORE, "out": FIRST},
        {"readout": "core"},
        "readout: the GRU must map states .* but failed",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_network_is_refused(name):
    modules, options, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(nn.ModuleDict(modules), **options).fit(X, Y)


def test_a_network_must_be_a_module():
    with pytest.raises(UnsupportedNetworkError, match="network must be a torch.nn.Module, got a "):
        SavedTraining("model.pt").fit(X, Y)


def test_no_checkpoints_at_all():
    with pytest.raises(ValueError, match="checkpoints must hold at least one state_dict"):
        SavedTraining(trained("gru")[0], []).fit(X, Y)


BAD_DATA = {
    "features": (X[..., :1], Y, "X has 1 features, but the network takes 2"),
    "outputs": (X, Y[..., :2], "y needs 2 outputs, but the readout has 3"),
    "next input": (X, None, "y needs 2 outputs, but the readout has 3"),
    "too many classes": (X, [0, 1, 2, 3, 0, 1], "y needs 4 outputs, but the readout has 3"),
    "too few classes": (X, list("ababab"), r"y has 2 classes and the readout 3 .* labels 0\.\.2"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_do_not_fit_the_network(name):
    inputs, y, message = BAD_DATA[name]
    with pytest.raises(ValueError, match=message):
        SavedTraining(trained("gru")[0]).fit(inputs, y)


IGNORED = {
    "encoder": {"encoder": seeded(nn.Linear, N_FEATURES, N_FEATURES), "core": CORE, "out": FIRST},
    "hidden": {"core": CORE, "out": FIRST, "hidden": seeded(nn.Linear, N_OUTPUTS, N_OUTPUTS)},
    "norm": {"core": CORE, "norm": seeded(nn.LayerNorm, N_UNITS), "out": FIRST},
}


@pytest.mark.parametrize("name", IGNORED)
def test_parts_that_the_analysis_would_ignore_are_named(name):
    # Their outputs are not the readout of the recurrent states of X: the loss would be wrong.
    with pytest.raises((UnsupportedNetworkError, UserWarning), match=name):
        SavedTraining(nn.ModuleDict(IGNORED[name])).fit(X, Y)


def test_a_network_that_trains_nothing_is_refused():
    module = copy.deepcopy(trained("gru")[0]).requires_grad_(False)
    with pytest.raises(UnsupportedNetworkError, match="train|requires_grad"):
        analyzer(module).fit(X, Y)


def test_a_recurrent_part_that_computes_something_else_is_refused():
    class Doubled(nn.GRU):
        def forward(self, inputs, hx=None):
            states, last = super().forward(inputs, hx)
            return 2 * states, last

    module = nn.ModuleDict({"core": seeded(Doubled, N_FEATURES, N_UNITS), "out": FIRST})
    message = "the rebuilt step does not reproduce the states of Doubled: they differ by up to"
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(module).fit(X, Y)


class Squashed(nn.Module):
    """Computes something else from the readout than the readout."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = copy.deepcopy(CORE), copy.deepcopy(FIRST)

    def forward(self, inputs):
        """Return squashed outputs."""
        return torch.sigmoid(self.out(self.core(inputs)[0]))


def test_outputs_that_are_not_the_readout_of_the_states_are_refused():
    message = "outputs of Squashed: they differ by up to .* check_outputs=False. .* not compared"
    for readout in (None, "out"):
        with pytest.raises(UnsupportedNetworkError, match=message):
            SavedTraining(Squashed(), readout=readout).fit(X, Y)
    saved = SavedTraining(Squashed(), layout="trials_first", check_outputs=False).fit(X, Y)
    with torch.no_grad():
        theirs = Squashed()(torch.as_tensor(X).transpose(0, 1)).transpose(0, 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-saved.predict(X))), theirs, rtol=1e-12)


def test_a_network_of_the_package_is_taken_as_saved():
    network = RecurrentTrainer(hidden_size=N_UNITS, max_iter=2, random_state=0).fit(X, Y).network_
    inputs = torch.as_tensor(X, dtype=network.dtype)
    fitted = SavedTraining(network).fit(X, Y).predict(X)
    np.testing.assert_allclose(fitted, network(inputs).detach().numpy(), atol=1e-6)
