"""Group tasks by a matrix of similarities, and find the snapshot from which the groups last."""

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
    """Group the tasks by average linkage on 1 - similarity.

    Parameters
    ----------
    similarity : ndarray of shape (n_tasks, n_tasks)
        Similarities of at most 1, which are symmetrised. A task with no similarity to any other
        (all NaN) forms a group of its own, not counted in ``n_groups``.
    n_groups : int, optional
        Number of groups of the other tasks. By default it is the number with the best silhouette
        score, the smallest of several best ones; if all tasks are equally far apart, they form
        one group. Two tasks form two groups.

    Returns
    -------
    ndarray of int, shape (n_tasks,)
        Group of each task, numbered in order of appearance.
    """
    apart = np.where(np.eye(len(similarity), dtype=bool), np.nan, similarity + similarity.T)
    comparable = np.isfinite(apart).any(1)
    groups = len(similarity) + np.arange(len(similarity))
    if comparable.sum() < 2:
        return _in_order(groups)
    # A pair without a similarity has the largest distance, that of a cosine of -1.
    distance = np.nan_to_num(1 - apart[np.ix_(comparable, comparable)] / 2, nan=2.0).clip(min=0)
    np.fill_diagonal(distance, 0.0)
    groups[comparable] = _cut(distance, n_groups)
    return _in_order(groups)


def _cut(distance: np.ndarray, n_groups: int | None) -> np.ndarray:
    n_tasks = len(distance)
    # Distances, and means of them, that differ only by rounding are made equal.
    distance = np.round(distance, _DECIMALS)
    tree = linkage(squareform(distance, checks=False), method="average")
    tree[:, 2] = np.round(tree[:, 2], _DECIMALS)
    if n_groups is not None:
        return cut_tree(tree, n_clusters=min(n_groups, n_tasks)).ravel()
    if n_tasks == 2:
        return np.arange(2)
    # Cut at the height that leaves k groups; ties leave fewer groups, or only one. The criterion
    # "maxclust" does not serve: up to SciPy 1.11 it forms one group of any three tasks.
    cuts = [fcluster(tree, tree[n_tasks - k - 1, 2], "distance") for k in range(2, n_tasks)]
    cuts = [cut for cut in cuts if len(np.unique(cut)) > 1]
    if not cuts:
        return np.zeros(n_tasks, dtype=int)
    scores = [silhouette_score(distance, cut, metric="precomputed") for cut in cuts]
    return cuts[int(np.argmax(np.round(scores, _DECIMALS)))]


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Renumber groups by first appearance, so that equal groupings become equal arrays."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def first_lasting(groupings: Sequence[np.ndarray], final: np.ndarray) -> int | None:
    """Return the first index from which on all groupings equal ``final``, or None."""
    same = [bool(np.array_equal(grouping, final)) for grouping in groupings]
    if not same or not same[-1]:
        return None
    return len(same) - (same[::-1].index(False) if False in same else len(same))


def margin(similarity: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean similarity within groups minus the mean similarity between them.

    Parameters
    ----------
    similarity : ndarray of shape (n_tasks, n_tasks)
        Similarities of the tasks; the diagonal is not used.
    groups : ndarray of int, shape (n_tasks,)
        Group of each task.

    Returns
    -------
    float
        The margin; NaN if no group has two tasks, if there is only one group, or if a
        similarity is NaN.
    """
    together = groups[:, None] == groups
    pair = ~np.eye(len(groups), dtype=bool)
    if not (together & pair).any() or together.all():
        return float("nan")
    return float(similarity[together & pair].mean() - similarity[~together].mean())


def chance_of_margin(similarity: np.ndarray, groups: np.ndarray) -> float:
    """Return the share of permutations of the task labels that reach the margin of the groups.

    All permutations are counted for up to 7 tasks, and 5000 random ones for more. The smallest
    possible share for four tasks in two pairs is 1/3. The share is informative only if the groups
    were not formed from the same matrix.

    Parameters
    ----------
    similarity : ndarray of shape (n_tasks, n_tasks)
        Similarities of the tasks.
    groups : ndarray of int, shape (n_tasks,)
        Group of each task.

    Returns
    -------
    float
        A share above 0; NaN if the margin is NaN.
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
    """Return a grouping in the form "A + B | C"."""
    return " | ".join(
        " + ".join(str(name) for name in names[groups == g]) for g in range(groups.max() + 1)
    )
