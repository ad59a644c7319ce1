"""From a ggcp file to a GGUF checkpoint that training resumes from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ggcp_schema.atomic import check_output
from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.gguf.entries import Entry
from ggcp_schema.gguf.resume import RMS_EPS, resume_entries
from ggcp_schema.gguf.writer import write_gguf
from ggcp_schema.reader import open_checkpoint


@dataclass(frozen=True)
class Written:
    """What was written: the checkpoint it came from, the entries, and the file's size in bytes."""

    checkpoint: Checkpoint
    entries: list[Entry]
    size: int


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    rms_eps: float = RMS_EPS,
    force: bool = False,
    verify: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Writes the checkpoint at `source` as a GGUF checkpoint that training resumes from.

    `rms_eps` is the epsilon of the RMS norm, which no ggcp file states. An existing output is replaced only
    with `force`; `verify` compares every byte with the checkpoint before the output takes its name.
    `progress` is called with the number of bytes just copied or compared. Raises `MalformedError` if the
    checkpoint is damaged, `FileError` if a file cannot be read or written.
    """
    with open_checkpoint(source) as ckpt:
        entries = resume_entries(ckpt, rms_eps)
        check_output(output, (source,), overwrite=force)
        size = write_gguf(output, entries, overwrite=force, verify=verify, progress=progress)
        return Written(ckpt, entries, size)
