"""Forecast the time and memory of an analysis, and log the forecast."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from tqdm.auto import tqdm

from kpflow_sklearn.networks.tangents import UserTangent
from kpflow_sklearn.operators import Linearization, cut
from kpflow_sklearn.spectra import Operations

logger = logging.getLogger("kpflow_sklearn")
T = TypeVar("T")

#: Seconds above which an analysis is slow, in general and if it takes a slow path.
SLOW, SLOW_PATH = 60.0, 10.0
AUTODIFF = (
    "The derivatives of the network's own step are computed by automatic differentiation, which "
    "is about twenty times slower than for nn.RNN, nn.GRU, nn.LSTM and the built-in cells."
)
FASTER = "Fewer trials, steps (analysis_trials, analysis_set) or snapshots"
#: Approximate operations of a measurement, and its largest number of vectors times trials.
_MEASURED, _N_ROWS = 2e8, 512
#: Seconds of one product with one vector above which two vectors at most are measured.
_LONG = 0.05


class Forecast(NamedTuple):
    """What an analysis is expected to take.

    Attributes
    ----------
    what : str
        The snapshots and their size, in words.
    seconds : float
        The time.
    n_bytes : float or None
        The memory beyond that of the network and the data, if it is known.
    slow_path : str
        What makes the analysis slow besides its size; empty if nothing does.
    faster : str
        Changes that would make it faster.
    """

    what: str
    seconds: float
    n_bytes: float | None = None
    slow_path: str = ""
    faster: str = FASTER

    def __str__(self) -> str:
        memory = "" if self.n_bytes is None else f" and {_size(self.n_bytes)}"
        text = f"Analysing {self.what} takes about {_duration(self.seconds)}{memory}."
        if not self.is_slow:
            return text
        return " ".join(filter(None, [text, self.slow_path, f"{self.faster} would be faster."]))

    @property
    def is_slow(self) -> bool:
        """Whether the forecast is announced even if ``verbose`` is False."""
        return self.seconds > (SLOW_PATH if self.slow_path else SLOW)

    def announce(self, *, verbose: bool | int) -> None:
        """Log the forecast: as a warning if it is slow, otherwise only with ``verbose``."""
        if not (verbose or self.is_slow):
            return
        level = logging.WARNING if self.is_slow else logging.INFO
        logger.log(level, "%s", self)
        if verbose and not logger.isEnabledFor(level):  # The logger would drop it.
            tqdm.write(str(self), file=sys.stderr)


def seconds_of(operations: Operations, lin: Linearization) -> float:
    """Return the time of these operations, estimated by short measurements of both kinds."""
    per_product, per_matrix = _second_per_product(lin), _second_in_matrices(lin)
    return operations.products * per_product + operations.matrices * per_matrix


def _second_per_product(lin: Linearization) -> float:
    """Return the time of one operation in products with K and P.

    Equation: t / (8 k b T W) for the product P J J^T P* with k vectors on b trials of T steps,
    where W is the number of weights.
    """
    n_trials, n_timesteps, n_states = lin.states.shape
    per_row = 8.0 * n_timesteps * lin.tangent.n_weights

    def measured(k: int, b: int) -> float:
        J, P = cut(lin.J_theta, slice(b)), cut(lin.P, slice(b))  # noqa: N806
        q = torch.ones(k, b, n_timesteps, n_states, dtype=P.dtype, device=P.device)
        start = time.perf_counter()
        float((P @ (J @ (J.T @ (P.T @ q)))).sum())  # float waits for a GPU to finish.
        return (time.perf_counter() - start) / (k * b * per_row)

    first = measured(1, 1)  # Includes the costs of a first product.
    rows = int(min(_N_ROWS, max(1.0, _MEASURED / per_row)))
    b = min(n_trials, rows)
    k = max(1, rows // b)
    if first * per_row > _LONG:
        k = min(k, 2)
    return min(measured(k, b) for _ in range(2 if first * per_row < _LONG / 5 else 1))


def _second_in_matrices(lin: Linearization) -> float:
    """Return the time of one operation in products of matrices, of a width near n_states."""
    size = min(max(lin.states.shape[-1], 64), 256)
    per_product = 2.0 * size**3
    n = max(1, int(_MEASURED / 10 / per_product))
    matrices = torch.ones(n, size, size, dtype=torch.float64, device=lin.states.device)
    float(matrices[0, 0, 0])
    start = time.perf_counter()
    float((matrices @ matrices)[0, 0, 0])
    return (time.perf_counter() - start) / (n * per_product)


def slow_path(lin: Linearization) -> str:
    """Return why products with these derivatives are slow; empty if they are not."""
    is_slow = any(isinstance(layer, UserTangent) for layer in lin.tangent.layers)
    return AUTODIFF if is_slow else ""


def announced_after_first(
    items: Iterator[T], n_items: int, what: str, *, verbose: bool | int
) -> Iterator[T]:
    """Yield the items, and announce the time of all once the first has been analysed.

    Parameters
    ----------
    items : iterator
        The snapshots, each of which the caller analyses before it takes the next.
    n_items : int
        Their number.
    what : str
        Their number and size, in words.
    verbose : bool or int
        Whether the forecast is wanted even if the analysis is fast.
    """
    start = time.perf_counter()
    for i, item in enumerate(items):
        if i == 1:
            spent = time.perf_counter() - start
            Forecast(what, spent * n_items).announce(verbose=verbose)
        yield item


def in_words(n_snapshots: int, sizes: Sequence[tuple[int, str]]) -> str:
    """Return "8 snapshots of 50 trials x 90 steps x 256 units" for these sizes."""
    snapshots = f"{n_snapshots} snapshot{'s' if n_snapshots > 1 else ''}"
    return f"{snapshots} of {' x '.join(f'{n} {name}' for n, name in sizes)}"


def _duration(seconds: float) -> str:
    """Return a time in words, with one or two digits."""
    if seconds < 10:
        return f"{max(seconds, 0.1):.1g} s"
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 20 else f"{round(seconds, -1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(n_bytes: float) -> str:
    """Return a number of bytes in words."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{max(n_bytes / 1e6, 1):.0f} MB"
