"""The feed-forward network: linear layers, elementwise activations and a readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.random import torch_generator

#: Activations with phi(c h) = c phi(h) for c > 0. Their slopes change only where a gate flips.
PIECEWISE_LINEAR: tuple[type[nn.Module], ...] = (nn.ReLU, nn.LeakyReLU, nn.Identity)
SMOOTH: tuple[type[nn.Module], ...] = (
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
)

#: Activations by name, with the gain k of the weights' variance that preserves activity.
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

    A parameter trains if its ``requires_grad`` is True; a readout (a, c) that does not train is
    called fixed.

    Parameters
    ----------
    hidden : sequence of Linear
        The hidden layers, with W_l and b_l.
    activations : sequence of Module
        The elementwise activations phi_l.
    readout : Linear
        The readout, with a and c.
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
        """Floating-point type of the weights."""
        return self.readout.weight.dtype

    @property
    def trains_readout(self) -> bool:
        """Whether a parameter of the readout trains."""
        return any(p.requires_grad for p in self.readout.parameters())

    @property
    def linears(self) -> list[tuple[str, nn.Linear]]:
        """The linear layers by name, "1" to "L" and "readout"."""
        named: list[Any] = [(str(k + 1), linear) for k, linear in enumerate(self.hidden)]
        return [*named, ("readout", self.readout)]

    def forward(self, X: Tensor) -> Tensor:
        """Return the outputs (n_samples, n_outputs)."""
        for linear, phi in zip(self.hidden, self.activations, strict=True):
            X = phi(linear(X))
        return self.readout(X)


def is_piecewise_linear(phi: nn.Module) -> bool:
    """Return whether an activation has gates, that is, slopes that change only by flips."""
    return isinstance(phi, PIECEWISE_LINEAR)


def slope(phi: nn.Module, h: Tensor) -> Tensor:
    """Return phi'(h) elementwise; at a kink it is that of autograd (0 for ReLU)."""
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
    """Return a network with random weights, drawn with ``seed``.

    The entries of W_l are N(0, g^2 k / fan_in), where g is ``init_scale`` and k the gain of the
    activation (see ``ACTIVATIONS``). Biases are zero. The entries of the readout are
    N(0, 1 / fan_in), with offset c = 0.
    """
    kind, gain = ACTIVATIONS[activation]
    generator = torch_generator(seed)
    sizes = [n_features, *hidden_sizes]

    def linear(n_in: int, n_out: int, std: float, with_bias: bool) -> nn.Linear:
        # "skip_init" leaves torch's global generator untouched.
        layer: Any = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=with_bias, dtype=dtype)
        # Weights are drawn in double precision, so that float32 starts from the same ones.
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
