"""A feed-forward network as its layers: weights, biases, elementwise activations, readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import torch_generator

#: phi(c h) = c phi(h) for c > 0, so that phi(h) = phi'(h) h, with slopes constant but for flips.
PIECEWISE_LINEAR: tuple[type[nn.Module], ...] = (nn.ReLU, nn.LeakyReLU, nn.Identity)
SMOOTH: tuple[type[nn.Module], ...] = (
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
)

#: Activations by name, with the variance gain that keeps the size of activity through layers.
ACTIVATIONS: dict[str, tuple[type[nn.Module], float]] = {
    "relu": (nn.ReLU, 2.0),
    "leaky_relu": (nn.LeakyReLU, 2.0),
    "identity": (nn.Identity, 1.0),
    "tanh": (nn.Tanh, 1.0),
    "sigmoid": (nn.Sigmoid, 1.0),
    "softplus": (nn.Softplus, 1.0),
    "gelu": (nn.GELU, 2.0),
    "silu": (nn.SiLU, 2.0),
}


class FeedForwardNetwork(nn.Module):
    """f(x) = X_L a^T + c with X_l = phi_l(H_l) and H_l = X_{l-1} W_l^T + b_l, l = 1..L.

    What trains is what ``requires_grad`` says, tensor by tensor; a readout (a, c) that does not is
    called fixed.

    Parameters
    ----------
    hidden : sequence of Linear
        W_l and b_l.
    activations : sequence of Module
        phi_l, elementwise.
    readout : Linear
        a and c.
    """

    def __init__(
        self, hidden: Sequence[nn.Linear], activations: Sequence[nn.Module], readout: nn.Linear
    ) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.activations = nn.ModuleList(activations)
        self.readout = readout

    @property
    def depth(self) -> int:
        """Number L of hidden layers."""
        return len(self.hidden)

    @property
    def n_features(self) -> int:
        """Number of inputs."""
        return self.hidden[0].in_features  # type: ignore[return-value]

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.readout.out_features

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.readout.weight.dtype

    @property
    def trains_readout(self) -> bool:
        """Whether anything of the readout trains."""
        return any(p.requires_grad for p in self.readout.parameters())

    @property
    def linears(self) -> list[tuple[str, nn.Linear]]:
        """The layers "1" to "L" and "readout"."""
        named: list[Any] = [(str(k + 1), linear) for k, linear in enumerate(self.hidden)]
        return [*named, ("readout", self.readout)]

    def forward(self, X: Tensor) -> Tensor:
        """Return the outputs (n_samples, n_outputs)."""
        for linear, phi in zip(self.hidden, self.activations, strict=True):
            X = phi(linear(X))
        return self.readout(X)


def is_piecewise_linear(phi: nn.Module) -> bool:
    """Tell whether an activation has gates: slopes that change by flips alone."""
    return isinstance(phi, PIECEWISE_LINEAR)


def slope(phi: nn.Module, h: Tensor) -> Tensor:
    """Return phi'(h), elementwise; at a kink as autograd has it (0 for ReLU)."""
    with torch.enable_grad():
        h = h.detach().requires_grad_(True)
        return torch.autograd.grad(phi(h).sum(), h)[0]


def build_feedforward(
    n_features: int,
    hidden_sizes: Sequence[int],
    n_outputs: int,
    *,
    activation: str,
    bias: bool,
    train_readout: bool,
    init_scale: float,
    dtype: torch.dtype,
    seed: int,
) -> FeedForwardNetwork:
    """Return a network with weights from its own generator.

    W_l has entries N(0, g^2 k / fan_in), with g = ``init_scale`` and k = 2 for ReLU and its like,
    else 1; biases are zero; the readout is N(0, 1 / fan_in) with offset c = 0.
    """
    kind, gain = ACTIVATIONS[activation]
    generator = torch_generator(seed)
    sizes = [n_features, *hidden_sizes]

    def linear(n_in: int, n_out: int, std: float, with_bias: bool) -> nn.Linear:
        # "skip_init" draws nothing from torch's global generator.
        layer: Any = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=with_bias, dtype=dtype)
        # Drawn in double, so that both precisions start from the same weights.
        drawn = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(std * drawn)
            if with_bias:
                layer.bias.zero_()
        return layer

    hidden = [
        linear(n_in, n_out, init_scale * (gain / n_in) ** 0.5, bias)
        for n_in, n_out in zip(sizes, sizes[1:], strict=False)
    ]
    readout = linear(sizes[-1], n_outputs, sizes[-1] ** -0.5, True)
    readout.weight.requires_grad_(train_readout)
    readout.bias.requires_grad_(train_readout and bias)
    return FeedForwardNetwork(hidden, [kind() for _ in hidden], readout)
