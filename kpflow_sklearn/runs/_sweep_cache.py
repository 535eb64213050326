"""Finished cells of a sweep on disk, in one JSON file per cell."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from sklearn.frozen import FrozenEstimator

from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn._common.fingerprints import code_in_words, is_code, lasting_repr
from kpflow_sklearn._common.modules import state_of
from kpflow_sklearn.results import COLUMNS, SCHEMA_VERSION, provenance
from kpflow_sklearn.training import Snapshot, find_sources

logger = logging.getLogger("kpflow_sklearn")


@dataclass(frozen=True)
class CellCache:
    """A folder with the records of cells, each under a hash of everything that determines it.

    Parameters
    ----------
    folder : Path
        The folder; it is created if it does not exist.
    """

    folder: Path

    def shared_key(self, analyzer: Any, data: tuple) -> str:
        """Return a hash of what all cells have in common, including the versions of packages.

        Raises
        ------
        ValueError
            If a parameter or the data cannot be hashed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        parameters = analyzer.get_params()
        kinds = {k: type(v).__qualname__ for k, v in parameters.items()}
        plain = {k: v for k, v in parameters.items() if _is_plain(v)}
        try:
            about = (type(analyzer).__name__, kinds, provenance())
            return str(joblib.hash((about, _with_files(plain), _by_contents(data))))
        except Exception as error:  # Pickle raises errors of many types.
            raise ValueError(
                "cache_dir needs parameters and data that can be identified by their contents, "
                f"which, for example, a lambda cannot: {error}"
            ) from error

    def key(self, shared: str | None, cell: dict[str, Any]) -> str:
        """Return the hash of a cell, which names its file."""
        items = sorted(_with_files(cell).items(), key=lambda item: item[0])
        return str(joblib.hash((shared, items)))

    def read(self, key: str) -> list[dict[str, Any]] | None:
        """Return the records of a cell, or None if it has no valid file that can be read."""
        path = self.folder / f"{key}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        except OSError as error:  # For example, the file of another user.
            logger.warning("a cached cell is computed again, because it cannot be read: %s", error)
            return None
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
            return None
        records = content.get("records")
        return records if _are_records(records) else None

    def write(self, key: str, records: list[dict[str, Any]]) -> None:
        """Write the records of a cell atomically."""
        # JSON in Python writes floats so that they are read back bit for bit.
        text = json.dumps({"schema_version": SCHEMA_VERSION, "records": records})
        write_whole(self.folder / f"{key}.json", text)


def _is_plain(value: Any) -> bool:
    """Return False for estimators: ``get_params`` lists their parameters separately."""
    return isinstance(value, FrozenEstimator) or not hasattr(value, "get_params")


def _are_records(records: Any) -> bool:
    """Return whether an object is a list of records with the columns of a sweep."""
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        return False
    return bool(records) and all({*COLUMNS, "error"} == set(r) for r in records)


def _with_files(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by their contents, including the files that checkpoint paths name."""
    contents = {name: _by_contents(value) for name, value in parameters.items()}
    for name, value in parameters.items():
        if name.rpartition("__")[2] == "checkpoints" and value is not None:
            sources = [source.content for source in find_sources(value, [])[0]]
            files = [path.read_bytes() for path in sources if isinstance(path, Path)]
            contents[name] = (contents[name], [hashlib.sha256(f).hexdigest() for f in files])
    return contents


def _by_contents(value: Any) -> Any:
    """Describe by its contents an object that its pickle does not identify.

    Pickles of networks and tensors differ between processes, and those of code hold only a name.
    """
    if isinstance(value, Mapping):
        return {k: _by_contents(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_by_contents(v) for v in value]
    if isinstance(value, FrozenEstimator):  # Its parameters do not determine a fitted one.
        return (type(value.estimator).__qualname__, _by_contents(vars(value.estimator)))
    if isinstance(value, Snapshot):
        return (value.iteration, _by_contents(value.state))
    if is_code(value):
        return (value, code_in_words(value))
    if hasattr(value, "_save_to_state_dict"):
        words = code_in_words(type(value)), lasting_repr(value)
        return (*words, _by_contents(state_of(value)))
    if callable(value) and hasattr(value, "__dict__"):
        return (code_in_words(value), _by_contents(vars(value)))
    return value.detach().cpu().to_dense().numpy() if hasattr(value, "detach") else value
