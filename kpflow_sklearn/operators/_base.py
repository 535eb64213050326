"""Matrix-free linear operators on batched tensors, and their algebra."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, overload

import numpy as np
import torch
from scipy.sparse import linalg
from torch import Tensor

from kpflow_sklearn._common.arrays import as_array, check_numbers
from kpflow_sklearn._common.checks import check_positive_int, check_real, check_slice
from kpflow_sklearn._common.tensors import as_tensor, without_autocast


class LinearOperator:
    """A linear map between spaces of tensors, applied without forming its matrix.

    Operators act on the trailing axes, ``(..., *in_shape) -> (..., *out_shape)``, through ``@``.
    They can be composed, added and scaled. ``A.T`` is the adjoint in the inner product of
    trajectories, <p, q> = (1/N) sum p.q, where N is the number of valid (trial, step) pairs. For
    an operator from trajectories to trajectories it equals the ordinary transpose. Subclasses
    define `_apply`, and either `_apply_adjoint` or `_adjoint`.

    Parameters
    ----------
    in_shape, out_shape : tuple of int
        Shapes of one argument and of one result.
    dtype : torch.dtype
        Data type of the operator and of its arguments.
    device : torch.device
        Device of the operator and of its arguments.

    Raises
    ------
    ValueError
        From ``@`` if the trailing shape, dtype or device of the argument differs from the
        operator's, and from ``@``, ``+`` and ``-`` if the shapes or dtypes of two operators do
        not match.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import linearize
    >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
    >>> lin = linearize(net, torch.ones(3, 5, 2))
    >>> lin.P @ lin.K @ lin.P.T
    _Composed((3, 5, 4) -> (3, 5, 4), torch.float32)
    >>> (lin.K @ torch.ones(7, 3, 5, 4)).shape
    torch.Size([7, 3, 5, 4])
    """

    #: Lets the operator, not NumPy, handle products with NumPy's arrays and numbers.
    __array_ufunc__ = None

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.in_shape = tuple(in_shape)
        self.out_shape = tuple(out_shape)
        self.dtype = dtype
        self.device = device

    def _apply(self, q: Tensor) -> Tensor:
        """Return the operator times ``q`` (..., *in_shape)."""
        raise NotImplementedError

    def _apply_in_place(self, q: Tensor) -> Tensor:
        """Return the operator times ``q``; the result may use the memory of ``q``."""
        return self._apply(q)

    def _apply_adjoint(self, q: Tensor) -> Tensor:
        """Return the adjoint times ``q`` (..., *out_shape)."""
        raise NotImplementedError

    def _apply_adjoint_in_place(self, q: Tensor) -> Tensor:
        """Return the adjoint times ``q``; the result may use the memory of ``q``."""
        return self._apply_adjoint(q)

    def _adjoint(self) -> LinearOperator:
        """Return the adjoint operator."""
        return _Adjoint(self)

    @property
    def factors(self) -> tuple[LinearOperator, ...]:
        """The factors of a product of operators, from left to right, or the operator alone."""
        return (self,)

    @property
    def separable(self) -> bool:
        """Whether each trial of the result depends only on the same trial of the argument."""
        return False

    def on_trials(self, trials: slice) -> LinearOperator | None:
        """Return the operator restricted to the rows of some trials.

        A separable operator is restricted to the rows and columns of these trials.

        Parameters
        ----------
        trials : slice
            The trials to keep.

        Returns
        -------
        LinearOperator or None
            The restricted operator, or None if the operator cannot be restricted.

        Raises
        ------
        ValueError
            If ``trials`` is not a slice or selects no trials.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> lin.P.on_trials(slice(0, 2))
        FlowPropagator((2, 5, 4) -> (2, 5, 4), torch.float32)
        """
        check_slice(trials, "trials", self.out_shape[0])
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns of the matrix."""
        return math.prod(self.out_shape), math.prod(self.in_shape)

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        """The adjoint."""
        return self._adjoint()

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: np.ndarray) -> np.ndarray: ...

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LinearOperator):
            return _Composed(self, other)
        if isinstance(other, np.ndarray):
            name = type(self).__name__
            array = as_array(other, f"the right factor of {name}")
            if array.dtype.kind not in "fiubO":
                raise ValueError(f"{name} acts on real numbers, got dtype {array.dtype}.")
            if array.dtype == object:
                array = check_numbers(array, name)
            return (self @ as_tensor(array, self.dtype, self.device)).cpu().numpy()
        if not isinstance(other, Tensor):
            return NotImplemented
        return self._checked_apply(other, self._apply)

    def apply_(self, q: Tensor) -> Tensor:
        """Return the operator times ``q``, reusing the memory of ``q`` where possible.

        This may overwrite the contents of ``q``, which saves the memory of a second array.

        Parameters
        ----------
        q : Tensor of shape (..., *in_shape)
            The argument. Its contents are undefined afterwards.

        Returns
        -------
        Tensor of shape (..., *out_shape)
            The product.

        Raises
        ------
        ValueError
            If the trailing shape, dtype or device of ``q`` differs from the operator's.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> q = torch.ones(3, 5, 4)
        >>> expected = lin.P @ q
        >>> torch.allclose(lin.P.apply_(q), expected)
        True
        """
        return self._checked_apply(q, self._apply_in_place)

    def _checked_apply(self, q: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        name = type(self).__name__
        if not isinstance(q, Tensor) or q.layout != torch.strided:
            what = f"{q.layout} layout" if isinstance(q, Tensor) else type(q).__name__
            raise TypeError(f"{name} acts on dense tensors, got a {what}.")
        trailing = tuple(q.shape[q.ndim - len(self.in_shape) :])
        if q.ndim < len(self.in_shape) or trailing != self.in_shape:
            raise ValueError(
                f"{name} acts on tensors of shape (..., {', '.join(map(str, self.in_shape))}), "
                f"got shape {tuple(q.shape)}."
            )
        if q.dtype != self.dtype or q.device != self.device:
            raise ValueError(
                f"{name} acts on tensors of dtype {self.dtype} on {self.device}, got {q.dtype} "
                f"on {q.device}. Convert the argument, or linearize the network in that dtype."
            )
        if q.numel() == 0:
            return q.new_zeros(*q.shape[: q.ndim - len(self.in_shape)], *self.out_shape)
        with torch.inference_mode(False), torch.no_grad(), without_autocast():
            return product(q.clone() if q.is_inference() else q)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return _Sum(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return self + (-1.0) * other if isinstance(other, LinearOperator) else NotImplemented

    def __mul__(self, factor: float) -> LinearOperator:
        if not isinstance(factor, numbers.Real) or isinstance(factor, bool):
            return NotImplemented
        return _Scaled(self, check_real(factor, f"the factor of {type(self).__name__}"))

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return (-1.0) * self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_shape} -> {self.out_shape}, {self.dtype})"

    def to_dense(self, chunk_size: int = 256) -> Tensor:
        """Return the matrix of a small operator.

        Parameters
        ----------
        chunk_size : int, default=256
            Number of columns computed at a time.

        Returns
        -------
        Tensor of shape (prod(out_shape), prod(in_shape))
            The matrix. Arguments and results are flattened in C order.

        Raises
        ------
        TypeError, ValueError
            If ``chunk_size`` is not a positive integer.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> matrix = lin.K.to_dense()
        >>> matrix.shape, torch.allclose(matrix, matrix.T)
        (torch.Size([60, 60]), True)
        """
        check_positive_int(chunk_size, "chunk_size", maximum=None)
        n = self.shape[1]
        size = min(int(chunk_size), max(n, 1))  # torch.split takes 64-bit integers only.
        # Row i of the identity (n, n) gives A e_i, column i of the matrix.
        eye = torch.eye(n, dtype=self.dtype, device=self.device)
        columns = [self @ e.reshape(len(e), *self.in_shape) for e in eye.split(size)]
        return torch.cat(columns).reshape(n, self.shape[0]).mT.contiguous()

    def to_scipy(self) -> linalg.LinearOperator:
        """Return a `scipy.sparse.linalg.LinearOperator` on flat NumPy vectors and matrices.

        Its ``rmatvec`` multiplies by the ordinary transpose of the matrix, as SciPy expects.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator
            The operator with the shape and dtype of this one.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import linearize
        >>> net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 4), "out": torch.nn.Linear(4, 1)})
        >>> lin = linearize(net, torch.ones(3, 5, 2))
        >>> from scipy.sparse.linalg import eigsh
        >>> len(eigsh(lin.PKP.to_scipy(), k=3, return_eigenvectors=False))
        3
        """

        def products(op: LinearOperator, scale: float) -> Any:
            def matmat(v: np.ndarray) -> np.ndarray:
                # SciPy has vectors as columns, (n,) or (n, k); operators take (k, *in_shape).
                vectors = np.ascontiguousarray(np.asarray(v).reshape(op.shape[1], -1).T)
                out = op @ vectors.reshape(-1, *op.in_shape)
                return scale * out.reshape(len(vectors), -1).T

            return matmat

        forward, backward = products(self, 1.0), products(self.T, self._transpose_scale())
        return linalg.LinearOperator(
            self.shape,
            matvec=lambda v: forward(v)[:, 0],
            rmatvec=lambda v: backward(v)[:, 0],
            matmat=forward,
            rmatmat=backward,
            dtype=np.dtype(str(self.dtype).removeprefix("torch.")),
        )

    def _transpose_scale(self) -> float:
        """Return the factor that turns the adjoint into the ordinary transpose."""
        return 1.0


def cut(op: LinearOperator, trials: slice) -> LinearOperator:
    """Return ``op.on_trials(trials)``, or raise an error if the operator cannot be restricted."""
    part = op.on_trials(trials)
    if part is None:
        raise ValueError(f"{op!r} cannot be restricted to some of the trials.")
    return part


def steps_first(q: Tensor) -> Tensor:
    """Return trajectories (..., B, T, H) as steps (T, k, B, H), a view of ``q`` where possible."""
    return q.reshape(-1, *q.shape[-3:]).movedim(2, 0)


def as_trajectories(steps: Tensor, leading: tuple[int, ...]) -> Tensor:
    """Return steps (T, k, B, H) as trajectories (*leading, B, T, H), without a copy."""
    out = steps.movedim(0, 2)
    return out.reshape(*leading, *out.shape[1:]) if len(leading) != 1 else out


class _Adjoint(LinearOperator):
    """The adjoint of an operator that defines `_apply_adjoint`."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.out_shape, op.in_shape, op.dtype, op.device)
        self._op = op

    def _apply(self, q: Tensor) -> Tensor:
        return self._op._apply_adjoint(q)

    def _apply_in_place(self, q: Tensor) -> Tensor:
        return self._op._apply_adjoint_in_place(q)

    def _adjoint(self) -> LinearOperator:
        return self._op

    def _transpose_scale(self) -> float:
        return 1.0 / self._op._transpose_scale()

    @property
    def separable(self) -> bool:
        return self._op.separable

    def on_trials(self, trials: slice) -> LinearOperator | None:
        part = self._op.on_trials(trials) if self.separable else None
        return None if part is None else part.T

    def __repr__(self) -> str:
        return f"{self._op!r}.T"


def _require_match(condition: bool, action: str, a: LinearOperator, b: LinearOperator) -> None:
    if not condition:
        raise ValueError(f"cannot {action} {a!r} and {b!r}: their shapes or dtypes do not match.")


class _Composed(LinearOperator):
    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        _require_match(
            left.in_shape == right.out_shape and left.dtype == right.dtype, "compose", left, right
        )
        super().__init__(right.in_shape, left.out_shape, left.dtype, left.device)
        self._left, self._right = left, right

    def _apply(self, q: Tensor) -> Tensor:
        product = self._right @ q
        # The left factor may overwrite this product, unless it shares the argument's memory.
        if product.untyped_storage().data_ptr() == q.untyped_storage().data_ptr():
            return self._left @ product
        return self._left.apply_(product)

    def _apply_in_place(self, q: Tensor) -> Tensor:
        return self._left.apply_(self._right.apply_(q))

    def _adjoint(self) -> LinearOperator:
        return self._right.T @ self._left.T

    def _transpose_scale(self) -> float:
        return self._left._transpose_scale() * self._right._transpose_scale()

    @property
    def factors(self) -> tuple[LinearOperator, ...]:
        return (*self._left.factors, *self._right.factors)

    @property
    def separable(self) -> bool:
        return self._left.separable and self._right.separable

    def on_trials(self, trials: slice) -> LinearOperator | None:
        left = self._left.on_trials(trials) if self._left.separable else None
        right = self._right.on_trials(trials)
        return None if left is None or right is None else left @ right


class _Sum(LinearOperator):
    def __init__(self, a: LinearOperator, b: LinearOperator) -> None:
        same_shapes = a.in_shape == b.in_shape and a.out_shape == b.out_shape
        _require_match(same_shapes and a.dtype == b.dtype, "add", a, b)
        super().__init__(a.in_shape, a.out_shape, a.dtype, a.device)
        self._a, self._b = a, b

    def _apply(self, q: Tensor) -> Tensor:
        return (self._a @ q) + (self._b @ q)

    def _adjoint(self) -> LinearOperator:
        return self._a.T + self._b.T

    def _transpose_scale(self) -> float:
        return self._a._transpose_scale()

    @property
    def separable(self) -> bool:
        return self._a.separable and self._b.separable

    def on_trials(self, trials: slice) -> LinearOperator | None:
        # A separable summand loses columns too, so that it no longer fits one that is not.
        alike = self._a.separable == self._b.separable
        a, b = (op.on_trials(trials) if alike else None for op in (self._a, self._b))
        return None if a is None or b is None else a + b


class _Scaled(LinearOperator):
    def __init__(self, op: LinearOperator, factor: float) -> None:
        super().__init__(op.in_shape, op.out_shape, op.dtype, op.device)
        self._op, self._factor = op, factor

    def _apply(self, q: Tensor) -> Tensor:
        return self._factor * (self._op @ q)

    def _adjoint(self) -> LinearOperator:
        return self._factor * self._op.T

    def _transpose_scale(self) -> float:
        return self._op._transpose_scale()

    @property
    def separable(self) -> bool:
        return self._op.separable

    def on_trials(self, trials: slice) -> LinearOperator | None:
        part = self._op.on_trials(trials)
        return None if part is None else self._factor * part
