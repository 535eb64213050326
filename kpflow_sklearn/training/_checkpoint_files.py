"""Find the files of checkpoints and read them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpflow_sklearn._common.checks import is_sequence
from kpflow_sklearn.exceptions import CheckpointError
from kpflow_sklearn.training._names import numbers_in_names, sort_key
from kpflow_sklearn.training._stand_ins import StandIn, load_weights

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
        checkpoints = sorted(_matching(os.fspath(checkpoints)), key=sort_key)
    if not is_sequence(checkpoints):
        remedy = "a single state_dict as [state_dict]"
        if isinstance(checkpoints, Iterator):
            remedy = "the list of its values, because it can be read only once"
        raise CheckpointError(
            "checkpoints must be a file, a pattern, or a sequence of state_dicts or files, got a "
            f"{type(checkpoints).__name__}; give {remedy}."
        )
    sources = [_source(content, index) for index, content in enumerate(checkpoints)]
    if iterations is not None or not all(isinstance(s.content, Path) for s in sources):
        return sources, None
    numbers = numbers_in_names([s.content for s in sources])
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


def read_file(path: Path) -> Any:
    """Return the content of a file of ``torch.save`` or safetensors, on the CPU.

    Raises CheckpointError if the file is missing, incomplete, of another kind, or a pickled object
    itself. Objects beside the weights are replaced by stand-ins. No code in the file is executed.
    """
    try:
        if path.suffix == SAFETENSORS:
            return _read_safetensors(path)
        content = load_weights(path)
    except (CheckpointError, ModuleNotFoundError):
        raise
    except Exception as error:  # Reading a foreign file may raise anything.
        raise CheckpointError(_unreadable(path, str(error).strip(), error)) from error
    if isinstance(content, StandIn):
        kind = type(content).__name__
        raise CheckpointError(
            f"checkpoints: {str(path)!r} cannot be read as tensors: it is a pickled {kind}, and "
            "pickled objects are never loaded. Save module.state_dict() instead of the module."
        )
    return content


def _unreadable(path: Path, message: str, error: Exception) -> str:
    """Return the message for a file that torch cannot read, which names the class to blame."""
    start = f"checkpoints: {str(path)!r} cannot be read as tensors: "
    refused = re.search(r"(?:GLOBAL |got <class '.*_stand_ins\.)([\w.]+)", message)
    if refused is None:
        reason = (message or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only"):  # The advice that follows does not apply here.
            reason = "torch refuses it."
        return (
            f"{start}{reason} The file is missing, incomplete, of another kind, or contains "
            "pickled objects, which are never loaded. Save only module.state_dict(), with "
            "torch.save or safetensors."
        )
    name = refused[1]
    allowed = f"torch.serialization.safe_globals([{name}])"
    remedy = f" If you trust this class, call fit inside 'with {allowed}:'."
    return (
        f"{start}it contains a pickled {name}, and pickled objects are never loaded. Save only "
        "module.state_dict(), with torch.save or safetensors."
        f"{remedy if 'allowed global' in message else ''}"
    )


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {str(path)!r} needs the package safetensors: pip install "
            "'kpflow-sklearn[safetensors]'."
        ) from error
    return load_file(path, device="cpu")
