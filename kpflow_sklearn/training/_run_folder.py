"""A training run on disk, so that it goes on where it was killed, to the bit."""

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
from kpflow_sklearn._common.fingerprints import code_in_words, is_code, values_digest
from kpflow_sklearn.exceptions import CheckpointError

LATEST = "latest.pt"
SNAPSHOT = "snapshot-{:09d}.pt"
_AFRESH = "remove the folder to start the run afresh."


def name_settings(settings: Mapping[str, Any], **arrays: np.ndarray | None) -> dict[str, str]:
    """Return in words what makes a run this one.

    Parameters
    ----------
    settings : mapping
        Parameters; functions and classes go by their names and their source, which stay the same
        in a new process.
    **arrays
        Data, of which a digest is taken.

    Returns
    -------
    dict of str to str
        For a `RunFolder`.
    """
    about = {
        name: code_in_words(value) if is_code(value) else repr(value)
        for name, value in settings.items()
    }
    for name, array in arrays.items():
        if array is not None:
            about[f"digest of {name}"] = f"{array.dtype} {values_digest(array)}"
    return about


class RunFolder:
    """Where a training run keeps its snapshots and what it needs to go on.

    Each snapshot is a file of its own, a plain state_dict that ``SavedTraining`` reads too;
    ``latest.pt`` holds the rest as of the last of them, and digests by which files that another
    run put there are told. Files are written under another name and then renamed, so that whenever
    the run is killed, whole ones are left.

    Parameters
    ----------
    path : path-like
        The folder; made if there is none.
    about : mapping of str to str
        What makes a run this one: settings and data. A folder of another run is refused.
    """

    def __init__(self, path: str | os.PathLike, about: Mapping[str, str]) -> None:
        self.path, self.about = Path(path), dict(about)
        self._digests: dict[str, str] = {}

    def save(self, iteration: int, state: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Write one snapshot, and then how to go on from it.

        Parameters
        ----------
        iteration : int
            Of the snapshot.
        state : mapping
            The network's state_dict.
        progress : mapping
            Whatever the training loop needs besides.

        Raises
        ------
        OSError
            If the files cannot be written; those of earlier snapshots are left whole.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        name = SNAPSHOT.format(iteration)
        self._digests[name] = self._write(name, dict(state))
        reached = {"about": self.about, "iteration": iteration, "digests": self._digests}
        self._write(LATEST, {**reached, **progress})

    def load(self) -> dict[str, Any] | None:
        """Return what the run was last saved as, or None if it is new.

        Returns
        -------
        dict or None
            ``iteration`` and the ``progress`` given to `save`.

        Raises
        ------
        CheckpointError
            If the folder is that of another run, or a file in it is damaged.
        """
        if not (self.path / LATEST).exists():
            return None
        found = self._read((self.path / LATEST).read_bytes(), LATEST)
        about = found.get("about") if isinstance(found, dict) else None
        if not isinstance(about, dict) or not isinstance(found.get("digests"), dict):
            raise CheckpointError(f"{self.path / LATEST} was not written by a trainer.")
        differing = [k for k in {**self.about, **about} if about.get(k) != self.about.get(k)]
        if differing:
            k = sorted(differing)[0]
            raise CheckpointError(
                f"checkpoint_dir={str(self.path)!r} holds another run: {k} was "
                f"{about.get(k)} and is {self.about.get(k)}. Give another folder, or remove it."
            )
        self._digests = dict(found["digests"])
        return {name: value for name, value in found.items() if name not in ("about", "digests")}

    def snapshot(self, iteration: int) -> dict[str, Any]:
        """Return the state_dict of one of the run's snapshots.

        Parameters
        ----------
        iteration : int
            Of the snapshot.

        Returns
        -------
        dict
            The network's state_dict.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, or not the one that the run wrote.
        """
        name = SNAPSHOT.format(iteration)
        try:
            content = (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path / name} is missing; {_AFRESH}") from error
        if hashlib.sha256(content).hexdigest() != self._digests.get(name):
            raise CheckpointError(
                f"{self.path / name} is not what this run wrote: it is damaged, or another run "
                f"used the folder at the same time; {_AFRESH}"
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
        except Exception as error:  # Whatever torch says of a foreign file, it is to blame.
            raise CheckpointError(
                f"{self.path / name} cannot be read ({type(error).__name__}); {_AFRESH}"
            ) from error
