"""Compare two results on valid steps, and say in words where they differ first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kpflow_sklearn.networks.agreement._module_run import Trials

#: Relative differences between a run in half precision, float16 or bfloat16, and one in float32.
_HALF_PRECISION = (1e-4, 3e-2)


@dataclass(frozen=True)
class Difference:
    """How far two results are apart.

    Attributes
    ----------
    is_none : bool
        Whether they agree.
    words : str
        How they differ.
    at_start : bool
        Whether they differ at the first of the steps that are compared.
    """

    is_none: bool
    words: str = ""
    at_start: bool = False


def compare(ours: Tensor, theirs: Tensor | None, trials: Trials) -> Difference | None:
    """Compare a result of the rebuilt network with one of the module, on valid steps.

    Parameters
    ----------
    ours : Tensor of shape (n_trials, n_timesteps, n_values)
        A result of the rebuilt network.
    theirs : Tensor or None
        A result of the module, in any order of the axes; for all steps, for as many as the
        longest trial has, or for the last valid step of each trial.
    trials : Trials
        The trials and their valid steps.

    Returns
    -------
    Difference or None
        None if the shapes do not fit.
    """
    differences = []
    for pair in () if theirs is None else _pairs(ours, theirs, trials):
        differences.append(_difference(*pair, trials.rows))
        if differences[-1].is_none:
            return differences[-1]
    return differences[0] if differences else None


def matching_pair(ours: Tensor, theirs: Tensor, trials: Trials) -> tuple[Tensor, Tensor] | None:
    """Return both results in one form, zero at steps that do not count; None if they differ."""
    pairs = _pairs(ours, theirs, trials)
    return next((pair for pair in pairs if _difference(*pair, trials.rows).is_none), None)


def _pairs(ours: Tensor, theirs: Tensor, trials: Trials) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both results as (n_trials, n_steps, n_values), zero at steps that do not count."""
    n_trials, n_timesteps, n_values = ours.shape
    for form in _forms(theirs, ours):
        if form.shape == (n_trials, n_values):
            rows = torch.arange(n_trials, device=ours.device)
            yield ours[rows, trials.valid.sum(1) - 1][:, None], form[:, None]
        elif form.ndim == 3 and form.shape[::2] == (n_trials, n_values):
            n_steps = form.shape[1]
            if n_steps in (int(trials.lengths.max()), n_timesteps):
                counts = trials.valid[:, :n_steps, None]
                yield torch.where(counts, ours[:, :n_steps], 0.0), torch.where(counts, form, 0.0)


def _forms(theirs: Tensor, ours: Tensor) -> Iterator[Tensor]:
    """Yield a result with trials first, in every reading of its axes."""
    n_trials, n_timesteps, n_values = ours.shape
    for form in (theirs, theirs[..., None]) if n_values == 1 else (theirs,):
        if form.ndim == 3:
            yield from (form, form.transpose(0, 1), form.transpose(1, 2))
        if form.ndim == 3 and len(form) == 1:  # The last state of one layer.
            yield form[0]
        if form.ndim == 2:
            yield form
        if form.shape == (n_trials * n_timesteps, n_values):
            yield form.reshape(ours.shape)
            yield form.reshape(n_timesteps, n_trials, n_values).transpose(0, 1)


def _difference(ours: Tensor, theirs: Tensor, rows: Tensor) -> Difference:
    ours, theirs = ours.detach(), theirs.detach()
    gap = float((ours - theirs).abs().max())
    if gap <= tolerance(theirs):
        return Difference(True)
    where = first_difference(ours, theirs, rows)
    at_start = not bool(((ours - theirs)[:, 0].abs() <= tolerance(theirs)).all())
    words = f"differ by up to {gap:.2g}, first at {where}"
    relative = gap / max(float(theirs.abs().max()), 1e-30)
    if _HALF_PRECISION[0] < relative < _HALF_PRECISION[1]:
        words += (
            "; a gap of this size may be rounding in half precision: if forward uses "
            "torch.autocast, bfloat16 or float16, analyse the network without it"
        )
    return Difference(False, words, at_start)


def first_difference(
    ours: Tensor, theirs: Tensor, rows: Tensor, bound: float | None = None
) -> str:
    """Return the first step at which two results differ, and the first such trial, in words."""
    bound = tolerance(theirs) if bound is None else bound
    apart = ~((ours - theirs).abs() <= bound).all(-1)
    step = int(apart.any(0).nonzero()[0])
    trial = int(rows[apart[:, step].cpu()].min())
    if apart.shape[1] == 1:
        return f"trial {trial}, the last step"
    return f"step {step} of trial {trial}"


def tolerance(theirs: Tensor) -> float:
    """Return a bound on the rounding error of a few hundred steps."""
    return 1e4 * torch.finfo(theirs.dtype).eps * max(1.0, float(theirs.detach().abs().max()))
