"""What an existing file holds that an output would replace."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import closing

from ggcp_schema.errors import FileError, NotACheckpointError
from ggcp_schema.files.atomic import ExistsError
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File

ANOTHER = "Choose another name."


def check_existing(
    path: str | os.PathLike[str], *, overwrite: bool, source: File | None = None, kinds: Collection[str] = ()
) -> str:
    """Return what is in a file that an output would replace; empty if it is of no known format.

    Raises `ExistsError` if there is a file or a folder that is not to be overwritten. Its hint does not propose to
    overwrite a checkpoint, a model or a vocabulary, which may be the only copy. `source` is the input, and `kinds` are
    the kinds of file that this command writes. If the input is of such a kind and the existing file is not, the hint
    asks whether input and output were exchanged.
    """
    if not os.path.exists(path):
        return ""
    name = os.fsdecode(path)
    kind, what = _contents(path)
    if overwrite:
        return what
    if not what:
        raise ExistsError(name)
    hint = ANOTHER
    if source is not None and source.kind in kinds and kind not in kinds:
        hint = f"The input comes first: {name} {source.path}? Otherwise choose another name."
    raise ExistsError(name, f": {what}").with_hint(hint)


def _contents(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the kind of a file and what it is, in words; both are empty for a folder and what is not recognised."""
    if not os.path.isfile(path):
        return "", ""
    try:
        with open_file(path, partial=True) as file:
            return file.kind, file.what
    except NotACheckpointError:
        from ggcp_schema.files.head import HEAD
        from ggcp_schema.files.identify import identify

        with closing(Source(path)) as source:
            what, remedy = identify(source.read(0, min(source.size, HEAD)), source.size)
        return ("vocabulary", what) if "--vocab" in remedy else ("", "")
    except FileError:
        return "", ""
