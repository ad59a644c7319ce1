"""Where the tensors of a GGUF file are into whose data some bytes were inserted, or from which some are lost.

Only the data itself tells whether it is moved: the numbers of a model, and the scales of blocks, have usual sizes, and
misplaced ones nearly any; padding is of zeros; and norms may be larger than all numbers beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise
from typing import NamedTuple

from construct import Container

from ggcp_schema.constructs import FieldError, count_bytes, each
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.numbers import FLOATS, SIZES, WINDOW, are_numbers, sizes_of_numbers
from ggcp_schema.formats.records.places import MOST_MOVED
from ggcp_schema.formats.trailing import LINE_ENDS
from ggcp_schema.schema.ggml import type_name
from ggcp_schema.schema.gguf import BIG, GGUF, Extents, in_order

MAGIC = b"GGUF"  # of another file that follows
BLOCKS = 32  # at the beginning and the end of a tensor that are looked at
LEAST_TEXT = 3  # bytes that end no number if they are text
MARGIN = 1.5  # by which numbers may be beyond the others of their tensor; those of another tensor are twice as far


class Clue(NamedTuple):
    """Whether bytes of a tensor, if any, are what they must be where they are, and where they are if they are moved."""

    tensor: int | None
    begin: int
    end: int
    here: bool | None
    there: bool | None

    @property
    def is_moved(self) -> bool | None:
        """Whether what is here is moved; None if that is not told."""
        if self.here and self.there is False:
            return False
        return True if self.there and self.here is False else None


def moved_by(source: Source, container: Container) -> int:
    """Return how many bytes the file has too many, or less than 0; 0 for many that are missing, likely of its end."""
    if not container["tensor_infos"]:
        return 0
    end = max(end for _, end in Extents(container, source.size))
    count = source.size - (end + -(end - container["data_start"]) % container["alignment"])
    if count < 0 < source.size - end and any(source.read(end, source.size - end)):
        count = source.size - end  # there was no padding
    return count if count > -MOST_MOVED else 0


def may_be_moved(source: Source, container: Container, count: int) -> bool:
    """Return False if the last tensor is proven to be where it must be, so that so many bytes differ after its end.

    Line ends, zeros and text were added there unless something tells otherwise.
    """
    extents = Extents(container, source.size)
    last = in_order(extents)[-1]
    end, kind = extents[last][1], _kinds(container)[last]
    if count < 0:  # some programs write no padding, which would begin there
        is_cut = source.size > end or _tell_move(_clues(source, container, count, -1))
        return is_cut and not any(source.read(end + count, -count))
    padding = source.size - count - end
    places = (end, padding), (end + max(padding, count), min(padding, count))
    is_here, is_there = (not any(source.read(*place)) for place in places)
    if is_here != is_there and (is_here or count < MOST_MOVED):
        return is_there
    clues = _clues(source, container, count, -1)
    at_end = next(clues)
    begin = source.size - count if is_here else end
    added = source.read(begin, min(source.size - begin, WINDOW)).strip(LINE_ENDS + b"\0")
    if not added:
        return _tell_move(clues if count >= MOST_MOVED else chain([at_end], clues))
    is_text = len(added) >= LEAST_TEXT and added.isascii() and added.decode().isprintable()
    is_other = is_text or added.startswith(MAGIC)
    if count >= MOST_MOVED:
        others = [*clues]
        is_odd = at_end.here is False and any(clue.here and clue.tensor is not None for clue in others)
        return not is_other and (is_odd or _tell_move(others) or at_end.there is True)
    if is_other:
        return _tell_move(chain([at_end], clues))
    may_end = kind not in FLOATS or are_numbers(source, kind, end + count - SIZES[kind], end + count) is not False
    return may_end or at_end.here is False or at_end.there is not False


def _tell_move(clues: Iterable[Clue]) -> bool:
    """Return True if the last places that tell it are moved; one alone may look like that by chance."""
    told = [*islice((clue.is_moved for clue in clues if clue.is_moved is not None), 2)]
    return len(told) > 1 and all(told)


def recover_moved(source: Source, container: Container, error: FieldError, count: int) -> Recovered | None:
    """Return the tensors before and after the place at which so many bytes were inserted or lost.

    Return None if nothing tells that place, and numbers are whole wherever it is: then the file was cut off.
    """
    extents = Extents(container, source.size)
    first, last = container["data_start"], source.size  # between which that place is
    odd: set[tuple[int | None, int]] = set()  # the tensors that are not at a place, by how far it is moved
    for clue in _clues(source, container, count):
        odd |= {(clue.tensor, by) for by, told in ((0, clue.here), (count, clue.there)) if told is False}
        if clue.is_moved is False and last < source.size:
            return Recovered(until(container, "data_start"), [error], error)  # there is more than one place
        if clue.is_moved is False:
            first = clue.begin
        elif clue.is_moved:
            last = min(last, clue.end + count)
    shifts = [count * (begin + count >= last) for begin, _ in extents]
    ends = enumerate(zip(shifts, (end for _, end in extents), strict=True))
    lost = {index for index, (shift, end) in ends if (index, shift) in odd or (not shift and end > first)}
    is_at_end = count < MOST_MOVED or clue.there is True  # else these may be fewer bytes, and others after the end
    lost |= {index for index, shift in enumerate(shifts) if shift and not is_at_end}
    is_cut = error.missing is not None and last == source.size
    kinds = _kinds(container)
    if is_cut and all(kind in FLOATS and not count % SIZES[kind] for kind in {kinds[index] for index in lost}):
        return None  # so few whole numbers are far more likely cut off at the end
    error.missing = None
    words = f"{count_bytes(abs(count))} {'inserted' if count > 0 else 'lost'} between offsets {first} and {last}"
    place = FieldError(first, "the data of the tensors", words)
    place.steps = ["tensor_data"]
    begins = [begin + shift for (begin, _), shift in zip(extents, shifts, strict=True)]
    kept = Container(until(container, "tensor_data"), _begins=begins)
    with source.reading() as stream:
        stream.seek(container["data_start"])
        try:
            kept = GGUF.resume(stream, kept)
        except FieldError as cut:
            kept = cut.partial
    return Recovered(Container(kept, _lost=lost), [place if is_at_end else error], None)


def _kinds(container: Container) -> list[str]:
    """Return the types of the tensors, keys of `RANGES` if they are known.

    In a big-endian file the bytes of BF16, and of the scales of blocks, are in either order, so it has no such types.
    """
    order = f"{BIG} " if container.get("byte_order") == BIG else ""
    return [order + type_name(number) for number in each(container["tensor_infos"], "type")]


def _clues(source: Source, container: Container, count: int, step: int = 1) -> Iterator[Clue]:
    """Yield what the bytes before each tensor, at its beginning and at its end tell; from the end if `step` is -1."""
    extents, kinds = Extents(container, source.size), _kinds(container)
    order, start = in_order(extents), container["data_start"]
    for place in range(len(order))[::step]:
        (begin, end), kind = extents[order[place]], kinds[order[place]]
        before, stop = extents[order[place - 1]] if place else (start, start)
        clues = []
        if stop < begin:
            is_padding = (not any(source.read(stop + by, begin - stop)) for by in (0, count))
            clues.append(Clue(None, stop, begin, *is_padding))
        elif place:
            for one in dict.fromkeys((kinds[order[place - 1]], kind)):
                told = _border(source, one, before, begin, end, count)
                clues.append(Clue(None, begin, begin + 1, *told))  # the first number may have lost bytes, or got some
        size = WINDOW if kind in FLOATS else BLOCKS * SIZES.get(kind, 0)
        for at, last in dict.fromkeys(((begin, min(begin + size, end)), (max(begin, end - size), end))):
            found = (are_numbers(source, kind, at + by, min(last, source.size) + by) for by in (0, count))
            clues.append(Clue(order[place], at, last, *found))
        yield from clues[::step]


def _border(source: Source, kind: str, begin: int, at: int, end: int, count: int) -> tuple[bool | None, bool | None]:
    """Return whether a tensor begins at this place, and whether it does at that to which it is moved.

    Its numbers, or those of the tensor before, from `begin` on, must be so much larger that each tells whose it is.
    """
    least = min(end - at, at - begin) - abs(count)
    if kind not in FLOATS or count % SIZES[kind] or least < FLOATS[kind][3] * SIZES[kind]:
        return None, None
    low, high = sorted((at, at + count))
    edges = max(begin + max(count, 0), low - WINDOW), low, high, min(end + min(count, 0), high + WINDOW)
    before, between, after = (sizes_of_numbers(source, kind, *part) for part in pairwise(edges))
    for small, large in ((before, after), (after, before)):
        if 2 * MARGIN * max(small) < min(large):
            are_small = all(size < MARGIN * max(small) for size in between)
            if are_small or all(min(large) < MARGIN * size < MARGIN**2 * max(large) for size in between):
                is_here = (at == high) == ((before is small) == are_small)
                return is_here, not is_here
    return None, None
