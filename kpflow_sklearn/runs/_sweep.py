"""sweep: one analysis for each seed and each cell of a grid, all in one table."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import ParameterGrid

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.checks import LARGEST_COUNT, check_folder, check_positive_int
from kpflow_sklearn.networks import as_labels
from kpflow_sklearn.results import COLUMNS, Estimate, row, to_frame
from kpflow_sklearn.runs._sweep_cache import CellCache
from kpflow_sklearn.training import RecurrentTrainer

logger = logging.getLogger("kpflow_sklearn")
Cell = dict[str, Any]


def sweep(
    analyzer: Any,
    grid: Mapping[str, Sequence] | Sequence[Mapping[str, Sequence]],
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    n_jobs: int | None = None,
    n_seeds: int = 1,
    cache_dir: str | PathLike | None = None,
    **fit_params: Any,
) -> pd.DataFrame:
    """Fit an analyzer for every cell of a grid and several seeds; return one table of all results.

    Cells are run by joblib; within ``joblib.parallel_config(backend="dask")`` they run on a
    cluster. A cell that fails becomes a row with its error and is not cached. A KeyboardInterrupt
    ends the sweep; finished cells stay in the cache.

    Parameters
    ----------
    analyzer : estimator
        A `KPFlowAnalyzer`, or another analyzer with a ``results_`` table. It is cloned.
    grid : mapping of str to sequence, or sequence of mappings
        Values of each parameter, as in `sklearn.model_selection.ParameterGrid`. A name that the
        analyzer does not have refers to its trainer: "init_scale" stands for
        "trainer__init_scale".
    X, y : array-like
        Trials and targets, passed to the analyzer's ``fit``.
    n_jobs : int, optional
        Number of processes. None means 1, unless ``joblib.parallel_config`` sets another number.
    n_seeds : int, default=1
        Number of seeds. Each cell is run with ``random_state`` 0 to n_seeds - 1, set on both
        analyzer and trainer.
    cache_dir : path-like, optional
        Folder for finished cells. A sweep that was interrupted, or that is extended later, reads
        them from there. If the data, a parameter, or the version of Python, this package, torch,
        NumPy, scikit-learn or pandas differs, a cell is computed again.
    **fit_params
        Further arguments of ``fit``, for example mask, loss_weight or tasks.

    Returns
    -------
    DataFrame
        The rows of ``results_`` of all fits, with one column per parameter of the grid, "seed"
        and "error". If a cell failed, "error" says why and the columns of ``results_`` are
        missing; otherwise it is empty. If the analyzer computes Lyapunov exponents, there are
        rows for "largest_lyapunov_exponent" and "kaplan_yorke_dimension" at the last snapshot,
        with standard errors over trials (over blocks of steps if there is only one).

    Raises
    ------
    TypeError
        If the analyzer is not an estimator, or the grid is neither a mapping nor a sequence of
        mappings.
    ValueError
        If the grid names an unknown parameter.

    Warns
    -----
    FitFailedWarning
        If any cell failed.

    Examples
    --------
    >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, sweep
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, evenly_spaced=True)
    >>> trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=3, snapshots=2)
    >>> table = sweep(KPFlowAnalyzer(trainer), {"init_scale": [0.5, 1.5]}, X, y, n_seeds=2)
    >>> table.groupby(["init_scale", "seed"]).ngroups
    4
    """
    if isinstance(analyzer, type) or not (
        hasattr(analyzer, "get_params") and hasattr(analyzer, "fit")
    ):
        raise TypeError(f"analyzer must be an estimator, got {analyzer!r}.")
    grids = _as_grids(grid)
    if n_jobs is not None:
        check_positive_int(n_jobs, "n_jobs", minimum=-LARGEST_COUNT)
    check_positive_int(n_seeds, "n_seeds")
    base = clone(analyzer)
    if "trainer" in base.get_params(deep=False) and base.trainer is None:
        base.set_params(trainer=RecurrentTrainer())
    cells = [
        {_full_name(base, name): value for name, value in cell.items()} | {"seed": seed}
        for cell in ParameterGrid(grids)
        for seed in range(n_seeds)
    ]
    cache = None if cache_dir is None else CellCache(check_folder(cache_dir, "cache_dir"))
    data = (as_array(X, "X"), None if y is None else as_labels(y, "y"), fit_params)
    shared = None if cache is None else cache.shared_key(base, data)
    run = delayed(_run_cell)
    all_records = Parallel(n_jobs=n_jobs)(run(base, cell, data, cache, shared) for cell in cells)
    failed = [records[0]["error"] for records in all_records if records[0]["error"]]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(cells)} cells of the sweep failed, the first with {failed[0]}",
            FitFailedWarning,
            stacklevel=2,
        )
    return _table(cells, all_records)


def _as_grids(grid: Any) -> list[Mapping[str, Sequence]]:
    """Return a grid as a list of mappings, or refuse it."""
    is_sequence = isinstance(grid, Iterable) and not isinstance(grid, str)
    grids = [grid] if isinstance(grid, Mapping) else list(grid) if is_sequence else []
    if not (grids and all(isinstance(g, Mapping) for g in grids)):
        raise TypeError(f"grid must be a mapping or a sequence of mappings, got {grid!r}.")
    return grids


def _full_name(analyzer: Any, name: str) -> str:
    """Return the full name of a parameter of the analyzer or of its trainer."""
    parameters = analyzer.get_params()
    for full in (name, f"trainer__{name}"):
        if full in parameters:
            return full
    raise ValueError(
        f"grid: {name!r} is not a parameter of {type(analyzer).__name__} or of its trainer; they "
        f"have {', '.join(sorted(parameters))}."
    )


def _run_cell(
    analyzer: Any, cell: Cell, data: tuple, cache: CellCache | None, shared: str | None
) -> list[Cell]:
    """Return the records of one cell, from the cache or from a fit, or its error."""
    key = None
    try:
        if cache is not None:
            key = cache.key(shared, cell)
            cached = cache.read(key)
            if cached is not None:
                return cached
        records = _fit_cell(analyzer, cell, data)
    except Exception as error:  # The failure of one cell must not end the sweep.
        logger.warning("cell %s failed: %s", cell, error)
        return [{"error": f"{type(error).__name__}: {error}"}]
    if cache is not None and key is not None:
        try:
            cache.write(key, records)
        except OSError as error:  # The results are valid even if, for example, the disk is full.
            logger.warning("cell %s is not cached: %s", cell, error)
    return records


def _fit_cell(analyzer: Any, cell: Cell, data: tuple) -> list[Cell]:
    """Return the rows of the analyzer's table for one cell, as records."""
    X, y, fit_params = data
    analyzer = clone(analyzer)
    analyzer.set_params(**{name: value for name, value in cell.items() if name != "seed"})
    seeded = {"random_state", "trainer__random_state"} & set(analyzer.get_params())
    analyzer.set_params(**dict.fromkeys(seeded, cell["seed"]))
    analyzer.fit(X, y, **fit_params)
    trainer = getattr(analyzer, "trainer_", analyzer)
    is_frozen = isinstance(getattr(analyzer, "trainer", None), FrozenEstimator)
    if not is_frozen and getattr(trainer, "interrupted_", False):
        # An interrupted trainer returns its network so far, but the whole sweep should end here.
        raise KeyboardInterrupt
    table = pd.concat([analyzer.results_, _lyapunov_rows(analyzer)], ignore_index=True)
    return [{**record, "error": ""} for record in table.to_dict("records")]


def _lyapunov_rows(analyzer: Any) -> pd.DataFrame:
    """Return rows for the Lyapunov exponents of the last snapshot, if the analyzer has them."""
    rows: list[Cell] = []
    exponents = getattr(analyzer, "lyapunov_exponents_", np.empty(0))
    if len(exponents):
        about: Cell = {"n_trials": analyzer.lyapunov_n_trials_}
        first = int(np.argmax(exponents))
        largest = Estimate(float(exponents[first]), float(analyzer.lyapunov_std_error_[first]))
        if np.isneginf(largest.value):
            largest = Estimate.missing(
                "minus infinity: every perturbation vanishes in at least one trial"
            )
        dimension = Estimate(analyzer.kaplan_yorke_dimension_, analyzer.kaplan_yorke_std_error_)
        if np.isnan(dimension.std_error):
            dimension = Estimate.missing("a single trial of two steps gives no standard error")
            largest = largest if largest.reason else dimension
        at = analyzer.n_iter_
        rows.append(row(at, "network", "", "largest_lyapunov_exponent", largest, **about))
        rows.append(row(at, "network", "", "kaplan_yorke_dimension", dimension, **about))
    return to_frame(rows)


def _table(cells: list[Cell], all_records: list[list[Cell]]) -> pd.DataFrame:
    """Return the records of all cells as one table, with the parameters of each cell."""
    names = {full: _column(full, cells) for cell in cells for full in cell}
    rows = [
        {names[full]: _label(value) for full, value in cell.items()} | record
        for cell, records in zip(cells, all_records, strict=True)
        for record in records
    ]
    columns = [*dict.fromkeys(names.values()), *COLUMNS, "error"]
    # Nullable integers, because a failed cell has none.
    dtypes = COLUMNS | {"iteration": "Int64", "n_trials": "Int64"}
    return pd.DataFrame(rows, columns=columns).astype(dtypes)


def _column(full: str, cells: list[Cell]) -> str:
    """Return the column of a parameter: its short name, unless another column has that name."""
    short = full.removeprefix("trainer__")
    taken = short in (*COLUMNS, "error") or (short != full and any(short in c for c in cells))
    return f"param_{full}" if taken else short


def _label(value: Any) -> Any:
    """Return a parameter's value as a scalar or a word for the table."""
    if value is None or isinstance(value, (str, int, float, np.number)):
        return value
    return getattr(value, "__name__", None) or str(value)
