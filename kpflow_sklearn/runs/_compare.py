"""compare: how similar the operators of trained networks are on the same trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.checks import (
    check_mask,
    check_positive_int,
    check_sequences,
    check_subset,
)
from kpflow_sklearn._common.random import draw_seed
from kpflow_sklearn.operators import Linearization, linearize
from kpflow_sklearn.results import OPERATORS, ZERO, Estimate
from kpflow_sklearn.runs._trial_time_gram import TrialTimeGram, is_small, trial_time_gram
from kpflow_sklearn.spectra import widening

COMPARED = ("states", *OPERATORS)
PAIR_COLUMNS = [
    "run",
    "other_run",
    "operator",
    "value",
    "std_error",
    "method",
    "n_trials",
    "reason",
]


def compare(
    runs: Mapping[str, Any],
    X: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    operators: Sequence[str] = COMPARED,
    n_probes: int = 64,
    random_state: int | np.random.RandomState | None = 0,
) -> pd.DataFrame:
    """Compare the operators of trained networks, whatever their sizes and cells.

    For every pair of runs, compute the cosine between their Grams K, PP* and PKP* (and Z Z^T of
    the states) over trials and time steps, each traced over its own hidden axis. The cosine is 1
    if the two networks relate (trial, step) pairs in the same way. Each network is taken at its
    last snapshot.

    Equation: <A, B>_F / (|A|_F |B|_F), with A and B the partial traces over hidden units.

    Parameters
    ----------
    runs : mapping of str to fitted estimator
        Analyzers or trainers by name.
    X : array-like of shape (n_trials, n_timesteps, n_features)
        Trials on which all networks are run.
    mask : array-like of bool, shape (n_trials, n_timesteps), optional
        Valid steps.
    operators : sequence of {"states", "K", "P", "PKP"}, default=all
        What to compare.
    n_probes : int, default=64
        Number of random directions for operators that are too large to form.
    random_state : int, RandomState or None, default=0
        Seed of the random directions.

    Returns
    -------
    DataFrame
        One row per (run, other_run, operator), pairs of a run with itself included: value,
        std_error (0 if exact), method, n_trials, and the reason if a value is missing.

    Raises
    ------
    ValueError
        If ``runs`` is not a mapping, or X does not fit a network.

    Examples
    --------
    >>> from kpflow_sklearn import RecurrentTrainer, compare
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, evenly_spaced=True)
    >>> def trained(cell, size):
    ...     return RecurrentTrainer(cell, hidden_size=size, max_iter=5, random_state=0).fit(X, y)
    >>> table = compare({"gru": trained("gru", 4), "lstm": trained("lstm", 6)}, X)
    >>> table.pivot(index=["run", "other_run"], columns="operator", values="value").shape
    (3, 4)
    """
    if not isinstance(runs, Mapping) or not runs:
        raise ValueError(
            f"runs must map names to fitted estimators, got a {type(runs).__name__} of length "
            f"{len(runs) if hasattr(runs, '__len__') else 'unknown'}."
        )
    operators = check_subset(operators, "operators", COMPARED)
    check_positive_int(n_probes, "n_probes", minimum=4)
    trials = check_sequences(X)
    valid = check_mask(mask, trials)
    seed = draw_seed(random_state)
    linearized = {name: _linearize(name, run, trials, valid) for name, run in runs.items()}
    exact = all(is_small(lin) for lin in linearized.values())
    seeds = [int(np.random.SeedSequence([seed, k]).generate_state(1)[0]) for k in range(len(runs))]
    rows = []
    for operator in operators:
        grams = {
            name: trial_time_gram(lin, operator, exact=exact, n_probes=n_probes, seed=draw)
            for (name, lin), draw in zip(linearized.items(), seeds, strict=True)
        }
        for run, other in combinations_with_replacement(grams, 2):
            names = {"run": str(run), "other_run": str(other), "operator": operator}
            cosine = gram_cosine(grams[run], grams[other])._asdict()
            rows.append(names | cosine | {"n_trials": len(trials)})
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def _linearize(name: str, run: Any, X: np.ndarray, mask: np.ndarray | None) -> Linearization:
    """Return the linearization of a fitted run on the trials, or refuse the run."""
    if not hasattr(run, "fit") or isinstance(run, type):
        raise ValueError(
            f"runs[{name!r}] must be a fitted analyzer or trainer, got a {type(run).__name__}."
        )
    check_is_fitted(run, "network_")
    if run.n_features_in_ != X.shape[-1]:
        raise ValueError(
            f"X has {X.shape[-1]} features, but run {name!r} takes {run.n_features_in_}."
        )
    return linearize(run.network_, X, mask)


def gram_cosine(a: TrialTimeGram, b: TrialTimeGram) -> Estimate:
    """Return <A, B> / (|A| |B|) for two Grams A and B over the same trials and steps.

    Products <A, A> are taken between different random factors, which makes them unbiased. The
    standard error comes from a jackknife over the factors of both Grams, widened for few factors.

    Parameters
    ----------
    a, b : TrialTimeGram
        Grams with independent random factors, or the same Gram twice.

    Returns
    -------
    Estimate
        The cosine; an estimate may exceed 1 because of its error.
    """
    method = "exact" if a.exact and b.exact else "randomized"
    if a is b:
        zero = Estimate.missing(ZERO, method)
        return Estimate(1.0, method=method) if a.factors.any() else zero
    a, b = (TrialTimeGram(g.factors / g.factors.abs().max().clamp(min=1e-300)) for g in (a, b))
    within_a, within_b, between = _overlaps(a, a), _overlaps(b, b), _overlaps(a, b)
    value = _cosine(within_a, within_b, between)
    if not np.isfinite(value):
        return Estimate.missing(ZERO, method)
    variance = _jackknife(
        a, lambda i: _cosine(_without(within_a, i), within_b, np.delete(between, i, 0))
    ) + _jackknife(b, lambda i: _cosine(within_a, _without(within_b, i), np.delete(between, i, 1)))
    return Estimate(value, variance**0.5, method=method)


def _jackknife(gram: TrialTimeGram, without: Callable[[int], float]) -> float:
    """Return the variance due to the n random factors of a Gram.

    This is (n - 1) times the variance of the n cosines that each leave one factor out. It is
    widened, as in `spectra`, because each factor contributes a skewed quadratic form.

    Parameters
    ----------
    gram : TrialTimeGram
        The Gram.
    without : callable
        Maps the index of a factor to the cosine without it.
    """
    if gram.exact:
        return 0.0
    n = len(gram.factors)
    flat = gram.factors.flatten(1)  # <Y_i, Y_j>_F, (n, n)
    widened = widening((flat @ flat.mT).cpu().numpy())
    return widened**2 * (n - 1) * float(np.var([without(i) for i in range(n)]))


def _overlaps(a: TrialTimeGram, b: TrialTimeGram) -> np.ndarray:
    """Return |Y_i^T Y_j|_F^2 for all factors i of ``a`` and j of ``b``."""
    out = np.empty((len(a.factors), len(b.factors)))
    joined = b.factors.movedim(0, 1).flatten(1)  # (BT, n_factors * n_columns)
    for i, y in enumerate(a.factors):
        out[i] = (y.mT @ joined).square().sum(0).reshape(len(b.factors), -1).sum(1).cpu().numpy()
    return out


def _without(overlaps: np.ndarray, i: int) -> np.ndarray:
    return np.delete(np.delete(overlaps, i, 0), i, 1)


def _cosine(within_a: np.ndarray, within_b: np.ndarray, between: np.ndarray) -> float:
    """Return the cosine of two Grams from the overlaps of their factors."""
    squares = _square(within_a) * _square(within_b)
    return float(between.mean() / squares**0.5) if squares > 0 else np.nan


def _square(overlaps: np.ndarray) -> float:
    """Return |G|_F^2, from pairs of different factors if there are several."""
    n = len(overlaps)
    if n == 1:
        return float(overlaps[0, 0])
    return float((overlaps.sum() - np.trace(overlaps)) / (n * (n - 1)))
