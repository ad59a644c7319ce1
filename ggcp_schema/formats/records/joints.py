"""What must stand between the tensors of a file, and what the bytes that are there prove."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

from ggcp_schema.files.source import Ahead, Source
from ggcp_schema.formats.numbers import F32
from ggcp_schema.formats.records.headers import Record

CHUNK = 1 << 18  # bytes that are read at once; of more, most of the time is spent on fresh memory
SEARCHED = 1 << 30  # bytes in all, about half a second; a file of more, most of it holes, is not searched to its end
NAMED = b".weight"  # in each name of a model's tensor
COMPARED = 1 << 11  # bytes that are searched in the time that it takes to look at one place
EVIDENCE = 4  # bytes of a header that do not agree by chance
FILL = 8  # equal bytes in place of a header: a hole that was filled, and not noise
BESIDE = 128  # bytes beside a header that are looked at
LOOKAHEAD = 4  # records whose headers are searched for
NEARBY = 4096  # bytes by which the optimizer block may be moved if its fields are lost too


class Bytes:
    """The bytes of a file, as they are searched. What lies after the end is empty."""

    def __init__(self, source: Source, searched: int = SEARCHED) -> None:
        self.source, self.size, self._left = source, source.size, searched
        self._ahead = Ahead()
        self._names = array("Q")  # the places of NAMED, as far as they were looked for
        self._widest: dict[bytes, tuple[int, int]] = {}  # the longest search for a pattern: from where, and to where

    @cached_property
    def zeros(self) -> int:
        """Where the zeros at the end of the file begin; its size if there are few."""
        return self.source.zeros_at_end()

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` that the file has."""
        start, stop = max(0, start), min(stop, self.size)
        return self._ahead.read(self.source, start, stop - start) if start < stop else b""

    def find(self, pattern: bytes, start: int = 0) -> int:
        """Return where a pattern is first, from `start`; -1 if it is not there, or too much was searched already."""
        within = pattern.find(NAMED)
        if within < 0:
            return self._first(pattern, start)
        places = (at - within for at in self._named(start + within))
        return next((at for at in places if self.read(at, at + len(pattern)) == pattern), -1)

    def _named(self, start: int) -> Iterator[int]:
        """Yield each place of NAMED, from `start`. The file is searched once for all patterns that have it."""
        index = bisect_left(self._names, start)
        while self._left > 0:
            if index == len(self._names):
                found = self._first(NAMED, self._names[-1] + 1 if self._names else 0)
                if found < 0:
                    break
                self._names.append(found)
            self._left -= COMPARED
            if self._names[index] >= start:
                yield self._names[index]
            index += 1

    def _first(self, pattern: bytes, start: int) -> int:
        """Return where a pattern is first. What the longest search for it tells is not searched again."""
        first, found = self._widest.get(pattern, (0, -1))
        if not first <= start <= found:
            searched = start, self._search(pattern, start)
            if searched[1] - start > found - first:
                self._widest[pattern] = searched
            found = searched[1]
        return found if found < self.size else -1

    def _search(self, pattern: bytes, start: int) -> int:
        """Return where a pattern is first; the size of the file if it is not there, and -1 if that is not known."""
        for at in range(start, self.size, CHUNK):
            if self._left <= 0:
                return -1
            self._left -= CHUNK
            found = self.read(at, at + CHUNK + len(pattern) - 1).find(pattern)
            if found >= 0:
                return at + found
        return self.size

    def all(self, pattern: bytes, start: int = 0) -> Iterator[int]:
        """Yield each place of a pattern, from `start`."""
        at = self.find(pattern, start)
        while at >= 0:
            yield at
            at = self.find(pattern, at + 1)

    def integer(self, offset: int) -> int:
        """Return a number of 4 bytes; -1 outside of the file."""
        data = self.read(offset, offset + 4) if offset >= 0 else b""
        return int.from_bytes(data, "little", signed=True) if len(data) == 4 else -1


@dataclass(slots=True)
class Joint:
    """What must stand between the data of two tensors: `expected` bytes from `start` to `data` of the whole file.

    Where `mask` is 0, any byte may stand. The last `padding` bytes should be zero, but need not. `record` is that whose
    header it is.
    """

    start: int
    expected: bytes
    mask: bytes
    padding: int
    record: Record
    file: Bytes

    @property
    def data(self) -> int:
        return self.start + len(self.expected)

    @property
    def is_null(self) -> bool:
        return not self.record.shape

    def found(self, shift: int) -> bytes:
        """Return the bytes of the file where the joint is if so many were inserted before it."""
        return self.file.read(self.start + shift, self.data + shift)

    def wrong(self, shift: int) -> list[int]:
        """Return which bytes are not those expected."""
        found = self.found(shift)
        if found == self.expected:
            return []
        triples = zip(found, self.expected, self.mask, strict=False)
        return [index for index, (one, other, known) in enumerate(triples) if known and one != other]

    def matches(self, shift: int) -> bool:
        """Return True if all bytes but the padding are as expected. Zeros in zeros up to the end are of no header."""
        header = len(self.expected) - self.padding
        if self.is_null and self.start + shift >= self.file.zeros:
            return False
        found = self.found(shift)
        if found == self.expected:
            return True
        return len(found) >= header and all(index >= header for index in self.wrong(shift))

    def begins(self, shift: int, others: set[int], size: int) -> bool:
        """Return True if it is proven that the data before the joint, of `size` bytes, ends where it begins.

        `others` are the shifts that may have been there instead.
        """
        wrong = self.wrong(shift)
        if not self.expected:  # of a header that is not known
            return False
        is_moved_within = any(self._is_moved_after_start(shift, other) for other in others)
        is_found = self.matches(shift) or not wrong
        if any(map(self.matches, others)) and (self.is_null or not is_found):  # what agrees here too, agrees by chance
            return is_moved_within
        if is_found:
            return self.start + shift <= self.file.size
        first = self._edge(shift, wrong[0], -1)
        fill = self._fill(wrong, shift)
        if fill is not None and not others:
            before = self.file.read(self.start + shift - 1, self.start + shift)
            return (before + self.found(shift)[: wrong[0]]).strip(fill) != b""
        if not others and wrong[-1] - wrong[0] < EVIDENCE and self._are_numbers(shift, -min(size, BESIDE), 0):
            return True
        return is_moved_within or self._tells(0, first, bool(others))

    def ends(self, shift: int, others: set[int]) -> bool:
        """Return True if it is proven that the data after the joint begins where it ends."""
        wrong = self.wrong(shift)
        if not self.expected or len(self.found(shift)) < len(self.expected):
            return False
        if not wrong:
            return True
        last = self._edge(shift, wrong[-1], 1) + 1
        fill = self._fill(wrong, shift)
        if fill is not None and not others:
            after = self.file.read(self.data + shift, self.data + shift + 1)
            return (self.found(shift)[wrong[-1] + 1 :] + after).strip(fill) != b""
        if not others and wrong[-1] - wrong[0] < EVIDENCE and self._are_numbers(shift, len(self.expected), BESIDE):
            return True
        return self._tells(last, len(self.expected), bool(others)) or any(
            self._is_moved_before_end(other, shift) for other in others
        )

    def _edge(self, shift: int, index: int, step: int) -> int:
        """Return how far a hole may reach from a wrong byte: bytes of its value may be right by chance."""
        found = self.found(shift)
        while 0 <= index + step < len(found) and found[index + step] == found[index]:
            index += step
        return index

    def _are_numbers(self, shift: int, start: int, stop: int) -> bool:
        """Return True if the bytes beside the joint are numbers as of a training, and no part of a larger hole."""
        if start >= 0:
            stop = start + min(stop, 4 * prod(self.record.shape))
        data = self.file.read(self.start + shift + start, self.start + shift + stop)
        numbers = struct.unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4])
        near = data[:FILL] if start >= 0 else data[-FILL:]
        return bool(near.strip(near[:1])) and all(n == 0 or F32[0] < abs(n) < F32[1] for n in numbers)

    def _fill(self, wrong: list[int], shift: int) -> bytes | None:
        """Return the byte that a hole is filled with; None if that is not clear."""
        hole = self.found(shift)[wrong[0] : wrong[-1] + 1]
        return hole[:1] if len(hole) >= FILL and not hole.strip(hole[:1]) else None

    def _tells(self, start: int, stop: int, doubtful: bool) -> bool:
        """Return True if bytes that are as expected are enough to tell a place; a number is found at many."""
        known = [byte for byte, known in zip(self.expected[start:stop], self.mask[start:stop], strict=True) if known]
        return len(known) >= EVIDENCE * (1 + doubtful) and (not doubtful or any(known))

    def moves(self, before: int, after: int) -> range:
        """Return where bytes may have been inserted or lost, from the joint's start on, if its parts have these shifts.

        Bytes beside that place may be right by chance, so that it is a range, which may begin before the joint and end
        after it. It is empty if there is no such place.
        """
        wrong, later, lost = self.wrong(before), self.wrong(after), max(0, before - after)
        if not wrong and not later:
            return range(0)
        first = later[-1] + 1 - lost if later else -1 - lost
        return range(first, wrong[0] + 1 if wrong else len(self.expected) + 2)

    def explains(self, before: int, after: int) -> bool:
        """Return True if bytes that were inserted or lost inside of the joint explain all that is wrong with it."""
        return bool(self.wrong(before) and self.wrong(after) and self.moves(before, after))

    def _is_moved_after_start(self, before: int, after: int) -> bool:
        moves = self.moves(before, after)
        return bool(moves) and moves[0] >= 0

    def _is_moved_before_end(self, before: int, after: int) -> bool:
        moves = self.moves(before, after)
        return bool(moves) and moves[-1] + max(0, before - after) <= len(self.expected)


def joint_of(record: Record, file: Bytes) -> Joint:
    """Return the joint of a record's header."""
    padding = record.data - record.start - len(record.header)
    expected = record.header + bytes(padding)
    return Joint(record.start, expected, _all_known(len(expected)), padding, record, file)


@lru_cache
def _all_known(size: int) -> bytes:
    """Return the mask of so many bytes that are known: one object for all joints, of which there may be very many."""
    return b"\1" * size


def shifts_of(joints: Sequence[Joint], shift: int, final: int | None = None) -> list[int | None]:
    """Return for each joint by how many bytes it is moved; None if it is not found.

    The search goes on from `shift`. `final` is the shift of the end of the file.
    """
    found: list[int | None] = []
    matches = [joint.matches(shift) for joint in joints]
    while len(found) < len(joints):
        index = len(found)
        if matches[index]:
            found.append(shift)
            continue
        named = [later for later in range(index + 1, len(joints)) if matches[later] and not joints[later].is_null]
        moved = None if named else _search(joints, index, shift, final)
        if moved is not None:
            later, shift = moved
            found += [None] * (later - index)
            matches = [joint.matches(shift) for joint in joints]
        else:
            found.append(None)
    return found


def _search(joints: Sequence[Joint], index: int, shift: int, final: int | None) -> tuple[int, int] | None:
    """Return the next joint that stands at another place, and its shift."""
    low = joints[index - 1].data if index else joints[0].start - NEARBY
    for later, joint in enumerate(joints[index : index + LOOKAHEAD], index):
        record = joint.record
        if joint.is_null:
            if final not in {None, shift} and joint.matches(final):
                return later, final
            continue
        if record.start + shift >= joints[0].file.size:
            return None
        is_named = len(record.header) > 12 + 4 * len(record.shape)
        for at in joints[0].file.all(record.header, max(0, low + shift)):
            moved = at - record.start
            near = is_named or 2 * abs(moved - shift) < record.end - record.data
            if moved != shift and near and joint.matches(moved):
                return later, moved
    return None
