"""Sketches of a Gram, drawn with leading modes taken out.

G = A A^T and M = A^T A. With V orthonormal near the leading eigenvectors of M and w white,
w' = w - V V^T w, it holds without cross terms that G = (A V)(A V)^T + E[(A w')(A w')^T] and
tr M^2 = |M V|^2 + E|M w'|^2. The first terms are exact; only what lies outside V is sampled.
V comes from the same Krylov spaces that the rank is counted from.
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
from kpflow_sklearn.spectra._krylov import Krylov
from kpflow_sklearn.spectra._sketches import Sketch

#: Steps and random starts of the Krylov spaces: one start a trial, where there are more trials.
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
    """Draws sketches of one Gram: modes once, random vectors as many as are asked for.

    Parameters
    ----------
    factor : LinearOperator
        The half-factor up to ``scale``: G = scale * factor factor^T.
    scale : float
        See there.
    axes : iterable of {"trial", "time", "hidden"}
        Axes that G is reduced to, besides the whole.
    n_modes : int
        Directions taken as V; of each trial, where A maps each trial to itself.
    n_probes : int
        Largest number of random vectors drawn at a time.
    seed : int
        Of the random vectors.
    memory : Allowance
        Bytes that may be used beyond the operator's own; less where they are not to be had.
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
        # Left as it is where nothing can overflow or vanish.
        moderate = magnitude == 0 or 1e-3 < magnitude < 1e3 or not np.isfinite(magnitude)
        self.magnitude = 1.0 if moderate else magnitude
        self.overflow = not np.isfinite(magnitude)
        self.half = half.divided(self.magnitude)
        self._space: Krylov | None = None

    @property
    def bytes_per_chunk(self) -> int:
        """What the smallest chunk takes: one trial or, where trials stay together, one vector."""
        if not self._cuttable:
            return self.half.bytes_per_trial(1) * len(self.half.trials)
        k = max(self.n_probes, self.n_modes)
        # While Krylov spaces grow a few vectors pass; then all do, beside the modes.
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
        """Return the sketch of random vectors ``first`` to ``first + count`` (0 is the first).

        Modes are part of it only with the first. Without ``squares`` the products M w' are saved:
        there is nothing of them then.
        """
        indices = range(self.n_modes + first, self.n_modes + first + count)
        if self.overflow:
            nothing = np.empty(0)
            return Sketch(nothing, nothing, nothing, nothing, nothing, magnitude=np.nan)
        return self.memory.run(lambda: self._draw(indices, squares))

    def _draw(self, indices: range, squares: bool) -> Sketch:
        found = [self._sketch(half, indices, squares) for half in self.halves()]
        out = found[0]
        for other in found[1:]:
            out = out.merged(other)
        out.magnitude = self.magnitude
        return out

    def halves(self) -> Iterable[HalfFactor]:
        """Yield A: whole, or on chunks of trials where it is separable."""
        if self.half.separable and self._chunk < len(self.half.trials):
            return self.half.chunks(self._chunk)
        return [self.half]

    def space(self, half: HalfFactor) -> Krylov:
        """Return Krylov spaces of M for each block, N_STEPS long; that of the whole is kept."""
        if half is self.half and self._space is not None:
            return self._space
        n_starts = min(max(1, N_STARTS // self.half.n_blocks), half.size)
        space = Krylov(lambda v: self.gram(half, v), half.white(range(n_starts)))
        space.reach(max(N_STEPS * n_starts, self.n_modes))
        if half is self.half:
            self._space = space
        return space

    def modes(self, half: HalfFactor) -> tuple[Tensor, Tensor]:
        """Return V (n_modes, n_blocks, size), the leading Ritz vectors of the Krylov spaces.

        With it come the residual norms (n_blocks, n_modes) of their Ritz values.
        """
        if not self.n_modes or self.overflow:
            nothing = half.white(range(self.n_modes))
            return nothing, torch.zeros(nothing.shape[1::-1], dtype=torch.float64)
        space = self.space(half)
        _, vectors, residuals = space.ritz()
        coordinates = vectors[..., : self.n_modes].to(half.factor.dtype)
        found = space.basis[:, : space.dimension].mT @ coordinates
        if found.isfinite().all():  # In single precision Ritz vectors are nearly orthonormal.
            found = torch.linalg.qr(found).Q
        return found.permute(2, 0, 1), residuals[:, : self.n_modes]

    def gram(self, half: HalfFactor, v: Tensor) -> Tensor:
        """Return M v, a few vectors and trials at a time."""
        return torch.cat([half.gram(group, self._chunk) for group in v.split(self._group)])

    def _sketch(self, half: HalfFactor, indices: range, squares: bool) -> Sketch:
        basis, residuals = self.modes(half)
        w = half.white(indices)
        w -= torch.einsum("kni,ind->knd", torch.einsum("knd,ind->kni", w, basis), basis)
        if self.n_modes == half.size:  # V spans the whole space: nothing is left to sample.
            w.zero_()
        found = self._reduce(half, w, sum_vectors=False, pull_back=squares)
        inner, outer, middles = (x.cpu().numpy() for x in found[1:4])
        n_squares = len(w) if squares else 0
        sketch = Sketch(
            inner.diagonal().copy(),
            outer.diagonal()[:n_squares].copy(),
            middles[:n_squares],
            inner,
            outer,
            found.grams,
        )
        if indices.start > self.n_modes:
            return sketch
        if not self.n_modes:
            nothing = {axis: torch.zeros_like(grams[0]) for axis, grams in found.grams.items()}
            return replace(sketch, known=nothing)
        known = self._reduce(half, basis, sum_vectors=True)
        projected = torch.einsum("ind,jnd->nij", basis, half.blocks(known.images)).double()
        projected = (projected + projected.mT) / 2
        finite = bool(projected.isfinite().all())
        values = torch.linalg.eigvalsh(projected).flip(-1) if finite else projected[..., 0]
        return replace(
            sketch,
            trace0=float(known.inner.trace()),
            square0=float(known.outer.trace()),
            middle0=float(known.middles.sum()),
            known=known.grams,
            mode_values=values.flatten().clamp(min=0).cpu().numpy(),
            mode_residuals=residuals.flatten().cpu().numpy(),
        )

    def _reduce(
        self, half: HalfFactor, v: Tensor, *, sum_vectors: bool, pull_back: bool = True
    ) -> _Reduced:
        """Return the reduced Grams of A v, the products of A v and of M v, and M v itself."""
        n = {axis: half.factor.out_shape[_DIMENSION[axis]] for axis in self.axes}
        leading = () if sum_vectors else (len(v),)
        grams = {axis: v.new_zeros(*leading, n[axis], n[axis]) for axis in self.axes}
        inner = torch.zeros(len(v), len(v), dtype=torch.float64, device=v.device)
        outer, middles = torch.zeros_like(inner), torch.zeros_like(inner[0])
        images = []
        for i in range(0, len(v), self._group):
            own = slice(i, i + self._group)
            image: Tensor | float = 0.0
            for part, steps in half.rows(v[own], self._chunk):
                inner[own, own] += inner_products(steps)
                for axis, gram in grams.items():
                    _add_grams(gram if sum_vectors else gram[own], steps, axis, half.separable)
                if pull_back:
                    middle, pulled = half.pull_back_by_stages(part, steps)
                    middles[own] += middle
                    image = image + pulled
            if isinstance(image, Tensor):
                outer[own, own] = inner_products(image)
                images.append(image)
        joined = torch.cat(images, dim=1) if images else v.new_empty(0)
        if len(images) > 1:  # Of vectors that were not processed together.
            between = (v.flatten(1) @ half.blocks(joined).flatten(1).mT).double()
            inner = torch.where(inner == 0, between, inner)
            outer = inner_products(joined)
        return _Reduced(grams, inner, outer, middles, joined)


def _add_grams(grams: Tensor, steps: Tensor, axis: str, separable: bool) -> None:
    """Add each vector's Gram on one axis, the partial trace over the others.

    ``grams`` is (k, n, n), or (n, n) for the sum over vectors; ``steps`` is (T, k, B, H). Where A
    maps each trial to itself, different trials have nothing in common.
    """
    parts = [steps] if grams.ndim == 2 else steps.split(1, dim=1)
    kept = {"trial": 2, "time": 0, "hidden": 3}[axis]
    for target, part in zip([grams] if grams.ndim == 2 else grams, parts, strict=True):
        flat = part.movedim(kept, 0).flatten(1)
        if axis == "trial" and separable:
            target.diagonal().add_((flat**2).sum(1))
        else:
            target.addmm_(flat, flat.mT)
