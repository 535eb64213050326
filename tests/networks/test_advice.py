"""What errors and warnings on a user's network say, and that their advice works."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kpflow_sklearn import SavedTraining, UnsupportedNetworkError, linearize

B, T, F, N = 6, 5, 3, 4  # Trials, steps, features and units.
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((B, T, F)), rng.standard_normal((B, T, 2))
WIDE = rng.standard_normal((B, T, N))  # As many features as units.
MASK = np.arange(T) < np.array([5, 3, 4, 5, 2, 5])[:, None]
PADDED = np.where(MASK[..., None], X, 0)
ZEROS = torch.zeros(N)


def network(forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> nn.Module:
    """Return a module with this forward, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = type("Net", (nn.Module,), {"forward": forward})()
        every = {"gru": nn.GRU(F, N, batch_first=True), "out": nn.Linear(N, 2)}
        for name, part in (every | parts).items():
            setattr(module, name, part)
    return module.double()


def cell_of(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the GRU of a module as a cell."""
    return lambda x, h: module.gru(x[:, None], h[None].contiguous())[0][:, 0]


def has_the_gradient_of(module: nn.Module, saved: SavedTraining, X: np.ndarray = X) -> bool:
    """Tell whether J_theta* P* Err is the gradient of the loss of the module."""
    loss = (module(torch.as_tensor(X)) - torch.as_tensor(Y)).square().mean()
    lin = linearize(saved.fit(X, Y).network_, X)
    ours = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(Y)))
    named = {name: p for name, p in module.named_parameters() if name in ours}
    theirs = torch.autograd.grad(loss, list(named.values()))
    pairs = zip(named, theirs, strict=True)
    return len(named) == len(ours) and all((ours[n] - g).abs().max() < 1e-12 for n, g in pairs)


# ----------------------------------------------------------------- padded trials without a mask


def plain(self, x):
    return self.out(self.gru(x)[0])


def lengths(self, x, lengths):
    return plain(self, x)


def seq_len(self, x, h0=None, *, seq_len=None):
    return plain(self, x)


def padding_mask(self, x, padding_mask=None):
    return plain(self, x)


@pytest.mark.parametrize("forward", [lengths, seq_len, padding_mask], ids=lambda f: f.__name__)
def test_padded_trials_without_a_mask_are_said_if_the_network_takes_lengths(forward):
    module = network(forward)
    fit = lambda X, **m: SavedTraining(module).fit(X, Y, **m)  # noqa: E731
    for analyse in (fit, partial(linearize, module)):
        with pytest.warns(UserWarning, match=f"takes {forward.__name__}, .* Give mask=.*n_times"):
            analyse(PADDED)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            analyse(PADDED, mask=MASK)
            analyse(PADDED, mask=np.ones_like(MASK))
            analyse(X)


def test_networks_without_lengths_may_be_given_constant_steps():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SavedTraining(network(plain)).fit(PADDED, Y)


# ----------------------------------------------------------------------------- what errors say


def reads_x(self, x):
    return self.out(torch.cat([self.gru(x)[0], x], -1))


def skips(self, x):
    return self.out(self.gru(x)[0]) + self.skip(x)


def twice(self, x):
    return self.out(self.gru(self.gru(x)[0])[0])


def from_ones(self, x):
    return self.out(self.gru(x, x.new_ones(1, len(x), N))[0])


def from_context(self, x):
    return self.out(self.gru(x, self.init(x[:, 0])[None])[0])


def needs_mask(self, x, mask):
    return plain(self, x) * mask[..., None]


def may_take_mask(self, x, mask=None):
    return plain(self, x) * (2 if mask is None else mask[..., None])


def may_take_lens(self, x, *, lens=None):
    return plain(self, x) * (2 if lens is None else 1)


JOINED = {"out": nn.Linear(N + F, 2)}
SQUARE = {"gru": nn.GRU(N, N, batch_first=True)}
MATRIX = (ZEROS, torch.zeros(N, N))
BY_CELL = {"step": lambda net, x, h: cell_of(net)(x, h), "readout": "out"}
READS = r"A readout of \(h, x\) .* state \(h, x\).*torch.cat\(\[h, x\], -1\).*torch.zeros\(n_units"
TWICE = "write one step that contains both uses"
COMMON = "same for all trials.*let the step .* compute it"
ALL_TRIALS = "common to all trials.*let the step .* compute it"
LIST = "must be a tuple of the parts of the state, or one array .* got a list of "
SAYS = {
    "a Linear of (h, x)": (lambda: network(reads_x, **JOINED), {}, f"'out' takes 7.*{READS}"),
    "a Linear of (h, x), named": (
        lambda: network(reads_x, **JOINED),
        {"readout": "out"},
        f"takes 7 values, .* has 4; .*{READS}",
    ),
    "a Linear of (h, x) of a cell": (
        lambda: network(reads_x, **JOINED),
        BY_CELL | {"initial_state": ZEROS},
        READS,
    ),
    "a function of (h, x)": (
        lambda: network(reads_x, **JOINED),
        {"readout": lambda net, h, x: net.out(torch.cat([h, x], -1))},
        f"missing 1 required positional argument: 'x'. {READS}",
    ),
    "a skip connection": (lambda: network(skips, skip=nn.Linear(F, 2)), {}, READS),
    "outputs from a tuple": (
        lambda: network(plain),
        {"readout": lambda net, h: (net.out(h), h)},
        r"it returns a tuple, .* alone, .*network.head\(states\)\[0\]",
    ),
    "inputs from a tuple": (
        lambda: network(twice, pre=nn.GRU(F, F, batch_first=True)),
        {"encoder": "pre", "recurrent": "gru"},
        r"got a tuple. Give a function .* alone, .*encoder=.*network.gru\(X\)\[0\].$",
    ),
    "a state from a tuple": (
        lambda: network(plain),
        BY_CELL | {"step": lambda net, x, h: (cell_of(net)(x, h), h), "initial_state": ZEROS},
        "got tuple of .* If the state is a tuple, give initial_state=.*return the state alone",
    ),
    "one GRU as encoder and core": (
        lambda: network(twice, **SQUARE),
        {"encoder": lambda net, X: net.gru(X)[0]},
        f"'gru' of Net is part of the encoder.*{TWICE}",
    ),
    "one GRU as encoder and core, named": (
        lambda: network(twice, **SQUARE),
        {"encoder": lambda net, X: net.gru(X)[0], "recurrent": "gru"},
        f"'gru' of Net is part of the encoder.*{TWICE}",
    ),
    "one GRU called twice": (
        lambda: network(twice, **SQUARE),
        {},
        f"Net calls its GRU 2 times.*{TWICE}",
    ),
    "one cell as encoder and step": (
        lambda: network(twice, **SQUARE),
        BY_CELL | {"encoder": lambda net, X: net.gru(X)[0], "initial_state": ZEROS},
        f"every parameter of Net belongs to its encoder or readout.*{TWICE}",
    ),
    "one cell's weight in encoder and step": (
        lambda: network(twice, **SQUARE),
        BY_CELL
        | {"encoder": lambda net, X: X @ net.gru.weight_hh_l0[:N], "initial_state": ZEROS},
        f"the encoder and the step share gru.weight_hh_l0.*{TWICE}",
    ),
    "z_0 of each trial": (
        lambda: network(plain),
        BY_CELL | {"initial_state": torch.zeros(B, N)},
        rf"shape \(6, 4\) is read as one vector of 24 values.*{COMMON}",
    ),
    "z_0 of each trial, another readout": (
        lambda: network(plain),
        BY_CELL | {"readout": lambda net, h: net.out(h), "initial_state": torch.zeros(B, N)},
        rf"failed: .*\. The part .* shape \(6, 4\) is read as one vector of 24 values.*{COMMON}",
    ),
    "z_0 of each trial of torch's layers": (
        lambda: network(plain),
        {"initial_state": np.zeros((1, B, N))},
        rf"got \(1, 6, 4\). z_0 is {ALL_TRIALS}",
    ),
    "z_0 from a function": (
        lambda: network(from_context, init=nn.Linear(F, N)),
        {"readout": "out", "initial_state": lambda net, X: net.init(X[:, 0])},
        f"must name a tensor of Net or hold values, got <lambda>: z_0 is {ALL_TRIALS}",
    ),
    "z_0 from a module": (
        lambda: network(from_context, init=nn.Linear(F, N)),
        {"readout": "out", "initial_state": "init"},
        f"initial_state='init' must name a tensor .* got Linear: z_0 is {ALL_TRIALS}",
    ),
    "a list of names": (lambda: network(plain), {"initial_state": ["h0", "c0"]}, f"{LIST}str"),
    "a list of tensors": (lambda: network(plain), {"initial_state": [ZEROS, ZEROS]}, f"{LIST}Ten"),
    "a list of lists": (lambda: network(plain), {"initial_state": [[0.0], [0.0]]}, f"{LIST}list"),
    "a tuple in a tuple": (
        lambda: network(plain),
        {"initial_state": (("h0",), ZEROS)},
        "must be a tuple of the parts .* got a tuple of str",
    ),
    "z_0 that trains in part": (
        lambda: network(plain, h0=nn.Parameter(ZEROS)),
        {"initial_state": ("h0", np.zeros(N))},
        r"h0 can train .* and the values of shape \(4,\) cannot.*requires_grad_\(False\) on h0",
    ),
    "another parameter of the name of z_0": (
        lambda: network(plain, h0=nn.Parameter(ZEROS), initial_state=nn.Parameter(ZEROS)),
        BY_CELL | {"initial_state": "h0"},
        "parameter initial_state of Net is not z_0, .* rename it",
    ),
    "another z_0": (lambda: network(from_ones), {}, "step 0 .* start neither from zero nor"),
    "another z_0 of a cell": (
        lambda: network(from_ones),
        BY_CELL | {"initial_state": ZEROS},
        f"step 0 .* give initial_state=..., which is {ALL_TRIALS}",
    ),
    "a state of several axes": (
        lambda: network(plain),
        BY_CELL
        | {
            "step": lambda net, x, s: (s[0], s[1] + s[0][:, None] * s[0][..., None]),
            "initial_state": MATRIX,
        },
        r"states of shapes \[\(6, 4\), \(6, 16\)\]: .*unflatten\(-1, \(4, 4\)\) .*h.flatten\(1\)",
    ),
    "a state of several axes without z_0": (
        lambda: network(plain),
        BY_CELL | {"step": lambda net, x, h: cell_of(net)(x, h).unflatten(-1, (2, 2))},
        r"shape \(6, 4\), got \(6, 2, 2\).*begin the step with h.unflatten",
    ),
    "layers of sequences as a step": (
        lambda: network(plain),
        {"step": "gru"},
        "step='gru' must name what takes one step, .* give its name as recurrent=",
    ),
    "a mask": (
        lambda: network(needs_mask),
        {},
        r"also takes mask, .*self.network\(X, mask=...\).*a mask in which all steps are valid.$",
    ),
    "a mask with a default": (lambda: network(may_take_mask), {}, r"network\(X, mask=...\)"),
    "lengths by keyword": (lambda: network(may_take_lens), {}, r"also takes lens.*X, lens=...\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_errors_say_what_came_and_what_to_do(name):
    make, options, message = SAYS[name]
    inputs = WIDE if "one GRU" in name or "one cell" in name else X
    with pytest.raises(UnsupportedNetworkError, match=message) as error:
        SavedTraining(make(), **options).fit(inputs, Y)
    assert "tensor([" not in str(error.value)


def late(self, x):
    h, outputs = x.new_zeros(len(x), N), []
    for t, x_t in enumerate(x.unbind(1)):
        h = cell_of(self)(x_t, h) * (1 + (t >= 2))
        outputs.append(self.out(h))
    return torch.stack(outputs, 1)


def doubled(self, x):
    return self.out(2 * self.gru(x)[0])


@pytest.mark.parametrize(
    "forward, options, step", [(late, BY_CELL | {"initial_state": ZEROS}, 2), (doubled, {}, 0)]
)
def test_z_0_is_not_blamed_for_later_steps_or_parts(forward, options, step):
    with pytest.raises(UnsupportedNetworkError, match=f"read out .* at step {step}") as error:
        SavedTraining(network(forward), **options).fit(X, Y)
    assert "initial_state" not in str(error.value)


# ------------------------------------------------------------------------ the advice, followed


def with_input(net, x, state):
    return torch.cat([cell_of(net)(x, state[:, :N]), x], -1)


def both(net, x, state):
    top, below = state
    below = cell_of(net)(x, below)
    return cell_of(net)(below, top), below


def started(net, x, state):
    h, fast, began = state
    h = began * h + (1 - began) * net.h0
    fast = fast.unflatten(-1, (N, N))
    h = cell_of(net)(x, h) + 0 * fast.sum((1, 2))[:, None]
    fast = 0.9 * fast + h[:, None] * h[..., None]
    return h, fast.flatten(1), torch.ones_like(began)


def from_h0(self, x):
    return self.out(self.gru(x, self.h0.expand(1, len(x), N).contiguous())[0])


FOLLOWED = {
    "the input in the state": (
        lambda: network(reads_x, **JOINED),
        {"step": with_input, "readout": "out", "initial_state": torch.zeros(N + F)},
    ),
    "a skip connection": (
        lambda: network(skips, skip=nn.Linear(F, 2)),
        {
            "step": with_input,
            "readout": lambda net, z: net.out(z[..., :N]) + net.skip(z[..., N:]),
            "initial_state": torch.zeros(N + F),
        },
    ),
    "both uses in one step": (
        lambda: network(twice, **SQUARE),
        {"step": both, "readout": "out", "initial_state": (ZEROS, ZEROS)},
    ),
    "z_0 computed, and a matrix": (
        lambda: network(from_h0, h0=nn.Parameter(torch.linspace(0, 1, N))),
        {"step": started, "readout": "out", "initial_state": (*MATRIX, torch.zeros(1))},
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_advice_leads_to_an_analysis_of_the_whole_gradient(name):
    make, options = FOLLOWED[name]
    module, inputs = make(), WIDE if name.startswith("both") else X
    assert has_the_gradient_of(module, SavedTraining(module, **options), inputs)


def test_a_wrapper_gives_the_mask_and_reads_the_checkpoints_of_the_network():
    class Wrapped(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x, mask=torch.ones(x.shape[:2], dtype=torch.bool))

    module, other = network(needs_mask), network(needs_mask)
    with torch.no_grad():
        other.gru.weight_hh_l0.zero_()
    saved = SavedTraining(Wrapped(other), [module.state_dict()], readout="network.out")
    states = saved.fit(PADDED, Y, mask=MASK).trajectories(PADDED, mask=MASK)
    expected = module.gru(torch.as_tensor(PADDED))[0].detach().numpy()
    np.testing.assert_allclose(states[MASK], expected[MASK])


def test_tied_parameters_can_be_held_fixed_as_the_error_says():
    def tied(self, x):
        return nn.functional.linear(self.gru(x)[0], self.gru.weight_ih_l0[:2])

    def read(net, states):
        return nn.functional.linear(states, net.gru.weight_ih_l0[:2])

    module, options = network(tied, **SQUARE), BY_CELL | {"readout": read, "initial_state": ZEROS}
    with pytest.raises(UnsupportedNetworkError, match="step and the readout share gru.w") as error:
        SavedTraining(module, **options).fit(WIDE, Y)
    others = re.findall(r"parameters=\[(.*?)\]", str(error.value))[0].replace("'", "").split(", ")
    assert others == ["gru.bias_hh_l0", "gru.bias_ih_l0", "gru.weight_hh_l0"]
    fixed = SavedTraining(module, parameters=others, **options).fit(WIDE, Y)
    assert sorted(linearize(fixed.network_, WIDE).K.components) == others


# ------------------------------------------------------------------------- names, and failures


def test_parameters_of_a_function_have_the_names_of_the_network():
    module = network(plain, drop=nn.Dropout(0.5))
    saved = SavedTraining(module, **BY_CELL, initial_state=ZEROS).fit(X, Y)
    K = linearize(saved.network_, X).K
    names = [f"gru.{name}" for name, _ in module.gru.named_parameters()]
    assert list(K.jacobian.to_parameters(torch.zeros(K.jacobian.in_shape).double())) == names
    assert list(K.components) == names
    assert saved.noise_sources_ == ["drop (Dropout, p=0.5)"]


@pytest.mark.parametrize("part", ["step", "encoder"])
def test_a_failing_part_is_named_but_a_lack_of_memory_is_not_its_fault(part):
    def failing(error: Exception) -> Callable:
        def fail(*_: object) -> None:
            raise error

        return fail

    options = BY_CELL | {"initial_state": ZEROS}
    message = f"{part} fail failed with KeyError on .*: 3"
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(network(plain), **options | {part: failing(KeyError(3))}).fit(X, Y)
    for error in (MemoryError("no room"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error), match="no room|out of memory") as raised:
            SavedTraining(network(plain), **options | {part: failing(error)}).fit(X, Y)
        assert type(raised.value) is type(error)
