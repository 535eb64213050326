"""Hostile arrays: other forms of the same numbers, and values that are not numeric arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse
import torch

from tests.tools.bad_input.hostile import Hostile, made, plain
from tests.tools.bad_input.settings import Anything

#: float32 input is computed in float32: training carries its rounding into the answers.
ROUNDED = 1e-3


class Named(np.ndarray):
    """A subclass of arrays without additions."""


def cast(**dtypes: Any) -> dict[str, Callable]:
    """Return makers of the array in other dtypes; underscores in their names become spaces."""
    return {k.replace("_", " "): lambda a, d=d: a.astype(d) for k, d in dtypes.items()}


def read_only(a: np.ndarray) -> np.ndarray:
    out = a.copy()
    out.flags.writeable = False
    return out


def with_grad(a: np.ndarray) -> torch.Tensor:
    return torch.tensor(a, requires_grad=True)


def with_first(a: np.ndarray, value: Any, dtype: type | None = None) -> np.ndarray:
    out = np.array(a, dtype)
    out.flat[0] = value
    return out


def with_row(a: np.ndarray, value: Any, columns: Any = ...) -> np.ndarray:
    out = np.array(a)
    out[0, columns] = value
    return out


def ragged(a: np.ndarray) -> np.ndarray:
    out = np.empty(len(a), object)
    out[:] = [a[0, :1], *list(a[1:])]
    return out


def reindexed(a: np.ndarray) -> pd.Series:
    return pd.Series(a, np.arange(len(a)) + 5)


def _matrix(a: np.ndarray) -> np.matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(a)


def forms() -> list[Hostile]:
    """Return other forms of the same numbers; the good value holds small integers."""
    return [
        Hostile("float32", lambda a: a.astype(np.float32), "same", ROUNDED),
        *made("same", {
            **cast(float16="f2", long_double=np.longdouble, big_endian=">f8", int64="i8",
                   int8="i1", objects=object),
            "read-only": read_only, "Fortran order": np.asfortranarray,
            "every second entry": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
            "reversed twice": lambda a: a[::-1].copy()[::-1],
            "list": lambda a: a.tolist(), "tuple of arrays": tuple,
            "tensor": torch.as_tensor, "tensor with grad": with_grad,
            "masked array": np.ma.MaskedArray, "subclass": lambda a: a.view(Named),
        }),
    ]  # fmt: skip


def no_array(*, none: str = "error") -> list[Hostile]:
    """Return values that are not arrays of numbers, whatever the shape should be."""
    return [
        *plain(none, None),
        *plain("error", "", "text", b"text", 3, 0.5, True, {}, {"a": 1}, set(), Anything(), int,
               [], (), [[]], [[[]]], np.array(3.0), np.array(None), range(0)),
        *made("error", {
            "NaN": lambda a: with_first(a, np.nan), "infinity": lambda a: with_first(a, np.inf),
            "minus infinity": lambda a: with_first(a, -np.inf),
            "None inside": lambda a: with_first(a, None, object),
            "NaN in a tensor": lambda a: torch.as_tensor(with_first(a, np.nan)),
            "complex": lambda a: a + 1j, "complex objects": lambda a: with_first(a, 1j, object),
            "strings": lambda a: np.full(a.shape, "a"),
            "string inside": lambda a: with_first(a, "a", object),
            "dates": lambda a: np.zeros(a.shape, "M8[s]"),
            "durations": lambda a: np.zeros(a.shape, "m8[s]"),
            "records": lambda a: np.zeros(a.shape, [("a", float)]),
            "hidden entries": lambda a: np.ma.MaskedArray(a, with_first(a * 0, 1, bool)),
            "sparse": lambda a: scipy.sparse.csr_matrix(a.reshape(len(a), -1)),
            "ragged list": lambda a: [a[0].tolist(), *([a[0, :1].tolist()] * 3)],
            "ragged objects": ragged, "generator": lambda a: (row for row in a),
            "meta tensor": lambda a: torch.empty(a.shape, device="meta"),
            "sparse tensor": lambda a: torch.as_tensor(a).to_sparse(),
            "half too many": lambda a: np.concatenate([a, a[:2]]), "one axis": np.ravel,
            "one axis too many": lambda a: a[None], "no trials": lambda a: a[:0],
            "no steps": lambda a: a[:, :0],
        }),
        Hostile("numbers in words", lambda a: a.astype(str), "same or error"),
        Hostile("beyond float64", lambda a: a.astype(np.longdouble) * np.longdouble("1e4000"),
                "error", warns="overflow|invalid value|encountered in cast"),
    ]  # fmt: skip


def tables() -> list[Hostile]:
    """Return other forms of a table (n_samples, n_columns)."""
    return [
        *made("same", {
            "DataFrame": lambda a: pd.DataFrame(a, columns=list("abcd")[: a.shape[1]]),
            "polars": lambda a: pl.DataFrame(a, schema=list("abcd")[: a.shape[1]]),
            "integer frame": lambda a: pd.DataFrame(a.astype(int)),
            "nullable frame": lambda a: pd.DataFrame(a).astype("Float64"),
            "object frame": lambda a: pd.DataFrame(a.astype(object)),
        }),
        Hostile("matrix", _matrix, "same", warns="PendingDeprecationWarning"),
        *made("error", {
            "gap in a frame": lambda a: pd.DataFrame(with_first(a, np.nan)),
            "words in a frame": lambda a: pd.DataFrame(a).assign(c="a"),
        }),
    ]  # fmt: skip


def masks() -> list[Hostile]:
    """Return masks (n_trials, n_timesteps), whose valid steps should come first."""
    return [
        *made("same", {
            **cast(int=int, float=float, uint8="u1", objects=object),
            "list": lambda a: a.tolist(), "DataFrame": pd.DataFrame, "tensor": torch.as_tensor,
            "read-only": read_only, "Fortran order": np.asfortranarray,
        }),
        *made("answer", {"nothing hidden": np.ones_like}), *plain("answer", None),
        *made("either", {"first step alone": lambda a: np.cumsum(np.ones_like(a), 1) == 1}),
        *made("error", {
            "gap": lambda a: with_row(np.ones_like(a), False, 1),
            "a trial without steps": lambda a: with_row(a, False), "all hidden": np.zeros_like,
            "counts": lambda a: 2 * a, "minus one": lambda a: -1.0 * a,
            "NaN": lambda a: np.where(a, 1.0, np.nan),
            "None inside": lambda a: np.where(a, True, None),
            **cast(strings=str, complex=complex), "sparse": scipy.sparse.csr_matrix,
            "other shape": lambda a: a[:, :-1], "of other trials": lambda a: a[:-1],
            "turned": np.transpose, "with features": lambda a: a[..., None],
            "lengths": lambda a: a.sum(1),
            "ragged list": lambda a: [[True] * (k + 1) for k in range(len(a))],
        }),
        *plain("error", True, 1, "all", [], (), {}, Anything(), np.array(True)),
    ]  # fmt: skip


def labels(*, none: str = "answer") -> list[Hostile]:
    """Return labels, one per trial; the good value holds strings, half of them each."""
    return [
        *made("same", {
            "list": list, "tuple": tuple, **cast(objects=object), "Series": pd.Series,
            "Series with an index": reindexed, "read-only": read_only,
            "categorical": lambda a: pd.Series(pd.Categorical(a)),
            "polars": lambda a: pl.Series(a.tolist()),
        }),
        *made("answer", {
            "numbers": lambda a: np.unique(a, return_inverse=True)[1],
            "tensor": lambda a: torch.as_tensor([ord(x) for x in a]),
        }),
        *plain(none, None),
        Hostile("all alike", lambda a: np.full(len(a), "a"), "either", warns="one sub-task"),
        *made("either", {
            "all different": lambda a: np.arange(len(a)).astype(str),
            "fractions": lambda a: np.arange(len(a)) + 0.5,
        }),
        *made("error", {
            "NaN inside": lambda a: with_first(np.arange(len(a)) % 2.0, np.nan),
            "None inside": lambda a: with_first(a, None, object),
            "mixed": lambda a: with_first(a, 3, object),
            "complex": lambda a: np.arange(len(a)) + 1j,
            "dates": lambda a: np.zeros(len(a), "M8[s]"),
            "lists inside": lambda a: [[x] for x in a[:-1]] + [[1, 2]],
            "too few": lambda a: a[:-1], "too many": lambda a: np.concatenate([a, a]),
            "four axes": lambda a: a[:, None, None, None],
        }),
        *plain("error", "text", 3, 0.5, [], (), {}, Anything(), np.array("a")),
    ]  # fmt: skip
