"""A function of outputs and y as loss: its derivatives, its targets, and what is refused."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional

from kpflow_sklearn import (
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    linearize,
)

rng = np.random.default_rng(0)
B, T = 9, 6
X = rng.standard_normal((B, T, 2))
Y = X.cumsum(1)
BITS = (X[..., 0].cumsum(1) > 0).astype(float)  # One flip-flop, without an axis of outputs.
COUNTS = rng.poisson(2, (B, T, 2))
MASK = np.arange(T) < rng.integers(2, T + 1, B)[:, None]
WEIGHT = rng.uniform(0, 2, (B, T)) * (rng.uniform(size=(B, T)) > 0.2)
TASKS = np.repeat(["a", "b", "c"], 3)


def mse(outputs, y):
    return ((outputs - y) ** 2).mean(-1)


def bce(outputs, y):
    bits = y.to(outputs.dtype)
    return functional.binary_cross_entropy_with_logits(outputs[..., 0], bits, reduction="none")


def poisson(outputs, y):
    return functional.poisson_nll_loss(outputs, y, reduction="none").mean(-1)


def smooth(outputs, y):
    """Return the squared error with a penalty on its change in time, which couples steps."""
    change = functional.pad(outputs[:, 1:] - outputs[:, :-1], (0, 0, 1, 0))
    return mse(outputs, y) + 0.5 * (change**2).mean(-1)


class Weighted(nn.Module):
    """A binary cross entropy as a module."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.register_buffer("pos_weight", torch.tensor(weight))

    def forward(self, outputs, y):
        return bce(outputs, y) * (1 + self.pos_weight * y.to(outputs.dtype))


class Net(nn.Module):
    """A recurrent network of 64-bit floats."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.out = nn.GRU(2, 5, batch_first=True), nn.Linear(5, n_outputs)
        self.double()

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def trainer(loss, **options) -> RecurrentTrainer:
    settings = {"hidden_size": 5, "max_iter": 4, "snapshots": 2, "random_state": 0}
    return RecurrentTrainer(loss=loss, **settings | options)


LOSSES = {
    "one logit, floats": (bce, BITS, 1),
    "one logit, integers": (bce, BITS.astype(int), 1),
    "one logit, booleans": (bce, BITS > 0, 1),
    "module": (Weighted(2.0), BITS, 1),
    "counts": (poisson, COUNTS, 2),
    "coupled steps": (smooth, Y, 2),
    "partial": (partial(lambda p, o, y: (o - y).abs().pow(p).mean(-1), 3), Y, 2),
}


@pytest.mark.parametrize("about", [{}, {"mask": MASK, "loss_weight": WEIGHT}], ids=["", "masked"])
@pytest.mark.parametrize("name", LOSSES)
def test_error_and_gradient_are_those_of_autograd(name, about):
    loss, y, n_outputs = LOSSES[name]
    net = Net(n_outputs)
    lin = linearize(net, X, about.get("mask"))
    weight = about.get("loss_weight", np.ones((B, T))) * about.get("mask", np.ones((B, T)))
    target = torch.as_tensor(y)
    states = net.rnn(torch.as_tensor(X))[0]
    states.retain_grad()
    # The network alone, on the data as they are: padding comes last, so no valid step sees it.
    total = (torch.as_tensor(weight) * loss(net.out(states), target)).sum()
    total.backward()
    error = lin.error(y, loss=loss, loss_weight=about.get("loss_weight"))
    torch.testing.assert_close(error, states.grad, rtol=1e-10, atol=1e-12)
    flat = lin.J_theta.T @ (lin.P.T @ error)
    for key, gradient in lin.J_theta.to_parameters(flat).items():
        expected = net.rnn.get_parameter(key).grad / lin.n_valid
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


NEXT = np.concatenate([X[:, 1:], np.zeros((B, 1, 2))], axis=1)
ARRIVES = {
    "3-D": (Y, Y, 2, (B, T, 2)),
    "2-D": (Y[..., 0], Y[..., 0], 1, (B, T, 1)),
    "1-D": (Y[:, 0, 0], np.repeat(Y[:, :1, 0], T, axis=1), 1, (B, 1)),
    "none": (None, NEXT, 2, (B, T, 2)),
}


@pytest.mark.parametrize("name", ARRIVES)
def test_y_arrives_as_it_was_given(name):
    y, expected, n_outputs, shape = ARRIVES[name]
    given = []

    def loss(outputs, y):
        given.append(y)
        return (outputs**2).sum(-1) * (1 + y.abs().flatten(2).sum(-1) if y.ndim == 3 else 1)

    fitted = trainer(loss, dtype="float32", batch_size=None).fit(X, y)
    seen = given[-1]
    rows = {tuple(trial.flatten().tolist()) for trial in seen}
    assert rows == {tuple(trial.ravel().tolist()) for trial in expected.astype(np.float32)}
    assert seen.dtype == torch.float32 and seen.shape == expected.shape
    assert fitted.network_.n_outputs == n_outputs and fitted.predict(X).shape == shape


@pytest.mark.parametrize("y", [Y, Y[..., 0], Y[:, -1, 0], None], ids=["3-D", "2-D", "1-D", "none"])
def test_masked_steps_arrive_as_zeros(y):
    seen = []

    def loss(outputs, y):
        seen.append((outputs.detach(), y))
        return (outputs**2).sum(-1)

    trainer(loss, batch_size=None, tol=1e9).fit(X, y, mask=MASK)
    lengths = np.sort(MASK.sum(1))
    for values in seen[-1]:
        is_given = (values.reshape(B, T, -1) != 0).any(-1).sum(1).numpy()
        # Without y, the last valid step has no next input.
        missing = y is None and values is seen[-1][1]
        np.testing.assert_array_equal(np.sort(is_given), lengths - missing)


def test_only_the_last_valid_step_of_one_value_per_trial_counts():
    fitted = trainer(bce).fit(X, BITS[:, 0].astype(int), mask=MASK)
    outputs = fitted.network_(torch.as_tensor(X)).detach()
    last = outputs[np.arange(B), MASK.sum(1) - 1, 0].numpy()
    np.testing.assert_allclose(fitted.predict(X, mask=MASK)[:, 0], last)
    expected = np.logaddexp(0, last) - BITS[:, 0] * last
    score = fitted.score(X, BITS[:, 0].astype(int), mask=MASK)
    np.testing.assert_allclose(score, -expected.mean(), rtol=1e-12)


def test_score_is_minus_the_weighted_mean_and_padding_changes_nothing():
    fitted = trainer(bce).fit(X, BITS, mask=MASK)
    about = {"mask": MASK, "loss_weight": WEIGHT}
    logits = fitted.predict(X, mask=MASK)[..., 0]
    losses, weight = np.logaddexp(0, logits) - BITS * logits, MASK * WEIGHT
    score = fitted.score(X, BITS, **about)
    np.testing.assert_allclose(score, -(weight * losses).sum() / weight.sum(), rtol=1e-12)
    padded = [np.where(MASK.reshape(B, T, *[1] * (a.ndim - 2)), a, 1e6) for a in (X, BITS)]
    assert fitted.score(*padded, **about) == score
    again = trainer(bce).fit(*padded, mask=MASK)
    np.testing.assert_array_equal(again.loss_curve_, fitted.loss_curve_)


@pytest.mark.parametrize(
    ("options", "about", "tolerance"),
    [({}, {}, 0), ({"activity_l2": 0.3}, {"mask": MASK, "loss_weight": WEIGHT}, 1e-11)],
    ids=["", "penalty, mask, weight"],
)
def test_mse_as_a_function_gives_the_numbers_of_mse(options, about, tolerance):
    named, function = (
        KPFlowAnalyzer(trainer(loss, **options), axes=("time",), random_state=0).fit(X, Y, **about)
        for loss in ("mse", mse)
    )

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    same(named.loss_curve_, function.loss_curve_)
    same(named.results_["value"], function.results_["value"])
    same(*(a.verify(X, Y, **about)["error"] for a in (named, function)))
    tasks = [
        TaskAlignmentAnalyzer(FrozenEstimator(a.trainer_), random_state=0).fit(
            X, Y, tasks=TASKS, **about
        )
        for a in (named, function)
    ]
    same(*(t.results_["value"] for t in tasks))
    same(*(t.verify(X, Y, tasks=TASKS, **about)["error"] for t in tasks))


@pytest.mark.parametrize("name", ["one logit, integers", "coupled steps", "counts"])
def test_the_identities_hold_for_analyses_with_such_a_loss(name):
    loss, y, _ = LOSSES[name]
    saved = SavedTraining(Net(3 if loss is bce else 2), loss=loss)
    fitted = TaskAlignmentAnalyzer(saved, random_state=0).fit(X, y, tasks=TASKS, mask=MASK)
    checks = fitted.verify(X, y, tasks=TASKS, mask=MASK)
    assert checks["passed"].all(), checks
    assert len(checks) == 13


def test_verify_follows_a_loss_that_casts():
    def single(outputs, y):
        return mse(outputs.float(), y.float())

    options = {"analyses": ("lyapunov",), "random_state": 0}
    fitted = KPFlowAnalyzer(trainer(single, dtype="float32"), **options).fit(X, Y)
    with pytest.warns(
        UserWarning,
        match=r"the loss single does not compute in float64, .* verified in torch.float32",
    ):
        assert fitted.verify(X, Y)["passed"].all()


def test_searches_clones_and_pickles():
    search = GridSearchCV(trainer(bce), {"learning_rate": [1e-6, 0.1]}, cv=3).fit(X, BITS)
    assert search.best_params_ == {"learning_rate": 0.1} and search.best_score_ < 0
    best = search.best_estimator_
    assert clone(best).loss is bce and not is_classifier(best)
    assert pickle.loads(pickle.dumps(best)).score(X, BITS) == best.score(X, BITS)


# ---------------------------------------------------------------------------------- refusals


def in_place_outputs(outputs, y):
    return mse(outputs.mul_(2), y)


def in_place_y(outputs, y):
    return mse(outputs, y.add_(1))


def looks_ahead(outputs, y):
    return mse(outputs - outputs.mean(1, keepdim=True), y)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, y):
        return mse(outputs, y) * self.scale


REFUSED = {
    "scalar": (lambda o, y: nn.MSELoss()(o, y), r'got a tensor of shape \(\) .*reduction="none"'),
    "per output": (nn.MSELoss(reduction="none"), r"shape \(4, 6, 2\).*mean over the outputs"),
    "per trial": (lambda o, y: mse(o, y).mean(1), r"shape \(4,\).*do not average .* over steps"),
    "transposed": (lambda o, y: mse(o, y).T, r"shape \(6, 4\) .*reduce the axis of the outputs"),
    "array": (lambda o, y: mse(o, y).detach().numpy(), "got a ndarray; compute it .* of torch"),
    "None": (lambda o, y: None, "got a NoneType; compute it from outputs"),
    "cast": (lambda o, y: mse(o, y).float(), r"torch.float64, got .* torch.float32.*leave out"),
    "raises": (lambda o, y: mse(o, y[:3]), r"got a tensor of shape .*failed with RuntimeError: "),
    "one argument": (lambda o: o, r"failed with TypeError: .*1 positional argument"),
    "NaN": (lambda o, y: (o - 9).log().mean(-1), "is not finite on the first trials, got .* nan"),
    "infinite slope": (
        lambda o, y: mse(o, y) + (0 * o).sum(-1).sqrt(),
        "its derivative with respect to the outputs is not",
    ),
    "detached": (lambda o, y: mse(o.detach(), y), "is not differentiable with respect to the"),
    "comparison": (lambda o, y: (o > y).double().mean(-1), "is not differentiable"),
    "random": (lambda o, y: mse(functional.dropout(o), y), "got two that differ by up to"),
    "batch mean": (lambda o, y: mse(o, y) / mse(o, y).mean(), "must judge each trial on its"),
    "batch maximum": (lambda o, y: mse(o, y) / mse(o, y).max(), "must judge each trial on its"),
    "outputs in place": (in_place_outputs, "got outputs changed in place"),
    "y in place": (in_place_y, "got y changed in place"),
    "parameters": (Learned(), r"must not hold parameters that train, .*requires_grad_\(False\)"),
    "class": (nn.MSELoss, r"got <class .*an instance MSELoss\(\.\.\.\)"),
    "name": ("bce", r"must be one of 'auto', .* or a function .*, got 'bce'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_loss_per_trial_and_step_is_refused(name):
    loss, message = REFUSED[name]
    for fit in (
        lambda: trainer(loss, max_iter=0).fit(X, Y),
        lambda: SavedTraining(Net(2), loss=loss).fit(X, Y),
        lambda: linearize(Net(2), X).error(Y, loss=loss),
    ):
        before = Y.copy()
        with pytest.raises(ValueError, match=f"(?s)^loss.*{message}"):
            fit()
        np.testing.assert_array_equal(Y, before)


@pytest.mark.parametrize("shape", [(B, T), (B, B), (1, T), (1, 1)])
def test_shapes_that_broadcast_by_chance_are_refused(shape):
    # Outputs (n_trials, n_timesteps, 1) against y (n_trials, n_timesteps).
    inputs, y = rng.standard_normal((*shape, 2)), rng.standard_normal(shape)
    with pytest.raises(ValueError, match=r"^loss.*outputs\[\.\.\., 0\]"):
        trainer(mse, max_iter=0).fit(inputs, y)


def test_trials_are_told_apart_even_if_there_is_only_one():
    with pytest.raises(ValueError, match="must judge each trial on its own"):
        trainer(lambda o, y: mse(o, y) / mse(o, y).mean(0)).fit(X[:1], Y[:1])


def test_a_loss_that_looks_ahead_is_refused_where_steps_are_masked():
    fitted = trainer(looks_ahead, max_iter=1).fit(X, Y)
    message = "looks_ahead must not depend on masked steps"
    with pytest.raises(ValueError, match=message):
        fitted.score(X, Y, mask=MASK)
    with pytest.raises(ValueError, match=message):
        trainer(looks_ahead).fit(X, Y, mask=MASK)
    frozen = KPFlowAnalyzer(FrozenEstimator(fitted), random_state=0)
    with pytest.raises(ValueError, match=message):
        frozen.fit(X, Y, analysis_set={"X": X, "y": Y, "mask": MASK})


def test_a_flat_loss_is_warned_of():
    with pytest.warns(UserWarning, match="<lambda>.* is flat on the first trials"):
        trainer(lambda o, y: mse(o.round(), y), max_iter=0).fit(X, Y)


def weighted(outputs, y):
    weight = torch.tensor([1.0, 2.0]).to(outputs)
    return functional.cross_entropy(outputs.movedim(-1, 1), y, weight=weight, reduction="none")


def test_logits_of_classes_need_as_many_outputs():
    labels = BITS.astype(int)
    with pytest.raises(ValueError, match="loss: weighted.* give y as one-hot codes"):
        trainer(weighted).fit(X, labels)
    with pytest.raises(ValueError, match="For a single logit, give the loss .* as a function"):
        SavedTraining(Net(1)).fit(X, labels)
    saved = SavedTraining(Net(2), loss=weighted).fit(X, labels)
    logits = torch.as_tensor(saved.predict(X))
    expected = weighted(logits, torch.as_tensor(labels)).mean()
    assert saved.score(X, labels) == pytest.approx(-float(expected))


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (BITS.astype(str), {}, "y must hold numbers, because loss=bce receives it"),
        (np.where(BITS > 0, np.nan, 0), {}, "y contains NaN"),
        (BITS[:, :-1], {}, r"y must have shape \(9, 6, n_outputs\)"),
        (BITS, {"loss_weight": WEIGHT[..., None]}, "shape .* This loss is one number per step"),
    ],
)
def test_targets_that_do_not_suit_are_named(y, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(bce).fit(X, y, **options)


def test_scores_need_the_y_of_fit():
    fitted = trainer(poisson).fit(X, COUNTS)
    with pytest.raises(ValueError, match="y must have 2 values per step as on fit, got 1"):
        fitted.score(X, COUNTS[..., :1])


def test_outputs_are_not_sub_tasks_of_a_function(monkeypatch):
    monkeypatch.setattr(RecurrentTrainer, "fit", None)  # Nothing is trained in vain.
    with pytest.raises(ValueError, match="tasks must be given .* function, here mse"):
        TaskAlignmentAnalyzer(trainer(mse)).fit(X, Y)


def test_feedforward_networks_have_a_quadratic_loss():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="loss must be 'mse' or 'auto' .*, got <function mse"):
        GramFlowAnalyzer(SavedTraining(net, loss=mse)).fit(X[0], X[0, :, 0])
