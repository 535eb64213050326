"""Encoders before the recurrent part, and readouts that are functions or modules."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kpflow_sklearn import (
    KPFlowAnalyzer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    UnsupportedNetworkError,
    linearize,
)
from kpflow_sklearn.networks.tangents import MappedTangent

N_TRIALS, N_STEPS, N_FEATURES, N_INPUTS, N_UNITS, N_OUTPUTS = 5, 6, 3, 4, 4, 2
rng = np.random.default_rng(11)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
MASK = np.arange(N_STEPS) < np.array([6, 3, 5, 1, 4])[:, None]
TOKENS = rng.integers(0, 7, (N_TRIALS, N_STEPS, 1)).astype(float)


class Net(nn.Module):
    """An encoder, a GRU as a layer or with a step of its own, and a perceptron."""

    def __init__(self, encoder: nn.Module, own_step: bool = False) -> None:
        super().__init__()
        self.enc, self.own_step = encoder, own_step
        kind = nn.GRUCell if own_step else nn.GRU
        options = {} if own_step else {"batch_first": True}
        self.rnn = kind(N_INPUTS, N_UNITS, **options)
        self.norm, self.mid = nn.LayerNorm(N_UNITS), nn.Linear(N_UNITS, N_UNITS)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs of the GRU."""
        return self.enc(x)

    def advance(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next state."""
        return self.rnn(x, h)

    def decode(self, z: Tensor) -> Tensor:
        """Return the outputs."""
        return self.out(torch.tanh(self.mid(self.norm(z))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of every step."""
        inputs = self.encode(x)
        if not self.own_step:
            return self.decode(self.rnn(inputs)[0])
        h, states = inputs.new_zeros(len(x), N_UNITS), []
        for x_t in inputs.unbind(1):
            h = self.advance(x_t, h)
            states.append(h)
        return self.decode(torch.stack(states, 1))


class Convolved(Net):
    """A network that takes the steps of X as the last axis of a convolution."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs of the GRU."""
        return self.enc(x.transpose(1, 2)).transpose(1, 2)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(N_FEATURES, 5), nn.Tanh(), nn.Linear(5, N_INPUTS))


def drawn(make=Net, encoder=perceptron, seed: int = 0, **options) -> nn.Module:
    """Return a network in double precision whose encoder does not train."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make(encoder(), **options).double()
    module.enc.requires_grad_(False)
    return module


def convolved(**options) -> nn.Module:
    return drawn(Convolved, lambda: nn.Conv1d(N_FEATURES, N_INPUTS, 3, padding=1), **options)


def decoded(network: nn.Module, states: Tensor) -> Tensor:
    """Return the outputs, as a function that can be pickled."""
    return network.decode(states)


def embedded(network: nn.Module, tokens: Tensor) -> Tensor:
    return network.enc(tokens[..., 0].long())


def outputs_of(module: nn.Module, inputs: np.ndarray = X) -> np.ndarray:
    with torch.no_grad():
        return module(torch.as_tensor(inputs)).numpy()


# ---------------------------------------------------------------------- the gradient and the flow

ENCODERS = {
    "a submodule": (drawn, "enc"),
    "a method": (drawn, "encode"),
    "a function": (drawn, lambda network, x: network.enc(x)),
    "a convolution over time": (
        convolved,
        lambda network, x: network.enc(x.transpose(1, 2)).transpose(1, 2),
    ),
}
STEPS = {"nn.GRU": {}, "a step": {"step": "advance", "initial_state": np.zeros(N_UNITS)}}


def flow_of(lin, y) -> tuple[dict[str, Tensor], Tensor]:
    """Return J_theta* P* Err by parameter, and PKP* Err."""
    error = lin.error(y)
    return lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ error)), lin.PKP @ error


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "mask"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ENCODERS)
def test_the_flow_through_encoder_and_readout_is_that_of_autograd(name, steps, mask):
    make, encoder = ENCODERS[name]
    module = make(own_step=steps != "nn.GRU")
    saved = SavedTraining(module, encoder=encoder, readout=decoded, **STEPS[steps])
    inputs = X if mask is None else np.where(mask[..., None], X, 0)
    saved.fit(X, Y, mask=mask)
    weight = np.ones((N_TRIALS, N_STEPS)) if mask is None else mask
    theirs = outputs_of(module, inputs)
    assert np.abs((saved.predict(X, mask=mask) - theirs) * weight[..., None]).max() < 1e-13

    lin = linearize(saved.network_, X, mask)
    assert isinstance(lin.tangent.layers[0], MappedTangent) == (steps == "nn.GRU")
    squares = ((module(torch.as_tensor(inputs)) - torch.as_tensor(Y)) ** 2).mean(-1)
    loss = (squares * torch.as_tensor(weight)).sum() / weight.sum()
    core = dict(module.rnn.named_parameters())
    expected = dict(zip(core, torch.autograd.grad(loss, list(core.values())), strict=True))
    ours, flow = flow_of(lin, Y)
    assert {label.removeprefix("rnn.") for label in ours} == set(expected)
    for label, value in ours.items():
        assert (value - expected[label.removeprefix("rnn.")]).abs().max() < 1e-13

    # One small gradient step of the recurrent part moves the states by -eta PKP* Err.
    moved = copy.deepcopy(saved.network_)
    with torch.no_grad():
        for label, p in moved.recurrent.named_parameters():
            p -= 1e-6 * expected[label.removeprefix("rnn.")]
        change = (moved.states(lin.X) - lin.states) / 1e-6 * torch.as_tensor(weight)[..., None]
    assert (change + flow).norm() < 1e-5 * flow.norm()


def test_an_embedding_of_tokens():
    module = drawn(encoder=lambda: nn.Embedding(7, N_INPUTS))
    saved = SavedTraining(module, encoder=embedded, readout="decode").fit(TOKENS, Y)
    theirs = module(torch.as_tensor(TOKENS)[..., 0].long()).detach().numpy()
    np.testing.assert_allclose(saved.predict(TOKENS), theirs, atol=1e-14)
    with pytest.raises(UnsupportedNetworkError, match="encoder embedded failed with IndexErr"):
        saved.predict(TOKENS + 7)
    with pytest.raises(UnsupportedNetworkError, match="encoder Embedding failed .*as integers"):
        SavedTraining(module, encoder="enc", readout="decode").fit(TOKENS, Y)


class Deep(nn.Module):
    """A convolution of (n_trials, n_channels, n_timesteps), two LSTMs, outputs at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 5, 3, padding=1), nn.BatchNorm1d(5)
        self.rnn = nn.LSTM(5, N_UNITS, num_layers=2)
        self.fc = nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the last step."""
        inputs = torch.relu(self.norm(self.conv(x))).permute(2, 0, 1)
        return self.fc(self.rnn(inputs)[0][-1])


class Packed(nn.Module):
    """A network that is given the lengths of trials."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.rnn = nn.Linear(N_FEATURES, 5), nn.GRU(5, N_UNITS, batch_first=True)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the outputs of as many steps as the longest trial has."""
        options = {"batch_first": True, "enforce_sorted": False}
        packed = pack_padded_sequence(torch.relu(self.enc(x)), lengths, **options)
        return self.out(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


class Language(nn.Module):
    """An embedding that is tied to the readout."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, N_UNITS)
        self.rnn, self.out = (
            nn.GRU(N_UNITS, N_UNITS, batch_first=True),
            nn.Linear(N_UNITS, 7, False),
        )
        self.out.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits for tokens (n_trials, n_timesteps)."""
        return self.out(self.rnn(self.emb(tokens))[0])


class BothWays(nn.Module):
    """A bidirectional GRU as the encoder of another one, with steps first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(N_FEATURES, 3, bidirectional=True), nn.GRU(6, N_UNITS)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return self.out(self.second(self.first(x)[0])[0])


WILD = {
    "channels first": (Deep, lambda m, x: m(x.mT)[:, None], dict(
        encoder=lambda n, x: torch.relu(n.norm(n.conv(x.mT))).mT)),
    "lengths": (Packed, lambda m, x: m(x, torch.as_tensor(MASK.sum(1))), dict(
        encoder=lambda n, x: torch.relu(n.enc(x)))),
    "tied embedding": (Language, lambda m, x: m(x[..., 0].long()), dict(
        encoder=lambda n, x: n.emb(x[..., 0].long()))),
    "steps first": (BothWays, lambda m, x: m(x.transpose(0, 1)).transpose(0, 1), dict(
        encoder=lambda n, x: n.first(x.transpose(0, 1))[0].transpose(0, 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", WILD)
def test_networks_with_encoders_keep_the_fast_path(name):
    kind, call, options = WILD[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind().double().eval().requires_grad_(False)
    for part in module.children():
        part.requires_grad_(part is core_of(module))
    inputs, mask = (TOKENS if name == "tied embedding" else X), None
    if name == "channels first":
        inputs = X[..., :2]
    if name == "lengths":
        mask, inputs = MASK, np.where(MASK[..., None], X, 0)
    theirs = call(module, torch.as_tensor(inputs)).detach().numpy()
    targets = np.zeros((N_TRIALS, N_STEPS, theirs.shape[-1]))
    layout = "trials_first" if name == "steps first" else "auto"
    saved = SavedTraining(module, layout=layout, **options)
    ours = saved.fit(inputs, targets, mask=mask).network_(torch.as_tensor(inputs)).detach()
    weight = np.ones((N_TRIALS, 1, 1)) if mask is None else mask[..., None]
    assert np.abs((ours[:, -theirs.shape[1] :].numpy() - theirs) * weight).max() < 1e-13
    lin = linearize(saved.network_, inputs, mask)
    assert all(isinstance(layer, MappedTangent) for layer in lin.tangent.layers)
    if name == "steps first":
        with pytest.warns(UserWarning, match="BothWays takes steps first"):
            SavedTraining(module, **options).fit(inputs, targets)


def test_an_encoder_that_trains_is_named_once_and_is_not_in_theta():
    module = drawn().requires_grad_(True)
    fixed = SavedTraining(drawn(), encoder="enc", readout="decode").fit(X, Y)
    message = "enc.0.weight, .* of the encoder Sequential train, but are not in theta"
    with pytest.warns(UserWarning, match=message) as caught:
        saved = SavedTraining(module, encoder="enc", readout="decode").fit(X, Y)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = SavedTraining(module, encoder="enc", readout="decode", parameters=["rnn.*"])
        chosen.fit(X, Y)
    for other in (saved, chosen):
        ours, theirs = (linearize(s.network_, X) for s in (other, fixed))
        torch.testing.assert_close(ours.K @ ours.states, theirs.K @ theirs.states)


# ------------------------------------------------------------------------------ their life after


PARTS: dict = {
    "by name": {"encoder": "enc", "readout": "decode"},
    "functions": {"encoder": lambda network, x: network.enc(x), "readout": decoded},
    "modules": lambda m: {"encoder": m.enc, "readout": in_order(m)},
    "a step and functions": {
        "encoder": "enc", "readout": decoded, "step": lambda network, x, h: network.rnn(x, h),
        "initial_state": np.zeros(N_UNITS),
    },
}  # fmt: skip


def in_order(module: nn.Module) -> nn.Module:
    return nn.Sequential(module.norm, module.mid, nn.Tanh(), module.out)


@pytest.mark.parametrize("name", PARTS)
def test_checkpoints_clones_copies_and_pickles(name):
    first, last = (drawn(own_step="step" in name, seed=seed) for seed in (0, 1))
    options = PARTS[name](last) if callable(PARTS[name]) else PARTS[name]
    states = [copy.deepcopy(first.state_dict()), copy.deepcopy(last.state_dict())]
    saved = clone(SavedTraining(last, states, **options)).fit(X, Y)
    networks = [saved.network_at(snapshot) for snapshot in saved.snapshots_]
    kept = {v.data_ptr() for v in saved.snapshots_[0].state.values()}
    assert len(kept) <= len(states[0]) + 1  # Functions of one network do not multiply it.
    fitted = [saved, copy.deepcopy(saved)]
    if "functions" not in name:
        fitted.append(pickle.loads(pickle.dumps(saved)))
    for module, network in zip((first, last), networks, strict=True):
        theirs = outputs_of(module)
        np.testing.assert_allclose(network(torch.as_tensor(X)).detach(), theirs, atol=1e-13)
        double = copy.deepcopy(network).double()
        np.testing.assert_allclose(double(torch.as_tensor(X)).detach(), theirs, atol=1e-13)
    with torch.no_grad():  # Later training of the user's network changes nothing.
        for p in last.parameters():
            p.zero_()
    for estimator in fitted:
        np.testing.assert_allclose(estimator.predict(X), theirs, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_identities_of_both_analyzers(dtype):
    saved = SavedTraining(drawn().to(dtype), encoder="enc", readout=decoded)
    tasks = ["a", "a", "b", "b", "b"]
    analyzer = KPFlowAnalyzer(saved, analyses=("spectra",), axes=("time",), random_state=0)
    assert analyzer.fit(X, Y).verify(X, Y)["passed"].all()
    alignment = TaskAlignmentAnalyzer(saved, random_state=0).fit(X, Y, tasks=tasks)
    assert alignment.verify(X, Y, tasks=tasks)["passed"].all()


def test_a_part_that_casts_is_verified_in_its_own_precision():
    module = drawn().float()
    for part in ("encoder", "readout"):
        options = {"encoder": "enc", "readout": decoded} | {
            part: lambda network, z, part=part: (
                network.enc(z.float()) if part == "encoder" else network.decode(z.float())
            )
        }
        saved = SavedTraining(module, **options)
        analyzer = KPFlowAnalyzer(saved, analyses=("lyapunov",), random_state=0)
        with pytest.warns(UserWarning, match=f"the {part} <lambda> does not compute in float64"):
            assert analyzer.fit(X, Y).verify(X, Y)["passed"].all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_dropout_of_the_readout_is_off_when_the_step_is_frozen():
    module = drawn(own_step=True)
    module.mid = nn.Sequential(nn.Dropout(0.5), module.mid)
    saved = SavedTraining(
        module, step="advance", readout=decoded, encoder="enc", noise="frozen",
        initial_state=np.zeros(N_UNITS),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="noise='frozen' has no effect"):
        saved.fit(X, Y)
    np.testing.assert_allclose(saved.predict(X), outputs_of(module.eval()), atol=1e-13)


# --------------------------------------------------------------------------- parts kept apart


def test_a_decoder_kept_apart_reads_the_states_that_the_module_returns():
    module = drawn()
    decoder = in_order(module).requires_grad_(True)
    core, states = module.rnn, [module.rnn.state_dict()] * 2
    saved = SavedTraining(core, states, encoder=module.enc, readout=decoder)
    with pytest.warns(UserWarning, match="readout, a Sequential kept apart .*not in the checkp"):
        saved.fit(X, Y)
    np.testing.assert_allclose(saved.predict(X), outputs_of(module), atol=1e-13)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = SavedTraining(core, encoder=module.enc, readout=decoder).fit(X, Y)
    with torch.no_grad():
        decoder[3].weight.zero_()
    np.testing.assert_allclose(single.predict(X), outputs_of(drawn()), atol=1e-13)
    with pytest.raises(UnsupportedNetworkError, match="does not reproduce the outputs"):
        SavedTraining(module, encoder="enc", readout=nn.Linear(N_UNITS, N_OUTPUTS).double()).fit(
            X, Y
        )


def test_parts_of_another_precision():
    with pytest.raises(UnsupportedNetworkError, match="readout must hold .*got torch.float32"):
        SavedTraining(drawn(), encoder="enc", readout=nn.Linear(N_UNITS, 2)).fit(X, Y)
    with pytest.raises(UnsupportedNetworkError, match="encoder Linear failed .*dtype"):
        SavedTraining(drawn(), encoder=nn.Linear(3, N_INPUTS), readout="decode").fit(X, Y)


# ---------------------------------------------------------------------------------- refused


OUTSIDE = drawn().requires_grad_(True)
BATCH_NORM = drawn(encoder=lambda: nn.BatchNorm1d(3, track_running_stats=False))
REFUSED = {
    "trials that are coupled": (
        {"encoder": lambda n, x: n.enc(x - x.mean(0))},
        "encoder <lambda> couples trials: the results of 2 of 5 trials change",
    ),
    "a fixed number of trials": (
        {"encoder": lambda n, x: n.enc(x) + x.new_zeros(N_TRIALS, 1, 1)},
        "encoder <lambda> .*fails on 2 of them",
    ),
    "chance": (
        {"encoder": lambda n, x: n.enc(x + torch.randn_like(x))},
        "encoder <lambda> is random even in evaluation mode",
    ),
    "one step": ({"encoder": lambda n, x: n.enc(x)[:, 0]}, r"must return .*5, 6, .*shape \(5, 4"),
    "fewer steps": ({"encoder": lambda n, x: n.enc(x)[:, ::2]}, r"got shape \(5, 3, 4\)"),
    "no tensor": ({"encoder": lambda n, x: (n.enc(x), x)}, "got a tuple"),
    "another width": ({"encoder": lambda n, x: x}, "returns 3 inputs .* recurrent part takes 4"),
    "an encoder of a step": ({"encoder": "norm"}, "LayerNorm failed .*give a function that does"),
    "another encoder": (
        {"encoder": lambda n, x: 2 * n.enc(x)},
        "encoder <lambda> and what its GRU receives differ",
    ),
    "no such encoder": ({"encoder": "embed"}, "encoder='embed' is not a submodule or attribute"),
    "a weight of the step": (
        {"encoder": lambda n, x: n.enc(x) + 0 * n.rnn.bias_hh_l0[:4]},
        "the encoder and the step share rnn.bias_hh_l0",
    ),
    "the user's own network as encoder": (
        {"encoder": lambda n, x: OUTSIDE.enc(x)},
        "encoder <lambda> computes with a parameter of shape .* not part of the network that it",
    ),
    "the user's own network as readout": (
        {"readout": lambda n, z: OUTSIDE.decode(z)},
        "readout <lambda> computes with a parameter .*Use the parameters of the network in its fi",
    ),
    "no network": ({"readout": lambda z: z}, "readout <lambda> must map .* 1 positional argument"),
    "half a readout": (
        {"readout": lambda n, z: n.out(z)},
        "they differ .* parameters, norm.weight, .* belong to no encoder",
    ),
    "a readout across steps": (
        {"readout": lambda n, z: n.decode(z - z.mean(1, keepdim=True))},
        "depends on the other states",
    ),
    "a readout without derivative": (
        {"readout": lambda n, z: n.decode(z.detach())},
        "have no derivative by the states",
    ),
    "no encoder": (
        {"encoder": None},
        "but the network takes 4. If a part .* name that part: .*encoder=",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_encoder_or_readout_is_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        SavedTraining(drawn(), **{"encoder": "enc", "readout": decoded} | options).fit(X, Y)


def test_a_readout_with_parameters_that_it_does_not_use():
    module = drawn()
    module.decoder = Decoder().double()
    module.decode = module.decoder.forward
    saved = SavedTraining(module, encoder="enc", readout=module.decoder)
    tasks = ["a", "a", "b", "b", "b"]
    analyzer = TaskAlignmentAnalyzer(saved, random_state=0).fit(X, Y, tasks=tasks)
    assert analyzer.verify(X, Y, tasks=tasks)["passed"].all()


class Decoder(nn.Module):
    """A readout with a layer for another task."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Linear(N_UNITS, N_OUTPUTS), nn.Linear(N_UNITS, 3)

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs of the present task."""
        return self.used(z)


def test_parts_of_a_network_that_has_its_parts():
    network = SavedTraining(drawn(), encoder="enc", readout="decode").fit(X, Y).network_
    with pytest.raises(UnsupportedNetworkError, match="readout must be None for the network_"):
        SavedTraining(network, readout="decode").fit(X, Y)


@pytest.mark.parametrize("n_trials", [1, N_TRIALS])
def test_a_batch_norm_of_the_batch_before_the_step(n_trials):
    class Normed(Convolved):
        def encode(self, x):
            return super().encode(x).repeat(1, 1, 2)[..., :N_INPUTS]

    def encoder():
        return nn.BatchNorm1d(N_FEATURES, track_running_stats=False)

    saved = SavedTraining(
        drawn(Normed, encoder), encoder=lambda n, x: n.encode(x), readout="decode"
    )
    with pytest.raises(UnsupportedNetworkError, match="couples .*enc .BatchNorm1d. with track_ru"):
        saved.fit(X[:n_trials], Y[:n_trials])


def test_the_advice_for_what_happens_before_the_step_is_an_encoder_that_works():
    module = drawn(encoder=lambda: nn.Linear(N_FEATURES, N_INPUTS))
    module.rnn = nn.GRU(N_FEATURES, N_UNITS, batch_first=True).double()
    module.encode = lambda x: 3 * x  # No parameter, the same size: it could be missed.
    module.enc = nn.Identity()
    with pytest.raises(UnsupportedNetworkError, match="what its GRU receives .*encoder=lambda"):
        SavedTraining(module, readout="decode").fit(X, Y)
    saved = SavedTraining(module, encoder=lambda network, x: 3 * x, readout="decode").fit(X, Y)
    np.testing.assert_allclose(saved.predict(X), outputs_of(module), atol=1e-13)


# --------------------------------------------------------------------------- without a readout


class Heads(nn.Module):
    """Two readouts, neither of which is the only one."""

    def __init__(self, before: float = 1.0, learn_start: bool = False) -> None:
        super().__init__()
        self.rnn, self.before = nn.LSTM(N_FEATURES, N_UNITS, num_layers=2), before
        self.a, self.b = nn.Linear(N_UNITS, 1), nn.Linear(N_UNITS, 2)
        self.start = nn.Parameter(torch.zeros(2, 1, N_UNITS)) if learn_start else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both outputs, for steps first."""
        start = None
        if self.start is not None:
            h0 = self.start.expand(-1, x.shape[1], -1).contiguous()
            start = (h0, torch.zeros_like(h0))
        z = self.rnn(self.before * x, start)[0]
        return self.a(z), self.b(z)


def core_of(module: nn.Module) -> nn.RNNBase:
    return [part for part in module.modules() if isinstance(part, nn.RNNBase)][-1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.GRU(N_FEATURES, N_UNITS),
        lambda: nn.LSTM(N_FEATURES, N_UNITS, 2, batch_first=True),
        lambda: nn.Sequential(nn.RNN(N_FEATURES, N_UNITS, batch_first=True)),
        lambda: nn.ModuleDict({"rnn": nn.GRU(N_FEATURES, N_UNITS)}),
        Heads,
    ],
    ids=["GRU", "LSTM", "Sequential", "ModuleDict", "two heads"],
)
def test_linearize_needs_no_readout(make):
    module = make().double()
    core = core_of(module)
    whole = nn.ModuleDict({"core": core, "out": nn.Linear(N_UNITS, 2).double()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lin, other = linearize(module, X, MASK), linearize(whole, X, MASK)
    torch.testing.assert_close(lin.states, other.states)
    for name in ("K", "P", "PKP"):
        ours, theirs = getattr(lin, name), getattr(other, name)
        torch.testing.assert_close(ours @ other.states, theirs @ other.states)
    for call in (lambda: lin.error(Y), lambda: lin.network.outputs(lin.states)):
        with pytest.raises(UnsupportedNetworkError, match="no readout .* SavedTraining"):
            call()


def test_without_a_readout_the_states_are_still_those_of_the_module():
    for module, message in (
        (Heads(before=2.0), "X and what its LSTM receives differ"),
        (Heads(learn_start=True), "parameters, start, .* belong to no"),
        (nn.ModuleDict({"rnn": nn.GRU(3, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 2)}),
         "ModuleDict has further parameters, a.weight, .*Give the recurrent part alone"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedNetworkError, match=message):
            linearize(module.double(), X)

    class Unusual(Heads):
        def forward(self, x, context):
            return super().forward(x)

    with pytest.warns(UserWarning, match="states .*not compared with those of Unusual, which fai"):
        linearize(Unusual().double(), X)
