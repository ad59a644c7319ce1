"""Whether the headers of a GGUF file that can be read are what was written, or damage that reads as headers."""

from __future__ import annotations

from itertools import islice

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError, count_bytes, counted, each
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import until
from ggcp_schema.formats.gguf.file import NAMES
from ggcp_schema.formats.gguf.moved import may_be_moved, moved_by
from ggcp_schema.formats.parsing import how_altered
from ggcp_schema.schema.gguf import Extents, in_order, size_of

ZERO_RECORD = 24  # bytes of a tensor's record of zeros; that of a key has fewer
SAMPLE = 4096  # bytes after the end, which are of no tensor if they are zeros


def doubt(source: Source, container: Container) -> FieldError | None:
    """Return an error if headers are zeros that were read as records, or if bytes were put into the data."""
    error, trailing = zeros_in(source, container), container["trailing"]
    ends_whole = trailing is None and (source.size - container["data_start"]) % container["alignment"] == 0
    count = 0 if ends_whole or error is not None else moved_by(source, container)
    if count and may_be_moved(source, container, count):
        words = f"{count_bytes(abs(count))} {'more' if count > 0 else 'fewer'}, which may belong before it"
        error = FieldError(source.size - max(0, count), "the end of the file", words)
        error.steps, error.partial = ["trailing"], container
    if error is not None or trailing is None:
        return error
    found = counted(trailing.nbytes, "more byte")
    is_lost = source.zeros_at_end() < container["data_start"]  # no tensor of such a file has another value than 0
    if _may_end_in_zeros(container) and (is_lost or any(source.read(trailing.offset, min(trailing.nbytes, SAMPLE)))):
        found += ", which may be of its tensors"
    elif not how_altered(source, container["data_start"]):
        return None
    error = FieldError(trailing.offset, "the end of the file", found)
    error.steps, error.partial = ["trailing"], until(container, "data_start")
    return error


def is_dense(container: Container) -> bool:
    """Return True if the data of each tensor follows that of the one before, with no more than padding between."""
    found, at = Extents(container), container["data_start"]
    for begin, end in (found[index] for index in in_order(found)):
        if not at <= begin < at + container["alignment"]:
            return False
        at = begin if end is None else end
    return True


def _may_end_in_zeros(container: Container) -> bool:
    """Return True if the headers may end in zeros: of all tensors the last is not the last, or one has no name."""
    infos = container["tensor_infos"]
    if not infos:
        return not container["metadata_kv"]
    if is_dense(container) and all(map(size_of, infos)):
        return False
    return any(info["offset"] > infos[-1]["offset"] or not is_named(info) for info in infos)


def is_named(info: Container) -> bool:
    """Return True if a tensor's header has a name that a tensor can have."""
    return bool(info["name"]) and "\0" not in info["name"]


def zeros_in(source: Source, container: Container) -> FieldError | None:
    """Return an error if keys or tensors are zeros that were read as records."""
    zeros = (
        (place, index, field)
        for place, field in NAMES.items()
        for index, text in enumerate(each(container.get(place) or (), field))
        if text == "" and _is_zero(source, container[place][index])
    )
    empty = [*islice(zeros, 2)]
    if len(empty) < 2:
        return None
    place, index, field = empty[0]
    error = FieldError(container[place][index]["_offset"], f"a {field}", "zeros")
    error.steps = [place, index, field]
    error.partial = until(container, place)
    error.partial[place] = ListContainer(container[place][:index])
    return error


def _is_zero(source: Source, record: Container) -> bool:
    """Return True if a record without a name is one of zeros, and so of the smallest size."""
    size = record.get("_size", ZERO_RECORD)
    return size <= ZERO_RECORD and not any(source.read(record["_offset"], record.get("_size", 0)))
