"""The known formats, and what opens their files."""

from __future__ import annotations

import os

from ggcp_schema.errors import NotACheckpointError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import File, Format, not_a_checkpoint, open_source
from ggcp_schema.formats.ggcp.checkpoint import Checkpoint
from ggcp_schema.formats.ggcp.extent import expected_size
from ggcp_schema.formats.ggml.file import GgmlFile
from ggcp_schema.formats.gguf.file import GGUF_FORMAT
from ggcp_schema.schema import CHECKPOINT, GGJT, GGMF, GGML

GGCP_FORMAT = Format("ggcp", b"pcgg", CHECKPOINT, "ggcp checkpoint", Checkpoint, expected_size=expected_size)
FORMATS = {
    known.name: known
    for known in (
        GGCP_FORMAT,
        GGUF_FORMAT,
        Format("ggjt", b"tjgg", GGJT, "ggjt file", GgmlFile),
        Format("ggmf", b"fmgg", GGMF, "ggmf file", GgmlFile),
        Format("ggml", b"lmgg", GGML, "ggml file", GgmlFile),
    )
}
"""The formats by name. To add one, write a schema page and add a line here."""


def open_file(path: str | os.PathLike[str], *, partial: bool = False) -> File:
    """Open a file of any known format; use it in a `with` block, or close it.

    The parameters and exceptions are those of `open_checkpoint`.
    """
    return _open(path, None, partial)


def open_checkpoint(path: str | os.PathLike[str], *, partial: bool = False) -> Checkpoint:
    """Open a ggcp checkpoint; use it in a `with` block, or close it.

    Headers are parsed; no tensor data is read. Raises `FileError` if the file cannot be read, `MalformedError` if it is
    not a whole, well-formed checkpoint, and `NotACheckpointError` if it is another kind of file. With `partial`, a
    damaged file opens with what precedes the damage, and the error is its `damage`.
    """
    opened = _open(path, GGCP_FORMAT, partial)
    assert isinstance(opened, Checkpoint)  # noqa: S101 - GGCP_FORMAT opens nothing else
    return opened


def _open(path: str | os.PathLike[str], format: Format | None, partial: bool) -> File:
    source = Source(path)
    try:
        return open_source(source, format or format_of(source), partial=partial)
    except BaseException:
        source.close()
        raise


def format_of(source: Source) -> Format:
    """Return the format of an open file. Raises `NotACheckpointError` if it is unknown."""
    head = source.read(0, min(4, source.size))
    for known in FORMATS.values():
        if head == known.magic:
            return known
    raise NotACheckpointError(
        f"{source.path}: unknown file format; it begins with the bytes {head.hex(' ') or '(none)'}",
        not_a_checkpoint(source),
        path="magic",
        offset=0,
        expected="a known magic number",
        found=head.hex(" ") or "the end of the file",
    )
