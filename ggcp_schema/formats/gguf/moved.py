"""Where the tensors of a GGUF file are into whose data some bytes were inserted, or from which some are lost.

No header follows the data, so that only the numbers themselves tell whether they are moved: those of a model
have usual sizes, and misplaced ones nearly any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from construct import Container

from ggcp_schema.constructs import FieldError, count_bytes
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.schema.ggml import type_name
from ggcp_schema.schema.gguf import BIG, GGUF, Extents, in_order

WINDOW = 512  # bytes at the beginning and the end of a tensor that are looked at
MOST_MOVED = 16  # bytes
LEAST = 8  # numbers that are not so by chance
RANGES = {"F32": ("f", 1e-20, 1e4), "F16": ("e", 0, 64)}  # of the numbers of a model


def moved_by(source: Source, container: Container) -> int:
    """Return how many bytes too many the file has, less than 0 if it lacks some; 0 if nothing can tell where.

    Many bytes are far more likely cut off or added at the end, and numbers that are moved by whole numbers are numbers
    too. A file that ends with its data, without padding, lacks nothing: some programs write none.
    """
    if not container["tensor_infos"] or container.get("byte_order") == BIG:
        return 0
    end = max(end for _, end in Extents(container, source.size))
    count = source.size - (end + -(end - container["data_start"]) % container["alignment"])
    return count if count % 4 and abs(count) < MOST_MOVED and end != source.size else 0


def may_be_moved(source: Source, container: Container, count: int) -> bool:
    """Return False if the last tensor is proven to be where it must be, so that so many bytes differ after its end."""
    extents = Extents(container, source.size)
    order, infos = in_order(extents), container["tensor_infos"]
    (begin, end), kind = extents[order[-1]], type_name(infos[order[-1]]["type"])
    tail = min(max(0, count), source.size - count - end)  # after what would be the end of the data
    if any(source.read(source.size - tail, tail)):
        return False  # padding, which is of zeros, would be there
    is_zero = not any(source.read(min(end, end + count), abs(count)))
    if count < 0:
        return is_zero
    if is_zero and source.read(end - 1, 1) != b"\0":
        return False
    if any(source.read(end, source.size - count - end)):
        return True  # in place of the padding after the last tensor
    begin = max(begin, end - WINDOW)
    is_here, is_moved = (are_numbers(source, kind, begin + shift, end + shift) for shift in (0, count))
    if abs(count) == 1 and kind in RANGES:
        return is_moved is not False or is_here is False
    told = (
        _shift(source, infos[index], place, count) for index in reversed(order) for place in _windows(*extents[index])
    )
    shift = next((shift for shift in told if shift is not None), None)
    return shift is not None and (shift != 0 or is_here is False)  # the numbers of a model end before its data does


def recover_moved(source: Source, container: Container, error: FieldError, count: int) -> Recovered | None:
    """Return the tensors before and after the place at which so many bytes were inserted or lost, if that is told."""
    extents = Extents(container, source.size)
    order, infos = in_order(extents), container["tensor_infos"]
    first, last = container["data_start"], source.size  # between which that place is
    odd: set[tuple[int, int]] = set()  # the tensors that are not at a place, by how far it is moved
    for index in order:
        for begin, end in _windows(*extents[index]):
            numbers = [are_numbers(source, type_name(infos[index]["type"]), begin + by, end + by) for by in (0, count)]
            odd |= {(index, by) for by, told in zip((0, count), numbers, strict=True) if told is False}
            shift = _shift(source, infos[index], (begin, end), count)
            if shift == 0 and last < source.size:
                return Recovered(until(container, "data_start"), [error], error)  # there is more than one place
            if shift == 0:
                first = begin
            elif shift is not None:
                last = min(last, end + count)
    error.missing = None  # the file was not cut off
    words = f"{count_bytes(abs(count))} {'inserted' if count > 0 else 'lost'} between offsets {first} and {last}"
    place = FieldError(first, "the data of the tensors", words)
    place.steps = ["tensor_data"]
    begins = [begin + count * (begin + count >= last) for begin, _ in extents]
    lost = {
        index
        for index, (begin, end) in enumerate(extents)
        if (begin != begins[index] or end > first) and (begin + count < last or (index, count) in odd)
    }
    lost |= {index for index, shift in odd if shift == 0 and extents[index][1] <= first}
    kept = Container(until(container, "tensor_data"), _begins=begins)
    with source.reading() as stream:
        stream.seek(container["data_start"])
        try:
            kept = GGUF.resume(stream, kept)
        except FieldError as cut:
            kept = cut.partial
    return Recovered(Container(kept, _lost=lost), [place], None)


def _windows(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the places that are looked at: where a tensor begins, and where it ends."""
    yield begin, min(end, begin + WINDOW)
    yield max(begin, end - WINDOW), end


def _shift(source: Source, info: Container, place: tuple[int, int], count: int) -> int | None:
    """Return by how many bytes a part of a tensor is moved, 0 or `count`; None if its numbers do not tell."""
    kind = type_name(info["type"])
    if kind not in RANGES or count % struct.calcsize(RANGES[kind][0]) == 0:
        return None
    here, there = (are_numbers(source, kind, place[0] + by, place[1] + by) for by in (0, count))
    if here and there is False:
        return 0
    return count if there and here is False else None


def are_numbers(source: Source, kind: str, start: int, stop: int) -> bool | None:
    """Return True if these bytes are numbers of a model, False if not, None if there are too few to tell."""
    if kind not in RANGES or start >= stop or stop > source.size:
        return None
    code, least, most = RANGES[kind]
    data = source.read(start, stop - start)
    numbers = [abs(one) for one in struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data) if one]
    if not all(least < number < most for number in numbers):
        return False
    return len(numbers) >= LEAST or None
