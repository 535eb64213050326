"""Write files atomically, so that a killed process never leaves part of a file."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it to ``path``.

    A file that is replaced passes its permissions on, and symbolic links to it remain valid. A
    write-protected file raises an error. Pipes and devices, such as /dev/null, are written to
    directly.

    Parameters
    ----------
    path : Path
        The file. Its folder must exist.
    content : str or bytes
        Contents. Text is written as UTF-8.

    Raises
    ------
    OSError
        If the file cannot be written. An earlier file then remains unchanged.
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
                    raise PermissionError(errno.EACCES, "the existing file is write-protected")
                shutil.copymode(target, part)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, f"cannot be written: {reason}", str(path)) from error
    finally:
        part.unlink(missing_ok=True)
