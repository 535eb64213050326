"""A training run on disk, from which a run that was killed continues bit for bit."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn._common.fingerprints import in_words, values_digest
from kpflow_sklearn.exceptions import CheckpointError

LATEST = "latest.pt"
SNAPSHOT = "snapshot-{:09d}.pt"
UPDATED = "updated-{:09d}.pt"
_ADVICE = "remove the folder to restart the run."


def name_settings(settings: Mapping[str, Any], **arrays: np.ndarray | None) -> dict[str, str]:
    """Describe in words the settings and data by which a `RunFolder` recognises a run.

    Functions, classes and objects that can be called are described by name, source code and what
    they hold, which are the same in another process, and arrays by a digest.
    """
    about = {name: in_words(value) for name, value in settings.items()}
    for name, array in arrays.items():
        if array is not None:
            about[f"digest of {name}"] = f"{array.dtype} {values_digest(array)}"
    return about


class RunFolder:
    """The folder in which a training run keeps its snapshots and the state to continue from.

    Each snapshot is a file with a plain state_dict, which ``SavedTraining`` reads too, and another
    file holds the state after the update made from it.
    ``latest.pt`` contains the rest of the run's state at the last snapshot, and digests that
    reveal files of another run. Each file is written under a temporary name and then renamed, so
    that a run leaves only complete files whenever it is killed.

    Parameters
    ----------
    path : path-like
        The folder, which is created if it does not exist.
    about : mapping of str to str
        Description of the run by `name_settings`. The folder of another run is refused.
    """

    def __init__(self, path: str | os.PathLike, about: Mapping[str, str]) -> None:
        self.path, self.about = Path(path), dict(about)
        self._digests: dict[str, str] = {}

    def save(self, iteration: int, state: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Write one snapshot, the network's state_dict, and then the progress to continue from.

        Raises OSError if a file cannot be written; those of earlier snapshots remain intact.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        name = SNAPSHOT.format(iteration)
        self._digests[name] = self._write(name, dict(state))
        reached = {"about": self.about, "iteration": iteration, "digests": self._digests}
        self._write(LATEST, {**reached, **progress})

    def save_updated(self, iteration: int, state: Mapping[str, Any]) -> None:
        """Write the state after the update from a snapshot; the next `save` registers the file."""
        name = UPDATED.format(iteration)
        self._digests[name] = self._write(name, dict(state))

    def load(self) -> dict[str, Any] | None:
        """Return the last iteration and progress that were saved, or None if the run is new.

        Raises CheckpointError if the folder belongs to another run or a file in it is damaged.
        """
        if not (self.path / LATEST).exists():
            return None
        saved = self._read((self.path / LATEST).read_bytes(), LATEST)
        about = saved.get("about") if isinstance(saved, dict) else None
        if not isinstance(about, dict) or not isinstance(saved.get("digests"), dict):
            raise CheckpointError(f"{self.path / LATEST} was not written by a trainer.")
        differing = [k for k in {**self.about, **about} if about.get(k) != self.about.get(k)]
        if differing:
            k = sorted(differing)[0]
            raise CheckpointError(
                f"checkpoint_dir={str(self.path)!r} contains another run: {k} was "
                f"{about.get(k)} and is {self.about.get(k)}. Give another folder, or remove it."
            )
        self._digests = dict(saved["digests"])
        return {name: value for name, value in saved.items() if name not in ("about", "digests")}

    def snapshot(self, iteration: int) -> dict[str, Any]:
        """Return the state_dict of the snapshot at an iteration.

        Raises CheckpointError if the file is missing, damaged, or was written by another run.
        """
        return self._registered(SNAPSHOT.format(iteration))

    def updated(self, iteration: int) -> dict[str, Any]:
        """Return the state after the update from a snapshot; raises as `snapshot` does."""
        return self._registered(UPDATED.format(iteration))

    def _registered(self, name: str) -> dict[str, Any]:
        try:
            content = (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path / name} is missing; {_ADVICE}") from error
        if hashlib.sha256(content).hexdigest() != self._digests.get(name):
            raise CheckpointError(
                f"{self.path / name} is not the file that this run wrote: it is damaged, or "
                f"another run used the folder at the same time; {_ADVICE}"
            )
        return self._read(content, name)

    def _write(self, name: str, content: dict[str, Any]) -> str:
        """Write a file and return its digest."""
        file = io.BytesIO()
        torch.save(content, file)
        write_whole(self.path / name, file.getvalue())
        return hashlib.sha256(file.getvalue()).hexdigest()

    def _read(self, content: bytes, name: str) -> Any:
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # Reading a foreign file may raise anything.
            raise CheckpointError(
                f"{self.path / name} cannot be read ({type(error).__name__}); {_ADVICE}"
            ) from error
