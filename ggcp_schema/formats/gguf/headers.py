"""The headers of tensors, and the keys, that are found in a damaged GGUF file, and where the data begins after them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from construct import Container

from ggcp_schema.constructs import FieldError
from ggcp_schema.constructs.records import new_scope, outermost
from ggcp_schema.files.source import Source
from ggcp_schema.formats.records.places import MOST_MOVED
from ggcp_schema.schema.gguf import BIG, GGUF, size_of

SEARCHED = 1 << 25  # bytes in which the headers of the tensors are looked for
LONGEST_HEADER = 256  # bytes of a tensor
LENGTHS = {  # of a name, by the byte order and the size of a length
    ("little", 8): rb"([\x01-\x7f])\0{7}",
    ("little", 4): rb"([\x01-\x7f])\0{3}",
    ("big", 8): rb"\0{7}([\x01-\x7f])",
}
NAME = rb"([!-~]{1,127})(?=[\x01-\x08]\0{3}|\0{3}[\x01-\x08])"
KEY = rb"([a-z][\w-]*\.[\w.-]+)(?=[\0-\x0c]\0{3}|\0{3}[\0-\x0c])"


def last_headers(
    source: Source, stream: IO[bytes], container: Container, unit: int, searched: int = SEARCHED
) -> list[Container]:
    """Return the headers that no other follows, and whose data ends with the file."""
    data = source.read(0, min(source.size, searched))
    read, at = reader_of(stream, container, "tensor_infos"), 0
    pattern = LENGTHS[container.get("byte_order", "little"), length_size(container)] + NAME
    for match in re.finditer(pattern, data):
        if match.start() < at or match[1][0] != len(match[2]):
            continue
        stream.seek(match.start())
        infos: list[Container] = []
        while True:
            at, info = stream.tell(), read()
            if info is None or not fits(info, end_of(infos[-1], unit) if infos else info["offset"] // unit * unit):
                break
            infos.append(info)
        if infos and explain(source, infos, later=(), unit=unit):
            return infos
        if len(infos) < 2:
            at = 0  # a key before the first header may be read as one, and reach into it
    return []


def later_keys(
    source: Source, stream: IO[bytes], container: Container, start: int, stop: int, padding: int
) -> list[Container]:
    """Return the keys after damage. At `stop` the headers of the tensors begin; the last key ends there.

    In a file without tensors it ends at most `padding` zeros before the end.
    """
    read, at = reader_of(stream, container, "metadata_kv"), start
    pattern = LENGTHS[container.get("byte_order", "little"), length_size(container)] + KEY
    for match in re.finditer(pattern, source.read(start, max(0, min(stop - start, SEARCHED)))):
        if start + match.start() < at or match[1][0] != len(match[2]):
            continue
        stream.seek(start + match.start())
        keys: list[Container] = []
        # Zeros read as keys without a name, of which a file may have millions.
        while (at := stream.tell()) < stop and (key := read()) is not None and key["key"]:
            keys.append(key)
        if stop - padding <= at <= stop and not any(source.read(at, stop - at)):
            return keys
        at = max(at, stream.tell())  # a long array that is read in vain is not read again from its middle
    return []


def with_offset(
    source: Source, stream: IO[bytes], container: Container, before: Container, unit: int
) -> list[Container]:
    """Return the last header with the offset that it must have, if the data of its tensor ends with the file so."""
    stream.seek(stop_of(before))
    info = reader_of(stream, container, "tensor_infos")()
    if info is None or not is_named(info) or not size_of(info):
        return []
    info["offset"] = end_of(before, unit)
    return [info] if explain(source, [info], later=(), unit=unit) else []


def explain(source: Source, infos: Sequence[Container], later: Sequence[Container], unit: int) -> bool:
    """Return True if these headers, and the data of their tensors, end where the next begin, or the file ends."""
    if not later:
        return start_of_data(source, infos, unit) is not None
    moved = (source.size - end_of(later[-1], unit) + MOST_MOVED) % unit - MOST_MOVED  # bytes inserted or lost, if any
    return later[0]["_offset"] - stop_of(infos[-1]) in {0, moved} and end_of(infos[-1], unit) == later[0]["offset"]


def start_of_data(source: Source, infos: Sequence[Container], unit: int) -> int | None:
    """Return where the data begins that follows these headers, if it ends with the file; None if it does not.

    Bytes may be inserted or lost before them, so that it is not aligned.
    """
    last = infos[-1]
    at, size, padded = stop_of(last), last["offset"] + size_of(last), end_of(last, unit)
    for moved in sorted(range(-MOST_MOVED, MOST_MOVED + 1), key=abs):
        start: int = at + -(at - moved) % unit
        if start + padded == source.size and not (moved and any(source.read(at, start - at))):
            return start
        if not moved and start + size == source.size and any(source.read(start + 2 * size - padded, padded - size)):
            return start  # without padding after the last tensor
    return None


def start_by_offset(source: Source, container: Container, infos: Sequence[Container], unit: int) -> int | None:
    """Return where the data begins if one header, which is damaged, follows these; None if that is not proven.

    It ends with the offset that follows from the others.
    """
    at, offset, moved = stop_of(infos[-1]), end_of(infos[-1], unit), source.size % unit
    header = source.read(at, min(LONGEST_HEADER, source.size - at))
    pattern = re.escape(struct.pack(f"{order_code(container)}Q", offset))
    # Bytes were inserted or lost, or there is no padding after the last tensor, whose size then is hardly odd.
    shifts = {moved} if moved % 2 and not any(size_of(info) % 2 for info in infos) else {0, moved}
    starts = set()
    for match in re.finditer(pattern, header):
        end = at + match.end()
        for start in (end + -(end - shift) % unit for shift in shifts):
            if start + offset < source.size and not any(source.read(end, start - end)):
                starts.add(start)
    return starts.pop() if len(starts) == 1 else None


def reader_of(stream: IO[bytes], container: Container, place: str) -> Callable[[], Container | None]:
    """Return a function that reads the next record of such a list; None if there is none."""
    schema = GGUF.of(container)  # type: ignore[no-untyped-call]
    subcon, scope = dict(schema.fields)[place].subcon, new_scope(schema, stream, outermost({}))

    def read() -> Container | None:
        try:
            record: Container = subcon._parse(stream, scope, "")
        except FieldError:
            return None
        return record

    return read


def is_named(info: Container) -> bool:
    """Return True if a tensor's header has a name that a tensor can have."""
    return bool(info["name"]) and "\0" not in info["name"]


def fits(info: Container, offset: int) -> bool:
    """Return True if a header is that of a tensor with data, of a known type, at this offset."""
    return is_named(info) and size_of(info) > 0 and info["offset"] == offset


def end_of(info: Container, unit: int) -> int:
    """Return the offset at which the data after that of a tensor begins."""
    end: int = info["offset"] + size_of(info)
    return end + -end % unit


def stop_of(record: Container) -> int:
    """Return the offset of the first byte after a record."""
    return int(record["_offset"] + record["_size"])


def each_whole(container: Container, place: str) -> Iterator[Container]:
    """Yield the whole records of a list, of which there may be very many; damage may have cut the last one short."""
    return (record for record in container.get(place) or () if "_size" in record)


def whole_records(container: Container, place: str) -> list[Container]:
    """Return them, if all are needed at once."""
    return [*each_whole(container, place)]


def length_size(container: Container) -> int:
    """Return the size of a length."""
    return 4 if container.get("version") == 1 else 8


def order_code(container: Container) -> str:
    """Return the byte order as struct has it."""
    return ">" if container.get("byte_order") == BIG else "<"
