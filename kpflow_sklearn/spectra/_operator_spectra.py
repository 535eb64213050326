"""Every spectrum of one operator; what the axes share is computed once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.checks import (
    check_choice,
    check_positive_int,
    check_real,
    check_subset,
)
from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn._common.random import draw_seed, local_generator
from kpflow_sklearn.operators import LinearOperator, ParameterOperator
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra._gramians import AXES, dense_gram, gram_factor, propagator_gram
from kpflow_sklearn.spectra._half_factor import analysis_allowance
from kpflow_sklearn.spectra._modes import Modes, find_modes
from kpflow_sklearn.spectra._routes import (
    ACTIVITY_TOL,
    N_PROBES,
    affords_all_columns,
    choose_route,
    rank_on_whole_space,
)
from kpflow_sklearn.spectra._sketch import Sketcher
from kpflow_sklearn.spectra._sketches import Sketch
from kpflow_sklearn.spectra._spectrum import Spectrum, sampled_spectrum
from kpflow_sklearn.spectra._units import UnitGrams, parameter_gram, without_rounding

METHODS = ("auto", "exact", "randomized")
GRAMS = ("natural", "square")
REDUCTIONS = ("trace", "mean")
N_MODES = 20
#: Relative standard error at which an estimate is accurate enough, unless the user says otherwise.
TOL = 0.02
#: Random vectors that are drawn at most, unless the user says otherwise.
MOST_PROBES = 4 * N_PROBES
#: Random vectors that are drawn at least, whatever n_probes, if they sample fewer effective
#: dimensions than are enough for the errors of fewer vectors to hold.
FEW, ENOUGH = 16, 10


class OperatorSpectra:
    """The spectra of one operator's Gram on every axis; what the axes share is computed once.

    Equation: on an axis, the eigenvalues of the partial trace of G over the other two, G = K for
    K, PKP* for PKP* and O O* otherwise.

    Parameters
    ----------
    op : LinearOperator
        K, P, PKP* or any other operator onto trajectories (n_trials, n_timesteps, n_states).
    axes : sequence of {"all", "trial", "time", "hidden"}, default=all four
        The axes on which spectra will be needed.
    gram : {"natural", "square"}, default="natural"
        "natural" is K for K, PKP* for PKP* and O O* for any other operator O; "square" is O O*
        for all of them.
    reduction : {"trace", "mean"}, default="trace"
        How the other axes are removed: by the partial trace, or by taking the Gram of the signal
        averaged over them.
    method : {"auto", "exact", "randomized"}, default="auto"
        "auto" is exact wherever that costs no more than an estimate.
    n_modes : int, default=20
        Number of leading directions that are treated exactly when the rest is sampled; for P, a
        quarter of it in each trial.
    n_probes : int, optional
        Number of random vectors that sample the rest; for P a third of it, if there are at least
        ten trials. By default 30, and more until ``tol`` is reached, up to 120. At least 16 are
        drawn if they have fewer than ten effective dimensions to sample.
    tol : float, default=0.02
        Relative standard error at which an estimate of an effective dimension, or of the rank of P
        on the whole space, is accurate enough. A value left less accurate has a larger standard
        error.
    memory_limit : int, optional
        Bytes that may be used beyond what the operator holds; by default a quarter of the free
        memory.
    random_state : int, RandomState or None
        Seed of the random vectors.

    Raises
    ------
    ValueError
        If an option has another value than those listed.

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
        n_probes: int | None = None,
        tol: float = TOL,
        memory_limit: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        axes = check_subset(axes, "axes", AXES)
        check_choice(gram, "gram", GRAMS)
        check_choice(reduction, "reduction", REDUCTIONS)
        check_choice(method, "method", METHODS)
        check_positive_int(n_modes, "n_modes", minimum=0)
        if n_probes is not None:
            check_positive_int(n_probes, "n_probes", minimum=4)
        check_real(tol, "tol", 0, open_minimum=True)
        if memory_limit is not None:
            check_positive_int(memory_limit, "memory_limit", maximum=None)
        local_generator(random_state)  # Only checked here; drawn from once something is sampled.
        if len(getattr(op, "out_shape", ())) != 3:
            raise ValueError(f"op must map to trajectories (trials, steps, states), got {op!r}.")
        self.op, self.gram, self.reduction, self.method = op, gram, reduction, method
        self.axes, self.n_modes, self.n_probes, self.tol = axes, n_modes, n_probes, tol
        self.memory_limit, self.random_state = memory_limit, random_state

    def on(self, axis: str) -> Spectrum:
        """Return the spectrum on one axis.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis that is kept, one of ``axes``.

        Returns
        -------
        Spectrum
            Eigenvalues, trace, effective dimension and their standard errors.

        Raises
        ------
        ValueError
            If ``method="exact"`` and the operator is too large.
        MemoryError
            If memory runs out even for the smallest chunks of trials.

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
        if axis not in self._spectra:
            route = choose_route(self, axis)
            self._spectra[axis] = self.memory.run(lambda: route.find(self, axis))
        return self._spectra[axis]

    def rank(self, axis: str, threshold: float = 0.95) -> Estimate:
        """Return the least r whose r largest eigenvalues reach ``threshold`` of the trace.

        If the whole space holds too many eigenvalues to compute, those of P are counted by the
        pivots of a factorisation along each trial (`_counts`) or, where that costs too much,
        bounded by quadrature; of other operators leading ones are computed until they hold nearly
        all of the trace (`_lanczos_rank`).

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis that is kept.
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
        spectrum = self.on(axis)
        rank = spectrum.rank(threshold)
        if axis == "all" and rank.reason and not (spectrum.complete or spectrum.trace.reason):
            rank, leading = self.memory.run(lambda: rank_on_whole_space(self, threshold))
            if len(leading.values) > len(spectrum.eigenvalues):
                self._spectra["all"] = replace(
                    spectrum, eigenvalues=leading.values, residuals=leading.residuals
                )
        return rank

    def modes(self, k: int, tolerance: float = 1e-3) -> Modes:
        """Return the leading eigenvalues and eigenfunctions of the Gram on the whole space.

        A K made of weight maps (each on one unit) and small operators are diagonalised. Otherwise
        the Krylov spaces of the sketch are extended until the residuals are small; they act on
        parameters for PKP*, and on single trials for P.

        Parameters
        ----------
        k : int
            Number of eigenpairs; fewer are returned if the Gram has fewer.
        tolerance : float, default=1e-3
            The relative residual at which the iteration ends.

        Returns
        -------
        Modes
            Eigenvalues, eigenfunctions (k, n_trials, n_timesteps, n_states) and their residuals.

        Raises
        ------
        TypeError, ValueError
            If ``k`` is not a positive integer, or ``tolerance`` not a positive number.
        MemoryError
            If memory runs out even for the smallest chunks of trials.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> from kpflow_sklearn.spectra import OperatorSpectra
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> spectra = OperatorSpectra(linearize(net, torch.ones(3, 5, 2)).PKP, random_state=0)
        >>> spectra.modes(2).eigenfunctions.shape
        (2, 3, 5, 4)
        """
        check_positive_int(k, "k")
        check_real(tolerance, "tolerance", 0, open_minimum=True)
        return self.memory.run(lambda: find_modes(self, k, tolerance))

    @property
    def has_hidden_gram(self) -> bool:
        """Whether `hidden_gram` is the partial trace of the natural Gram."""
        return "hidden" in self.axes and self.gram == "natural" and self.reduction == "trace"

    def norm_square(self) -> Estimate:
        """Return tr G^2 on the whole space, even if "all" is not among ``axes``.

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
        return self.memory.run(self._hidden_gram)

    def _hidden_gram(self) -> Tensor:
        route = self.route("hidden")
        if route == "units":
            return parameter_gram(self.op, "hidden", self.memory.amount)
        if route == "matrix":
            return dense_gram(self.op, "hidden", self.gram)
        if route == "gramians":
            return self.gramians[0]
        sketch = self.sketch
        if not sketch.finite:
            return torch.full((self.op.out_shape[2],) * 2, torch.nan, dtype=torch.float64)
        gram = sketch.exact["hidden"].double() + sketch.sampled["hidden"].double().mean(0)
        return gram * sketch.magnitude**2

    @property
    def first_probes(self) -> int:
        """The number of random vectors drawn at first; for P with many trials a third of it."""
        return self.n_probes or N_PROBES

    @cached_property
    def sketcher(self) -> Sketcher:
        """The sketcher that samples the Gram by random vectors."""
        factor, scale = gram_factor(self.op, self.gram)
        # Each vector samples every trial of a separable factor: with many trials few suffice.
        enough = factor.separable and factor.out_shape[0] >= 10
        n_probes = max(4, self.first_probes // 3) if enough else self.first_probes
        return Sketcher(
            factor,
            scale,
            axes=[axis for axis in self._sampled_axes if axis != "all"],
            n_modes=-(-self.n_modes // 4) if factor.separable else self.n_modes,
            n_probes=n_probes,
            seed=draw_seed(self.random_state),
            memory=self.memory,
        )

    @cached_property
    def memory(self) -> Allowance:
        """The memory that chunks of trials may use."""
        return analysis_allowance(self.op, self.memory_limit)

    @cached_property
    def sketch(self) -> Sketch:
        """The sketch by random vectors, drawn when first needed and shared by all axes."""
        sketch = self.sketcher.draw(0, self.sketcher.n_probes)
        if sketch.n_probes < FEW and sketch.finite and sketch.dimension_left < ENOUGH:
            sketch = self.sketcher.draw(0, FEW)
        while self.n_probes is None and sketch.finite and sketch.n_probes < MOST_PROBES:
            spectra = {axis: sampled_spectrum(sketch, axis) for axis in self._sampled_axes}
            uncertain = [axis for axis in spectra if self._is_uncertain(spectra[axis])]
            if not uncertain:
                break
            squares = "all" in uncertain
            count = min(N_PROBES // 2, MOST_PROBES - sketch.n_probes)
            more = self.sketcher.draw(sketch.n_probes, count, squares=squares)
            sketch = sketch.joined(more)
        return sketch

    def _is_uncertain(self, spectrum: Spectrum) -> bool:
        """Tell whether more random vectors are needed for an effective dimension."""
        dimension = spectrum.effective_dimension
        return bool(dimension.reason) or dimension.std_error > self.tol * dimension.value

    @cached_property
    def _spectra(self) -> dict[str, Spectrum]:
        return {}

    @cached_property
    def compact(self) -> LinearOperator:
        """K without activity at the level of rounding, as of `without_rounding`."""
        return without_rounding(self.op)  # type: ignore[arg-type]

    @cached_property
    def units(self) -> UnitGrams:
        """The unit Grams of K, shared by its spectrum, modes and weight maps."""
        op: ParameterOperator = self.compact  # type: ignore[assignment]
        if not affords_all_columns(self):
            op = op.compress(ACTIVITY_TOL)
        return UnitGrams(op, self.memory)

    @cached_property
    def gramians(self) -> tuple[Tensor, Tensor, float]:
        """What the Gramian recursions tell of P, as of `propagator_gram`."""
        return propagator_gram(self.op, self.memory.amount)  # type: ignore[arg-type]

    @property
    def _sampled_axes(self) -> list[str]:
        return [axis for axis in self.axes if self.route(axis) == "sketch"]

    def route(self, axis: str) -> str:
        """Return the name of the route by which the spectrum on an axis is found.

        Parameters
        ----------
        axis : {"all", "trial", "time", "hidden"}
            The axis that is kept.

        Returns
        -------
        {"average", "units", "compression", "matrix", "gramians", "trials", "sketch"}
            The route; all but "sketch" are exact.

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
        return choose_route(self, axis).name
