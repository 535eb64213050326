"""FeedForwardTrainer, GramFlowAnalyzer and GramDisplay as users meet them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler, scale
from torch import nn

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    SavedTraining,
    UnsupportedNetworkError,
)
from kpflow_sklearn.analyzers.gram._prediction import kernel_losses
from kpflow_sklearn.feedforward import FeedForwardKernel, recognise_feedforward
from kpflow_sklearn.plotting import GramDisplay
from kpflow_sklearn.results import COLUMNS, select
from tests.oracles import gram_oracle as oracle

matplotlib.use("agg")

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 6))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)
NEW = rng.standard_normal((7, 6))


def trainer(hidden_sizes=(8, 7), **options):
    settings = {"max_iter": 30, "snapshots": 4, "learning_rate": 0.05, "random_state": 0}
    return FeedForwardTrainer(hidden_sizes, **{**settings, **options})


def fit(hidden_sizes=(8, 7), y=Y, gram=None, **options):
    analyzer = GramFlowAnalyzer(trainer(hidden_sizes, **options), random_state=0, **(gram or {}))
    return analyzer.fit(X, y)


def sequential(network):
    """Return a network as a torch.nn.Sequential that shares its tensors."""
    layers = []
    for linear, phi in zip(network.hidden, network.activations, strict=True):
        layers += [linear, phi]
    return nn.Sequential(*layers, network.readout)


def module_at(analyzer, k):
    return sequential(analyzer.trainer_.network_at(analyzer.snapshots_[k])).double()


# ---------------------------------------------------------------------------------- the trainer


@pytest.mark.parametrize("bias", [True, False])
def test_training_is_plain_gradient_descent(bias):
    fitted = trainer(bias=bias).fit(X, Y)
    module = sequential(fitted.network_at(fitted.snapshots_[0]))
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    losses = oracle.descend(module, x, y, 0.05, 30)
    np.testing.assert_allclose(fitted.loss_curve_, losses, rtol=1e-12)
    np.testing.assert_allclose(fitted.predict(NEW), module(torch.as_tensor(NEW)).detach())
    assert fitted.n_iter_ == 30
    assert [s.iteration for s in fitted.snapshots_] == [0, 2, 9, 30]


@pytest.mark.parametrize(("trains", "bias"), [(False, True), (True, True), (True, False)])
def test_only_what_is_asked_for_trains(trains, bias):
    fitted = trainer(train_readout=trains, bias=bias).fit(X, Y)
    first, last = fitted.snapshots_[0].state, fitted.snapshots_[-1].state
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    expected = {"hidden.0.weight", "hidden.1.weight"}
    expected |= {"hidden.0.bias", "hidden.1.bias"} if bias else set()
    expected |= {"readout.weight"} if trains else set()
    assert moved == expected | ({"readout.bias"} if trains and bias else set())
    np.testing.assert_allclose(first["readout.bias"], Y.mean(0), rtol=1e-12)


def test_options_reach_the_training():
    adam = trainer(optimizer="adam").fit(X, Y)
    assert not np.allclose(adam.loss_curve_[1:], trainer().fit(X, Y).loss_curve_[1:])
    batches = trainer(batch_size=8).fit(X, Y)
    assert len(set(np.round(batches.loss_curve_[:5], 6))) == 5
    assert trainer(tol=1e9).fit(X, Y).n_iter_ == 1
    single = trainer().fit(X.astype(np.float32), Y)
    assert single.network_.dtype == torch.float32
    assert trainer(dtype="float32").fit(X, Y).network_.dtype == torch.float32
    wide = trainer(init_scale=3.0).fit(X, Y).snapshots_[0].state["hidden.0.weight"]
    np.testing.assert_allclose(
        wide, 3 * trainer().fit(X, Y).snapshots_[0].state["hidden.0.weight"]
    )


def test_divergence_keeps_the_last_finite_state():
    # Identities, since a ReLU layer that overshoots dies and stands still.
    wild = trainer(activation="identity", learning_rate=1e3, max_iter=300)
    with pytest.warns(ConvergenceWarning, match="training diverged"):
        fitted = wild.fit(X, Y)
    assert np.isfinite(fitted.predict(X)).all()


# ------------------------------------------------------------------------ what the analyzer says


@pytest.mark.parametrize("options", [{}, {"train_readout": True}, {"activation": "tanh"}])
def test_kernels_are_those_of_autograd_at_the_last_snapshot(options):
    analyzer = fit(**options)
    expected = oracle.layer_kernels(module_at(analyzer, -1), torch.as_tensor(X))
    kernels = analyzer.layer_kernels_
    names = ["1", "2", "readout"] if options.get("train_readout") else ["1", "2"]
    assert list(kernels) == names
    for mine, theirs in zip(kernels.values(), expected.values(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12 * float(theirs.abs().max()))
    total = sum(expected.values())
    np.testing.assert_allclose(analyzer.kernel_, total, atol=1e-12 * float(total.abs().max()))
    values, vectors = analyzer.eigenvalues_, analyzer.eigenvectors_
    np.testing.assert_allclose(values.sum(), float(total.trace()), rtol=1e-12)
    residue = total.numpy() @ vectors - vectors * values[:10]
    assert np.abs(residue).max() < 1e-10 * values[0]


def test_chunks_do_not_change_the_numbers(monkeypatch):
    whole = fit().layer_table_
    for chunk in (1, 7):
        monkeypatch.setattr("kpflow_sklearn.analyzers.gram._snapshot.CHUNK", chunk)
        pd.testing.assert_frame_equal(fit().layer_table_, whole, rtol=1e-11)


def test_a_float32_network_is_analysed_in_float64():
    analyzer = fit(dtype="float32")
    assert analyzer.network_.dtype == torch.float32
    expected = oracle.kernel(module_at(analyzer, -1), torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(analyzer.kernel_, expected, atol=1e-12 * expected.max())
    assert analyzer.prediction_.startswith("kernel")


def test_transform_is_the_projection_of_the_kernel():
    analyzer = fit()
    both = oracle.kernel(module_at(analyzer, -1), torch.as_tensor(np.concatenate([X, NEW])))
    values, vectors = analyzer.eigenvalues_[:10], analyzer.eigenvectors_
    expected = both[80:, :80].numpy() @ vectors / np.sqrt(values)
    np.testing.assert_allclose(analyzer.transform(NEW), expected.reshape(7, 20), atol=1e-10)
    assert list(analyzer.get_feature_names_out()) == [f"gramflowanalyzer{i}" for i in range(20)]
    whole = fit(gram={"n_components": 200})
    rows = whole.transform(X).reshape(80, -1)
    np.testing.assert_allclose(rows @ rows.T, whole.kernel_, atol=1e-9)
    assert analyzer.score(X, Y) == trainer().fit(X, Y).score(X, Y)


def test_the_layer_table_holds_the_numbers_of_autograd():
    analyzer = fit(train_readout=True)
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    last_loss, last_h = 0.0, []
    for k, snapshot in enumerate(analyzer.snapshots_):
        module = module_at(analyzer, k)
        table = analyzer.layer_table_.loc[snapshot.iteration]
        assert list(table.index) == ["1", "2", "readout"]
        parameters, gradients, loss = oracle.gradient(module, x, y, scale=len(X))
        decay = [
            float((w**2).sum() + (b**2).sum())
            for w, b in zip(gradients[::2], gradients[1::2], strict=True)
        ]
        np.testing.assert_allclose(table["decay"], decay, rtol=1e-10)
        np.testing.assert_allclose(table["decay_share"], np.array(decay) / sum(decay), rtol=1e-10)
        traces = [float(K.trace()) for K in oracle.layer_kernels(module, x).values()]
        np.testing.assert_allclose(table["trace"], traces, rtol=1e-12)
        np.testing.assert_allclose(table["trace_share"].sum(), 1)
        H = oracle.pre_activations(module, x)
        active = [float((h > 0).double().mean()) for h in H]
        np.testing.assert_allclose(table["active_share"][:2], active)
        at = analyzer.results_["iteration"] == snapshot.iteration
        measured = select(analyzer.results_[at], "network", "loss")["value"].iloc[0]
        assert measured == pytest.approx(loss, rel=1e-12)
        if k:
            change = loss - last_loss
            assert table["loss_change"].sum() == pytest.approx(change, rel=1e-10)
            flips = [int(((a > 0) != (b > 0)).sum()) for a, b in zip(H, last_h, strict=True)]
            assert table["gate_flips"].dropna().tolist() == flips
        last_loss, last_h = loss, H


def test_weight_grams_are_averaged_over_pairs():
    analyzer = fit(hidden_sizes=(8, 7, 6))
    module = module_at(analyzer, 0)
    H = oracle.pre_activations(module, torch.as_tensor(X))
    for layer in (2, 3):
        W, D = module[2 * layer - 2].weight.detach(), (H[layer - 1] > 0).double()
        grams = [W.T @ torch.diag(D[m] * D[n]) @ W for m in range(40) for n in range(m)]
        means = analyzer.layer_table_.loc[(0, str(layer))]
        traces = np.array([float(g.trace()) for g in grams])
        squares = np.array([float((g**2).sum()) for g in grams])
        assert means["gram_trace"] == pytest.approx(traces.mean(), rel=1e-10)
        assert means["gram_norm"] == pytest.approx(np.sqrt(squares).mean(), rel=1e-10)
        ratio = (traces**2)[squares > 0] / squares[squares > 0]
        assert means["gram_effective_dimension"] == pytest.approx(ratio.mean(), rel=1e-10)
    sampled = fit(hidden_sizes=(8, 7, 6), gram={"gram_pairs": 200})
    row = select(sampled.results_, "K_2", "gram_trace").loc[0]
    assert row["method"] == "randomized"
    assert row["std_error"] > 0
    exact = analyzer.layer_table_.loc[(0, "2"), "gram_trace"]
    assert abs(row["value"] - exact) < 5 * row["std_error"]


def test_sizes_of_steps_and_the_drift_of_the_balance():
    analyzer = fit(train_readout=True)
    modules = [module_at(analyzer, k) for k in (0, 3)]
    balances = []
    for module in modules:
        above = (module[2].weight ** 2).sum(0)
        balances.append((above - (module[0].weight ** 2).sum(1) - module[0].bias ** 2).detach())
    drift = (balances[1] - balances[0]).pow(2).mean().sqrt()
    size = (modules[0][0].weight.detach() ** 2).sum(1).mean()
    measured = analyzer.layer_table_.loc[(30, "1"), "balance_drift"]
    assert measured == pytest.approx(float(drift / size), rel=1e-9)
    # With one layer that trains, its share is the whole change.
    flat = fit(hidden_sizes=(8,))
    x = torch.as_tensor(X)
    moved = (module_at(flat, 1)(x) - module_at(flat, 0)(x)).detach()
    measured = flat.layer_table_.loc[(2, "1"), "output_change"]
    assert measured == pytest.approx(float(moved.pow(2).mean().sqrt()), rel=1e-9)


def test_missing_values_have_reasons():
    smooth = fit(activation="tanh").results_
    for results in (smooth, fit(gram={"max_kernel_size": 20}).results_, fit(bias=False).results_):
        assert list(results.columns) == list(COLUMNS)
        assert (results["value"].isna() == (results["reason"] != "")).all()
    reasons = smooth[(smooth["quantity"] == "gate_flips") & (smooth["iteration"] == 30)]["reason"]
    assert set(reasons) == {"a smooth activation has no gates"}


def test_large_kernels_are_not_formed():
    dense, free = fit(), fit(gram={"max_kernel_size": 20})
    np.testing.assert_allclose(free.eigenvalues_, dense.eigenvalues_[:10], rtol=1e-9)
    np.testing.assert_allclose(free.transform(NEW), dense.transform(NEW), atol=1e-7)
    row = select(free.results_, "K", "effective_dimension").iloc[0]
    assert row["reason"] == "K has 80 rows, more than max_kernel_size=20"
    pd.testing.assert_frame_equal(free.layer_table_, dense.layer_table_)


def test_modes_decay_as_the_kernel_says_while_it_stands_still():
    analyzer = fit(learning_rate=1e-4, snapshots=[0, 1, 30])
    table = analyzer.mode_table_
    assert table["next_iteration"].tolist() == [1] * 10 + [30] * 10 + [pd.NA] * 10
    assert (table["next_amplitude"].isna() == (table["reason"] != "")).all()
    first = table[table["iteration"] == 0]
    K = oracle.kernel(module_at(analyzer, 0), torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(first["eigenvalue"], np.linalg.eigvalsh(K)[::-1][:10], rtol=1e-9)
    change = first["next_amplitude"] - first["amplitude"]
    predicted = -1e-4 / 40 * first["eigenvalue"] * first["amplitude"]
    np.testing.assert_allclose(change, predicted, atol=1e-3 * np.abs(predicted).max())
    np.testing.assert_allclose(
        first["predicted_amplitude"], first["amplitude"] + predicted, rtol=1e-10
    )
    later = table[table["iteration"] == 1]
    factor = (1 - 1e-4 / 40 * later["eigenvalue"]) ** 29
    np.testing.assert_allclose(later["predicted_amplitude"], factor * later["amplitude"])


# ----------------------------------------------------------------------------------- prediction


def test_one_hidden_layer_is_predicted_exactly():
    analyzer = fit(hidden_sizes=(30,), max_iter=400, learning_rate=0.2)
    assert analyzer.prediction_ == "closed fields"
    np.testing.assert_allclose(analyzer.predicted_loss_curve_, analyzer.loss_curve_, atol=1e-12)
    late = fit(hidden_sizes=(30,), max_iter=50, snapshots=[20, 50])
    assert late.prediction_ == "closed fields: from iteration 20 on"
    assert np.isnan(late.predicted_loss_curve_[:20]).all()
    np.testing.assert_allclose(late.predicted_loss_curve_[20:], late.loss_curve_[20:], atol=1e-12)


def test_deeper_networks_are_predicted_by_the_kernel():
    analyzer = fit(hidden_sizes=(30, 30), snapshots=[0, 5, 30])
    assert analyzer.prediction_ == "kernel, frozen between snapshots"
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    r = (module_at(analyzer, 0)(x) - y).detach().flatten()
    for t in range(30):
        loss = float((r**2).sum()) / 80
        assert analyzer.predicted_loss_curve_[t] == pytest.approx(loss, rel=1e-10)
        r = r - 0.05 / 40 * (oracle.kernel(module_at(analyzer, 0 if t < 5 else 1), x) @ r)
    # A snapshot every step is the Euler step of the true kernel.
    fine = fit(hidden_sizes=(30, 30), snapshots=range(31), learning_rate=1e-3)
    lost = fine.loss_curve_[0] - fine.loss_curve_[-1]
    gap = fine.predicted_loss_curve_ - fine.loss_curve_
    assert np.abs(gap).max() < 0.01 * lost


def test_a_prediction_that_diverges_ends_in_infinity():
    module, x = oracle.make_mlp((6, 5, 1)), torch.as_tensor(X)
    kernel = FeedForwardKernel(recognise_feedforward(module), x)
    losses = kernel_losses([3], [kernel], torch.ones(40, dtype=torch.float64), 40, 1e3, 800)
    assert np.isnan(losses[:3]).all()
    assert losses[3] == 0.5
    assert np.isinf(losses[-1])
    assert not np.isnan(losses[3:]).any()


@pytest.mark.parametrize(
    ("options", "prediction"),
    [
        ({"optimizer": "adam"}, "none: optimizer 'adam' is not gradient descent"),
        ({"optimizer": torch.optim.RMSprop}, "none: optimizer 'RMSprop' is not gradient descent"),
        (
            {"batch_size": 8},
            "kernel, frozen between snapshots: for full-batch descent, but training used "
            "batches of 8",
        ),
    ],
)
def test_what_is_no_flow_is_labelled(options, prediction):
    analyzer = fit(**options)
    assert analyzer.prediction_ == prediction
    assert (analyzer.predicted_loss_curve_ is None) is prediction.startswith("none")
    table = analyzer.mode_table_[analyzer.mode_table_["iteration"] == 0]
    assert table["reason"].iloc[0] in prediction
    changes = analyzer.layer_table_["loss_change"].groupby("iteration", sort=False).sum().iloc[1:]
    losses = select(analyzer.results_, "network", "loss")["value"]
    np.testing.assert_allclose(changes, np.diff(losses), rtol=1e-9)


def test_simulate_starts_anywhere_and_predicts_other_rows():
    analyzer = fit(hidden_sizes=(12,), y=Y[:, 0])
    simulation = analyzer.simulate(21, NEW, start=9, record=[0, 21])
    np.testing.assert_allclose(simulation.outputs[1], analyzer.predict(X), atol=1e-12)
    np.testing.assert_allclose(simulation.outputs_new[1], analyzer.predict(NEW), atol=1e-12)
    np.testing.assert_allclose(simulation.loss[:-1], analyzer.loss_curve_[9:], atol=1e-12)
    with pytest.raises(
        ValueError, match="no snapshot of iteration 8; the.* are of iterations 0, 2, 9"
    ):
        analyzer.simulate(3, start=8)
    with pytest.raises(ValueError, match=r"record must lie between 0 and n_steps=3, got \[4\]"):
        analyzer.simulate(3, record=[4])


def test_simulate_explains_what_it_cannot_do():
    with pytest.raises(ValueError, match="the readout trains, and the closed systems"):
        fit(hidden_sizes=(5,), train_readout=True).simulate(3)
    adam = fit(hidden_sizes=(5,), optimizer="adam")
    with pytest.raises(ValueError, match="learning_rate must be given: optimizer 'adam'"):
        adam.simulate(3)
    assert adam.simulate(3, learning_rate=0.01).n_steps == 3
    # A trained readout is still a layer of the kernel, and the kernel predicts.
    readout = fit(hidden_sizes=(5,), train_readout=True)
    assert readout.prediction_.startswith("kernel")


def test_attribution_between_any_two_snapshots():
    analyzer = fit(optimizer="adam")
    losses = select(analyzer.results_, "network", "loss")["value"]
    table = analyzer.attribute(0, 30)
    assert table["loss_change"].sum() == pytest.approx(losses[30] - losses[0], rel=1e-10)
    assert list(table.index) == ["1", "2", "readout"]


# ---------------------------------------------------------------------- networks from elsewhere


def test_a_module_is_read_as_the_trainer_s_network():
    trained = fit()
    saved = SavedTraining(
        sequential(trained.network_),
        [sequential(trained.trainer_.network_at(s)).state_dict() for s in trained.snapshots_],
        iterations=[s.iteration for s in trained.snapshots_],
    )
    for given in (saved, clone(saved)):
        analyzer = GramFlowAnalyzer(given, random_state=0).fit(X, Y)
        pd.testing.assert_frame_equal(analyzer.layer_table_, trained.layer_table_)
        np.testing.assert_array_equal(analyzer.kernel_, trained.kernel_)
        assert analyzer.prediction_ == "none: it is unknown how the network was trained"
        assert len(analyzer.loss_curve_) == 0
    alone = GramFlowAnalyzer(sequential(trained.network_), random_state=0).fit(X, Y)
    np.testing.assert_array_equal(alone.kernel_, trained.kernel_)
    np.testing.assert_allclose(alone.predict(NEW), trained.predict(NEW))
    frozen = GramFlowAnalyzer(FrozenEstimator(trainer().fit(X, Y)), random_state=0)
    pd.testing.assert_frame_equal(frozen.fit(X, Y).layer_table_, trained.layer_table_)
    assert frozen.predicted_loss_curve_ is not None
    other = frozen.fit(X[:20], Y[:20])
    assert "the trainer was fitted on other rows" in other.prediction_
    for options in ({"batch_size": 8}, {}):
        batches = GramFlowAnalyzer(FrozenEstimator(trainer(**options).fit(X, Y)))
        assert batches.fit(X[:20], Y[:20]).predicted_loss_curve_ is None
    # As many rows, but others.
    assert GramFlowAnalyzer(batches.trainer).fit(-X, Y).predicted_loss_curve_ is None


def test_nested_modules_and_linear_layers_in_a_row():
    torch_state = torch.get_rng_state()
    inner = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True))
    module = nn.Sequential(inner, nn.Identity(), nn.Linear(5, 4), nn.Linear(4, 2)).double()
    torch.set_rng_state(torch_state)
    network = recognise_feedforward(module)
    assert [type(phi) for phi in network.activations] == [nn.ReLU, nn.Identity]
    analyzer = GramFlowAnalyzer(module).fit(X, Y)
    assert list(analyzer.layer_kernels_) == ["1", "2", "readout"]
    parameters = list(module.parameters())
    x = torch.as_tensor(X)
    rows = (torch.autograd.grad(f, parameters, retain_graph=True) for f in module(x).flatten())
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    np.testing.assert_allclose(analyzer.kernel_, J @ J.T, atol=1e-11)


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def mlp(*between, first=None):
    """Return a Linear, the given modules, and a Linear readout."""
    return nn.Sequential(first or nn.Linear(6, 5), *between, nn.Linear(5, 1))


def weight_norm():
    return nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))


def shared():
    square = nn.Linear(6, 6)
    return nn.Sequential(square, nn.ReLU(), square, nn.ReLU(), nn.Linear(6, 1))


def hooked():
    module = mlp(nn.ReLU())
    module.register_forward_hook(lambda _, __, output: output + 1)
    return module


UNSUPPORTED = {
    "layer '1', a BatchNorm1d, is not supported: only Lin": lambda: mlp(nn.BatchNorm1d(5)),
    "layer '0.1', a PReLU, is not supp": lambda: mlp(
        first=nn.Sequential(nn.Linear(6, 5), nn.PReLU())
    ),
    "a Dropout, is not supported": lambda: mlp(nn.Dropout(0.1)),
    "a Softmax, is not supported": lambda: mlp(nn.Softmax(dim=1)),
    "a ReLU, is not.*must follow a Linear": lambda: mlp(nn.Linear(6, 5), first=nn.ReLU()),
    "at least one hidden layer.*a single Linear": lambda: nn.Sequential(nn.Linear(6, 1)),
    "last layer must be a Linear": lambda: mlp(nn.ReLU())[:2],
    "last layer must be a Linear, the readout, got no layer": nn.Sequential,
    "must be a torch.nn.Sequential of Linear, ReLU.*got a GRU": lambda: nn.GRU(6, 5),
    "a Doubled, is not supp": lambda: Doubled(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)),
    "got a Parametrized": weight_norm,
    "layer '0', a ParametrizedLinear": lambda: mlp(nn.ReLU(), first=weight_norm()),
    "two layers share a weight": shared,
    "do not reproduce its outputs": hooked,
    "no parameter trains": lambda: mlp(nn.ReLU()).requires_grad_(False),
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_unsupported_modules_are_named(message):
    with torch.random.fork_rng():
        module = UNSUPPORTED[message]()
    with pytest.raises(UnsupportedNetworkError, match=message):
        GramFlowAnalyzer(module).fit(X, Y[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "cross_entropy"}, "loss must be 'mse' or 'auto' for a feed-forward network"),
        ({"readout": "2"}, "readout must be None for a feed-forward network"),
        ({"encoder": "0"}, "encoder must be None for a feed-forward network"),
        ({"iterations": [3, 2]}, "iterations must increase"),
        ({"checkpoints": [{}]}, r"checkpoints\[0\] does not fit Sequential"),
    ],
)
def test_saved_trainings_that_do_not_fit(options, message):
    module = oracle.make_mlp((6, 5, 2))
    options = {"checkpoints": [module.state_dict()] * 2} | options
    saved = SavedTraining(module, **options)
    with pytest.raises(ValueError, match=message):
        GramFlowAnalyzer(saved).fit(X, Y)


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("kind", ["trainer", "analyzer"])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            X,
            np.where(X[:, :1] == X[3, 0], np.nan, Y),
            r"Input y contains NaN: 2 .* at \[3, 0\]\.$",
        ),
        (np.where(X > 0, X, np.nan), Y, "Input X contains NaN"),
        (X, Y[:-1], "inconsistent numbers of samples"),
        (X, None, "requires y to be passed"),
        (X, np.array(["a", "b"] * 20), "y must contain real numbers.*one column per class"),
        (X, np.array(["a", 2.0] * 20, dtype=object), "y must contain finite real numbers"),
        (X, 1j * Y, "y must contain real numbers"),
        (X, Y[:, None], r"y must"),
        (X[:, None], Y, "dim 3"),
    ],
)
def test_bad_data_is_refused(kind, x, y, message):
    estimator = trainer() if kind == "trainer" else GramFlowAnalyzer(trainer())
    with pytest.raises(ValueError, match=message):
        estimator.fit(x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trainer__hidden_sizes": ()},
            "hidden_sizes must be a sequence of at least one.*depth 0",
        ),
        ({"trainer__hidden_sizes": 8}, "hidden_sizes must be a sequence of at least one.*got 8"),
        ({"trainer__hidden_sizes": iter((8, 7))}, "hidden_sizes must be a seq.*got <tuple_it"),
        ({"trainer__activation": "step"}, "activation must be one of 'relu', 'leaky_relu'.*step"),
        ({"trainer__snapshots": [50]}, "snapshots must lie between 0 and max_iter=30"),
        ({"rank_threshold": 0}, "rank_threshold == 0"),
        ({"gram_pairs": 0}, "gram_pairs == 0"),
        ({"trainer": StandardScaler()}, "trainer must be a FeedForwardTrainer, a SavedTraining"),
        ({"trainer": FrozenEstimator(StandardScaler())}, "trainer must be a FeedForwardTrainer"),
    ],
)
def test_bad_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GramFlowAnalyzer(trainer()).set_params(**options).fit(X, Y)


def test_frozen_trainers_must_fit_the_data():
    frozen_trainer = FrozenEstimator(trainer().fit(X, Y))
    for source, x, y, message in (
        (frozen_trainer, X[:, :5], Y, "X has 5 features, but the frozen trainer is expecting 6"),
        (frozen_trainer, X, Y[:, 0], "y has 1 outputs, but the frozen trainer's network has 2"),
        (oracle.make_mlp((6, 5, 2)), X[:, :5], Y, "X has 5 features, but the network takes 6"),
    ):
        with pytest.raises(ValueError, match=message):
            GramFlowAnalyzer(source).fit(x, y)


def test_extreme_but_allowed_data():
    for x, y in ((X[:1], Y[:1]), (X[:2], Y[:2, 0]), (X[:, :1], Y), (np.zeros((5, 3)), np.ones(5))):
        analyzer = GramFlowAnalyzer(trainer(), random_state=0).fit(x, y)
        assert np.isfinite(analyzer.transform(x)).all()
        results = analyzer.results_
        assert (results["value"].isna() == (results["reason"] != "")).all()
    still = GramFlowAnalyzer(trainer((3,), max_iter=0)).fit(X, Y)
    assert still.predicted_loss_curve_ is None


# ------------------------------------------------------------------- scikit-learn, pictures, data


def test_fit_leaves_the_given_alone():
    given = trainer(random_state=None)
    GramFlowAnalyzer(given, random_state=0).fit(X, Y)
    assert given.random_state is None
    assert not hasattr(given, "network_")
    module = oracle.make_mlp((6, 5, 2))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    GramFlowAnalyzer(SavedTraining(module, [{k: 0 * v for k, v in before.items()}])).fit(X, Y)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_displays_draw_the_tables():
    analyzer = fit(hidden_sizes=(8, 7, 6), y=Y[:, 0])
    display = GramDisplay.from_estimator(analyzer, ax=Figure().subplots(1, 3))
    loss, layers, modes = display.ax_
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), analyzer.loss_curve_)
    np.testing.assert_array_equal(loss.lines[2].get_ydata(), analyzer.predicted_loss_curve_)
    assert "kernel" in loss.get_legend().get_texts()[-1].get_text()
    shares = analyzer.layer_table_["decay_share"].unstack()
    first = layers.collections[0].get_paths()[0].vertices
    assert first[:, 1].max() == pytest.approx(shares["1"].max())
    legend = [text.get_text() for text in layers.get_legend().get_texts()]
    assert legend == ["layer 1", "layer 2", "layer 3"]
    table = analyzer.mode_table_[analyzer.mode_table_["iteration"] == 0]
    table = table[table["loss_share"] > 1e-4].sort_values("eigenvalue")
    np.testing.assert_array_equal(modes.lines[1].get_xdata(), table["eigenvalue"])
    for line, column in zip(
        modes.lines[1:3], ("next_amplitude", "predicted_amplitude"), strict=True
    ):
        np.testing.assert_allclose(line.get_ydata(), table[column] / table["amplitude"])
    ax = Figure().subplots()
    alone = GramDisplay.from_estimator(analyzer, panel="layers", quantity="trace", ax=ax)
    assert alone.ax_ is ax
    assert ax.get_ylabel() == "share of tr K"
    for options, message in (
        ({"panel": "kernel"}, "panel must be one of"),
        ({}, "ax must hold 3"),
    ):
        with pytest.raises(ValueError, match=message):
            GramDisplay.from_estimator(analyzer, ax=ax, **options)


def test_one_snapshot_is_drawn():
    analyzer = GramFlowAnalyzer(oracle.make_mlp((6, 5, 4, 2))).fit(X, Y)
    display = GramDisplay.from_estimator(analyzer, ax=Figure().subplots(1, 3))
    display.figure_.canvas.draw()
    assert len(display.ax_[1].patches) == 2


def test_diabetes_by_layer():
    x, y = load_diabetes(return_X_y=True)
    given = FeedForwardTrainer((32, 32), max_iter=100, snapshots=3, learning_rate=0.05)
    analyzer = GramFlowAnalyzer(given, random_state=0).fit(scale(x), scale(y))
    assert analyzer.layer_table_.index.tolist() == [
        (i, layer) for i in (0, 9, 100) for layer in ("1", "2")
    ]
    np.testing.assert_allclose(analyzer.layer_table_["decay_share"].groupby("iteration").sum(), 1)
    assert analyzer.score(scale(x), scale(y)) > 0.45
    # The kernel, frozen between three snapshots, foresees most of what training gains.
    gained = analyzer.loss_curve_[0] - analyzer.loss_curve_[-1]
    gap = abs(analyzer.predicted_loss_curve_[-1] - analyzer.loss_curve_[-1])
    assert gap < 0.1 * gained


def test_digits_by_layer():
    x, labels = (a[:500] for a in load_digits(return_X_y=True))
    x = x[:, x.std(0) > 0]
    y = np.eye(10)[labels]
    given = FeedForwardTrainer((32, 32), max_iter=60, snapshots=2, learning_rate=0.1)
    analyzer = GramFlowAnalyzer(given, n_components=2, random_state=0).fit(scale(x), y)
    assert analyzer.eigenvectors_.shape == (5000, 2)
    losses = select(analyzer.results_, "network", "loss")["value"]
    changes = analyzer.layer_table_.loc[60, "loss_change"]
    assert changes.sum() == pytest.approx(losses[60] - losses[0], rel=1e-9)
    accuracy = (analyzer.predict(scale(x)).argmax(1) == labels).mean()
    assert accuracy > 0.5
