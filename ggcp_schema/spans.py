"""The one index of a file: every leaf by path, with its place and value, taken from the schema itself."""

from __future__ import annotations

from contextlib import suppress

from ggcp_schema.constructs import FieldError, Span, Trace
from ggcp_schema.schema import CHECKPOINT
from ggcp_schema.source import Source


def read_spans(source: Source) -> dict[str, Span]:
    """Every leaf of the file by path, in file order, up to the damage if there is some.

    Raises `FileError` if the file was closed.
    """
    trace = Trace()
    with source.reading() as file, suppress(FieldError):  # whoever opened the file was told
        CHECKPOINT.parse_stream(file, trace=trace)
    return {span.path: span for span in trace.spans}
