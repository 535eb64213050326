"""Sketches of a Gram by random vectors, with its leading modes treated exactly.

G = A A^T and M = A^T A. Let V be orthonormal, near the leading eigenvectors of M, and let
w' = w - V V^T w with w white. Then G = (A V)(A V)^T + E[(A w')(A w')^T] and
tr M^2 = |M V|^2 + E|M w'|^2, without cross terms. The first terms are exact; only the part outside
V is sampled. V consists of leading Ritz vectors of Krylov spaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn._common.memory import Allowance
from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.spectra._half_factor import HalfFactor, inner_products
from kpflow_sklearn.spectra._krylov import Krylov, rounding
from kpflow_sklearn.spectra._sketches import Sketch

#: Steps and random starts of the Krylov spaces. If M has several blocks, each has one start and
#: half the steps: the sampling error due to modes missed in one block averages out over all.
N_STEPS = 12
N_STARTS = 2
_DIMENSION = {"trial": 0, "time": 1, "hidden": 2}


class _Reduced(NamedTuple):
    grams: dict[str, Tensor]
    inner: Tensor
    outer: Tensor
    middles: Tensor
    images: Tensor


class Sketcher:
    """Draw sketches of a Gram by random vectors; the first one also contains its leading modes.

    Parameters
    ----------
    factor : LinearOperator
        A without its scale: G = A A^T = scale * factor factor^T.
    scale : float
        The scale.
    axes : iterable of {"trial", "time", "hidden"}
        The axes that G is reduced to, besides the whole space.
    n_modes : int
        Number of directions in V, per trial if A maps each trial to itself.
    n_probes : int
        Largest number of random vectors processed at a time.
    seed : int
        Seed of the random vectors.
    memory : Allowance
        Bytes that may be used beyond what the operator holds, lowered if memory runs out.
    """

    def __init__(
        self,
        factor: LinearOperator,
        scale: float,
        *,
        axes: Iterable[str],
        n_modes: int,
        n_probes: int,
        seed: int,
        memory: Allowance,
    ) -> None:
        half = HalfFactor(factor, scale**0.5, seed)
        self.axes = tuple(axes)
        self.n_modes = min(n_modes, half.size)
        self.n_probes = n_probes
        self.half, self.memory = half, memory
        in_pieces = factor.on_trials(slice(0, 1)) is not None
        self._cuttable = in_pieces and ("trial" not in self.axes or half.separable)
        magnitude = memory.run(lambda: half.magnitude(self._chunk))
        # A is scaled only if something could overflow or vanish.
        moderate = magnitude == 0 or 1e-3 < magnitude < 1e3 or not np.isfinite(magnitude)
        self.magnitude = 1.0 if moderate else magnitude
        self.overflow = not np.isfinite(magnitude)
        self.half = half.divided(self.magnitude)
        self._space: Krylov | None = None
        self._leading: tuple[Tensor, Tensor] | None = None

    @property
    def bytes_per_chunk(self) -> int:
        """Bytes that one trial needs or, if trials cannot be separated, one vector."""
        if not self._cuttable:
            return self.half.bytes_per_trial(1) * len(self.half.trials)
        k = max(self.n_probes, self.n_modes)
        # While the Krylov spaces grow, only a few vectors are processed at a time; afterwards all
        # of them are, alongside the modes.
        spaces = self.half.bytes_per_trial(1, n_kept=3 * max(N_STEPS, self.n_modes))
        return max(spaces, self.half.bytes_per_trial(k, n_kept=self.n_modes))

    @property
    def _chunk(self) -> int:
        """Trials at a time."""
        n_trials = len(self.half.trials)
        if not self._cuttable:
            return n_trials
        return min(n_trials, max(1, self.memory.amount // self.bytes_per_chunk))

    @property
    def _group(self) -> int:
        """Vectors at a time."""
        if self._cuttable:
            return self.n_probes
        return min(self.n_probes, max(1, self.memory.amount // self.bytes_per_chunk))

    def draw(self, first: int, count: int, *, squares: bool = True) -> Sketch:
        """Return the sketch of ``count`` random vectors, beginning with number ``first`` (from 0).

        Only the first sketch contains the modes. Without ``squares`` the products M w' are not
        computed, which saves time.
        """
        indices = range(self.n_modes + first, self.n_modes + first + count)
        if self.overflow:
            nothing = np.empty(0)
            return Sketch(nothing, nothing, nothing, nothing, nothing, magnitude=np.nan)
        return self.memory.run(lambda: self._draw(indices, squares))

    def _draw(self, indices: range, squares: bool) -> Sketch:
        parts = [self._sketch(half, indices, squares) for half in self.halves()]
        out = parts[0]
        for other in parts[1:]:
            out = out.merged(other)
        out.magnitude = self.magnitude
        return out

    def halves(self) -> Iterable[HalfFactor]:
        """Yield A as a whole or, if it is separable and large, on chunks of trials."""
        if self.half.separable and self._chunk < len(self.half.trials):
            return self.half.chunks(self._chunk)
        return [self.half]

    def space(self, half: HalfFactor) -> Krylov:
        """Return Krylov spaces of M, one per block; if A is uncut, they are kept and may grow."""
        if half is self.half and self._space is not None:
            return self._space
        n_starts = min(max(1, N_STARTS // self.half.n_blocks), half.size)
        # span{w, M w, M^2 w, ...} of each block, orthonormal, (n_blocks, dimension, size)
        space = Krylov(lambda v: self.gram(half, v), half.white(range(n_starts)))
        n_steps = N_STEPS if self.half.n_blocks == 1 else N_STEPS // 2
        space.reach(max(n_steps * n_starts, self.n_modes))
        self._dimension = space.dimension
        if half is self.half:
            self._space = space
        return space

    def modes(self, half: HalfFactor) -> tuple[Tensor, Tensor]:
        """Return V (n_modes, n_blocks, size), the leading Ritz vectors of the Krylov spaces.

        The second result holds the residual norms of their Ritz values, (n_blocks, n_modes).
        """
        if not self.n_modes or self.overflow:
            nothing = half.white(range(self.n_modes))
            return nothing, torch.zeros(nothing.shape[1::-1], dtype=torch.float64)
        if half is self.half and self._leading is not None:
            return self._leading
        space = self.space(half)
        _, vectors, residuals = space.ritz(self._dimension)
        # V = Q S: basis vectors times the coefficients of the leading Ritz vectors
        coordinates = vectors[..., : self.n_modes].to(half.factor.dtype)
        ritz_vectors = space.basis[:, : self._dimension].mT @ coordinates
        if ritz_vectors.isfinite().all():  # In single precision they are only nearly orthonormal.
            ritz_vectors = torch.linalg.qr(ritz_vectors).Q
        modes = ritz_vectors.permute(2, 0, 1), residuals[:, : self.n_modes]
        if half is self.half:
            self._leading = modes
        return modes

    def gram(self, half: HalfFactor, v: Tensor) -> Tensor:
        """Return M v, a few vectors and trials at a time."""
        return torch.cat([half.gram(group, self._chunk) for group in v.split(self._group)])

    def squared_images(self, half: HalfFactor, w: Tensor) -> np.ndarray:
        """Return |A w|^2 of each vector, (k,)."""
        squares = torch.zeros(len(w), dtype=torch.float64, device=w.device)
        for i in range(0, len(w), self._group):
            for _, steps in half.rows(w[i : i + self._group], self._chunk):
                squares[i : i + self._group] += steps.double().square().sum((0, 2, 3))
        return squares.cpu().numpy()

    def _sketch(self, half: HalfFactor, indices: range, squares: bool) -> Sketch:
        basis, residuals = self.modes(half)
        w = half.white(indices)
        # w' = w - V V^T w, (k, n_blocks, size)
        w -= torch.einsum("kni,ind->knd", torch.einsum("knd,ind->kni", w, basis), basis)
        if self.n_modes == half.size:  # V spans the whole space, which leaves nothing to sample.
            w.zero_()
        sampled = self._reduce(half, w, sum_vectors=False, pull_back=squares)
        inner, outer, middles = (x.cpu().numpy() for x in sampled[1:4])
        n_squares = len(w) if squares else 0
        sketch = Sketch(
            inner.diagonal().copy(),
            outer.diagonal()[:n_squares].copy(),
            middles[:n_squares],
            inner,
            outer,
            sampled.grams,
        )
        if indices.start > self.n_modes:
            return sketch
        if not self.n_modes:
            nothing = {axis: torch.zeros_like(grams[0]) for axis, grams in sampled.grams.items()}
            return replace(sketch, exact=nothing)
        of_modes = self._reduce(half, basis, sum_vectors=True)
        # V^T M V of each block, (n_blocks, n_modes, n_modes)
        projected = torch.einsum("ind,jnd->nij", basis, half.blocks(of_modes.images)).double()
        projected = (projected + projected.mT) / 2
        finite = bool(projected.isfinite().all())
        values = torch.linalg.eigvalsh(projected).flip(-1) if finite else projected[..., 0, :]
        return replace(
            sketch,
            trace0=float(of_modes.inner.trace()),
            square0=float(of_modes.outer.trace()),
            middle0=float(of_modes.middles.sum()),
            exact=of_modes.grams,
            mode_values=values.clamp(min=0).cpu().numpy(),
            mode_residuals=(residuals + rounding(values, half.factor.dtype)).cpu().numpy(),
        )

    def _reduce(
        self, half: HalfFactor, v: Tensor, *, sum_vectors: bool, pull_back: bool = True
    ) -> _Reduced:
        """Return the reduced Grams of A v, <A v_k, A v_l>, <M v_k, M v_l>, |L^T A v|^2, and M v.

        L^T A v is taken if A = L R has two parts; otherwise |L^T A v|^2 is zero.
        """
        n = {axis: half.factor.out_shape[_DIMENSION[axis]] for axis in self.axes}
        leading = () if sum_vectors else (len(v),)
        grams = {axis: v.new_zeros(*leading, n[axis], n[axis]) for axis in self.axes}
        inner = torch.zeros(len(v), len(v), dtype=torch.float64, device=v.device)
        outer, middles = torch.zeros_like(inner), torch.zeros_like(inner[0])
        images = []
        for i in range(0, len(v), self._group):
            group = slice(i, i + self._group)
            image: Tensor | float = 0.0
            for part, steps in half.rows(v[group], self._chunk):
                # <A v_k, A v_l>, summed over chunks of trials
                inner[group, group] += inner_products(steps)
                for axis, gram in grams.items():
                    _add_grams(gram if sum_vectors else gram[group], steps, axis, half.separable)
                if pull_back:
                    middle, pulled = half.pull_back_by_stages(part, steps)
                    middles[group] += middle
                    image = image + pulled
            if isinstance(image, Tensor):
                # <M v_k, M v_l>, M v = A^T A v
                outer[group, group] = inner_products(image)
                images.append(image)
        joined = torch.cat(images, dim=1) if images else v.new_empty(0)
        if len(images) > 1:  # The inner products of vectors in different groups.
            # <A v_k, A v_l> = <v_k, M v_l>
            between = (v.flatten(1) @ half.blocks(joined).flatten(1).mT).double()
            inner = torch.where(inner == 0, between, inner)
            outer = inner_products(joined)
        return _Reduced(grams, inner, outer, middles, joined)


def _add_grams(grams: Tensor, steps: Tensor, axis: str, separable: bool) -> None:
    """Add the Gram of each A v, reduced to one axis by the partial trace over the others.

    ``grams`` is (k, n, n), or (n, n) for the sum over vectors; ``steps`` is (T, k, B, H).
    If A maps each trial to itself, G is zero between different trials, and only its diagonal
    blocks are sampled.
    """
    parts = [steps] if grams.ndim == 2 else steps.split(1, dim=1)
    kept = {"trial": 2, "time": 0, "hidden": 3}[axis]
    for target, part in zip([grams] if grams.ndim == 2 else grams, parts, strict=True):
        # The kept axis as rows: (n, everything else), so that the Gram is flat flat^T.
        flat = part.movedim(kept, 0).flatten(1)
        if axis == "trial" and separable:
            target.diagonal().add_((flat**2).sum(1))
        else:
            target.addmm_(flat, flat.mT)
