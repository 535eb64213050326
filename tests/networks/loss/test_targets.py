"""The forms of y: the target of each step, and its weight in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, SavedTraining, linearize
from kpflow_sklearn.networks import TargetEncoder, Targets

N_TRIALS, N_STEPS, N_FEATURES = 4, 3, 2
rng = np.random.default_rng(0)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
ONES = np.ones((N_TRIALS, N_STEPS))
# Lengths 3, 2, 1, 1: seven valid steps, three of them with a successor.
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
LAST = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
HAS_NEXT = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
AT_END = np.array([0, 0, 1]) * ONES

VALUES = rng.standard_normal((N_TRIALS, N_STEPS, 2))
CLASSES = np.array([[3, 5, 5], [9, 3, 5], [3, 3, 3], [9, 9, 5]])
LABELS = np.array(["up", "down", "up", "left"])
FLAGS = np.array([True, False, False, True])
NUMBERS = np.array([0.5, -1.0, 2.0, 0.0])
NEXT = np.concatenate([X[:, 1:], 0 * X[:, :1]], axis=1)


def repeat(values: np.ndarray) -> np.ndarray:
    """Return the trials' values at every step."""
    return np.repeat(np.asarray(values)[:, None], N_STEPS, axis=1)


@dataclass(frozen=True)
class Form:
    """One form of y with the targets that it should become."""

    y: np.ndarray | list | None
    loss: str
    values: np.ndarray
    weight: np.ndarray
    mask: np.ndarray | None = None
    classes: list | None = None
    given: str = "auto"


NAMES = ["down", "left", "up"]
OF_LABELS = "cross_entropy", repeat([2, 0, 2, 1])
FORMS = {
    "value per step": Form(VALUES, "mse", VALUES, ONES),
    "value per step, masked": Form(VALUES, "mse", VALUES, MASK, MASK),
    "integer values": Form(np.ones_like(VALUES, int), "mse", np.ones_like(VALUES), ONES),
    "class per step": Form(
        CLASSES, "cross_entropy", np.searchsorted([3, 5, 9], CLASSES), ONES, classes=[3, 5, 9]
    ),
    "class per step, masked": Form(
        CLASSES, "cross_entropy", np.searchsorted([3, 5, 9], CLASSES), MASK, MASK, [3, 5, 9]
    ),
    "number per trial": Form(NUMBERS, "mse", repeat(NUMBERS[:, None]), 3 * AT_END),
    # N is 7 and four targets are asked for.
    "number per trial, masked": Form(NUMBERS, "mse", repeat(NUMBERS[:, None]), LAST * 7 / 4, MASK),
    "label per trial": Form(LABELS, *OF_LABELS, 3 * AT_END, classes=NAMES),
    "label per trial, masked": Form(LABELS, *OF_LABELS, LAST * 7 / 4, MASK, NAMES),
    "label per trial, as a list": Form(list(LABELS), *OF_LABELS, 3 * AT_END, classes=NAMES),
    "flag per trial": Form(
        FLAGS, "cross_entropy", repeat([1, 0, 0, 1]), 3 * AT_END, classes=[False, True]
    ),
    "integer per trial": Form(
        np.array([7, 1, 7, 7]), "cross_entropy", repeat([1, 0, 1, 1]), 3 * AT_END, classes=[1, 7]
    ),
    "integer per trial, as a number": Form(
        np.array([7, 1, 7, 7]), "mse", repeat([[7.0], [1], [7], [7]]), 3 * AT_END, given="mse"
    ),
    "next input": Form(None, "mse", NEXT, np.array([1.5, 1.5, 0]) * ONES),
    # Of the seven valid steps three have a successor.
    "next input, masked": Form(None, "mse", NEXT, HAS_NEXT * 7 / 3, MASK),
}


def encode(form: Form, **options) -> tuple[TargetEncoder, Targets]:
    encoder = TargetEncoder(form.given).fit(X, form.y)
    return encoder, encoder.encode(X, form.y, mask=form.mask, **options)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_becomes_values_and_weights(name):
    form = FORMS[name]
    encoder, targets = encode(form)
    assert encoder.loss_ == form.loss
    asked = form.weight > 0
    np.testing.assert_array_equal(targets.values[asked], form.values[asked])
    np.testing.assert_allclose(targets.weight, form.weight, rtol=1e-14)
    # The weights sum to N, so that (1/N) sum of w l is the mean over the targets.
    valid = ONES if form.mask is None else form.mask
    assert targets.weight.sum() == pytest.approx(valid.sum(), rel=1e-14)
    if form.classes is None:
        assert encoder.classes_ is None
        assert encoder.n_outputs_ == form.values.shape[-1]
    else:
        assert list(encoder.classes_) == form.classes
        assert encoder.n_outputs_ == len(form.classes)
        assert targets.values.dtype.kind == "i"


@pytest.mark.parametrize("name", FORMS)
def test_perfect_outputs_decode_to_y_and_score_one(name):
    form = FORMS[name]
    encoder, targets = encode(form)
    outputs = targets.values
    if form.classes is not None:
        outputs = np.eye(encoder.n_outputs_)[outputs]
    if encoder.form_ == "last_step":  # The outputs of the other steps must not matter.
        outputs = np.where((form.weight > 0)[..., None], outputs, -1 - outputs)
    decoded = encoder.decode(outputs, form.mask)
    if form.y is not None:
        assert decoded.shape == np.shape(form.y)
        # The padding contains no targets.
        asked = form.weight > 0 if np.ndim(form.y) > 1 else ...
        np.testing.assert_array_equal(decoded[asked], np.asarray(form.y)[asked])
    assert encoder.score(X, form.y, outputs, mask=form.mask) == 1


@pytest.mark.parametrize("name", ["value per step, masked", "number per trial, masked"])
def test_only_steps_with_a_target_are_scored(name):
    form = FORMS[name]
    encoder, targets = encode(form)
    wrong = np.where((form.weight > 0)[..., None], targets.values, 100.0)
    assert encoder.score(X, form.y, wrong, mask=form.mask) == 1
    worse = targets.values + 1.0
    assert encoder.score(X, form.y, worse, mask=form.mask) < 1


@pytest.mark.parametrize("name", ["class per step", "label per trial, masked"])
def test_accuracy_is_over_the_steps_with_a_target(name):
    form = FORMS[name]
    encoder, targets = encode(form)
    guess = np.eye(encoder.n_outputs_)[np.full((N_TRIALS, N_STEPS), 2)]
    expected = (targets.values[form.weight > 0] == 2).mean()
    assert 0 < expected < 1
    assert encoder.score(X, form.y, guess, mask=form.mask) == pytest.approx(expected)


WEIGHT = np.random.default_rng(1).uniform(0.5, 2, (N_TRIALS, N_STEPS))
GRACE = WEIGHT * np.array([0, 1, 1])
BY_OUTPUT = np.stack([GRACE, WEIGHT * MASK], axis=-1)
WEIGHTED = {
    "value per step": [WEIGHT, GRACE, BY_OUTPUT, 1e-30 * GRACE],
    "value per step, masked": [WEIGHT, GRACE, BY_OUTPUT, BY_OUTPUT * [0, 1]],
    "number per trial": [WEIGHT, WEIGHT[..., None]],
    "class per step": [WEIGHT, GRACE],
    "label per trial, masked": [WEIGHT],
}


@pytest.mark.parametrize(
    ("name", "loss_weight"), [(name, w) for name, weights in WEIGHTED.items() for w in weights]
)
def test_the_score_is_weighted_as_the_loss_is(name, loss_weight):
    form = FORMS[name]
    encoder, targets = encode(form)
    n_outputs = encoder.n_outputs_
    w = np.broadcast_to(
        loss_weight if loss_weight.ndim == 3 else loss_weight[..., None],
        (N_TRIALS, N_STEPS, n_outputs),
    ) * (form.weight > 0)[..., None]  # fmt: skip
    outputs = np.random.default_rng(2).standard_normal(w.shape)
    if form.classes is not None:
        right = outputs.argmax(-1) == targets.values
        expected = (w[..., 0] * right).sum() / w[..., 0].sum()
    else:
        y = targets.values
        mean = (w * y).sum((0, 1)) / np.maximum(w.sum((0, 1)), 1e-300)
        error, spread = ((w * d**2).sum((0, 1)) for d in (y - outputs, y - mean))
        counts = w.any((0, 1))
        expected = (1 - error[counts] / spread[counts]).mean()
    # What stands where the weight is zero must not matter.
    unused = np.where(w > 0, outputs, 1e6)
    outputs = outputs if form.classes is not None else unused
    given = {"mask": form.mask, "loss_weight": loss_weight}
    assert encoder.score(X, form.y, outputs, **given) == pytest.approx(expected, rel=1e-9)
    assert encoder.score(X, form.y, outputs, mask=form.mask) != pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("value per step", (N_TRIALS, N_STEPS)),
        ("value per step, masked", (N_TRIALS, N_STEPS, 2)),
        ("number per trial", (N_TRIALS, N_STEPS, 1)),
        ("label per trial, masked", (N_TRIALS, N_STEPS)),
        ("next input", (N_TRIALS, N_STEPS, N_FEATURES)),
    ],
)
def test_loss_weight_multiplies_the_weight(name, shape):
    form = FORMS[name]
    extra = rng.uniform(0.1, 2, shape)
    weight = encode(form, loss_weight=extra)[1].weight
    without = form.weight if len(shape) == 2 else np.asarray(form.weight)[..., None]
    np.testing.assert_allclose(weight, without * extra, rtol=1e-14)


@pytest.mark.parametrize("y, values", [(VALUES[:, 0], VALUES[:, :1]), (None, X[:, :1])])
def test_single_steps_take_rows_of_values_and_reconstruct_their_input(y, values):
    encoder = TargetEncoder().fit(X[:, :1], y, single_step=True)
    targets = encoder.encode(X[:, :1], y, single_step=True)
    np.testing.assert_array_equal(targets.values, values)
    np.testing.assert_array_equal(targets.weight, ONES[:, :1])
    if y is not None:
        np.testing.assert_array_equal(encoder.decode(values, None), y)


def test_the_precision_is_that_of_X():
    targets = TargetEncoder().fit(X, VALUES).encode(X.astype(np.float32), VALUES)
    assert targets.values.dtype == targets.weight.dtype == np.float32


def test_trials_are_selected_by_index():
    part = encode(FORMS["value per step, masked"])[1][np.array([2, 0])]
    np.testing.assert_array_equal(part.values, np.where(MASK[..., None], VALUES, 0)[[2, 0]])
    np.testing.assert_array_equal(part.weight, MASK[[2, 0]])


BAD_Y = {
    "too few trials": (VALUES[:2], "auto", "y has 2 trials and X has 4"),
    "other steps": (VALUES[:, :2], "auto", r"y must have shape \(4, 3, n_out.* got .*\(4, 2, 2\)"),
    "floats per step, 2-D": (VALUES[..., 0], "auto", r"got .*\(4, 3\)\. .*give y\[:, :, None\]"),
    "strings per step": (np.full((4, 3), "a"), "auto", r"\(4, 3\) with integer classes.* got <U1"),
    "NaN": (VALUES * np.nan, "auto", "y contains NaN"),
    "NaN in a number per trial": (NUMBERS * np.nan, "auto", "y contains NaN"),
    "infinity": (np.full_like(VALUES, np.inf), "auto", "y contains infinity"),
    "values as classes": (VALUES, "cross_entropy", r"'cross_entropy' needs y .* got .*\(4, 3, 2"),
    "numbers as labels": (NUMBERS, "cross_entropy", "continuous"),
    "integers per step as numbers": (CLASSES, "mse", r"y .*shape.* \(4, 3\)"),
    "labels as numbers": (LABELS, "mse", "loss='mse' needs numbers in y, got dtype <U4"),
    "no labels": (None, "cross_entropy", "loss='cross_entropy' needs y, got None"),
    "unknown loss": (VALUES, "mae", "loss must be one of 'auto', 'mse', .*, got 'mae'"),
}


@pytest.mark.parametrize("name", BAD_Y)
def test_fit_refuses(name):
    y, loss, message = BAD_Y[name]
    with pytest.raises(ValueError, match=message):
        TargetEncoder(loss).fit(X, y)


BAD_LATER = {
    "y appears": ("next input", VALUES, "y must be None, as it was on fit"),
    "y disappears": ("value per step", None, "y is needed, got None"),
    "other form": ("value per step", NUMBERS, "y must have 3 dimensions as on fit, got 1"),
    "other outputs": ("value per step", VALUES[..., :1], "y must have 2 outputs as on fit, got 1"),
    "new label": ("label per trial", ["up", "up", "up", "east"], "not seen on fit: .*east"),
}


@pytest.mark.parametrize("name", BAD_LATER)
def test_encode_refuses(name):
    form, y, message = BAD_LATER[name]
    encoder = TargetEncoder().fit(X, FORMS[form].y)
    with pytest.raises(ValueError, match=message):
        encoder.encode(X, y)


def test_there_must_be_a_next_input():
    one_step = np.array([[True, False, False]] * N_TRIALS)
    with pytest.raises(ValueError, match="y=None predicts the next input, but mask leaves one"):
        TargetEncoder().fit(X, None).encode(X, None, mask=one_step)


BAD_WEIGHTS = {
    "negative": ("value per step", -ONES, "loss_weight must be non-negative.* from -1 to -1"),
    "zero on all targets": (
        "number per trial",
        1 - AT_END,
        "loss_weight must .* where there is a",
    ),
    "all zero": ("value per step", 0 * ONES, "loss_weight must .* at least one positive"),
    "of trials": ("value per step", ONES[:, 0], r"\(4, 3\) or \(4, 3, 2\), got \(4,\)"),
    "of logits": ("class per step", np.ones((4, 3, 3)), r"shape \(4, 3\), got \(4, 3, 3\)"),
    "NaN": ("value per step", ONES * np.nan, "loss_weight contains NaN"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_loss_weight_refuses(name):
    form, weight, message = BAD_WEIGHTS[name]
    encoder = TargetEncoder().fit(X, FORMS[form].y)
    with pytest.raises(ValueError, match=message):
        encoder.encode(X, FORMS[form].y, loss_weight=weight)


IGNORING = {  # Five distinct labels for five outputs, one of them torch's ignore_index.
    "per step": np.where(
        np.eye(4, 5, 1, dtype=int) > 0, -100, np.arange(20).reshape(4, 5) % 4 + 1
    ),
    "per trial": np.array([1, -100, 3, 2]),
    "per trial, as numbers": np.array([1.0, -100.0, 3.0, 2.0]),
}
READERS = {
    "a trainer": lambda saved, X, y, clean: RecurrentTrainer(max_iter=1, loss=saved.loss).fit(
        X, y
    ),
    "a saved network": lambda saved, X, y, clean: saved.fit(X, y),
    "its score": lambda saved, X, y, clean: saved.fit(X, clean).score(X, y),
    "error": lambda saved, X, y, clean: linearize(saved.network, X).error(y, loss="cross_entropy"),
    "an analyzer": lambda saved, X, y, clean: KPFlowAnalyzer(saved, random_state=0).fit(X, y),
    "an analysis set": lambda saved, X, y, clean: KPFlowAnalyzer(saved, random_state=0).fit(
        X, clean, analysis_set={"X": X, "y": y}
    ),
}


@pytest.mark.parametrize("form", IGNORING)
@pytest.mark.parametrize("reader", READERS)
def test_the_label_that_torch_ignores_is_refused_wherever_labels_are_read(reader, form):
    y = IGNORING[form]
    n_outputs = 5 if y.dtype.kind == "i" else 3  # Labels that are floats name every output.
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {"rnn": nn.GRU(2, 3, batch_first=True), "out": nn.Linear(3, n_outputs)}
    )
    saved = SavedTraining(network, layout="trials_first", loss="cross_entropy")
    X = np.random.default_rng(0).standard_normal((4, 5, 2)).astype(np.float32)
    clean = np.where(y == -100, y.max(), y)
    with pytest.raises(ValueError, match="y.* holds the label -100 at .* targets.*loss_weight"):
        READERS[reader](saved, X, y, clean)


def test_the_advice_on_the_label_that_torch_ignores_leaves_these_steps_out():
    y = IGNORING["per step"]
    X = np.random.default_rng(0).standard_normal((*y.shape, 2))
    encoder = TargetEncoder().fit(X, clean := np.where(y == -100, y.max(), y))
    targets = encoder.encode(X, clean, loss_weight=(y != -100))
    np.testing.assert_array_equal(targets.weight > 0, y != -100)
    ends = np.array([[1, 2, 3, 4, -100]] * 4)  # Labels on masked steps may be anything.
    assert list(TargetEncoder().fit(X, ends, mask=ends != -100).classes_) == [1, 2, 3, 4]
    signs = np.array([1, -1, -1, 1])  # The labels of scikit-learn's binary classifiers.
    assert list(TargetEncoder().fit(X, signs).classes_) == [-1, 1]
