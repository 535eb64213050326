"""Find the files of checkpoints, order them, and read them."""

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
        The name of the checkpoint in error messages.
    content : object
        The path of a file, or what was given instead of one, usually a state_dict.
    """

    label: str
    content: Any

    def read(self) -> Any:
        """Return the checkpoint; files are read on the CPU."""
        return read_file(self.content) if isinstance(self.content, Path) else self.content


def find_sources(
    checkpoints: Any, iterations: Sequence[int] | None
) -> tuple[list[Source], list[int] | None]:
    """Return the checkpoints in the order of training, and the iterations in their names.

    Parameters
    ----------
    checkpoints : str, path-like, or sequence of state_dict or path-like
        A file, a pattern with wildcards, or a sequence of checkpoints.
    iterations : sequence of int or None
        The iterations that the user gave. With them a sequence of paths keeps its order. The
        files that match a pattern are always sorted by the numbers in their names.

    Returns
    -------
    sources : list of Source
        The checkpoints in the order of training.
    numbers : list of int or None
        The number in each name; None if ``iterations`` are given or the names contain none.

    Raises
    ------
    CheckpointError
        If a pattern matches no file, or the names do not determine the order.
    """
    if isinstance(checkpoints, (str, os.PathLike)):
        checkpoints = sorted(_matching(os.fspath(checkpoints)), key=_numbers_in)
    is_one = isinstance(checkpoints, Mapping) or not isinstance(checkpoints, Iterable)
    if is_one or isinstance(checkpoints, bytes):
        raise CheckpointError(
            "checkpoints must be a file, a pattern, or a sequence of state_dicts or files, got a "
            f"{type(checkpoints).__name__}; give a single state_dict as [state_dict]."
        )
    sources = [_source(content, index) for index, content in enumerate(checkpoints)]
    if iterations is not None or not all(isinstance(s.content, Path) for s in sources):
        return sources, None
    numbers = _varying_numbers([s.content for s in sources])
    if numbers is None:
        return sources, None
    pairs = sorted(zip(numbers, sources, strict=True), key=lambda pair: pair[0])
    return [source for _, source in pairs], [number for number, _ in pairs]


def _source(content: Any, index: int) -> Source:
    if isinstance(content, (str, os.PathLike)):
        return Source(repr(os.fspath(content)), Path(content))
    return Source(f"checkpoints[{index}]", content)


def _matching(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        raise CheckpointError(
            f"checkpoints={pattern!r} is a directory; give a pattern of its files, for example "
            f"{os.path.join(pattern, '*.pt')!r}."
        )
    # The name of a file may itself contain wildcard characters.
    if os.path.exists(pattern):
        return [pattern]
    files = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not files:
        raise CheckpointError(f"checkpoints={pattern!r} matches no file.")
    return files


def _numbers_in(path: str) -> tuple[list[int], str]:
    return [int(n) for n in re.findall(r"\d+", path)], path


def _varying_numbers(paths: list[Path]) -> list[int] | None:
    """Return the one number in which the names differ; None if there is nothing to order."""
    if len(paths) < 2:
        numbers = _numbers_in(paths[0].stem)[0] if paths else []
        return numbers if len(numbers) == 1 else None
    by_text = {re.sub(r"\d+", "#", str(path)): str(path) for path in paths}
    if len(by_text) > 1:
        first, second = list(by_text.values())[:2]
        raise CheckpointError(
            "the names of the checkpoints must differ only in one number, by which they are "
            f"ordered; {first!r} and {second!r} differ in more. Narrow the pattern, or give the "
            "files as a list with iterations=[...]."
        )
    table = [_numbers_in(str(path))[0] for path in paths]
    varying = [column for column in zip(*table, strict=True) if len(set(column)) > 1]
    if len(varying) != 1:
        names = ", ".join(repr(path.name) for path in paths[:3])
        raise CheckpointError(
            f"{len(varying)} numbers vary in the names of the checkpoints ({names}, ...), so the "
            "number of parameter updates cannot be read from them. Give iterations=[...], one "
            f"for each of the {len(paths)} files: in the order of the list, or, for a pattern, "
            "sorted by the numbers in the names."
        )
    return list(varying[0])


def read_file(path: Path) -> Any:
    """Return the content of a file of ``torch.save`` or safetensors, on the CPU.

    Raises CheckpointError if the file is missing, incomplete, of another kind, or contains pickled
    objects other than tensors. No code in it is executed.
    """
    try:
        if path.suffix == SAFETENSORS:
            return _read_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, ModuleNotFoundError):
        raise
    except Exception as error:  # Reading a foreign file may raise anything.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only"):  # The advice that follows does not apply here.
            reason = "torch refuses it."
        raise CheckpointError(
            f"checkpoints: {str(path)!r} cannot be read as tensors: {reason} The file is missing, "
            "incomplete, of another kind, or contains pickled objects, which are never loaded. "
            "Save only module.state_dict(), with torch.save or safetensors."
        ) from error


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {str(path)!r} needs the package safetensors: pip install "
            "'kpflow-sklearn[safetensors]'."
        ) from error
    return load_file(path, device="cpu")
