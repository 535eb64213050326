"""A training run: its settings, optimizer, batches and snapshots."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from kpflow_sklearn._common.checks import check_positive_int, check_real, check_verbose
from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn._common.tensors import to_cpu
from kpflow_sklearn.training._run_folder import RunFolder
from kpflow_sklearn.training._snapshots import Snapshot, snapshot_iterations

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@dataclass
class RunSettings:
    """The settings of a training run; a trainer that lacks a parameter has the default."""

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

    @classmethod
    def of(cls, trainer: Any) -> RunSettings:
        """Return the settings of a trainer; ValueError or TypeError if one is out of range."""
        names = [field.name for field in fields(cls) if hasattr(trainer, field.name)]
        settings = cls(**{name: getattr(trainer, name) for name in names})
        settings._check()
        return settings

    def _check(self) -> None:
        """Check the settings, except for the optimizer, which is checked when it is made."""
        check_positive_int(self.max_iter, "max_iter", minimum=0)
        if self.batch_size is not None:
            check_positive_int(self.batch_size, "batch_size")
        check_real(self.tol, "tol", 0)
        # Converted to floats, because torch accepts no integer beyond 64 bits.
        self.weight_decay = check_real(self.weight_decay, "weight_decay", 0)
        self.learning_rate = check_real(self.learning_rate, "learning_rate", 0, open_minimum=True)
        if self.grad_clip is not None:
            check_real(self.grad_clip, "grad_clip", 0, open_minimum=True)
        if self.constraint is not None and not callable(self.constraint):
            raise ValueError(f"constraint must be callable, got {self.constraint!r}.")
        check_verbose(self.verbose)
        snapshot_iterations(self.snapshots, self.max_iter)


class Batches:
    """Batches of sample indices, without end: each pass over the samples has a new random order.

    If ``batch_size`` is None or at least ``n_samples``, each batch is all samples in their order.
    """

    def __init__(self, n_samples: int, batch_size: int | None, generator: torch.Generator) -> None:
        self.n_samples, self.generator = n_samples, generator
        self.is_full = batch_size is None or batch_size >= n_samples
        self.size = n_samples if batch_size is None else min(batch_size, n_samples)
        self.order, self.start = torch.arange(n_samples), 0 if self.is_full else n_samples

    def __next__(self) -> np.ndarray:
        """Return the indices of the next batch."""
        if self.is_full:
            return self.order.numpy()
        if self.start >= self.n_samples:
            self.order = torch.randperm(self.n_samples, generator=self.generator)
            self.start = 0
        batch = self.order[self.start : self.start + self.size]
        self.start += self.size
        return batch.numpy()


class Run:
    """The state of a training run, and in the end its result.

    Parameters
    ----------
    module : Module
        The network, which is trained in place.
    settings : RunSettings
        Optimizer, number of updates, batch size, snapshots and so on.
    n_samples : int
        Number of samples in the data.
    generator : torch.Generator
        Source of the order of the samples, and of noise.
    first_iteration : int, default=0
        Number of updates in earlier fits, for a warm start.
    optimizer_state : dict, optional
        State of the optimizer after those updates.
    folder : RunFolder, optional
        Folder to which snapshots are written, and from which the run is resumed.

    Attributes
    ----------
    losses : list of float
        Loss of each update's batch, before the update.
    snapshots : list of Snapshot
        The snapshots taken in this run.
    interrupted : bool
        Whether a KeyboardInterrupt ended the run.
    optimizer_state : dict or None
        State of the optimizer after the last update; None if updates were undone.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: RunSettings,
        n_samples: int,
        generator: torch.Generator,
        *,
        first_iteration: int = 0,
        optimizer_state: dict[str, Any] | None = None,
        folder: RunFolder | None = None,
    ) -> None:
        self.module, self.settings, self.folder = module, settings, folder
        self.optimizer = make_optimizer(settings, module)
        if optimizer_state is not None:
            _continue(self.optimizer, optimizer_state)
        self.batches = Batches(n_samples, settings.batch_size, generator)
        self.samples_at_a_time = Allowance(
            self.batches.size,
            1,
            f"one update on {self.batches.size} of {n_samples} samples does not fit in memory, "
            "even one sample at a time. Make the network or the samples smaller, or use "
            "dtype='float32'; a smaller batch_size alone does not help.",
        )
        self.first_iteration = first_iteration
        planned = snapshot_iterations(settings.snapshots, settings.max_iter)
        self.planned = {first_iteration + iteration for iteration in planned}
        self.losses: list[float] = []
        self.snapshots: list[Snapshot] = []
        # The last two states to which the run can go back; the initial one counts as one.
        self.last = self.before = Snapshot.take(first_iteration, module)
        self.interrupted = False
        self.optimizer_state: dict[str, Any] | None = None

    @property
    def n_iter(self) -> int:
        """Number of updates made in this run."""
        return len(self.losses)

    @property
    def iteration(self) -> int:
        """Number of updates made in this and earlier fits."""
        return self.first_iteration + self.n_iter

    def begin(self) -> None:
        """Resume the run of the folder; otherwise take the first snapshot if it is planned."""
        saved = None if self.folder is None else self.folder.load()
        if saved is None:
            self._take_if_planned()
            return
        folder: Any = self.folder
        # The update after the last snapshot will be made again, so its result is not read.
        *earlier, last = saved["snapshots"]
        states = [Snapshot(i, folder.snapshot(i), folder.updated(i)) for i in earlier]
        states.append(Snapshot(last, folder.snapshot(last)))
        self.snapshots, self.losses = states, saved["losses"]
        self.before, self.last = ([self.last, *states])[-2:]
        self.module.load_state_dict(self.last.state)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.batches.generator.set_state(saved["generator"])
        self.batches.order, self.batches.start = saved["order"], saved["start"]

    def record(self, loss: float) -> None:
        """Record an update and the loss before it, and take a snapshot if one is planned."""
        self.losses.append(loss)
        if self.snapshots and self.snapshots[-1].iteration == self.iteration - 1:
            self._keep_update()
        self._take_if_planned()

    def _keep_update(self) -> None:
        """Keep the state one update after the last snapshot."""
        updated = Snapshot.take(self.iteration, self.module).state
        self.last = self.snapshots[-1] = replace(self.snapshots[-1], updated=updated)
        if self.folder is not None:
            self.folder.save_updated(self.last.iteration, updated)

    def _take_if_planned(self) -> None:
        if self.iteration not in self.planned:
            return
        self.before, self.last = self.last, Snapshot.take(self.iteration, self.module)
        self.snapshots.append(self.last)
        if self.folder is not None:
            progress = {
                "optimizer": self.optimizer.state_dict(),
                "generator": self.batches.generator.get_state(),
                "order": self.batches.order,
                "start": self.batches.start,
                "losses": self.losses,
                "snapshots": [snapshot.iteration for snapshot in self.snapshots],
            }
            self.folder.save(self.iteration, self.last.state, progress)

    def drop_snapshot(self) -> None:
        """Drop the snapshot of the present iteration, whose loss is not finite.

        The first state of the run is kept nevertheless: there is no earlier one to go back to.
        """
        if self.before.iteration < self.last.iteration == self.iteration:
            self.last = self.before
            self.snapshots.pop()

    def undo(self) -> None:
        """Go back to the last snapshot, or to the state before the run if there is none."""
        self.module.load_state_dict(self.last.state)
        self.losses = self.losses[: self.last.iteration - self.first_iteration]

    def finish(self, *, undone: bool) -> None:
        """Take the last snapshot if it is missing; keep the optimizer's state unless undone.

        Updates are ``undone`` if the loss became NaN or infinite.
        """
        ended_early = self.n_iter < self.settings.max_iter
        if not self.snapshots or (ended_early and self.snapshots[-1].iteration != self.iteration):
            self.snapshots.append(Snapshot.take(self.iteration, self.module))
        # What an optimizer accumulated in updates that were undone would spoil the next ones.
        self.optimizer_state = None if undone else to_cpu(self.optimizer.state_dict())


def make_optimizer(settings: RunSettings, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of those parameters that train."""
    kind = settings.optimizer
    if isinstance(kind, str):
        kind = OPTIMIZERS.get(kind.lower(), kind)
    is_other_class = isinstance(kind, type) and not issubclass(kind, torch.optim.Optimizer)
    if not callable(kind) or is_other_class:
        raise ValueError(
            f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))} or a "
            f"torch.optim.Optimizer class, got {kind!r}."
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
            f"optimizer must take one step per gradient, but {type(made).__name__} evaluates the "
            "loss itself."
        )
    return made


def _continue(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an earlier optimizer, but keep the present settings."""
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(state))  # A copy, because updates write into it.
    for group, present in zip(optimizer.param_groups, settings, strict=True):
        group.update(present)
