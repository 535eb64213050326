"""What of training is predicted, from which rows, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from torch import nn

from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
from kpflow_sklearn.analyzers.gram._prediction import unstable_remark

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 5))
Y = rng.standard_normal(40)
NEW = rng.standard_normal((7, 5))
OTHER_ROWS = "the trainer was fitted on other rows than those analysed"


def trainer(hidden_sizes=(8,), **options):
    settings = {"max_iter": 30, "snapshots": 3, "learning_rate": 0.05, "random_state": 0}
    return FeedForwardTrainer(hidden_sizes, **{**settings, **options})


def fit(hidden_sizes=(8,), x=X, y=Y, **options):
    return GramFlowAnalyzer(trainer(hidden_sizes, **options), random_state=0).fit(x, y)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 1.0),
        ({"batch_size": 64}, 1.0),
        ({"batch_size": 8}, 1.0),
        ({"snapshots": 1}, 1.0),
        ({}, 1e-9),
        ({"hidden_sizes": (8, 8)}, 1.0),
    ],
    ids=["full", "large_batch", "batches", "last_snapshot", "small", "deep"],
)
def test_training_is_not_predicted_on_rows_that_were_not_trained_on(options, scale):
    frozen = FrozenEstimator(trainer(**options).fit(X, scale * Y))
    for x, y in ((3 * X, scale * Y), (X, 2 * scale * Y), (X[::-1], scale * Y), (X[:30], Y[:30])):
        analyzer = GramFlowAnalyzer(frozen, random_state=0).fit(x, y)
        assert analyzer.predicted_loss_curve_ is None
        assert analyzer.prediction_ == f"none: {OTHER_ROWS}"
        modes = analyzer.mode_table_
        assert modes["predicted_amplitude"].isna().all()
        assert set(modes.loc[modes["next_iteration"].notna(), "reason"]) <= {OTHER_ROWS}
        if len(np.atleast_1d(options.get("hidden_sizes", 8))) == 1:
            with pytest.raises(ValueError, match=f"learning_rate must be given: {OTHER_ROWS}"):
                analyzer.simulate(3)
            assert analyzer.simulate(3, learning_rate=0.1).n_steps == 3


def test_the_same_rows_are_known_again_in_other_types():
    frozen = FrozenEstimator(trainer().fit(X.astype(np.float32), Y))
    for x, y in ((X.astype(np.float32).astype(float), Y), (np.asfortranarray(X, "f"), Y[:, None])):
        assert GramFlowAnalyzer(frozen).fit(x, y).prediction_ == "closed fields"
    # A batch that holds all rows is no batch.
    whole = fit(batch_size=40)
    assert whole.prediction_ == "closed fields"
    np.testing.assert_allclose(whole.predicted_loss_curve_, whole.loss_curve_, atol=1e-12)


def test_the_rate_is_that_of_the_fit():
    fitted = trainer().fit(X, Y)
    fitted.set_params(learning_rate=0.9, optimizer="adam", batch_size=3)
    analyzer = GramFlowAnalyzer(FrozenEstimator(fitted), random_state=0).fit(X, Y)
    assert analyzer.prediction_ == "closed fields"
    np.testing.assert_allclose(analyzer.predicted_loss_curve_, fitted.loss_curve_, atol=1e-12)
    np.testing.assert_allclose(analyzer.simulate(30).outputs[0], fitted.predict(X), atol=1e-12)


def test_results_do_not_follow_the_caller_s_arrays():
    x, y = X.copy(), Y.copy()
    analyzer = fit(x=x, y=y)

    def numbers():
        attributed = analyzer.attribute(0, 30)["loss_change"].sum()
        return analyzer.kernel_.trace(), analyzer.simulate(30).loss[-1], attributed

    before = numbers()
    x *= 2
    y[:] = 0
    assert numbers() == before
    assert analyzer.eigenvalues_.sum() == pytest.approx(before[0])


def test_the_last_snapshot_alone_predicts_nothing():
    for options in ({"snapshots": 1}, {"max_iter": 0}, {"snapshots": [30]}):
        analyzer = fit(**options)
        assert analyzer.predicted_loss_curve_ is None
        assert analyzer.prediction_ == (
            "none: no update was made after the first snapshot; keep an earlier one"
        )


def test_simulate_says_first_why_the_fields_do_not_close():
    batches = fit(batch_size=7)
    with pytest.raises(ValueError, match="must be given: training used batches of 7, and"):
        batches.simulate(3)
    assert batches.simulate(3, learning_rate=0.05).n_steps == 3
    with pytest.raises(ValueError, match="3 hidden layers the fields do not determine"):
        fit((4, 4, 4), optimizer="adam").simulate(3)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(ValueError, match=r"module\[-1\]\.requires_grad_\(False\)"):
        GramFlowAnalyzer(module).fit(X, Y).simulate(3)
    module[-1].requires_grad_(False)
    assert GramFlowAnalyzer(module).fit(X, Y).simulate(3, learning_rate=0.1).n_steps == 3


def test_bfloat16_modules_predict():
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1)).bfloat16()
    predicted = GramFlowAnalyzer(module).fit(X, Y).predict(X)
    expected = module(torch.as_tensor(X, dtype=torch.bfloat16)).detach()[:, 0]
    assert predicted.dtype == np.float32
    np.testing.assert_array_equal(predicted, expected.float())


def test_a_simulation_that_overflows_stops_and_says_so():
    analyzer = fit(activation="identity")
    simulation = analyzer.simulate(300, NEW, learning_rate=1e3, record=[0, 300])
    assert 5 < simulation.n_steps < 300
    assert simulation.stopped == (
        f"the loss overflows in step {simulation.n_steps + 1}; take a smaller learning_rate"
    )
    assert np.isfinite(simulation.loss).all()
    assert len(simulation.loss) == simulation.n_steps + 1
    assert simulation.recorded == [0, simulation.n_steps]
    assert np.isfinite(simulation.outputs[-1]).all()
    assert len(simulation.flips) == simulation.n_steps


def test_a_closed_prediction_that_overflows_ends_in_infinity():
    with pytest.warns(ConvergenceWarning):
        analyzer = fit(activation="identity", learning_rate=1e3, max_iter=300, snapshots=range(99))
    # The same numbers, but for the rounding that decides where they overflow.
    finite = np.isfinite(analyzer.predicted_loss_curve_)
    assert finite[:20].all()
    np.testing.assert_allclose(
        analyzer.predicted_loss_curve_[finite], analyzer.loss_curve_[finite], rtol=1e-6
    )


def test_a_frozen_kernel_that_diverges_is_said_to():
    analyzer = fit((8, 8, 8), learning_rate=3.0, snapshots=[0, 1, 10, 30])
    modes = analyzer.mode_table_
    rates = modes[modes["mode"] == 0].set_index("iteration")["eigenvalue"] * 3.0 / 40
    above = [start for start in (0, 1, 10) if rates[start] > 2]
    assert above
    assert "eta lambda_max / N is above 2; keep more early snapshots" in analyzer.prediction_
    assert f"diverges from iteration {above[0]} to " in analyzer.prediction_
    grows = modes["reason"].str.contains("eta lambda / N is above 2")
    steep = (3.0 * modes["eigenvalue"] / 40 > 2) & modes["next_iteration"].notna()
    assert (grows == steep).all()
    assert fit((8, 8, 8), learning_rate=0.01).prediction_ == "kernel, frozen between snapshots"


def test_intervals_in_which_a_frozen_kernel_diverges_are_joined():
    said = unstable_remark([0, 1, 10, 20, 30], [3, 2.1, 2, 7, 9], 30)
    assert "from iteration 0 to 10, 20 to 30, where" in said
    assert unstable_remark([0, 1], [2, 1], 30) == ""
    said = unstable_remark([0, 1], [1, np.nan], 30)
    assert said == "lambda_max is unknown at iteration 1: the prediction may diverge"


@pytest.mark.filterwarnings("ignore:the gradient vanished")
def test_modes_of_huge_steps_are_numbers_or_have_a_reason():
    with np.errstate(over="raise", invalid="raise"):
        analyzer = fit((8, 8, 8), learning_rate=10.0, max_iter=800)
    modes = analyzer.mode_table_
    missing = modes[["next_amplitude", "predicted_amplitude"]].isna().any(axis=1)
    assert (modes["reason"][missing] != "").all()
    assert np.isfinite(modes[["amplitude", "loss_share"]]).all(axis=None)
