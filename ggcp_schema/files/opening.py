"""Open regular files, and say why one cannot be opened: the file that may have been meant."""

from __future__ import annotations

import os
import stat
from itertools import islice
from typing import IO

from ggcp_schema.errors import FileError

GIVE_A_FILE = "Give a file."
SUGGESTIONS = 3
MOST_NAMES = 10_000  # of a folder, that are compared with the name of a missing file


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
        if stat.S_ISREG(mode):
            return open(name, "rb", buffering=buffering)
    except (OSError, ValueError) as error:
        raise file_error(name, error) from error
    if stat.S_ISDIR(mode):
        raise FileError(f"{name} is a directory", GIVE_A_FILE)
    hint = "Random access is required: pass a regular file, not a pipe."
    raise FileError(f"{name} is not a regular file", hint)


def file_error(name: str, error: OSError | ValueError) -> FileError:
    """Return a FileError for an exception of the system: `x.ggcp: No such file or directory`."""
    hint = near(name) if isinstance(error, FileNotFoundError) else ""
    return FileError(f"{name or repr(name)}: {getattr(error, 'strerror', None) or error}", hint)


def near(name: str) -> str:
    """Return a hint for a file that does not exist."""
    import glob

    if os.path.islink(name):
        return f"It is a link to {os.readlink(name)}, which does not exist."
    if glob.has_magic(name) and next(glob.iglob(name), None):
        return "Files match this name, but quotes keep the shell from expanding it."
    return f"Did you mean {', '.join(found)}?" if (found := names_like(name)) else ""


def names_like(name: str) -> list[str]:
    """Return the files whose names are like this one, in its folder or in one of nearly its name."""
    import difflib

    folder, base = os.path.split(name)
    parent, last = os.path.split(folder)
    folders = [folder]
    if folder and not os.path.isdir(folder):
        folders = [os.path.join(parent, each) for each in difflib.get_close_matches(last, _names(parent))]
    found = [os.path.join(each, other) for each in folders for other in difflib.get_close_matches(base, _names(each))]
    return found[:SUGGESTIONS]


def _names(folder: str) -> list[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return []
