"""Dense float64 reference for feed-forward networks, by plain torch autograd and loops.

It shares no code with the package and is written from the mathematics, to be read, not to be fast.
Rows of Jacobians and kernels are (sample, output) in C order. What trains is what requires_grad
says; the last layer of a module is its readout.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp


def make_mlp(sizes, *, bias=True, activation=nn.ReLU, train_readout=False, seed=0):
    """Return a torch.nn.Sequential in double, with biases that are not zero."""
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    layers = []
    for k, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        is_readout = k == len(sizes) - 2
        layers.append(nn.Linear(n_in, n_out, bias=bias or is_readout, dtype=torch.float64))
        if not is_readout:
            layers.append(activation())
    module = nn.Sequential(*layers)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * (2 / p.shape[-1]) ** 0.5 if p.ndim == 2 else p)
            if p.ndim == 1:
                p.copy_(0.3 * torch.randn_like(p))
    for p in module[-1].parameters():
        p.requires_grad_(train_readout)
    torch.random.set_rng_state(torch_state)
    return module


def trained(module) -> dict[str, Tensor]:
    """Return the parameters that train, detached."""
    return {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}


def jacobians(module, X) -> dict[str, Tensor]:
    """Return df/dp for each trained parameter, (n_samples * n_outputs, size of p)."""
    by_name = jacrev(lambda theta: functional_call(module, theta, (X,)))(trained(module))
    return {name: j.detach().flatten(2).flatten(0, 1) for name, j in by_name.items()}


def layer_kernels(module, X) -> dict[str, Tensor]:
    """Return J_l J_l^T of each Linear with trained parameters, by its name in the Sequential."""
    total: dict[str, Tensor] = {}
    for name, j in jacobians(module, X).items():
        layer = name.split(".")[0]
        total[layer] = total.get(layer, 0) + j @ j.T
    return total


def kernel(module, X) -> Tensor:
    """Return J J^T."""
    return sum(layer_kernels(module, X).values())


def gradient(module, X, y, *, scale):
    """Return the gradients of sum r^2 / (2 scale)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = ((module(X) - y) ** 2).sum() / (2 * scale)
    return parameters, torch.autograd.grad(loss, parameters), float(loss.detach())


def descend(module, X, y, eta, n_steps, *, watch=None):
    """Make full-batch steps on sum r^2 / (2 n_samples), in place; return losses before each."""
    losses = []
    for step in range(n_steps):
        if watch is not None:
            watch(step)
        parameters, gradients, loss = gradient(module, X, y, scale=len(X))
        losses.append(loss)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= eta * g
    if watch is not None:
        watch(n_steps)
    return losses


def pre_activations(module, X) -> list[Tensor]:
    """Return H_1..H_L."""
    outputs = []
    with torch.no_grad():
        for layer in module[:-1]:
            X = layer(X)
            if isinstance(layer, nn.Linear):
                outputs.append(X)
    return outputs


def flow_derivatives(module, X, y) -> tuple[Tensor, Tensor]:
    """Return r' and r'' under gradient flow on sum r^2 / 2, by forward over reverse mode."""

    def velocity(theta):
        f, pull = vjp(lambda t: functional_call(module, t, (X,)), theta)
        return {name: -g for name, g in pull(f - y)[0].items()}

    def speed(theta):
        return jvp(lambda t: functional_call(module, t, (X,)), (theta,), (velocity(theta),))[1]

    theta = trained(module)
    first, second = jvp(speed, (theta,), (velocity(theta),))
    return first.detach(), second.detach()


def flow_of(module, X, y, function):
    """Return the derivative along the flow of what ``function(parameters)`` returns."""
    f, pull = vjp(lambda t: functional_call(module, t, (X,)), trained(module))
    velocity = {name: -g for name, g in pull(f - y)[0].items()}
    return jvp(function, (trained(module),), (velocity,))[1]


def pair_operators(module, X):
    """Return F_l and M_l, as {(l, m, n): matrix} with l from 1, for ReLU, one output.

    F_1 = Q_0 I and F_l = Q_{l-1} I + W_l D_m F_{l-1} D_n W_l^T with the gates of layer l - 1;
    M_L = 0 and M_l = S_{l+1} I + W_{l+1}^T D_m M_{l+1} D_n W_{l+1} with the gates of layer l + 1.
    """
    W = [layer.weight.detach() for layer in module if isinstance(layer, nn.Linear)]
    has_bias = module[0].bias is not None
    H = pre_activations(module, X)
    D = [(h > 0).double() for h in H]
    A = [X] + [h.clamp(min=0) for h in H]
    depth, n = len(H), len(X)
    B = [None] * depth
    c = W[-1].expand(n, -1)
    for k in reversed(range(depth)):
        B[k] = D[k] * c
        c = B[k] @ W[k]
    Q = [a @ a.T + float(has_bias) for a in A]
    S = [b @ b.T for b in B]
    F, M = {}, {}
    for m in range(n):
        for k in range(n):
            F[1, m, k] = Q[0][m, k] * torch.eye(W[0].shape[0], dtype=X.dtype)
            for layer in range(2, depth + 1):
                left = W[layer - 1] * D[layer - 2][m]
                right = W[layer - 1] * D[layer - 2][k]
                same = Q[layer - 1][m, k] * torch.eye(len(left), dtype=X.dtype)
                F[layer, m, k] = same + left @ F[layer - 1, m, k] @ right.T
            M[depth, m, k] = torch.zeros(W[depth - 1].shape[0], W[depth - 1].shape[0]).double()
            for layer in reversed(range(1, depth)):
                left = D[layer][m][:, None] * W[layer]
                right = D[layer][k][:, None] * W[layer]
                same = S[layer][m, k] * torch.eye(left.shape[1], dtype=X.dtype)
                M[layer, m, k] = same + left.T @ M[layer + 1, m, k] @ right
    return F, M, A, B, D
