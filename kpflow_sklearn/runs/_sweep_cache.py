"""Finished cells of a sweep on disk: JSON, one file a cell, whole or not there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from sklearn.frozen import FrozenEstimator

from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn._common.fingerprints import code_in_words, is_code
from kpflow_sklearn.results import COLUMNS, SCHEMA_VERSION, provenance
from kpflow_sklearn.training import Snapshot, find_sources


@dataclass(frozen=True)
class CellCache:
    """Records of cells, by what they were made from.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    """

    folder: Path

    def shared_key(self, analyzer: Any, data: tuple) -> str:
        """Return the hash of what all cells have in common, versions of packages included.

        Raises
        ------
        ValueError
            If something cannot be hashed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found = analyzer.get_params()
        kinds = {k: type(v).__qualname__ for k, v in found.items()}
        plain = {k: v for k, v in found.items() if _is_plain(v)}
        try:
            about = (type(analyzer).__name__, kinds, provenance())
            return str(joblib.hash((about, _with_files(plain), _by_contents(data))))
        except Exception as error:  # Pickle's, of many kinds.
            raise ValueError(
                "cache_dir needs parameters and data that can be told apart by their contents; "
                f"a lambda, for one, cannot: {error}"
            ) from error

    def key(self, shared: str | None, cell: dict[str, Any]) -> str:
        """Return the name of a cell."""
        items = sorted(_with_files(cell).items(), key=lambda item: item[0])
        return str(joblib.hash((shared, items)))

    def read(self, key: str) -> list[dict[str, Any]] | None:
        """Return the records of a cell, or None if it is not finished or the file is no cell's."""
        path = self.folder / f"{key}.json"
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(held, dict) or held.get("schema_version") != SCHEMA_VERSION:
            return None
        records = held.get("records")
        return records if _are_records(records) else None

    def write(self, key: str, records: list[dict[str, Any]]) -> None:
        """Keep the records of a cell; the file appears at once and whole."""
        # Python writes floats so that they are read back bit for bit.
        text = json.dumps({"schema_version": SCHEMA_VERSION, "records": records})
        write_whole(self.folder / f"{key}.json", text)


def _is_plain(value: Any) -> bool:
    """Tell whether a parameter is no estimator, whose own parameters stand beside it."""
    return isinstance(value, FrozenEstimator) or not hasattr(value, "get_params")


def _are_records(records: Any) -> bool:
    """Tell whether something is rows of a table, all of the same columns."""
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        return False
    return bool(records) and all({*COLUMNS, "error"} == set(r) for r in records)


def _with_files(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by their contents, those of checkpoints that are named by paths too."""
    found = {name: _by_contents(value) for name, value in parameters.items()}
    for name, value in parameters.items():
        if name.rpartition("__")[2] == "checkpoints" and value is not None:
            held = [source.held for source in find_sources(value, [])[0]]
            files = [path.read_bytes() for path in held if isinstance(path, Path)]
            found[name] = (found[name], [hashlib.sha256(file).hexdigest() for file in files])
    return found


def _by_contents(value: Any) -> Any:
    """Replace what a pickle does not tell by contents.

    Of networks and tensors it differs from process to process; of code it holds the name alone.
    """
    if isinstance(value, Mapping):
        return {k: _by_contents(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_by_contents(v) for v in value]
    if isinstance(value, FrozenEstimator):  # Fitted: its parameters tell too little.
        return (type(value.estimator).__qualname__, _by_contents(vars(value.estimator)))
    if isinstance(value, Snapshot):
        return (value.iteration, _by_contents(value.state))
    if is_code(value):
        return (value, code_in_words(value))
    if hasattr(value, "state_dict"):
        return (type(value).__qualname__, repr(value), _by_contents(value.state_dict()))
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
