"""Feed-forward networks at the limits: dead, overflowing, huge steps, few pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.sparse.linalg import ArpackError

from kpflow_sklearn import CheckpointError, FeedForwardTrainer, GramFlowAnalyzer, SavedTraining
from kpflow_sklearn.plotting import GramDisplay
from kpflow_sklearn.results import select
from tests.oracles import gram_oracle as oracle

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 5))
Y = rng.standard_normal(40)


def check_reasons(analyzer):
    results = analyzer.results_
    assert (results["value"].isna() == (results["reason"] != "")).all()
    assert np.isfinite(results["value"].dropna()).all()


def overflowing(sizes, **options):
    """Return a module with its state and one in which the numbers overflow."""
    module = oracle.make_mlp(sizes, **options)
    small = module.state_dict()
    return module, small, {name: 1e150 * value for name, value in small.items()}


@pytest.mark.parametrize("max_kernel_size", [20, 1500])
def test_a_dead_network_has_a_kernel_of_zeros(max_kernel_size):
    module = oracle.make_mlp((5, 8, 1))
    with torch.no_grad():
        module[0].bias.fill_(-1e3)
    analyzer = GramFlowAnalyzer(module, max_kernel_size=max_kernel_size).fit(X, Y)
    assert not analyzer.eigenvalues_.any()
    vectors = analyzer.eigenvectors_
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(10), atol=1e-12)
    np.testing.assert_array_equal(analyzer.transform(X), np.zeros((40, 10)))
    check_reasons(analyzer)


@pytest.mark.parametrize("max_kernel_size", [20, 1500])
def test_a_kernel_that_overflows_is_missing(max_kernel_size):
    module, small, large = overflowing((5, 8, 6, 1))
    for states in ([small, large], [large]):
        saved = SavedTraining(module, states)
        analyzer = GramFlowAnalyzer(saved, max_kernel_size=max_kernel_size).fit(X, Y)
        row = select(analyzer.results_, "K", "rank").iloc[-1]
        assert row["reason"] == "the numbers overflow"
        assert analyzer.n_components_ == 0
        assert analyzer.transform(X).shape == (40, 0)
        assert analyzer.mode_table_.shape == (10 * (len(states) - 1), 9)
        check_reasons(analyzer)


def test_a_kernel_of_low_rank_is_found_by_products():
    module = oracle.make_mlp((1, 1, 1), bias=False)
    with torch.no_grad():
        module[0].weight.fill_(1.0)
    x = np.abs(X[:, :1])
    dense = GramFlowAnalyzer(module).fit(x, Y)
    free = GramFlowAnalyzer(module, max_kernel_size=12).fit(x, Y)
    np.testing.assert_allclose(free.eigenvalues_, dense.eigenvalues_[:10], atol=1e-10)


def test_numbers_that_overflow_are_not_called_zero():
    module, small, large = overflowing((5, 8, 6, 1), train_readout=True)
    analyzer = GramFlowAnalyzer(SavedTraining(module, [small, large])).fit(X, Y)
    later = analyzer.results_[analyzer.results_["iteration"] == 1].set_index("quantity")
    for quantity in ("loss", "trace", "trace_share", "decay_share", "balance_drift"):
        assert set(later.loc[[quantity], "reason"]) == {"the numbers overflow"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_checkpoints_that_are_not_finite_are_refused_by_index(bad):
    module = oracle.make_mlp((5, 8, 1))
    good = {name: value.clone() for name, value in module.state_dict().items()}
    diverged = {name: bad * torch.ones_like(value) for name, value in good.items()}
    for states, index in (([good, diverged], 1), ([diverged, good], 0)):
        with pytest.raises(CheckpointError, match=rf"checkpoints\[{index}\] must be finite"):
            GramFlowAnalyzer(SavedTraining(module, states)).fit(X, Y)
    module.load_state_dict(diverged)
    with pytest.raises(CheckpointError, match="network must be finite, but '0.weight'"):
        GramFlowAnalyzer(module).fit(X, Y)
    # Outputs of float32 may overflow where the analysis, in float64, does not.
    large = {name: 1e20 * value for name, value in good.items()}
    analyzer = GramFlowAnalyzer(SavedTraining(module.float(), [good, large])).fit(X, Y)
    assert np.isfinite(analyzer.eigenvalues_).all()


def test_the_shares_of_a_fixed_readout_that_moved_are_listed():
    module = oracle.make_mlp((5, 8, 6, 1))
    first = {name: value.clone() for name, value in module.state_dict().items()}
    second = {name: 1.3 * value + 0.1 for name, value in first.items()}
    analyzer = GramFlowAnalyzer(SavedTraining(module, [first, second])).fit(X, Y)
    losses = select(analyzer.results_, "network", "loss")["value"]
    table = analyzer.layer_table_.loc[1]
    assert list(table.index) == ["1", "2", "readout"]
    assert table["loss_change"].sum() == pytest.approx(losses[1] - losses[0], rel=1e-10)
    np.testing.assert_allclose(table["loss_change"], analyzer.attribute(0, 1)["loss_change"])
    assert table.loc["readout", "trace"] == 0
    # One that stood still is no layer.
    assert list(GramFlowAnalyzer(module).fit(X, Y).layer_table_.loc[0].index) == ["1", "2"]


def texts(legend):
    return " ".join(text.get_text() for text in legend.get_texts()).replace("\n", " ")


def test_a_prediction_that_diverges_does_not_hide_training():
    given = FeedForwardTrainer(
        (8, 8, 8), learning_rate=3.0, max_iter=300, snapshots=5, random_state=0
    )
    analyzer = GramFlowAnalyzer(given, random_state=0).fit(X, Y)
    assert np.nanmax(analyzer.predicted_loss_curve_) > 1e3
    loss, _, modes = GramDisplay.from_estimator(analyzer, ax=Figure().subplots(1, 3)).ax_
    measured = np.concatenate(
        [analyzer.loss_curve_, select(analyzer.results_, "network", "loss")["value"]]
    )
    low, high = loss.get_ylim()
    assert measured.min() / 3 < low < measured.min()
    assert measured.max() < high < 3 * measured.max()
    assert analyzer.prediction_ in texts(loss.get_legend())
    left = np.concatenate([line.get_ydata() for line in modes.lines if line.get_marker() == "o"])
    low, high = modes.get_ylim()
    assert low < left.min()
    assert left.max() < high < 2 * max(left.max(), -left.min())
    title = modes.get_legend().get_title().get_text()
    assert title == "dots: measured, dashes: predicted (some out of range)"


def test_displays_mention_only_what_is_drawn():
    given = FeedForwardTrainer((8,), max_iter=30, random_state=0, optimizer="adam")
    for options, prediction, dashes in (
        ({"optimizer": "adam"}, None, False),
        ({"optimizer": "SGD", "snapshots": 1}, None, False),
        ({"optimizer": "sgd", "batch_size": 7}, "used batches of 7", True),
    ):
        analyzer = GramFlowAnalyzer(given.set_params(**options), random_state=0).fit(X, Y)
        display = GramDisplay.from_estimator(analyzer, ax=Figure().subplots(1, 3))
        display.figure_.canvas.draw()
        loss, _, modes = display.ax_
        said = texts(loss.get_legend())
        assert ("predicted" in said) == (prediction is not None)
        assert prediction is None or prediction in said
        legend = modes.get_legend()
        title = "" if legend is None else legend.get_title().get_text()
        assert ("dashes" in title) == dashes
        drawn = [line for line in modes.lines if line.get_marker() == "_"]
        assert bool(drawn) == dashes
        given.set_params(snapshots=10)


def test_an_iteration_that_fails_leaves_reasons(monkeypatch):
    def fails(*_, **__):
        raise ArpackError(-9999)

    monkeypatch.setattr("kpflow_sklearn.analyzers.gram._modes.eigsh", fails)
    given = FeedForwardTrainer((8, 6), max_iter=5, snapshots=2, random_state=0)
    analyzer = GramFlowAnalyzer(given, max_kernel_size=20, random_state=0).fit(X, Y)
    assert analyzer.n_components_ == 0
    assert analyzer.mode_table_.empty
    assert select(analyzer.results_, "K", "trace")["value"].notna().all()
    assert "lambda_max is unknown at iteration 0, 5" in analyzer.prediction_
    check_reasons(analyzer)
