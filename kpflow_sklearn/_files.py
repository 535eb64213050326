"""Files that appear at once and whole, whenever the process that writes them is killed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file under another name and then rename it, in place of an earlier one.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    text : str
        Contents, written as UTF-8.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
