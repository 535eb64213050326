"""Hostile values of arrays: other forms of the same numbers, and what no array should be."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse
import torch

from tests.tools.bad_input.hostile import Hostile, plain
from tests.tools.bad_input.settings import Anything

#: 32-bit numbers stay 32-bit numbers: their answers carry its rounding through a training.
ROUNDED = 1e-3


def forms(*, optional: bool = False) -> list[Hostile]:
    """Other forms of the same numbers; the good value holds small whole ones."""
    return [
        Hostile("float16", lambda a: a.astype(np.float16), "same"),
        Hostile("float32", lambda a: a.astype(np.float32), "same", ROUNDED),
        Hostile("long double", lambda a: a.astype(np.longdouble), "same"),
        Hostile("big endian", lambda a: a.astype(">f8"), "same"),
        Hostile("int64", lambda a: a.astype(np.int64), "same"),
        Hostile("int8", lambda a: a.astype(np.int8), "same"),
        Hostile("objects", lambda a: a.astype(object), "same"),
        Hostile("read-only", read_only, "same"),
        Hostile("Fortran order", np.asfortranarray, "same"),
        Hostile("every second entry", lambda a: np.repeat(a, 2, axis=-1)[..., ::2], "same"),
        Hostile("reversed twice", lambda a: a[::-1].copy()[::-1], "same"),
        Hostile("list", lambda a: a.tolist(), "same"),
        Hostile("tuple of arrays", tuple, "same"),
        Hostile("tensor", torch.as_tensor, "same"),
        Hostile("tensor with grad", lambda a: torch.tensor(a, requires_grad=True), "same"),
        Hostile("masked array", lambda a: np.ma.MaskedArray(a), "same"),
        Hostile("subclass", lambda a: a.view(Named), "same"),
    ]


class Named(np.ndarray):
    """A subclass of arrays that does nothing."""


def no_array(*, none: str = "error") -> list[Hostile]:
    """Return what no array of numbers is, whatever its shape should be."""
    return [
        *plain(none, None),
        *plain("error", "", "text", b"text", 3, 0.5, True, {}, {"a": 1}, set(), Anything(), int),
        *plain("error", [], (), [[]], [[[]]], np.array(3.0), np.array(None), range(0)),
        Hostile("NaN", lambda a: with_first(a, np.nan), "error"),
        Hostile("infinity", lambda a: with_first(a, np.inf), "error"),
        Hostile("minus infinity", lambda a: with_first(a, -np.inf), "error"),
        Hostile("None inside", lambda a: with_first(a.astype(object), None), "error"),
        Hostile("NaN in a tensor", lambda a: torch.as_tensor(with_first(a, np.nan)), "error"),
        Hostile("complex", lambda a: a + 1j, "error"),
        Hostile("complex objects", lambda a: with_first(a.astype(object), 1j), "error"),
        Hostile("strings", lambda a: np.full(a.shape, "a"), "error"),
        Hostile("string inside", lambda a: with_first(a.astype(object), "a"), "error"),
        Hostile("numbers in words", lambda a: a.astype(str), "same or error"),
        Hostile("dates", lambda a: np.zeros(a.shape, "M8[s]"), "error"),
        Hostile("durations", lambda a: np.zeros(a.shape, "m8[s]"), "error"),
        Hostile("records", lambda a: np.zeros(a.shape, [("a", float)]), "error"),
        Hostile("hidden entries", hide_first, "error"),
        Hostile("sparse", lambda a: scipy.sparse.csr_matrix(a.reshape(len(a), -1)), "error"),
        Hostile("ragged list", lambda a: [a[0].tolist(), *([a[0, :1].tolist()] * 3)], "error"),
        Hostile("ragged objects", ragged, "error"),
        Hostile("generator", lambda a: (row for row in a), "error"),
        Hostile("meta tensor", lambda a: torch.empty(a.shape, device="meta"), "error"),
        Hostile("sparse tensor", lambda a: torch.as_tensor(a).to_sparse(), "error"),
        Hostile("beyond float64", lambda a: a.astype(np.longdouble) * np.longdouble("1e4000"),
                "error", warns="overflow|invalid value|encountered in cast"),
        Hostile("half too many", lambda a: np.concatenate([a, a[:2]]), "error"),
        Hostile("one axis", lambda a: a.ravel(), "error"),
        Hostile("one axis too many", lambda a: a[None], "error"),
        Hostile("no trials", lambda a: a[:0], "error"),
        Hostile("no steps", lambda a: a[:, :0], "error"),
    ]  # fmt: skip


def tables() -> list[Hostile]:
    """Other forms of a table (n_samples, n_columns)."""
    return [
        Hostile(
            "DataFrame", lambda a: pd.DataFrame(a, columns=list("abcd")[: a.shape[1]]), "same"
        ),
        Hostile("polars", lambda a: pl.DataFrame(a, schema=list("abcd")[: a.shape[1]]), "same"),
        Hostile("integer frame", lambda a: pd.DataFrame(a.astype(int)), "same"),
        Hostile("nullable frame", lambda a: pd.DataFrame(a).astype("Float64"), "same"),
        Hostile("object frame", lambda a: pd.DataFrame(a.astype(object)), "same"),
        Hostile("matrix", _matrix, "same", warns="PendingDeprecationWarning"),
        Hostile("gap in a frame", lambda a: pd.DataFrame(with_first(a, np.nan)), "error"),
        Hostile("words in a frame", lambda a: pd.DataFrame(a).assign(c="a"), "error"),
    ]


def _matrix(a: np.ndarray) -> np.matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(a)


def masks() -> list[Hostile]:
    """Masks (n_trials, n_timesteps), valid steps first."""
    return [
        Hostile("int", lambda a: a.astype(int), "same"),
        Hostile("float", lambda a: a.astype(float), "same"),
        Hostile("uint8", lambda a: a.astype(np.uint8), "same"),
        Hostile("objects", lambda a: a.astype(object), "same"),
        Hostile("list", lambda a: a.tolist(), "same"),
        Hostile("DataFrame", pd.DataFrame, "same"),
        Hostile("tensor", torch.as_tensor, "same"),
        Hostile("read-only", read_only, "same"),
        Hostile("Fortran order", np.asfortranarray, "same"),
        Hostile("nothing hidden", np.ones_like, "answer"),
        Hostile("first step alone", lambda a: np.cumsum(np.ones_like(a), 1) == 1, "either"),
        *plain("answer", None),
        Hostile("gap", lambda a: _gap(a), "error"),
        Hostile("a trial without steps", lambda a: with_row(a, False), "error"),
        Hostile("all hidden", np.zeros_like, "error"),
        Hostile("counts", lambda a: 2 * a, "error"),
        Hostile("minus one", lambda a: -1.0 * a, "error"),
        Hostile("NaN", lambda a: np.where(a, 1.0, np.nan), "error"),
        Hostile("None inside", lambda a: np.where(a, True, None), "error"),
        Hostile("strings", lambda a: a.astype(str), "error"),
        Hostile("complex", lambda a: a + 0j, "error"),
        Hostile("sparse", lambda a: scipy.sparse.csr_matrix(a), "error"),
        Hostile("other shape", lambda a: a[:, :-1], "error"),
        Hostile("of other trials", lambda a: a[:-1], "error"),
        Hostile("turned", lambda a: a.T, "error"),
        Hostile("with features", lambda a: a[..., None], "error"),
        Hostile("lengths", lambda a: a.sum(1), "error"),
        Hostile("ragged list", lambda a: [[True] * (k + 1) for k in range(len(a))], "error"),
        *plain("error", True, 1, "all", [], (), {}, Anything(), np.array(True)),
    ]  # fmt: skip


def labels(*, none: str = "answer") -> list[Hostile]:
    """One label a trial; the good value holds strings, half of them each."""
    return [
        Hostile("list", list, "same"),
        Hostile("tuple", tuple, "same"),
        Hostile("objects", lambda a: a.astype(object), "same"),
        Hostile("Series", pd.Series, "same"),
        Hostile("Series with an index", lambda a: pd.Series(a, np.arange(len(a)) + 5), "same"),
        Hostile("categorical", lambda a: pd.Series(pd.Categorical(a)), "same"),
        Hostile("read-only", read_only, "same"),
        Hostile("polars", lambda a: pl.Series(a.tolist()), "same"),
        Hostile("numbers", lambda a: np.unique(a, return_inverse=True)[1], "answer"),
        Hostile("tensor", lambda a: torch.as_tensor([ord(x) for x in a]), "answer"),
        *plain(none, None),
        Hostile("all alike", lambda a: np.full(len(a), "a"), "either", warns="single"),
        Hostile("all different", lambda a: np.arange(len(a)).astype(str), "either"),
        Hostile("fractions", lambda a: np.arange(len(a)) + 0.5, "either"),
        Hostile("NaN inside", lambda a: with_first(np.arange(len(a)) % 2.0, np.nan), "error"),
        Hostile("None inside", lambda a: with_first(a.astype(object), None), "error"),
        Hostile("mixed", lambda a: with_first(a.astype(object), 3), "error"),
        Hostile("complex", lambda a: np.arange(len(a)) + 1j, "error"),
        Hostile("dates", lambda a: np.zeros(len(a), "M8[s]"), "error"),
        Hostile("lists inside", lambda a: [[x] for x in a[:-1]] + [[1, 2]], "error"),
        Hostile("too few", lambda a: a[:-1], "error"),
        Hostile("too many", lambda a: np.concatenate([a, a]), "error"),
        Hostile("four axes", lambda a: a[:, None, None, None], "error"),
        *plain("error", "text", 3, 0.5, [], (), {}, Anything(), np.array("a")),
    ]  # fmt: skip


def read_only(a: np.ndarray) -> np.ndarray:
    out = a.copy()
    out.flags.writeable = False
    return out


def with_first(a: np.ndarray, value: Any) -> np.ndarray:
    out = np.array(a)
    out.flat[0] = value
    return out


def with_row(a: np.ndarray, value: Any) -> np.ndarray:
    out = np.array(a)
    out[0] = value
    return out


def hide_first(a: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.MaskedArray(a, with_first(np.zeros(a.shape, bool), True))


def ragged(a: np.ndarray) -> np.ndarray:
    out = np.empty(len(a), object)
    out[:] = [a[0, :1], *list(a[1:])]
    return out


def _gap(a: np.ndarray) -> np.ndarray:
    out = np.ones_like(a)
    out[0, 1] = False
    return out
