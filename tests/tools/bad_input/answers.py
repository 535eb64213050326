"""The parts of answers: every number in them, those that are missing, and those that differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse.linalg
import torch

from kpflow_sklearn.operators import LinearOperator
from kpflow_sklearn.results import Estimate

#: Attributes whose numbers may be missing without a column ``reason``, and what documents it.
DOCUMENTED = {
    **dict.fromkeys(
        ("k_rank_", "p_rank_", "pkp_rank_", "effective_dimensions_", "alignment_",
         "cumulative_alignment_", "bottleneck_"), "NaN where results_ holds the reason"),
    "signal_dimensions_": "NaN where the signal is zero",
    "spectra_": "a share is NaN where the trace is zero or too large",
    "weight_maps_": "NaN where a map's activity or sensitivity is zero",
    "interference_by_": "NaN where it overflows",
    "layer_table_": "NaN where results_ holds a reason",
    "grouping_history_": "NaN where no group holds two tasks, or groups were cut from that matrix",
    "predicted_loss_curve_": "NaN before the first snapshot, infinite where it overflows",
    "lyapunov_exponents_": "minus infinity for directions that die at once",
    "lyapunov_std_error_": "NaN for a single step",
    "kaplan_yorke_std_error_": "NaN for a single step",
}  # fmt: skip


def flat(value: Any) -> dict[str, Any]:
    """Return every number, array and table of an answer, by its place in it."""
    return dict(_parts("", value))


def _parts(at: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield at, value.detach().cpu().numpy()
    elif isinstance(value, Estimate):
        numbers = [] if value.reason else [value.value, value.std_error]
        yield at, np.array(value.reason or numbers)
    elif isinstance(value, LinearOperator):
        yield at, value.to_dense().numpy()
    elif isinstance(value, scipy.sparse.linalg.LinearOperator):
        yield at, value @ np.eye(value.shape[1])
    elif isinstance(value, torch.nn.Module):
        yield from _parts(f"{at}.state", dict(value.state_dict()))
    elif isinstance(value, Mapping):
        for key in value:
            yield from _parts(f"{at}[{key}]", value[key])
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _parts(f"{at}[{index}]", item)
    elif isinstance(value, (pd.DataFrame, pd.Series, np.ndarray, int, float, np.generic)):
        yield at, value
    elif dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        yield from _parts(at, fields)
    elif hasattr(value, "figure_"):
        for k, line in enumerate(np.ravel(value.ax_)[0].get_lines()):
            yield f"{at}.line{k}", np.asarray(line.get_xydata())
    elif hasattr(value, "get_params"):
        yield from _attributes(at, value)


def _attributes(at: str, estimator: Any) -> Iterator[tuple[str, Any]]:
    left_out = ("trainer_", "feature_names_in_", "target_encoder_", "objective_", "X_fit_")
    for name, value in vars(estimator).items():
        if name.endswith("_") and not name.startswith("_") and name not in left_out:
            yield from _parts(f"{at}.{name}", value)


def gaps(answer: dict[str, Any], documented: Collection[str] = DOCUMENTED) -> str:
    """Say where a number is missing or infinite without a reason; empty if nowhere."""
    for at, value in answer.items():
        if any(f".{name}" in at for name in documented):
            continue
        if isinstance(value, pd.DataFrame):
            numbers = value.select_dtypes("number").to_numpy(float, na_value=np.nan)
            bad = ~np.isfinite(numbers).all(axis=1)
            if "reason" in value:
                bad &= value["reason"].astype(str).to_numpy() == ""
            if bad.any():
                row = value[bad].iloc[0].to_dict()
                return f"{at} holds a number that is missing for no reason given: {row}"
        elif isinstance(value, (pd.Series, np.ndarray, float, int, np.generic)):
            array = np.asarray(value)
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                return f"{at} is not finite: {array.ravel()[:6]}"
    return ""


def differences(answer: dict[str, Any], expected: dict[str, Any], tolerance: float) -> str:
    """Say where two answers differ by more than a relative tolerance; empty if nowhere."""
    if answer.keys() != expected.keys():
        return f"has other parts: {sorted(answer.keys() ^ expected.keys())[:4]}"
    for at, value in answer.items():
        for name, mine, theirs in _columns(value, expected[at]):
            if mine.shape != theirs.shape:
                return f"{at}{name} has shape {mine.shape}, not {theirs.shape}"
            if mine.dtype.kind in "fciu" and theirs.dtype.kind in "fciu":
                size = np.nanmax(np.abs(theirs[np.isfinite(theirs)]), initial=1e-12)
                if not np.allclose(mine, theirs, tolerance, tolerance * size, equal_nan=True):
                    return f"{at}{name} differs: {mine.ravel()[:4]}, not {theirs.ravel()[:4]}"
            elif not (mine.astype(str) == theirs.astype(str)).all():
                return f"{at}{name} differs: {mine.ravel()[:4]}, not {theirs.ravel()[:4]}"
    return ""


def _columns(mine: Any, theirs: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    if isinstance(mine, pd.DataFrame) and isinstance(theirs, pd.DataFrame):
        for name in mine.columns:
            yield f"[{name!r}]", _array(mine[name]), _array(theirs[name])
    else:
        yield "", np.asarray(mine), np.asarray(theirs)


def _array(column: pd.Series) -> np.ndarray:
    if column.dtype.kind in "iufb":
        return column.to_numpy(float, na_value=np.nan)
    return column.astype(str).to_numpy(dtype=object)
