"""The measurements of one snapshot: spectra, signals, agreements and their rows of results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.analyzers._trials import AnalysisTrials
from kpflow_sklearn.analyzers.kpflow._agreement import kernel_agreement
from kpflow_sklearn.networks import Objective, RecurrentNetwork, to_tensors
from kpflow_sklearn.operators import LinearOperator, TangentKernel, cut
from kpflow_sklearn.results import NOISY, OVERFLOW, Estimate, row
from kpflow_sklearn.spectra import (
    Modes,
    OperatorSpectra,
    fix_signs,
    spectrum_of_gram,
)

#: Largest number of eigenvalues listed for each spectrum.
N_LISTED = 500
#: Number of trials to which P is applied at a time.
_N_AT_A_TIME = 64
#: Multiple of the states' rounding error below which the direction of a change is unreliable.
_N_ROUNDINGS = 500
SIGNALS = ("Err", "P*Err", "KP*Err", "PKP*Err", "Z")


class Motion(NamedTuple):
    """The states at a snapshot, and the direction in which gradient descent would move them.

    Attributes
    ----------
    iteration : int
        Iteration of the snapshot.
    push : Tensor of shape (n_trials, n_timesteps, n_states)
        PKP*Err; gradient descent moves the states in the direction -PKP*Err.
    states : Tensor of shape (n_trials, n_timesteps, n_states)
        The states Z.
    still : str
        The reason why the push is zero, if it is zero.
    """

    iteration: int
    push: Tensor
    states: Tensor
    still: str

    def agreement(self, later: Tensor) -> Estimate:
        """Return the cosine of -PKP*Err with the change of Z to later states."""
        change = later - self.states
        # Each entry of Z carries an error of several eps, which the difference inherits.
        rounding = _N_ROUNDINGS * torch.finfo(change.dtype).eps * self.states.double().norm()
        if 0 < change.double().norm() < rounding:
            precision = str(change.dtype).removeprefix("torch.")
            return Estimate.missing(
                f"the change of the states is close to the rounding of {precision}"
            )
        return _cosine(-self.push, change, self.still, "the states did not change")


@dataclass(frozen=True)
class SpectralSettings:
    """Settings of the measurements, named like the parameters of `KPFlowAnalyzer`."""

    operators: tuple[str, ...]
    axes: tuple[str, ...]
    rank_threshold: float
    gram: str
    reduction: str
    method: str
    n_probes: int | None
    tol: float
    memory_limit: int | None
    seed: int


class SnapshotAnalysis:
    """A network at one iteration, linearized on the analysed trials.

    Parameters
    ----------
    network : RecurrentNetwork
        The network at this iteration.
    iteration : int
        Number of parameter updates before the snapshot.
    trials : AnalysisTrials
        The trials on which the network is linearized.
    objective : Objective
        The loss.
    activity_tol : float, default=0.0
        Tolerance for the low-rank activity of the K in PKP* (see `ParameterOperator.compress`).
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
        # The operator PKP* uses K with compressed activity; the operator K and the signals do not.
        K = lin.K.compress(activity_tol) if activity_tol else lin.K  # noqa: N806
        self.operators: dict[str, LinearOperator] = {
            "K": lin.K,
            "P": lin.P,
            "PKP": TangentKernel(K, lin.P),
        }
        self.activity_error = K.activity_error
        # Err, P*Err, KP*Err, PKP*Err and Z, (n_trials, n_timesteps, n_states), zero if masked.
        error = objective.error(network, lin.states, trials.targets, mask)
        states = lin.states if mask is None else lin.states * mask[..., None]
        adjoint = lin.P.T @ error
        forcing = lin.K @ adjoint
        chain = (error, adjoint, forcing, lin.P @ forcing, states)
        self.signals: dict[str, Tensor] = dict(zip(SIGNALS, chain, strict=True))

    @property
    def longest_trial(self) -> int:
        """The number of valid steps of the longest trial."""
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
                tol=settings.tol,
                memory_limit=settings.memory_limit,
                random_state=settings.seed,
            )
            for name, op in self.operators.items()
        }

    def spectral_rows(
        self, spectra: dict[str, OperatorSpectra], settings: SpectralSettings
    ) -> list[dict[str, Any]]:
        """Return the rows of ``results_`` on the spectra of the operators."""
        n_trials = len(self.trials.X)
        out = []
        for name in settings.operators:
            exact_trace = _exact_trace(spectra[name], settings)
            for axis in settings.axes:
                spectrum = spectra[name].on(axis)
                about: dict[str, Any] = {
                    "reduction": "" if axis == "all" else settings.reduction,
                    "n_trials": n_trials,
                }
                quantities = {
                    "trace": exact_trace or spectrum.trace,  # tr G
                    "norm": _root(spectrum.square),  # |G|_F = (tr G^2)^(1/2)
                    "effective_dimension": spectrum.effective_dimension,  # (tr G)^2 / tr G^2
                    "rank": spectra[name].rank(axis, settings.rank_threshold),
                }
                for quantity, estimate in quantities.items():
                    out.append(row(self.iteration, name, axis, quantity, estimate, **about))
        agreements = {"activity_error": Estimate(self.activity_error)}
        if {"P", "PKP"} <= set(settings.operators) and settings.gram == "natural":
            agreements["operator_agreement"] = kernel_agreement(spectra["PKP"], spectra["P"])
        for quantity, estimate in agreements.items():
            out.append(row(self.iteration, "PKP", "all", quantity, estimate, n_trials=n_trials))
        return out

    def agreement_rows(
        self, updated: RecurrentNetwork | None, previous: Motion | None
    ) -> list[dict[str, Any]]:
        """Return the rows of ``results_`` on the direction of PKP*Err.

        Parameters
        ----------
        updated : RecurrentNetwork or None
            The network after the next update, if it is known.
        previous : Motion or None
            The motion predicted at the previous snapshot.
        """
        agreements = [
            (self.iteration, "direction_agreement", self.direction_agreement()),
            (self.iteration, "flow_agreement", self.flow_agreement(updated)),
        ]
        if previous is not None:
            since = previous.agreement(self.motion.states)
            agreements.append((previous.iteration, "interval_agreement", since))
        n_trials = len(self.trials.X)
        return [
            row(iteration, "PKP", "all", quantity, estimate, n_trials=n_trials)
            for iteration, quantity, estimate in agreements
        ]

    def direction_agreement(self) -> Estimate:
        """Return the cosine of PKP*Err with PP*Err.

        The states would move by -PP*Err if each step could be changed freely. A small cosine means
        that the parameters misdirect this correction.
        """
        adjoint = self.signals["P*Err"]
        # PP*Err, (n_trials, n_timesteps, n_states), in chunks of trials: P does not mix trials.
        free = torch.empty_like(adjoint)
        for i in range(0, len(free), _N_AT_A_TIME):
            chunk = slice(i, i + _N_AT_A_TIME)
            free[chunk] = cut(self.linearization.P, chunk) @ adjoint[chunk]
        return _cosine(self.signals["PKP*Err"], free, self._still, self._still)

    @property
    def _still(self) -> str:
        """The reason why PKP*Err is zero, if it is zero."""
        if not self.signals["Err"].any():
            return "the error signal is zero"
        return "KP*Err is zero: no parameter responds to the error signal"

    @property
    def motion(self) -> Motion:
        """The states and their predicted motion, to compare with later states."""
        return Motion(self.iteration, self.signals["PKP*Err"], self.signals["Z"], self._still)

    def flow_agreement(self, updated: RecurrentNetwork | None) -> Estimate:
        """Return the cosine of -PKP*Err with the change of Z by the next update.

        Parameters
        ----------
        updated : RecurrentNetwork or None
            The network after that update, if it is known.

        Returns
        -------
        Estimate
            The cosine.
        """
        if updated is None:
            return Estimate.missing(
                "the update made from this snapshot is unknown: training ended, or no checkpoint "
                "of the next iteration was given"
            )
        inputs, mask = to_tensors(self.trials.X, self.trials.mask, updated)
        with torch.no_grad():
            states = updated.states(inputs)
        return self.motion.agreement(states if mask is None else states * mask[..., None])

    def signal_dimensions(self) -> dict[str, Any]:
        """Return the effective dimension (hidden axis, uncentred) of each signal."""
        out: dict[str, Any] = {"iteration": self.iteration}
        for name, signal in self.signals.items():
            # G = sum_b q_b^T q_b, (n_states, n_states), of q / max |q|, so that nothing overflows.
            largest = torch.linalg.vector_norm(signal, torch.inf)
            scale = largest.double().clamp(min=torch.finfo(torch.float64).tiny)
            trials = (trial.double() / scale for trial in signal)
            gram: Any = sum(trial.mT @ trial for trial in trials)
            out[name] = spectrum_of_gram(gram).effective_dimension.value
        return out

    def natural_spectra(self, settings: SpectralSettings) -> dict[str, OperatorSpectra]:
        """Return the spectra of K, PP* and PKP* that modes, components and weight maps need."""
        return self.spectra(
            replace(settings, axes=("all", "hidden"), gram="natural", reduction="trace")
        )

    def hidden_components(self, k: int, kernel: OperatorSpectra) -> np.ndarray:
        """Return the leading eigenvectors of hidden-axis PKP*, (at most k, n_states).

        ``kernel`` holds the spectra of PKP*.
        """
        gram = kernel.hidden_gram()
        if not gram.isfinite().all():
            raise ValueError(
                "the network's states or Jacobians overflow on the analysed trials, so that PKP* "
                "has no leading directions. Analyse an earlier snapshot, or train with a smaller "
                "learning_rate or init_scale."
            )
        # Rows: the eigenvectors of sum_bt (PKP*)_bt,bt, (n_states, n_states), largest first.
        vectors = torch.linalg.eigh(gram).eigenvectors.flip(1).mT[:k]
        return fix_signs(vectors).cpu().numpy()


def _exact_trace(spectra: OperatorSpectra, settings: SpectralSettings) -> Estimate | None:
    """Return tr G from an axis on which it is exact; it is the same on every axis."""
    if settings.reduction != "trace":
        return None
    traces = (spectra.on(axis).trace for axis in settings.axes)
    return next((t for t in traces if t.std_error == 0 and not t.reason), None)


def spectrum_table(
    spectra: dict[str, OperatorSpectra], modes: dict[str, Modes], settings: SpectralSettings
) -> pd.DataFrame:
    """Return the leading eigenvalues of each operator on each axis.

    Parameters
    ----------
    spectra : dict of str to OperatorSpectra
        Spectra of one snapshot.
    modes : dict of str to Modes
        Leading eigenpairs on the whole space, possibly more than in ``spectra``.
    settings : SpectralSettings
        The operators and axes to list.

    Returns
    -------
    DataFrame
        Columns operator, axis, index (from 1), eigenvalue, residual (0 if exact), share (of the
        trace) and method, with at most 500 rows per operator and axis.
    """
    tables = []
    for name in settings.operators:
        for axis in settings.axes:
            spectrum = spectra[name].on(axis)
            values = spectrum.eigenvalues
            residuals = np.zeros(len(values)) if spectrum.residuals is None else spectrum.residuals
            is_listed = axis == "all" and settings.gram == "natural" and name in modes
            if is_listed and not spectrum.complete and len(modes[name].eigenvalues) > len(values):
                values = modes[name].eigenvalues
                residuals = values * modes[name].residuals
            values, residuals = values[:N_LISTED], residuals[:N_LISTED]
            trace = spectrum.trace.value if spectrum.trace.value > 0 else float("nan")
            about = {"operator": name, "axis": axis, "index": np.arange(1, len(values) + 1)}
            about |= {"eigenvalue": values, "residual": residuals, "share": values / trace}
            about["method"] = spectrum.method
            tables.append(pd.DataFrame(about))
    return pd.concat(tables, ignore_index=True)


def _root(square: Estimate) -> Estimate:
    """Return the square root of an estimate, with its error propagated to first order."""
    if not square.value > 0:
        is_final = square.reason or square.value == 0
        return square if is_final else Estimate.missing(NOISY, square.method)
    root = square.value**0.5
    return Estimate(root, square.std_error / (2 * root), method=square.method)


def _cosine(a: Tensor, b: Tensor, if_a_is_zero: str, if_b_is_zero: str) -> Estimate:
    """Return <a, b> / (|a| |b|); if a or b is zero, it is missing for the given reason."""
    sizes = [float(torch.linalg.vector_norm(v, torch.inf)) for v in (a, b)]
    if not np.isfinite(sizes).all():
        return Estimate.missing(OVERFLOW)
    if not sizes[0] > 0:
        return Estimate.missing(if_a_is_zero)
    if not sizes[1] > 0:
        return Estimate.missing(if_b_is_zero)
    # <p, q>, |p|^2 and |q|^2 of p = a / max |a| and q = b / max |b|, summed trial by trial to
    # avoid float64 copies of whole signals.
    products = torch.zeros(3, dtype=torch.float64)
    for one, other in zip(a, b, strict=True):
        p, q = one.double() / sizes[0], other.double() / sizes[1]
        products += torch.stack([(p * q).sum(), (p * p).sum(), (q * q).sum()]).cpu()
    return Estimate(float(products[0] / (products[1] * products[2]).sqrt()))
