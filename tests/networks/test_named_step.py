"""Networks whose parts are named by the user, weights from raw parameters, random steps."""

from __future__ import annotations

import copy
import logging
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kpflow_sklearn import (
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    UnsupportedNetworkError,
    linearize,
)
from tests.oracles import cases, oracle
from tests.oracles.cases import distance
from tests.oracles.operator_checks import BASIC, check_matrices

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS, N_OUTPUTS = 2, 3, 2, 3, 2
RAGGED = cases.RAGGED[::2, :N_STEPS]
rng = np.random.default_rng(5)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))


def drawn(kind, *sizes, seed: int = 0, **options) -> nn.Module:
    """Return a module in double precision, with weights drawn outside the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*sizes, **options).double()


class GatedCell(nn.Module):
    """A minimal gated unit and a slow trace of it: the state is the pair (h, s)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(N_FEATURES + N_UNITS, N_UNITS)
        self.value = nn.Linear(N_FEATURES + N_UNITS, N_UNITS)
        self.rate = nn.Parameter(torch.full((N_UNITS,), 0.3))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the next pair."""
        h, s = state
        gate = torch.sigmoid(self.gate(torch.cat([x, h], dim=-1)))
        new = torch.tanh(self.value(torch.cat([x, gate * h], dim=-1)) - s)
        h = (1 - gate) * h + gate * new
        return h, s + self.rate * (h - s)


class Theirs(nn.Module):
    """A network with its own loop over steps, whose initial state may be trained."""

    drift = 0.0

    def __init__(self, cell=GatedCell, learn_start: bool = False) -> None:
        super().__init__()
        self.cell = cell()
        self.decoder = nn.Linear(N_UNITS, N_OUTPUTS)
        start = torch.linspace(-0.5, 0.5, N_UNITS)
        self.h0 = nn.Parameter(start[None]) if learn_start else torch.zeros(1, N_UNITS)
        self.s0 = nn.Parameter(start[None] ** 2) if learn_start else torch.zeros(1, N_UNITS)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs for inputs with trials first."""
        h, s = (z.expand(len(inputs), -1).to(inputs) for z in (self.h0, self.s0))
        outputs = []
        for t, x in enumerate(inputs.unbind(1)):
            h, s = self.advance(x, (h, s))
            h = h + self.drift * (t >= 2)
            outputs.append(self.decoder(h))
        return torch.stack(outputs, dim=1)

    def advance(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the next state."""
        return self.cell(x, state)


class Flat(nn.Module):
    """A cell on a pair, as a cell on a vector for the reference."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the next state."""
        return torch.cat(self.cell(x, z.split(N_UNITS, dim=-1)), dim=-1)


class OneStep(nn.Module):
    """The first layer of ``torch.nn.GRU`` as a cell for the reference."""

    def __init__(self, core: nn.GRU) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return torch.gru_cell(x, h, *(getattr(self.core, f"{name}_l0") for name in names))


ZEROS = (np.zeros(N_UNITS), np.zeros(N_UNITS))
NAMES = {
    "a submodule": dict(step="cell", initial_state=ZEROS),
    "a recurrent part that is a cell": dict(recurrent="cell", initial_state=ZEROS),
    "a method": dict(step="advance", initial_state=ZEROS, readout="decoder"),
    "a method of a submodule": dict(
        recurrent="cell", step="forward", readout="decoder", initial_state=ZEROS
    ),
    "a function": dict(
        step=lambda network, x, h: network.cell(x, h), initial_state=ZEROS, readout="decoder"
    ),
    "names of tensors": dict(step="cell", initial_state=("h0", "s0")),
}


def fitted(module: nn.Module, **options) -> SavedTraining:
    return SavedTraining(module, **options).fit(X, Y)


def outputs_of(module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return module(torch.as_tensor(X)).numpy()


def reference(cell: nn.Module, z0: Tensor, mask=None, learn: bool = False):
    """Return the dense operators of a cell ``forward(x, h) -> h`` on vectors."""
    named = {n: p.detach().clone() for n, p in cell.named_parameters()}
    mask = None if mask is None else torch.as_tensor(mask)
    inputs = torch.as_tensor(X)
    return oracle.dense_operators(cell, named, inputs, z0, mask=mask, learn_initial_state=learn)


def check_basic(lin, dense) -> None:
    for pair in BASIC.values():
        check_matrices(pair.operator(lin), pair.dense(dense))


def check_identities(saved, **options) -> KPFlowAnalyzer:
    """Return the analyzer of a trainer, whose identities hold."""
    options = {"analyses": ("weight_maps",), "random_state": 0} | options
    analyzer = KPFlowAnalyzer(saved, **options).fit(X, Y)
    table = analyzer.verify(X, Y)
    assert table["passed"].all(), table
    return analyzer


# --------------------------------------------------------------------------- which part is which


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_those_of_the_module(name):
    module = drawn(Theirs)
    saved = fitted(module, **NAMES[name])
    np.testing.assert_allclose(saved.predict(X), outputs_of(module), rtol=1e-13)
    assert saved.trajectories(X).shape == (N_TRIALS, N_STEPS, 2 * N_UNITS)
    sizes = sum(p.numel() for p in saved.network_.recurrent.parameters())
    assert sizes == sum(p.numel() for p in module.cell.parameters())


@pytest.mark.parametrize(
    "name, mask",
    [
        ("a submodule", RAGGED),
        pytest.param("a submodule", None, marks=pytest.mark.slow),
        pytest.param("a method", RAGGED, marks=pytest.mark.slow),
    ],
)
def test_operators_of_a_custom_gated_cell(name, mask):
    module = drawn(Theirs)
    lin = linearize(fitted(module, **NAMES[name]).network_, X, mask)
    dense = reference(Flat(module.cell), torch.zeros(2 * N_UNITS, dtype=torch.float64), mask)
    check_basic(lin, dense)
    for name, part in lin.K.components.items():
        matrix = dense.per_parameter(f"cell.{name.split('cell.')[-1]}")
        assert distance(part.to_dense(), matrix) < 1e-10


def test_the_identities_hold():
    check_identities(SavedTraining(drawn(Theirs), **NAMES["a method"]))


def test_a_trained_initial_state_by_name():
    module = drawn(Theirs, learn_start=True)
    saved = fitted(module, step="cell", initial_state=("h0", "s0"))
    np.testing.assert_allclose(saved.predict(X), outputs_of(module), rtol=1e-13)
    z0 = torch.cat([module.h0[0], module.s0[0]]).detach()
    dense = reference(Flat(module.cell), z0, learn=True)
    lin = linearize(saved.network_, X)
    check_matrices(lin.K, dense.K)
    check_matrices(lin.K.components["initial_state"], dense.per_parameter("initial_state"))
    changed = copy.deepcopy(module.state_dict())
    changed["h0"] = changed["h0"] + 1
    later = SavedTraining(
        module, [module.state_dict(), changed], step="cell", initial_state=("h0", "s0")
    )
    first, second = later.fit(X, Y).snapshots_
    torch.testing.assert_close(
        second.state["initial_state"] - first.state["initial_state"],
        torch.cat([torch.ones(N_UNITS), torch.zeros(N_UNITS)]).double(),
    )


@pytest.mark.parametrize("kind, n_parts", [(nn.GRU, 1), (nn.LSTM, 2)])
def test_a_trained_initial_state_of_stacked_layers(kind, n_parts):
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = kind(N_FEATURES, N_UNITS, num_layers=2, batch_first=True)
            self.out = nn.Linear(N_UNITS, N_OUTPUTS)
            values = torch.linspace(-1, 1, 2 * N_UNITS).reshape(2, 1, N_UNITS)
            self.h0, self.c0 = nn.Parameter(values), nn.Parameter(values**2)
            if n_parts == 1:
                del self.c0

        def forward(self, inputs):
            start = [self.h0, self.c0][:n_parts] if n_parts == 2 else [self.h0]
            start = [z.expand(-1, len(inputs), -1).contiguous() for z in start]
            return self.out(self.core(inputs, tuple(start) if n_parts == 2 else start[0])[0])

    module = drawn(Started)
    names = ("h0", "c0")[:n_parts]
    options = {"initial_state": names if n_parts == 2 else "h0"}
    analyzer = check_identities(SavedTraining(module, **options))
    np.testing.assert_allclose(analyzer.predict(X), outputs_of(module), rtol=1e-13)
    assert analyzer.network_.learn_initial_state
    with pytest.raises(UnsupportedNetworkError, match="parameters, h0|further parameters"):
        fitted(module)


def test_torchs_cells_by_name_agree_with_its_layers():
    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.LSTMCell(N_FEATURES, N_UNITS)
            self.out = nn.Linear(N_UNITS, N_OUTPUTS)

        def forward(self, inputs):
            state, outputs = None, []
            for x in inputs:  # Steps first.
                state = self.core(x, state)
                outputs.append(self.out(state[0]))
            return torch.stack(outputs)

    module = drawn(Looped)
    layer = drawn(nn.LSTM, N_FEATURES, N_UNITS)
    layer.load_state_dict({f"{n}_l0": p for n, p in module.core.state_dict().items()})
    confirmed = {"layout": "trials_first"}
    by_step = linearize(fitted(module, step="core", **confirmed).network_, X)
    by_maps = linearize(nn.ModuleDict({"core": layer, "out": module.out}), X)
    assert distance(by_step.states, by_maps.states) < 1e-12
    for pair in BASIC.values():
        assert (
            distance(pair.operator(by_step).to_dense(), pair.operator(by_maps).to_dense()) < 1e-12
        )


def with_readout(core: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"core": core, "out": drawn(nn.Linear, N_UNITS, N_OUTPUTS)})


def test_parameters_choose_theta():
    module = with_readout(drawn(nn.GRU, N_FEATURES, N_UNITS))
    every = linearize(fitted(module).network_, X)
    total = 0
    for pattern in ("core.weight_hh_l0", "core.weight_i*", "core.bias*"):
        part = linearize(fitted(module, parameters=[pattern]).network_, X)
        assert part.J_theta.shape[1] < every.J_theta.shape[1]
        total = total + part.K.to_dense()
    assert distance(total, every.K.to_dense()) < 1e-12
    assert all(p.requires_grad for p in module.parameters())
    with pytest.raises(
        ValueError, match="parameters: 'core.w' is not a parameter of ModuleDict; it"
    ):
        fitted(module, parameters=["core.w"])
    with pytest.raises(ValueError, match="parameters must be a sequence of names, got <list_it"):
        fitted(module, parameters=iter(["core.bias*"]))
    with pytest.raises(
        UnsupportedNetworkError, match="names no parameter of the recurrent part, but"
    ):
        fitted(module, parameters=["out.weight"])


# ------------------------------------------------------------------------- weights from raw ones


class Dale(nn.Module):
    """The last column of each square block inhibits, the others excite."""

    def forward(self, raw: Tensor) -> Tensor:
        """Return the weights."""
        sign = torch.ones(raw.shape[1], dtype=raw.dtype)
        sign[-1] = -1
        return nn.functional.softplus(raw) * sign


@pytest.mark.parametrize("n_layers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_K_lives_in_the_raw_parameters(n_layers):
    core = drawn(nn.GRU, N_FEATURES, N_UNITS, n_layers)
    for k in range(n_layers):
        parametrize.register_parametrization(core, f"weight_hh_l{k}", Dale())
    module = with_readout(core)
    analyzer = KPFlowAnalyzer(SavedTraining(module), analyses=("weight_maps",)).fit(X, Y)
    assert len(analyzer.weight_maps_) == 0
    lin = linearize(analyzer.network_, X, RAGGED)
    raw = "parametrizations.weight_hh_l0.original"
    assert raw in lin.J_theta.to_parameters(torch.zeros(lin.J_theta.shape[1]))
    if n_layers == 1:
        z0 = torch.zeros(N_UNITS, dtype=torch.float64)
        dense = reference(OneStep(copy.deepcopy(core)), z0, RAGGED)
        check_basic(lin, dense)
        for name, part in lin.K.components.items():
            assert distance(part.to_dense(), dense.per_parameter(f"core.{name}")) < 1e-10
        free = nn.GRU(N_FEATURES, N_UNITS).double()
        free.load_state_dict({n: getattr(core, n) for n in free.state_dict()})
        free = linearize(with_readout(free), X, RAGGED)
        assert distance(lin.K.to_dense(), free.K.to_dense()) > 0.01
    v = torch.linspace(-1, 1, lin.J_theta.shape[1], dtype=torch.float64)
    assert distance(lin.J_theta.on_trials(slice(1, 2)) @ v, (lin.J_theta @ v)[1:]) < 1e-12


def test_a_constrained_training_keeps_its_signs_and_K_its_parameters():
    def dale(network):
        network.recurrent.weight_hh_l0[:, :-1].clamp_(min=0)
        network.recurrent.weight_hh_l0[:, -1].clamp_(max=0)

    trainer = RecurrentTrainer(
        "tanh", hidden_size=4, constraint=dale, max_iter=20, learning_rate=0.05, random_state=0
    )
    for snapshot in check_identities(trainer).snapshots_[1:]:
        weights = snapshot.state["recurrent.weight_hh_l0"]
        assert (weights[:, :-1] >= 0).all() and (weights[:, -1] <= 0).all()


def test_weights_that_cannot_be_followed_are_refused():
    tied = drawn(nn.GRU, N_UNITS, N_UNITS)
    tied.weight_ih_l0 = tied.weight_hh_l0
    inputs = np.zeros((N_TRIALS, N_STEPS, N_UNITS))
    with pytest.raises(UnsupportedNetworkError, match="with tensors that share weights"):
        SavedTraining(with_readout(tied)).fit(inputs, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = nn.utils.weight_norm(drawn(nn.GRU, N_FEATURES, N_UNITS), "weight_hh_l0")
    message = "hook or a wrapping module computes|cannot be copied: .*weight_norm"
    with pytest.raises(UnsupportedNetworkError, match=message):
        fitted(with_readout(hooked))


# ------------------------------------------------------------------------------------ random steps


class NoisyCell(nn.Module):
    """A cell with dropout, and with noise that evaluation mode does not switch off."""

    def __init__(self, std: float = 0.0, p: float = 0.0) -> None:
        super().__init__()
        self.inner, self.std = nn.Linear(N_FEATURES + N_UNITS, N_UNITS), std
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state."""
        new = torch.tanh(self.inner(torch.cat([x, self.drop(h)], dim=-1)))
        return new + self.std * torch.randn_like(new)


def noisy(**options) -> nn.ModuleDict:
    return with_readout(drawn(NoisyCell, **options))


def test_a_step_that_stays_random_is_named():
    message = "cell NoisyCell returns other states .* at step 0 of trial 0.* noise='frozen'"
    with pytest.raises(UnsupportedNetworkError, match=message):
        fitted(noisy(std=0.1), step="core")


def test_dropout_is_found_once_and_off(caplog):
    module = noisy(p=0.5).train()
    with caplog.at_level(logging.INFO, logger="kpflow_sklearn"):
        saved = SavedTraining(module, [module.state_dict()] * 3, step="core").fit(X, Y)
    assert saved.noise_sources_ == ["drop (Dropout, p=0.5)"]
    assert [r.message for r in caplog.records] == ["noise='off': drop (Dropout, p=0.5)"]
    np.testing.assert_array_equal(saved.predict(X), fitted(noisy(), step="core").predict(X))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"std": 0.3}, marks=pytest.mark.slow),
        pytest.param({"p": 0.5}, marks=pytest.mark.slow),
        {"std": 0.3, "p": 0.5},
    ],
    ids=str,
)
def test_frozen_noise_is_one_realisation_everywhere(options):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    saved = SavedTraining(noisy(**options), step="core", noise="frozen")
    analyzer = check_identities(saved, operators=("K",))
    assert torch.equal(torch.random.get_rng_state(), before)
    states = analyzer.trajectories(X)
    np.testing.assert_array_equal(states, analyzer.trajectories(X))
    np.testing.assert_allclose(states[1:], analyzer.trajectories(X[1:]), atol=1e-14)
    quiet = fitted(noisy(), step="core").trajectories(X)
    assert abs(states - quiet).max() > 0.05


def test_P_and_K_see_the_frozen_noise():
    network = fitted(noisy(std=0.3, p=0.5), step="core", noise="frozen").network_
    with torch.no_grad():
        still = network.states(torch.zeros(3, N_STEPS, N_FEATURES, dtype=torch.float64))
    assert abs(still - still[:1]).max() < 1e-14  # The noise is common to the trials.
    P = linearize(network, X).P.to_dense().reshape(N_TRIALS, -1, N_TRIALS, N_STEPS * N_UNITS)

    def run(pushes: Tensor) -> Tensor:
        return network.states(
            torch.as_tensor(X[:1]), pushes.reshape(1, N_STEPS, N_UNITS)
        ).flatten()

    zero = torch.zeros(N_STEPS * N_UNITS, dtype=torch.float64)
    assert distance(P[0, :, 0], torch.autograd.functional.jacobian(run, zero)) < 1e-10


def test_noise_that_cannot_be_frozen():
    generator = np.random.default_rng(0)

    class Secret(NoisyCell):
        def forward(self, x, h):
            return super().forward(x, h) + generator.standard_normal()

    module = noisy()
    module["core"].__class__ = Secret
    for noise in ("off", "frozen"):
        with pytest.raises(UnsupportedNetworkError, match="another generator.* cannot be frozen"):
            fitted(module, step="core", noise=noise)
    with pytest.raises(ValueError, match="noise must be one of 'off', 'frozen', got 'on'"):
        fitted(noisy(), step="core", noise="on")
    layers = with_readout(drawn(nn.GRU, N_FEATURES, N_UNITS, 2, dropout=0.5))
    with pytest.raises(UnsupportedNetworkError, match="dropout=0.5 and noise='frozen' cannot be"):
        fitted(layers, noise="frozen")


# ------------------------------------------------------------------- what does not fit is refused


class Drifts(Theirs):
    """A network that departs from its cell from the third step on."""

    drift = 1e-3


class Scaled(Theirs):
    """A network that scales its outputs, without a call of its readout."""

    def forward(self, inputs):
        """Return the outputs."""
        h, s = torch.zeros(2, len(inputs), N_UNITS, dtype=inputs.dtype)
        for x in inputs.unbind(1):
            h, s = self.cell(x, (h, s))
        return 2 * nn.functional.linear(h, self.decoder.weight, self.decoder.bias)


PARTINGS = {
    "later steps": (
        Drifts,
        "the states read out differ by up to 0.001, first at step 2 of trial 0",
    ),
    "another readout": (Scaled, "they differ by up to .*, first at trial 0, the last step"),
}


@pytest.mark.parametrize("readout", [None, "decoder"])
@pytest.mark.parametrize("name", PARTINGS)
def test_the_first_difference_is_named(name, readout):
    kind, message = PARTINGS[name]
    with pytest.raises(UnsupportedNetworkError, match=message):
        fitted(drawn(kind), readout=readout, **NAMES["a submodule"])


PLAIN = {"step": "cell", "initial_state": ZEROS}
REFUSED = {
    "no such step": (PLAIN | {"step": "sell"}, "'sell' is not a submodule or attribute of Theirs"),
    "a step that is none": (PLAIN | {"step": "h0"}, "step='h0' must name a submodule or a method"),
    "no such readout": (PLAIN | {"readout": "out"}, "'out' is not a submodule or attribute of"),
    "another readout": (PLAIN | {"readout": "cell.gate"}, r"the readout takes 5 values, .* has 3"),
    "a state of one part": ({"step": "cell"}, "if it is a tuple, give initial_state="),
    "a start of the wrong size": (
        PLAIN | {"initial_state": (np.zeros(2), np.zeros(3))},
        "the readout takes 3 values, but the state, or the first part of it, has 2",
    ),
    "a start that is a module": (PLAIN | {"initial_state": "cell"}, "must name a tensor of Th"),
    "two readouts in reach": (PLAIN | {"step": "advance"}, "expected exactly one torch.nn.Linear"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_do_not_fit(name):
    options, message = REFUSED[name]
    with pytest.raises((UnsupportedNetworkError, ValueError), match=message):
        fitted(drawn(Theirs), **options)


def test_a_start_that_trains_in_part():
    module = drawn(Theirs, learn_start=True)
    module.s0.requires_grad_(False)
    with pytest.raises(UnsupportedNetworkError, match="but h0 can train .* and s0 cannot"):
        fitted(module, step="cell", initial_state=("h0", "s0"))
