"""What can be read of a GGUF file with damaged headers: the tensors whose places are proven.

The data of each tensor follows that of the one before, and that of the last ends the file. So tensors after the damage
are found again by their names and offsets, and prove where the data begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.gguf.doubt import is_dense, wrong_count, zeros_in
from ggcp_schema.formats.gguf.headers import (
    end_of,
    fits,
    is_named,
    last_headers,
    later_keys,
    length_size,
    order_code,
    start_by_offset,
    start_of_data,
    stop_of,
    whole_records,
    with_offset,
)
from ggcp_schema.formats.gguf.lost import lost_headers
from ggcp_schema.formats.gguf.moved import Clue, moved_by, recover_moved
from ggcp_schema.formats.numbers import are_numbers
from ggcp_schema.formats.records.joints import EVIDENCE
from ggcp_schema.formats.records.places import MOST_MOVED
from ggcp_schema.schema.ggml import type_name
from ggcp_schema.schema.gguf import BIG, DEFAULT_ALIGNMENT, GGUF, LITTLE, alignment, size_of

LEAST_DATA = 1 << 10  # bytes; less may be the rest of a file that was cut off in its headers
SEARCHED_FIRST = 1 << 23  # bytes of a file of which it is not known whether it is of this format
MOST_OFFSET = 1 << 40
LEAST_DENSE = 2  # tensors without a gap, after which one with a gap is odd
LONGEST_FILL = 1 << 20  # bytes of a hole in the data of which the end is looked for
BEFORE_KEYS = ("magic", "byte_order", "version", "tensor_count", "metadata_kv_count")
SAMPLES = {"F32": 64, "F16": 128}  # bytes of noise that are not numbers of a model by chance


def _are_intact(container: Container) -> bool:
    """Return True if each header states what a tensor can have, as in a file with gaps or shared data that was cut.

    A hole that begins in the last header, and goes on in the data, would make its offset less than others if it is of
    zeros, and else very large, or the padding odd. So would a byte that is inserted into it, or lost.
    """
    infos, unit = container["tensor_infos"], container["alignment"]
    offsets, ends = [info["offset"] for info in infos], [end_of(info, unit) for info in infos]
    is_last_odd = len(infos) > LEAST_DENSE and offsets[:-1] == [0, *ends[:-2]] and offsets[-1] != ends[-2]
    is_last_moved = len(infos) > 1 and _has_byte_more(offsets[-1], ends[-2])
    return (
        max(offsets) == offsets[-1] < MOST_OFFSET
        and not (is_last_odd or is_last_moved)
        and not any(container["padding"])
        and all(is_named(info) and info["offset"] % unit == 0 and size_of(info) != 0 for info in infos)
    )


def _has_byte_more(offset: int, expected: int) -> bool:
    """Return True if an offset is the expected one with a byte inserted into it, or before it."""
    lows = (256**count - 1 for count in range(8))
    return offset > expected > 0 and any((offset & low) | (offset >> 8 & ~low) == expected for low in lows)


def _ends_in_zeros(container: Container) -> bool:
    """Return True if the last of several headers ends in zeros: it has no data, and is not after the others."""
    infos = container["tensor_infos"]
    return len(infos) > 1 and infos[-1]["offset"] == size_of(infos[-1]) == 0 < max(map(size_of, infos))


def is_proven(source: Source) -> bool:
    """Return True if there are headers of tensors whose data ends with the file, whatever it begins with."""
    with source.reading() as stream:
        return len(last_headers(source, stream, Container(), DEFAULT_ALIGNMENT, SEARCHED_FIRST)) > 1


class Proven(NamedTuple):
    """The headers of tensors that are proven, in order.

    Attributes:
        unit: the alignment of the data.
        start: where the data begins after them; None if that is not told.
        is_by_offset: True if only the offset in a header that is damaged tells it.
    """

    infos: list[Container]
    unit: int
    start: int | None = None
    is_by_offset: bool = False

    @property
    def is_odd(self) -> bool:
        """True if the data is not aligned."""
        return self.start is not None and self.start % self.unit != 0

    @property
    def begins(self) -> list[int] | None:
        """Where the data of each tensor begins; None if that is not told."""
        return None if self.start is None else [self.start + info["offset"] for info in self.infos]


def recover(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error; None if that is no more."""
    container = error.partial
    if container is None:
        return None
    if "data_start" in container and not _ends_in_zeros(container):
        if error.steps == ["trailing"] or is_dense(container):
            count = moved_by(source, container)
            is_told = 0 < abs(count) < MOST_MOVED or (count and error.steps == ["trailing"])
            return recover_moved(source, container, error, count) if is_told else None
        if _are_intact(container):
            return None
    if error.steps == ["version"] and container["byte_order"] == BIG and is_proven(source):
        container["byte_order"] = LITTLE  # it was concluded from a damaged version
    zeros = zeros_in(source, container)
    is_less = zeros is not None or "data_start" in container  # than was parsed
    return _recover_headers(source, container, zeros or error, is_less=is_less)


def _recover_headers(source: Source, container: Container, error: FieldError, *, is_less: bool) -> Recovered | None:
    """Return the keys, and the tensors whose headers are proven; None if there are no more than were parsed.

    `is_less` tells that something of what was parsed is damage, which is left out.
    """
    kept = until(error.partial, "tensor_infos")
    parsed, believed = whole_records(kept, "metadata_kv"), _before_damage(source, error)
    is_doubtful = len(believed) < len(parsed)
    if is_doubtful:
        kept["metadata_kv"] = ListContainer(believed)
    with source.reading() as stream:
        proven = _proven(source, stream, container, believed)
        if is_doubtful or proven.is_odd or not _ends_in_a_name(container):
            error.is_unknown = False  # a number that bytes made which are inserted, lost or overwritten
        if proven.is_odd and not _is_moved(source, container, proven):
            proven = Proven([], proven.unit)
        infos, later = proven.infos, list[Container]()
        end = infos[0]["_offset"] if infos else source.size
        if (infos[0]["offset"] if infos else container.get("tensor_count")) == 0:
            begin = parsed[len(believed)]["_offset"] + 1 if is_doubtful else stop_of(parsed[-1]) if parsed else 0
            later = later_keys(source, stream, container, begin, end, 0 if infos else proven.unit - 1)
        if not infos and not later:
            return Recovered(kept, [error], error) if is_less or is_doubtful else None
        error.missing = None  # the data ends where the file ends
        kept["metadata_kv"] = ListContainer([*(kept.get("metadata_kv") or ()), *later])
        stream.seek(stop_of((infos or later)[-1]))
        rest = _after_headers(stream, container, kept, proven)
    keys = ListContainer([*(key for key in parsed if key["_offset"] < end), *later])
    miscounted = wrong_count(container, keys, infos, proven.start)
    if miscounted is not None:
        error, kept["metadata_kv"] = miscounted, keys
        rest |= {"tensor_count": len(infos), "metadata_kv_count": len(keys)}
    lost = dict.fromkeys(BEFORE_KEYS) | {"byte_order": LITTLE}  # in which the headers were found
    touched = _touched(source, container, proven)
    return Recovered(Container({**lost, **kept, **rest}, _lost=touched), [error], None)


def _after_headers(stream: IO[bytes], container: Container, kept: Container, proven: Proven) -> dict[str, Any]:
    """Parse the fields after the headers, from where the stream is, and return them with the headers."""
    counts = {"tensor_count": len(proven.infos), "metadata_kv": whole_records(container, "metadata_kv")}
    before = {**kept, "tensor_infos": ListContainer(proven.infos), "_begins": proven.begins, **counts}
    whole = GGUF.resume(stream, Container(before))
    # What the file has in the place of the counts is in `kept`.
    return {name: value for name, value in whole.items() if name not in counts}


def _is_moved(source: Source, container: Container, proven: Proven) -> bool:
    """Return True if data that starts at no multiple of the alignment is likely moved, and not only looks like it."""
    infos, unit = proven.infos, proven.unit
    is_little = len(infos) < container.get("tensor_count", 0) and end_of(infos[-1], unit) < LEAST_DATA
    return not is_little and not _is_aligned(source, infos[0], proven.start or 0, unit)


def _ends_in_a_name(container: Container) -> bool:
    """Return True if the last key, if there is one, has a name that programs write, whatever its value is."""
    keys = container.get("metadata_kv")
    name = keys[-1].get("key") if keys else "none"
    return bool(name and name.isascii() and name.isprintable())


def _before_damage(source: Source, error: FieldError) -> list[Container]:
    """Return the keys that end before the damage can begin.

    Records with names that no program writes are of the damage. Where the first of them begins with what begins no
    name, or where damage was noticed at the beginning of a record, it may begin in the key before that.
    """
    keys = whole_records(error.partial, "metadata_kv")
    if error.missing is not None:
        return keys
    records = [*(error.partial.get("metadata_kv") or ()), *(error.partial.get("tensor_infos") or ())]
    texts = [record.get("key", record.get("name", "")) for record in records]
    count = len(texts)
    while count and not (texts[count - 1] and texts[count - 1].isprintable()):
        count -= 1
    before = keys[:count]
    first = texts[count] if count < len(texts) else ""
    begin = records[count]["_offset"] if count < len(records) else error.offset
    if first and first[0].isprintable():
        return before  # the damage begins in the name
    return before[:-1] if _may_begin_in(source, before, begin, length_size(error.partial)) else before


def _may_begin_in(source: Source, keys: Sequence[Container], begin: int, length: int) -> bool:
    """Return True if damage that was noticed at the beginning of a record may begin in the key before that.

    A hole that is filled with one byte begins where another byte is before it.
    """
    if not keys or begin != stop_of(keys[-1]):
        return False
    data = source.read(begin - 1, min(1 + length, source.size - begin + 1))
    run = len(data) - len(data.rstrip(data[-1:]))
    return not (length // (2 if data[-1] else 1) <= run <= length)  # a length that is right has zeros too


def _proven(source: Source, stream: IO[bytes], container: Container, entries: Sequence[Container]) -> Proven:
    """Return the headers of the tensors that are proven, and where the data begins. `entries` are the keys before."""
    unit = alignment(Container(metadata_kv=whole_records(container, "metadata_kv")))  # type: ignore[no-untyped-call]
    infos = [*_found(source, stream, container, entries, unit)]
    start = start_of_data(source, infos, unit) if infos else None
    if start is not None or not infos:
        return Proven(infos, unit, start)
    return Proven(infos, unit, start_by_offset(source, container, infos, unit), is_by_offset=True)


def _found(
    source: Source, stream: IO[bytes], container: Container, entries: Sequence[Container], unit: int
) -> Iterator[Container]:
    """Yield the headers of the tensors that are proven: those before the damage, in it, and after it.

    `entries` are the keys before it.
    """
    later = last_headers(source, stream, container, unit)
    end, earlier = 0, []
    for info in whole_records(container, "tensor_infos"):
        if (later and info["_offset"] >= later[0]["_offset"]) or not fits(info, end):
            break
        earlier.append(info)
        end = end_of(info, unit)
    if earlier and not (later and end == later[0]["offset"]) and not earlier[-1]["offset"]:
        earlier.pop()  # its offset, and what is before it, may be zeros of the damage
    lost = lost_headers(source, container, entries, earlier, later, unit)
    if later or lost:
        if not later or end <= later[0]["offset"]:
            yield from earlier
        yield from lost
        yield from later
    elif earlier and len(earlier) + 1 == container.get("tensor_count"):
        last = with_offset(source, stream, container, earlier[-1], unit)
        if last or start_by_offset(source, container, earlier, unit) is not None:
            yield from earlier
            yield from last


def _is_aligned(source: Source, info: Container, start: int, unit: int) -> bool:
    """Return True if the data of a tensor proves that the data begins where it is aligned, and not at `start`."""
    kind, aligned = type_name(info["type"]), (start + unit // 2) // unit * unit
    size = min(SAMPLES.get(kind, 0), size_of(info))
    begins = (at + info["offset"] for at in (aligned, start))
    return Clue(None, start, start, *(are_numbers(source, kind, at, at + size) for at in begins)).is_moved is False


def _touched(source: Source, container: Container, proven: Proven) -> set[int]:
    """Return the indices of the tensors into whose data damage may reach that covers the end of the headers.

    It ends where other bytes follow a run of the same, or before numbers of a model.
    """
    infos, start, begins = proven.infos, proven.start, proven.begins
    if not infos or start is None or begins is None or proven.is_by_offset:
        return set()
    order, last = order_code(container), infos[-1]
    at, tail = stop_of(last), struct.pack(f"{order}IQ", last["type"], last["offset"])
    if any(tail) and source.read(at - len(tail), start - at + len(tail)) == tail + bytes(start - at):
        return set()  # it ends inside of the last header
    filled, after = source.read(start - EVIDENCE, EVIDENCE), source.read(start, min(source.size - start, LONGEST_FILL))
    other = len(after) - len(after.lstrip(filled[:1]))
    stop = start + other if len({*filled}) == 1 and other < len(after) else source.size
    touched: set[int] = set()
    for index, info in enumerate(infos):
        kind, begin = type_name(info["type"]) if order == "<" else "", begins[index]
        end = begin + size_of(info)
        if begin >= stop and are_numbers(source, kind, begin, min(begin + SAMPLES.get(kind, 0), end)) is not False:
            break
        touched.add(index)
        if _ends_in_numbers(source, kind, begin, end):
            break
    return touched


def _ends_in_numbers(source: Source, kind: str, begin: int, end: int) -> bool:
    """Return True if the last numbers of a tensor are those of a model; of an adapter, they may be zeros."""
    size = SAMPLES.get(kind, 0)
    while 0 < size <= min(end - begin, LONGEST_FILL):
        told = are_numbers(source, kind, end - size, end)
        if told is not None:
            return told
        size *= 2
    return False
