"""The rank of P on the whole space from counts of eigenvalues, without computing any of them.

In one trial P^-1 is bidiagonal in time: (P^-1 q)_t = A_t q_t - J_t q_{t-1}, with A_t the coupling
of stacked layers within a step (I for one layer). So (P^-1)* P^-1 is block tridiagonal. Its
eigenvalues below 1/lambda are the reciprocals of those of PP* above lambda. By Sylvester's law of
inertia, their number is that of the negative eigenvalues of the pivots when (P^-1)* P^-1 -
I/lambda is factorised block by block along the trial; for large lambda, the pivots of
lambda I - PP* take their place. With M_t = A_t^-1 J_t, E_t = A_t^-1 and W_t = A_t^T A_t, all of
size H x H:

    lambda < 2:   D_t = W_t - I/lambda + M_{t+1}^T W_{t+1} M_{t+1} - W_t M_t D_{t-1}^-1 M_t^T W_t,
                  and the count is that of the negative eigenvalues of all D_t.
    lambda >= 2:  Y_t = E_t E_t^T + M_t G_{t-1} M_t^T,  G_t = lambda Y_t (lambda I - Y_t)^-1,
                  and the count is that of the eigenvalues of all Y_t above lambda.

Neither would do alone: the first recursion loses all digits if there are eigenvalues of 1e14, and
the second if there are some near 1. One count costs about as much as the Gramian recursions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from kpflow_sklearn.networks.tangents import NetworkTangent
from kpflow_sklearn.operators import FlowPropagator
from kpflow_sklearn.results import Estimate
from kpflow_sklearn.spectra._gramians import step_matrices

#: The most counts from which a rank is interpolated, and how many are made at a time.
N_SHIFTS, _AT_ONCE = 24, 4
#: Where one recursion takes over from the other.
_CHANGE = 2.0
#: How far from 1 the nearest shifts are: units that are off give eigenvalues of exactly 1.
_OFF_ONE = 1e-6
#: The least standard error of an estimated whole number: 1.96 times it reaches the next one.
ONE = (1 + 1e-12) / 1.96


def counted_rank(
    op: FlowPropagator, threshold: float, total: float, memory: int = 2**29
) -> Estimate:
    """Return the rank of PP* on the whole space, interpolated between counts of eigenvalues.

    Of n eigenvalues the r largest reach the threshold of the trace if and only if the n - r
    smallest sum to no more than (1 - threshold) tr PP*. So only counts at small values matter.

    Parameters
    ----------
    op : FlowPropagator
        P.
    threshold : float
        Share of the trace.
    total : float
        tr PP*, exact.
    memory : int, default=2**29
        Bytes that the matrices of a chunk of trials may use.

    Returns
    -------
    Estimate
        The rank. Its standard error combines ONE with the change if every other count is dropped,
        and its bounds are the tightest that follow from the counts; if they agree, it is exact.
    """
    counts = _Counts.of(op, (1 - threshold) * total, total, memory)
    least, most = counts.bounds()
    if least == most:
        return Estimate(float(least))
    rank = counts.interpolated()
    change = max(abs(rank - counts.without(parity).interpolated()) for parity in (0, 1))
    value = float(np.clip(np.ceil(rank - 1e-9), least, most))
    # 1.96 times the error reaches at least the next whole number, at most the farther bound.
    error = min(float(np.hypot(change, ONE)), max(value - least, most - value) * ONE)
    return Estimate(value, error, method="counted", bounds=(float(least), float(most)))


@dataclass(frozen=True)
class _Counts:
    """Numbers of eigenvalues of PP* above some values.

    Attributes
    ----------
    values : ndarray of shape (k,)
        Ascending; all eigenvalues lie above the first value and none above the last.
    above : ndarray of int, shape (k,)
        The counts.
    rest : float
        (1 - threshold) tr PP*, which the smallest eigenvalues may sum to.
    """

    values: np.ndarray
    above: np.ndarray
    rest: float

    @classmethod
    def of(cls, op: FlowPropagator, rest: float, total: float, memory: int) -> _Counts:
        """Count where it narrows the bounds of the rank most, a few values at a time."""
        n_trials, n_timesteps, n_states = op.in_shape
        mask = op.tangent.mask
        n_steps = n_trials * n_timesteps if mask is None else int(mask.sum())
        ends = np.array([least_eigenvalue(op), total * (1 + 1e-9)])
        counts = cls(ends, np.array([n_steps * n_states, 0]), rest)
        while len(counts.values) < N_SHIFTS + 2:
            new = counts.next_values(min(_AT_ONCE, N_SHIFTS + 2 - len(counts.values)))
            if not len(new):
                break
            values = np.r_[counts.values, new]
            above = np.r_[counts.above, count_above(op, new, memory)]
            order = np.argsort(values)
            counts = cls(values[order], above[order], rest)
        return counts

    def next_values(self, n: int) -> np.ndarray:
        """Return the next values at which to count.

        They split the intervals in which the sum of the eigenvalues is most uncertain.
        """
        inside = -np.diff(self.above)
        # Once the eigenvalues up to a value surely sum to more than `rest`, stop.
        beyond = np.cumsum(inside * self.values[:-1]) > self.rest
        stop = int(np.argmax(beyond)) + 1 if beyond.any() else len(inside)
        low, high = self.values[:stop], self.values[1 : stop + 1]
        # Each eigenvalue in an interval adds between low and high to a sum.
        open_part = np.where(high / low > 1 + 4 * _OFF_ONE, inside[:stop] * (high - low), 0.0)
        chosen = np.argsort(-open_part)[:n]
        chosen = chosen[open_part[chosen] > 0]
        return np.sort([_split(low[k], high[k]) for k in chosen])

    def bounds(self) -> tuple[int, int]:
        """Return the least and the largest rank that the counts allow."""
        inside = -np.diff(self.above)
        ranks = []
        # Take the eigenvalues as small as their intervals allow, then as large.
        for each in (self.values[:-1], self.values[1:]):
            sums = np.r_[0.0, np.cumsum(inside * each)]
            k = int(np.searchsorted(sums, self.rest, side="right")) - 1
            more = int((self.rest - sums[k]) / each[k]) if k < len(each) else 0
            ranks.append(max(int(self.above[k]) - more, 1))
        return ranks[0], ranks[1]

    def without(self, parity: int) -> _Counts:
        """Return every second count, and always both ends and those beside the jump at 1."""
        index = np.arange(len(self.values))
        keep = (index % 2 == parity) | (index == 0) | (index == len(index) - 1)
        keep |= abs(self.values - 1) < 2 * _OFF_ONE
        return _Counts(self.values[keep], self.above[keep], self.rest)

    def interpolated(self) -> float:
        """Return the rank by monotone interpolation of the counts over log lambda."""
        logs = np.log(self.values)
        steps = [np.linspace(a, b, 100) for a, b in zip(logs[:-1], logs[1:], strict=True)]
        fine = np.unique(np.concatenate(steps))
        above = PchipInterpolator(logs, self.above.astype(float))(fine)
        # Sums of the smallest eigenvalues: - integral of lambda dN(lambda).
        sums = np.cumsum(-np.diff(above) * np.exp((fine[1:] + fine[:-1]) / 2))
        return float(np.interp(self.rest, np.r_[0.0, sums], above))


def _split(low: float, high: float) -> float:
    """Return where to split an interval; eigenvalues at 1 are enclosed from both sides."""
    if high > 1 + 2 * _OFF_ONE and low < 1 - 2 * _OFF_ONE:
        return 1 - _OFF_ONE
    if high > 1 + 2 * _OFF_ONE and low < 1:
        return 1 + _OFF_ONE
    return float(np.sqrt(low * high))


# --------------------------------------------------------------------------------- the counts


def count_above(op: FlowPropagator, shifts: np.ndarray, memory: int = 2**29) -> np.ndarray:
    """Return how many eigenvalues of PP* lie above each shift.

    Parameters
    ----------
    op : FlowPropagator
        P.
    shifts : ndarray of shape (n_shifts,)
        Positive values; a shift of 1 is moved up by a millionth.
    memory : int, default=2**29
        Bytes that the matrices of a chunk of trials may use.

    Returns
    -------
    ndarray of int, shape (n_shifts,)
        The counts, over the valid steps of all trials.
    """
    shifts = np.where(abs(shifts - 1) < _OFF_ONE / 2, 1 + _OFF_ONE, shifts)
    n_trials, n_timesteps, n_states = op.in_shape
    # M_t and E_t E_t^T of every step in double, and some matrices for each shift.
    per_trial = 8 * n_states**2 * (2 * n_timesteps + 6 * len(shifts))
    chunk = max(1, memory // per_trial)
    counts = np.zeros(len(shifts), dtype=np.int64)
    small = shifts < _CHANGE
    for i in range(0, n_trials, chunk):
        steps = _Steps(op.on_trials(slice(i, i + chunk)).tangent)
        for chosen, count in ((small, _count_small), (~small, _count_large)):
            if chosen.any():
                values = torch.as_tensor(shifts[chosen], device=op.device)
                counts[chosen] += count(steps, values).cpu().numpy()
    return counts


class _Steps:
    """M_t and E_t E_t^T, (B, H, H) in double, and which trials are valid, at each step."""

    def __init__(self, tangent: NetworkTangent) -> None:
        n_trials, n_timesteps, n_states = tangent.shape
        self.eye = torch.eye(n_states, dtype=torch.float64, device=tangent.device)
        always = torch.ones(n_trials, dtype=torch.bool, device=tangent.device)
        mask = tangent.mask
        self.valid = [
            always if mask is None else mask[t].flatten().bool() for t in range(n_timesteps)
        ]
        self.coupled = len(tangent.layers) > 1
        self.matrices = [
            tuple(x.double() for x in step_matrices(tangent, t)) for t in range(n_timesteps)
        ]

    def weight(self, t: int) -> Tensor:
        """Return W_t = (E_t E_t^T)^-1, the identity for trials that are not valid."""
        pushed = self.matrices[t][1]
        if not self.coupled:
            return self.eye.expand_as(pushed)
        padded = torch.where(self.valid[t][:, None, None], pushed, self.eye)
        return torch.cholesky_inverse(torch.linalg.cholesky(padded))


def _count_small(steps: _Steps, shifts: Tensor) -> Tensor:
    """Count by the pivots D_t, (S, B, H, H), for shifts below 2; one count per shift, (S,)."""
    counts = torch.zeros(len(shifts), dtype=torch.int64, device=shifts.device)
    inverse_shift = steps.eye / shifts[:, None, None, None]  # I / lambda
    factors = None
    for t, valid in enumerate(steps.valid):
        weight = steps.weight(t)
        pivot = weight - inverse_shift
        if t + 1 < len(steps.valid):
            # M_{t+1}^T W_{t+1} M_{t+1}; M is zero on masked steps
            m = steps.matrices[t + 1][0]
            pivot = pivot + m.mT @ steps.weight(t + 1) @ m
        if factors is not None:
            # W_t M_t D_{t-1}^-1 M_t^T W_t
            back = weight @ steps.matrices[t][0]
            solved = torch.linalg.ldl_solve(*factors, back.mT.expand_as(pivot).contiguous())
            pivot = pivot - back @ solved
        factors, negative = _inertia((pivot + pivot.mT) / 2)
        counts += (negative * valid).sum(1)
    return counts


def _count_large(steps: _Steps, shifts: Tensor) -> Tensor:
    """Return how many eigenvalues of Y_t, (S, B, H, H), exceed each shift of 2 or more, (S,)."""
    counts = torch.zeros(len(shifts), dtype=torch.int64, device=shifts.device)
    scale = shifts[:, None, None, None]
    g = None
    for (m, pushed), valid in zip(steps.matrices, steps.valid, strict=True):
        # Y_t = E_t E_t^T + M_t G_{t-1} M_t^T, symmetrised at each step
        y = pushed.expand(len(shifts), *pushed.shape)
        if g is not None:
            y = y + m @ g @ m.mT
        y = (y + y.mT) / 2
        factors, negative = _inertia(scale * steps.eye - y)
        counts += (negative * valid).sum(1)
        # G_t = lambda (lambda I - Y_t)^-1 Y_t
        g = scale * torch.linalg.ldl_solve(*factors, y.contiguous())
    return counts


def _inertia(matrices: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return the LDL^T factors of symmetric matrices and their numbers of negative eigenvalues.

    A pivot of size 1 counts by its sign. A pivot of size 2, marked by two negative indices, has
    one eigenvalue of each sign (Bunch and Kaufman 1977).
    """
    packed, pivots, _ = torch.linalg.ldl_factor_ex(matrices)
    single = (pivots > 0) & (packed.diagonal(dim1=-2, dim2=-1) < 0)
    return (packed, pivots), single.sum(-1) + (pivots < 0).sum(-1) // 2


def least_eigenvalue(op: FlowPropagator) -> float:
    """Return a lower bound of the eigenvalues of PP*: 1/|P^-1|^2, |P^-1| <= max |A_t| + max |J_t|.

    Spectral norms are bounded by |X|^2 <= |X|_1 |X|_inf.
    """
    steps = _Steps(op.tangent)
    of_a = max(float(_norm_bound(steps.weight(t)).max()) ** 0.5 for t in range(len(steps.valid)))
    of_m = max((float(_norm_bound(m).max()) for m, _ in steps.matrices[1:]), default=0.0)
    return float((of_a * (1 + of_m)) ** -2 * (1 - 1e-9))


def _norm_bound(matrices: Tensor) -> Tensor:
    sizes = matrices.abs()
    return (sizes.sum(-1).amax(-1) * sizes.sum(-2).amax(-1)).sqrt()
