"""The leading eigenvectors of K (modes), and the residuals along them over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

from kpflow_sklearn.analyzers.gram._prediction import STABLE
from kpflow_sklearn.analyzers.gram._snapshot import GramSettings, GramSnapshot
from kpflow_sklearn.feedforward import FeedForwardKernel
from kpflow_sklearn.results import OVERFLOW, Estimate
from kpflow_sklearn.spectra import Spectrum, missing_spectrum, spectrum_of_eigenvalues

#: Share of the largest eigenvalue below which an eigenvalue counts as zero.
NEGLIGIBLE = 1e-12
GROWS = (
    "eta lambda / N is above 2, so that the prediction with a constant K grows: keep more early "
    "snapshots or lower learning_rate"
)
MODE_COLUMNS = (
    *("iteration", "mode", "eigenvalue", "amplitude", "loss_share"),
    *("next_iteration", "next_amplitude", "predicted_amplitude", "reason"),
)


def eigenpairs(
    kernel: FeedForwardKernel, settings: GramSettings
) -> tuple[Spectrum, np.ndarray, np.ndarray]:
    """Return the spectrum of K with its leading eigenvalues and eigenvectors.

    Parameters
    ----------
    kernel : FeedForwardKernel
        The kernel K.
    settings : GramSettings
        The number of eigenpairs, and the size up to which K may be formed as a matrix.

    Returns
    -------
    spectrum : Spectrum
        The spectrum of K, complete if the matrix was formed.
    eigenvalues : ndarray of shape (k,)
        Leading eigenvalues in descending order; none if K is not finite.
    eigenvectors : ndarray of shape (n_entries, k)
        The eigenvectors as columns; the entry of largest magnitude of each is positive.
    """
    n = kernel.n_entries
    k = min(settings.n_components, n)
    total = sum(kernel.traces().values())
    if not np.isfinite(total):
        return missing_spectrum(OVERFLOW, "exact"), np.empty(0), np.empty((n, 0))
    if n <= max(settings.max_kernel_size, k + 1):
        matrix = torch.stack(list(kernel.dense().values())).sum(0)
        values, vectors = np.linalg.eigh(matrix.numpy())
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        spectrum = spectrum_of_eigenvalues(values)
    elif total == 0:  # K = 0: any orthonormal vectors are eigenvectors.
        values, vectors = np.zeros(k), np.eye(n, k)
        spectrum = spectrum_of_eigenvalues(values)
    else:
        values, vectors = _leading(kernel, k, settings.seed)
        unknown = Estimate.missing(
            f"K has {n} rows, more than max_kernel_size={settings.max_kernel_size}"
        )
        spectrum = Spectrum(values, Estimate(total), unknown, unknown, "exact", complete=False)
    values, vectors = values[:k], vectors[:, :k]
    if not len(values):
        return spectrum, values, vectors
    largest = np.abs(vectors).argmax(0)
    signs = np.where(vectors[largest, np.arange(len(values))] < 0, -1.0, 1.0)
    return spectrum, values, vectors * signs


def _leading(kernel: FeedForwardKernel, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading eigenpairs that converged, computed from products with K alone."""
    n = kernel.n_entries

    def product(v: np.ndarray) -> np.ndarray:
        return (kernel @ torch.as_tensor(v.ravel())).numpy()

    start = np.random.default_rng(seed).standard_normal(n)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=k, v0=start)
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    except ArpackError:
        values, vectors = np.empty(0), np.empty((n, 0))
    order = np.argsort(values)[::-1]
    return values[order].clip(min=0), vectors[:, order]


def mode_rows(
    before: GramSnapshot,
    leading: tuple[np.ndarray, np.ndarray],
    after: GramSnapshot | None,
    learning_rate: float | None,
    remark: str,
) -> list[dict[str, Any]]:
    """Return the amplitude of the residuals along each mode at a snapshot and at the next.

    Equation: a = u . r, and with a constant K a_next = (1 - eta lambda / N)^steps a.
    """
    values, vectors = leading
    r = before.residuals.numpy()
    shares = _shares(vectors, r)
    following = None if after is None else after.residuals.numpy()
    rows = []
    for i, value in enumerate(values):
        a = float(vectors[:, i] @ r)
        entry: dict[str, Any] = {
            "iteration": before.iteration,
            "mode": i,
            "eigenvalue": float(value),
            "amplitude": a,
            "loss_share": float(shares[i]),
            "next_iteration": None,
            "next_amplitude": np.nan,
            "predicted_amplitude": np.nan,
            "reason": "there is no later snapshot",
        }
        if after is not None:
            measured = float(vectors[:, i] @ following)
            entry["next_iteration"] = after.iteration
            entry["reason"] = remark if np.isfinite(measured) else OVERFLOW
            entry["next_amplitude"] = measured if np.isfinite(measured) else np.nan
            if learning_rate is not None:
                rate = learning_rate * value / len(before.X)
                predicted, grows = _decayed(a, rate, after.iteration - before.iteration)
                entry["predicted_amplitude"] = predicted
                entry["reason"] = "; ".join(filter(None, [entry["reason"], grows]))
        rows.append(entry)
    return rows


def mode_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of `mode_rows` as a table."""
    return pd.DataFrame(rows, columns=list(MODE_COLUMNS)).astype({"next_iteration": "Int64"})


def _shares(vectors: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Return (u . r)^2 / |r|^2 for each eigenvector u, or 0 if r = 0."""
    size = np.abs(r).max()
    if not size > 0:
        return np.zeros(vectors.shape[1])
    unit = r / size  # Keeps the squares of large residuals from overflowing.
    return (vectors.T @ unit) ** 2 / (unit @ unit)


def _decayed(amplitude: float, rate: float, n_steps: int) -> tuple[float, str]:
    """Return (1 - rate)^n_steps times an amplitude, with a remark if this grows."""
    with np.errstate(over="ignore", invalid="ignore"):
        predicted = float(np.float64(1 - rate) ** n_steps * amplitude)
    finite = predicted if np.isfinite(predicted) else np.nan
    return finite, GROWS if rate > STABLE else ""
