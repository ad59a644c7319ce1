"""Open regular files."""

from __future__ import annotations

import os
import stat
from typing import IO

from ggcp_schema.errors import FileError


def open_regular(path: str | os.PathLike[str], buffering: int = 4096) -> IO[bytes]:
    """Open a regular file with a small read buffer, since headers are tiny and payloads are skipped.

    Raises `FileError`.
    """
    name = os.fsdecode(path)
    if name == "-":
        raise FileError(
            "cannot read standard input: random access is required",
            "Save it to a file first. If the name of the file really is -, write ./-",
        )
    try:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            kind = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
            raise FileError(
                f"{name} {kind}",
                "" if stat.S_ISDIR(mode) else "Random access is required: pass a regular file, not a pipe.",
            )
        return open(name, "rb", buffering=buffering)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise file_error(name, error) from error


def file_error(name: str, error: OSError | ValueError) -> FileError:
    """Return a FileError for an exception of the system: `x.ggcp: No such file or directory`."""
    return FileError(f"{name}: {getattr(error, 'strerror', None) or error}")
