"""Block Lanczos iteration on many independent problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kpflow_sklearn._random import torch_generator


class Krylov:
    """Krylov spaces of symmetric matrices M_1..M_n, one for each problem, built together.

    Full reorthogonalisation: the spaces are small, and single precision would lose orthogonality
    (Golub and Van Loan, Matrix Computations, section 10.3).

    Parameters
    ----------
    product : callable
        Maps (r, n, size) to the products M_i q with the vectors of each problem.
    start : Tensor of shape (r, n, size)
        r first directions for each of n problems.

    Attributes
    ----------
    basis : Tensor of shape (n, dimension, size)
        Orthonormal, for each problem.
    norms : Tensor of shape (n,)
        Norms of the first of the directions.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self._product = product
        first = start.movedim(0, 1)
        self.norms = first[:, 0].norm(dim=-1).double()
        self._last = torch.linalg.qr(first.mT).Q.mT
        self.basis = self._last
        self._projected = first.new_zeros(first.shape[0], 0, 0)
        self._coupling = first.new_zeros(first.shape[0], 0, 0)

    def extend(self) -> bool:
        """Apply M once more; False if the spaces can grow no further."""
        image = self._product(self._last.movedim(1, 0)).movedim(0, 1)
        along = image @ self.basis.mT  # (n, r, dimension)
        r, dimension = along.shape[1:]
        projected = along.new_zeros(len(along), dimension, dimension)
        projected[:, : dimension - r, : dimension - r] = self._projected
        projected[:, -r:, :] = along
        projected[:, :, -r:] = along.mT
        projected[:, -r:, -r:] = (along[..., -r:] + along[..., -r:].mT) / 2
        self._projected = projected
        rest = image - along @ self.basis
        rest = rest - (rest @ self.basis.mT) @ self.basis
        q, coupling = torch.linalg.qr(rest.mT)
        self._coupling = coupling  # rest^T = q coupling
        if dimension == self.basis.shape[-1]:
            return False
        self._append(self._replaced(q.mT, coupling, image))
        return True

    def restart(self) -> None:
        """Go on from random directions: a chain shows equal eigenvalues but once each."""
        r = self._last.shape[1]
        self.basis = self.basis[:, :-r]
        self._append(self._random(self._last))

    def _append(self, q: Tensor) -> None:
        """Add directions, as many as there is room for."""
        room = self.basis.shape[-1] - self.basis.shape[1]
        self._last = self._orthogonal(q[:, :room])
        self.basis = torch.cat([self.basis, self._last], dim=1)

    def _random(self, like: Tensor) -> Tensor:
        generator = torch_generator(self.basis.shape[1])
        return torch.randn(like.shape[1:], generator=generator).to(like).expand(like.shape)

    def _replaced(self, q: Tensor, coupling: Tensor, image: Tensor) -> Tensor:
        """Return ``q`` with random directions where the space was exhausted: QR made those up."""
        size = coupling.diagonal(dim1=1, dim2=2).abs()
        rounding = 100 * torch.finfo(q.dtype).eps * image.norm(dim=-1).amax(1, keepdim=True)
        return torch.where((size <= rounding)[..., None], self._random(q), q)

    def _orthogonal(self, q: Tensor) -> Tensor:
        """Return an orthonormal basis of what ``q`` adds to the space."""
        for _ in range(2):  # Once would leave the rounding of directions nearly in the space.
            q = q - (q @ self.basis.mT) @ self.basis
            q = torch.linalg.qr(q.mT).Q.mT
        return q

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the Ritz values in descending order, their coefficients and residual norms.

        Returns
        -------
        values : Tensor of shape (n, m)
            Of the space that M has been applied to, in double precision.
        coefficients : Tensor of shape (n, m, m)
            Column j holds the coordinates of Ritz vector j in ``basis[:, :m]``.
        residuals : Tensor of shape (n, m)
            |M v - value v|.
        """
        projected = self._projected.double()
        if not projected.isfinite().all():  # An overflow has no eigenvalues.
            nothing = torch.full_like(projected, torch.nan)
            return nothing[..., 0], nothing, nothing[..., 0]
        values, vectors = torch.linalg.eigh(projected)
        values, vectors = values.flip(-1), vectors.flip(-1)
        r = self._coupling.shape[-1]
        residuals = (self._coupling.double() @ vectors[:, -r:]).norm(dim=1)
        return values, vectors, residuals
