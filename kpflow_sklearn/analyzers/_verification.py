"""Checks of the identities behind the analysis on a given network, in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.fingerprints import name_of
from kpflow_sklearn._common.modules import converted
from kpflow_sklearn._common.random import draw_seed, torch_generator
from kpflow_sklearn.analyzers._trials import AnalysisTrials
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks import (
    Objective,
    RecurrentNetwork,
    check_user_loss,
    label_of,
    to_tensors,
)
from kpflow_sklearn.operators import Linearization, ParameterOperator
from kpflow_sklearn.spectra import OperatorSpectra, map_blocks, parameter_gram

#: Tolerance for identities in float64, relative to the size of their sides.
TOLERANCE = 1e-9


def verify_network(
    network: RecurrentNetwork,
    trials: AnalysisTrials,
    objective: Objective,
    random_state: int | np.random.RandomState | None = 0,
) -> pd.DataFrame:
    """Check the identities of the analysis on a network and trials.

    Parameters
    ----------
    network : RecurrentNetwork
        The network, of which a float64 copy is checked, if its step can compute in float64.
    trials : AnalysisTrials
        The trials and their targets.
    objective : Objective
        The loss.
    random_state : int, RandomState or None, default=0
        Seed of the test vectors.

    Returns
    -------
    DataFrame
        One row per identity, with columns identity, error, tolerance and passed. Those of K are
        left out if nothing in the recurrent part trains, so that K is zero.
    """
    network, rounding = as_precise_as_possible(network, trials, objective)
    checks = _Checks(network, trials, objective, draw_seed(random_state))
    of_P = [  # noqa: N806
        ("<p, P q> = <P* p, q>", checks.adjoint(), rounding),
        ("P^-1 P q = q", checks.inverse(), rounding),
    ]
    if not network.trains:  # K is zero.
        return table_of_checks(of_P)
    rows = [
        ("gradient = J_theta* P* Err", checks.gradient(), rounding),
        *of_P,
        ("<p, K q> = <K p, q>", checks.symmetry(), rounding),
        ("sum of the K_j = K", checks.components(), rounding),
        ("gradient step moves states by -eta PKP* Err", *checks.one_step(rounding)),
        ("tr K by weight maps = by random vectors (in std. errors)", checks.trace(rounding), 4.0),
    ]
    if map_blocks(checks.lin.K) is not None:
        rows.append(("blocks of K between different units = 0", checks.unit_blocks(), 0.0))
    return table_of_checks(rows)


def as_precise_as_possible(
    network: RecurrentNetwork, trials: AnalysisTrials, objective: Objective
) -> tuple[RecurrentNetwork, float]:
    """Return a copy of a network in float64, and the tolerance for identities of it.

    If a part of the network or a user's loss does not compute in float64, the copy keeps the
    precision of the network, the tolerance is larger, and a UserWarning is issued.
    """
    precise = converted(copy.deepcopy(network), torch.float64, "cpu")
    casting = _casting_part(precise, trials)
    if casting is not None:
        name = f"the {label_of(casting)}"
    elif _loss_casts(objective, precise, trials):
        name = f"the loss {name_of(objective.loss)}"
    else:
        return precise, TOLERANCE
    plain = converted(copy.deepcopy(network), device="cpu")
    tolerance = 1e4 * torch.finfo(plain.dtype).eps
    warn_caller(
        f"{name} does not compute in float64, so that the network is verified in {plain.dtype}, "
        f"with a tolerance of {tolerance:.1g}. It casts to a lower precision (for example by "
        ".float(); write x.to(weight.dtype) instead), or uses a tensor that is not a parameter or "
        "buffer of the network (use register_buffer).",
        UserWarning,
    )
    return plain, tolerance


def _loss_casts(objective: Objective, network: RecurrentNetwork, trials: AnalysisTrials) -> bool:
    """Tell whether a user's loss, valid in the network's dtype, fails its checks in float64."""
    try:
        check_user_loss(objective, network, trials.X, trials.targets, trials.mask)
    except ValueError:
        return True
    return False


@torch.no_grad()
def _casting_part(network: RecurrentNetwork, trials: AnalysisTrials) -> nn.Module | None:
    """Return the first part of a user's network that does not compute in float64, or None."""
    if _is_torchs(network):
        return None
    X = to_tensors(trials.X[:8], None, network)[0]
    part = network.encoder
    try:
        inputs = network.encode(X)
        if inputs.dtype != torch.float64:
            return part
        part = network.recurrent
        states = network.run(inputs)
        # Rounding to a lower precision hides a small change of the inputs, though not a large one.
        small, large = (network.run(inputs * (1 + size)) - states for size in (1e-11, 1e-2))
        if states.dtype != torch.float64 or (large.any() and not small.any()):
            return part
        part = network.readout
        return part if network.outputs(states).dtype != torch.float64 else None
    except (RuntimeError, UnsupportedNetworkError) as error:
        return part if "dtype" in str(error) else None


def _is_torchs(network: RecurrentNetwork) -> bool:
    """Tell whether all parts of a network are torch's own modules, which compute in float64."""
    has_layers = isinstance(network.recurrent, nn.RNNBase)
    return has_layers and isinstance(network.readout, nn.Linear) and network.encoder is None


def table_of_checks(rows: list[tuple[str, float, float]]) -> pd.DataFrame:
    """Return rows (identity, error, tolerance) as a table, with a column ``passed``."""
    table = pd.DataFrame(rows, columns=["identity", "error", "tolerance"])
    unknown = table["error"].isna()
    if unknown.any():
        raise ValueError(
            "X, y or the network's weights are too large to verify in float64: both sides of "
            f"{table['identity'][unknown].iloc[0]!r} overflow; scale them down."
        )
    table["passed"] = table["error"] <= table["tolerance"]
    return table


def relative(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected entry.

    The result is infinite if only ``actual`` overflows, so that the identity fails, and NaN if
    ``expected`` overflows, so that nothing can be said.
    """
    if torch.isfinite(expected).all() and not torch.isfinite(actual).all():
        return float("inf")
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def trained_parameters(network: RecurrentNetwork) -> dict[str, Tensor]:
    """Return the trainable parameters theta by name, with a trained initial state among them."""
    named: dict[str, Tensor] = {
        n: p for n, p in network.recurrent.named_parameters() if p.requires_grad
    }
    if network.learn_initial_state:
        named["initial_state"] = network.initial_state
    return named


def derivatives(
    of: Tensor, theta: list[Tensor], along: Tensor | None = None, **options: bool
) -> list[Tensor]:
    """Return the derivatives by `torch.autograd.grad`, with zeros for unused parameters."""
    grads = torch.autograd.grad(of, theta, along, allow_unused=True, retain_graph=True, **options)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(theta, grads, strict=True)]


class _Checks:
    """The linearization and the test vectors that all identities share."""

    def __init__(
        self, network: RecurrentNetwork, trials: AnalysisTrials, objective: Objective, seed: int
    ) -> None:
        self.network, self.targets, self.objective = network, trials.targets, objective
        self.X, self.mask = to_tensors(trials.X, trials.mask, network)
        self.lin = Linearization(network, self.X, self.mask)
        self.error = objective.error(network, self.lin.states, self.targets, self.mask)
        self.seed = seed
        generator = torch_generator(seed)
        shape = (2, *self.lin.states.shape)
        self.p, self.q = torch.randn(shape, generator=generator, dtype=network.dtype)
        if self.mask is not None:
            self.p, self.q = self.p * self.mask[..., None], self.q * self.mask[..., None]

    def _predicted_gradient(self) -> dict[str, Tensor]:
        """Return J_theta* P* Err by the names of the parameters."""
        flat = self.lin.J_theta.T @ (self.lin.P.T @ self.error)
        return self.lin.J_theta.to_parameters(flat)

    def gradient(self) -> float:
        """Return the relative error of the gradient against automatic differentiation."""
        theta = trained_parameters(self.network)
        states = self.network.states(self.X)
        loss = self.objective.value(self.network, states, self.targets, self.mask)
        predicted = self._predicted_gradient()
        gradient = derivatives(loss, list(theta.values()))
        pairs = [(predicted[name], g) for name, g in zip(theta, gradient, strict=True)]
        size = max(float(g.abs().max()) for _, g in pairs)
        return max(float((a - g).abs().max()) for a, g in pairs) / max(size, 1e-300)

    def adjoint(self) -> float:
        """Return the relative difference between <p, P q> and <P* p, q>."""
        return _difference(self.p, self.lin.P @ self.q, self.lin.P.T @ self.p, self.q)

    def symmetry(self) -> float:
        """Return the relative difference between <p, K q> and <K p, q>."""
        return _difference(self.p, self.lin.K @ self.q, self.lin.K @ self.p, self.q)

    def inverse(self) -> float:
        """Return the relative error of P^-1 P q."""
        back = self.lin.P.inverse() @ (self.lin.P @ self.q)
        return float((back - self.q).abs().max() / (self.lin.P @ self.q).abs().max())

    def components(self) -> float:
        """Return the relative error of sum_j K_j q against K q."""
        whole: Any = self.lin.K @ self.q
        total: Any = sum(op @ self.q for op in self.lin.K.components.values())
        return float((total - whole).abs().max() / whole.abs().max().clamp(min=1e-300))

    def one_step(self, rounding: float) -> tuple[float, float]:
        """Return the relative error of a small gradient step's effect, and its tolerance.

        For a smooth network, the error is proportional to the step size. The tolerance is a fifth
        of the error of a step ten times as large, which is then twice the error of the small step.
        """
        predicted = -(self.lin.PKP @ self.error)
        size = float(predicted.norm())
        if size == 0:
            return 0.0, rounding
        # A change of the states well above their rounding: 1e-5 of them in float64.
        relative_size = 1e-5 if self.network.dtype == torch.float64 else 1e-3
        eta = relative_size * float(self.lin.states.norm()) / size
        small, large = (self._step_error(step, predicted) for step in (eta, 10 * eta))
        return small, max(large / 5, 1e-6, 5 * rounding)

    def _step_error(self, eta: float, predicted: Tensor) -> float:
        moved = copy.deepcopy(self.network)
        gradient = self._predicted_gradient()
        with torch.no_grad():
            for name, p in moved.recurrent.named_parameters():
                if name in gradient:
                    p.sub_(eta * gradient[name])
            if moved.learn_initial_state:
                moved.initial_state.sub_(eta * gradient["initial_state"])
            change = (moved.states(self.X) - self.lin.states) / eta
        if self.mask is not None:
            change = change * self.mask[..., None]
        return float((change - predicted).norm() / predicted.norm())

    def trace(self, rounding: float) -> float:
        """Return the error of the randomized tr K in its own standard errors."""
        spectra = OperatorSpectra(
            self.lin.K, axes=("all",), method="randomized", n_probes=100, random_state=self.seed
        )
        estimate = spectra.on("all").trace
        exact = _exact_trace(self.lin.K)
        return abs(estimate.value - exact) / max(estimate.std_error, rounding * exact, 1e-300)

    def unit_blocks(self) -> float:
        """Return the largest entry of K q on other units, for q on unit 0 (exactly 0)."""
        n_states = self.q.shape[-1]
        start = self.lin.tangent.slices[0].start
        first = self.lin.tangent.layers[0]
        push = torch.zeros_like(self.q)
        # The states of unit 0 of the first layer: h_0, or (h_0, c_0) of an LSTM.
        unit = torch.arange(start, first.n_states, first.n_units)
        push[..., unit] = self.q[..., unit]
        others = torch.ones(n_states, dtype=torch.bool)
        others[unit] = False
        return float((self.lin.K @ push)[..., others].abs().max()) if others.any() else 0.0


def _difference(p: Tensor, Aq: Tensor, Ap: Tensor, q: Tensor) -> float:
    left, right = float((p * Aq).sum()), float((Ap * q).sum())
    return abs(left - right) / max(float(p.norm() * Aq.norm()), 1e-300)


def _exact_trace(op: ParameterOperator) -> float:
    """Return tr K from its unit blocks, or else from the columns of J_theta."""
    if map_blocks(op) is not None:
        return float(parameter_gram(op, "time").trace())
    n = op.jacobian.shape[1]
    eye = torch.eye(n, dtype=op.dtype, device=op.device)
    # tr K = (1/N) sum_k |J_theta e_k|^2, for 64 parameters e_k at a time.
    total = sum(float(((op.jacobian @ rows) ** 2).sum()) for rows in eye.split(64))
    return total / op.tangent.n_valid
