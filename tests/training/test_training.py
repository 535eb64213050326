"""RecurrentTrainer: against training loops in plain torch, and the effect of each parameter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from kpflow_sklearn import RecurrentTrainer
from kpflow_sklearn._common.tensors import to_cpu
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.networks import RecurrentNetwork
from kpflow_sklearn.training import _run
from kpflow_sklearn.training._run import Batches
from kpflow_sklearn.training._snapshots import snapshot_iterations
from tests.oracles.cases import MyCell
from tests.tools.global_state import global_state

N_TRIALS, N_STEPS, N_FEATURES, N_OUTPUTS, N_UNITS = 12, 6, 2, 3, 4
rng = np.random.default_rng(3)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
LABELS = np.array(["left", "right", "up"])[rng.integers(0, 3, N_TRIALS)]
CLASSES = rng.integers(0, 3, (N_TRIALS, N_STEPS))
MASK = np.arange(N_STEPS) < rng.integers(1, N_STEPS + 1, N_TRIALS)[:, None]
WEIGHT = rng.uniform(0, 2, (N_TRIALS, N_STEPS))
WEIGHT[:, :2] = 0  # Such steps cost nothing, but they count in N and carry the states on.
X_TORCH, Y_TORCH, VALID = (torch.as_tensor(a) for a in (X, Y, MASK))

TORCH_CELLS: dict[str, Callable[..., nn.RNNBase]] = {
    "tanh": nn.RNN,
    "relu": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


def trainer(**options) -> RecurrentTrainer:
    """Return a small unfitted trainer; keywords replace its parameters."""
    defaults = dict(hidden_size=N_UNITS, max_iter=10, batch_size=None, snapshots=2, random_state=0)
    return RecurrentTrainer(**defaults | options)


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def assert_close(fitted: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-12):
    assert fitted.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(fitted[name], expected[name], rtol=0, atol=atol, msg=name)


# ------------------------------------------------------------------- against loops in plain torch


class PlainNetwork(nn.Module):
    """The same network from torch's own modules, with the same names."""

    def __init__(self, cell: str, n_layers: int, n_outputs: int, learn_initial_state: bool):
        super().__init__()
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make, options = TORCH_CELLS[cell], dict(batch_first=True, dtype=torch.float64)
            self.recurrent = make(N_FEATURES, N_UNITS, n_layers, **options)
            self.readout = nn.Linear(N_UNITS, n_outputs, dtype=torch.float64)
        n_states = N_UNITS * n_layers * (2 if cell == "lstm" else 1)
        z0 = torch.zeros(n_states, dtype=torch.float64)
        self.initial_state = nn.Parameter(z0) if learn_initial_state else None
        self.n_layers = n_layers

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return rates of the top layer and outputs."""
        start = None
        if self.initial_state is not None:
            layers = self.initial_state.reshape(self.n_layers, 1, -1)
            start = layers.expand(-1, len(inputs), -1).contiguous()
            if isinstance(self.recurrent, nn.LSTM):
                start = tuple(part.contiguous() for part in start.chunk(2, dim=-1))
        rates = self.recurrent(inputs, start)[0]
        return rates, self.readout(rates)


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Training:
    """One call of the trainer and the loss that it should minimise."""

    loss: Loss
    y: np.ndarray | None = field(default_factory=lambda: Y)
    options: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)
    optimizer: Callable = torch.optim.SGD
    weight_decay: float = 0.0
    clip: float | None = None

    @property
    def n_outputs(self) -> int:
        return N_FEATURES if self.y is None else N_OUTPUTS


def squares(valid: Tensor | slice = slice(None), weight: np.ndarray | float = 1.0) -> Loss:
    """Return the mean of the weighted squared error over valid steps."""
    w = torch.as_tensor(weight)
    return lambda rates, outputs: (w * (outputs - Y_TORCH) ** 2)[valid].mean()


def entropy_at(steps: Tensor | int) -> Loss:
    """Return the cross-entropy of the labels at one step per trial."""
    labels = torch.as_tensor(np.unique(LABELS, return_inverse=True)[1])
    trials = torch.arange(N_TRIALS)
    return lambda rates, outputs: functional.cross_entropy(outputs[trials, steps], labels)


def entropy_of_steps(rates: Tensor, outputs: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), torch.as_tensor(CLASSES).flatten())


def next_input(rates: Tensor, outputs: Tensor) -> Tensor:
    return functional.mse_loss(outputs[:, :-1], X_TORCH[:, 1:])


def with_rate_penalty(rates: Tensor, outputs: Tensor) -> Tensor:
    return MSE(rates, outputs) + 0.5 * (rates**2).mean()


MSE, STEP_WEIGHT, OUTPUT_WEIGHT = squares(), WEIGHT[..., None], WEIGHT[..., None] * [1, 2, 3]
ADAM, RMSPROP = torch.optim.Adam, torch.optim.RMSprop
TRAININGS = {
    **{cell: Training(MSE, options={"cell": cell}) for cell in TORCH_CELLS},
    "two layers": Training(MSE, options={"cell": "lstm", "n_layers": 2}),
    "trained initial state": Training(MSE, options={"learn_initial_state": True}),
    "trained initial state, lstm": Training(
        MSE, options={"cell": "lstm", "learn_initial_state": True}
    ),
    "mask": Training(squares(VALID), fit={"mask": MASK}),
    "loss_weight": Training(squares(weight=STEP_WEIGHT), fit={"loss_weight": WEIGHT}),
    "loss_weight of each output": Training(
        squares(weight=OUTPUT_WEIGHT), fit={"loss_weight": OUTPUT_WEIGHT}
    ),
    "mask and loss_weight": Training(
        squares(VALID, STEP_WEIGHT), fit={"mask": MASK, "loss_weight": WEIGHT}
    ),
    "labels": Training(entropy_at(-1), LABELS),
    "labels, mask": Training(entropy_at(VALID.sum(1) - 1), LABELS, fit={"mask": MASK}),
    "class of each step": Training(entropy_of_steps, CLASSES),
    "next input": Training(next_input, None),
    "activity_l2": Training(with_rate_penalty, options={"activity_l2": 0.5}),
    "grad_clip": Training(MSE, options={"grad_clip": 0.05}, clip=0.05),
    "sgd, weight_decay": Training(MSE, weight_decay=0.3),
    "adam": Training(MSE, options={"optimizer": "adam"}, optimizer=ADAM),
    "adam, weight_decay": Training(
        MSE, options={"optimizer": "adam"}, optimizer=ADAM, weight_decay=0.3
    ),
    "by its name in torch": Training(MSE, options={"optimizer": "RMSprop"}, optimizer=RMSPROP),
    "RMSprop": Training(MSE, options={"optimizer": RMSPROP}, optimizer=RMSPROP),
}


def plain_training(training: Training, network: PlainNetwork, n_steps: int) -> list[float]:
    """Train with a loop as anybody would write it; return the losses before each step."""
    options = {"lr": 0.1, "weight_decay": training.weight_decay}
    optimizer = training.optimizer(network.parameters(), **options)
    losses = []
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = training.loss(*network(X_TORCH))
        loss.backward()
        if training.clip is not None:
            assert nn.utils.clip_grad_norm_(network.parameters(), training.clip) > training.clip
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", TRAININGS)
def test_training_equals_a_plain_torch_loop(name):
    training = TRAININGS[name]
    options = {"optimizer": "sgd", "weight_decay": training.weight_decay} | training.options
    fitted = trainer(max_iter=4, learning_rate=0.1, **options)
    fitted.fit(X, training.y, **training.fit)
    plain = PlainNetwork(
        fitted.cell, fitted.n_layers, training.n_outputs, fitted.learn_initial_state
    )
    start = fitted.snapshots_[0].state
    plain.load_state_dict({k: start[k] for k in plain.state_dict()})
    losses = plain_training(training, plain, 4)
    np.testing.assert_allclose(fitted.loss_curve_, losses, rtol=1e-10)
    assert_close(parameters(fitted.network_), parameters(plain))
    moved = {k: float((p - start[k]).abs().max()) for k, p in parameters(plain).items()}
    assert min(moved.values()) > 1e-5


@pytest.mark.parametrize("cell", [MyCell, nn.GRUCell])
def test_a_callable_cell_trains_like_a_plain_torch_loop(cell):
    fitted = trainer(cell=cell, optimizer="sgd", learning_rate=0.1, max_iter=3).fit(X, Y)
    network = fitted.network_at(fitted.snapshots_[0])
    step, readout = network.recurrent, network.readout
    assert type(step) is cell
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        h, outputs = torch.zeros(N_TRIALS, N_UNITS, dtype=torch.float64), []
        for t in range(N_STEPS):
            h = step(X_TORCH[:, t], h)
            outputs.append(readout(h))
        optimizer.zero_grad()
        functional.mse_loss(torch.stack(outputs, 1), Y_TORCH).backward()
        optimizer.step()
    assert_close(parameters(fitted.network_), parameters(network))


# --------------------------------------------------------------------------- what comes out of it


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_falls_in_the_precision_of_X(dtype):
    X, y = make_memory_pro(16, stimulus=3, memory=3, response=3, random_state=0)
    fitted = trainer(hidden_size=12, max_iter=80, learning_rate=0.02, snapshots=3)
    fitted.fit(X.astype(dtype), y)
    assert fitted.loss_curve_[-1] < 0.3 * fitted.loss_curve_[0]
    torch_dtype = torch.float32 if dtype == np.float32 else torch.float64
    assert {p.dtype for p in fitted.network_.parameters()} == {torch_dtype}
    assert {t.dtype for s in fitted.snapshots_ for t in s.state.values()} == {torch_dtype}
    assert fitted.predict(X.astype(dtype)).dtype == dtype
    assert fitted.trajectories(X.astype(dtype)).dtype == dtype
    assert fitted.score(X.astype(dtype), y) > 0.5


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        (np.float32, None, torch.float32),
        (np.float16, None, torch.float64),
        (np.int64, None, torch.float64),
        (np.float64, "float32", torch.float32),
        (np.float32, "float64", torch.float64),
    ],
)
def test_dtype_decides_the_precision(given, dtype, expected):
    fitted = trainer(dtype=dtype, max_iter=1).fit((4 * X).astype(given), Y)
    assert fitted.network_.dtype == expected


@pytest.mark.parametrize(("batch_size", "max_iter"), [(None, 7), (4, 7), (5, 7), (None, 0)])
def test_iterations_are_parameter_updates(batch_size, max_iter):
    calls = []
    options = dict(max_iter=max_iter, batch_size=batch_size, constraint=calls.append)
    fitted = trainer(**options).fit(X, Y)
    assert fitted.n_iter_ == len(calls) == fitted.snapshots_[-1].iteration == max_iter
    assert fitted.loss_curve_.shape == (max_iter,)


# -------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize(
    ("snapshots", "max_iter", "expected"),
    [
        (4, 999, [0, 9, 99, 999]),  # even in log(1 + iteration)
        (2, 10, [0, 10]),
        (1, 10, [10]),
        (10, 2, [0, 1, 2]),
        (3, 0, [0]),
        ([0, 3, 8], 10, [0, 3, 8]),
        ([8, 3, 3], 10, [3, 8]),
        (np.array([5]), 10, [5]),
        (range(0, 11, 5), 10, [0, 5, 10]),
    ],
)
def test_which_iterations_are_kept(snapshots, max_iter, expected):
    assert snapshot_iterations(snapshots, max_iter) == expected


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"optimizer": "sgd"}])
def test_a_snapshot_is_the_network_after_so_many_updates(options):
    fitted = trainer(max_iter=9, snapshots=[0, 4, 9], **options).fit(X, Y)
    assert [s.iteration for s in fitted.snapshots_] == [0, 4, 9]
    for snapshot in fitted.snapshots_:
        shorter = trainer(max_iter=snapshot.iteration, **options).fit(X, Y)
        expected = dict(shorter.network_.state_dict())
        assert_close(snapshot.state, expected, atol=0)
        assert_close(dict(fitted.network_at(snapshot).state_dict()), expected, atol=0)
    assert_close(fitted.snapshots_[-1].state, dict(fitted.network_.state_dict()), atol=0)


def test_snapshots_share_no_memory_with_the_network():
    fitted = trainer().fit(X, Y)
    before = {k: v.clone() for k, v in fitted.snapshots_[-1].state.items()}
    with torch.no_grad():
        for p in fitted.network_.parameters():
            p.add_(1)
        for p in fitted.network_at(fitted.snapshots_[-1]).parameters():
            p.add_(1)
    assert_close(fitted.snapshots_[-1].state, before, atol=0)


# ------------------------------------------------------------------------- batches and randomness


@pytest.mark.parametrize(("n_samples", "batch_size"), [(12, 4), (12, 5), (3, 1)])
def test_every_pass_takes_every_trial_once_in_a_new_order(n_samples, batch_size):
    stream = Batches(n_samples, batch_size, torch.Generator().manual_seed(0))
    n_batches = -(-n_samples // batch_size)
    passes = [np.concatenate([next(stream) for _ in range(n_batches)]) for _ in range(3)]
    for order in passes:
        assert sorted(order) == list(range(n_samples))
    assert len({tuple(order) for order in passes}) == 3


@pytest.mark.parametrize("batch_size", [None, N_TRIALS, 1000])
def test_a_large_batch_is_the_full_batch(batch_size):
    stream = Batches(N_TRIALS, batch_size, torch.Generator().manual_seed(0))
    for _ in range(3):
        np.testing.assert_array_equal(next(stream), np.arange(N_TRIALS))


def test_minibatches_differ_from_the_full_batch():
    full, mini = trainer().fit(X, Y), trainer(batch_size=4).fit(X, Y)
    assert_close(mini.snapshots_[0].state, full.snapshots_[0].state, atol=0)
    assert np.abs(full.loss_curve_ - mini.loss_curve_).min() > 1e-6


STOCHASTIC = {
    "minibatches": {"batch_size": 4},
    "noise": {"noise_std": 0.1},
    "callable cell": {"cell": MyCell},
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_seed_decides_all_numbers(name):
    options = STOCHASTIC[name]
    first, again, other = (trainer(random_state=s, **options).fit(X, Y) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.loss_curve_, again.loss_curve_)
    assert_close(parameters(first.network_), parameters(again.network_), atol=0)
    assert not np.isclose(first.loss_curve_, other.loss_curve_).any()


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_without_an_integer_seed_every_fit_differs(random_state):
    first, second = (trainer(random_state=random_state).fit(X, Y) for _ in range(2))
    assert not np.isclose(first.loss_curve_, second.loss_curve_).any()


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_no_global_state_is_touched(name, random_state):
    before = global_state()
    trainer(random_state=random_state, **STOCHASTIC[name]).fit(X, Y).predict(X)
    assert global_state() == before


def test_the_global_seed_does_not_matter():
    curves = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            curves.append(trainer(cell=MyCell, batch_size=4).fit(X, Y).loss_curve_)
    np.testing.assert_array_equal(*curves)


# ------------------------------------------------------------------------------------- parameters


def test_noise_enters_the_training_and_not_the_prediction():
    quiet, noisy = trainer().fit(X, Y), trainer(noise_std=0.3).fit(X, Y)
    assert_close(noisy.snapshots_[0].state, quiet.snapshots_[0].state, atol=0)
    assert np.abs(noisy.loss_curve_ - quiet.loss_curve_).min() > 1e-4
    np.testing.assert_array_equal(noisy.predict(X), noisy.predict(X))
    with torch.no_grad():
        expected = noisy.network_(X_TORCH).numpy()
    np.testing.assert_allclose(noisy.predict(X), expected, atol=1e-14)


def test_noise_has_the_standard_deviation_asked_for():
    # Without recurrence z = tanh(W x + b) + noise, so the mean square grows by the variance.
    options = dict(cell="tanh", init_scale=0, hidden_size=16, max_iter=1, activity_l2=1e6)
    many = np.repeat(X, 20, axis=0)
    quiet, noisy = (
        trainer(noise_std=std, **options).fit(many).loss_curve_[0] / 1e6 for std in (0, 0.7)
    )
    # 23,040 draws: the standard error of their mean square is about 1 %.
    assert noisy - quiet == pytest.approx(0.7**2, rel=0.04)


def test_the_initial_state_is_trained_only_when_asked():
    fixed, learnt = trainer().fit(X, Y), trainer(learn_initial_state=True).fit(X, Y)
    assert "initial_state" not in parameters(fixed.network_)
    assert torch.count_nonzero(fixed.network_.initial_state) == 0
    assert torch.count_nonzero(learnt.snapshots_[0].state["initial_state"]) == 0
    assert torch.count_nonzero(learnt.network_.initial_state) == N_UNITS


def test_the_constraint_holds_after_every_update():
    def stay_non_negative(network):
        assert isinstance(network, RecurrentNetwork)
        assert not torch.is_grad_enabled()
        network.recurrent.weight_hh_l0.clamp_(min=0)

    options = dict(max_iter=6, snapshots=range(7), learning_rate=0.1)
    free = trainer(**options).fit(X, Y)
    fitted = trainer(constraint=stay_non_negative, **options).fit(X, Y)
    for snapshot in fitted.snapshots_[1:]:
        assert snapshot.state["recurrent.weight_hh_l0"].min() == 0
    assert free.snapshots_[-1].state["recurrent.weight_hh_l0"].min() < 0


@pytest.mark.parametrize("batch_size", [None, 5])
def test_tol_stops_once_the_mean_loss_of_a_pass_reaches_it(batch_size):
    options = dict(max_iter=60, learning_rate=0.02, batch_size=batch_size)
    full = trainer(**options).fit(X, Y).loss_curve_
    n_batches = 1 if batch_size is None else 3
    means = np.convolve(full, np.ones(n_batches) / n_batches, mode="valid")
    tol = means[:30].min() * 1.000001
    expected = int(np.argmax(means <= tol)) + n_batches
    fitted = trainer(tol=tol, **options).fit(X, Y)
    assert fitted.n_iter_ == expected < 60
    np.testing.assert_array_equal(fitted.loss_curve_, full[:expected])
    assert [s.iteration for s in fitted.snapshots_] == [0, expected]


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "sgd"}, {"noise_std": 0.1}, {"learn_initial_state": True, "cell": "lstm"}],
)
def test_warm_start_continues(options):
    whole = trainer(max_iter=40, snapshots=[0, 20, 40], **options).fit(X, Y)
    parts = trainer(max_iter=20, warm_start=True, **options).fit(X, Y).fit(X, Y)
    assert parts.n_iter_ == 40
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-12)
    assert_close(parameters(parts.network_), parameters(whole.network_))
    assert [s.iteration for s in parts.snapshots_] == [0, 20, 40]
    for mine, theirs in zip(parts.snapshots_, whole.snapshots_, strict=True):
        assert_close(mine.state, theirs.state)


def test_without_warm_start_fit_begins_anew():
    twice = trainer().fit(X, Y).fit(X, Y)
    np.testing.assert_array_equal(twice.loss_curve_, trainer().fit(X, Y).loss_curve_)
    assert twice.n_iter_ == 10


def test_warm_start_honours_parameters_changed_in_between():
    fitted = trainer(warm_start=True, learning_rate=0.05).fit(X, Y)
    before = parameters(fitted.network_)
    fitted.set_params(learning_rate=1e-12).fit(X, Y)
    assert_close(parameters(fitted.network_), before, atol=1e-9)
    # Another optimizer begins without the memory of the last one.
    fitted.set_params(optimizer="sgd", learning_rate=0.1, max_iter=1).fit(X, Y)
    network = fitted.network_at(fitted.snapshots_[-2])
    functional.mse_loss(network(X_TORCH), Y_TORCH).backward()
    expected = {n: (p - 0.1 * p.grad).detach() for n, p in network.named_parameters()}
    assert_close(parameters(fitted.network_), expected)


def test_warm_start_goes_on_after_a_divergence():
    steep = trainer(cell="relu", learning_rate=1e30, max_iter=20, warm_start=True)
    with pytest.warns(ConvergenceWarning):
        steep.fit(X, Y)
    n_done = steep.n_iter_
    steep.set_params(learning_rate=1e-3).fit(X, Y)
    assert steep.n_iter_ == n_done + 20
    assert np.isfinite(steep.loss_curve_).all()


@pytest.mark.parametrize("snapshots", [range(41), [0, 1, 40]], ids=["dense", "sparse"])
def test_divergence_warns_and_leaves_the_last_finite_snapshot(snapshots):
    options = dict(optimizer="sgd", learning_rate=1e6, max_iter=40)
    steep = trainer(cell="relu", snapshots=snapshots, **options)
    with pytest.warns(ConvergenceWarning, match="training diverged.*Lower learning_rate") as said:
        steep.fit(X, Y)
    n_done = steep.n_iter_
    assert f"last snapshot before, at iteration {n_done}" in str(said[0].message)
    assert 0 < n_done < 40
    assert [s.iteration for s in steep.snapshots_] == [i for i in snapshots if i <= n_done]
    assert_close(dict(steep.network_.state_dict()), steep.snapshots_[-1].state, atol=0)
    assert all(torch.isfinite(p).all() for p in steep.network_.parameters())
    assert steep.loss_curve_.shape == (n_done,)
    assert np.isfinite(steep.loss_curve_).all()


def test_only_verbose_shows_a_progress_bar_with_the_loss(capsys):
    trainer().fit(X, Y).predict(X)
    assert capsys.readouterr() == ("", "")
    fitted = trainer(verbose=True).fit(X, Y)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training: 100%" in shown.err
    assert "10/10" in shown.err
    assert f"loss={fitted.loss_curve_[-1]:.4g}" in shown.err


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_read_only_data_give_no_warning(mask):
    # As they come from a memory map, or from joblib's workers. torch warns once unless told.
    inputs, targets = X.copy(), Y.copy()
    inputs.flags.writeable = targets.flags.writeable = False
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        trainer().fit(inputs, targets, mask=mask).predict(inputs, mask=mask)
    finally:
        torch.set_warn_always(before)


@pytest.mark.parametrize("init", ["normal", "torch"])
def test_init_scale_multiplies_the_recurrent_weights_alone(init):
    one, two = (
        trainer(init_scale=g, recurrent_init=init, max_iter=0).fit(X, Y).network_ for g in (1, 2)
    )
    for name, p in parameters(one).items():
        factor = 2 if "weight_hh" in name else 1
        torch.testing.assert_close(parameters(two)[name], factor * p, rtol=1e-14, atol=0)


def test_dt_and_tau_enter_the_leaky_cells_by_their_ratio():
    def curve(**options):
        return trainer(cell="leaky", **options).fit(X, Y).loss_curve_

    np.testing.assert_array_equal(curve(dt=0.1, tau=0.4), curve(dt=0.25))
    np.testing.assert_allclose(curve(dt=2.0, tau=2.0), trainer(cell="tanh").fit(X, Y).loss_curve_)
    assert not np.isclose(curve(dt=0.5), curve()).any()


# ---------------------------------------------------------------------------------- mask, targets


# Units without a bound overflow on large padding, and infinity times zero is NaN.
@pytest.mark.parametrize(("padding", "cell"), [(0.0, "gru"), (-7.0, "gru"), (1e300, "relu")])
def test_what_the_mask_hides_changes_nothing(padding, cell):
    expected = trainer(cell=cell).fit(X, Y, mask=MASK)
    X_padded, Y_padded = (np.where(MASK[..., None], a, padding) for a in (X, Y))
    fitted = trainer(cell=cell).fit(X_padded, Y_padded, mask=MASK)
    np.testing.assert_array_equal(fitted.loss_curve_, expected.loss_curve_)
    assert_close(parameters(fitted.network_), parameters(expected.network_), atol=0)
    np.testing.assert_array_equal(
        fitted.trajectories(X_padded, mask=MASK), expected.trajectories(X, mask=MASK)
    )
    assert fitted.score(X_padded, Y_padded, mask=MASK) == expected.score(X, Y, mask=MASK)


def test_more_padding_changes_nothing():
    expected = trainer().fit(X, Y, mask=MASK)
    longer = [(0, 0), (0, 3), (0, 0)]
    X_long, Y_long = np.pad(X, longer), np.pad(Y, longer)
    mask = np.pad(MASK, longer[:2])
    fitted = trainer().fit(X_long, Y_long, mask=mask)
    np.testing.assert_allclose(fitted.loss_curve_, expected.loss_curve_, rtol=1e-12)
    assert_close(parameters(fitted.network_), parameters(expected.network_))
    assert fitted.score(X_long, Y_long, mask=mask) == pytest.approx(
        expected.score(X, Y, mask=MASK)
    )


@dataclass(frozen=True)
class Task:
    """A task that can be learnt, and how well it should be."""

    y: np.ndarray | None
    shape: tuple
    at_least: float
    dtype_kind: str
    X: np.ndarray = field(default_factory=lambda: X)


SIGN = X.sum(axis=2) > 0
TASKS = {
    "string labels": Task(np.where(SIGN[:, -1], "yes", "no"), (N_TRIALS,), 0.99, "U"),
    "integer labels": Task(np.where(SIGN[:, -1], 7, -2), (N_TRIALS,), 0.99, "i"),
    "class of each step": Task(np.where(SIGN, 3, 1), (N_TRIALS, N_STEPS), 0.95, "i"),
    "number of each trial": Task(X[:, -1, 0], (N_TRIALS,), 0.8, "f"),
    "value of each step": Task(X.cumsum(1)[..., :1], (N_TRIALS, N_STEPS, 1), 0.8, "f"),
    "next input": Task(None, X.shape, 0.8, "f", X=np.repeat(X[:, :1], N_STEPS, axis=1)),
}


@pytest.mark.parametrize("name", TASKS)
def test_predictions_have_the_form_of_y_and_are_learnt(name):
    task = TASKS[name]
    fitted = trainer(hidden_size=10, max_iter=120, learning_rate=0.05).fit(task.X, task.y)
    predicted = fitted.predict(task.X)
    assert predicted.shape == task.shape
    assert predicted.dtype.kind == task.dtype_kind
    assert fitted.score(task.X, task.y) >= task.at_least
    if task.dtype_kind != "f":
        np.testing.assert_array_equal(fitted.classes_, np.unique(task.y))
        assert (predicted == task.y).mean() == pytest.approx(fitted.score(task.X, task.y))
    else:
        assert not hasattr(fitted, "classes_")


def test_a_prediction_is_read_at_the_last_valid_step():
    fitted = trainer().fit(X, X[:, 0, 0], mask=MASK)
    predicted = fitted.predict(X, mask=MASK)
    for trial in range(N_TRIALS):
        alone = X[trial : trial + 1, : MASK[trial].sum()]
        assert fitted.predict(alone)[0] == pytest.approx(predicted[trial], rel=1e-12)
    assert not np.allclose(fitted.predict(X), predicted)


def test_trajectories_are_the_states_of_every_step():
    fitted = trainer(cell="lstm", n_layers=2).fit(X, Y)
    states = fitted.trajectories(X)
    assert states.shape == (N_TRIALS, N_STEPS, 2 * 2 * N_UNITS)
    plain = PlainNetwork("lstm", 2, N_OUTPUTS, False)
    plain.load_state_dict({k: fitted.network_.state_dict()[k] for k in plain.state_dict()})
    with torch.no_grad():
        top, (h, c) = plain.recurrent(X_TORCH)
    np.testing.assert_allclose(states[..., 8:12], top.numpy(), atol=1e-14)
    last = torch.cat([h[0], c[0], h[1], c[1]], dim=-1)
    np.testing.assert_allclose(states[:, -1], last.numpy(), atol=1e-14)
    masked = fitted.trajectories(X, mask=MASK)
    np.testing.assert_allclose(masked, np.where(MASK[..., None], states, 0), atol=1e-14)


@pytest.mark.parametrize("y", [Y, Y[:, 0, 0], None], ids=["each step", "last step", "next input"])
def test_minibatches_of_ragged_trials_estimate_the_loss_without_bias(y):
    # The mean over all batches of one trial is the loss of all trials.
    fitted = trainer(max_iter=0, snapshots=1).fit(X, y, mask=MASK)
    targets = fitted.target_encoder_.encode(X, y, mask=MASK)
    loss = fitted._batch_loss(X, MASK, targets, torch.Generator())
    whole = slice(None)
    single = [float(loss(np.array([b]))(whole).detach()) for b in range(len(X))]
    expected = float(loss(np.arange(len(X)))(whole).detach())
    assert np.mean(single) == pytest.approx(expected, rel=1e-12)


def test_what_an_optimizer_remembers_is_kept_on_the_cpu(monkeypatch):
    moved = []
    monkeypatch.setattr(_run, "to_cpu", lambda state: moved.append(state) or to_cpu(state))
    fitted = trainer().fit(X, Y)
    assert len(moved) == 1 and moved[0]["state"].keys() == fitted._optimizer_state["state"].keys()
    with FakeTensorMode():
        state = {"state": {0: {"exp_avg": torch.empty(2, device="cuda"), "step": 3}}}
    assert to_cpu(state)["state"][0]["exp_avg"].device.type == "cpu"
    assert to_cpu(state)["state"][0]["step"] == 3
