"""Gradient descent as a closed system of fields, whose steps involve no weights.

With one hidden layer the fields close for any elementwise activation and any step size:
H_1 <- H_1 - eta Q_0 ((r a) * D_1), where X_1 = phi(H_1). With two hidden layers (H_1, C_1) close
as long as no gate of the upper layer flips: C_1 <- C_1 - eta S_2 diag(r) X_1 with a fixed S_2, and
f = C_1 . X_1 + B_2 b_2. With three or more, pairs of samples are coupled by the weight Grams
W_l^T D_m D_n W_l, which are not fields. Rows that are only predicted do not drive the system: they
evolve with the residuals of the training rows.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kpflow_sklearn.feedforward._fields import forward_fields, trained_input
from kpflow_sklearn.feedforward._network import FeedForwardNetwork, is_piecewise_linear, slope


class ClosedFields(Protocol):
    """A closed system of fields on the training rows, followed by other rows."""

    def outputs(self) -> Tensor:
        """Return f on all rows, (n_rows, n_outputs)."""

    def fields(self) -> dict[str, Tensor]:
        """Return the fields on all rows, by name."""

    def advance(self, residuals: Tensor, rate: float) -> bool:
        """Make one step and return True, or return False if the system is no longer closed."""

    def gates(self) -> Tensor:
        """Return D_1 on the training rows, (n_driving, n_1)."""

    def followed(self) -> Tensor:
        """Return which rows the system still describes, (n_rows,); training rows are included."""


def why_not_closed(network: FeedForwardNetwork) -> str:
    """Return why no closed system of fields describes the network; empty if one does."""
    if network.trains_readout:
        return (
            "the readout trains, and the closed systems need a fixed one (a, and with it C_L, "
            "would change with every step); fit with train_readout=False, or freeze the readout "
            "of your module by module[-1].requires_grad_(False)"
        )
    if network.depth == 1:
        return ""
    if network.depth > 2:
        return (
            f"with {network.depth} hidden layers the fields do not determine their own change, "
            "which depends on the weight Grams W_l^T D_m D_n W_l of pairs of samples as well"
        )
    if not is_piecewise_linear(network.activations[1]):
        return (
            "with two hidden layers (H_1, C_1) close only while the upper slopes are constant, "
            "but those of a smooth activation change with every step"
        )
    return ""


def check_closed(network: FeedForwardNetwork) -> None:
    """Check that a closed system of fields describes the network."""
    reason = why_not_closed(network)
    if reason:
        raise ValueError(f"the fields do not close: {reason}.")


def closed_system(network: FeedForwardNetwork, X: Tensor, n_driving: int) -> ClosedFields:
    """Return the closed system of a network's fields, starting at the network's present state.

    X (n_rows, n_features) holds the ``n_driving`` training rows, followed by the rows that are
    only predicted. If no closed system describes the network, a ValueError says why.
    """
    check_closed(network)
    kind = _OneHidden if network.depth == 1 else _TwoHidden
    with torch.no_grad():
        return kind(network, X, n_driving)


class _InputGram:
    """Q_0 = u u_train^T between all rows and the training rows, as an operator.

    Products take the order that needs fewer operations: (u u_train^T) v or u (u_train^T v).
    """

    def __init__(self, u: Tensor, n_driving: int) -> None:
        self.u, self.u_train = u, u[:n_driving]
        by_gram = len(u) * n_driving <= (len(u) + n_driving) * u.shape[1]
        self.gram = u @ self.u_train.mT if by_gram else None

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.u @ (self.u_train.mT @ v) if self.gram is None else self.gram @ v


class _OneHidden:
    """The system of one hidden layer, with the state H_1."""

    def __init__(self, network: FeedForwardNetwork, X: Tensor, n_driving: int) -> None:
        self.phi, self.n = network.activations[0], n_driving
        self.a, self.offset = network.readout.weight.detach(), network.readout.bias
        self.gram = _InputGram(trained_input(network.linears[0][1], X), n_driving)
        self.h = network.hidden[0](X)

    def outputs(self) -> Tensor:
        f = self.phi(self.h) @ self.a.mT
        return f if self.offset is None else f + self.offset

    def fields(self) -> dict[str, Tensor]:
        return {"H_1": self.h}

    def gates(self) -> Tensor:
        return slope(self.phi, self.h[: self.n])

    def advance(self, residuals: Tensor, rate: float) -> bool:
        # H_1 <- H_1 - eta Q_0 ((r a) * D_1), with (r a) * D_1 of shape (n_driving, n_1).
        self.h = self.h - rate * (self.gram @ ((residuals @ self.a) * self.gates()))
        return True

    def followed(self) -> Tensor:
        return torch.ones(len(self.h), dtype=torch.bool)


class _TwoHidden:
    """The system of two hidden layers, with the state H_1, C_1 and B_2 b_2.

    H_2 is followed as well, to detect the first flip of an upper gate.
    """

    def __init__(self, network: FeedForwardNetwork, X: Tensor, n_driving: int) -> None:
        self.phi, self.top, self.n = network.activations[0], network.activations[1], n_driving
        fields = forward_fields(network, X)
        self.h, self.c, self.b2 = fields.H[0], fields.C[0], fields.B[1]
        self.first_gates = fields.D[1]
        upper = network.linears[1][1]
        self.upper, self.trains = upper, upper.weight.requires_grad
        self.trains_bias = upper.bias is not None and upper.bias.requires_grad
        self.gram = _InputGram(trained_input(network.linears[0][1], X), n_driving)
        # f = C_1 . X_1 + B_2 b_2 + c; the last two terms are kept as one, (n_rows, n_outputs).
        self.shift = X.new_zeros(len(X), network.n_outputs)
        if upper.bias is not None:
            self.shift = self.shift + self.b2 @ upper.bias
        if network.readout.bias is not None:
            self.shift = self.shift + network.readout.bias
        # Delta W_2 and Delta b_2 since the start, as sums of fields; only H_2 needs them.
        self.added = torch.zeros_like(upper.weight)
        self.added_bias = self.added.new_zeros(len(self.added))
        self.same_gates = torch.ones(len(X), dtype=torch.bool)

    def outputs(self) -> Tensor:
        return torch.einsum("nci,ni->nc", self.c, self.phi(self.h)) + self.shift

    def fields(self) -> dict[str, Tensor]:
        return {"H_1": self.h, "C_1": self.c}

    def gates(self) -> Tensor:
        return slope(self.phi, self.h[: self.n])

    def advance(self, residuals: Tensor, rate: float) -> bool:
        # lower = diag(r) B_1, (n_driving, n_1), and upper = diag(r) B_2, (n_driving, n_2), summed
        # over the outputs; moved = upper^T X_1 is the gradient of W_2, (n_2, n_1).
        x1 = self.phi(self.h[: self.n])
        lower = torch.einsum("nc,nci->ni", residuals, self.c[: self.n]) * self.gates()
        upper = torch.einsum("nc,nci->ni", residuals, self.b2[: self.n])
        moved = upper.mT @ x1
        h = self.h - rate * (self.gram @ lower)
        added = self.added - rate * moved if self.trains else self.added
        added_bias = self.added_bias - rate * upper.sum(0) if self.trains_bias else self.added_bias
        h2 = self.upper(self.phi(h)) + self.phi(h) @ added.mT + added_bias
        same = (slope(self.top, h2) == self.first_gates).all(1)
        if not same[: self.n].all():
            return False
        # A flip on a row that is only predicted ends the description of that row alone.
        self.same_gates = self.same_gates & same
        self.h, self.added, self.added_bias = h, added, added_bias
        # B_2 moved = S_2 diag(r) X_1, without the matrix S_2 = B_2 B_2^T.
        if self.trains:
            self.c = self.c - rate * (self.b2 @ moved)
        if self.trains_bias:
            self.shift = self.shift - rate * (self.b2 @ upper.sum(0))
        return True

    def followed(self) -> Tensor:
        return self.same_gates
