"""Checkpoints named by paths: which files, in which order, and what one of them holds."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kpflow_sklearn.exceptions import CheckpointError

SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Source:
    """One checkpoint before it is read.

    Attributes
    ----------
    label : str
        What errors call it.
    held : object
        What was given in its place, usually a state_dict; a Path is read from disk.
    """

    label: str
    held: Any

    def read(self) -> Any:
        """Return the checkpoint, of a file on the CPU."""
        return read_file(self.held) if isinstance(self.held, Path) else self.held


def find_sources(
    checkpoints: Any, iterations: Sequence[int] | None
) -> tuple[list[Source], list[int] | None]:
    """Return the checkpoints in order, and the iterations that their names tell.

    Parameters
    ----------
    checkpoints : str, path-like, or sequence of state_dict or path-like
        A file, a pattern with wildcards, or the checkpoints one by one.
    iterations : sequence of int or None
        What the user gave; a sequence of paths then keeps its order, and nothing is read off
        names. Files of a pattern are always sorted by the numbers in their names.

    Returns
    -------
    sources : list of Source
        In order of training.
    numbers : list of int or None
        The number in each name; None where the names tell none, or need not.

    Raises
    ------
    CheckpointError
        If a pattern matches no file, or the names do not tell the order.
    """
    if isinstance(checkpoints, (str, os.PathLike)):
        checkpoints = sorted(_matching(os.fspath(checkpoints)), key=_numbers_in)
    is_one = isinstance(checkpoints, Mapping) or not isinstance(checkpoints, Iterable)
    if is_one or isinstance(checkpoints, bytes):
        raise CheckpointError(
            "checkpoints must be a file, a pattern, or a sequence of state_dicts or files, got a "
            f"{type(checkpoints).__name__}; a single state_dict is given as [state_dict]."
        )
    sources = [_source(held, index) for index, held in enumerate(checkpoints)]
    if iterations is not None or not all(isinstance(s.held, Path) for s in sources):
        return sources, None
    numbers = _varying_numbers([s.held for s in sources])
    if numbers is None:
        return sources, None
    pairs = sorted(zip(numbers, sources, strict=True), key=lambda pair: pair[0])
    return [source for _, source in pairs], [number for number, _ in pairs]


def _source(held: Any, index: int) -> Source:
    if isinstance(held, (str, os.PathLike)):
        return Source(repr(os.fspath(held)), Path(held))
    return Source(f"checkpoints[{index}]", held)


def _matching(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        raise CheckpointError(
            f"checkpoints={pattern!r} is a directory; give a pattern of its files, such as "
            f"{os.path.join(pattern, '*.pt')!r}."
        )
    # A name may hold wildcard characters itself.
    if os.path.exists(pattern):
        return [pattern]
    found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not found:
        raise CheckpointError(f"checkpoints={pattern!r} matches no file.")
    return found


def _numbers_in(path: str) -> tuple[list[int], str]:
    return [int(n) for n in re.findall(r"\d+", path)], path


def _varying_numbers(paths: list[Path]) -> list[int] | None:
    """Return the one number in which the names differ; None where there is nothing to order."""
    if len(paths) < 2:
        found = _numbers_in(paths[0].stem)[0] if paths else []
        return found if len(found) == 1 else None
    by_text = {re.sub(r"\d+", "#", str(path)): str(path) for path in paths}
    if len(by_text) > 1:
        first, second = list(by_text.values())[:2]
        raise CheckpointError(
            "the names of the checkpoints must differ in one number alone, by which they are "
            f"ordered; {first!r} and {second!r} differ in more. Narrow the pattern, or give the "
            "files as a list with iterations=[...]."
        )
    table = [_numbers_in(str(path))[0] for path in paths]
    varying = [column for column in zip(*table, strict=True) if len(set(column)) > 1]
    if len(varying) != 1:
        names = ", ".join(repr(path.name) for path in paths[:3])
        raise CheckpointError(
            f"{len(varying)} numbers vary in the names of the checkpoints ({names}, ...), so that "
            "none is known to count the parameter updates. Give iterations=[...], one for each "
            f"of the {len(paths)} files, in the order of the list, or of the numbers in the names "
            "where checkpoints is a pattern."
        )
    return list(varying[0])


def read_file(path: Path) -> Any:
    """Return what a file holds, on the CPU; pickled objects other than tensors are refused.

    Parameters
    ----------
    path : Path
        Written by ``torch.save`` or, ending in ".safetensors", by safetensors.

    Returns
    -------
    object
        A state_dict, or what holds one.

    Raises
    ------
    CheckpointError
        If the file is missing, half-written, or of another kind. Nothing in it is executed.
    """
    try:
        if path.suffix == SAFETENSORS:
            return _read_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, ModuleNotFoundError):
        raise
    except Exception as error:  # A foreign file can fail in any way.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only"):  # What torch says next is for other callers.
            reason = "torch refuses it."
        raise CheckpointError(
            f"checkpoints: {str(path)!r} cannot be read as tensors: {reason} The file is missing, "
            "half-written, of another kind, or holds pickled objects, which are never loaded. "
            "Save module.state_dict() alone with torch.save or safetensors."
        ) from error


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{str(path)!r} needs the package safetensors: pip install "
            "'kpflow-sklearn[safetensors]'."
        ) from error
    return load_file(path, device="cpu")
