"""The rebuilt network is the user's network, or the error says in what it differs."""

from __future__ import annotations

import copy
import warnings
from functools import wraps

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kpflow_sklearn import (
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    UnsupportedNetworkError,
    linearize,
)

N_TRIALS, N_STEPS, N_UNITS, N_OUTPUTS = 6, 5, 4, 2
N_FEATURES = N_UNITS  # So that input and output weights can be tied.
rng = np.random.default_rng(3)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))


class Plain(nn.Module):
    """A GRU and a readout; the variants below compute something between their parts."""

    def __init__(self, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.rnn = nn.GRU(N_FEATURES, N_UNITS, batch_first=True)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)
        for name, part in parts.items():
            setattr(self, name, part)

    def before(self, x: Tensor) -> Tensor:
        """Return the inputs of the GRU."""
        return x

    def start(self, x: Tensor) -> Tensor | None:
        """Return the initial state."""
        return None

    def between(self, z: Tensor) -> Tensor:
        """Return the input of the readout."""
        return z

    def after(self, outputs: Tensor) -> object:
        """Return what the module returns."""
        return outputs

    def forward(self, x: Tensor) -> object:
        """Return the outputs."""
        return self.after(self.out(self.between(self.rnn(self.before(x), self.start(x))[0])))


def variant(seed: int = 0, parts=dict, **methods) -> nn.Module:
    """Return a `Plain` with other methods and further parts, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type("Variant", (Plain,), methods)(**parts()).double()


def trained_start(values: Tensor) -> nn.Module:
    return variant(
        parts=lambda: {"h0": nn.Parameter(values.reshape(1, 1, -1))},
        start=lambda self, x: self.h0.expand(1, len(x), -1).contiguous(),
    )


DROPPED = {
    "a trained initial state": (
        lambda: trained_start(torch.ones(N_UNITS)),
        "the states differ by .* parameters, h0, .* give initial_state='h0'",
    ),
    "a trained initial state that is still zero": (
        lambda: trained_start(torch.zeros(N_UNITS)),
        "parameters, h0, .* give initial_state='h0'",
    ),
    "an encoder": (
        lambda: variant(
            parts=lambda: {"enc": nn.Parameter(torch.eye(N_FEATURES))},
            before=lambda self, x: torch.tanh(x @ self.enc),
        ),
        "X and what its GRU receives differ .* parameters, enc, .*SavedTraining.*encoder=",
    ),
    "an initial state from the first input": (
        lambda: variant(
            parts=lambda: {"enc": nn.Parameter(torch.eye(N_FEATURES))},
            start=lambda self, x: (x[:, 0] @ self.enc)[None],
        ),
        "the states differ by .* parameters, enc, ",
    ),
    "a normalisation": (
        lambda: variant(
            parts=lambda: {"norm": nn.LayerNorm(N_UNITS)}, between=lambda self, z: self.norm(z)
        ),
        "the states read out differ by .* parameters, norm.weight, norm.bias.*readout=lambda",
    ),
    "scaled inputs": (lambda: variant(before=lambda self, x: 10 * x), "what its GRU receives"),
    "scaled outputs": (
        lambda: variant(after=lambda self, outputs: 2 * outputs),
        r"they differ by .* check_outputs=False\) .* not compared",
    ),
    "functional dropout": (
        lambda: variant(between=lambda self, z: nn.functional.dropout(z, 0.5)),
        "Variant is random even in evaluation mode.*functional.dropout without training",
    ),
    "noise on the inputs": (
        lambda: variant(before=lambda self, x: x + torch.randn_like(x)),
        "Variant is random even in evaluation mode",
    ),
    "outputs that are NaN": (
        lambda: variant(after=lambda self, outputs: outputs * float("nan")),
        "they differ by up to nan",
    ),
    "a norm of the batch": (
        lambda: variant(before=lambda self, x: x / x.norm()),
        "what its GRU receives",
    ),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_the_module_does_beside_its_parts_is_never_dropped(name):
    make, message = DROPPED[name]
    for readout in (None, "out"):
        with pytest.raises(UnsupportedNetworkError, match=message):
            SavedTraining(make(), readout=readout).fit(X, Y)
    with pytest.raises(UnsupportedNetworkError, match=message):
        linearize(make(), X)


def test_an_initial_state_that_is_still_zero_can_be_named_or_frozen():
    module = trained_start(torch.zeros(N_UNITS))
    with pytest.raises(UnsupportedNetworkError, match="give initial_state='h0'"):
        SavedTraining(module, initial_state=np.zeros(N_UNITS)).fit(X, Y)
    assert SavedTraining(module, initial_state="h0").fit(X, Y).network_.learn_initial_state
    module.h0.requires_grad_(False)
    assert not SavedTraining(module).fit(X, Y).network_.learn_initial_state


RETURNS = {
    "steps first": lambda self, o: o.transpose(0, 1),
    "outputs before steps, for torch's cross entropy": lambda self, o: o.transpose(1, 2),
    "one row per step": lambda self, o: o.reshape(-1, N_OUTPUTS),
    "the last step": lambda self, o: o[:, -1],
    "a mapping": lambda self, o: {"steps": torch.arange(3), "outputs": o},
    "after another tensor": lambda self, o: (o.sum(), o),
}


@pytest.mark.parametrize("name", RETURNS)
def test_outputs_in_any_form(name):
    module = variant(after=RETURNS[name])
    expected = SavedTraining(variant()).fit(X, Y).predict(X)
    np.testing.assert_allclose(SavedTraining(module).fit(X, Y).predict(X), expected)


def test_one_output_without_an_axis_and_an_unused_head():
    module = variant(
        parts=lambda: {"out": nn.Linear(N_UNITS, 1), "unused": nn.Linear(3, 3)},
        after=lambda self, o: o[..., 0],
    )
    saved = SavedTraining(module).fit(X, Y[..., :1])
    with torch.no_grad():
        np.testing.assert_allclose(saved.predict(X)[..., 0], module(torch.as_tensor(X)))


@pytest.mark.parametrize("n", [1, 3, 6])
def test_steps_first_with_as_many_steps_as_trials(n):
    class StepsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(N_FEATURES, N_UNITS), nn.Linear(N_UNITS, N_OUTPUTS)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    module = StepsFirst().double()
    square = np.resize(X, (n, n, N_FEATURES))
    with torch.no_grad():
        theirs = module(torch.as_tensor(square).transpose(0, 1)).transpose(0, 1)
    saved = SavedTraining(module, layout="trials_first").fit(square, np.zeros((n, n, N_OUTPUTS)))
    np.testing.assert_allclose(saved.predict(square), theirs)


# ------------------------------------------------------------------------ what it gives up


def test_without_a_check_of_the_outputs_the_states_are_still_checked():
    for name in ("a normalisation", "scaled outputs"):
        saved = SavedTraining(DROPPED[name][0](), check_outputs=False).fit(X, Y)
        np.testing.assert_allclose(saved.predict(X), SavedTraining(variant()).fit(X, Y).predict(X))
    for name in ("a trained initial state", "an encoder", "scaled inputs"):
        make, message = DROPPED[name]
        with pytest.raises(UnsupportedNetworkError, match=message):
            SavedTraining(make(), check_outputs=False).fit(X, Y)


def test_states_that_cannot_be_compared_are_said_to_be_so():
    def forward(self, x, context):
        return context

    message = "fails on X .*also takes context.*X, context=..."
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(variant(forward=forward)).fit(X, Y)
    with pytest.warns(UserWarning, match="states .* were not compared with those of Variant, whi"):
        SavedTraining(variant(forward=forward), check_outputs=False).fit(X, Y)


def test_a_readout_of_parts_between_is_accepted():
    module = variant(
        parts=lambda: {"head": nn.Sequential(nn.LayerNorm(N_UNITS), nn.Linear(N_UNITS, 2))},
        forward=lambda self, x: self.head(self.rnn(x)[0]),
    )
    saved = SavedTraining(module, readout="head").fit(X, Y)
    with torch.no_grad():
        np.testing.assert_allclose(saved.predict(X), module(torch.as_tensor(X)))


# --------------------------------------------------------------------------------------- masks

LENGTHS = np.array([2, 5, 3, 1, 4, 2])
MASK = np.arange(N_STEPS) < LENGTHS[:, None]
PADDED = np.where(MASK[..., None], X, 0)


def lengths_of(x: Tensor) -> Tensor:
    return (x != 0).any(-1).sum(1)


def packed(self, x, **options):
    return self.rnn(pack_padded_sequence(x, lengths_of(x), batch_first=True, **options))


def last_state(self, x):
    return self.out(packed(self, x, enforce_sorted=False)[1][-1])


def every_state(self, x):
    states = packed(self, x, enforce_sorted=False)[0]
    return self.out(pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0])


def sorted_by_hand(self, x):
    return self.out(pad_packed_sequence(packed(self, x)[0], batch_first=True)[0])


def given_lengths(self, x, lengths):
    return self.out(self.rnn(x)[0][torch.arange(len(x)), lengths - 1])


def gathered(self, x):
    return given_lengths(self, x, lengths_of(x))


def zeroed(self, x):
    return self.out(self.rnn(x)[0]) * (x != 0).any(-1, keepdim=True)


RAGGED = [last_state, every_state, sorted_by_hand, gathered, given_lengths, zeroed]


@pytest.mark.parametrize("n_steps", [N_STEPS, N_STEPS + 2])
@pytest.mark.parametrize("forward", RAGGED, ids=lambda forward: forward.__name__)
def test_only_valid_steps_are_compared(forward, n_steps):
    trials = np.pad(PADDED, [(0, 0), (0, n_steps - N_STEPS), (0, 0)])
    mask = np.pad(MASK, [(0, 0), (0, n_steps - N_STEPS)])
    y = np.zeros((N_TRIALS, n_steps, N_OUTPUTS))
    module = variant(forward=forward)
    saved = SavedTraining(module).fit(trials, y, mask=mask)
    plain = SavedTraining(variant()).fit(trials, y, mask=mask)
    states, theirs = (a.trajectories(trials, mask=mask) for a in (saved, plain))
    np.testing.assert_allclose(states, theirs)
    assert linearize(module, trials, mask).n_valid == LENGTHS.sum()

    @wraps(forward)
    def scaled(self, *arguments):
        return 1.01 * forward(self, *arguments)

    with pytest.raises(UnsupportedNetworkError, match="they differ by up to"):
        SavedTraining(variant(forward=scaled)).fit(trials, y, mask=mask)


def test_the_first_difference_is_that_of_the_users_trials():
    # The checked trials are sorted by length: of the user's, number 1 is the longest.
    late = variant(between=lambda self, z: z + (torch.arange(z.shape[1]) >= 3)[:, None])
    with pytest.raises(UnsupportedNetworkError, match="first at step 3 of trial 1"):
        SavedTraining(late).fit(PADDED, Y, mask=MASK)


class Clamped(Plain):
    """Inputs are cut off where they are large, which few trials are."""

    def before(self, x: Tensor) -> Tensor:
        """Return the inputs of the GRU."""
        return x.clamp(max=3)


@pytest.mark.parametrize("trials", [slice(57, 58), slice(52, 60)], ids=["one", "the last ones"])
def test_a_difference_on_later_trials_is_seen(trials):
    many = np.resize(X.clip(max=3), (60, *X.shape[1:]))
    linearize(Clamped(), many)
    if trials.stop == 60:  # Then size does not tell where they are, but they are together.
        many[3] = -6
    many[trials, 2] = 5
    with pytest.raises(UnsupportedNetworkError, match="first at step 2 of trial 5"):
        linearize(Clamped(), many)


def test_a_module_that_reads_the_padding_is_refused():
    with pytest.raises(UnsupportedNetworkError, match="first at trial 0, the last step"):
        SavedTraining(variant(after=lambda self, o: o[:, -1])).fit(PADDED, Y, mask=MASK)


# ------------------------------------------------------------------------- parameters in two parts


def tied(shared: str, memory: bool = False) -> nn.Module:
    """Return a network whose readout is, or lies in the memory of, a weight of its GRU."""
    module = variant(parts=lambda: {"out": nn.Linear(N_UNITS, 3 * N_UNITS)})
    name = "bias" if shared.startswith("bias") else "weight"
    weight = getattr(module.rnn, shared)
    setattr(module.out, name, nn.Parameter(weight.data) if memory else weight)
    return module


Y_WIDE = rng.standard_normal((N_TRIALS, N_STEPS, 3 * N_UNITS))


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("shared", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
def test_a_readout_tied_to_the_step_is_refused_by_name(shared, memory):
    module = tied(shared, memory)
    message = f"rnn.{shared}(, | and )out.(weight|bias) of Variant.*with separate parameters"
    for call in (
        lambda: SavedTraining(module).fit(X, Y_WIDE),
        lambda: linearize(module, X),
    ):
        with pytest.raises(UnsupportedNetworkError, match=message):
            call()
    held = [f"rnn.{n}" for n, _ in module.rnn.named_parameters() if n != shared]
    if not memory:
        assert SavedTraining(module, parameters=held).fit(X, Y_WIDE).n_iter_ == 0


def test_why_tied_readouts_are_refused_the_gradient_has_a_part_that_the_flow_lacks():
    module, free = tied("weight_ih_l0"), tied("weight_ih_l0")
    free.out.weight = nn.Parameter(free.out.weight.detach().clone())
    for network in (module, free):
        ((network(torch.as_tensor(X)) - torch.as_tensor(Y_WIDE)) ** 2).mean().backward()
    lin = linearize(free, X)
    ours = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(Y_WIDE)))
    torch.testing.assert_close(ours["weight_ih_l0"], free.rnn.weight_ih_l0.grad)
    lacking = module.rnn.weight_ih_l0.grad - ours["weight_ih_l0"]
    torch.testing.assert_close(lacking, free.out.weight.grad)
    assert lacking.norm() > 0.1 * ours["weight_ih_l0"].norm()


class Gained(nn.Module):
    """A readout with the gain of the step."""

    def __init__(self, gain: nn.Parameter) -> None:
        super().__init__()
        self.gain, self.linear = gain, nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, h: Tensor) -> Tensor:
        """Return the outputs."""
        return self.linear(self.gain * h)


class OwnStep(nn.Module):
    """A network with a method as its step; ``mix`` acts on the states of all trials."""

    def __init__(self, readout: str = "linear") -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.1, 0.9, N_UNITS))
        self.inputs = nn.Linear(N_FEATURES, N_UNITS)
        self.norm = nn.BatchNorm1d(N_UNITS, affine=False, track_running_stats=False)
        self.out = Gained(self.gain) if readout == "shared" else nn.Linear(N_UNITS, N_OUTPUTS)

    def mix(self, h: Tensor) -> Tensor:
        """Return the states."""
        return h

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state."""
        return torch.tanh(self.mix(h * self.gain + self.inputs(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        h, outputs = x.new_zeros(len(x), N_UNITS), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


STEP = {"step": "step", "readout": "out", "initial_state": np.zeros(N_UNITS)}


def test_a_readout_that_uses_a_parameter_of_a_method():
    module = OwnStep("shared").double()
    with pytest.raises(UnsupportedNetworkError, match="step and the readout share gain, out.gain"):
        SavedTraining(module, **STEP).fit(X, Y)
    fixed = SavedTraining(module, parameters=["inputs.*"], **STEP).fit(X, Y)
    assert linearize(fixed.network_, X).J_theta.shape[1] == N_UNITS * (N_FEATURES + 1)


def test_an_initial_state_that_is_a_weight_too():
    with pytest.raises(UnsupportedNetworkError, match="step and the initial state share gain"):
        SavedTraining(OwnStep().double(), step="step", readout="out", initial_state="gain").fit(
            X, Y
        )


class Noisy(OwnStep):
    """A network whose step draws noise, with an encoder that is not named."""

    def __init__(self, enc: float = 1.0, trains: bool = True) -> None:
        super().__init__()
        self.enc = nn.Parameter(enc * torch.eye(N_FEATURES), requires_grad=trains)

    def step(self, x, h):
        return super().step(x, h) + 0.1 * torch.randn_like(h)

    def forward(self, x):
        return super().forward(x @ self.enc)


def test_frozen_noise_does_not_hide_an_encoder():
    with pytest.raises(UnsupportedNetworkError, match="parameters, enc, .*contain them"):
        SavedTraining(Noisy().double(), noise="frozen", **STEP).fit(X, Y)
    with pytest.raises(UnsupportedNetworkError, match="read out differ.*random number.*constant"):
        SavedTraining(Noisy(2.0, trains=False).double(), noise="frozen", **STEP).fit(X, Y)
    fixed = SavedTraining(Noisy(trains=False).double(), noise="frozen", **STEP)
    assert fixed.fit(X, Y).n_iter_ == 0


def smaller_noise(network, x, h):
    return OwnStep.step(network, x, h) + 0.05 * torch.randn_like(h)


def in_one_draw(self, x):
    noise, h, outputs = torch.randn(x.shape[1], len(x), N_UNITS).to(x), x.new_zeros(1), []
    for x_t, from_noise in zip(x.unbind(1), noise, strict=True):
        h = OwnStep.step(self, x_t, h) + 0.1 * from_noise
        outputs.append(self.out(h))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("check_outputs", [True, False])
@pytest.mark.parametrize("wrong", [{"step": smaller_noise}, {"initial_state": np.ones(N_UNITS)}])
def test_frozen_noise_does_not_hide_another_step_or_start(wrong, check_outputs):
    options = {**STEP, "noise": "frozen", "check_outputs": check_outputs}
    module = Noisy(trains=False).double()
    with pytest.raises(UnsupportedNetworkError, match="differ by .* draws is the same constant"):
        SavedTraining(module, **options | wrong).fit(X, Y)
    before = torch.random.get_rng_state()
    for forward in (Noisy.forward, in_one_draw):  # The same noise, drawn in another order.
        module.__class__ = type("Same", (Noisy,), {"forward": forward})
        assert SavedTraining(module, **options).fit(X, Y).n_iter_ == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_noise_that_cannot_be_compared_is_said():
    class Masked(OwnStep):
        step = smaller_noise

        def forward(self, x):
            return super().forward(x * torch.bernoulli(torch.full_like(x, 0.5)))

    module = Masked().double()
    with pytest.warns(UserWarning, match="were not compared.*Masked, .* numbers by aten::bernou"):
        SavedTraining(module, noise="frozen", **STEP).fit(X, Y)


def test_coupled_trials_are_refused_with_frozen_noise_too():
    module = type("Coupled", (Noisy,), {"mix": lambda self, h: h - h.mean(0)})(trains=False)
    with pytest.raises(UnsupportedNetworkError, match="couples trials"):
        SavedTraining(module.double(), noise="frozen", **STEP).fit(X, Y)


# ------------------------------------------------------------------------------- coupled trials

COUPLED = {
    "a batch mean": (lambda self, h: h - h.mean(0), "step step couples trials: .* change by"),
    "a norm of the batch": (lambda self, h: h / (1 + h.norm()), "couples trials"),
    "the statistics of the batch": (
        lambda self, h: self.norm(h),
        r"(couples trials|failed).* contains norm \(BatchNorm1d\) with track_running_stats=False",
    ),
    "a fixed number of trials": (
        lambda self, h: h + h.new_zeros(N_TRIALS, 1),
        "takes a step of 6 trials, but fails on 3|must return the next state as",
    ),
}


@pytest.mark.parametrize("n_trials", [1, N_TRIALS])
@pytest.mark.parametrize("name", COUPLED)
def test_steps_that_couple_trials_are_refused(name, n_trials):
    mix, message = COUPLED[name]
    module = type("Coupled", (OwnStep,), {"mix": mix})().double()
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(module, **STEP).fit(X[:n_trials], Y[:n_trials])


def test_a_cell_that_couples_trials_is_not_trained():
    class Coupled(nn.RNNCell):
        def forward(self, x, h):
            return super().forward(x, h - h.mean(0))

    with pytest.raises(UnsupportedNetworkError, match="cell Coupled couples trials"):
        RecurrentTrainer(Coupled, hidden_size=3, max_iter=1).fit(X, Y)


def test_a_batch_norm_of_running_statistics_is_a_fixed_map():
    module = type("Running", (OwnStep,), {"mix": lambda self, h: self.norm(h)})().double()
    module.norm = nn.BatchNorm1d(N_UNITS).double()
    assert SavedTraining(module, **STEP).fit(X, Y).n_iter_ == 0


# ---------------------------------------------------------------- what training does with theta


def test_frozen_parameters_that_are_asked_for_are_named():
    module = variant()
    module.rnn.weight_hh_l0.requires_grad_(False)
    for pattern in ("rnn.weight_hh_l0", "*hh_l0"):
        module.rnn.bias_hh_l0.requires_grad_(pattern.startswith("rnn"))
        with pytest.raises(ValueError, match="rnn.weight_hh_l0.* does not train .requires_grad=F"):
            SavedTraining(module, parameters=["rnn.weight_ih_l0", pattern]).fit(X, Y)
    with pytest.warns(UserWarning, match="parameters matches rnn.weight_hh_l0, rnn.bias_hh"):
        SavedTraining(module, parameters=["rnn.*"]).fit(X, Y)


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_gradients_of_theta_are_named(hook):
    module = variant()
    getattr(module.rnn.weight_hh_l0, hook)(lambda gradient: None)
    with pytest.warns(UserWarning, match="gradient hooks on rnn.weight_hh_l0 of Variant are not"):
        SavedTraining(module).fit(X, Y)
    with pytest.warns(UserWarning, match="torch.nn.utils.parametrize"):
        linearize(module, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SavedTraining(module, parameters=["rnn.bias*"]).fit(X, Y)
        other = variant()
        getattr(other.out.weight, hook)(lambda gradient: None)
        SavedTraining(other).fit(X, Y)


def test_cells_and_perceptrons_with_hooks_or_shared_memory():
    def hooked(n_features, hidden_size):
        cell = nn.RNNCell(n_features, hidden_size)
        cell.weight_hh.register_hook(lambda gradient: gradient * 0)
        return cell

    with pytest.warns(UserWarning, match="gradient hooks on weight_hh of RNNCell"):
        RecurrentTrainer(hooked, hidden_size=3, max_iter=1, random_state=0).fit(X, Y)
    layers = [nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)]
    layers[4].weight.register_hook(lambda gradient: gradient * 0)
    table, values = X[:, 0, :3], X[:, 0, 0]
    with pytest.warns(UserWarning, match="gradient hooks on 4.weight of Sequential"):
        GramFlowAnalyzer(nn.Sequential(*layers).double()).fit(table, values)
    layers[2].weight = nn.Parameter(layers[0].weight.data)
    with pytest.raises(UnsupportedNetworkError, match="parameters 0.weight and 2.weight of Sequ"):
        GramFlowAnalyzer(nn.Sequential(*layers)).fit(table, values)


def test_the_check_leaves_the_module_as_it_is():
    module = variant(parts=lambda: {"unused": nn.Linear(2, 2)})
    module.out.bias.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    linearize(module.train(), X)
    assert module.training
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == ["out.bias"]
    assert not module.rnn._forward_hooks and not module.out._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ------------------------------------------------------- initial states that the module computes


class BurnIn(nn.Module):
    """A network that starts from where four steps without input lead."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.RNNCell(2, 5), nn.Linear(5, 1)

    def rest(self):
        h = self.out.weight.new_zeros(1, 5)
        for _ in range(4):
            h = self.cell(h.new_zeros(1, 2), h)
        return h[0]

    def forward(self, X):
        h, outputs = self.rest().expand(len(X), -1), []
        for x in X.unbind(1):
            h = self.cell(x, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


def from_rest(network, x, state):
    """Return the next state; the second part tells whether there was a step before."""
    h, started = state
    return network.cell(x, started * h + (1 - started) * network.rest()), torch.ones_like(started)


def burn_in_gradients(saved, X, y):
    lin = linearize(saved.network_, X)
    ours = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(y)))
    network = saved.network
    loss = nn.functional.mse_loss(network(torch.as_tensor(X)), torch.as_tensor(y))
    return ours, dict(zip(*_named_gradients(network.cell, loss), strict=True))


def _named_gradients(module, loss):
    names, parameters = zip(*module.named_parameters(), strict=True)
    return names, torch.autograd.grad(loss, parameters)


def test_an_initial_state_by_value_that_the_module_computes_is_said():
    torch.manual_seed(0)
    network, rng = BurnIn().double(), np.random.default_rng(0)
    X, y = rng.standard_normal((4, 6, 2)), rng.standard_normal((4, 6, 1))
    start = network.rest().detach()
    by_value = SavedTraining(network, step="cell", readout="out", initial_state=start)
    with pytest.warns(UserWarning, match="BurnIn differ .* cell.weight_hh.* initial state that"):
        by_value.fit(X, y)
    start = (torch.zeros(5), torch.zeros(1))
    saved = SavedTraining(network, step=from_rest, readout="out", initial_state=start).fit(X, y)
    ours, theirs = burn_in_gradients(saved, X, y)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[f"cell.{name}"], gradient, atol=1e-12)
    with torch.no_grad():  # Values that do not depend on theta are as they should be.
        fixed = SavedTraining(nn.ModuleDict({"rnn": nn.GRU(2, 3), "out": nn.Linear(3, 1)}),
                              initial_state=torch.ones(3), layout="trials_first")  # fmt: skip
        fixed.fit(X, y)


@pytest.mark.parametrize("noise", ["off", "frozen"])
def test_a_step_that_keeps_something_between_calls_is_told_to_put_it_into_the_state(noise):
    class Traced(BurnIn):
        trace = 0.0

        def step(self, x, h):
            self.trace = 0.5 * self.trace + float(h.mean())
            return self.cell(x, h) - 0.1 * self.trace

    X = np.random.default_rng(0).standard_normal((4, 6, 2))
    saved = SavedTraining(Traced(), step="step", readout="out", initial_state=torch.zeros(5),
                          noise=noise)  # fmt: skip
    with pytest.raises(UnsupportedNetworkError) as error:
        saved.fit(X, X[..., :1])
    assert "keeps something between calls" in str(error.value)
    assert ("noise='frozen'" in str(error.value)) == (noise == "off")


@pytest.mark.parametrize("option", [{"padding_idx": 0}, {"sparse": True}, {"max_norm": 1.0},
                                    {"scale_grad_by_freq": True}])  # fmt: skip
def test_embeddings_whose_gradient_is_not_the_derivative_are_refused(option):
    network = nn.ModuleDict(
        {"emb": nn.Embedding(4, 3, **option), "cell": nn.RNNCell(3, 5), "out": nn.Linear(5, 1)}
    )
    X = np.random.default_rng(0).integers(0, 4, (4, 6, 1)).astype(float)
    given = {"step": lambda net, x, h: net["cell"](net["emb"](x[..., 0].long()), h),
             "readout": "out", "initial_state": torch.zeros(5)}  # fmt: skip
    with pytest.raises(UnsupportedNetworkError, match=f"'emb' with {next(iter(option))}="):
        SavedTraining(network.double(), **given).fit(X, X)
    network["emb"].requires_grad_(False)
    if "sparse" not in option:
        SavedTraining(network, **given).fit(X, X)


def test_values_of_an_initial_state_that_changed_over_training_are_refused():
    module = trained_start(torch.ones(N_UNITS))
    module.h0.requires_grad_(False)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    first["h0"] *= 0
    saved = SavedTraining(module, [first, module.state_dict()], initial_state=torch.ones(N_UNITS))
    with pytest.raises(UnsupportedNetworkError, match="at the first checkpoint.*give its name"):
        saved.fit(X, Y)


def clockwork(kind: type, period: int) -> type:
    """Return a network or cell that updates each unit at every so many steps, as it counts."""

    class Clockwork(kind):
        count = 0

        def step(self, x, h):
            acts = self.count % torch.tensor([1, 1, period, period]) == 0
            self.count += 1
            return torch.where(acts, super().step(x, h), h)

        def forward(self, *inputs):
            if len(inputs) == 2:
                return self.step(*inputs)
            self.count = 0
            return super().forward(*inputs)

    return Clockwork


@pytest.mark.parametrize("n_steps", [2, 4, 12])
def test_a_counter_whose_period_divides_the_number_of_steps_is_refused(n_steps):
    trials, targets = (np.resize(a, (N_TRIALS, n_steps, a.shape[-1])) for a in (X, Y))
    for period in (2, n_steps):
        with pytest.raises(UnsupportedNetworkError, match="out of order.*a counter .* tuple"):
            SavedTraining(clockwork(OwnStep, period)().double(), **STEP).fit(trials, targets)


def test_a_counter_in_a_cell_that_is_trained_is_refused():
    class Cell(nn.RNNCell):
        step = nn.RNNCell.forward

    counting = clockwork(Cell, 2)
    with pytest.raises(UnsupportedNetworkError, match="cell Clockwork returns another state"):
        RecurrentTrainer(counting, hidden_size=4, max_iter=1).fit(X, Y)


@pytest.mark.parametrize("analyzer", [KPFlowAnalyzer, TaskAlignmentAnalyzer])
@pytest.mark.parametrize("wrap", [SavedTraining, lambda module: module], ids=["saved", "module"])
def test_hooks_and_shared_memory_are_seen_through_clones(analyzer, wrap):
    module = variant()
    module.rnn.weight_hh_l0.register_hook(lambda gradient: 0 * gradient)
    labels = {"tasks": np.arange(N_TRIALS) % 2} if analyzer is TaskAlignmentAnalyzer else {}
    before = {name: id(p) for name, p in module.named_parameters()}
    with pytest.warns(UserWarning, match="gradient hooks on rnn.weight_hh_l0 of Variant are not"):
        clone(analyzer(wrap(module), random_state=0)).fit(X, Y, **labels)
    assert {name: id(p) for name, p in module.named_parameters()} == before
    with pytest.raises(UnsupportedNetworkError, match="in the same memory"):
        clone(analyzer(wrap(tied("bias_ih_l0", memory=True)))).fit(X, Y_WIDE, **labels)


# ---------------------------------------------------- parameters and gradients that forward hides


class Cached(OwnStep):
    """A network that computes the weight of its step once per call of forward."""

    def step(self, x, h):
        return torch.tanh(h @ self.weight + self.inputs(x))

    def forward(self, x):
        self.weight = torch.diag(self.gain.abs())
        return super().forward(x)


@pytest.mark.parametrize("check_outputs", [True, False])
def test_a_weight_that_forward_computes_beforehand_is_refused(check_outputs):
    module = Cached().double()
    module(torch.as_tensor(X))
    kind = "outputs" if check_outputs else "states"
    with pytest.raises(UnsupportedNetworkError, match=f"parameters, gain, that its {kind} depend"):
        SavedTraining(module, check_outputs=check_outputs, **STEP).fit(X, Y)
    module.gain.requires_grad_(False)
    saved = SavedTraining(module, check_outputs=check_outputs, **STEP).fit(X, Y)
    jacobian = linearize(saved.network_, X).J_theta
    assert "network.gain" not in jacobian.to_parameters(torch.zeros(jacobian.shape[1]))


def test_a_tensor_that_does_not_follow_to_float64_is_a_possible_cause_in_verify():
    module = Cached()
    module.gain.requires_grad_(False)
    module(torch.as_tensor(X).float())
    options = {"analyses": ("lyapunov",), "random_state": 0}
    analyzer = KPFlowAnalyzer(SavedTraining(module, **STEP), **options)
    with pytest.warns(UserWarning, match="does not compute in float64.* register_buffer"):
        assert analyzer.fit(X, Y).verify(X, Y)["passed"].all()


def in_chunks(self, x):
    h, parts = None, []
    for chunk in x.split(2, dim=1):
        z, h = self.rnn(chunk, h)
        h, parts = h.detach(), [*parts, z]
    return self.out(torch.cat(parts, 1))


def with_a_hook(self, z):
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * torch.linspace(0, 1, N_STEPS)[:, None])
    return z


HIDDEN = {
    "truncated backpropagation": {"forward": in_chunks},
    "a detached part": {"between": lambda self, z: torch.where(z > 0, z, z.detach())},
    "a hook": {"between": with_a_hook},
}


@pytest.mark.parametrize("options", [{}, {"check_outputs": False, "readout": "out"}], ids=str)
@pytest.mark.parametrize("name", HIDDEN)
def test_gradients_that_the_module_cuts_or_changes_are_said(name, options):
    module = variant(**HIDDEN[name])
    if not options or name == "truncated backpropagation":
        with pytest.warns(UserWarning, match="gradients of Variant differ .* rnn.weight_hh_l0 ."):
            SavedTraining(module, **options).fit(X, Y)
    with pytest.warns(UserWarning, match="gradients of Variant .*full backpropagation"):
        linearize(module, X)
    with warnings.catch_warnings():  # Equal gradients give no warning.
        warnings.simplefilter("error")
        SavedTraining(variant(), **options).fit(X, Y)


class TrainedStart(nn.Module):
    """Two LSTM layers that start from parameters; the gradient of h_0 may be cut."""

    def __init__(self, is_cut: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(N_FEATURES, N_UNITS, num_layers=2, batch_first=True)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)
        self.h0, self.c0 = (nn.Parameter(torch.rand(2, 1, N_UNITS)) for _ in range(2))
        self.is_cut = is_cut

    def forward(self, x: Tensor) -> Tensor:
        h0 = self.h0.detach() if self.is_cut else self.h0
        start = tuple(part.expand(-1, len(x), -1).contiguous() for part in (h0, self.c0))
        return self.out(self.rnn(x, start)[0])


@pytest.mark.parametrize("trains", [True, False])
def test_a_gradient_of_z0_that_the_module_cuts_is_said(trains):
    def fit(is_cut):
        module = TrainedStart(is_cut).double()
        for part in (module.h0, module.c0):
            part.requires_grad_(trains)
        SavedTraining(module, initial_state=("h0", "c0")).fit(X, Y)

    with warnings.catch_warnings():  # Equal gradients, or none, give no warning.
        warnings.simplefilter("error")
        fit(False)
        if not trains:
            fit(True)
    if trains:
        with pytest.warns(UserWarning, match=r"gradients of TrainedStart .* by h0 \(100%\),"):
            fit(True)


def test_gradients_are_not_blamed_for_chaos():
    module = nn.ModuleDict({"rnn": nn.RNN(3, 64, batch_first=True), "out": nn.Linear(64, 2)})

    class Chaotic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = module["rnn"], module["out"]

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    network = Chaotic()
    with torch.no_grad():
        network.rnn.weight_hh_l0.normal_(0, 2 / 8, generator=torch.Generator().manual_seed(0))
    trials = np.random.default_rng(0).standard_normal((3, 60, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linearize(network, 0.01 * trials)
