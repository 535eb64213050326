"""Every spectrum of one operator: which route leads to it, and what the axes share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.checks import check_choice, check_positive_int, check_subset
from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn._common.random import draw_seed, local_generator
from kpflow_sklearn.operators import FlowPropagator, LinearOperator
from kpflow_sklearn.results import OVERFLOW, Estimate
from kpflow_sklearn.spectra._gramians import (
    AXES,
    DENSE_LIMIT,
    dense_gram,
    gram_factor,
    mean_gram,
    propagator_gram,
    trial_eigenvalues,
    trial_gram,
)
from kpflow_sklearn.spectra._half_factor import analysis_allowance
from kpflow_sklearn.spectra._lanczos_rank import sampled_rank
from kpflow_sklearn.spectra._routes import (
    gramian_cost,
    moment_cost,
    sampling_cost,
    trial_cost,
    unit_cost,
)
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._sketches import Sketch
from kpflow_sklearn.spectra._spectrum import (
    Spectrum,
    compressed_spectrum,
    exact_ratio,
    missing_spectrum,
    sampled_spectrum,
    spectrum_of_eigenvalues,
    spectrum_of_gram,
)
from kpflow_sklearn.spectra._units import (
    map_blocks,
    parameter_gram,
    parameter_moments,
    unit_eigenvalues,
)

METHODS = ("auto", "exact", "randomized")
GRAMS = ("natural", "square")
REDUCTIONS = ("trace", "mean")
EXACT_LIMIT = 8192
N_MODES, N_PROBES = 20, 30
#: Relative standard error of effective dimensions at which no more random vectors are drawn.
TARGET = 0.02
#: Floating-point operations that are not worth saving by an estimate.
_CHEAP = 2e10
#: Activity left out of K (relative Frobenius norm) where all of its columns would cost too much.
_ACTIVITY_TOL = 1e-4


class OperatorSpectra:
    """The spectra of one operator's Gram on every axis; what the axes share is computed once.

    Equation: on an axis, the eigenvalues of the partial trace of G over the other two, G = K for
    K, PKP* for PKP* and O O* otherwise.

    Parameters
    ----------
    op : LinearOperator
        K, P, PKP* or any other operator onto trajectories (n_trials, n_timesteps, n_states).
    axes : sequence of {"all", "trial", "time", "hidden"}, default=all four
        Those that will be asked for.
    gram : {"natural", "square"}, default="natural"
        K for K, PKP* for PKP*, OO* otherwise; or OO* for all.
    reduction : {"trace", "mean"}, default="trace"
        Partial trace over the other axes, or the Gram of the signal averaged over them.
    method : {"auto", "exact", "randomized"}, default="auto"
        "auto" is exact where that costs no more than an estimate.
    n_modes : int, default=20
        Leading directions treated exactly when randomized; of P, a quarter of it for each trial.
    n_probes : int, default=30
        Random vectors for the rest; of P a third of it, if there are ten trials to sample. Up to
        four times as many are drawn where the standard error of an effective dimension would
        exceed 2%.
    memory_limit : int, optional
        Bytes to use beyond what the operator holds; default a quarter of what is free.
    random_state : int, RandomState or None
        Seed of the random vectors.

    Raises
    ------
    ValueError
        If an option is not one of those named.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> from kpflow_sklearn.spectra import OperatorSpectra
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
    >>> {axis: len(spectra.on(axis).eigenvalues) for axis in ("trial", "time", "hidden")}
    {'trial': 3, 'time': 5, 'hidden': 4}
    """

    def __init__(
        self,
        op: LinearOperator,
        *,
        axes: Iterable[str] = AXES,
        gram: str = "natural",
        reduction: str = "trace",
        method: str = "auto",
        n_modes: int = N_MODES,
        n_probes: int = N_PROBES,
        memory_limit: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        check_subset(axes, "axes", AXES)
        check_choice(gram, "gram", GRAMS)
        check_choice(reduction, "reduction", REDUCTIONS)
        check_choice(method, "method", METHODS)
        check_positive_int(n_modes, "n_modes", minimum=0)
        check_positive_int(n_probes, "n_probes", minimum=4)
        if memory_limit is not None:
            check_positive_int(memory_limit, "memory_limit", maximum=None)
        local_generator(random_state)  # Drawn from where something is sampled; refused here.
        if len(getattr(op, "out_shape", ())) != 3:
            raise ValueError(f"op must map to trajectories (trials, steps, states), got {op!r}.")
        self.op, self.gram, self.reduction, self.method = op, gram, reduction, method
        self.axes, self.n_modes, self.n_probes = tuple(axes), n_modes, n_probes
        self.memory_limit, self.random_state = memory_limit, random_state

    def on(self, axis: str) -> Spectrum:
        """Return the spectrum on one axis.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis kept, one of ``axes``.

        Returns
        -------
        Spectrum
            Eigenvalues, trace, effective dimension and their standard errors.

        Raises
        ------
        ValueError
            If method="exact" is asked of an operator that is too large for it.
        MemoryError
            If memory runs out even with the smallest chunks of trials.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> from kpflow_sklearn.spectra import OperatorSpectra
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
        >>> spectra.on("time").method
        'exact'
        """
        check_choice(axis, "axis", self.axes)
        if axis not in self._found:
            find = getattr(self, f"_by_{self.route(axis)}")
            self._found[axis] = self._memory.run(lambda: find(axis))
        return self._found[axis]

    def rank(self, axis: str, threshold: float = 0.95) -> Estimate:
        """Return the least r whose r largest eigenvalues reach ``threshold`` of the trace.

        Where the whole space holds more eigenvalues than can be computed, they are counted by
        stochastic Lanczos quadrature.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis kept.
        threshold : float, default=0.95
            Share of the whole trace.

        Returns
        -------
        Estimate
            The rank.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> from kpflow_sklearn.spectra import OperatorSpectra
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
        >>> spectra.rank("time", 0.95).std_error
        0.0
        """
        found = self.on(axis)
        rank = found.rank(threshold)
        if axis == "all" and rank.reason and not (found.complete or found.trace.reason):
            outside = self.sketch.squares
            return sampled_rank(self.sketcher, threshold, float(outside.mean()))
        return rank

    @property
    def has_hidden_gram(self) -> bool:
        """Whether `hidden_gram` is that of the natural Gram, by partial trace."""
        return "hidden" in self.axes and self.gram == "natural" and self.reduction == "trace"

    def norm_square(self) -> Estimate:
        """Return tr G^2 on the whole space, whether or not it is among ``axes``.

        Returns
        -------
        Estimate
            Value and standard error.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> from kpflow_sklearn.spectra import OperatorSpectra
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
        >>> spectra.norm_square().value <= spectra.on("all").trace.value ** 2
        True
        """
        if "all" in self.axes:
            return self.on("all").square
        return sampled_spectrum(self.sketch, "all").square

    def hidden_gram(self) -> Tensor:
        """Return the Gram on the hidden axis, exact or estimated, (n_states, n_states).

        Returns
        -------
        Tensor of shape (n_states, n_states)
            Symmetric and positive semidefinite.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> from kpflow_sklearn.spectra import OperatorSpectra
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
        >>> spectra.hidden_gram().shape
        torch.Size([4, 4])
        """
        return self._memory.run(self._hidden_gram)

    def _hidden_gram(self) -> Tensor:
        route = self.route("hidden")
        if route == "units":
            return parameter_gram(self.op, "hidden", self._memory.amount)
        if route == "matrix":
            return dense_gram(self.op, "hidden", self.gram)
        if route == "gramians":
            return self._gramians[0]
        sketch = self.sketch
        if not sketch.finite:
            return torch.full((self.op.out_shape[2],) * 2, torch.nan, dtype=torch.float64)
        gram = sketch.known["hidden"].double() + sketch.sampled["hidden"].double().mean(0)
        return gram * sketch.magnitude**2

    @cached_property
    def sketcher(self) -> Sketcher:
        """Draws from the Gram by random vectors."""
        factor, scale = gram_factor(self.op, self.gram)
        # Each vector samples each trial of a separable factor: many trials need few vectors.
        enough = factor.separable and factor.out_shape[0] >= 10
        n_probes = max(4, self.n_probes // 3) if enough else self.n_probes
        return Sketcher(
            factor,
            scale,
            axes=[axis for axis in self._sampled_axes if axis != "all"],
            n_modes=-(-self.n_modes // 4) if factor.separable else self.n_modes,
            n_probes=n_probes,
            seed=draw_seed(self.random_state),
            memory=self._memory,
        )

    @cached_property
    def _memory(self) -> Allowance:
        """What chunks of trials may take."""
        return analysis_allowance(self.op, self.memory_limit)

    @cached_property
    def sketch(self) -> Sketch:
        """What the random vectors tell, drawn when first needed and shared by the axes."""
        sketch = self.sketcher.draw(0, self.sketcher.n_probes)
        while sketch.finite and sketch.n_probes < 4 * self.n_probes:
            found = {axis: sampled_spectrum(sketch, axis) for axis in self._sampled_axes}
            uncertain = [axis for axis in found if _uncertain(found[axis])]
            if not uncertain:
                break
            sketch = sketch.joined(
                self.sketcher.draw(
                    sketch.n_probes, -(-self.n_probes // 2), squares="all" in uncertain
                )
            )
        return sketch

    @cached_property
    def _found(self) -> dict[str, Spectrum]:
        return {}

    @cached_property
    def _gramians(self) -> tuple[Tensor, Tensor, float]:
        return propagator_gram(self.op, self._memory.amount)  # type: ignore[arg-type]

    @property
    def _sampled_axes(self) -> list[str]:
        return [axis for axis in self.axes if self.route(axis) == "sketch"]

    def route(self, axis: str) -> str:
        """Return how the spectrum on an axis is found.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis kept.

        Returns
        -------
        {"average", "units", "compression", "matrix", "gramians", "trials", "sketch"}
            All but the last are exact.

        Raises
        ------
        ValueError
            If ``method="exact"`` and the operator is too large for it on that axis.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> from kpflow_sklearn.spectra import OperatorSpectra
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
        >>> spectra.route("time")
        'matrix'
        """
        check_choice(axis, "axis", AXES)
        if axis != "all" and self.reduction == "mean":
            return "average"
        if self.method == "randomized":
            return "sketch"
        forced, size = self.method == "exact", self.op.shape[0]
        if self.gram == "natural" and map_blocks(self.op) is not None:
            enough = max(_CHEAP, moment_cost(self.op))
            full = axis != "all" or forced or unit_cost(self.op) <= enough
            return "units" if full else "compression"
        if size <= (EXACT_LIMIT if forced else DENSE_LIMIT):
            return "matrix"
        if isinstance(self.op, FlowPropagator):
            affordable = (
                np.inf
                if forced
                else max(_CHEAP, sampling_cost(self.op, self.n_modes, self.n_probes))
            )
            small = size <= EXACT_LIMIT * self.op.out_shape[0]  # In each trial.
            if axis in ("all", "time") and small and trial_cost(self.op, axis) <= affordable:
                return "trials"
            if axis != "time" and gramian_cost(self.op) <= affordable:
                return "gramians"
        if forced:
            raise ValueError(
                f"method='exact' is limited to {EXACT_LIMIT} trajectory entries (for P, of one "
                f"trial), got {size} for {self.op!r} on axis {axis!r}; analyse fewer trials or "
                "use method='auto'."
            )
        return "sketch"

    def _by_average(self, axis: str) -> Spectrum:
        return spectrum_of_gram(mean_gram(self.op, axis, self.gram))

    def _by_matrix(self, axis: str) -> Spectrum:
        return spectrum_of_gram(dense_gram(self.op, axis, self.gram))

    def _by_trials(self, axis: str) -> Spectrum:
        if axis == "all":
            return spectrum_of_eigenvalues(trial_eigenvalues(self.op))
        return spectrum_of_gram(trial_gram(self.op, axis))

    def _by_sketch(self, axis: str) -> Spectrum:
        return sampled_spectrum(self.sketch, axis)

    def _by_units(self, axis: str) -> Spectrum:
        if axis == "all":
            return spectrum_of_eigenvalues(unit_eigenvalues(self.op, self._memory.amount))
        return spectrum_of_gram(parameter_gram(self.op, axis, self._memory.amount))

    def _by_compression(self, axis: str) -> Spectrum:
        """Return K's spectrum with its moments exact and its eigenvalues from most activity."""
        compressed = self.op.compress(_ACTIVITY_TOL)  # type: ignore[attr-defined]
        moments = parameter_moments(self.op, self._memory.amount)
        return compressed_spectrum(unit_eigenvalues(compressed, self._memory.amount), *moments)

    def _by_gramians(self, axis: str) -> Spectrum:
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


def _uncertain(found: Spectrum) -> bool:
    dimension = found.effective_dimension
    return bool(dimension.reason) or dimension.std_error > TARGET * dimension.value
