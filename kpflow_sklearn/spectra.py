"""Spectra of operators on trajectories: trace, effective dimension and rank on each axis.

For an operator O the Gram G is K for K, PKP* for PKP* and O O* for P and anything else
(``gram="natural"``), or O O* for all (``gram="square"``). The axes "trial", "time" and "hidden"
keep one axis and reduce G by the partial trace over the others; "all" keeps the whole space.

effective dimension = (tr G)^2 / tr G^2, and rank = the least r whose r largest eigenvalues reach
``rank_threshold`` of tr G, the whole trace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._random import draw_seed
from kpflow_sklearn._validation import check_choice, check_positive_int, check_real
from kpflow_sklearn.gramians import (
    AXES,
    map_blocks,
    parameter_gram,
    propagator_gram,
    unit_eigenvalues,
    unit_modes,
)
from kpflow_sklearn.operators import (
    FlowPropagator,
    LinearOperator,
    ParameterOperator,
    TangentKernel,
)
from kpflow_sklearn.traces import (
    Estimate,
    HalfSamples,
    Moments,
    axis_grams,
    axis_moments,
    half_samples,
    whole_moments,
)

METHODS = ("auto", "exact", "randomized")
GRAMS = ("natural", "square")
REDUCTIONS = ("trace", "mean")
DENSE_LIMIT = 1024
EXACT_LIMIT = 8192
_GRAMIAN_BYTES = 2**31


@dataclass(frozen=True)
class Spectrum:
    """What is known of the eigenvalues of one Gram.

    Attributes
    ----------
    eigenvalues : ndarray
        In descending order; all the non-zero ones if ``complete``, else the leading ones.
    trace, square : Estimate
        tr G and tr G^2.
    effective_dimension : Estimate
        (tr G)^2 / tr G^2.
    method : {"exact", "randomized"}
        How they were found.
    complete : bool
        Whether ``eigenvalues`` holds the whole trace.
    share_std_error : ndarray or None
        Standard error of the cumulated shares of the trace, where they are estimated.
    """

    eigenvalues: np.ndarray
    trace: Estimate
    square: Estimate
    effective_dimension: Estimate
    method: str
    complete: bool
    share_std_error: np.ndarray | None = None

    def rank(self, threshold: float = 0.95) -> Estimate:
        """Return the least r whose r largest eigenvalues reach ``threshold`` of the trace.

        Where the shares carry an error, the rank's is half the distance between the ranks that
        one standard error more and less would give.

        Parameters
        ----------
        threshold : float, default=0.95
            Share of the whole trace, above 0 and at most 1.

        Returns
        -------
        Estimate
            The rank; missing where the known eigenvalues do not reach that far.
        """
        if self.trace.value <= 0:
            return Estimate.missing("the operator is zero")
        # Rounding must not ask for one eigenvalue more than there are.
        goal = threshold - 1e-12
        shares = np.cumsum(self.eigenvalues) / self.trace.value
        if self.complete and len(shares):
            shares = np.cumsum(self.eigenvalues) / self.eigenvalues.sum()
        if not len(shares) or shares[-1] < goal:
            reached = shares[-1] if len(shares) else 0.0
            return Estimate.missing(
                f"the {len(shares)} computed eigenvalues hold {reached:.1%} of the trace, below "
                f"{threshold:.0%}"
            )
        rank = int(np.argmax(shares >= goal)) + 1
        if self.share_std_error is None:
            return Estimate(float(rank))
        low = int(np.argmax(shares + self.share_std_error >= goal)) + 1
        above = shares - self.share_std_error >= goal
        high = int(np.argmax(above)) + 1 if above.any() else len(shares)
        return Estimate(float(rank), (high - low) / 2)


def gram_factor(op: LinearOperator, gram: str = "natural") -> tuple[LinearOperator, float]:
    """Return A and c such that the operator's Gram is c A A^T (ordinary transpose).

    Parameters
    ----------
    op : LinearOperator
        The operator.
    gram : {"natural", "square"}, default="natural"
        Which Gram.

    Returns
    -------
    factor : LinearOperator
        A.
    scale : float
        c.
    """
    if gram == "natural" and isinstance(op, ParameterOperator):
        return op.jacobian, 1 / op.tangent.n_valid
    if gram == "natural" and isinstance(op, TangentKernel):
        return op.P @ op.K.jacobian, 1 / op.K.tangent.n_valid
    return op, 1.0


def spectrum(
    op: LinearOperator,
    axis: str = "all",
    *,
    gram: str = "natural",
    reduction: str = "trace",
    method: str = "auto",
    n_modes: int = 20,
    n_probes: int = 30,
    random_state: int | np.random.RandomState | None = None,
    samples: HalfSamples | None = None,
) -> Spectrum:
    """Return the spectrum of an operator's Gram on one axis.

    Parameters
    ----------
    op : LinearOperator
        K, P, PKP* or any other operator on trajectories (n_trials, n_timesteps, n_states).
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis kept.
    gram : {"natural", "square"}, default="natural"
        K for K, PKP* for PKP*, OO* otherwise; or OO* for all.
    reduction : {"trace", "mean"}, default="trace"
        Partial trace over the other axes, or the Gram of the signal averaged over them.
    method : {"auto", "exact", "randomized"}, default="auto"
        "auto" is exact where structure or small size allow it cheaply.
    n_modes, n_probes : int, default=20, 30
        Leading modes treated exactly and random vectors for the rest, when randomized.
    random_state : int, RandomState or None
        Seed of the random vectors.
    samples : HalfSamples, optional
        Those of an earlier call for the same operator and gram, to be shared between axes.

    Returns
    -------
    Spectrum
        Eigenvalues, trace, effective dimension and their standard errors.

    Raises
    ------
    ValueError
        If an option is not one of those named, or method="exact" is asked of an operator that
        is too large for it.

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
    check_choice(axis, "axis", AXES)
    check_choice(gram, "gram", GRAMS)
    check_choice(reduction, "reduction", REDUCTIONS)
    check_choice(method, "method", METHODS)
    check_positive_int(n_modes, "n_modes", minimum=0)
    check_positive_int(n_probes, "n_probes", minimum=3)
    if len(op.out_shape) != 3:
        raise ValueError(f"op must map to trajectories (trials, steps, states), got {op!r}.")
    if reduction == "mean" and axis != "all":
        return _mean_spectrum(op, axis, gram)
    if method != "randomized":
        found = _exact_spectrum(op, axis, gram, forced=method == "exact")
        if found is not None:
            return found
    if samples is None:
        samples = draw_samples(
            op, gram=gram, n_modes=n_modes, n_probes=n_probes, random_state=random_state
        )
    return _randomized_spectrum(samples, axis)


def draw_samples(
    op: LinearOperator,
    *,
    gram: str = "natural",
    n_modes: int = 20,
    n_probes: int = 30,
    random_state: int | np.random.RandomState | None = None,
) -> HalfSamples:
    """Draw the random half-factors that `spectrum` uses, to share them between axes.

    Parameters
    ----------
    op, gram, n_modes, n_probes, random_state
        As in `spectrum`.

    Returns
    -------
    HalfSamples
        Modes and probes.
    """
    factor, scale = gram_factor(op, gram)
    return half_samples(
        factor, scale, n_modes=n_modes, n_probes=n_probes, seed=draw_seed(random_state)
    )


def trace(op: LinearOperator, axis: str = "all", **options: object) -> Estimate:
    """Return the trace of an operator's Gram (options as in `spectrum`).

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis kept; the trace is the same on all, its error may not be.
    **options
        As in `spectrum`.

    Returns
    -------
    Estimate
        Value and standard error.
    """
    return spectrum(op, axis, **options).trace  # type: ignore[arg-type]


def effective_dimension(op: LinearOperator, axis: str = "all", **options: object) -> Estimate:
    """Return (tr G)^2 / tr G^2 of an operator's Gram (options as in `spectrum`).

    Parameters
    ----------
    op : LinearOperator
        The operator.
    axis : {"all", "trial", "time", "hidden"}, default="all"
        The axis kept.
    **options
        As in `spectrum`.

    Returns
    -------
    Estimate
        Value and standard error.
    """
    return spectrum(op, axis, **options).effective_dimension  # type: ignore[arg-type]


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
        As in `spectrum`.

    Returns
    -------
    Estimate
        Value and standard error, or a missing value with its reason.
    """
    check_real(rank_threshold, "rank_threshold", 0, open_minimum=True)
    return spectrum(op, axis, **options).rank(rank_threshold)  # type: ignore[arg-type]


def leading_modes(
    op: LinearOperator, k: int, *, random_state: int | np.random.RandomState | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading eigenvalues and eigenfunctions of an operator's natural Gram.

    Parameters
    ----------
    op : LinearOperator
        The operator.
    k : int
        How many; fewer if the Gram has fewer.
    random_state : int, RandomState or None
        Seed of the subspace iteration, where the structure gives no exact answer.

    Returns
    -------
    eigenvalues : ndarray of shape (k,)
        In descending order.
    eigenfunctions : ndarray of shape (k, n_trials, n_timesteps, n_states)
        Orthonormal; the entry of largest magnitude is positive.
    """
    if map_blocks(op) is not None:
        values, functions = unit_modes(op, k)  # type: ignore[arg-type]
    else:
        factor, scale = gram_factor(op)
        found = half_samples(
            factor,
            scale,
            n_modes=k + 15,
            n_probes=1,
            seed=draw_seed(random_state),
            n_iterations=6,
        )
        left, singular, _ = torch.linalg.svd(found.modes.flatten(1).mT, full_matrices=False)
        values = (singular[:k] ** 2).cpu().numpy()
        functions = left.mT[:k].reshape(-1, *op.out_shape)
    flat = functions.flatten(1)
    peaks = flat.gather(1, flat.abs().argmax(1, keepdim=True))
    signs = torch.where(peaks < 0, -1.0, 1.0).to(flat.dtype)
    return values, (flat * signs).reshape(functions.shape).cpu().numpy()


def spectrum_of_gram(gram: Tensor | np.ndarray, method: str = "exact") -> Spectrum:
    """Return the spectrum of a Gram given as a matrix.

    Parameters
    ----------
    gram : Tensor or ndarray of shape (n, n)
        Symmetric, positive semidefinite.
    method : str, default="exact"
        Recorded in the result.

    Returns
    -------
    Spectrum
        Complete and exact.
    """
    matrix = np.asarray(gram.cpu() if isinstance(gram, Tensor) else gram, dtype=np.float64)
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1].clip(min=0)
    return _exact_from_eigenvalues(values)


def _exact_from_eigenvalues(values: np.ndarray) -> Spectrum:
    total, square = float(values.sum()), float((values**2).sum())
    return Spectrum(
        values, Estimate(total), Estimate(square), _ratio(total, square), "exact", True
    )


def _ratio(total: float, square: float) -> Estimate:
    if square <= 0:
        return Estimate.missing("the operator is zero")
    return Estimate(total**2 / square)


def _exact_spectrum(
    op: LinearOperator, axis: str, gram: str, *, forced: bool
) -> Spectrum | None:
    """Return the exact spectrum if structure or size give it, None otherwise."""
    size = op.shape[0]
    if map_blocks(op) is not None and gram == "natural":
        assert isinstance(op, ParameterOperator)
        if axis == "all":
            return _exact_from_eigenvalues(unit_eigenvalues(op))
        return spectrum_of_gram(parameter_gram(op, axis))
    if size <= (EXACT_LIMIT if forced else DENSE_LIMIT):
        return spectrum_of_gram(_dense_gram(op, axis, gram))
    if isinstance(op, FlowPropagator) and axis != "time" and (forced or _gramians_fit(op)):
        hidden, by_trial, square = propagator_gram(op)
        if axis == "hidden":
            return spectrum_of_gram(hidden)
        if axis == "trial":
            return _exact_from_eigenvalues(np.sort(by_trial.cpu().numpy())[::-1])
        total = float(by_trial.sum())
        none = np.empty(0)
        ratio = _ratio(total, square)
        return Spectrum(none, Estimate(total), Estimate(square), ratio, "exact", False)
    if forced:
        raise ValueError(
            f"method='exact' is limited to {EXACT_LIMIT} trajectory entries for {op!r} on axis "
            f"{axis!r}, got {size}; analyse fewer trials or use method='auto'."
        )
    return None


def _gramians_fit(op: FlowPropagator) -> bool:
    n_trials, n_timesteps, n_states = op.in_shape
    return 2 * 8 * n_trials * n_timesteps * n_states**2 <= _GRAMIAN_BYTES


def _dense_gram(op: LinearOperator, axis: str, gram: str) -> Tensor:
    factor, scale = gram_factor(op, gram)
    dense = factor.to_dense().double()
    if axis == "all":
        return scale * (dense @ dense.mT)
    columns = dense.mT.reshape(-1, *op.out_shape)
    dim = {"trial": 1, "time": 2, "hidden": 3}[axis]
    flat = columns.movedim(dim, 0).flatten(1)
    return scale * (flat @ flat.mT)


def _mean_spectrum(op: LinearOperator, axis: str, gram: str) -> Spectrum:
    """Return the Gram of the signal averaged over the other axes: exact, one product an entry."""
    factor, scale = gram_factor(op, gram)
    dim = {"trial": 0, "time": 1, "hidden": 2}[axis]
    size = op.out_shape[dim]
    average = torch.zeros(size, *op.out_shape, dtype=op.dtype, device=op.device)
    for i, row in enumerate(average):
        row.select(dim, i).fill_(size / op.shape[0])
    # The scale of the adjoint squares to that of the Gram: A^T = c' A*, G = c A A^T.
    pulled = (factor.T @ average).reshape(size, -1).double() * factor._transpose_scale()
    return spectrum_of_gram(scale * (pulled @ pulled.mT))


def _randomized_spectrum(samples: HalfSamples, axis: str) -> Spectrum:
    if axis == "all":
        moments = whole_moments(samples)
        modes = samples.modes.flatten(1).double()
        values = torch.linalg.eigvalsh(modes @ modes.mT).flip(0).clamp(min=0).cpu().numpy()
        found = _from_moments(moments, values)
        relative = found.trace.std_error / found.trace.value if found.trace.value > 0 else 0.0
        errors = np.cumsum(values) / max(found.trace.value, 1e-300) * relative
        return replace(found, share_std_error=errors)
    known = axis_grams(samples.modes, axis).sum(0)
    sampled = axis_grams(samples.probes, axis)
    moments = axis_moments(known, sampled)
    mean = known + sampled.mean(0)
    values, vectors = torch.linalg.eigh(mean)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    found = _from_moments(moments, values.cpu().numpy())
    errors = _share_errors(known, sampled, vectors)
    return replace(found, complete=True, share_std_error=errors)


def _from_moments(moments: Moments, values: np.ndarray) -> Spectrum:
    ratio = moments.effective_dimension()
    if not np.isfinite(ratio.value):
        ratio = Estimate.missing("the operator is zero")
    return Spectrum(values, moments.trace(), moments.square(), ratio, "randomized", False)


def _share_errors(known: Tensor, sampled: Tensor, vectors: Tensor) -> np.ndarray:
    """Return the standard errors of the cumulated shares along fixed eigenvectors.

    To first order the eigenvectors' own error does not enter an eigenvalue, so the share of the
    leading r directions is a ratio of sums over probes, with the error of a ratio.
    """
    along = torch.einsum("ir,kij,jr->kr", vectors, sampled, vectors).cumsum(1)
    fixed = torch.einsum("ir,ij,jr->r", vectors, known, vectors).cumsum(0)
    head = fixed + along
    total = head[:, -1:]
    share = head.mean(0) / total.mean(0).clamp(min=1e-300)
    residual = (head - share * total) / total.mean(0).clamp(min=1e-300)
    return (residual.std(0) / len(sampled) ** 0.5).cpu().numpy()
