"""Everything measured of one snapshot: spectra, signals, weight maps, Lyapunov exponents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.analyzers._trials import AnalysisTrials
from kpflow_sklearn.analyzers.kpflow._agreement import kernel_agreement
from kpflow_sklearn.analyzers.kpflow._weight_maps import weight_map_table
from kpflow_sklearn.networks import Objective, RecurrentNetwork
from kpflow_sklearn.operators import LinearOperator, TangentKernel, cut
from kpflow_sklearn.results import NOISY, OVERFLOW, Estimate, row
from kpflow_sklearn.spectra import (
    Modes,
    OperatorSpectra,
    fix_signs,
    leading_modes,
    spectrum_of_gram,
)

OPERATORS = ("K", "P", "PKP")
#: Largest number of eigenvalues kept of each spectrum.
N_LISTED = 500
_N_AT_A_TIME = 64  # Trials.
SIGNALS = ("Err", "P*Err", "KP*Err", "PKP*Err", "Z")


class Motion(NamedTuple):
    """Where the states are at a snapshot, and where gradient descent would move them.

    Attributes
    ----------
    iteration : int
        Of the snapshot.
    push : Tensor of shape (n_trials, n_timesteps, n_states)
        PKP*Err, minus the direction in which they move.
    states : Tensor of the same shape
        Z.
    """

    iteration: int
    push: Tensor
    states: Tensor

    def flow_agreement(self, later: Motion) -> Estimate:
        """Return the cosine of -PKP*Err with the change of the states up to a later snapshot."""
        reason = "the states did not change, or no change is predicted"
        return _cosine(-self.push, later.states - self.states, reason)


@dataclass(frozen=True)
class SpectralSettings:
    """How the operators are measured, in the words of `KPFlowAnalyzer`'s parameters."""

    operators: tuple[str, ...]
    axes: tuple[str, ...]
    rank_threshold: float
    gram: str
    reduction: str
    method: str
    n_probes: int
    memory_limit: int | None
    seed: int


class SnapshotAnalysis:
    """A network at one iteration, linearized on the analysis trials.

    Parameters
    ----------
    network : RecurrentNetwork
        The network at that iteration.
    iteration : int
        Number of parameter updates before it.
    trials : AnalysisTrials
        What it is linearized on.
    objective : Objective
        The loss.
    activity_tol : float, default=0.0
        Activity left out of K where it enters PKP* (see `ParameterOperator.compress`).
    """

    def __init__(
        self,
        network: RecurrentNetwork,
        iteration: int,
        trials: AnalysisTrials,
        objective: Objective,
        activity_tol: float = 0.0,
    ) -> None:
        self.iteration, self.trials = iteration, trials
        self.linearization = lin = trials.linearize(network, iteration)
        mask = lin.mask
        with torch.no_grad():
            self.loss = float(objective.value(network, lin.states, trials.targets, mask))
        K = lin.K.compress(activity_tol) if activity_tol else lin.K  # noqa: N806
        self.operators: dict[str, LinearOperator] = {
            "K": lin.K,
            "P": lin.P,
            "PKP": TangentKernel(K, lin.P),
        }
        self.activity_error = K.activity_error
        error = objective.error(network, lin.states, trials.targets, mask)
        states = lin.states if mask is None else lin.states * mask[..., None]
        adjoint = lin.P.T @ error
        forcing = lin.K @ adjoint
        chain = (error, adjoint, forcing, lin.P @ forcing, states)
        self.signals: dict[str, Tensor] = dict(zip(SIGNALS, chain, strict=True))

    @property
    def longest_trial(self) -> int:
        """Number of valid steps of the longest trial."""
        mask = self.trials.mask
        return self.trials.X.shape[1] if mask is None else int(mask.sum(1).max())

    def spectra(self, settings: SpectralSettings) -> dict[str, OperatorSpectra]:
        """Return the spectra of each operator."""
        return {
            name: OperatorSpectra(
                op,
                axes=settings.axes,
                gram=settings.gram,
                reduction=settings.reduction,
                method=settings.method,
                n_probes=settings.n_probes,
                memory_limit=settings.memory_limit,
                random_state=settings.seed,
            )
            for name, op in self.operators.items()
        }

    def rows(
        self, spectra: dict[str, OperatorSpectra], settings: SpectralSettings
    ) -> list[dict[str, Any]]:
        """Return the rows of ``results_`` for this snapshot."""
        n_trials = len(self.trials.X)
        out = [row(self.iteration, "network", "", "loss", self.loss, n_trials=n_trials)]
        for name in settings.operators:
            trace = _known_trace(spectra[name], settings)
            for axis in settings.axes:
                found = spectra[name].on(axis)
                about: dict[str, Any] = {
                    "reduction": "" if axis == "all" else settings.reduction,
                    "n_trials": n_trials,
                }
                quantities = {
                    "trace": trace or found.trace,
                    "norm": _root(found.square),
                    "effective_dimension": found.effective_dimension,
                    "rank": spectra[name].rank(axis, settings.rank_threshold),
                }
                for quantity, estimate in quantities.items():
                    # The rank may be counted by random vectors where the rest is exact.
                    method = "randomized" if estimate.std_error > 0 else found.method
                    if quantity == "trace" and estimate.std_error == 0:
                        method = "exact"
                    about["method"] = method
                    out.append(row(self.iteration, name, axis, quantity, estimate, **about))
        agreements = {
            "direction_agreement": self.direction_agreement(),
            "activity_error": Estimate(self.activity_error),
        }
        if {"P", "PKP"} <= set(settings.operators) and settings.gram == "natural":
            agreements["operator_agreement"] = kernel_agreement(spectra["PKP"], spectra["P"])
        for quantity, estimate in agreements.items():
            method = "randomized" if estimate.std_error > 0 else "exact"
            about = {"method": method, "n_trials": n_trials}
            out.append(row(self.iteration, "PKP", "all", quantity, estimate, **about))
        return out

    def direction_agreement(self) -> Estimate:
        """Return the cosine of PKP*Err with PP*Err.

        The second is how the states would move if every push on them could be made; a small
        cosine says that the parameters misdirect the correction.
        """
        free, adjoint = torch.empty_like(self.signals["P*Err"]), self.signals["P*Err"]
        for i in range(0, len(free), _N_AT_A_TIME):
            own = slice(i, i + _N_AT_A_TIME)
            free[own] = cut(self.linearization.P, own) @ adjoint[own]
        return _cosine(self.signals["PKP*Err"], free, "the error signal is zero")

    @property
    def motion(self) -> Motion:
        """What remains of it to compare with a later snapshot."""
        return Motion(self.iteration, self.signals["PKP*Err"], self.signals["Z"])

    def signal_dimensions(self) -> dict[str, Any]:
        """Return the effective dimension (hidden axis, uncentred) of each signal."""
        out: dict[str, Any] = {"iteration": self.iteration}
        for name, signal in self.signals.items():
            largest = torch.linalg.vector_norm(signal, torch.inf)
            scale = largest.double().clamp(min=torch.finfo(torch.float64).tiny)
            trials = (trial.double() / scale for trial in signal)
            gram: Any = sum(trial.mT @ trial for trial in trials)
            out[name] = spectrum_of_gram(gram).effective_dimension.value
        return out

    def modes(self, name: str, k: int, settings: SpectralSettings) -> Modes:
        """Return the k leading eigenpairs of an operator's Gram."""
        return leading_modes(
            self.operators[name],
            k,
            memory_limit=settings.memory_limit,
            random_state=settings.seed,
        )

    def hidden_components(
        self, k: int, settings: SpectralSettings, spectra: dict[str, OperatorSpectra]
    ) -> np.ndarray:
        """Return the leading eigenvectors of hidden-axis PKP*, (at most k, n_states)."""
        kernel = spectra["PKP"]
        if not kernel.has_hidden_gram:  # Other axes or another Gram were asked for.
            options = replace(settings, axes=("hidden",), gram="natural", reduction="trace")
            kernel = self.spectra(options)["PKP"]
        gram = kernel.hidden_gram()
        if not gram.isfinite().all():
            raise ValueError(
                "the network's states or Jacobians overflow on the analysis trials: the leading "
                "directions of PKP* cannot be had. Analyse an earlier snapshot, or train with a "
                "smaller learning_rate or init_scale."
            )
        vectors = torch.linalg.eigh(gram).eigenvectors.flip(1).mT[:k]
        return fix_signs(vectors).cpu().numpy()

    def weight_maps(self, settings: SpectralSettings) -> pd.DataFrame:
        """Return the weight-map table, one row a map."""
        limit = settings.memory_limit
        return weight_map_table(self.linearization.K, settings.rank_threshold, limit)


def _known_trace(spectra: OperatorSpectra, settings: SpectralSettings) -> Estimate | None:
    """Return the trace from an axis on which it is exact: partial traces keep it on all."""
    if settings.reduction != "trace":
        return None
    traces = (spectra.on(axis).trace for axis in settings.axes)
    return next((t for t in traces if t.std_error == 0 and not t.reason), None)


def spectrum_table(
    spectra: dict[str, OperatorSpectra], settings: SpectralSettings
) -> pd.DataFrame:
    """Return the leading eigenvalues of every operator on every axis.

    Parameters
    ----------
    spectra : dict of str to OperatorSpectra
        Of one snapshot.
    settings : SpectralSettings
        Which operators and axes.

    Returns
    -------
    DataFrame
        Columns operator, axis, index (from 1), eigenvalue, share (of the trace) and method; at
        most 500 rows for each operator and axis, none where eigenvalues are not computed.
    """
    tables = []
    for name in settings.operators:
        for axis in settings.axes:
            found = spectra[name].on(axis)
            values = found.eigenvalues[:N_LISTED]
            trace = found.trace.value if found.trace.value > 0 else float("nan")
            about = {"operator": name, "axis": axis, "index": np.arange(1, len(values) + 1)}
            about |= {"eigenvalue": values, "share": values / trace, "method": found.method}
            tables.append(pd.DataFrame(about))
    return pd.concat(tables, ignore_index=True)


def _root(square: Estimate) -> Estimate:
    """Return the square root of an estimate, its error carried to first order."""
    if not square.value > 0:
        known = square.reason or square.value == 0
        return square if known else Estimate.missing(NOISY)
    root = square.value**0.5
    return Estimate(root, square.std_error / (2 * root))


def _cosine(a: Tensor, b: Tensor, reason: str) -> Estimate:
    sizes = [float(torch.linalg.vector_norm(v, torch.inf)) for v in (a, b)]
    if not np.isfinite(sizes).all():
        return Estimate.missing(OVERFLOW)
    if not min(sizes) > 0:
        return Estimate.missing(reason)
    products = torch.zeros(3, dtype=torch.float64)
    for one, other in zip(a, b, strict=True):  # Trial by trial, to save memory.
        p, q = one.double() / sizes[0], other.double() / sizes[1]
        products += torch.stack([(p * q).sum(), (p * p).sum(), (q * q).sum()]).cpu()
    return Estimate(float(products[0] / (products[1] * products[2]).sqrt()))
