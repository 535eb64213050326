"""The states of a network that are kept during training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpflow_sklearn._common.arrays import naming
from kpflow_sklearn._common.checks import check_positive_int
from kpflow_sklearn._common.modules import state_of


@dataclass(frozen=True)
class Snapshot:
    """The network after ``iteration`` parameter updates, as a state_dict that shares no memory.

    Attributes
    ----------
    iteration : int
        Number of parameter updates.
    state : dict of str to Tensor
        The parameters and buffers then.
    updated : dict of str to Tensor, or None
        The same after the update made from this snapshot, if the trainer kept it.
    """

    iteration: int
    state: dict[str, Tensor] = field(repr=False)
    updated: dict[str, Tensor] | None = field(default=None, repr=False)

    @classmethod
    def take(cls, iteration: int, module: nn.Module) -> Snapshot:
        """Copy the module's present state to the CPU."""
        memo: dict[Any, Any] = {}  # A tensor may have several names.
        state = {name: _kept(value, memo) for name, value in state_of(module).items()}
        return cls(iteration, state)


def _kept(value: Any, memo: dict[Any, Any]) -> Any:
    """Return a copy of an entry of a state_dict, which torch allows to be other than a tensor."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.layout != torch.strided:  # Sparse tensors have no address.
        return value.detach().cpu().clone()
    place = value.data_ptr(), value.shape, value.stride(), value.dtype
    if place not in memo or not value.numel():
        memo[place] = value.detach().cpu().clone()
    return memo[place]


def snapshot_iterations(snapshots: int | Sequence[int], max_iter: int) -> list[int]:
    """Return the iterations of the snapshots: those given, or so many if it is a number.

    A number of them are spaced evenly in log(1 + iteration) from 0 to ``max_iter``. There are
    fewer if rounding to integers makes some coincide.
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
