"""The kernels, fields and weight Grams of feed-forward networks against plain autograd."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from itertools import product

import pytest
import torch
from torch import nn
from torch.func import functional_call

from kpflow_sklearn import linearize
from kpflow_sklearn.feedforward import _kernel
from kpflow_sklearn.feedforward._fields import field_rates, forward_fields
from kpflow_sklearn.feedforward._kernel import FeedForwardKernel
from kpflow_sklearn.feedforward._recognition import recognise_feedforward
from kpflow_sklearn.feedforward._weight_grams import pairwise_grams
from kpflow_sklearn.networks import build_network
from kpflow_sklearn.networks.tangents import coactivation_gram
from kpflow_sklearn.spectra import parameter_gram
from tests.oracles import gram_oracle as oracle

SIZES = {1: (5, 7), 2: (5, 7, 6), 3: (5, 7, 6, 8), 4: (5, 7, 6, 8, 4)}
depths = pytest.mark.parametrize("depth", [1, 2, 3, 4])
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])


def samples(n=9, n_features=5, seed=1):
    return torch.randn(n, n_features, generator=torch.Generator().manual_seed(seed)).double()


def case(depth=2, n_outputs=1, n=9, **options):
    module = oracle.make_mlp((*SIZES[depth], n_outputs), **options)
    return module, samples(n)


def close(actual, expected, tolerance=1e-12):
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape
    scale = max(float(expected.abs().max()), 1)
    assert float((actual - expected).abs().max()) <= tolerance * scale


# -------------------------------------------------------------------------------- the kernel


@depths
@biases
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("train_readout", [False, True], ids=["fixed", "trained"])
def test_layer_kernels_are_those_of_autograd(depth, bias, n_outputs, train_readout):
    module, X = case(depth, n_outputs, bias=bias, train_readout=train_readout)
    kernels = FeedForwardKernel(recognise_feedforward(module), X).dense()
    assert list(kernels) == [str(k + 1) for k in range(depth)] + ["readout"] * train_readout
    expected = oracle.layer_kernels(module, X)
    for mine, theirs in zip(kernels.values(), expected.values(), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize(
    "activation", [nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU]
)
def test_the_kernel_holds_for_any_elementwise_activation(activation):
    module, X = case(3, 2, activation=activation)
    kernels = FeedForwardKernel(recognise_feedforward(module), X).dense()
    close(sum(kernels.values()), oracle.kernel(module, X))


@pytest.mark.parametrize("frozen", ["0.weight", "2.weight", "2.bias", "0.bias"])
def test_frozen_parameters_are_left_out(frozen):
    module, X = case(2, 2)
    dict(module.named_parameters())[frozen].requires_grad_(False)
    kernel = FeedForwardKernel(recognise_feedforward(module), X)
    K = oracle.kernel(module, X)
    close(sum(kernel.dense().values()), K)
    v = samples(9, 2, seed=4).flatten()
    close(kernel @ v, K @ v)


@depths
@pytest.mark.parametrize("chunk, cache", [(1024, 2**28), (4, 2**28), (4, 0), (1, 0)])
def test_products_traces_and_forms_need_no_matrix(depth, chunk, cache):
    module, X = case(depth, 3, train_readout=True)
    kernel = FeedForwardKernel(recognise_feedforward(module), X, chunk=chunk, cache=cache)
    expected = list(oracle.layer_kernels(module, X).values())
    v = samples(9, 3, seed=5).flatten()
    for Kv, K in zip(kernel.layer_products(v).values(), expected, strict=True):
        close(Kv, K @ v)
    V = torch.stack([v, v.flip(0)], dim=1)
    close(kernel @ V, sum(expected) @ V)
    traces, forms = kernel.traces().values(), kernel.quadratic_forms(v).values()
    assert list(traces) == pytest.approx([float(K.trace()) for K in expected], rel=1e-12)
    assert list(forms) == pytest.approx([float(v @ K @ v) for K in expected], rel=1e-12)


@pytest.mark.parametrize("chunk, cache, sizes", [(4, 2**28, []), (4, 0, [4, 4, 1])])
def test_matrices_are_made_of_the_factors_of_the_chunks(chunk, cache, sizes, monkeypatch):
    module, X = case(2, 3, train_readout=True)
    kernel = FeedForwardKernel(recognise_feedforward(module), X, chunk=chunk, cache=cache)
    computed = []

    def counted(network, rows):
        computed.append(len(rows))
        return forward_fields(network, rows)

    monkeypatch.setattr(_kernel, "forward_fields", counted)
    expected = oracle.layer_kernels(module, X).values()
    for mine, theirs in zip(kernel.dense().values(), expected, strict=True):
        close(mine, theirs)
    assert computed == sizes


def test_products_with_other_samples():
    module, X = case(3, 2)
    new = samples(4, seed=8)
    kernel = FeedForwardKernel(recognise_feedforward(module), X)
    both = oracle.kernel(module, torch.cat([X, new]))
    v = samples(9, 2, seed=4).flatten()
    close(kernel.product_at(new, v), both[18:, :18] @ v)


@pytest.mark.parametrize("depth", [1, 3])
def test_one_step_moves_the_outputs_by_the_kernel_to_first_order(depth):
    # The error of the rate falls in proportion to the step.
    module, X = case(depth)
    y = samples(9, 1, seed=3)
    network = recognise_feedforward(module)
    r = (module(X) - y).detach()
    rate = -(FeedForwardKernel(network, X) @ r.flatten()) / len(X)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    errors = []
    for eta in (1e-4, 1e-5, 1e-6):
        module.load_state_dict(state)
        oracle.descend(module, X, y, eta, 1)
        measured = ((module(X) - y).detach() - r).flatten() / eta
        errors.append(float((measured - rate).norm() / rate.norm()))
    if depth == 1:  # Between flips the step of one ReLU layer is exactly linear.
        assert max(errors) < 1e-8
    else:
        assert errors[0] < 1e-2
        assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.05)
        assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.05)


# ------------------------------------------------------------- fields, pair operators, closure


@pytest.mark.parametrize("depth", [1, 2, 3])
@biases
def test_fields_move_as_the_equations_say(depth, bias):
    module, X = case(depth, 2, bias=bias)
    y = samples(9, 2, seed=3)
    network = recognise_feedforward(module)
    fields = forward_fields(network, X)
    d_h, d_c = field_rates(network, fields, fields.outputs - y)
    for k in range(depth):

        def h(theta, upper=2 * k + 1):
            return stretch(module, theta, 0, upper)(X)

        def c(theta, middle=2 * k + 2):
            activity = stretch(module, theta, 0, middle)(X)
            above = torch.func.jacrev(stretch(module, theta, middle, None))
            return torch.func.vmap(above)(activity)

        close(d_h[k], oracle.flow_of(module, X, y, h))
        close(d_c[k], oracle.flow_of(module, X, y, c))


def stretch(module, theta, start, stop):
    """Return the function of some of the module's layers, which keep their names."""
    part = module[start:stop]
    values = {n: theta[n] for n, _ in part.named_parameters() if n in theta}
    return lambda x: functional_call(part, values, (x,))


@depths
def test_pair_operators_cut_the_kernel_at_any_layer(depth):
    # K_mn = b_m . F b_n + x_m . M x_n for every l, and F gives the change of the fields.
    module, X = case(depth, bias=False, n=4)
    F, M, A, B, _ = oracle.pair_operators(module, X)
    network = recognise_feedforward(module)
    K = sum(FeedForwardKernel(network, X).dense().values())
    r, pairs = samples(4, 1, seed=3), list(product(range(4), repeat=2))
    d_h, d_c = field_rates(network, forward_fields(network, X), r)
    for layer in range(1, depth + 1):
        F_l, M_l = (torch.stack([op[layer, *pair] for pair in pairs]) for op in (F, M))
        F_l, M_l = F_l.unflatten(0, (4, 4)), M_l.unflatten(0, (4, 4))
        b, x = B[layer - 1], A[layer]
        inner = "mi,mnij,nj->mn"
        close(torch.einsum(inner, b, F_l, b) + torch.einsum(inner, x, M_l, x), K)
        close(d_h[layer - 1], -torch.einsum("n,mnij,nj->mi", r[:, 0], F_l, b))
        close(d_c[layer - 1][:, 0], -torch.einsum("n,mnij,nj->mi", r[:, 0], M_l, x))


@pytest.mark.parametrize(
    ("activation", "depth", "matters"),
    [(nn.ReLU, 2, False), (nn.ReLU, 3, True), (nn.Tanh, 1, False), (nn.Tanh, 2, True)],
)
def test_weights_that_touch_no_field_matter_from_some_depth_on(activation, depth, matters):
    # A change of W_l that no input sees and no B_l sees leaves every field as it is.
    sizes = (12,) + (12,) * depth + (1,)
    module = oracle.make_mlp(sizes, bias=False, seed=2, activation=activation)
    X, y = samples(4, 12), samples(4, 1, seed=3)
    before = forward_fields(recognise_feedforward(module), X)
    first, second = oracle.flow_derivatives(module, X, y)
    with torch.no_grad():
        for k in range(depth):
            change = torch.randn(12, 12, generator=torch.Generator().manual_seed(k)).double()
            unseen = torch.eye(12) - torch.linalg.pinv(before.X[k]) @ before.X[k]
            b = before.B[k][:, 0]
            silent = torch.eye(12) - torch.linalg.pinv(b) @ b
            module[2 * k].weight += silent @ change @ unseen
    after = forward_fields(recognise_feedforward(module), X)
    for name in ("X", "H", "D", "C", "B"):
        for old, new in zip(getattr(before, name), getattr(after, name), strict=True):
            close(new, old)
    first_new, second_new = oracle.flow_derivatives(module, X, y)
    close(first_new, first)
    moved = float((second_new - second).norm() / second.norm())
    assert moved > 1e-3 if matters else moved < 1e-12


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_pairwise_grams_are_those_of_the_matrices(activation):
    module, X = case(2, activation=activation)
    network = recognise_feedforward(module)
    W, D = network.hidden[1].weight.detach(), forward_fields(network, X).D[1]
    pairs = torch.combinations(torch.arange(9), with_replacement=True)
    grams = pairwise_grams(W, D, pairs)
    for (m, n), trace, square in zip(pairs, grams.trace, grams.square, strict=True):
        gram = W.T @ torch.diag(D[m]) @ torch.diag(D[n]) @ W
        assert float(trace) == pytest.approx(float(gram.trace()), rel=1e-12)
        assert float(square) == pytest.approx(float((gram**2).sum()), rel=1e-12)


# ----------------------------------------------------------------------- depth as time: K and P


def test_a_feedforward_net_is_a_recurrence_in_depth():
    # A stack of relu layers on one step from z_0 = 0 is the network; P carries layer to layer.
    stack = build_network(
        "relu",
        5,
        1,
        hidden_size=6,
        n_layers=3,
        init_scale=1.0,
        recurrent_init="normal",
        alpha=1.0,
        learn_initial_state=False,
        dtype=torch.float64,
        seed=0,
    )
    named = dict(stack.recurrent.named_parameters())
    for name, p in named.items():
        if "_hh_" in name:
            p.requires_grad_(False)
            if "bias" in name:
                p.data.zero_()
    layers: list[nn.Module] = []
    for k in range(3):
        linear = nn.Linear(*named[f"weight_ih_l{k}"].shape[::-1], dtype=torch.float64)
        linear.load_state_dict(
            {"weight": named[f"weight_ih_l{k}"].data, "bias": named[f"bias_ih_l{k}"].data}
        )
        layers += [linear, nn.ReLU()]
    readout = nn.Linear(6, 1, dtype=torch.float64).requires_grad_(False)
    module = nn.Sequential(*layers, readout)
    X = samples()
    tangent = linearize(stack, X[:, None].numpy())
    PKP = torch.as_tensor(tangent.PKP.to_dense()).reshape(9, 18, 9, 18)
    top, a = PKP[:, 12:, :, 12:], readout.weight[0].detach()
    network = recognise_feedforward(module)
    kernels = FeedForwardKernel(network, X).dense()
    close(9 * torch.einsum("i,minj,j->mn", a, top, a), sum(kernels.values()))

    # The unit trace of K is the sum over layers of Q_{l-1} * (D_l D_l^T), the same function.
    fields = forward_fields(network, X)
    ones = torch.ones(9, 1, dtype=torch.float64)
    terms = [
        coactivation_gram(torch.cat([x, ones], 1), d)
        for x, d in zip(fields.X, fields.D, strict=False)
    ]
    close(9 * parameter_gram(tangent.K, "trial"), sum(terms))


def test_shared_weights_sum_over_pairs_of_steps():
    # K = sum_tt' m_tt' (E_t E_t'^T) * (B_t B_t'^T): m = 1 where the steps share their weights.
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(5, 5, generator=generator).double() / 5**0.5
    a, X = torch.randn(5, generator=generator).double(), samples()
    J = torch.func.jacrev(lambda w: torch.tanh(torch.tanh(X @ w.T) @ w.T) @ a)(W).flatten(1)
    h1 = torch.tanh(X @ W.T)
    h2 = torch.tanh(h1 @ W.T)
    b2 = (1 - h2**2) * a
    b1 = (1 - h1**2) * (b2 @ W)
    steps = [(X, b1), (h1, b2)]
    close(sum(coactivation_gram(*row, column) for row in steps for column in steps), J @ J.T)


# ------------------------------------------------------------------------------- at full size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_products_at_20000_samples_do_not_hold_n_squared():
    # 20000^2 doubles are 3.2 GB.
    code = """
        import torch
        torch.set_num_threads(1)
        from kpflow_sklearn.feedforward import FeedForwardKernel, build_feedforward
        network = build_feedforward(
            512, (512,) * 4, 1, activation="relu", bias=True, train_readout=False,
            init_scale=1.0, dtype=torch.float64, seed=0,
        )
        def peak(n):
            X = torch.randn(n, 512, dtype=torch.float64)
            kernel = FeedForwardKernel(network, X)
            assert torch.isfinite(kernel @ torch.randn(n, dtype=torch.float64)).all()
            # Not ru_maxrss, which begins with what the parent process had at its largest.
            with open("/proc/self/status") as file:
                return next(int(row.split()[1]) for row in file if row.startswith("VmHWM")) * 1024
        small, large = peak(5000), peak(20000)
        print(small, large)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    small, large = map(float, done.stdout.split())
    print(f"peak memory {small / 2**20:.0f} MiB at 5000 samples, {large / 2**20:.0f} at 20000")
    assert large < 1.5e9
    assert large - small < 5 * 15000 * 512 * 8  # A few times the inputs themselves.


@pytest.mark.slow
def test_the_full_kernel_is_50_times_faster_than_autograd():
    module = oracle.make_mlp((256, 256, 256, 256, 1))
    X = samples(500, 256)
    network = recognise_feedforward(module)
    ours = []
    for _ in range(3):
        start = time.perf_counter()
        K = sum(FeedForwardKernel(network, X).dense().values())
        ours.append(time.perf_counter() - start)
    start = time.perf_counter()
    expected = oracle.kernel(module, X)
    theirs = time.perf_counter() - start
    print(f"{min(ours) * 1e3:.0f} ms against {theirs:.2f} s, {theirs / min(ours):.0f} times")
    close(K, expected)
    assert theirs / min(ours) > 50
