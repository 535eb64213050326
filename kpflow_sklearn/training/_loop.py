"""The training loop: one for every trainer of the package."""

from __future__ import annotations

import copy
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from tqdm import tqdm

from kpflow_sklearn._common.arrays import naming
from kpflow_sklearn._common.callbacks import FitTask, warn_caller
from kpflow_sklearn._common.checks import check_positive_int, check_real, check_verbose
from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn._common.tensors import to_cpu
from kpflow_sklearn.training._batches import Batches
from kpflow_sklearn.training._run_folder import RunFolder

logger = logging.getLogger("kpflow_sklearn")
BatchLoss = Callable[[np.ndarray], Callable[[slice], Tensor]]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class Snapshot:
    """The network after ``iteration`` parameter updates, as a state_dict of its own tensors."""

    iteration: int
    state: dict[str, Tensor] = field(repr=False)

    @classmethod
    def take(cls, iteration: int, module: nn.Module) -> Snapshot:
        """Copy the module's present state to the CPU."""
        state = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
        return cls(iteration, state)


@dataclass
class LoopSettings:
    """Settings of a training run, in the words of the trainers' parameters."""

    optimizer: str | Callable[..., torch.optim.Optimizer]
    learning_rate: float
    max_iter: int
    batch_size: int | None
    tol: float
    snapshots: int | Sequence[int]
    verbose: int | bool
    weight_decay: float = 0.0
    grad_clip: float | None = None
    constraint: Callable[[nn.Module], Any] | None = None

    def check(self) -> LoopSettings:
        """Return itself; ValueError or TypeError if a setting is out of its range.

        What an optimizer makes of its settings shows when they are used.
        """
        check_positive_int(self.max_iter, "max_iter", minimum=0)
        if self.batch_size is not None:
            check_positive_int(self.batch_size, "batch_size")
        check_real(self.tol, "tol", 0)
        # Floats from here on: torch takes no integer beyond 64 bits.
        self.weight_decay = check_real(self.weight_decay, "weight_decay", 0)
        self.learning_rate = check_real(self.learning_rate, "learning_rate", 0, open_minimum=True)
        if self.grad_clip is not None:
            check_real(self.grad_clip, "grad_clip", 0, open_minimum=True)
        if self.constraint is not None and not callable(self.constraint):
            raise ValueError(f"constraint must be callable, got {self.constraint!r}.")
        check_verbose(self.verbose)
        snapshot_iterations(self.snapshots, self.max_iter)
        return self


@dataclass
class History:
    """What a training run leaves: losses before each update, snapshots, and how it ended."""

    losses: list[float]
    snapshots: list[Snapshot]
    optimizer_state: dict[str, Any] | None = None
    diverged: bool = False
    interrupted: bool = False

    @property
    def n_iter(self) -> int:
        """Number of parameter updates made."""
        return len(self.losses)


def snapshot_iterations(snapshots: int | Sequence[int], max_iter: int) -> list[int]:
    """Return the iterations to keep: log-spaced for a number, else the given ones.

    Spacing is even in log(1 + iteration), first and last included; where whole numbers coincide
    there are fewer.
    """
    if isinstance(snapshots, (int, np.integer)) and not isinstance(snapshots, bool):
        if snapshots < 1:
            raise ValueError(f"snapshots must be at least 1, got {snapshots}.")
        check_positive_int(snapshots, "snapshots")
        if snapshots == 1:
            return [max_iter]
        grid = np.expm1(np.linspace(0, np.log1p(max_iter), int(snapshots)))
        return sorted({int(i) for i in np.round(grid)})
    with naming("snapshots"):
        chosen = np.asarray(snapshots)
    if chosen.ndim != 1 or len(chosen) == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(
            f"snapshots must be an integer or a non-empty sequence of integers, got {snapshots!r}."
        )
    if chosen.min() < 0 or chosen.max() > max_iter:
        raise ValueError(
            f"snapshots must lie between 0 and max_iter={max_iter}, got {chosen.min()} to "
            f"{chosen.max()}."
        )
    return sorted({int(i) for i in chosen})


def make_optimizer(settings: LoopSettings, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that train."""
    kind = settings.optimizer
    if isinstance(kind, str):
        if kind not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))} or a "
                f"torch.optim.Optimizer class, got {kind!r}."
            )
        kind = OPTIMIZERS[kind]
    if not callable(kind) or (
        isinstance(kind, type) and not issubclass(kind, torch.optim.Optimizer)
    ):
        raise ValueError(
            f"optimizer must be a string or a torch.optim.Optimizer class, got {kind!r}."
        )
    options: dict[str, Any] = {"lr": settings.learning_rate}
    if settings.weight_decay:
        options["weight_decay"] = settings.weight_decay
    try:
        made = kind([p for p in module.parameters() if p.requires_grad], **options)
    except TypeError as error:
        raise ValueError(
            f"optimizer {kind!r} cannot be made with {', '.join(options)}: {error}."
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer must make a torch.optim.Optimizer, but {kind!r} made a "
            f"{type(made).__name__}."
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer must make one step a gradient, but {type(made).__name__} evaluates the "
            "loss itself."
        )
    return made


def train(
    module: nn.Module,
    batch_loss: BatchLoss,
    n_samples: int,
    settings: LoopSettings,
    generator: torch.Generator,
    task: FitTask,
    *,
    first_iteration: int = 0,
    optimizer_state: dict[str, Any] | None = None,
    folder: RunFolder | None = None,
) -> History:
    """Minimise ``batch_loss`` over the module's parameters.

    Stops early when the loss, averaged over the last pass over the samples, is at most ``tol``, or
    when a callback asks for it; and when the loss is no longer finite or on KeyboardInterrupt:
    then the last snapshot whose loss was finite is kept and a ConvergenceWarning says so, also
    where a callback raised on a network that had diverged. Another one says that at the end the
    gradient had vanished. Where memory runs out, the gradient of a batch is summed over smaller
    parts.

    Parameters
    ----------
    module : Module
        What is trained, in place.
    batch_loss : callable
        Maps the indices of a batch to a function from any slice of it to the differentiable loss
        of that part, such that the mean over all samples is the loss of the batch.
    n_samples : int
        Number of samples.
    settings : LoopSettings
        The rest.
    generator : torch.Generator
        Source of the shuffling.
    task : FitTask
        The fit that this is; every update is a part of it.
    first_iteration : int, default=0
        Updates made before, on a warm start.
    optimizer_state : dict, optional
        Of an optimizer to continue with.
    folder : RunFolder, optional
        Where to keep every snapshot, and to go on from the last one there.

    Returns
    -------
    History
        Losses and snapshots.
    """
    optimizer = make_optimizer(settings, module)
    if optimizer_state is not None:
        _continue(optimizer, optimizer_state)
    wanted = {
        first_iteration + i for i in snapshot_iterations(settings.snapshots, settings.max_iter)
    }
    stream = Batches(n_samples, settings.batch_size, generator)
    at_a_time = Allowance(
        stream.size,
        1,
        f"one update on {stream.size} of {n_samples} samples took more than there is, even by "
        "single samples. Make the network (hidden_size, n_layers) or the trials smaller, or use "
        "dtype='float32'; a smaller batch_size alone will not do.",
    )
    run = _Run(module, optimizer, stream, folder, first_iteration)
    history, slope = run.history, None
    if not run.resume() and first_iteration in wanted:
        run.keep(first_iteration)
    reached, n_batches = run.last.iteration, math.ceil(n_samples / stream.size)
    progress = tqdm(
        total=settings.max_iter,
        initial=reached - first_iteration,
        disable=not settings.verbose,
        desc="training",
    )
    try:
        for iteration in range(reached + 1, first_iteration + settings.max_iter + 1):
            if _reached(history.losses, settings.tol, n_batches):
                break
            with task.part("iteration", **task.about) as step:
                batch = next(stream)
                loss, slope = _update(module, optimizer, batch_loss, batch, settings, at_a_time)
                if not math.isfinite(loss):
                    run.drop(iteration - 1)
                    raise _Diverged
                if not _all_finite(module):
                    raise _Diverged
                history.losses.append(loss)
                progress.update()
                progress.set_postfix(loss=f"{loss:.4g}", refresh=False)
                if iteration in wanted:
                    run.keep(iteration)
            if step.stops:
                break
    except KeyboardInterrupt:  # Perhaps in the midst of an update.
        history.interrupted = True
    except _Diverged:  # So that callbacks are not told of this update's end.
        history.diverged = True
    except Exception:
        # A callback may stumble over a network that the next update would find diverged.
        was_updated = first_iteration + history.n_iter == iteration
        if not was_updated or math.isfinite(
            _gradient(module, batch_loss, next(stream), at_a_time)
        ):
            raise
        logger.info("the network had diverged when this was raised", exc_info=True)
        run.drop(iteration)
        history.diverged = True
    finally:
        progress.close()
    if history.diverged or history.interrupted:
        _restore(module, history, first_iteration, run.last)
    elif _has_vanished(module, history.losses, slope):
        _warn_of_vanished(first_iteration + history.n_iter, history.losses)
    n_done = first_iteration + history.n_iter
    ended_early = history.n_iter < settings.max_iter
    if not history.snapshots or (ended_early and history.snapshots[-1].iteration != n_done):
        history.snapshots.append(Snapshot.take(n_done, module))
    # What an optimizer remembers of updates that were undone would spoil the next ones.
    undone = history.diverged or history.interrupted
    history.optimizer_state = None if undone else to_cpu(optimizer.state_dict())
    logger.info("trained for %d iterations", history.n_iter)
    return history


class _Diverged(Exception):
    """The loss or a weight is no longer finite."""


class _Run:
    """A training run as it goes: what changes with every update, and where it is kept."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        stream: Batches,
        folder: RunFolder | None,
        first_iteration: int,
    ) -> None:
        self.module, self.optimizer, self.stream, self.folder = module, optimizer, stream, folder
        self.history = History([], [])
        self.last = self.before = Snapshot.take(first_iteration, module)

    def keep(self, iteration: int) -> None:
        """Take a snapshot, and write it down."""
        self.before, self.last = self.last, Snapshot.take(iteration, self.module)
        self.history.snapshots.append(self.last)
        if self.folder is not None:
            progress = {
                "optimizer": self.optimizer.state_dict(),
                "generator": self.stream.generator.get_state(),
                "order": self.stream.order,
                "start": self.stream.start,
                "losses": self.history.losses,
                "snapshots": [snapshot.iteration for snapshot in self.history.snapshots],
            }
            self.folder.save(iteration, self.last.state, progress)

    def drop(self, iteration: int) -> None:
        """Forget the snapshot of an iteration whose loss is not finite, if there is one before."""
        if self.before.iteration < self.last.iteration == iteration:
            self.last = self.before
            self.history.snapshots.pop()

    def resume(self) -> bool:
        """Go back to where the folder's run was left; False if there is none."""
        found = None if self.folder is None else self.folder.load()
        if found is None:
            return False
        states = [Snapshot(i, self.folder.snapshot(i)) for i in found["snapshots"]]  # type: ignore
        self.history.snapshots, self.history.losses = states, found["losses"]
        self.before, self.last = ([self.last, *states])[-2:]
        self.module.load_state_dict(self.last.state)
        self.optimizer.load_state_dict(found["optimizer"])
        self.stream.generator.set_state(found["generator"])
        self.stream.order, self.stream.start = found["order"], found["start"]
        return True


def _continue(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over another optimizer's memory, but keep the present settings."""
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(state))  # Updates write into it.
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _update(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_loss: BatchLoss,
    batch: np.ndarray,
    settings: LoopSettings,
    at_a_time: Allowance,
) -> tuple[float, Tensor | None]:
    """Make one update; return the loss before it and, where clipped, the slope before that."""
    loss, slope = _gradient(module, batch_loss, batch, at_a_time), None
    if settings.grad_clip is not None:
        slope = _slope(module)  # Left on its device: only the last one is ever read.
        nn.utils.clip_grad_norm_(module.parameters(), settings.grad_clip)
    optimizer.step()
    if settings.constraint is not None:
        with torch.no_grad():
            settings.constraint(module)
    return loss, slope


def _gradient(
    module: nn.Module, batch_loss: BatchLoss, batch: np.ndarray, at_a_time: Allowance
) -> float:
    """Set the gradient of a batch's loss and return the loss, as many samples at a time as fit."""
    part_loss = batch_loss(batch)
    return at_a_time.run(lambda: _by_parts(module, part_loss, len(batch), at_a_time.amount))


def _by_parts(
    module: nn.Module, part_loss: Callable[[slice], Tensor], n_samples: int, n_at_a_time: int
) -> float:
    module.zero_grad(set_to_none=True)
    total = 0.0
    for start in range(0, n_samples, n_at_a_time):
        own = range(n_samples)[start : start + n_at_a_time]
        loss = part_loss(slice(own.start, own.stop)) * (len(own) / n_samples)
        loss.backward()
        total += float(loss.detach())
    return total


def _all_finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())


def _below_readout(module: nn.Module) -> list[Tensor]:
    """Return the parameters that have a gradient, but for the readout's."""
    named = module.named_parameters()
    return [p for name, p in named if p.grad is not None and not name.startswith("readout.")]


def _slope(module: nn.Module) -> Tensor | None:
    """Return the norm of the gradient by all weights but the readout's; None without such."""
    norms = [p.grad.norm() for p in _below_readout(module)]  # type: ignore[union-attr]
    return torch.stack(norms).norm() if norms else None


def _has_vanished(module: nn.Module, losses: list[float], slope: Tensor | None) -> bool:
    """Whether the last gradient by all weights but the readout's was zero or below rounding.

    It is where scaling them would move the loss by less than its own rounding:
    |g| |theta| <= eps L. ``slope`` is |g| where the gradient that the module holds was clipped.
    """
    own = _below_readout(module)
    slope = _slope(module) if slope is None else slope
    if slope is None or not losses or losses[-1] == 0:
        return False
    size = math.hypot(*(float(p.detach().norm()) for p in own))
    return float(slope) * size <= torch.finfo(own[0].dtype).eps * abs(losses[-1])


def _warn_of_vanished(iteration: int, losses: list[float]) -> None:
    first, last = f"{losses[0]:.3g}", f"{losses[-1]:.3g}"
    grew = float(last) > float(first)  # As printed: rounding is no growth.
    after = f" after the loss grew from {first} to {last} (lower learning_rate)" if grew else ""
    minimum = "" if grew else " Or the loss is at a minimum: then nothing is wrong."
    warn_caller(
        f"the gradient vanished{after}: at iteration {iteration}, the last, that by all weights "
        "but the readout's was zero or below the rounding of the loss, so that they no longer "
        "train. Units may be silent or saturated, or the error too far back in time to be felt: "
        "change init_scale or the cell, shorten the trials, or lower learning_rate if they died "
        f"on the way.{minimum}",
        ConvergenceWarning,
    )


def _reached(losses: list[float], tol: float, n_batches: int) -> bool:
    """Whether the mean loss of the last pass over the samples is at most ``tol``."""
    enough = tol > 0 and len(losses) >= n_batches
    return enough and float(np.mean(losses[-n_batches:])) <= tol


def _restore(module: nn.Module, history: History, first_iteration: int, last: Snapshot) -> None:
    """Go back to the last snapshot and say so."""
    module.load_state_dict(last.state)
    failed = first_iteration + history.n_iter + 1
    kept = f"the network is the one of iteration {last.iteration}, the last snapshot before"
    message = (
        f"training diverged: the loss or a weight was no longer finite at iteration {failed}; "
        f"{kept}. Lower learning_rate or init_scale, or clip the gradient (grad_clip) where the "
        "trainer can."
    )
    if history.interrupted:
        message = f"training was interrupted at iteration {failed}; {kept}."
    warn_caller(message, ConvergenceWarning)
    history.losses = history.losses[: last.iteration - first_iteration]
