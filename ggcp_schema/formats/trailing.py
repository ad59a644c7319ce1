"""Bytes after the end of a file: added to it, or a sign that others were inserted before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from construct import Container

from ggcp_schema.constructs import FieldError, count_bytes, counted
from ggcp_schema.files.source import Source
from ggcp_schema.formats.numbers import are_added
from ggcp_schema.formats.rules import Finding
from ggcp_schema.schema.ggml import UNQUANTIZED, type_name
from ggcp_schema.schema.ggml_model import LEAST_RECORD

LINE_ENDS = b"\r\n\x1a"
BLOCK = 512  # bytes of a disk, a tape or an archive, which zeros fill up


def trailing_bytes(container: Container) -> Iterator[Finding]:
    """Yield a finding if bytes follow the end of a file."""
    trailing = container.get("trailing")
    if trailing is not None:
        yield Finding("trailing", f"{counted(trailing.nbytes, 'more byte')} after the end of the file")


def may_belong_before(container: Container) -> FieldError:
    """Return the error for bytes after the end that may have been inserted before it."""
    trailing = container["trailing"]
    found = f"{count_bytes(trailing.nbytes)} more, which may belong before it"
    return FieldError(trailing.offset, "the end of the file", found, partial=container)


def doubtful_end(source: Source, container: Container, *, is_complete: bool = False) -> FieldError | None:
    """Return an error if bytes follow the last number of a file without a count, and may belong before it.

    The last byte of a float is its exponent, and no weight has that of a line end; nor do blocks often end in one. A
    number of zeros is 0: so zeros were added, unless the number before them is 0 too. So were others that are no
    weights, where weights are before. As many zeros as a header has bytes may be in the place of more records, unless
    they fill a block that they do not begin, or the file `is_complete`.
    """
    trailing, records = container["trailing"], container["tensors"]
    if trailing is None:
        return None
    are_many = trailing.nbytes >= LEAST_RECORD and source.zeros_at_end(least=1) <= trailing.offset
    is_filled = source.size % BLOCK == 0 and trailing.offset % BLOCK != 0
    if are_many and not (is_complete or is_filled):
        steps = "tensors", len(records), "n_dims"
        return FieldError(trailing.offset, "1 to 4", "0", steps=steps, partial=Container(container, trailing=None))
    added = source.read(trailing.offset, trailing.nbytes)
    is_line_end = not added.strip(LINE_ENDS)
    ends_before = source.read(trailing.offset - 1, 1) != b"\0" and (are_many or _ends_in_float(records))
    is_zeros = ends_before and not added.strip(b"\0")
    is_added = is_line_end or is_zeros or (bool(records) and are_added_after(source, records[-1]))
    return None if is_added else may_belong_before(container)


def are_added_after(source: Source, record: Container) -> bool:
    """Return True if the bytes after the last record of a file were added there, and not inserted into its data."""
    begin = record["data"].offset
    return are_added(source, type_name(record["type"]), begin, begin + record["data"].nbytes)


def zeros_follow(source: Source, error: FieldError) -> bool:
    """Return True if only zeros follow the last record that was read, and none of them can be its own.

    Whether they are in place of more records is another question.
    """
    records = [record for record in (error.partial or {}).get("tensors") or () if "_size" in record]
    is_header = error.steps[:1] == ["tensors"] and error.steps[2:] == ["n_dims"]
    if not is_header or not _ends_in_float(records) or source.read(error.offset - 1, 1) == b"\0":
        return False
    return source.zeros_at_end(least=1) <= error.offset


def _ends_in_float(records: Sequence[Container]) -> bool:
    """Return True if the last byte before the end is that of a float: 0 only if all of it is 0."""
    return not records or type_name(records[-1]["type"]) in UNQUANTIZED
