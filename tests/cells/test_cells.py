"""Cells and networks: comparison with ``torch.nn``, initial weights, and users' modules."""

from __future__ import annotations

import functools
import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kpflow_sklearn import Linearization, UnsupportedNetworkError, linearize
from kpflow_sklearn.cells import CELL_NAMES, Cell, WeightMap, make_cell
from kpflow_sklearn.cells._user_step import UserStep
from kpflow_sklearn.networks import RecurrentNetwork, build_network, recognise_network
from kpflow_sklearn.networks.tangents import LayerWeights, MappedTangent
from tests.oracles.cases import Case, MyCell, Solved, compare, distance

X = np.random.default_rng(5).standard_normal((3, 5, 2))
X_TORCH = torch.as_tensor(X)
INITS = ("normal", "torch")
TORCH_MODULES = {
    "tanh": nn.RNN,
    "relu": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


def make(cell, **options) -> RecurrentNetwork:
    """Return a small network; keywords replace the defaults."""
    defaults = dict(
        hidden_size=4, n_layers=1, init_scale=1.3, recurrent_init="normal", alpha=0.4,
        learn_initial_state=False, dtype=torch.float64, seed=0,
    )  # fmt: skip
    return build_network(cell, 2, 2, **defaults | options)


def torch_module(cell: str, n_layers: int = 1, **options) -> nn.RNNBase:
    """Return torch's module for a cell in float64, with weights drawn outside the global RNG."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        options = dict(batch_first=True, dtype=torch.float64) | options
        return TORCH_MODULES[cell](2, 4, n_layers, **options)


def with_readout(module: nn.Module, n_outputs: int = 2) -> nn.ModuleDict:
    """Return a module with a readout, as users have it."""
    with torch.random.fork_rng():
        return nn.ModuleDict({"rnn": module, "out": nn.Linear(4, n_outputs, dtype=torch.float64)})


# ----------------------------------------------------------------------------- against torch.nn


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("cell", TORCH_MODULES)
def test_torch_modules_are_recognised(cell, n_layers):
    user = with_readout(torch_module(cell, n_layers))
    network = recognise_network(user)
    states, (top, last) = network.states(X_TORCH), user["rnn"](X_TORCH)
    parts = zip(*last, strict=True) if cell == "lstm" else zip(last, strict=True)
    final = torch.cat([part for layer in parts for part in layer], dim=-1)
    assert distance(network.rates(states), top) < 1e-12
    assert distance(network(X_TORCH), user["out"](top)) < 1e-12
    assert distance(states[:, -1], final) < 1e-12
    assert network.recurrent is user["rnn"] and network.readout is user["out"]


def check_same_operators(ours: Linearization, theirs: Linearization) -> None:
    for a, b in ((ours.K, theirs.K), (ours.P, theirs.P), (ours.PKP, theirs.PKP)):
        assert distance(a.to_dense(), b.to_dense()) < 1e-12


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("cell", TORCH_MODULES)
def test_weights_load_into_torch_and_run_alike(cell, n_layers):
    network = make(cell, n_layers=n_layers)
    user = with_readout(torch_module(cell, n_layers))
    user["rnn"].load_state_dict(network.recurrent.state_dict(), strict=True)
    top, _ = user["rnn"](X_TORCH)
    assert distance(network.rates(network.states(X_TORCH)), top) < 1e-12
    assert distance(network(X_TORCH), network.readout(top)) < 1e-12
    check_same_operators(linearize(network, X), linearize(user, X))


def test_a_recognised_network_is_left_as_it_is():
    network = make("gru")
    assert recognise_network(network) is network


def test_leaky_with_alpha_one_is_tanh():
    leaky, tanh = linearize(make("leaky", alpha=1.0), X), linearize(make("tanh"), X)
    assert torch.equal(leaky.states, tanh.states)
    check_same_operators(leaky, tanh)


def test_leaky_voltage_by_hand():
    """Voltages follow h' = (1 - alpha) h + alpha (W tanh(h) + U x + b), read out from tanh(h)."""
    network = make("leaky_voltage", alpha=0.3)
    p = dict(network.recurrent.named_parameters())
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    h = torch.zeros(3, 4, dtype=torch.float64)
    for t in range(5):
        drive = torch.tanh(h) @ p["weight_hh_l0"].T + X_TORCH[:, t] @ p["weight_ih_l0"].T + bias
        h = 0.7 * h + 0.3 * drive
    states = network.states(X_TORCH)
    assert distance(states[:, -1], h) < 1e-12
    assert distance(network(X_TORCH)[:, -1], network.readout(torch.tanh(h))) < 1e-12


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_noise_enters_after_each_step(cell):
    network = make(cell, n_layers=2)
    noise = torch.randn(
        3, 5, network.n_states, generator=torch.Generator().manual_seed(0)
    ).double()
    states = network.states(X_TORCH, noise)
    first = network.states(X_TORCH[:, :1])[:, 0]
    bottom = network.layers[0].n_states
    assert distance(states[:, 0, :bottom], (first + noise[:, 0])[:, :bottom]) < 1e-12
    assert torch.equal(network.states(X_TORCH, 0 * noise), network.states(X_TORCH))


# ------------------------------------------------------------------------------- initialisation

SIZE, GAIN = 400, 1.5


@functools.cache
def large(cell: str, recurrent_init: str) -> RecurrentNetwork:
    """Return a network that is large enough for statistics."""
    return make(cell, hidden_size=SIZE, n_layers=2, init_scale=GAIN, recurrent_init=recurrent_init)


def recurrent_blocks(network: RecurrentNetwork) -> list[Tensor]:
    """Return the H x H gate blocks of every layer."""
    weights = [p for n, p in network.recurrent.named_parameters() if n.startswith("weight_hh")]
    return [block.detach() for w in weights for block in w.split(w.shape[1])]


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_normal_recurrent_weights(cell):
    blocks = recurrent_blocks(large(cell, "normal"))
    sigma, n = GAIN / math.sqrt(SIZE), SIZE**2
    assert len(blocks) == 2 * make_cell(cell).n_gates
    for block in blocks:
        assert abs(block.std() - sigma) < 4 * sigma / math.sqrt(2 * n)
        assert abs(block.mean()) < 4 * sigma / math.sqrt(n)
        assert abs((block**4).mean() / sigma**4 - 3) < 4 * math.sqrt(96 / n)


@pytest.mark.parametrize("cell", ["tanh", "gru"])
def test_normal_spectral_radius_is_the_gain(cell):
    block = recurrent_blocks(large(cell, "normal"))[-1]
    assert np.abs(np.linalg.eigvals(block.numpy())).max() == pytest.approx(GAIN, rel=0.07)


def check_uniform(values: Tensor, bound: float) -> None:
    """Check that values are uniform in [-bound, bound]."""
    n = values.numel()
    assert values.abs().max() <= bound
    assert abs(values.mean()) < 4 * bound / math.sqrt(3 * n)
    assert abs((values**2).mean() - bound**2 / 3) < 4 * bound**2 * math.sqrt(4 / 45 / n)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_torch_recurrent_weights(cell):
    for block in recurrent_blocks(large(cell, "torch")):
        check_uniform(block, GAIN / math.sqrt(SIZE))


@pytest.mark.parametrize("recurrent_init", INITS)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_other_weights_follow_torch(cell, recurrent_init):
    network = large(cell, recurrent_init)
    for name, p in [*network.recurrent.named_parameters(), *network.readout.named_parameters()]:
        if not name.startswith("weight_hh"):
            bound = 1 / math.sqrt(SIZE)
            if p.numel() > 100:
                check_uniform(p.detach(), bound)
            assert 0 < p.abs().max() <= bound


def test_initial_state_starts_at_zero():
    assert not make("gru").initial_state.any()
    assert isinstance(make("gru", learn_initial_state=True).initial_state, nn.Parameter)
    assert "initial_state" not in dict(make("gru").named_parameters())


# ------------------------------------------------------------------------------- random numbers

ANY_CELL = [*CELL_NAMES, MyCell, nn.GRUCell]


@pytest.mark.parametrize("cell", ANY_CELL)
def test_building_leaves_global_random_numbers_alone(cell):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    make(cell)
    assert torch.equal(torch.get_rng_state(), torch_before)
    for a, b in zip(np.random.get_state(), numpy_before, strict=True):  # noqa: NPY002
        assert np.array_equal(a, b)


@pytest.mark.parametrize("recurrent_init", INITS)
@pytest.mark.parametrize("cell", ANY_CELL)
def test_the_seed_decides_the_weights(cell, recurrent_init):
    def weights(seed: int, global_seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            network = make(cell, seed=seed, recurrent_init=recurrent_init)
        return nn.utils.parameters_to_vector(network.parameters())

    assert torch.equal(weights(0, 1), weights(0, 2))
    assert not torch.equal(weights(0, 1), weights(1, 1))


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_gain_scales_the_recurrent_weights_alone(cell):
    one, two = (dict(make(cell, init_scale=g).named_parameters()) for g in (1.0, 2.0))
    for name in one:
        factor = 2 if "weight_hh" in name else 1
        assert torch.equal(factor * one[name], two[name])


# ------------------------------------------------------------------- parts missing, parts frozen


@pytest.mark.parametrize("cell, n_layers", [("tanh", 1), ("relu", 2), ("gru", 2), ("lstm", 1)])
def test_modules_without_biases(cell, n_layers):
    user = with_readout(torch_module(cell, n_layers, bias=False))
    network = recognise_network(user)
    solved = compare(Case("no bias", cell, n_layers), network, X)
    lin, dense = solved.linearization, solved.dense
    for op, matrix in ((lin.K, dense.K), (lin.P, dense.P), (lin.PKP, dense.PKP)):
        assert distance(op.to_dense(), matrix) < 1e-10
    assert distance(network(X_TORCH), user["out"](user["rnn"](X_TORCH)[0])) < 1e-12


FROZEN = [("weight_ih",), ("weight_hh",), ("bias_ih", "bias_hh"), ("weight_ih", "bias_hh")]


@pytest.mark.parametrize("frozen", FROZEN, ids="+".join)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_frozen_parameters_are_left_out_of_K(cell, frozen):
    n_layers = 2 if cell == "tanh" else 1
    network = make(cell, n_layers=n_layers)
    for name, p in network.recurrent.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    check_frozen(compare(Case("frozen", cell, n_layers), network, X))


@pytest.mark.parametrize("frozen", ["inner.weight", "inner.bias", "gain"])
def test_frozen_parameters_of_a_users_cell(frozen):
    network = make(MyCell)
    network.recurrent.get_parameter(frozen).requires_grad_(False)
    check_frozen(compare(Case("frozen", MyCell), network, X))


def check_frozen(solved: Solved) -> None:
    """Compare K with the sum over the parameters that train, P with the whole reference."""
    lin, dense = solved.linearization, solved.dense
    trained = [n for n, p in lin.network.recurrent.named_parameters() if p.requires_grad]
    expected = sum(dense.per_parameter(name) for name in trained)
    assert distance(lin.K.to_dense(), expected) < 1e-10
    assert distance(lin.P.to_dense(), dense.P) < 1e-10
    direction = torch.zeros(lin.J_theta.shape[1], dtype=torch.float64)
    assert set(lin.J_theta.to_parameters(direction)) == set(trained)


@pytest.mark.parametrize("cell", ANY_CELL)
def test_nothing_to_train_makes_K_zero(cell):
    network = make(cell)
    network.recurrent.requires_grad_(False)
    lin = linearize(network, X)
    assert torch.count_nonzero(lin.K.to_dense()) == 0
    assert torch.count_nonzero(lin.PKP.to_dense()) == 0
    assert lin.K.components == {}
    assert lin.J_theta.to_dense().shape == lin.J_theta.shape == (lin.K.shape[0], 0)


# ---------------------------------------------------------------------------- what is refused


class Two(nn.Module):
    """Two recurrent modules and two readouts, of which the user must name one each."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.a, self.b = nn.GRU(2, 4), nn.RNN(2, 3)
            self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 2)
            self.embed = nn.Linear(2, 2)


@pytest.mark.parametrize(
    "module, message",
    [
        (torch_module("gru", bidirectional=True), "GRU with bidirectional=True .* later inputs"),
        (torch_module("lstm", proj_size=3), "LSTM with proj_size=3 .*: write its step"),
        (torch_module("gru", 2, dropout=0.1), r"GRU with dropout=0.1 .* module.eval\(\)"),
    ],
    ids=["bidirectional", "proj_size", "dropout"],
)
def test_unsupported_modules_are_refused(module, message):
    with pytest.raises(UnsupportedNetworkError, match=message):
        recognise_network(with_readout(module))
    with pytest.raises(UnsupportedNetworkError, match=message):
        linearize(with_readout(module), X)


def test_dropout_does_not_matter_in_eval_mode():
    user = with_readout(torch_module("gru", 2, dropout=0.5)).eval()
    assert distance(recognise_network(user)(X_TORCH), user["out"](user["rnn"](X_TORCH)[0])) < 1e-12


PARTS = [
    (nn.Linear(4, 2), {}, "recurrent: expected exactly one torch.nn.RNN, GRU or LSTM .* none"),
    (nn.GRU(2, 4), {}, "readout: expected exactly one .*Linear .* in_features=4, found none"),
    (Two(), {}, "recurrent: expected exactly one .* found 'a', 'b'; give its name as recurrent="),
    (Two(), {"recurrent": "a"}, "readout: .* found 'first', 'second'; give its name as readout="),
    (Two(), {"recurrent": "b"}, "readout: .* in_features=3, found none"),
    (
        Two(),
        {"recurrent": "c"},
        "recurrent='c' is not a submodule .* of Two, .* are 'a', 'b', 'first'",
    ),
    (Two(), {"recurrent": "a", "readout": "c"}, "readout='c' is not a submodule .* of Two"),
    (Two(), {"recurrent": "first"}, "recurrent: expected exactly one torch.nn.RNN, GRU or LSTM"),
    (Two(), {"recurrent": "a", "readout": "b"}, "readout: the .* must map states .* but failed"),
    (Two(), {"recurrent": "a", "readout": "embed"}, "the readout takes . values, but the state"),
]


@pytest.mark.parametrize("module, names, message", PARTS, ids=range(len(PARTS)))
def test_ambiguous_or_missing_parts_are_refused(module, names, message):
    with pytest.raises(UnsupportedNetworkError, match=message):
        recognise_network(module, **names)


def test_parts_are_taken_by_name():
    module = Two()
    network = recognise_network(module, recurrent="a", readout="second")
    assert network.recurrent is module.a and network.readout is module.second


UNKNOWN = f"cell must be one of {', '.join(map(repr, CELL_NAMES))} or a callable .* 'rnn'"


@pytest.mark.parametrize(
    "cell, message",
    [("rnn", UNKNOWN), (lambda n_features, hidden_size: hidden_size, "returned a int")],
)
def test_other_cells_are_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        make(cell)


class Wrong(nn.Module):
    """A cell that does not return the next state."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, h: Tensor):
        """Return a function of the state."""
        return self.answer(h)


ONE, PAIR = "a tensor of shape (3, 4)", "a tuple of tensors of shapes [(3, 4), (3, 4)]"


@pytest.mark.parametrize(
    "answer, expected, came",
    [
        (lambda h: h[:, :2], ONE, "(3, 2)"),
        (lambda h: (h, h), ONE, "tuple of [(3, 4), (3, 4)]"),
        (lambda h: h[0], PAIR, "(3, 4)"),
        (lambda h: h[:1], PAIR, "tuple of [(3, 4)]"),
        (lambda h: (h[0], h[1][:, :2]), PAIR, "tuple of [(3, 4), (3, 2)]"),
        (lambda h: list(h), PAIR, "list"),
    ],
)
def test_a_step_must_return_the_next_state(answer, expected, came):
    sizes = (4, 4) if expected is PAIR else (4,)
    step = UserStep(Wrong(answer), sizes, is_tuple=expected is PAIR)
    message = f"the cell Wrong must return the next state as {expected}, got {came}."
    with pytest.raises(UnsupportedNetworkError, match=re.escape(message)):
        step(0, torch.zeros(3, 2), torch.zeros(3, sum(sizes)))


def test_an_error_of_a_named_step_bears_its_name():
    module = Wrong(lambda h: h[:, :2])
    module.label = 7  # The user's own attribute.
    for label, words in ((None, "the cell Wrong"), ("step advance", "the step advance")):
        with pytest.raises(UnsupportedNetworkError, match=f"{words} must return"):
            UserStep(module, (4,), label=label)(0, torch.zeros(3, 2), torch.zeros(3, 4))


class DrivenGain(Cell):
    """A cell with a gate of the input alone, unlike the built-in cells: h' = tanh(a_0) a_1."""

    name = "driven_gain"
    maps = (WeightMap("recurrent", 0, input=False), WeightMap("gain", 1, state=False))
    n_gates = 2

    def combine(self, a, z):
        """Return the next hidden state."""
        return (torch.tanh(a[0]) * a[1],)


def test_a_gate_may_depend_on_the_input_or_the_state_alone():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ih, hh, x, h = drawn(8, 2), drawn(8, 4), drawn(1, 3, 2), drawn(1, 3, 4)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = LayerWeights((ih, hh, None, None), names, (True, True, False, False))

    def step(h: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(hh[:4] @ h) * (ih[4:] @ x)

    pairs = list(zip(h[0], x[0], strict=True))
    states = torch.stack([step(*pair) for pair in pairs])[None]
    tangent = MappedTangent(DrivenGain(), weights, x, h, states, None)
    by_state = torch.stack([torch.autograd.functional.jacobian(step, p)[0] for p in pairs])
    by_input = torch.stack([torch.autograd.functional.jacobian(step, p)[1] for p in pairs])
    assert distance(tangent.state_matrix(0), by_state) < 1e-14
    p, nothing = drawn(5, 3, 4), torch.zeros(5, 3, 4, dtype=torch.float64)
    out = nothing.clone()
    tangent.state_adjoint(0, p, nothing, out)
    assert distance(out, torch.einsum("kbi,bij->kbj", p, by_state)) < 1e-14
    assert distance(tangent.input_adjoint(0, p), torch.einsum("kbi,bij->kbj", p, by_input)) < 1e-14


@pytest.mark.parametrize("alpha", [0, 1.01])
def test_alpha_must_be_in_its_range(alpha):
    with pytest.raises(ValueError, match=f"alpha == {alpha}, must be"):
        make_cell("leaky", alpha)
