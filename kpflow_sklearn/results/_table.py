"""The one tidy table that every analysis fills, and its file format."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn.results._estimate import Estimate

SCHEMA_VERSION = 3

#: Columns of ``results_``. ``value`` is NaN only where ``reason`` says why. ``lower`` and
#: ``upper`` are the bounds of an estimate that has bounds, otherwise value -+ 1.96 std_error.
COLUMNS = {
    "iteration": "int64",
    "operator": "category",
    "axis": "category",
    "quantity": "category",
    "task": "category",
    "other_task": "category",
    "value": "float64",
    "std_error": "float64",
    "lower": "float64",
    "upper": "float64",
    "method": "category",
    "reduction": "category",
    "n_trials": "int64",
    "reason": "str",
}


def row(
    iteration: int,
    operator: str,
    axis: str,
    quantity: str,
    estimate: Estimate | float,
    *,
    reduction: str = "",
    n_trials: int,
    task: object = "",
    other_task: object = "",
) -> dict[str, Any]:
    """Return one row of the table. A plain number is exact, and an empty task means all trials."""
    if not isinstance(estimate, Estimate):
        estimate = Estimate(float(estimate))
    if not np.isfinite([estimate.value, estimate.std_error]).all():
        reason = estimate.reason or "not a finite number"
        estimate = Estimate.missing(reason, estimate.method)
    lower, upper = estimate.interval
    return {
        "iteration": iteration,
        "operator": operator,
        "axis": axis,
        "quantity": quantity,
        "task": str(task),
        "other_task": str(other_task),
        "value": estimate.value,
        "std_error": estimate.std_error,
        "lower": lower,
        "upper": upper,
        "method": estimate.method,
        "reduction": reduction,
        "n_trials": n_trials,
        "reason": estimate.reason,
    }


def to_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table of the schema."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def with_whole_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which columns that hold only whole numbers are integers.

    Ranks are computed as floats, which pandas would print as 24.000000. A column with a missing
    or fractional number remains as it is.
    """
    out = table.copy()
    for name, column in table.select_dtypes("float").items():
        if len(column) and np.isfinite(column).all() and (column % 1 == 0).all():
            out[name] = column.astype("int64")
    return out


def select(
    results: pd.DataFrame, operator: str, quantity: str, axis: str | None = None
) -> pd.DataFrame:
    """Return one quantity over training, indexed by iteration, without the rows of sub-tasks.

    Parameters
    ----------
    results : DataFrame
        A ``results_`` table.
    operator, quantity : str
        The operator and the quantity to select.
    axis : str, optional
        The axis to select, if there are several.

    Returns
    -------
    DataFrame
        Columns value, std_error, method, reason.

    Examples
    --------
    >>> from kpflow_sklearn.results import row, select, to_frame
    >>> table = to_frame([row(k, "network", "", "loss", 1 / k, n_trials=4) for k in (1, 2)])
    >>> select(table, "network", "loss")["value"].to_dict()
    {1: 1.0, 2: 0.5}
    """
    chosen = (results["operator"] == operator) & (results["quantity"] == quantity)
    chosen &= results["task"] == ""
    if axis is not None:
        chosen &= results["axis"] == axis
    return results[chosen].set_index("iteration")[["value", "std_error", "method", "reason"]]


def provenance(**extra: Any) -> dict[str, str]:
    """Return the versions and further entries that a written table carries.

    Parameters
    ----------
    **extra
        Further entries, for example the seed or the command.

    Returns
    -------
    dict of str to str
        Name and value.
    """
    entries = {"schema_version": str(SCHEMA_VERSION), "python": platform.python_version()}
    for package in ("kpflow-sklearn", "torch", "numpy", "scikit-learn", "pandas"):
        try:
            entries[package] = version(package)
        except PackageNotFoundError:
            entries[package] = "not installed"
    return entries | {name: str(value) for name, value in extra.items()}


def to_csv(results: pd.DataFrame, about: Mapping[str, str] | None = None) -> str:
    """Return a table as CSV, with its provenance in comment lines at the top.

    Parameters
    ----------
    results : DataFrame
        A ``results_`` table.
    about : mapping, optional
        Provenance, by default that of `provenance`. White space is folded to single spaces.

    Returns
    -------
    str
        The content of the file that `write_results` writes.
    """
    entries = {"schema_version": str(SCHEMA_VERSION)} | dict(about or provenance())
    lines = [f"# {name}: {' '.join(value.split())}\n" for name, value in entries.items()]
    return "".join(lines) + results.to_csv(index=False, lineterminator="\n")


def write_results(
    results: pd.DataFrame, path: str | PathLike, about: Mapping[str, str] | None = None
) -> None:
    """Write a table as CSV; the file appears only once it is complete.

    Parameters
    ----------
    results : DataFrame
        A ``results_`` table.
    path : path-like
        File to write.
    about : mapping, optional
        Provenance; default `provenance`.

    Raises
    ------
    OSError
        If the file cannot be written; an existing file is then left unchanged.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from kpflow_sklearn.results import read_results, row, to_frame, write_results
    >>> table = to_frame([row(0, "network", "", "loss", 0.5, n_trials=4)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "results.csv"
    ...     write_results(table, path)
    ...     read_results(path).equals(table)
    True
    """
    write_whole(Path(path), to_csv(results, about))


def read_results(path: str | PathLike) -> pd.DataFrame:
    """Read a table that `write_results` wrote.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    DataFrame
        The table, its provenance in ``attrs``.

    Raises
    ------
    ValueError
        If the file is not a results table of this schema.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from kpflow_sklearn.results import read_results, row, to_frame, write_results
    >>> table = to_frame([row(0, "network", "", "loss", 0.5, n_trials=4)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_results(table, Path(folder) / "results.csv", {"seed": "3"})
    ...     read_results(Path(folder) / "results.csv").attrs["seed"]
    '3'
    """
    about = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("# "):
                break
            name, _, value = line[2:].rstrip("\n").partition(": ")
            about[name] = value
    try:
        # Python's float restores every bit of a number; older versions of pandas do not.
        numbers = dict.fromkeys((k for k, v in COLUMNS.items() if v == "float64"), _to_float)
        table = pd.read_csv(path, skiprows=len(about), keep_default_na=False, converters=numbers)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        table = pd.DataFrame()
    if about.get("schema_version") != str(SCHEMA_VERSION) or set(table) != set(COLUMNS):
        raise ValueError(
            f"{path} is not a results table of schema {SCHEMA_VERSION}: it has schema "
            f"{about.get('schema_version', 'none')} and columns {', '.join(map(str, table))}."
        )
    table = table.astype(COLUMNS)
    table.attrs.update(about)
    return table


def _to_float(text: str) -> float:
    return float(text) if text else float("nan")
