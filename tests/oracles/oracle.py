"""Dense float64 reference for the operators P, K and PKP*, by plain torch autograd.

It shares no code with the package and is written to be read, not to be fast. Every array is
flattened in C order over (trial, step, state unit). The state is all layers' states side by
side; an LSTM layer's state is [h, c]. With a mask, the inputs at the absent steps are set to
zero (they may be NaN), `states` there is what the network does on zero input, and the rows and
columns of the operators there are zero.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.func import functional_call

CELLS = ("tanh", "relu", "leaky", "leaky_voltage", "gru", "lstm")
INITIAL_STATE = "initial_state"


@dataclass
class DenseOperators:
    """The dense operators of one network on one set of trials."""

    states: Tensor
    K: Tensor
    P: Tensor
    PKP: Tensor
    P_inverse: Tensor
    J_theta: Tensor
    n_valid: int
    parameter_names: list[str]
    parameter_sizes: list[int]

    def per_parameter(self, name: str) -> Tensor:
        """Return the part of K that one parameter contributes, (1/N) J_name J_name^T."""
        blocks = torch.split(self.J_theta, self.parameter_sizes, dim=1)
        block = blocks[self.parameter_names.index(name)]
        return block @ block.T / self.n_valid


def layer_update(cell, parameters, layer, alpha):
    """Return the function (input, state) -> new state of one layer, each (B, size)."""
    if isinstance(cell, nn.Module):
        module = copy.deepcopy(cell).double()
        return lambda x, h: functional_call(module, parameters, (x, h))
    if cell not in CELLS:
        raise ValueError(f"cell must be a module or one of {CELLS}, got {cell!r}.")

    suffix = f"_l{layer}"
    weights = {k.removesuffix(suffix): p for k, p in parameters.items() if k.endswith(suffix)}
    w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
    bias = weights.get("bias_ih", 0.0) + weights.get("bias_hh", 0.0)
    if cell == "leaky":
        return lambda x, h: (1 - alpha) * h + alpha * torch.tanh(x @ w_ih.T + h @ w_hh.T + bias)
    if cell == "leaky_voltage":
        return lambda x, h: (1 - alpha) * h + alpha * (torch.tanh(h) @ w_hh.T + x @ w_ih.T + bias)

    # The weights of these modules are never used, so "meta" avoids drawing random numbers.
    options = dict(bias="bias_ih" in weights, device="meta", dtype=torch.float64)
    sizes = (w_ih.shape[1], w_hh.shape[1])
    if cell == "lstm":
        module = nn.LSTMCell(*sizes, **options)

        def lstm(x, state):
            h, c = state.chunk(2, dim=-1)
            return torch.cat(functional_call(module, weights, (x, (h, c))), dim=-1)

        return lstm
    if cell == "gru":
        module = nn.GRUCell(*sizes, **options)
    else:
        module = nn.RNNCell(*sizes, nonlinearity=cell, **options)
    return lambda x, h: functional_call(module, weights, (x, h))


def layer_output(cell, state):
    """Return what a layer with this state hands to the layer above."""
    if cell == "lstm":
        return state.chunk(2, dim=-1)[0]
    if cell == "leaky_voltage":
        return torch.tanh(state)
    return state


def prepare(cell, parameters, X, initial_state, mask, n_layers):
    """Cast to float64, zero the absent inputs and check the mask; the graph is kept."""
    if isinstance(cell, nn.Module) and n_layers != 1:
        raise ValueError("A user cell has one layer.")
    n_trials, n_timesteps = X.shape[:2]
    if mask is None:
        mask = torch.ones(n_trials, n_timesteps)
    mask = torch.as_tensor(mask, dtype=torch.bool)
    if mask.shape != X.shape[:2] or (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("mask must be (n_trials, n_timesteps) and a prefix of each trial.")
    X = torch.where(mask[..., None], X.double(), 0.0)
    parameters = {name: p.double() for name, p in parameters.items()}
    return parameters, X, initial_state.double(), mask


def run(
    cell, parameters, X, initial_state, *,
    mask=None, n_layers=1, alpha=1.0, learn_initial_state=False,
):  # fmt: skip
    """Return the unrolled states (B, T, H_total), differentiable in parameters and z0."""
    parameters, X, z0, _ = prepare(cell, parameters, X, initial_state, mask, n_layers)
    updates = [layer_update(cell, parameters, k, alpha) for k in range(n_layers)]
    layers = list(z0.expand(X.shape[0], -1).chunk(n_layers, dim=-1))
    trajectory = []
    for t in range(X.shape[1]):
        below = X[:, t]
        for k in range(n_layers):
            layers[k] = updates[k](below, layers[k])
            below = layer_output(cell, layers[k])
        trajectory.append(torch.cat(layers, dim=-1))
    return torch.stack(trajectory, dim=1)


def node_map(cell, parameters, X, initial_state, Z, *, mask=None, n_layers=1, alpha=1.0):
    """Return F(Z, theta, z0): every node is updated from the given Z, which is independent."""
    parameters, X, z0, _ = prepare(cell, parameters, X, initial_state, mask, n_layers)
    updates = [layer_update(cell, parameters, k, alpha) for k in range(n_layers)]
    first = z0.expand(X.shape[0], -1)
    trajectory = []
    for t in range(X.shape[1]):
        previous = (Z[:, t - 1] if t > 0 else first).chunk(n_layers, dim=-1)
        current = Z[:, t].chunk(n_layers, dim=-1)
        new = []
        for k in range(n_layers):
            below = X[:, t] if k == 0 else layer_output(cell, current[k - 1])
            new.append(updates[k](below, previous[k]))
        trajectory.append(torch.cat(new, dim=-1))
    return torch.stack(trajectory, dim=1)


def valid_entries(mask, n_state):
    """Return the indices of the valid entries of a flattened (B, T, H_total) array."""
    return mask[..., None].expand(*mask.shape, n_state).reshape(-1).nonzero().squeeze(-1)


def parameter_jacobian(function, parameters, z0, valid, learn_initial_state):
    """Return d function / d theta (BTH, n_theta), zero at absent entries, names and sizes."""
    names = list(parameters)
    blocks = jacobian(
        lambda *p: function(dict(zip(names, p[:-1], strict=True)), p[-1]).reshape(-1),
        (*parameters.values(), z0),
    )
    blocks = [block.reshape(block.shape[0], -1) for block in blocks]
    if learn_initial_state:
        names.append(INITIAL_STATE)
    else:
        blocks.pop()
    full = torch.cat(blocks, dim=1)
    J = torch.zeros_like(full)
    J[valid] = full[valid]
    return J, names, [block.shape[1] for block in blocks]


def dense_operators(
    cell, parameters, X, initial_state, *,
    mask=None, n_layers=1, alpha=1.0, learn_initial_state=False,
):  # fmt: skip
    """Return P, K and PKP* as dense matrices, by differentiating the one-step node map."""
    options = dict(mask=mask, n_layers=n_layers, alpha=alpha)
    parameters, X, z0, valid_steps = prepare(cell, parameters, X, initial_state, mask, n_layers)
    states = run(cell, parameters, X, z0, **options).detach()
    valid = valid_entries(valid_steps, states.shape[-1])
    n_valid = int(valid_steps.sum())

    J_theta, names, sizes = parameter_jacobian(
        lambda p, start: node_map(cell, p, X, start, states, **options),
        parameters, z0, valid, learn_initial_state,
    )  # fmt: skip
    n = states.numel()
    dF_dZ = jacobian(lambda Z: node_map(cell, parameters, X, z0, Z, **options), states)
    small = (torch.eye(n, dtype=torch.float64) - dF_dZ.reshape(n, n))[valid][:, valid]
    P_inverse, P = torch.zeros(2, n, n, dtype=torch.float64)
    P_inverse[valid[:, None], valid] = small
    P[valid[:, None], valid] = torch.linalg.inv(small)
    K = J_theta @ J_theta.T / n_valid
    return DenseOperators(states, K, P, P @ K @ P.T, P_inverse, J_theta, n_valid, names, sizes)


def unrolled_tangent_kernel(
    cell, parameters, X, initial_state, *,
    mask=None, n_layers=1, alpha=1.0, learn_initial_state=False,
):  # fmt: skip
    """Return (1/N) (dZ/dtheta) (dZ/dtheta)^T of the unrolled trajectory: PKP* without P or K."""
    options = dict(mask=mask, n_layers=n_layers, alpha=alpha)
    parameters, X, z0, valid_steps = prepare(cell, parameters, X, initial_state, mask, n_layers)
    valid = valid_entries(valid_steps, z0.shape[-1])
    dZ, _, _ = parameter_jacobian(
        lambda p, start: run(cell, p, X, start, **options),
        parameters, z0, valid, learn_initial_state,
    )  # fmt: skip
    return dZ @ dZ.T / valid_steps.sum()


def loss_gradient(
    cell, parameters, X, initial_state, loss_fn, *,
    mask=None, n_layers=1, alpha=1.0, learn_initial_state=False,
):  # fmt: skip
    """Return {name: gradient} of loss_fn(states) by plain backward through the trajectory."""
    leaves = {k: p.detach().double().clone().requires_grad_() for k, p in parameters.items()}
    z0 = initial_state.detach().double().clone().requires_grad_()
    loss_fn(run(cell, leaves, X, z0, mask=mask, n_layers=n_layers, alpha=alpha)).backward()
    if learn_initial_state:
        leaves[INITIAL_STATE] = z0
    return {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in leaves.items()}
