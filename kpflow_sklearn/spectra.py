"""Spectra of operators on trajectories: trace, effective dimension and rank on each axis.

For an operator O the Gram G is K for K, PKP* for PKP* and O O* for P and anything else
(``gram="natural"``), or O O* for all (``gram="square"``). The axes "trial", "time" and "hidden"
keep one axis and reduce G by the partial trace over the others; "all" keeps the whole space.

effective dimension = (tr G)^2 / tr G^2, and rank = the least r whose r largest eigenvalues reach
``rank_threshold`` of tr G, the whole trace.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import Tensor

from kpflow_sklearn._random import draw_seed
from kpflow_sklearn._spectrum import (
    Spectrum,
    exact_ratio,
    missing_spectrum,
    sampled_spectrum,
    spectrum_of_eigenvalues,
    spectrum_of_gram,
)
from kpflow_sklearn._validation import check_choice, check_positive_int, check_real
from kpflow_sklearn.gramians import (
    AXES,
    DENSE_LIMIT,
    dense_gram,
    gram_factor,
    map_blocks,
    mean_gram,
    parameter_gram,
    propagator_gram,
    unit_eigenvalues,
)
from kpflow_sklearn.operators import FlowPropagator, LinearOperator
from kpflow_sklearn.traces import OVERFLOW, Estimate, HalfSamples, axis_grams, half_samples

__all__ = ["OperatorSpectra", "Spectrum", "effective_dimension", "rank", "spectrum", "trace"]

METHODS = ("auto", "exact", "randomized")
GRAMS = ("natural", "square")
REDUCTIONS = ("trace", "mean")
EXACT_LIMIT = 8192
_GRAMIAN_BYTES = 2**31


class OperatorSpectra:
    """The spectra of one operator's Gram on every axis; what the axes share is computed once.

    Parameters
    ----------
    op : LinearOperator
        K, P, PKP* or any other operator onto trajectories (n_trials, n_timesteps, n_states).
    gram : {"natural", "square"}, default="natural"
        K for K, PKP* for PKP*, OO* otherwise; or OO* for all.
    reduction : {"trace", "mean"}, default="trace"
        Partial trace over the other axes, or the Gram of the signal averaged over them.
    method : {"auto", "exact", "randomized"}, default="auto"
        "auto" is exact where structure or small size allow it cheaply.
    n_modes, n_probes : int, default=40, 30
        Leading modes treated exactly and random vectors for the rest, when randomized.
    random_state : int, RandomState or None
        Seed of the random vectors.

    Raises
    ------
    ValueError
        If an option is not one of those named.
    """

    def __init__(
        self,
        op: LinearOperator,
        *,
        gram: str = "natural",
        reduction: str = "trace",
        method: str = "auto",
        n_modes: int = 40,
        n_probes: int = 30,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        check_choice(gram, "gram", GRAMS)
        check_choice(reduction, "reduction", REDUCTIONS)
        check_choice(method, "method", METHODS)
        check_positive_int(n_modes, "n_modes", minimum=0)
        check_positive_int(n_probes, "n_probes", minimum=3)
        if len(op.out_shape) != 3:
            raise ValueError(f"op must map to trajectories (trials, steps, states), got {op!r}.")
        self.op, self.gram, self.reduction, self.method = op, gram, reduction, method
        self.n_modes, self.n_probes, self.random_state = n_modes, n_probes, random_state

    def on(self, axis: str) -> Spectrum:
        """Return the spectrum on one axis.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis kept.

        Returns
        -------
        Spectrum
            Eigenvalues, trace, effective dimension and their standard errors.

        Raises
        ------
        ValueError
            If method="exact" is asked of an operator that is too large for it.
        """
        check_choice(axis, "axis", AXES)
        if axis != "all" and self.reduction == "mean":
            return spectrum_of_gram(mean_gram(self.op, axis, self.gram))
        found = None if self.method == "randomized" else self._exact(axis)
        return sampled_spectrum(self.samples, axis) if found is None else found

    def hidden_gram(self) -> Tensor:
        """Return the Gram on the hidden axis, exact or estimated, (n_states, n_states)."""
        if self.method != "randomized":
            if self._by_units:
                return parameter_gram(self.op, "hidden")  # type: ignore[arg-type]
            if self.op.shape[0] <= DENSE_LIMIT:
                return dense_gram(self.op, "hidden", self.gram)
        modes, probes = self.samples.modes, self.samples.probes
        return axis_grams(modes, "hidden").sum(0) + axis_grams(probes, "hidden").mean(0)

    @cached_property
    def samples(self) -> HalfSamples:
        """The random half-factors, drawn when first needed and shared by the axes."""
        factor, scale = gram_factor(self.op, self.gram)
        return half_samples(
            factor,
            scale,
            n_modes=self.n_modes,
            n_probes=self.n_probes,
            seed=draw_seed(self.random_state),
        )

    @cached_property
    def _gramians(self) -> tuple[Tensor, Tensor, float]:
        return propagator_gram(self.op)  # type: ignore[arg-type]

    @property
    def _by_units(self) -> bool:
        return self.gram == "natural" and map_blocks(self.op) is not None

    def _exact(self, axis: str) -> Spectrum | None:
        """Return the exact spectrum if structure or size give it, None otherwise."""
        forced, size = self.method == "exact", self.op.shape[0]
        if self._by_units:
            if axis == "all":
                return spectrum_of_eigenvalues(unit_eigenvalues(self.op))  # type: ignore[arg-type]
            return spectrum_of_gram(parameter_gram(self.op, axis))  # type: ignore[arg-type]
        if size <= (EXACT_LIMIT if forced else DENSE_LIMIT):
            return spectrum_of_gram(dense_gram(self.op, axis, self.gram))
        if _has_gramians(self.op, axis) and (forced or _gramians_fit(self.op)):
            return self._from_gramians(axis)
        if forced:
            raise ValueError(
                f"method='exact' is limited to {EXACT_LIMIT} trajectory entries for {self.op!r} "
                f"on axis {axis!r}, got {size}; analyse fewer trials or use method='auto'."
            )
        return None

    def _from_gramians(self, axis: str) -> Spectrum:
        hidden, by_trial, square = self._gramians
        if axis == "hidden":
            return spectrum_of_gram(hidden)
        if axis == "trial":
            return spectrum_of_eigenvalues(np.sort(by_trial.cpu().numpy())[::-1])
        total = float(by_trial.sum())
        if not np.isfinite([total, square]).all():
            return missing_spectrum(OVERFLOW, "exact")
        ratio = exact_ratio(total, square)
        known = (Estimate(total), Estimate(square), ratio)
        return Spectrum(np.empty(0), *known, method="exact", complete=False)


def _has_gramians(op: LinearOperator, axis: str) -> bool:
    return isinstance(op, FlowPropagator) and axis != "time"


def _gramians_fit(op: LinearOperator) -> bool:
    n_trials, n_timesteps, n_states = op.in_shape
    return 2 * 8 * n_trials * n_timesteps * n_states**2 <= _GRAMIAN_BYTES


def spectrum(op: LinearOperator, axis: str = "all", **options: object) -> Spectrum:
    """Return the spectrum of an operator's Gram on one axis.

    Parameters
    ----------
    op : LinearOperator
        K, P, PKP* or any other operator onto trajectories (n_trials, n_timesteps, n_states).
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis kept.
    **options
        As in `OperatorSpectra`.

    Returns
    -------
    Spectrum
        Eigenvalues, trace, effective dimension and their standard errors.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> from kpflow_sklearn.spectra import spectrum
    >>> module = torch.nn.ModuleDict({"rnn": torch.nn.RNN(1, 4), "out": torch.nn.Linear(4, 1)})
    >>> found = spectrum(linearize(module, torch.ones(2, 6, 1)).P, "time")
    >>> found.method, len(found.eigenvalues)
    ('exact', 6)
    """
    return OperatorSpectra(op, **options).on(axis)  # type: ignore[arg-type]


def trace(op: LinearOperator, axis: str = "all", **options: object) -> Estimate:
    """Return the trace of an operator's Gram.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis kept; the trace is the same on all, its error may not be.
    **options
        As in `OperatorSpectra`.

    Returns
    -------
    Estimate
        Value and standard error.
    """
    return spectrum(op, axis, **options).trace


def effective_dimension(op: LinearOperator, axis: str = "all", **options: object) -> Estimate:
    """Return (tr G)^2 / tr G^2 of an operator's Gram.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis kept.
    **options
        As in `OperatorSpectra`.

    Returns
    -------
    Estimate
        Value and standard error.
    """
    return spectrum(op, axis, **options).effective_dimension


def rank(
    op: LinearOperator, axis: str = "time", *, rank_threshold: float = 0.95, **options: object
) -> Estimate:
    """Return the least r whose r largest eigenvalues reach the threshold of the whole trace.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="time"
        The axis kept.
    rank_threshold : float, default=0.95
        Share of the trace.
    **options
        As in `OperatorSpectra`.

    Returns
    -------
    Estimate
        Value and standard error, or a missing value with its reason.
    """
    check_real(rank_threshold, "rank_threshold", 0, 1, open_minimum=True)
    return spectrum(op, axis, **options).rank(rank_threshold)
