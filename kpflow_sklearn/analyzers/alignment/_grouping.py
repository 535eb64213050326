"""Groups of tasks: from a matrix of similarities, and when over training they came to stay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

_ALL_PERMUTATIONS = 7
_N_PERMUTATIONS = 5000
_DECIMALS = 12


def group_tasks(similarity: np.ndarray, n_groups: int | None = None) -> np.ndarray:
    """Return the groups of average linkage on 1 - similarity.

    Parameters
    ----------
    similarity : ndarray of shape (n_tasks, n_tasks)
        At most 1; it is symmetrised. A task that has no similarity to any other (NaN) is a group
        of its own, beyond ``n_groups``.
    n_groups : int, optional
        How many groups of the others; default the number of best silhouette, of the smallest
        where several are best, and one group where all are equally far. Two tasks are two groups.

    Returns
    -------
    ndarray of int, shape (n_tasks,)
        Group of each task, numbered in order of appearance.
    """
    apart = np.where(np.eye(len(similarity), dtype=bool), np.nan, similarity + similarity.T)
    known = np.isfinite(apart).any(1)
    groups = len(similarity) + np.arange(len(similarity))
    if known.sum() < 2:
        return _in_order(groups)
    # What is unknown of a pair counts as far as can be.
    distance = np.nan_to_num(1 - apart[np.ix_(known, known)] / 2, nan=2.0).clip(min=0)
    np.fill_diagonal(distance, 0.0)
    groups[known] = _cut(distance, n_groups)
    return _in_order(groups)


def _cut(distance: np.ndarray, n_groups: int | None) -> np.ndarray:
    n_tasks = len(distance)
    # Distances that differ by rounding alone are equal, and so are the means that linkage takes.
    distance = np.round(distance, _DECIMALS)
    tree = linkage(squareform(distance, checks=False), method="average")
    tree[:, 2] = np.round(tree[:, 2], _DECIMALS)
    if n_groups is not None:
        return cut_tree(tree, n_clusters=min(n_groups, n_tasks)).ravel()
    if n_tasks == 2:
        return np.arange(2)
    # At the height that leaves k groups; equal heights leave fewer, or a single one. Not by
    # "maxclust", which finds one group of any three tasks up to SciPy 1.11.
    cuts = [fcluster(tree, tree[n_tasks - k - 1, 2], "distance") for k in range(2, n_tasks)]
    cuts = [cut for cut in cuts if len(np.unique(cut)) > 1]
    if not cuts:
        return np.zeros(n_tasks, dtype=int)
    scores = [silhouette_score(distance, cut, metric="precomputed") for cut in cuts]
    return cuts[int(np.argmax(np.round(scores, _DECIMALS)))]


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Return groups numbered by appearance, so that equal groupings are equal arrays."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def first_lasting(groupings: Sequence[np.ndarray], final: np.ndarray) -> int | None:
    """Return the place of the first grouping from which on all equal ``final``; None if absent.

    Parameters
    ----------
    groupings : sequence of ndarray
        Over training.
    final : ndarray
        A grouping.

    Returns
    -------
    int or None
        Index into ``groupings``.
    """
    same = [bool(np.array_equal(grouping, final)) for grouping in groupings]
    if not same or not same[-1]:
        return None
    return len(same) - (same[::-1].index(False) if False in same else len(same))


def margin(similarity: np.ndarray, groups: np.ndarray) -> float:
    """Return mean similarity within groups less mean similarity between them.

    Parameters
    ----------
    similarity : ndarray of shape (n_tasks, n_tasks)
        Its diagonal is not used.
    groups : ndarray of int, shape (n_tasks,)
        A grouping.

    Returns
    -------
    float
        NaN where no pair is within a group, none between two, or a similarity is NaN.
    """
    together = groups[:, None] == groups
    pair = ~np.eye(len(groups), dtype=bool)
    if not (together & pair).any() or together.all():
        return float("nan")
    return float(similarity[together & pair].mean() - similarity[~together].mean())


def chance_of_margin(similarity: np.ndarray, groups: np.ndarray) -> float:
    """Return the share of all assignments of the tasks to groups with at least this margin.

    The tasks' labels are permuted: all permutations up to 7 tasks, 5000 drawn ones beyond. Of
    four tasks in two pairs the smallest share there can be is 1/3. It says something only where
    the groups were not cut from this very matrix.

    Parameters
    ----------
    similarity : ndarray of shape (n_tasks, n_tasks)
        A matrix.
    groups : ndarray of int, shape (n_tasks,)
        A grouping.

    Returns
    -------
    float
        Above 0; NaN where the margin is.
    """
    observed = margin(similarity, groups)
    if np.isnan(observed):
        return float("nan")
    n_tasks = len(groups)
    if n_tasks <= _ALL_PERMUTATIONS:
        orders = np.array(list(permutations(range(n_tasks))))
    else:
        rng = np.random.default_rng(0)
        drawn = [rng.permutation(n_tasks) for _ in range(_N_PERMUTATIONS - 1)]
        orders = np.array([np.arange(n_tasks), *drawn])
    margins = np.array([margin(similarity, groups[order]) for order in orders])
    return float((margins >= observed - 1e-12).mean())


def describe_groups(names: np.ndarray, groups: np.ndarray) -> str:
    """Return a grouping in words, as "A + B | C".

    Parameters
    ----------
    names : ndarray of shape (n_tasks,)
        Tasks.
    groups : ndarray of int, shape (n_tasks,)
        Group of each.

    Returns
    -------
    str
        Groups in order, separated by bars.
    """
    return " | ".join(
        " + ".join(str(name) for name in names[groups == g]) for g in range(groups.max() + 1)
    )
