"""The training loop, which all trainers of the package share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from tqdm.auto import tqdm

from kpflow_sklearn._common.callbacks import FitTask, warn_caller
from kpflow_sklearn.training._run import Run

logger = logging.getLogger("kpflow_sklearn")
# Given the indices of a batch, returns a function from a slice of the batch to its loss.
BatchLoss = Callable[[np.ndarray], Callable[[slice], Tensor]]


class _DivergedError(Exception):
    """The loss or a weight is no longer finite."""


def train(run: Run, batch_loss: BatchLoss, task: FitTask) -> None:
    """Minimise the loss over the parameters of the run's module.

    Training ends before ``max_iter`` updates when the loss, averaged over the last pass over the
    samples, is at most ``tol``, or when a callback asks for it. If the loss or a weight is no
    longer finite, or on KeyboardInterrupt, the network returns to the last snapshot with a finite
    loss, and a ConvergenceWarning is issued. One is also issued if the last gradient has vanished.
    If memory runs out, the gradient of a batch is summed over smaller parts.

    Parameters
    ----------
    run : Run
        The run, which is changed in place and contains losses and snapshots afterwards.
    batch_loss : callable
        Given the indices of a batch, returns a function from a slice of the batch to the mean of
        the differentiable loss over its samples.
    task : FitTask
        The task of the whole fit, of which every update is a part.
    """
    run.begin()
    failure = ""
    try:
        slope = _iterate(run, batch_loss, task)
    except KeyboardInterrupt:  # Possibly in the middle of an update.
        run.interrupted, failure = True, "training was interrupted at iteration {}; {}."
    except _DivergedError:
        failure = (
            "training diverged: the loss or a weight was no longer finite at iteration {}; {}. "
            "Lower learning_rate or init_scale, or clip the gradient (grad_clip) if the trainer "
            "has that parameter."
        )
    if failure:
        kept = (
            f"the network is that of the last snapshot before, at iteration {run.last.iteration}"
        )
        warn_caller(failure.format(run.iteration + 1, kept), ConvergenceWarning)
        run.undo()
    elif _has_vanished(run, slope):
        _warn_of_vanished(run)
    run.finish(undone=bool(failure))
    logger.info("trained for %d iterations", run.n_iter)


def _iterate(run: Run, batch_loss: BatchLoss, task: FitTask) -> Tensor | None:
    """Make the remaining updates; return the last `_slope` if the gradient was clipped."""
    n_updates, slope = run.settings.max_iter, None
    with tqdm(
        total=n_updates, initial=run.n_iter, disable=not run.settings.verbose, desc="training"
    ) as progress:
        while run.n_iter < n_updates and not _reaches_tol(run):
            # If an error leaves this block, callbacks are not told that the update ended.
            with task.part("iteration", **task.about) as step:
                loss, slope = _update(run, batch_loss, next(run.batches))
                if not math.isfinite(loss):
                    run.drop_snapshot()
                    raise _DivergedError
                if not all(bool(torch.isfinite(p).all()) for p in run.module.parameters()):
                    raise _DivergedError
                run.record(loss)
                progress.update()
                progress.set_postfix(loss=f"{loss:.4g}", refresh=False)
            if step.stops:
                break
    return slope


def _reaches_tol(run: Run) -> bool:
    """Tell whether the mean loss of the last pass over the samples is at most ``tol``."""
    n_batches, tol = math.ceil(run.batches.n_samples / run.batches.size), run.settings.tol
    is_known = tol > 0 and run.n_iter >= n_batches
    return is_known and float(np.mean(run.losses[-n_batches:])) <= tol


def _update(run: Run, batch_loss: BatchLoss, batch: np.ndarray) -> tuple[float, Tensor | None]:
    """Make one update; return the loss before it, and `_slope` if the gradient is clipped."""
    module, settings, slope = run.module, run.settings, None
    part_loss, at_a_time = batch_loss(batch), run.samples_at_a_time
    loss = at_a_time.run(lambda: _gradient(module, part_loss, len(batch), at_a_time.amount))
    if settings.grad_clip is not None:
        slope = _slope(module)  # Stays on its device, because only the last one is read.
        nn.utils.clip_grad_norm_(module.parameters(), settings.grad_clip)
    run.optimizer.step()
    if settings.constraint is not None:
        with torch.no_grad():
            settings.constraint(module)
    return loss, slope


def _gradient(
    module: nn.Module, part_loss: Callable[[slice], Tensor], n_samples: int, n_at_a_time: int
) -> float:
    """Set the gradient of a batch's loss, summed over parts of it, and return the loss."""
    module.zero_grad(set_to_none=True)
    total = 0.0
    for start in range(0, n_samples, n_at_a_time):
        stop = min(start + n_at_a_time, n_samples)
        loss = part_loss(slice(start, stop)) * ((stop - start) / n_samples)
        loss.backward()
        total += float(loss.detach())
    return total


def _below_readout(module: nn.Module) -> list[Tensor]:
    """Return the parameters that have a gradient, except those of the readout."""
    named = module.named_parameters()
    return [p for name, p in named if p.grad is not None and not name.startswith("readout.")]


def _slope(module: nn.Module) -> Tensor | None:
    """Return |g|, the norm of the gradient with respect to all weights but the readout's."""
    norms = [p.grad.norm() for p in _below_readout(module)]  # type: ignore[union-attr]
    return torch.stack(norms).norm() if norms else None


def _has_vanished(run: Run, slope: Tensor | None) -> bool:
    """Tell whether scaling the weights below the readout no longer changes the loss.

    For weights theta, their last gradient g and the loss L, the change is below the rounding of L
    if |g| |theta| <= eps L. ``slope`` is |g| before clipping.
    """
    weights = _below_readout(run.module)
    slope = _slope(run.module) if slope is None else slope
    if slope is None or not run.losses or run.losses[-1] == 0:
        return False
    size = math.hypot(*(float(p.detach().norm()) for p in weights))
    return float(slope) * size <= torch.finfo(weights[0].dtype).eps * abs(run.losses[-1])


def _warn_of_vanished(run: Run) -> None:
    first, last = f"{run.losses[0]:.3g}", f"{run.losses[-1]:.3g}"
    grew = float(last) > float(first)  # As printed, so that rounding is not growth.
    after = f" after the loss grew from {first} to {last} (lower learning_rate)" if grew else ""
    minimum = "" if grew else " If the loss is at a minimum, nothing is wrong."
    warn_caller(
        f"the gradient vanished{after}: at iteration {run.iteration}, the last one, the gradient "
        "with respect to all weights but the readout's was zero or below the rounding of the "
        "loss, so that these weights no longer train. Units may be silent or saturated, or the "
        "error may lie too many steps after the input. Change init_scale or the cell, shorten the "
        f"trials, or lower learning_rate if the units fell silent during training.{minimum}",
        ConvergenceWarning,
    )
