"""Lanczos iteration on many independent problems at once.

scipy's eigsh does not serve here: it solves one problem at a time, on the CPU, from one start, and
keeps neither the basis nor the earlier spaces, which ranks and sketches need.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kpflow_sklearn._common.random import torch_generator


class Krylov:
    """Krylov spaces of symmetric matrices M_1..M_n, one for each problem, built together.

    Full reorthogonalisation: the spaces are small, and single precision would lose orthogonality
    (Golub and Van Loan, Matrix Computations, section 10.3).

    Parameters
    ----------
    product : callable
        Maps (r, n, size) to the products M_i q with the vectors of each problem.
    start : Tensor of shape (r, n, size)
        The first r directions of each of the n problems.

    Attributes
    ----------
    basis : Tensor of shape (n, dimension, size)
        Orthonormal vectors q_1, q_2, ... of each problem.
    start : Tensor of shape (n, r, r)
        Column j holds the coordinates of the first direction j in ``basis[:, :r]``.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self._product = product
        first = start.movedim(0, 1)
        q, self.start = torch.linalg.qr(first.mT)
        self._last = q.mT
        self._room = self.basis = self._last
        self._projected = first.new_zeros(first.shape[0], 0, 0)
        self._coupling = first.new_zeros(first.shape[0], 0, 0)

    def extend(self) -> bool:
        """Apply M once more; False if the spaces can grow no further."""
        if self.dimension == self.basis.shape[-1]:
            return False
        # M Q_last, (n, r, size), and its coordinates in the basis, (n, r, dimension)
        image = self._product(self._last.movedim(1, 0)).movedim(0, 1)
        along = image @ self.basis.mT
        r, dimension = along.shape[1:]
        # T = Q^T M Q, (n, dimension, dimension), grows by the last block of rows and columns.
        projected = along.new_zeros(len(along), dimension, dimension)
        projected[:, : dimension - r, : dimension - r] = self._projected
        projected[:, -r:, :] = along
        projected[:, :, -r:] = along.mT
        projected[:, -r:, -r:] = (along[..., -r:] + along[..., -r:].mT) / 2
        self._projected = projected
        q, coupling = torch.linalg.qr((image - along @ self.basis).mT)
        # M Q_last - Q Q^T M Q_last = q coupling: what T leaves out, q the next directions.
        self._coupling = coupling
        if dimension == self.basis.shape[-1]:
            return False
        is_spent = self._is_spent(coupling, image)
        if is_spent.any():
            self._append(self._orthogonal(torch.where(is_spent, self._random(q.mT), q.mT)))
        else:
            self._append(q.mT)
        return True

    def restart(self) -> None:
        """Continue from random directions: from one start, equal eigenvalues appear only once."""
        r = self._last.shape[1]
        self.basis = self.basis[:, :-r]
        self._append(self._orthogonal(self._random(self._last)))

    def _append(self, q: Tensor) -> None:
        """Add directions nearly orthogonal to the space, as many as there is room for."""
        room = self.basis.shape[-1] - self.basis.shape[1]
        self._last = self._orthogonal(q[:, :room])
        dimension = self.basis.shape[1]
        new = slice(dimension, dimension + self._last.shape[1])
        if new.stop > self._room.shape[1]:  # Twice as much room: seldom to be copied again.
            self._room = torch.cat([self.basis, torch.empty_like(self._room)], dim=1)
        self._room[:, new] = self._last
        self.basis = self._room[:, : new.stop]

    def _random(self, like: Tensor) -> Tensor:
        generator = torch_generator(self.basis.shape[1])
        return torch.randn(like.shape[1:], generator=generator).to(like).expand(like.shape)

    def _is_spent(self, coupling: Tensor, image: Tensor) -> Tensor:
        """Tell which directions QR has chosen arbitrarily, in an exhausted space, (n, r, 1)."""
        size = coupling.diagonal(dim1=1, dim2=2).abs()
        eps = torch.finfo(image.dtype).eps
        return (size <= 100 * eps * image.norm(dim=-1).amax(1, keepdim=True))[..., None]

    def _orthogonal(self, q: Tensor) -> Tensor:
        """Return an orthonormal basis of what ``q`` adds to the space."""
        # q - Q Q^T q, (n, r, size), Q the basis so far
        q = q - (q @ self.basis.mT) @ self.basis
        return torch.linalg.qr(q.mT).Q.mT

    def reach(self, dimension: int) -> None:
        """Grow the space to a dimension, or to the largest possible."""
        while self.dimension < dimension and self.extend():
            pass

    @property
    def dimension(self) -> int:
        """Dimension of the space that M was applied to."""
        return self._projected.shape[-1]

    def ritz(self, dimension: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the Ritz values in descending order, their coefficients and residual norms.

        Parameters
        ----------
        dimension : int, optional
            Dimension of an earlier space; by default the whole space that M was applied to.

        Returns
        -------
        values : Tensor of shape (n, m)
            In double precision.
        coefficients : Tensor of shape (n, m, m)
            Column j holds the coordinates of Ritz vector j in ``basis[:, :m]``.
        residuals : Tensor of shape (n, m)
            |M v - value v| of each Ritz vector v.
        """
        projected, coupling = self._projected.double(), self._coupling.double()
        if dimension is not None and dimension < self.dimension:
            coupling = projected[:, dimension:, :dimension]
            projected = projected[:, :dimension, :dimension]
        if not projected.isfinite().all():  # An overflow has no eigenvalues.
            nothing = torch.full_like(projected, torch.nan)
            return nothing[..., 0], nothing, nothing[..., 0]
        values, vectors = torch.linalg.eigh(projected)
        values, vectors = values.flip(-1), vectors.flip(-1)
        # |M Q s - value Q s| = |coupling s_last|, s a column of coefficients.
        residuals = (coupling @ vectors[:, -coupling.shape[-1] :]).norm(dim=1)
        return values, vectors, residuals


class Quadrature:
    """Gauss quadrature for the spectral measure of a start, for many problems at once.

    Lanczos' three-term recurrence, M q_j = beta_{j-1} q_{j-1} + alpha_j q_j + beta_j q_{j+1}, from
    one vector for each problem. Nothing is reorthogonalised: copies of eigenvalues that have
    converged appear, but share the weight of one (Golub and Meurant 2010, section 4).

    Parameters
    ----------
    product : callable
        Maps vectors (..., size) to M q, each by the matrix of its problem.
    start : Tensor of shape (..., size)
        The starts.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self._product = product
        self._q = start / torch.linalg.vector_norm(start, dim=-1, keepdim=True)
        self._before = torch.zeros_like(start)
        self._alphas: list[Tensor] = []
        self._betas = [torch.zeros_like(start[..., :1])]

    def extend(self, n_steps: int) -> None:
        """Continue the recurrence until there are ``n_steps`` nodes."""
        while len(self._alphas) < n_steps:
            q, image = self._q, self._product(self._q)
            # sizes of the image and of what is new in it, (..., 1)
            size = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
            self._alphas.append((q * image).sum(-1, keepdim=True))
            image = image.sub_(self._alphas[-1] * q).sub_(self._betas[-1] * self._before)
            beta = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
            # Rounding is all that is left of a space that is exhausted.
            is_new = beta > 10 * torch.finfo(q.dtype).eps * size
            self._betas.append(torch.where(is_new, beta, 0.0))
            self._before, self._q = q, torch.where(is_new, image / beta, 0.0)

    def rule(self) -> tuple[Tensor, Tensor]:
        """Return the nodes and their weights.

        Returns
        -------
        nodes : Tensor of shape (..., n_steps)
            In descending order, in double precision; NaN if something overflows.
        weights : Tensor of shape (..., n_steps)
            They sum to 1; 0 for nodes beyond the dimension of the problem.
        """
        diagonal = torch.cat(self._alphas, -1).double()
        beside = torch.cat(self._betas[1:-1], -1).double()
        projected = torch.diag_embed(diagonal) + torch.diag_embed(beside, 1)
        projected = projected + torch.diag_embed(beside, -1)
        if not projected.isfinite().all():
            return (torch.full_like(diagonal, torch.nan),) * 2
        nodes, vectors = torch.linalg.eigh(projected)
        # The squared first entry of an eigenvector is the weight of its node.
        return nodes.flip(-1), vectors[..., 0, :].square().flip(-1)


def rounding(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the error of Ritz values (n, m) by products in a precision, (n, 1)."""
    return 10 * torch.finfo(dtype).eps * values.amax(1, keepdim=True).clamp(min=0)
