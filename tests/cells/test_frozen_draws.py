"""A step with a seed draws one realisation, common to all trials, in runs and derivatives."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from kpflow_sklearn.cells import UserStep

T, B, H, SEED = 3, 4, 5, 123
KINDS = {
    "randn_like": lambda h: h + torch.randn_like(h),
    "dropout": lambda h: nn.functional.dropout(h, 0.4),
    "both": lambda h: nn.functional.dropout(h, 0.4) * torch.rand_like(h),
    "sized": lambda h: h + torch.randn(len(h), H, dtype=h.dtype),
    "in place": lambda h: h * torch.empty_like(h).normal_(0, 0.3).mul_(2),
    "of a distribution": lambda h: torch.distributions.Normal(h, 0.1).rsample(),
    "for all trials": lambda h: h * torch.randn(H, dtype=h.dtype),
    "trials last": lambda h: h + torch.randn(H, len(h), dtype=h.dtype).T,
    "no draw": lambda h: h,
}
#: Those that are not recorded; a draw for all trials is, but its steps cannot be run as one.
ONE_BY_ONE = ("trials last",)


class Noisy(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.w, self.draw = nn.Linear(H, H), KINDS[kind]
        torch.manual_seed(0)
        nn.init.normal_(self.w.weight)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.draw(torch.tanh(self.w(h) + x))


def reference(module: nn.Module, t: int, x: Tensor, z: Tensor, weights: dict) -> Tensor:
    """Return the next states, each trial by itself from the seed of the step."""
    out = []
    for row in range(len(x)):
        torch.manual_seed(SEED + t)
        rows = slice(row, row + 1)
        out.append(functional_call(module, weights, (x[rows], z[rows])))
    return torch.cat(out)


@pytest.fixture(params=KINDS)
def case(request, monkeypatch):
    module = Noisy(request.param).double()
    if request.param not in ONE_BY_ONE:  # The slow way, with a seed for every product.
        monkeypatch.setattr(torch, "vmap", None)
    generator = torch.Generator().manual_seed(1)
    x, z, v = torch.randn(3, T, B, H, dtype=torch.float64, generator=generator)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    return module, UserStep(module, (H,), seed=SEED), weights, x, z, v


def test_one_realisation_per_step_in_runs_and_derivatives(case):
    module, step, weights, x, z, v = case
    rows = torch.stack([reference(module, t, x[t], z[t], weights) for t in range(T)])
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    torch.testing.assert_close(torch.stack([step(t, x[t], z[t], weights) for t in range(T)]), rows)
    torch.testing.assert_close(step.along(x, z, weights), rows)

    def of_state(z: Tensor) -> Tensor:
        return step(1, x[1], z, weights)

    def of_weights(w: Tensor) -> Tensor:
        return step.along(x, z, {**weights, "w.weight": w})

    w, dw = weights["w.weight"], torch.ones(H, H, dtype=torch.float64)
    moved, changed = jvp(of_state, (z[1],), (v[1],))[1], jvp(of_weights, (w,), (dw,))[1]
    pulled, gradient = vjp(of_state, z[1])[1](v[1])[0], vjp(of_weights, w)[1](v)[0]
    assert torch.equal(torch.random.get_rng_state(), before)

    def check(function, at, direction, forward, back, adjoint):
        J = torch.autograd.functional.jacobian(function, at).reshape(forward.numel(), at.numel())
        torch.testing.assert_close(forward.flatten(), J @ direction.flatten())
        torch.testing.assert_close(adjoint.flatten(), back.flatten() @ J)

    check(lambda z: reference(module, 1, x[1], z, weights), z[1], v[1], moved, v[1], pulled)
    many = lambda w: torch.stack(  # noqa: E731
        [reference(module, t, x[t], z[t], {**weights, "w.weight": w}) for t in range(T)]
    )
    check(many, w, dw, changed, v, gradient)


def test_other_precisions_and_numbers_of_trials_have_the_numbers_of_their_seed():
    module = Noisy("randn_like").double()
    step = UserStep(module, (H,), seed=SEED)
    z = torch.zeros(1, H, dtype=torch.float64)
    double = step(0, z, z)
    torch.testing.assert_close(step(0, z.repeat(6, 1), z.repeat(6, 1)), double.repeat(6, 1))
    module.float()
    torch.manual_seed(SEED)
    torch.testing.assert_close(step(0, z.float(), z.float()), module(z.float(), z.float()))


def test_a_step_that_draws_otherwise_for_many_trials_is_run_trial_by_trial():
    class Changing(Noisy):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return super().forward(x, h) + (torch.randn(H) if len(h) > 1 else 0)

    module = Changing("randn_like").double()
    z = torch.ones(2, H, dtype=torch.float64)
    expected = reference(module, 0, z, z, {})
    torch.testing.assert_close(UserStep(module, (H,), seed=SEED)(0, z, z), expected)
