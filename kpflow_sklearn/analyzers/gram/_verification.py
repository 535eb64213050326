"""Checks of the identities behind the layerwise kernel on a given network, in float64."""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn._common.random import torch_generator
from kpflow_sklearn.analyzers._verification import TOLERANCE, relative, table_of_checks
from kpflow_sklearn.analyzers.gram._snapshot import GramSnapshot
from kpflow_sklearn.feedforward import FeedForwardNetwork

#: Number of rows whose outputs are differentiated one by one.
_N_SINGLE = 16


def verify_kernel(last: GramSnapshot, first: GramSnapshot, seed: int = 0) -> pd.DataFrame:
    """Check the identities of the kernel of a snapshot, and of the change since an earlier one.

    Parameters
    ----------
    last : GramSnapshot
        The snapshot, on the samples to check with.
    first : GramSnapshot
        An earlier snapshot on the same samples, or the same snapshot.
    seed : int, default=0
        Seed of the test vectors.

    Returns
    -------
    DataFrame
        One row per identity, with columns identity, error, tolerance and passed.
    """
    u, v = torch.randn(2, len(last.residuals), generator=torch_generator(seed)).double()
    kernel, r = last.kernel, last.residuals
    pulled = {w: _pulled(last.network, last.X, w_) for w, w_ in (("u", u), ("v", v), ("r", r))}
    names = kernel.names
    forms = kernel.quadratic_forms(r)
    products = sum(float(pulled["u"][name] @ pulled["v"][name]) for name in names)
    sizes = [float(pulled[w][name].norm()) for w in "uv" for name in names]
    changes = last.step(first)[0]
    moved = last.loss - first.loss
    return table_of_checks(
        [
            (
                "r^T K_l r = |N dL/dW_l|^2",
                relative(_stacked(forms, names), _squares(pulled["r"], names)),
                TOLERANCE,
            ),
            (
                "u^T K v = <J^T u, J^T v>",
                abs(float(u @ (kernel @ v)) - products) / max(max(sizes) ** 2, 1e-300),
                TOLERANCE,
            ),
            ("tr K_l = sum over outputs of |df/dW_l|^2", _trace_error(last), TOLERANCE),
            ("sum of the K_l v = K v", _sum_error(last, v), TOLERANCE),
            ("gradient step moves residuals by -(eta / N) K r", *_one_step(last)),
            (
                "layers' shares of the change of the loss sum to it",
                abs(sum(changes.values()) - moved) / max(last.loss, first.loss, 1e-300),
                TOLERANCE,
            ),
        ]
    )


def _stacked(values: dict[str, float], names: list[str]) -> Tensor:
    return torch.tensor([values[name] for name in names], dtype=torch.float64)


def _squares(parts: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.stack([parts[name].square().sum() for name in names])


def _pulled(network: FeedForwardNetwork, X: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Return J^T v of each trained layer, by automatic differentiation."""
    named = {
        name: [p for p in linear.parameters() if p.requires_grad]
        for name, linear in network.linears
    }
    trained = [p for parts in named.values() for p in parts]
    pieces = iter(torch.autograd.grad((network(X).flatten() * v).sum(), trained))
    return {
        name: torch.cat([next(pieces).flatten() for _ in parts])
        for name, parts in named.items()
        if parts
    }


def _trace_error(at: GramSnapshot) -> float:
    """Return the relative error of tr K_l on `_N_SINGLE` rows, by differentiating each output."""
    rows = at.X[:_N_SINGLE]
    part = GramSnapshot(at.network, at.iteration, rows, at.y[:_N_SINGLE])
    names = part.kernel.names
    eye = torch.eye(len(part.residuals), dtype=torch.float64)
    expected = sum(_squares(_pulled(part.network, rows, v), names) for v in eye)
    return relative(_stacked(part.kernel.traces(), names), torch.as_tensor(expected))


def _sum_error(at: GramSnapshot, v: Tensor) -> float:
    """Return the relative error of sum_l K_l v against K v, by the dense matrix if it is small."""
    parts = torch.stack(list(at.kernel.layer_products(v).values())).sum(0)
    dense = torch.stack(list(at.kernel.dense().values())).sum(0) if len(v) <= 1000 else None
    whole = at.kernel @ v if dense is None else dense @ v
    return relative(parts, whole)


def _one_step(at: GramSnapshot) -> tuple[float, float]:
    """Return the relative error of a small gradient step's effect, and its tolerance.

    If no gate flips, the error is proportional to the step size; the tolerance is a fifth of the
    error of a step ten times as large. The network has no derivative on rows with a unit exactly
    at the kink of a ReLU (for example if all units below it are silent); such rows are left out.
    """
    predicted = -(at.kernel @ at.residuals) / len(at.X)
    smooth = torch.cat([torch.stack([(h != 0).all(1) for h in f.H]).all(0) for f in at.fields])
    predicted = _on_rows(predicted, smooth)
    size = float(predicted.norm())
    if size == 0:
        return 0.0, TOLERANCE
    # The step is so small that few gates flip.
    eta = 1e-6 * max(float(at.residuals.norm()), 1e-300) / size
    small, large = (_step_error(at, step, predicted, smooth) for step in (eta, 10 * eta))
    return small, max(large / 5, 1e-5)


def _on_rows(v: Tensor, rows: Tensor) -> Tensor:
    return v.reshape(len(rows), -1)[rows]


def _step_error(at: GramSnapshot, eta: float, predicted: Tensor, rows: Tensor) -> float:
    moved = copy.deepcopy(at.network)
    trained = [p for p in moved.parameters() if p.requires_grad]
    loss = (moved(at.X) - at.y).square().sum() / (2 * len(at.X))
    with torch.no_grad():
        for p, g in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            p.sub_(eta * g)
        change = ((moved(at.X) - at.y).flatten() - at.residuals) / eta
    return relative(_on_rows(change, rows), predicted)
