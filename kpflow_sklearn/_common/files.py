"""Files that appear at once and whole, whenever the process that writes them is killed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name and then rename it, in place of an earlier one.

    An earlier file keeps its permissions, a link goes on pointing to it, and one that is
    write-protected is refused. What is no file, as a pipe or /dev/null, is written to directly.

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
    content = content.encode("utf-8") if isinstance(content, str) else content
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(content)
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            if target.exists():
                if not os.access(target, os.W_OK):
                    raise PermissionError(errno.EACCES, "the earlier file is write-protected")
                shutil.copymode(target, part)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        why = error.strerror or str(error)
        raise type(error)(error.errno, f"cannot be written whole: {why}", str(path)) from error
    finally:
        part.unlink(missing_ok=True)
