"""compare: fitted runs of different seeds, cells and sizes, on the same trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from kpflow_sklearn.operators import linearize
from kpflow_sklearn.runs._overlap import OPERATORS, gram_cosine, is_small, trial_time_gram

COMPARED = ("states", *OPERATORS)


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

    For every pair of runs the cosine of their Grams K, PP* and PKP* (and Z Z^T of the states) on
    trials and steps, each traced over its own hidden axis: 1 where two networks relate the
    (trial, step) pairs alike. Networks are taken at their last snapshot.

    Equation: <A, B>_F / (|A|_F |B|_F), with A and B the partial traces over hidden units.

    Parameters
    ----------
    runs : mapping of str to fitted estimator
        Analyzers or trainers, by a name for each.
    X : array-like of shape (n_trials, n_timesteps, n_features)
        Trials that all networks are run on.
    mask : array-like of bool, shape (n_trials, n_timesteps), optional
        Valid steps.
    operators : sequence of {"states", "K", "P", "PKP"}, default=all
        What to compare.
    n_probes : int, default=64
        Random directions for operators too large to be formed.
    random_state : int, RandomState or None, default=0
        Their seed.

    Returns
    -------
    DataFrame
        One row for each (run, other_run, operator), a run with itself included: value,
        std_error (0 if exact), method, n_trials and the reason where a value is missing.

    Raises
    ------
    ValueError
        If ``runs`` is no mapping, or X does not fit a network.

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
    check_subset(operators, "operators", COMPARED)
    check_positive_int(n_probes, "n_probes", minimum=4)
    trials = check_sequences(X)
    valid = check_mask(mask, trials)
    seed = draw_seed(random_state)
    linearized = {}
    for name, run in runs.items():
        if not hasattr(run, "fit") or isinstance(run, type):
            raise ValueError(
                f"runs[{name!r}] must be a fitted analyzer or trainer, got a {type(run).__name__}."
            )
        check_is_fitted(run, "network_")
        if run.n_features_in_ != trials.shape[-1]:
            raise ValueError(
                f"X has {trials.shape[-1]} features, but run {name!r} takes {run.n_features_in_}."
            )
        linearized[name] = linearize(run.network_, trials, valid)
    exact = all(is_small(lin) for lin in linearized.values())
    rows = []
    for operator in operators:
        grams = {
            name: trial_time_gram(
                lin,
                operator,
                exact=exact,
                n_probes=n_probes,
                seed=int(np.random.SeedSequence([seed, k]).generate_state(1)[0]),
            )
            for k, (name, lin) in enumerate(linearized.items())
        }
        for run, other in combinations_with_replacement(grams, 2):
            found = gram_cosine(grams[run], grams[other])
            rows.append(
                {
                    "run": str(run),
                    "other_run": str(other),
                    "operator": operator,
                    "value": found.value,
                    "std_error": found.std_error,
                    "method": "exact" if grams[run].exact else "randomized",
                    "n_trials": len(trials),
                    "reason": found.reason,
                }
            )
    return pd.DataFrame(rows)
