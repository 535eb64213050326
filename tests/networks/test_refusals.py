"""What is refused in a user's network is named, with advice that is safe to follow."""

from __future__ import annotations

import collections
import dataclasses
import re
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from kpflow_sklearn import (
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    SavedTraining,
    UnsupportedNetworkError,
    linearize,
)

N_TRIALS, N_STEPS, N_UNITS = 6, 8, 4
rng = np.random.default_rng(3)
X = rng.standard_normal((N_TRIALS, N_STEPS, 3)).astype(np.float32)
X[:, -2:] = 0
Y = rng.standard_normal((N_TRIALS, N_STEPS, 2)).astype(np.float32)


class Net(nn.Module):
    """A network whose step is a method."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(3, N_UNITS), nn.Linear(N_UNITS, N_UNITS)
        self.out = nn.Linear(N_UNITS, 2)

    def step(self, x, h):
        """Return the next state."""
        return torch.tanh(self.w(x) + self.u(h))

    def read(self, z):
        """Return the outputs."""
        return self.out(z)

    def forward(self, x):
        """Return the outputs of all steps."""
        h, outputs = x.new_zeros(len(x), N_UNITS), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(self.read(h))
        return torch.stack(outputs, 1)


PARTS = {"step": "step", "readout": "out", "initial_state": np.zeros(N_UNITS, np.float32)}


def drawn(kind=Net) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def refusal(network: nn.Module, **options) -> str:
    """Return the error with which a network is refused."""
    with pytest.raises(UnsupportedNetworkError) as error:
        SavedTraining(network, **{**PARTS, **options}).fit(X, Y)
    return str(error.value)


# ------------------------------------------------------------------------------- torch.jit


class WithCell(Net):
    """A network with a cell, which may be scripted."""

    def __init__(self, cell=None) -> None:
        super().__init__()
        self.cell = cell or nn.RNNCell(3, N_UNITS)

    def step(self, x, h):
        """Return the next state."""
        return self.cell(x, h)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


JIT = {
    "script": lambda: SavedTraining(scripted(nn.GRU(3, 4))).fit(X, Y),
    "linearize": lambda: linearize(scripted(nn.GRU(3, 4)), X),
    "cell": lambda: SavedTraining(WithCell(scripted(nn.RNNCell(3, N_UNITS))), step="cell").fit(
        X, Y
    ),
    "readout": lambda: SavedTraining(nn.GRU(3, 4), readout=scripted(nn.Linear(4, 2))).fit(X, Y),
    "perceptron": lambda: GramFlowAnalyzer(SavedTraining(scripted(perceptron()))).fit(
        X[:, 0], Y[:, 0]
    ),
}


@pytest.mark.parametrize("name", JIT)
def test_modules_of_torch_jit_are_refused(name):
    with pytest.raises(
        UnsupportedNetworkError, match="torch.jit.script, trace or load.*load_stat"
    ):
        JIT[name]()


# --------------------------------------------------------- what a step keeps between its calls


class Traced(Net):
    """A step with a trace of each trial, which it starts again after as many calls as steps."""

    count = 0

    def step(self, x, h):
        """Return the next state."""
        if self.count % N_STEPS == 0:
            self.trace = torch.zeros_like(h)
        self.count += 1
        self.trace = 0.5 * self.trace + h
        return super().step(x, h - self.trace)


class Last(Net):
    """A step that keeps the last input."""

    last = torch.zeros(N_TRIALS, 3)

    def step(self, x, h):
        """Return the next state."""
        x, self.last = x - self.last, x
        return super().step(x, h)


class Clock(Net):
    """A step that counts its calls; half of its units change at every second one."""

    count = 0

    def step(self, x, h):
        """Return the next state."""
        changes = torch.tensor([1.0, 1.0, 0.0, 0.0]) + self.count % 2
        self.count += 1
        return torch.where(changes > 0, super().step(x, h), h)


@pytest.mark.parametrize("kind", [Traced, Last, Clock])
def test_a_state_kept_on_self_is_told_to_be_a_part_of_the_state(kind):
    message = refusal(drawn(kind))
    assert "keeps something between calls" in message
    assert "part of the state" in message


class Reset(Net):
    """A step that uses what forward sets."""

    def forward(self, x):
        """Return the outputs of all steps."""
        self.gain = self.u.weight.abs().mean()
        return super().forward(x)

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, self.gain * h)


class Pair(Net):
    """A step that expects a pair."""

    def step(self, x, state):
        """Return the next state."""
        h, trace = state
        return super().step(x, h), trace


STEP_ERRORS = {
    "attribute": (Reset, {}, "'gain'. If forward sets this attribute", "tuple of"),
    "pair": (Pair, {}, r"a state of shape \(6, 4\).*initial_state=\(...\)",
             "forward"),
    "size": (Net, {"initial_state": np.zeros(5), "readout": lambda net, z: net.out(z[..., :4])},
             r"on x_t of shape \(6, 3\) and a state of shape \(6, 5\)", "attribute"),
    "signature": (Net, {"step": lambda net, x: x}, r"step\(network, x_t, h\)", "initial_state"),
    "other": (Net, {"step": lambda net, x, h: 1 / 0}, "ZeroDivisionError .*division by zero.$",
              "initial_state"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEP_ERRORS)
def test_the_advice_fits_the_failure_of_a_step(name):
    kind, options, expected, absent = STEP_ERRORS[name]
    message = refusal(drawn(kind), **options)
    assert re.match("step: the .* failed with", message)
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(message)
    assert absent not in message


# ------------------------------------------------------------- methods that stay bound to a module


BOUND = {
    "step": (lambda net: {"step": net.step}, "the method step of a WithCell.*step='step'"),
    "cell": (lambda net: {"step": net.cell}, "got a RNNCell.*step='cell'"),
    "inner": (lambda net: {"step": net.cell.forward}, "step='cell.forward'"),
    "readout": (lambda net: {"readout": net.read}, "readout='read'"),
    "encoder": (lambda net: {"encoder": net.read}, "encoder='read'"),
    "another": (lambda net: {"step": drawn().step}, "Give the name of a submodule or method"),
}


@pytest.mark.parametrize("name", BOUND)
def test_bound_methods_are_asked_for_by_name(name):
    make, expected = BOUND[name]
    network = drawn(WithCell)
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(refusal(network, **make(network)))


def test_an_attribute_that_stays_bound_to_the_original_is_said_to_be_so():
    network = drawn()
    network.fast = lambda x, h: network.step(x, h)  # As torch.compile(network.step) does.
    message = refusal(network, step="fast")
    assert "step='fast' names an attribute that stays bound" in message
    assert "first argument" not in message


# --------------------------------------------------------------------------- complex numbers


class Diagonal(nn.Module):
    """A diagonal network with complex eigenvalues."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.polar(torch.full((2,), 0.8), torch.tensor([0.1, 0.5])))
        self.w, self.out = nn.Linear(3, N_UNITS), nn.Linear(N_UNITS, 2)

    def step(self, x, h):
        """Return the next state, real and imaginary parts."""
        h, x = (torch.view_as_complex(v.unflatten(-1, (-1, 2))) for v in (h, self.w(x)))
        return torch.view_as_real(self.rates * h + x).flatten(-2)

    forward, read = Net.forward, Net.read


class ComplexReadout(Net):
    """A network with a complex readout."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(N_UNITS, 2, dtype=torch.complex64)


COMPLEX = {
    "parameter": (Diagonal, {}, "rates holds torch.complex64.*real parameters"),
    "layer": (lambda: nn.ModuleDict({"rnn": nn.GRU(3, 4, dtype=torch.cfloat)}),
              {"step": None, "readout": nn.Linear(4, 2), "initial_state": None},
              "weight_ih_l0 holds torch.complex64"),
    "readout": (ComplexReadout, {}, "^readout: .*weight holds torch.complex64"),
    "start": (Net, {"initial_state": torch.zeros(2, dtype=torch.cfloat)},
              "^initial_state must hold real numbers, got torch.complex64 .*view_as_real"),
    "array": (Net, {"initial_state": np.zeros(2, complex)}, "real numbers, got complex128"),
    "list": (Net, {"initial_state": [1j, 2]}, "^initial_state: Complex data.*complex128"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_are_refused_with_what_to_store_instead(name):
    kind, options, expected = COMPLEX[name]
    options = {**PARTS, **options}
    with pytest.raises(ValueError, match=expected) as error:
        SavedTraining(drawn(kind), **options).fit(X, Y)
    assert "[" not in str(error.value)  # No array is printed.


# ------------------------------------------------------------- readouts and outputs of any form


class Loop(nn.Module):
    """A network whose outputs are its states."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 2)

    def forward(self, x):
        """Return the states of all steps."""
        h, states = x.new_zeros(len(x), 2), []
        for x_t in x.unbind(1):
            h = self.cell(x_t, h)
            states.append(h)
        return torch.stack(states, 1)


@pytest.mark.parametrize("readout", [nn.Identity(), lambda net, z: z, lambda net, z: z * 1])
def test_the_states_may_be_the_outputs(readout):
    network = drawn(Loop).double()
    saved = SavedTraining(network, step="cell", readout=readout).fit(X, Y)
    x, y = torch.tensor(X).double(), torch.tensor(Y).double()
    ((network(x) - y) ** 2).mean().backward()
    lin = linearize(saved.network_, x)
    gradient = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(y)))
    for name, p in network.cell.named_parameters():
        np.testing.assert_allclose(gradient[name], p.grad, atol=1e-12)


@dataclasses.dataclass
class Output:
    """Outputs as large language models return them."""

    loss: torch.Tensor | None
    logits: torch.Tensor


RETURNS = {
    "dataclass": lambda z: Output(None, z),
    "namespace": lambda z: types.SimpleNamespace(logits=z, name="x"),
    "mapping": lambda z: collections.UserDict(logits=z),
}


@pytest.mark.parametrize("name", RETURNS)
def test_outputs_are_read_in_fields_and_mappings(name):
    class Returning(Net):
        offset = 0.0

        def forward(self, x):
            return RETURNS[name](super().forward(x) + self.offset)

    network = drawn(Returning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SavedTraining(network, **PARTS).fit(X, Y)
    network.offset = 1.0
    assert "they differ by up to 1" in refusal(network)


class SharedGain(Net):
    """A network of which only one parameter trains, which step and readout share."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.gain = nn.Parameter(torch.ones(N_UNITS))

    def step(self, x, h):
        """Return the next state."""
        return super().step(x, self.gain * h)

    def read(self, z):
        """Return the outputs."""
        return self.out(self.gain * z)


@pytest.mark.parametrize("parameters", [None, ["gain"]])
def test_what_step_and_readout_share_is_not_said_to_be_frozen(parameters):
    message = refusal(drawn(SharedGain), readout="read", parameters=parameters)
    assert message.startswith("the step and the readout of SharedGain share gain, and no other")


def test_what_alone_trains_outside_the_recurrent_part_is_named():
    message = refusal(drawn(), parameters=["out.*"])
    assert "names no parameter of the recurrent part, but only out.weight, out.bias" in message


# ------------------------------------------------- what changes the outputs without a parameter


class Recurrent(nn.Module):
    """A network with one of torch's layers."""

    def __init__(self, core=None) -> None:
        super().__init__()
        self.core = core or nn.RNN(3, N_UNITS, batch_first=True)
        self.out = nn.Linear(N_UNITS, 2)

    def forward(self, x):
        """Return the outputs of all steps."""
        return self.out(self.core(x)[0])


class Scaled(nn.RNN):
    """A layer whose class changes its output."""

    def forward(self, *inputs):
        """Return twice the states."""
        states, last = super().forward(*inputs)
        return 2 * states, last


ALONE = {"step": None, "initial_state": None}


@pytest.mark.parametrize(
    "register, hook",
    [
        ("register_forward_hook", lambda core, inputs, result: (2 * result[0], result[1])),
        ("register_forward_pre_hook", lambda core, inputs: (2 * inputs[0],)),
        (None, None),
    ],
)
def test_what_changes_the_output_of_a_layer_is_named(register, hook):
    network = drawn(lambda: Recurrent(None if register else Scaled(3, N_UNITS, batch_first=True)))
    if register:
        getattr(network.core, register)(hook)
    message = refusal(network, **ALONE)
    assert ("forward hooks" in message) == bool(register)
    assert ("class has a forward of its own" in message) == (not register)


@pytest.mark.parametrize("parts", [PARTS, {**PARTS, **ALONE}], ids=["step", "layer"])
def test_half_precision_inside_forward_is_named_as_a_cause(parts):
    kind = Net if parts["step"] else Recurrent

    class Cast(kind):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    network = drawn(Cast)
    assert "torch.autocast, bfloat16 or float16, analyse the network without it" in refusal(
        network, **parts
    )


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_lstm_is_analysed_as_a_step():
    network = drawn(lambda: Recurrent(nn.LSTM(3, N_UNITS, proj_size=2, batch_first=True)))
    network.out = nn.Linear(2, 2)
    assert "with proj_size=2 cannot be analysed: write its step" in refusal(network, **ALONE)

    def step(network, x, state):
        h, c = state
        core = network.core
        gates = x @ core.weight_ih_l0.T + core.bias_ih_l0 + h @ core.weight_hh_l0.T
        i, f, g, o = (gates + core.bias_hh_l0).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return (o.sigmoid() * c.tanh()) @ core.weight_hr_l0.T, c

    start = (np.zeros(2), np.zeros(N_UNITS))
    SavedTraining(network, step=step, readout="out", initial_state=start).fit(X, Y)


class FromLSTM(Net):
    """A network that calls ``torch.nn.LSTM`` on one step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_UNITS, N_UNITS)

    def step(self, x, h):
        """Return the next state."""
        return self.lstm(super().step(x, h)[None])[0][0]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_an_lstm_inside_a_step_is_named():
    analyzer = KPFlowAnalyzer(SavedTraining(drawn(FromLSTM), **PARTS), axes=("time",))
    message = r"calls torch.nn.LSTM: .*LSTMCell.*torch.lstm_cell\(x_t"
    with pytest.raises(UnsupportedNetworkError, match=message):
        analyzer.fit(X, Y)
