"""Lyapunov exponents of a network along its trajectories, and the dimension they imply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kpflow_sklearn._common.arrays import as_array, naming
from kpflow_sklearn._common.checks import check_positive_int
from kpflow_sklearn._common.tensors import with_gradients
from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra import step_matrices

_N_RESAMPLES = 1000
#: The most trials that an analysis follows: each step takes one QR per trial.
N_FOLLOWED = 256
#: Bytes of the matrices followed at a time, together with their QR factors.
_MEMORY = 2**28
_EPS = torch.finfo(torch.float64).eps


@with_gradients
def lyapunov_exponents(
    linearization: Linearization,
    n_exponents: int | None = None,
    burn_in: int = 0,
    *,
    n_trials: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Lyapunov exponents, averaged over trials, and their standard errors.

    A QR factorisation follows ``n_exponents`` directions along the Jacobians J_t of each trial.
    The logarithms of the diagonal of R, averaged over steps, are the exponents of the trial
    (Benettin et al. 1980). They describe the given finite trials, not the limit of infinite time.

    Equation: lambda_i = mean over t of ln |R_t,ii|, with Q_t R_t = J_t Q_{t-1}.

    Parameters
    ----------
    linearization : Linearization
        The linearization, from `linearize`. Masked steps are left out.
    n_exponents : int, optional
        Number of largest exponents; by default all, one per state.
    burn_in : int, default=0
        Number of first steps whose growth is not counted while the directions settle.
    n_trials : int, optional
        The most trials to follow, evenly spaced from the first to the last of those with a step
        that counts; by default all of them.

    Returns
    -------
    exponents : ndarray of shape (n_exponents,)
        Per step, in descending order. Minus infinity for directions that vanish, or shrink below
        the resolution of float64, within one step of any trial.
    standard_error : ndarray of shape (n_exponents,)
        Standard errors over trials or, for a single trial, over ten blocks of consecutive steps;
        NaN for a single step.

    Raises
    ------
    ValueError
        If ``n_exponents`` exceeds the number of states, or ``burn_in`` leaves no step.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> from kpflow_sklearn.lyapunov import lyapunov_exponents
    >>> exponents, std_error = lyapunov_exponents(lin)
    >>> exponents.shape, bool(exponents[0] < 0)
    ((4,), True)
    """
    spectrum = lyapunov_spectrum(linearization, n_exponents, burn_in, n_trials=n_trials)
    return spectrum.exponents, spectrum.std_error


@dataclass(frozen=True)
class LyapunovSpectrum:
    """Lyapunov exponents and the Kaplan-Yorke dimension, each with its error.

    Attributes
    ----------
    exponents, std_error : ndarray of shape (n_exponents,)
        The results of `lyapunov_exponents`.
    dimension : Estimate
        The Kaplan-Yorke dimension of the mean exponents. Because the errors of the exponents are
        not independent, its error comes from a bootstrap (1000 draws with a fixed seed) over
        trials or, for a single trial, over blocks of steps. NaN for a single step.
    """

    exponents: np.ndarray
    std_error: np.ndarray
    dimension: Estimate


def lyapunov_spectrum(
    linearization: Linearization,
    n_exponents: int | None = None,
    burn_in: int = 0,
    *,
    n_trials: int | None = None,
) -> LyapunovSpectrum:
    """Return the results of `lyapunov_exponents` for the same arguments, and the dimension."""
    if not isinstance(linearization, Linearization):
        raise TypeError(
            f"linearization must be what linearize returns, got a {type(linearization).__name__}."
        )
    tangent = linearization.tangent
    n_available, n_timesteps, n_states = tangent.shape
    k = n_states if n_exponents is None else check_positive_int(n_exponents, "n_exponents")
    if k > n_states:
        raise ValueError(f"n_exponents must be at most the number of states {n_states}, got {k}.")
    check_positive_int(burn_in, "burn_in", minimum=0)
    longest = n_timesteps if tangent.mask is None else int(tangent.mask.sum(0).max())
    if burn_in >= longest - 1:
        raise ValueError(
            f"burn_in must leave at least one of the {longest - 1} Jacobians J_2..J_T, got "
            f"{burn_in}."
        )
    chosen = torch.arange(n_available)
    if tangent.mask is not None:  # Other trials have no step that counts.
        chosen = chosen[tangent.mask.sum(0).flatten().cpu() > burn_in + 1]
    if n_trials is not None:
        chosen = _evenly(chosen, check_positive_int(n_trials, "n_trials"))
    chunk = max(1, _MEMORY // (20 * 8 * n_states**2))
    parts = (
        [tangent]
        if chunk >= len(chosen) == n_available
        else map(tangent.select, chosen.split(chunk))
    )
    kept = [_leading_growth(part, k)[:, burn_in:] for part in parts]
    return _averaged([steps[~np.isnan(steps).any(1)] for steps in np.concatenate(kept)])


def _evenly(indices: Tensor, n: int) -> Tensor:
    """Return at most n of the indices, including the first and the last if n is two or more."""
    if len(indices) <= n:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, n).round().long()]


def _leading_growth(tangent: NetworkTangent, k: int) -> np.ndarray:
    """Return the log growth of k directions; if some vanish, of the k that last longest."""
    growth = _growth(tangent, k)
    n_states = tangent.shape[-1]
    if k < n_states and np.isneginf(growth).any():
        return _growth(tangent, n_states)[..., :k]
    return growth


def _growth(tangent: NetworkTangent, k: int) -> np.ndarray:
    """Return the logs of the diagonals of R along each trial, (n_trials, n_timesteps - 1, k).

    Directions that vanish at some step come last.
    """
    n_trials, n_timesteps, n_states = tangent.shape
    q = torch.eye(n_states, k, dtype=torch.float64, device=tangent.device)
    q = q.expand(n_trials, n_states, k)
    label = torch.arange(k, device=tangent.device).expand(n_trials, k)
    growth = []
    for t in range(1, n_timesteps):
        step = step_matrices(tangent, t)[0].double()  # J_t, (B, H, H)
        # Rounding of the product and its QR: a column smaller than this has lost its direction.
        lost = n_states * _EPS * (step.abs() @ q.abs()).sum(1)
        q_new, sizes, order = _qr_dead_last(step @ q, lost)
        label_new = label.gather(1, order)
        logs = torch.empty_like(sizes).scatter_(1, label_new, sizes.log())
        if tangent.mask is not None:
            valid = tangent.mask[t].bool()
            logs = torch.where(valid, logs, torch.nan)
            q_new = torch.where(valid[..., None], q_new, q)
            label_new = torch.where(valid, label_new, label)
        q, label = q_new, label_new
        growth.append(logs)
    logs = torch.stack(growth).gather(2, label.expand(len(growth), n_trials, k))
    return logs.movedim(1, 0).cpu().numpy()


def _qr_dead_last(columns: Tensor, lost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, |R_ii| and the order of the columns, with dependent columns last.

    A column in the span of the columns before it has R_ii = 0, and QR completes Q by an arbitrary
    direction. That direction would take from later columns what they have along it, so dependent
    columns are moved to the end. An R_ii at the level of rounding counts as 0.

    Parameters
    ----------
    columns : Tensor of shape (n_trials, n_states, k)
        The matrices to factorise.
    lost : Tensor of shape (n_trials, k)
        The |R_ii| up to which a column counts as being in the span of the others.

    Returns
    -------
    q : Tensor of shape (n_trials, n_states, k)
        Orthonormal columns.
    sizes : Tensor of shape (n_trials, k)
        |R_ii|, 0 for dependent columns.
    order : Tensor of int, shape (n_trials, k)
        The original index of each column.
    """
    n_trials, _, k = columns.shape
    order = torch.arange(k, device=columns.device).expand(n_trials, k).clone()
    q, r = torch.linalg.qr(columns)
    sizes = r.diagonal(dim1=1, dim2=2).abs()
    dead = sizes <= lost
    if not dead.any():
        return q, sizes, order
    # Tell whether columns after the first dependent one reach outside the span of those before it.
    first = torch.where(dead, order, k).amin(1, keepdim=True)
    rest = r.masked_fill((order < first)[:, :, None], 0.0)
    early = ((torch.linalg.vector_norm(rest, dim=1) > lost) & (order > first)).any(1)
    if early.any():
        start = int(first[early].min())
        dead[early, start:] = _in_span(r[early, start:, start:], lost[early, start:])
        order[early] = dead[early].long().argsort(dim=1, stable=True)
        dead, columns = dead.gather(1, order), columns.gather(2, order[:, None].expand_as(columns))
        q[early], r = torch.linalg.qr(columns[early])
        sizes[early] = r.diagonal(dim1=1, dim2=2).abs()
    return q, sizes.masked_fill(dead, 0.0), order


def _in_span(columns: Tensor, lost: Tensor) -> Tensor:
    """Return which columns are in the span of the columns before them, up to ``lost``."""
    rows = columns.mT
    basis = torch.zeros_like(rows, memory_format=torch.contiguous_format)
    dead = torch.zeros_like(lost, dtype=torch.bool)
    for i in range(rows.shape[1]):
        left = rows[:, i, None]
        for _ in range(2):  # Once would leave rounding, from nearly parallel columns.
            left = left - (left @ basis[:, :i].mT) @ basis[:, :i]
        size = torch.linalg.vector_norm(left[:, 0], dim=1)
        dead[:, i] = size <= lost[:, i]
        basis[:, i] = torch.where(dead[:, i, None], 0.0, left[:, 0] / size[:, None])
    return dead


def _averaged(trials: list[np.ndarray]) -> LyapunovSpectrum:
    """Average the log growth of each trial, (n_steps, k), over its steps and over the trials."""
    trials = [steps for steps in trials if len(steps)]
    means = np.array([steps.mean(0) for steps in trials])
    parts = means
    if len(trials) == 1:
        blocks = np.array_split(trials[0], min(10, len(trials[0])))
        parts = np.array([block.mean(0) for block in blocks])
    mean = means.mean(0)
    order = np.argsort(-mean, kind="stable")
    error = np.full_like(mean, np.nan)
    if len(parts) > 1:
        with np.errstate(invalid="ignore"):  # Infinities have no spread.
            spread = parts.std(0, ddof=1) / len(parts) ** 0.5
        error = np.where(np.isneginf(mean), 0.0, spread)
    dimension = Estimate(kaplan_yorke_dimension(mean), _dimension_error(mean, parts))
    return LyapunovSpectrum(mean[order], error[order], dimension)


def _dimension_error(mean: np.ndarray, parts: np.ndarray) -> float:
    """Return the bootstrap standard error of the dimension, resampling the parts.

    The dimension jumps from 0 to 1 when the largest exponent crosses zero, which a jackknife would
    miss.
    """
    n = len(parts)
    if n < 2:
        return float("nan")
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_N_RESAMPLES) / n
    alive = np.isfinite(mean)  # A direction that vanishes in one trial counts as lost in all.
    others = np.full((len(drawn), len(mean)), -np.inf)
    others[:, alive] = drawn @ parts[:, alive]
    dimensions = np.array([kaplan_yorke_dimension(values) for values in others])
    return float(dimensions.std() * np.sqrt(n / (n - 1)))


def kaplan_yorke_dimension(exponents: ArrayLike) -> float:
    """Return the Kaplan-Yorke dimension of a Lyapunov spectrum.

    D = j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|, with j the largest number of exponents
    whose sum is not negative; 0 if the first is negative.

    Parameters
    ----------
    exponents : array-like of shape (n_exponents,)
        All exponents, or enough of the largest for their sum to turn negative.

    Returns
    -------
    float
        The dimension; the number of exponents if their sum never turns negative.

    Raises
    ------
    ValueError
        If ``exponents`` is empty, holds NaN or has more than one axis.

    Examples
    --------
    >>> round(kaplan_yorke_dimension([0.419, -1.623]), 3)
    1.258
    """
    array = as_array(exponents, "exponents")
    if array.dtype.kind not in "fiubO":
        raise ValueError(f"exponents must be real numbers, got dtype {array.dtype}.")
    with naming("exponents"), np.errstate(over="ignore"):
        values = array.astype(float)
    # Minus infinity is the exponent of a direction that vanishes within one step.
    if values.ndim != 1 or not len(values) or not (values < np.inf).all():
        raise ValueError(
            f"exponents must be a sequence of one or more numbers, got {exponents!r}."
        )
    values = np.sort(values)[::-1]
    sums = np.cumsum(values)
    if sums[-1] >= 0:
        return float(len(values))
    j = int(np.argmax(sums < 0))
    if j == 0:
        return 0.0
    return j + float(sums[j - 1] / abs(values[j]))
