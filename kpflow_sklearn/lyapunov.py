"""Lyapunov exponents of a network along its trajectories, and the dimension they imply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kpflow_sklearn._common.arrays import as_array, naming
from kpflow_sklearn._common.checks import check_positive_int, check_real
from kpflow_sklearn._common.spacing import evenly_spaced
from kpflow_sklearn._common.tensors import with_gradients
from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra import Growth, follow

_N_RESAMPLES = 1000
#: The most trials that an analysis follows.
N_FOLLOWED = 256
#: Bytes of the matrices followed at a time, together with their QR factors.
_MEMORY = 2**28
#: Blocks of steps over which the standard error of a single trial is computed.
_N_BLOCKS = 10
#: Trials that are followed between two looks at the errors, which fewer would make unreliable.
_AT_ONCE = 16
_GOLDEN_RATIO = (1 + 5**0.5) / 2


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

    Equation: lambda_i = mean over t of ln |R_t,ii|, with Q_t R_t = J_t Q_{t-1}. One factorisation
    serves several steps, as long as a bound on the rounding keeps every R_ii correct to 1e-4.

    Parameters
    ----------
    linearization : Linearization
        The linearization, from `linearize`. Masked steps are left out.
    n_exponents : int, optional
        Number of largest exponents; by default all, one per state.
    burn_in : int, default=0
        Number of initial steps that are not counted, because the directions still settle.
    n_trials : int, optional
        Largest number of trials to follow, by default all. They are evenly spaced among the trials
        that have steps after ``burn_in``.

    Returns
    -------
    exponents : ndarray of shape (n_exponents,)
        Per step, in descending order. Minus infinity for directions that vanish, or shrink below
        the resolution of float64, within one step of any trial.
    standard_error : ndarray of shape (n_exponents,)
        Standard errors over trials or, for a single trial, over at most ten blocks of consecutive
        steps; NaN for a single step.

    Raises
    ------
    TypeError
        If ``linearization`` is not a `Linearization`, or a number is not an integer.
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
    n_trials : int
        Number of trials that were followed.
    """

    exponents: np.ndarray
    std_error: np.ndarray
    dimension: Estimate
    n_trials: int


def lyapunov_spectrum(
    linearization: Linearization,
    n_exponents: int | None = None,
    burn_in: int = 0,
    *,
    n_trials: int | None = None,
    tol: float | None = None,
    memory_limit: int | None = None,
) -> LyapunovSpectrum:
    """Return the results of `lyapunov_exponents` for the same arguments, and the dimension.

    With ``tol``, only as many trials are followed, 16 at a time, as are needed for relative
    standard errors of at most ``tol`` in every growth per step, exp(lambda_i), and in the
    dimension. ``memory_limit`` bounds the bytes that the matrices of the followed trials use.
    """
    if not isinstance(linearization, Linearization):
        raise TypeError(
            f"linearization must be a result of linearize, got a {type(linearization).__name__}."
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
    if n_trials is not None:
        check_positive_int(n_trials, "n_trials")
    if tol is not None:
        check_real(tol, "tol", 0, open_minimum=True)
    if memory_limit is not None:
        check_positive_int(memory_limit, "memory_limit", maximum=None)
    chosen = _choose_trials(tangent, burn_in, n_trials)
    # For a single trial, blocks of steps take the place of trials.
    n_blocks = min(_N_BLOCKS, longest - 1 - burn_in) if len(chosen) == 1 else 1
    blocks = np.array_split(np.arange(burn_in, longest - 1), n_blocks)
    edges = [burn_in, *(int(block[-1]) + 1 for block in blocks)]
    chunk = max(1, min(_MEMORY, memory_limit or _MEMORY) // (20 * 8 * n_states**2))
    if tol is None and chunk >= len(chosen) == n_available:
        return _averaged(*_leading_growth(tangent, k, edges).between(edges))
    logs, steps = np.empty((0, n_blocks, k)), np.empty((0, n_blocks))
    for trials in chosen.split(chunk if tol is None else min(chunk, _AT_ONCE)):
        more = _leading_growth(tangent.select(trials), k, edges).between(edges)
        logs, steps = np.concatenate([logs, more[0]]), np.concatenate([steps, more[1]])
        if tol is not None and len(logs) >= _AT_ONCE and _is_known(_averaged(logs, steps), tol):
            break
    return _averaged(logs, steps)


def _choose_trials(tangent: NetworkTangent, burn_in: int, n_trials: int | None) -> Tensor:
    """Return the indices of the trials to follow; the first of them are spread over all."""
    chosen = torch.arange(tangent.shape[0])
    if tangent.mask is not None:  # Trials without a step after burn_in are left out.
        chosen = chosen[tangent.mask.sum(0).flatten().cpu() > burn_in + 1]
    if n_trials is not None:
        chosen = chosen[evenly_spaced(len(chosen), n_trials)]
    # The multiples of the golden ratio fill the unit interval evenly, however many there are.
    return chosen[np.argsort(np.arange(len(chosen)) * _GOLDEN_RATIO % 1)]


def _is_known(spectrum: LyapunovSpectrum, tol: float) -> bool:
    """Tell whether all exp(lambda_i) and the dimension have relative standard errors up to tol."""
    dimension = spectrum.dimension
    # The relative error of exp(lambda) is the error of lambda.
    return spectrum.std_error.max() <= tol and dimension.std_error <= tol * dimension.value


def _leading_growth(tangent: NetworkTangent, k: int, stops: list[int]) -> Growth:
    """Return the growth of k directions; if some vanish, of the k that last longest."""
    growth = follow(tangent, k, stops)
    n_states = tangent.shape[-1]
    if k < n_states and np.isneginf(growth.logs).any():
        growth = follow(tangent, n_states, stops)
        return growth._replace(logs=growth.logs[..., :k])
    return growth


def _averaged(logs: np.ndarray, steps: np.ndarray) -> LyapunovSpectrum:
    """Average the log growth over steps and trials.

    ``logs`` (n_trials, n_blocks, k) are sums over the steps of each block, and ``steps``
    (n_trials, n_blocks) is the number of these steps.
    """
    means = logs.sum(1) / steps.sum(1)[:, None]
    parts = means if len(means) > 1 else logs[0] / steps[0][:, None]
    mean = means.mean(0)
    order = np.argsort(-mean, kind="stable")
    error = np.full_like(mean, np.nan)
    if len(parts) > 1:
        with np.errstate(invalid="ignore"):  # Infinities have no spread.
            spread = parts.std(0, ddof=1) / len(parts) ** 0.5
        error = np.where(np.isneginf(mean), 0.0, spread)
    dimension = Estimate(kaplan_yorke_dimension(mean), _dimension_error(mean, parts))
    return LyapunovSpectrum(mean[order], error[order], dimension, len(logs))


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
