"""Growth of perturbations along the Jacobians of each trial, by QR factorisations every few steps.

Columns Q that start orthonormal are multiplied by J_t over several steps, Y = J_t .. J_s Q, and
orthonormalised again, Y = Q' R. The rounding of Y, which grows like its largest column, is the
error of every column, so that the smallest R_ii limits the number of steps. It is chosen such
that each |R_ii| is known to `_PRECISION`. Directions that vanish are looked for in single steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.spectra._gramians import step_matrices

_EPS = torch.finfo(torch.float64).eps
#: Relative error of an |R_ii| by rounding up to which it is accepted after several steps.
_PRECISION = 1e-4
#: The most steps between two factorisations.
_MOST_STEPS = 16


class Growth(NamedTuple):
    """The growth of directions between factorisations.

    Attributes
    ----------
    logs : ndarray of shape (n_trials, n_intervals, k)
        ln |R_ii| of each interval; minus infinity where a direction vanishes. Directions that
        vanish in some interval come last.
    steps : ndarray of shape (n_trials, n_intervals)
        The number of valid steps in each interval.
    stops : ndarray of shape (n_intervals,)
        The number of Jacobians up to the end of each interval.
    """

    logs: np.ndarray
    steps: np.ndarray
    stops: np.ndarray

    def between(self, edges: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the logs and the numbers of steps, summed from each edge to the next."""
        starts = np.searchsorted(self.stops, edges[:-1], side="right")
        n = int(np.searchsorted(self.stops, edges[-1], side="right"))
        logs = np.add.reduceat(self.logs[:, :n], starts, axis=1)
        return logs, np.add.reduceat(self.steps[:, :n], starts, axis=1)


def follow(tangent: NetworkTangent, k: int, stops: list[int]) -> Growth:
    """Follow k directions along J_2 .. J_T of each trial.

    Parameters
    ----------
    tangent : NetworkTangent
        The derivatives along a run.
    k : int
        Number of directions.
    stops : list of int
        Numbers of Jacobians at which an interval has to end, the last of them T - 1.
    """
    frame = _Frame(tangent, k)
    intervals: list[tuple[Tensor, Tensor, int]] = []
    start, n_steps = 0, 1
    while start < stops[-1]:
        stop = min(start + n_steps, next(s for s in stops if s > start))
        logs = frame.advance(start, stop)
        if logs is None:  # So many steps would lose the directions that grow least.
            n_steps = (stop - start) // 2
            continue
        intervals.append((logs, frame.n_valid(start, stop), stop))
        start, n_steps = stop, frame.n_affordable(stop - start)
    of_intervals, steps, ends = zip(*intervals, strict=True)
    # From the order in which directions were followed to the final one, in which those last.
    logs = torch.stack(of_intervals, dim=1)
    logs = logs.gather(2, frame.label[:, None].expand_as(logs))
    return Growth(logs.cpu().numpy(), torch.stack(steps, dim=1).cpu().numpy(), np.array(ends))


class _Frame:
    """Orthonormal directions of each trial, and where they come from.

    Attributes
    ----------
    q : Tensor of shape (n_trials, n_states, k)
        The directions.
    label : Tensor of int, shape (n_trials, k)
        The original index of each column of q.
    has_died : Tensor of bool, shape (n_trials, k)
        Which columns vanished in an earlier interval; they stand behind all others.
    """

    def __init__(self, tangent: NetworkTangent, k: int) -> None:
        n_trials, _, n_states = tangent.shape
        self.tangent = tangent
        q = torch.eye(n_states, k, dtype=torch.float64, device=tangent.device)
        self.q = q.expand(n_trials, n_states, k)
        self.label = torch.arange(k, device=tangent.device).expand(n_trials, k)
        self.has_died = torch.zeros(n_trials, k, dtype=torch.bool, device=tangent.device)
        # Memory for J_t, and for Y^T before and after it, which each step uses again.
        self._step = q.new_empty(n_trials, n_states, n_states)
        self._products = [q.new_empty(n_trials, k, n_states) for _ in range(2)]
        self._share_used = 1.0  # Of the range of |R_ii| that an interval may span, in logarithms.

    def n_valid(self, start: int, stop: int) -> Tensor:
        """Return the number of valid steps of each trial in an interval."""
        if self.tangent.mask is None:
            return torch.full((len(self.q),), stop - start)
        return self.tangent.mask[start + 1 : stop + 1].sum((0, 2)).long().cpu()

    def n_affordable(self, n_steps: int) -> int:
        """Return the number of steps to try next, after an interval of ``n_steps``."""
        n = int(0.9 * n_steps / max(self._share_used, 1e-3))
        return max(1, min(n, 2 * n_steps, _MOST_STEPS))

    def advance(self, start: int, stop: int) -> Tensor | None:
        """Move the directions along J_{start+2} .. J_{stop+1}, the Jacobians start to stop - 1.

        Returns
        -------
        Tensor of shape (n_trials, k), or None
            ln |R_ii| by original index; None if rounding would spoil one of them, and nothing has
            moved.
        """
        if stop == start + 1:
            return self._single_step(stop)
        y, noise = self._multiplied(start, stop)
        # Columns that vanish have no direction but what QR gives them.
        has_died = bool(self.has_died.any())
        q, r = torch.linalg.qr(y, mode="reduced" if has_died else "r")
        sizes = r.diagonal(dim1=1, dim2=2).abs()
        if not self._are_clear(sizes, noise):
            return None
        if not has_died:
            # Q = Y R^-1. What it lacks in orthogonality, the next QR takes out of its R_ii.
            q = torch.linalg.solve_triangular(r, y, upper=True, left=False)
        self.q = q
        return torch.empty_like(sizes).scatter_(1, self.label, sizes.log())

    def _multiplied(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return Y = J .. J Q and a bound on the rounding in its columns, (n_trials,)."""
        y, noise, before = self.q, torch.zeros_like(self.q[:, 0, 0]), _largest_column(self.q)
        for t in range(start + 1, stop + 1):
            step = self._step.copy_(step_matrices(self.tangent, t)[0])  # J_t, (B, H, H)
            # Y by columns, as LAPACK needs it and their norms are fastest: Y^T J^T.
            y_new = torch.bmm(y.mT, step.mT, out=self._products[t % 2]).mT
            if self.tangent.mask is not None:
                ended = ~self.tangent.mask[t].bool().flatten()
                y_new[ended] = y[ended]
            # Largest columns of Y before and after. Earlier errors grow no faster, and the product
            # rounds by n eps |J| |y|.
            after = _largest_column(y_new)
            rounding = step.shape[1] * _EPS * torch.linalg.matrix_norm(step) * before
            noise, y, before = noise * after / before + rounding, y_new, after
        return y, noise

    def _are_clear(self, sizes: Tensor, noise: Tensor) -> bool:
        """Tell whether every |R_ii| of a direction that lives is well above the rounding.

        Notes what share of the range between the largest and the least possible one is used.
        """
        largest = sizes.amax(1)
        least = sizes.masked_fill(self.has_died, torch.inf).amin(1).clamp(max=largest)
        used, possible = (largest / least).log(), (largest * _PRECISION / noise).log()
        self._share_used = float((used / possible).nan_to_num(torch.inf).max())
        return bool((least * _PRECISION > noise).all())

    def _single_step(self, t: int) -> Tensor:
        """Move the directions along J_{t+1}; those in the span of others vanish."""
        step = step_matrices(self.tangent, t)[0].double()  # (B, H, H)
        # Rounding of the product and its QR: a column smaller than this has lost its direction.
        rounding = step.shape[1] * _EPS
        lost = rounding * (step.abs() @ self.q.abs()).sum(1)
        q, sizes, order = _qr_dead_last(step @ self.q, lost)
        label = self.label.gather(1, order)
        has_died = self.has_died.gather(1, order) | (sizes == 0)
        self._are_clear(sizes, rounding * torch.linalg.matrix_norm(step))
        logs = torch.empty_like(sizes).scatter_(1, label, sizes.log())
        if self.tangent.mask is not None:
            valid = self.tangent.mask[t].bool()
            logs = torch.where(valid, logs, 0.0)
            q = torch.where(valid[..., None], q, self.q)
            label = torch.where(valid, label, self.label)
            has_died = torch.where(valid, has_died, self.has_died)
        self.q, self.label, self.has_died = q, label, has_died
        return logs


def _largest_column(y: Tensor) -> Tensor:
    """Return the norm of the largest column of each matrix, (n_trials,)."""
    return torch.linalg.vector_norm(y, dim=1).amax(1)


def _qr_dead_last(columns: Tensor, lost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, |R_ii| and the order of the columns, with dependent columns last.

    A column in the span of the columns before it has R_ii = 0, and QR completes Q by an arbitrary
    direction. That direction would take from later columns what they have along it, so dependent
    columns are moved to the end. An R_ii at the level of rounding counts as 0.

    Parameters
    ----------
    columns : Tensor of shape (n_trials, n_states, k)
        The matrices to factorise.
    lost : Tensor of shape (n_trials, k)
        The |R_ii| up to which a column counts as being in the span of the others.

    Returns
    -------
    q : Tensor of shape (n_trials, n_states, k)
        Orthonormal columns.
    sizes : Tensor of shape (n_trials, k)
        |R_ii|, 0 for dependent columns.
    order : Tensor of int, shape (n_trials, k)
        The original index of each column.
    """
    n_trials, _, k = columns.shape
    order = torch.arange(k, device=columns.device).expand(n_trials, k).clone()
    q, r = torch.linalg.qr(columns)
    sizes = r.diagonal(dim1=1, dim2=2).abs()
    dead = sizes <= lost
    if not dead.any():
        return q, sizes, order
    # Tell whether columns after the first dependent one reach outside the span of those before it.
    first = torch.where(dead, order, k).amin(1, keepdim=True)
    rest = r.masked_fill((order < first)[:, :, None], 0.0)
    early = ((torch.linalg.vector_norm(rest, dim=1) > lost) & (order > first)).any(1)
    if early.any():
        start = int(first[early].min())
        dead[early, start:] = _in_span(r[early, start:, start:], lost[early, start:])
        order[early] = dead[early].long().argsort(dim=1, stable=True)
        dead, columns = dead.gather(1, order), columns.gather(2, order[:, None].expand_as(columns))
        q[early], r = torch.linalg.qr(columns[early])
        sizes[early] = r.diagonal(dim1=1, dim2=2).abs()
    return q, sizes.masked_fill(dead, 0.0), order


def _in_span(columns: Tensor, lost: Tensor) -> Tensor:
    """Return which columns are in the span of the columns before them, up to ``lost``."""
    rows = columns.mT
    basis = torch.zeros_like(rows, memory_format=torch.contiguous_format)
    dead = torch.zeros_like(lost, dtype=torch.bool)
    for i in range(rows.shape[1]):
        left = rows[:, i, None]
        for _ in range(2):  # Once would leave rounding, from nearly parallel columns.
            left = left - (left @ basis[:, :i].mT) @ basis[:, :i]
        size = torch.linalg.vector_norm(left[:, 0], dim=1)
        dead[:, i] = size <= lost[:, i]
        basis[:, i] = torch.where(dead[:, i, None], 0.0, left[:, 0] / size[:, None])
    return dead
