"""Similarity of trajectories: cosines of vectors, of matched trials and of second moments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cosines(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Return the cosines between the rows of ``a`` and those of ``b`` (``a`` by default).

    Parameters
    ----------
    a, b : Tensor of shape (n, size) and (m, size)
        The vectors, as rows.

    Returns
    -------
    Tensor of shape (n, m)
        Cosines between -1 and 1; NaN for a zero vector.
    """
    a, b = (_unit(v) for v in (a, a if b is None else b))
    return (a @ b.T).clamp(-1, 1)


def _unit(v: Tensor) -> Tensor:
    """Return the rows at unit length, scaled first so that no square overflows or vanishes."""
    v = v.double()
    v = v / v.abs().amax(1, keepdim=True)  # A zero row becomes NaN.
    return v / v.norm(dim=1, keepdim=True)


def moment_overlap(signals: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
    """Return tr(C_i C_j) / (|C_i| |C_j|) of the hidden second moments C of trajectories.

    C is the sum over trials and steps of the outer products of the states, so trials need not be
    matched. The overlap is 1 if the second moments are proportional, and 0 if the signals live in
    orthogonal subspaces.

    Parameters
    ----------
    signals : sequence of Tensor (n_trials, n_timesteps, n_states)
        One signal per task, on any number of trials.
    masks : sequence of Tensor (n_trials, n_timesteps) or None
        Valid steps of each signal.

    Returns
    -------
    Tensor of shape (n_tasks, n_tasks)
        Overlaps between 0 and 1; NaN for a zero signal.
    """
    moments = []
    for signal, mask in zip(signals, masks, strict=True):
        flat = (signal if mask is None else signal * mask[..., None]).flatten(0, 1).double()
        flat = flat / flat.abs().max()  # The scale cancels in the overlap.
        moments.append((flat.mT @ flat).flatten())
    return cosines(torch.stack(moments))


def matched_cosines(
    signals: Tensor, member: Tensor, conditions: Tensor, mask: Tensor | None
) -> Tensor:
    """Return the cosine of signal i on task i with signal j on task j, condition by condition.

    Trials of the same task and condition are averaged. Two tasks are compared on the conditions
    that they share, at the steps at which both have a valid trial.

    Parameters
    ----------
    signals : Tensor of shape (n_tasks, n_trials, n_timesteps, n_states)
        One signal per task, on all trials.
    member : Tensor of bool, shape (n_tasks, n_trials)
        The trials of each task.
    conditions : Tensor of int, shape (n_trials,)
        Index of each trial's condition.
    mask : Tensor of bool, shape (n_trials, n_timesteps), or None
        Valid steps.

    Returns
    -------
    Tensor of shape (n_tasks, n_tasks)
        Cosines between -1 and 1; NaN for a zero signal.
    """
    n_tasks, n_trials, n_timesteps, _ = signals.shape
    valid = torch.ones(n_trials, n_timesteps, dtype=torch.bool) if mask is None else mask.cpu()
    n_conditions = int(conditions.max()) + 1
    means, present = [], []
    for signal, trials in zip(signals, member, strict=True):
        index, steps = conditions[trials], valid[trials].double()
        values = signal[trials].double().cpu() * steps[..., None]
        count = torch.zeros(n_conditions, n_timesteps, dtype=torch.float64)
        count.index_add_(0, index, steps)
        # Means over the trials of each condition, (n_conditions, n_timesteps, n_states).
        total = values.new_zeros(n_conditions, *values.shape[1:]).index_add_(0, index, values)
        means.append(total / count.clamp(min=1)[..., None])
        present.append(count > 0)
    out = torch.ones(n_tasks, n_tasks, dtype=torch.float64)
    for i in range(n_tasks):
        for j in range(i, n_tasks):
            both = present[i] & present[j]
            pair = cosines(means[i][both].reshape(1, -1), means[j][both].reshape(1, -1))
            out[i, j] = out[j, i] = pair[0, 0]
    return out
