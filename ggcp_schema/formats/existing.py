"""What an existing file holds that an output would replace."""

from __future__ import annotations

import os
from contextlib import closing

from ggcp_schema.errors import FileError, NotACheckpointError
from ggcp_schema.files.atomic import ExistsError
from ggcp_schema.files.identify import HEAD, identify
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file


def contents_of(path: str | os.PathLike[str]) -> str:
    """Return what is in a file of a known format, or in one of sentencepiece; empty for any other file or a folder."""
    if not os.path.isfile(path):
        return ""
    try:
        with open_file(path, partial=True) as file:
            return file.what
    except NotACheckpointError:
        with closing(Source(path)) as source:
            what, remedy = identify(source.read(0, min(source.size, HEAD)), source.size)
        return what if "--vocab" in remedy else ""
    except FileError:
        return ""


def occupied(error: ExistsError) -> ExistsError:
    """Return the error for an output that exists; a checkpoint, a model or a vocabulary is not to be replaced."""
    what = contents_of(error.path)
    if not what:
        return error
    result = ExistsError(error.path, f"{error.path} already exists: {what}", "Choose another name.")
    result.option = ""
    return result
