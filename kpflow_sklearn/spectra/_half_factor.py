"""The half-factor A of a Gram G = A A^T, applied to a chunk of trials at a time.

The non-zero eigenvalues of G are those of M = A^T A, which acts on the arguments of A: parameters
for K and PKP*, trajectories for P. For K and PKP* only the results are as large as trajectories;
they are computed for one chunk of trials and reduced before the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.memory import Allowance, free_memory
from kpflow_sklearn.operators import LinearOperator, cut, steps_first

#: Number of trajectory-sized arrays that are copied when a factor is cut to a chunk of trials.
_CUT = 6


def analysis_allowance(op: LinearOperator, memory_limit: int | None) -> Allowance:
    """Return the memory that chunks of trials may use: at most a quarter of the free memory.

    Parameters
    ----------
    op : LinearOperator
        An operator onto trajectories.
    memory_limit : int or None
        Bytes, if the user set a limit.

    Returns
    -------
    Allowance
        Enough for at least one trajectory of one trial.
    """
    limit = memory_limit or free_memory(op.device) // 4
    least = op.shape[0] // max(1, op.out_shape[0]) * op.dtype.itemsize
    return Allowance(
        limit,
        least,
        f"{op!r} ran out of memory even with the smallest chunks of trials (memory_limit was "
        f"{limit} bytes). Analyse fewer trials or steps (analysis_trials, analysis_set), fewer "
        'n_probes or n_components, or leave out the axis "trial".',
    )


def inner_products(v: Tensor) -> Tensor:
    """Return the inner products (k, k), in double, of vectors given steps first, (n, k, ...)."""
    flat = v.flatten(2)
    return (flat @ flat.mT).double().sum(0)


class HalfFactor:
    """A of G = A A^T, a multiple of an operator onto trajectories.

    Parameters
    ----------
    factor : LinearOperator
        An operator onto trajectories (n_trials, n_timesteps, n_states).
    root : float
        A = root * factor.
    seed : int
        Seed of the random vectors.
    trials : range, optional
        Which trials of a larger set ``factor`` acts on; by default all of them.

    Attributes
    ----------
    n_blocks : int
        Number of independent blocks of M: one per trial if A maps each trial to itself, else 1.
    size : int
        Length of a block.
    """

    def __init__(
        self, factor: LinearOperator, root: float, seed: int, trials: range | None = None
    ) -> None:
        self.factor, self.root, self.seed = factor, root, seed
        self.trials = range(factor.out_shape[0]) if trials is None else trials
        # M = A^T A is block diagonal over trials if A maps each trial to itself.
        self.separable = factor.separable
        self.n_blocks = factor.in_shape[0] if self.separable else 1
        self.size = factor.shape[1] // self.n_blocks

    @property
    def bytes_of_vector(self) -> int:
        """The memory of one argument of A."""
        return self.n_blocks * self.size * self.factor.dtype.itemsize

    def magnitude(self, n_trials: int) -> float:
        """Return the largest entry of A w for one random w, possibly zero or infinite."""
        if self.separable and n_trials < len(self.trials):
            return float(np.max([part.magnitude(n_trials) for part in self.chunks(n_trials)]))
        w = self.white(range(1))  # np.max keeps NaN, whichever piece it is in.
        return float(np.max([float(y.abs().max()) for _, y in self.rows(w, n_trials)]))

    def divided(self, magnitude: float) -> HalfFactor:
        """Return A / magnitude."""
        return HalfFactor(self.factor, self.root / magnitude, self.seed, self.trials)

    def chunks(self, n_trials: int) -> Iterator[HalfFactor]:
        """Cut a separable A into factors on ``n_trials`` trials or fewer."""
        for i in range(0, len(self.trials), n_trials):
            yield self._cut(slice(i, i + n_trials))

    def only(self, index: int) -> HalfFactor:
        """Return a separable A on one of its trials."""
        return self._cut(slice(index, index + 1))

    def _cut(self, trials: slice) -> HalfFactor:
        return HalfFactor(cut(self.factor, trials), self.root, self.seed, self.trials[trials])

    def rows(self, v: Tensor, n_trials: int) -> Iterator[tuple[LinearOperator, Tensor]]:
        """Yield the rows of A for each chunk of trials, and A v there, (T, k, trials, H).

        Parameters
        ----------
        v : Tensor of shape (k, n_blocks, size)
            Arguments.
        n_trials : int
            Number of trials in a chunk.
        """
        # (k, n_blocks, size) as arguments of the operator: (k, B, T, H) or (k, n_parameters)
        v = v.reshape(len(v), *self.factor.in_shape)
        v = v if self.root == 1 else self.root * v
        if self.separable or n_trials >= len(self.trials):
            yield self.factor, steps_first(self.factor @ v)
            return
        for i in range(0, len(self.trials), n_trials):
            part = cut(self.factor, slice(i, i + n_trials))
            yield part, steps_first(part @ v)

    def pull_back(self, part: LinearOperator, steps: Tensor) -> Tensor:
        """Return A^T y for the rows ``part``, overwriting y.

        The result is steps first, (T, k, B, H), if arguments are trajectories, else (1, k, size).
        """
        return self.pull_back_by_stages(part, steps)[1]

    def pull_back_by_stages(self, part: LinearOperator, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return |L^T y|^2 of each vector, (k,), if A = L R (otherwise zeros), and A^T y."""
        *rest, first = part.T.factors
        pulled = first.apply_(steps.movedim(0, 2))
        middle = torch.zeros(steps.shape[1], dtype=torch.float64, device=steps.device)
        if rest and len(first.out_shape) == 3:
            scale = first._transpose_scale()
            middle += inner_products(steps_first(pulled)).diagonal() / scale**2
        for factor in reversed(rest):
            pulled = factor.apply_(pulled)
        # The adjoint carries 1/N for J_theta: its scale makes it the transpose.
        scale = self.root * part._transpose_scale()
        pulled = pulled if scale == 1 else pulled.mul_(scale)
        trajectories = len(self.factor.in_shape) == 3
        return middle, steps_first(pulled) if trajectories else pulled.unsqueeze(0)

    def blocks(self, pulled: Tensor) -> Tensor:
        """Return the result of `pull_back` as (k, n_blocks, size)."""
        return pulled.movedim(0, -2).reshape(pulled.shape[1], self.n_blocks, self.size)

    def gram(self, v: Tensor, n_trials: int) -> Tensor:
        """Return M v = A^T A v, (k, n_blocks, size)."""
        rows = self.rows(v, n_trials)
        return sum(self.blocks(self.pull_back(part, y)) for part, y in rows)  # type: ignore

    def white(self, indices: range) -> Tensor:
        """Return standard normal vectors (len(indices), n_blocks, size).

        Each trial of each vector has a seed of its own: the vectors depend neither on how many are
        drawn together nor on the chunks of trials. They are drawn in single precision, so that
        they are the same in single and in double.
        """
        blocks = self.trials if self.separable else range(1)
        out = torch.empty(len(indices), len(blocks), self.size)
        generator = torch.Generator()
        for row, index in zip(out, indices, strict=True):
            for block, trial in zip(row, blocks, strict=True):
                state = np.random.SeedSequence((self.seed, index, trial)).generate_state(1)
                block.normal_(generator=generator.manual_seed(int(state[0])))
        return out.to(self.factor.device, self.factor.dtype)

    def bytes_per_trial(self, k: int, n_kept: int = 0) -> int:
        """Return the memory that k vectors need for each trial of a chunk.

        If arguments are trajectories, ``n_kept`` more vectors are held at the same time. Cutting a
        factor to a chunk copies its activity and other arrays, in total the size of a few vectors.
        """
        n_timesteps, n_states = self.factor.out_shape[1:]
        # Arguments, draws, results and their pullbacks; or only results and their pullbacks.
        arrays = 4 * k + n_kept if self.separable else 2 * k
        return (arrays + _CUT) * n_timesteps * n_states * self.factor.dtype.itemsize
