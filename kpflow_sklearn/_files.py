"""Files that appear at once and whole, whenever the process that writes them is killed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name and then rename it, in place of an earlier one.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    content : str or bytes
        Contents; words are written as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file is then left as it is.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        why = error.strerror or str(error)
        raise type(error)(error.errno, f"cannot be written whole: {why}", str(path)) from error
    finally:
        part.unlink(missing_ok=True)
