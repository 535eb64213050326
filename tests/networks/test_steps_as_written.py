"""Steps as people write them: sparse weights, changes in place, gradients of their own."""

from __future__ import annotations

import copy
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from kpflow_sklearn import (
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    UnsupportedNetworkError,
    linearize,
)
from kpflow_sklearn._common.fingerprints import in_words
from kpflow_sklearn.exceptions import CheckpointError
from kpflow_sklearn.lyapunov import lyapunov_spectrum
from kpflow_sklearn.runs import sweep

N_TRIALS, N_STEPS, N_FEATURES, N_UNITS, N_OUTPUTS = 3, 5, 3, 4, 2
rng = np.random.default_rng(4)
X = rng.standard_normal((N_TRIALS, N_STEPS, N_FEATURES))
Y = rng.standard_normal((N_TRIALS, N_STEPS, N_OUTPUTS))
FAST = {"axes": ("time",), "analyses": ("spectra",), "random_state": 0}
PARTS = {"step": "step", "readout": "out", "initial_state": np.zeros(N_UNITS)}

pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")


class Net(nn.Module):
    """A network whose step is a method; forward gives it copies that it may change."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(N_FEATURES, N_UNITS), nn.Linear(N_UNITS, N_UNITS)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def step(self, x, h):
        """Return the next state."""
        return torch.tanh(self.w(x) + self.u(h))

    def forward(self, x):
        """Return the outputs of all steps."""
        h, outputs = x.new_zeros(len(x), N_UNITS), []
        for x_t in x.unbind(1):
            h = self.step(x_t.clone(), h.clone())
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


def drawn(kind, *args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args).double()


def saved(network: nn.Module, *args, **options) -> SavedTraining:
    return SavedTraining(network, *args, **{**PARTS, **options})


def refusal(network: nn.Module, X=X, Y=Y, **options) -> str:
    """Return the error with which a network is refused, at the latest when it is linearized."""
    with pytest.raises((UnsupportedNetworkError, ValueError)) as error:
        linearize(saved(network, **options).fit(X, Y).network_, X).K.to_dense()
    message = str(error.value)
    assert not re.search(r"[^.]\.\.( |$)", message), message
    return message


def assert_same(network: nn.Module, other: nn.Module, **options) -> None:
    """Compare the operators of two networks, of which the second is written in the plain way."""
    lin, plain = (
        linearize(saved(net, **options).fit(X, Y).network_, X) for net in (network, other)
    )
    for name in ("K", "P", "PKP"):
        ours, theirs = (getattr(each, name).to_dense() for each in (lin, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-12, err_msg=name)


# ------------------------------------------------------------------------------- sparse tensors


LAYOUTS = {
    "coo": torch.Tensor.to_sparse,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
    "dense": torch.Tensor.clone,
}


class Sparse(Net):
    """A network with a fixed recurrent connectivity."""

    def __init__(self, layout: str, as_buffer: bool = True) -> None:
        super().__init__()
        self.u = None
        W = torch.randn(N_UNITS, N_UNITS, dtype=torch.float64)
        W[::2, 1:] = 0
        W = LAYOUTS[layout](W)
        if as_buffer:
            self.register_buffer("W", W)
        else:
            self.W = nn.Parameter(W, requires_grad=False)

    def step(self, x, h):
        """Return the next state."""
        return torch.tanh(self.w(x) + (self.W @ h.T).T)


@pytest.mark.parametrize("as_buffer", [True, False], ids=["buffer", "parameter"])
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_fixed_sparse_weights_are_analysed_as_dense_ones(layout, as_buffer):
    sparse, dense = (drawn(Sparse, name, as_buffer) for name in (layout, "dense"))
    assert_same(sparse, dense)
    states = [sparse.state_dict(), sparse.state_dict()]
    analyzer = KPFlowAnalyzer(saved(sparse, states), **FAST)
    fitted = pickle.loads(pickle.dumps(clone(analyzer).fit(X, Y)))
    assert fitted.verify(X, Y)["passed"].all()
    assert in_words(sparse) == in_words(sparse)


def test_networks_with_sparse_weights_can_be_swept(tmp_path):
    analyzer = KPFlowAnalyzer(saved(drawn(Sparse, "csr")), **FAST)
    first, again = (
        sweep(analyzer, {"tol": [0.1]}, X, Y, n_seeds=1, cache_dir=tmp_path) for _ in range(2)
    )
    assert len(first) == len(again)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_weights_that_are_unusable_are_named(layout):
    network = drawn(Sparse, layout)
    values = network.W.coalesce().values() if layout == "coo" else network.W.values()
    values[0] = torch.nan
    with pytest.raises(CheckpointError, match="'W' holds NaN or infinity"):
        saved(network).fit(X, Y)
    with pytest.raises(CheckpointError, match="other shapes .*W .* torch.sparse_coo"):
        other = drawn(Sparse, "coo").state_dict()
        saved(drawn(Sparse, "dense"), [other]).fit(X, Y)
    trained = drawn(Sparse, layout, False).requires_grad_(True)
    assert "W is a trained tensor of layout torch.sparse_" in refusal(trained)


# ----------------------------------------------------------------------------- changes in place


class ScaledInput(Net):
    """A step that scales its input in place."""

    def step(self, x, h):
        """Return the next state."""
        return super().step(x.mul_(0.5), h)


class ClampedInput(Net):
    """A step that changes one feature in place, in a way that makes no difference twice."""

    def step(self, x, h):
        """Return the next state."""
        x[:, 0] = x[:, 0].clamp(0, 1)
        return super().step(x, h)


class RectifiedState(Net):
    """A step that rectifies its state in place."""

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, torch.relu_(h))


def out_of_place(kind: type[Net]) -> nn.Module:
    """Return the same network, whose step gets copies to change."""

    class Plain(kind):
        def step(self, x, h):
            return super().step(x.clone(), h.clone())

    return drawn(Plain)


@pytest.mark.parametrize("kind", [ScaledInput, ClampedInput, RectifiedState])
def test_a_step_may_change_its_arguments_in_place(kind):
    assert_same(drawn(kind), out_of_place(kind))


class Rectifying(Net):
    """A network that rectifies its inputs and its states in place."""

    def encode(self, x):
        """Return the inputs of the step."""
        return torch.relu_(x)

    def read(self, h):
        """Return the outputs."""
        return self.out(torch.relu_(h))

    def forward(self, x):
        """Return the outputs of all steps."""
        x, h, states = self.encode(x.clone()), x.new_zeros(len(x), N_UNITS), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            states.append(h)
        return self.read(torch.stack(states, 1))


CHANGING = {
    "x": (ScaledInput, {}),
    "idempotent": (ClampedInput, {}),
    "state": (RectifiedState, {}),
    "encoder and readout": (Rectifying, {"encoder": "encode", "readout": "read"}),
}


@pytest.mark.parametrize("form", [np.float32, np.float64, torch.float64], ids=str)
@pytest.mark.parametrize("name", CHANGING)
def test_the_arrays_of_the_caller_never_change(name, form):
    kind, options = CHANGING[name]
    given = torch.tensor(X) if form is torch.float64 else X.astype(form)
    network = drawn(kind).to(torch.float32 if form is np.float32 else torch.float64)
    start, mask = np.zeros(N_UNITS, X.dtype), np.ones(X.shape[:2], bool)
    before = copy.deepcopy((given, start, mask))
    source = saved(network, **{**options, "initial_state": start})
    analyzer = KPFlowAnalyzer(source, **FAST).fit(given, Y, mask=mask)
    lin = linearize(analyzer.network_, given, mask)
    states = lin.states.clone()
    lin.error(Y)
    lin.K @ states, lin.P @ states, lin.K.T @ states
    analyzer.verify(given, Y), analyzer.predict(given), analyzer.trajectories(given)
    lyapunov_spectrum(lin)
    for now, then in zip((given, start, mask), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert torch.equal(lin.states, states)


# ---------------------------------------------------------------- what torch.func cannot follow


class Attends(Net):
    """A step with a fused kernel of attention."""

    def step(self, x, h):
        """Return the next state."""
        q = self.u(h)[:, None, None]
        attended = nn.functional.scaled_dot_product_attention(q, q, q)[:, 0, 0]
        return torch.tanh(self.w(x) + attended)


class Distances(Net):
    """A step with distances."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Linear(N_UNITS, N_UNITS, bias=False)

    def step(self, x, h):
        """Return the next state."""
        return torch.tanh(self.w(x) + torch.cdist(h, self.u.weight))


class Compressed(Net):
    """A step with a sparse tensor that is not registered."""

    def step(self, x, h):
        """Return the next state."""
        W = torch.eye(N_UNITS, dtype=x.dtype).to_sparse_csr()
        return super().step(x, (W @ h.T).T)


class InPlace(Net):
    """A step that changes in place what the derivative needs."""

    def step(self, x, h):
        """Return the next state."""
        new = super().step(x, h)
        h *= 0.5
        return h + new


class ByNumPy(Net):
    """A step that leaves torch."""

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, h) * torch.as_tensor(h.detach().numpy() > 0)


class Remembers(Net):
    """A step that writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(N_UNITS))

    def step(self, x, h):
        """Return the next state."""
        self.seen.copy_(self.u.bias)
        return super().step(x, h) + self.seen


UNFOLLOWED = {
    "attention": (Attends, "sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"),
    "cdist": (Distances, "((a[:, None] - b) ** 2).sum(-1)"),
    "csr": (Compressed, "W.to_sparse_coo()"),
    "in place": (InPlace, "h = 0.8 * h instead of h *= 0.8"),
    "numpy": (ByNumPy, "for example for NumPy"),
    "buffer": (Remembers, "make it a part of the state"),
}


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_what_torch_cannot_follow_comes_with_its_reason_and_one_remedy(name):
    kind, remedy = UNFOLLOWED[name]
    message = refusal(drawn(kind))
    assert message.startswith("torch.func cannot differentiate the network's step, or a")
    assert remedy in message
    remedies = sum(text in message for _, text in UNFOLLOWED.values())
    assert remedies == 1
    assert "solver" not in message


def test_attention_is_analysed_with_the_kernel_that_the_error_names():
    class Math(Attends):
        def step(self, x, h):
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return super().step(x, h)

    analyzer = KPFlowAnalyzer(saved(drawn(Math)), **FAST).fit(X, Y)
    assert analyzer.verify(X, Y)["passed"].all()


# --------------------------------------------------------------- steps with gradients of their own


class Inferring(Net):
    """A step that descends an energy, by torch.autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(N_FEATURES, N_UNITS, bias=False)

    def energy(self, z, x, start):
        """Return the energy of z."""
        return ((x - z @ self.w.weight) ** 2).sum() + ((z - start) ** 2).sum()

    def step(self, x, h):
        """Return the next state."""
        start = torch.tanh(self.u(h))
        slope = torch.autograd.grad(self.energy(start, x, start), start, create_graph=True)[0]
        return start - 0.1 * slope


class InferringAlone(Inferring):
    """A step that lets gradients be computed."""

    def step(self, x, h):
        """Return the next state."""
        with torch.enable_grad():
            z = h.clone().requires_grad_()
            slope = torch.autograd.grad(self.energy(z, x, h), z, create_graph=True)[0]
        return torch.tanh(self.u(z - 0.1 * slope))


def inferred(network, x, h):
    """Return what the step of `Inferring` does."""
    network = getattr(network, "network", network)
    start = torch.tanh(network.u(h))
    return start - 0.1 * torch.func.grad(network.energy)(start, x, start)


class WithGradients(nn.Module):
    """A network whose forward lets gradients be computed."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        """Return the outputs of all steps."""
        with torch.enable_grad():
            return self.network(x)


def test_gradients_that_a_step_computes_are_those_of_torch_func():
    network = drawn(Inferring)
    for kind in (Inferring, InferringAlone):
        assert "torch.func.grad(energy)(z)" in refusal(drawn(kind))
    assert "with torch.enable_grad()" in refusal(network, step=inferred)
    wrapped = WithGradients(network)
    analyzer = KPFlowAnalyzer(saved(wrapped, step=inferred, readout="network.out"), **FAST).fit(
        X, Y
    )
    assert analyzer.verify(X, Y)["passed"].all()


# ------------------------------------------------------------------- tensors without registration


def weight() -> torch.Tensor:
    return nn.Parameter(torch.randn(N_UNITS, N_UNITS, dtype=torch.float64))


HELD = {
    "list": (lambda: [weight()], lambda held, h: h @ held[0], "held[0]", "ParameterList"),
    "dict": (lambda: {"a": weight()}, lambda held, h: h @ held["a"], "held['a']", "ParameterDict"),
    "modules": (
        lambda: [nn.Linear(N_UNITS, N_UNITS).double()],
        lambda held, h: held[0](h),
        "held[0].weight",
        "ModuleList",
    ),
    "tensor": (
        lambda: weight().detach().requires_grad_(),
        lambda held, h: h @ held,
        "held, ",
        "Parameter(",
    ),
}


@pytest.mark.parametrize("as_cell", [False, True])
@pytest.mark.parametrize("name", HELD)
def test_parameters_that_are_not_registered_are_named(name, as_cell):
    make, use, path, remedy = HELD[name]

    class Holding(Net):
        def __init__(self):
            super().__init__()
            self.held = make()

        def step(self, x, h):
            return super().step(x, h + use(self.held, h))

    class Cell(Holding):
        def forward(self, x, h):
            return self.step(x, h)

    class WithCell(Net):
        def __init__(self):
            super().__init__()
            self.cell = Cell()

        def step(self, x, h):
            return self.cell(x, h)

    network = drawn(WithCell if as_cell else Holding)
    message = refusal(network, step="cell" if as_cell else "step")
    assert f"computes with {'cell.' if as_cell else ''}{path}" in message
    assert f"Write self.held = torch.nn.{remedy}" in message
    assert "original" not in message


# ------------------------------------------------------------- networks whose step does not train


class Reservoir(Net):
    """A network of which only the readout trains; its weights are buffers."""

    def __init__(self) -> None:
        super().__init__()
        del self.w, self.u
        self.register_buffer("W", torch.randn(N_FEATURES + N_UNITS, N_UNITS))

    def step(self, x, h):
        """Return the next state."""
        return torch.tanh(torch.cat([x, h], -1) @ self.W)


class FrozenLayer(nn.Module):
    """A network of which only the readout trains, with one of torch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(N_FEATURES, N_UNITS, batch_first=True).requires_grad_(False)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, x):
        """Return the outputs of all steps."""
        return self.out(self.rnn(x)[0])


class FrozenCell(Net):
    """A network without parameters that train."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(N_FEATURES, N_UNITS)
        self.requires_grad_(False)

    def step(self, x, h):
        """Return the next state."""
        return self.cell(x, h)


UNTRAINED = {
    "buffers": (Reservoir, {}),
    "layer": (FrozenLayer, {"step": None, "initial_state": None}),
    "cell": (FrozenCell, {"step": "cell", "initial_state": None}),
}


@pytest.mark.parametrize("name", UNTRAINED)
def test_P_is_analysed_if_only_the_readout_trains(name):
    kind, options = UNTRAINED[name]
    source = saved(drawn(kind), **options)
    assert source.fit(X, Y).predict(X).shape == Y.shape
    only_P = {**FAST, "operators": ("P",), "analyses": ("spectra", "lyapunov")}  # noqa: N806
    analyzer = KPFlowAnalyzer(source, **only_P).fit(X, Y)
    trained = copy.deepcopy(source.network).requires_grad_(True)
    if name == "buffers":
        W = trained.W
        del trained.W
        trained.W = nn.Parameter(W)
    expected = KPFlowAnalyzer(saved(trained, **options), **only_P).fit(X, Y)
    assert analyzer.p_rank_ == expected.p_rank_
    np.testing.assert_allclose(
        analyzer.lyapunov_exponents_, expected.lyapunov_exponents_, rtol=1e-9
    )
    identities = analyzer.verify(X, Y)
    assert identities["passed"].all() and "<p, P q> = <P* p, q>" in set(identities["identity"])
    for refused in (KPFlowAnalyzer(source), TaskAlignmentAnalyzer(source)):
        with pytest.raises(UnsupportedNetworkError) as error:
            refused.fit(X, Y)
        assert 'KPFlowAnalyzer(operators=("P",))' in str(error.value)
        assert "parameters=None" not in str(error.value)


# ------------------------------------------------------------------------ derivatives that are NaN


class Normed(Net):
    """A step with a norm, which has no derivative at zero."""

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, h / (1 + (h**2).sum(-1, keepdim=True).sqrt()))


class NormedStart(Normed):
    """The same, from a z_0 that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.h0 = nn.Parameter(torch.zeros(N_UNITS))

    def forward(self, x):
        """Return the outputs of all steps."""
        h, outputs = self.h0.expand(len(x), -1), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


class NormedGain(Net):
    """A step with a norm of a parameter that is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(3))

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, h * (1 + self.gain.norm(dim=0).abs() + (self.gain**2).sum().sqrt()))


NAN = {
    "state": (NormedStart, {"initial_state": "h0"}, "the state before step 0 of trial 0"),
    "parameter": (NormedGain, {}, "respect to gain is NaN"),
}


@pytest.mark.parametrize("name", NAN)
def test_a_derivative_that_is_NaN_is_refused(name):
    kind, options, where = NAN[name]
    message = refusal(drawn(kind), **options)
    assert where in message and "torch.sqrt(s + 1e-12)" in message
    for analyzer in (KPFlowAnalyzer, TaskAlignmentAnalyzer):
        with pytest.raises(UnsupportedNetworkError, match=re.escape(where)):
            analyzer(saved(drawn(kind), **options)).fit(X, Y)


def test_a_derivative_by_a_fixed_z_0_is_not_needed():
    lin = linearize(saved(drawn(Normed)).fit(X, Y).network_, X)
    assert lin.K.to_dense().isfinite().all() and lin.P.to_dense().isfinite().all()


# ------------------------------------------------------------------------------- smaller advice


class FedBack(nn.Module):
    """A network whose layer receives its outputs too."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(N_FEATURES + N_OUTPUTS, N_UNITS, batch_first=True)
        self.out = nn.Linear(N_UNITS, N_OUTPUTS)

    def forward(self, x):
        """Return the outputs of all steps."""
        h, output, outputs = None, x.new_zeros(len(x), 1, N_OUTPUTS), []
        for x_t in x.split(1, dim=1):
            r, h = self.rnn(torch.cat([x_t, output], -1), h)
            output = self.out(r)
            outputs.append(output)
        return torch.cat(outputs, 1)


class Force(Net):
    """A network of which only the readout trains, whose outputs are fed back into the step."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.out.requires_grad_(True)
        self.register_buffer("back", torch.randn(N_OUTPUTS, N_UNITS))

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, h) + 0.1 * self.out(h) @ self.back


class Cached(Net):
    """A step that uses a gain of each trial, which forward computes."""

    gain = 1.0

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, self.gain * h)

    def forward(self, x):
        """Return the outputs of all steps."""
        self.gain = torch.exp(x[:, 0, :1])
        return super().forward(x)


def evaluated(network):
    network(torch.tensor(X))
    return network


NO_STEP = {"step": None, "initial_state": None}
ADVICE = {
    "layers first": (
        lambda: FrozenLayer().requires_grad_(True),
        {"step": lambda net, x, h: net.rnn(x[:, None], h)[1]},
        "network.rnn(x[:, None], h[None])[1][0]",
    ),
    "feedback": (FedBack, NO_STEP, "'Outputs that are fed back'"),
    "FORCE": (Force, {}, "'Outputs that are fed back'"),
    "cached": (lambda: evaluated(Cached().double()), {}, "got (3, 4). It must take any number"),
}


@pytest.mark.parametrize("name", ADVICE)
def test_errors_point_to_what_helps(name):
    make, options, advice = ADVICE[name]
    assert advice in refusal(drawn(make), **options)


def test_outputs_of_the_last_step_are_given_as_the_error_says():
    class Last(FrozenLayer):
        def forward(self, x):
            return self.out(self.rnn(x)[1][0])

    network = drawn(Last).requires_grad_(True)
    y = Y[:, 0]
    assert "np.repeat(y[:, None], 5, axis=1)" in refusal(network, X, y, **NO_STEP)
    every, weight = np.repeat(y[:, None], N_STEPS, axis=1), np.zeros(X.shape[:2])
    weight[:, -1] = N_STEPS
    source = saved(network, **NO_STEP).fit(X, every, loss_weight=weight)
    lin = linearize(source.network_, X)
    flow = lin.J_theta.to_parameters(
        lin.J_theta.T @ (lin.P.T @ lin.error(every, loss_weight=weight))
    )
    ((network(torch.tensor(X)) - torch.tensor(y)) ** 2).mean().backward()
    for name, gradient in flow.items():
        theirs = getattr(network.rnn, name).grad
        torch.testing.assert_close(gradient, theirs)


def test_a_trained_cell_may_change_its_arguments_in_place():
    class Cell(nn.Module):
        def __init__(self, n_features, n_units):
            super().__init__()
            self.cell = nn.RNNCell(n_features, n_units)

        def forward(self, x, h):
            return self.cell(x.mul_(0.5), h.mul_(0.9))

    before = X.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = RecurrentTrainer(Cell, hidden_size=4, max_iter=2, random_state=0).fit(X, Y)
    analyzer = KPFlowAnalyzer(trainer, **FAST).fit(X, Y)
    assert analyzer.verify(X, Y)["passed"].all()
    np.testing.assert_array_equal(X, before)


class Masked(Net):
    """A step with a fixed mask of minus infinity, as in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((N_UNITS, N_UNITS), -torch.inf).triu(1))

    def step(self, x, h):
        """Return the next state."""
        scores = torch.softmax(self.u(h)[:, :, None] * h[:, None] + self.mask, dim=-1)
        return torch.tanh(self.w(x) + (scores @ h[:, :, None])[..., 0])


def test_a_buffer_may_hold_infinity_and_a_parameter_may_not():
    network = drawn(Masked)
    lin = linearize(saved(network).fit(X, Y).network_, X)
    flow = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(Y)))
    ((network(torch.tensor(X)) - torch.tensor(Y)) ** 2).mean().backward()
    for name, gradient in flow.items():
        assert torch.allclose(gradient, network.get_parameter(name).grad, atol=1e-14)
    with torch.no_grad():
        network.u.weight[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="u.weight' holds NaN or infinity"):
        saved(network).fit(X, Y)
