"""Opens whatever the views take: a ggcp checkpoint, or a GGUF file that was written from one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.filetype import GGUF, sniff
from ggcp_schema.reader import open_checkpoint

if TYPE_CHECKING:
    from ggcp_schema.gguf.reader import GgufFile


def open_any(path: str | os.PathLike[str], *, partial: bool = False) -> Checkpoint | GgufFile:
    """A `GgufFile` if the file begins like one, else a `Checkpoint`; `partial` and errors as `open_checkpoint`."""
    if sniff(path) == GGUF:
        from ggcp_schema.gguf.reader import open_gguf

        return open_gguf(path)
    return open_checkpoint(path, partial=partial)
