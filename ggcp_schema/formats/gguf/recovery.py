"""What can be read of a GGUF file with damaged headers: the tensors whose places are proven.

The data of each tensor follows that of the one before, and that of the last ends the file. So tensors after the damage
are found again by their names and offsets, and prove where the data begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import IO

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError, counted
from ggcp_schema.constructs.records import new_scope, outermost
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.parsing import how_altered
from ggcp_schema.schema.gguf import GGUF, Extents, alignment, in_order, size_of

SEARCHED = 1 << 25  # bytes in which the headers of the tensors are looked for
ZERO_RECORD = 24  # bytes of a tensor's record of zeros; that of a key has fewer
MOST_OFFSET = 1 << 40
SAMPLE = 4096  # bytes after the end, which are of no tensor if they are zeros
INFO = re.compile(rb"([\x01-\x7f])\0{7}([!-~]{1,127})[\x01-\x08]\0{3}.{5}\0{3}", re.DOTALL)


def is_dense(container: Container) -> bool:
    """Return True if the data of each tensor follows that of the one before, with no more than padding between."""
    found, at = Extents(container), container["data_start"]
    for begin, end in (found[index] for index in in_order(found)):
        if not at <= begin < at + container["alignment"]:
            return False
        at = begin if end is None else end
    return True


def doubt(source: Source, container: Container) -> FieldError | None:
    """Return an error if headers are zeros that were read as records, or if bytes were put into the data."""
    error, trailing = zeros_in(source, container), container["trailing"]
    if error is not None or trailing is None:
        return error
    found = counted(trailing.nbytes, "more byte")
    if _may_end_in_zeros(container) and any(source.read(trailing.offset, min(trailing.nbytes, SAMPLE))):
        found += ", which may be of its tensors"
    elif not how_altered(source, container["data_start"]):
        return None
    error = FieldError(trailing.offset, "the end of the file", found)
    error.steps, error.partial = ["trailing"], until(container, "data_start")
    return error


def _may_end_in_zeros(container: Container) -> bool:
    """Return True if the headers may end in zeros: of all tensors the last is not the last, or one has no name."""
    infos = container["tensor_infos"]
    if not infos:
        return not container["metadata_kv"]
    if is_dense(container) and all(map(size_of, infos)):
        return False
    return any(info["offset"] > infos[-1]["offset"] or not _is_named(info) for info in infos)


def _are_intact(container: Container) -> bool:
    """Return True if each header states what a tensor can have, as in a file with gaps or shared data that was cut.

    A hole that begins in the last header, and goes on in the data, would make its offset less than others if it is of
    zeros, and else very large, or the padding odd.
    """
    infos, unit = container["tensor_infos"], container["alignment"]
    largest = max(info["offset"] for info in infos)
    return (
        largest == infos[-1]["offset"] < MOST_OFFSET
        and not any(container["padding"])
        and all(_is_named(info) and info["offset"] % unit == 0 and size_of(info) != 0 for info in infos)
    )


def _is_named(info: Container) -> bool:
    return bool(info["name"]) and "\0" not in info["name"]


def _is_zero(source: Source, record: Container, field: str) -> bool:
    """Return True if a record is one of zeros: without a name, and of the smallest size."""
    if record.get(field) != "" or record.get("_size", ZERO_RECORD) > ZERO_RECORD:
        return False
    return not any(source.read(record["_offset"], record.get("_size", 0)))


def zeros_in(source: Source, container: Container) -> FieldError | None:
    """Return an error if keys or tensors are zeros that were read as records."""
    for place, field, what in (("metadata_kv", "key", "a key"), ("tensor_infos", "name", "a name")):
        records = container.get(place) or ()
        zeros = (index for index, record in enumerate(records) if _is_zero(source, record, field))
        empty = [*islice(zeros, 2)]
        if len(empty) > 1:
            error = FieldError(records[empty[0]]["_offset"], what, "zeros")
            error.steps = [place, empty[0], field]
            error.partial = until(container, place)
            error.partial[place] = ListContainer(records[: empty[0]])
            return error
    return None


def recover(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error; None if that is no more."""
    container = error.partial
    if container is None or ("data_start" in container and (is_dense(container) or _are_intact(container))):
        return None
    error = zeros_in(source, container) or error
    kept = until(error.partial, "tensor_infos")
    with source.reading() as stream:
        infos = list(_found(source, stream, container))
        if not infos:
            return Recovered(kept, [error], error) if "data_start" in container else None
        error.missing = None  # the data ends where the file ends
        stream.seek(infos[-1]["_offset"] + infos[-1]["_size"])
        counts = {"tensor_count": len(infos), "metadata_kv": _whole(container, "metadata_kv")}
        whole = GGUF.resume(stream, Container({**kept, "tensor_infos": ListContainer(infos), **counts}))
    return Recovered(Container({**whole, **kept}), [error], None)


def _found(source: Source, stream: IO[bytes], container: Container) -> Iterator[Container]:
    """Yield the headers of the tensors that are proven: those before the damage, and those after it."""
    unit = alignment(Container(metadata_kv=_whole(container, "metadata_kv")))  # type: ignore[no-untyped-call]
    later = _after(source, stream, container, unit)
    if later:
        first, end, earlier = later[0], 0, []
        for info in _whole(container, "tensor_infos"):
            if info["_offset"] >= first["_offset"] or not _fits(info, end):
                break
            earlier.append(info)
            end = _end(info, unit)
        if earlier and end != first["offset"] and not earlier[-1]["offset"]:
            earlier.pop()  # its offset, and what is before it, may be zeros of the damage
        if end <= first["offset"]:
            yield from earlier
        yield from later


def _after(source: Source, stream: IO[bytes], container: Container, unit: int) -> list[Container]:
    """Return the headers that no other follows, and whose data ends with the file."""
    data = source.read(0, min(source.size, SEARCHED))
    struct, at = GGUF.of(container), 0  # type: ignore[no-untyped-call]
    subcon = dict(struct.fields)["tensor_infos"].subcon
    scope = new_scope(struct, stream, outermost({}))
    for match in INFO.finditer(data):
        if match.start() < at or match[1][0] != len(match[2]):
            continue
        stream.seek(match.start())
        infos: list[Container] = []
        while True:
            at = stream.tell()
            try:
                info = subcon._parse(stream, scope, "")
            except FieldError:
                break
            if not _fits(info, _end(infos[-1], unit) if infos else info["offset"] // unit * unit):
                break
            infos.append(info)
        if infos:
            end = at + -at % unit + infos[-1]["offset"] + size_of(infos[-1])
            if end <= source.size <= end + -end % unit:
                return infos
    return []


def _fits(info: Container, offset: int) -> bool:
    """Return True if a header is that of a tensor with data, of a known type, at this offset."""
    return _is_named(info) and size_of(info) > 0 and info["offset"] == offset


def _end(info: Container, unit: int) -> int:
    """Return the offset at which the data after that of a tensor begins."""
    end: int = info["offset"] + size_of(info)
    return end + -end % unit


def _whole(container: Container, place: str) -> list[Container]:
    return [record for record in container.get(place) or () if "_size" in record]
