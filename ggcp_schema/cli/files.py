"""The files that arguments mean: a folder stands for those in it whose format is known."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ggcp_schema.cli.mistakes import folder_hint
from ggcp_schema.cli.output import say
from ggcp_schema.errors import FileError, NotACheckpointError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.formats import format_of
from ggcp_schema.inspect.text import count_text, escape, names_text

MAX_NAMES = 4  # of files that are left out


def files_in(paths: Iterable[Path], *, quiet: bool) -> list[Path]:
    """Return the files, and in place of each folder the files of known formats in it, by name.

    Which others are left out is said on stderr, unless `quiet`. Raises `UsageError` for a folder without files of known
    formats, and `FileError` for a folder that cannot be read.
    """
    return [file for path in paths for file in (_known(path, quiet) if path.is_dir() else [path])]


def _known(folder: Path, quiet: bool) -> list[Path]:
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise FileError(f"{os.fsdecode(folder)}: {error.strerror}") from error
    found = [file for file in files if _is_known(file)]
    if not found:
        name = os.fsdecode(folder)
        hint = folder_hint(name) or "Give the files; folders in it are not looked into."
        raise UsageError(f"no file in the folder {name} is of a known format", hint)
    if not quiet and (left := {*files}.difference(found)):
        suffixes = {file.suffix for file in found}  # a page.gguf is more of a surprise than a README.md
        others = [os.fsdecode(file.name) for file in sorted(left, key=lambda file: (file.suffix not in suffixes, file))]
        count = count_text(len(others), "file")
        say(escape(f"{folder}: {count} of no known format left out: {names_text(others, MAX_NAMES)}"))
    return found


def _is_known(path: Path) -> bool:
    try:
        with closing(Source(path)) as source:
            format_of(source)
    except NotACheckpointError:
        return False
    except FileError:
        return True  # the command says why it cannot be read
    return True
