"""Steps and weights whose derivatives need more than forward mode in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from kpflow_sklearn import (
    KPFlowAnalyzer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    UnsupportedNetworkError,
    linearize,
)

rng = np.random.default_rng(0)
X = rng.standard_normal((4, 3, 2))
Y = X.cumsum(1)[..., :1]


def drawn(make, *args, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **options).double()


def dense_K(lin, network, run):
    """Return K by automatic differentiation: J_theta of every step, at fixed states before it."""
    raw = {n: p for n, p in network.named_parameters() if "out" not in n and p.requires_grad}
    before = torch.cat([torch.zeros_like(lin.states[:, :1]), lin.states[:, :-1]], dim=1)
    after = run(torch.as_tensor(X).flatten(0, 1), before.flatten(0, 1))
    rows = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(z, list(raw.values()), retain_graph=True)]
        )
        for z in after.flatten()
    ]
    J = torch.stack(rows)
    return J @ J.T / (X.shape[0] * X.shape[1])


@pytest.mark.parametrize("by_name", [False, True])
def test_weight_norm_has_no_forward_mode(by_name):
    name = "weight_hh" if by_name else "weight_hh_l0"
    kind, options = (nn.GRUCell, {}) if by_name else (nn.GRU, {"batch_first": True})
    core = drawn(kind, 2, 3, **options)
    with torch.no_grad():
        parametrizations.weight_norm(core, name)
    network = nn.ModuleDict({"core": core, "out": drawn(nn.Linear, 3, 1)})
    saved = SavedTraining(network, step="core") if by_name else SavedTraining(network)
    lin = linearize(saved.fit(X, Y).network_, X)

    def run(x, z):
        return core(x, z) if by_name else core(x[:, None], z[None])[0][:, 0]

    K = dense_K(lin, network, run)
    np.testing.assert_allclose(lin.K.to_dense(), K.detach(), atol=1e-13)
    if by_name:
        analyzer = KPFlowAnalyzer(saved, analyses=("lyapunov",), random_state=0).fit(X, Y)
        assert analyzer.verify(X, Y)["passed"].all()


class OwnStep(nn.Module):
    """A network whose step is a method of its own."""

    def forward(self, x):
        h, outputs = x.new_zeros(len(x), 3), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


class Net(OwnStep):
    """A network whose step is computed by ``self.advance``."""

    def __init__(self, advance):
        super().__init__()
        self.w, self.out, self.advance = nn.Linear(5, 3), nn.Linear(3, 1), advance

    def step(self, x, h):
        return self.advance(self.w, torch.cat([x, h], -1), h)


def saved_step(network, step="step"):
    return SavedTraining(network, step=step, readout="out", initial_state=torch.zeros(3))


def adaptive(w, both, h):
    """Return the state after an adaptive solver."""
    odeint = pytest.importorskip("torchdiffeq").odeint
    x, times = both[..., :2], torch.tensor([0.0, 1.0], dtype=h.dtype)
    return odeint(lambda _, z: torch.tanh(w(torch.cat([x, z], -1))) - z, h, times)[-1]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        """Return twice the value, in the old style."""
        return 2 * value

    @staticmethod
    def backward(ctx, slope):
        """Return twice the slope."""
        return 2 * slope


def checkpointed(w, both, h):
    return checkpoint(lambda b: torch.tanh(w(b)), both, use_reentrant=False)


STEPS_TO_REFUSE = {
    "checkpoint": (checkpointed, "It uses torch.utils.checkpoint.*call the function directly"),
    # It chooses its steps for all trials together.
    "adaptive": (adaptive, "couples trials|adaptive solvers, .*rk4"),
    "function": (
        lambda w, both, h: Doubled.apply(w(both)).tanh(),
        "autograd.Function without setup_context.*rk4",
    ),
}


@pytest.mark.parametrize("name", STEPS_TO_REFUSE)
def test_steps_that_torch_cannot_follow_are_refused_by_name(name):
    step, message = STEPS_TO_REFUSE[name]
    network = drawn(Net, step)
    analyzer = KPFlowAnalyzer(saved_step(network), axes=("time",), n_components=2, random_state=0)
    with pytest.raises(UnsupportedNetworkError, match=message):
        analyzer.fit(X, Y)


CASTS = {
    "float": lambda w, both, h: torch.tanh(w(both.float())),
    "float and back": lambda w, both, h: torch.tanh(w(both.float().to(w.weight.dtype))),
}


@pytest.mark.parametrize("kind", [KPFlowAnalyzer, TaskAlignmentAnalyzer])
@pytest.mark.parametrize("name", CASTS)
def test_a_step_that_casts_is_verified_in_its_own_precision(name, kind):
    saved = saved_step(drawn(Net, CASTS[name]).float())
    options = {} if kind is TaskAlignmentAnalyzer else {"analyses": ("lyapunov",)}
    y = np.concatenate([Y, -Y], axis=-1) if kind is TaskAlignmentAnalyzer else Y
    if kind is TaskAlignmentAnalyzer:
        saved.network.out = drawn(nn.Linear, 3, 2).float()
    analyzer = kind(saved, random_state=0, **options).fit(X.astype("f4"), y)
    with pytest.warns(
        UserWarning,
        match="the step step does not compute in float64, .* verified in torch.float32",
    ):
        checks = analyzer.verify(X.astype("f4"), y)
    assert checks["passed"].all() and (checks["tolerance"][:3] > 1e-4).all()


def test_a_wrong_derivative_fails_in_low_precision_too():
    saved = saved_step(drawn(Net, CASTS["float"]).float())
    analyzer = KPFlowAnalyzer(saved, analyses=("lyapunov",), random_state=0)
    analyzer.fit(X.astype("f4"), Y)
    analyzer = copy.deepcopy(analyzer)
    analyzer.network_.recurrent.network.advance = lambda w, both, h: (
        torch.tanh(w(both.float())) + 0.05 * w(both.float()).detach()
    )
    with pytest.warns(UserWarning, match="casts"):
        assert not analyzer.verify(X.astype("f4"), Y)["passed"].all()


# ------------------------------------------- steps whose parameters or branches torch.func misses


class TwoMaps(OwnStep):
    """Maps of x and of h, in a step that the variants below change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.out = nn.Linear(3, 1)

    def step(self, x, h):
        return torch.tanh(self.a(x) + self.b(h))


class Tied(TwoMaps):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = self.a.weight


class Alias(TwoMaps):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.recurrent_weight = nn.Parameter(torch.randn(3, 3))
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.recurrent_weight  # Kept under two names, for a regulariser.
        self.out = nn.Linear(3, 1)


class Phase(TwoMaps):
    def step(self, x, h):
        if (x[:, 2] > 0).all():  # The same for all trials of a step.
            return torch.tanh(self.a(x) + h)
        return torch.tanh(self.b(x) - h)


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("kind", [Tied, Alias, Phase])
def test_gradient_and_K_of_a_step_of_ones_own(kind, by_name):
    inputs = rng.standard_normal((4, 5, 3))
    inputs[..., 2] = np.array([1, 1, -1, 1, -1])
    targets = inputs.cumsum(1)[..., :1]
    network = drawn(kind)
    step = "step" if by_name else lambda network, x, h: network.step(x, h)
    saved = saved_step(network, step)
    lin = linearize(saved.fit(inputs, targets).network_, inputs)
    theta = {n: p for n, p in network.named_parameters() if "out" not in n}
    # J_theta* P* Err is the gradient of the loss.
    gradient = lin.J_theta.to_parameters(lin.J_theta.T @ (lin.P.T @ lin.error(targets)))
    (network(torch.as_tensor(inputs)) - torch.as_tensor(targets)).square().mean().backward()
    assert gradient.keys() == theta.keys()
    assert all(torch.allclose(g, theta[n].grad, atol=1e-14) for n, g in gradient.items())
    # K from one step after the other.
    before = torch.cat([torch.zeros_like(lin.states[:, :1]), lin.states[:, :-1]], dim=1)
    steps = zip(torch.as_tensor(inputs).unbind(1), before.unbind(1), strict=True)
    after = torch.stack([network.step(x, z) for x, z in steps], dim=1)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    rows = [torch.autograd.grad(z, list(theta.values()), **options) for z in after.flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert torch.allclose(lin.K.to_dense(), jacobian @ jacobian.T / 20, atol=1e-14)


class FirstDecides(TwoMaps):
    def step(self, x, h):
        return torch.tanh(self.a(x) + h if x[0, 0] > 0 else self.b(x) - h)


class Sparse(TwoMaps):
    def step(self, x, h):
        places = torch.arange(3).expand(2, 3)
        values = self.b.weight.diagonal() + self.b.bias
        weight = torch.sparse_coo_tensor(places, values, (3, 3), check_invariants=False)
        return torch.tanh(self.a(x) + torch.sparse.mm(weight, h.T).T)


class Clipped(TwoMaps):
    def step(self, x, h):
        z = self.a(x) + self.b(h)
        if z.requires_grad:
            z.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
        return torch.tanh(z)


@pytest.mark.parametrize(
    "kind, message",
    [
        (FirstDecides, "couples trials: .* in another order"),
        (Sparse, "two different derivatives: .* sparse tensor"),
        (Clipped, "two different derivatives: .* hook on a tensor"),
    ],
)
def test_steps_without_a_right_derivative_are_refused(kind, message):
    inputs = rng.standard_normal((5, 4, 3))
    inputs[:, :, 0] = abs(inputs[:, :, 0]) * np.array([1, 1, 1, 1, -1])[:, None]
    saved = saved_step(drawn(kind))
    with pytest.raises(UnsupportedNetworkError, match=message):
        linearize(saved.fit(inputs, inputs[..., :1]).network_, inputs)
