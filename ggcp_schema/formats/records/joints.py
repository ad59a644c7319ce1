"""What must stand between the tensors of a file, and what the bytes that are there prove."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ggcp_schema.formats.numbers import F32
from ggcp_schema.formats.records.headers import Record
from ggcp_schema.formats.records.search import Searched

EVIDENCE = 4  # bytes of a header that do not agree by chance
FILL = 8  # equal bytes in place of a header: a hole that was filled, and not noise
BESIDE = 128  # bytes beside a header that are looked at
LOOKAHEAD = 4  # records whose headers are searched for
NEARBY = 4096  # bytes by which the optimizer block may be moved if its fields are lost too


@dataclass(slots=True)
class Joint:
    """What must stand between the data of two tensors: `expected` bytes from `start` to `data` of the whole file.

    At the indices that are `unknown`, any byte may stand. `record` is that whose header it is. The padding after that
    should be zero, but need not.
    """

    start: int
    expected: bytes
    record: Record
    file: Searched
    unknown: frozenset[int] = frozenset()

    @property
    def data(self) -> int:
        return self.record.data

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
        pairs = enumerate(zip(found, self.expected, strict=False))
        return [index for index, (one, other) in pairs if one != other and index not in self.unknown]

    def matches(self, shift: int) -> bool:
        """Return True if all bytes but the padding are as expected. Zeros in zeros up to the end are of no header."""
        if self.is_null and self.start + shift >= self.file.zeros:
            return False
        size = self.record.start + len(self.record.header) - self.start
        return len(self.found(shift)) >= size and all(index >= size for index in self.wrong(shift))

    def begins(self, shift: int, others: set[int], size: int) -> bool:
        """Return True if it is proven that the data before the joint, of `size` bytes, ends where it begins.

        `others` are the shifts that may have been there instead.
        """
        wrong = self.wrong(shift)
        if not self.expected:  # of a header that is not known
            return False
        moves = (self.moves(shift, other) for other in others)
        is_found, is_moved_within = self.matches(shift) or not wrong, any(found and found[0] >= 0 for found in moves)
        if any(map(self.matches, others)) and (self.is_null or not is_found):  # what agrees here too, agrees by chance
            return is_moved_within
        if is_found:
            return self.start + shift <= self.file.size
        return is_moved_within or self._tells(shift, wrong, max(size, 1), bool(others))

    def ends(self, shift: int, others: set[int]) -> bool:
        """Return True if it is proven that the data after the joint begins where it ends."""
        wrong, size = self.wrong(shift), len(self.expected)
        if not self.expected or len(self.found(shift)) < size:
            return False
        if not wrong or self._tells(shift, wrong, self.data - self.record.end, bool(others)):
            return True
        moves = ((self.moves(other, shift), max(0, other - shift)) for other in others)
        return any(found and found[-1] + lost <= size for found, lost in moves)

    def _tells(self, shift: int, wrong: list[int], beside: int, doubtful: bool) -> bool:
        """Return True if the bytes before the wrong ones tell the place; those after them if `beside` is negative.

        So many bytes of data are before the joint, or after it.

        A hole that is filled with one byte ends at the first other byte. A hole of noise may go on: some of its bytes
        are right by chance. A place may be doubtful: a number is found at many.
        """
        step = 1 if beside > 0 else -1
        found, at = self.found(shift), wrong[0 if step > 0 else -1]
        start, stop, hole = self.start + shift, self.data + shift, found[wrong[0] : wrong[-1] + 1]
        if len(hole) >= FILL and not hole.strip(hole[:1]) and not doubtful:
            near = self.file.read(start - 1, start + at) if step > 0 else self.file.read(start + at + 1, stop + 1)
            return near.strip(hole[:1]) != b""
        if len(hole) <= EVIDENCE and not doubtful and self._is_beside_numbers(shift, beside):
            return True
        while 0 <= at - step < len(found) and found[at - step] == found[at]:
            at -= step
        right = range(at) if step > 0 else range(at + 1, len(found))
        known = [self.expected[index] for index in right if index not in self.unknown]
        return len(known) >= EVIDENCE * (1 + doubtful) and (not doubtful or any(known))

    def _is_beside_numbers(self, shift: int, beside: int) -> bool:
        """Return True if the bytes before the joint, or after it, are numbers of a training, and no part of a hole."""
        start, stop, size = self.start + shift, self.data + shift, min(abs(beside), BESIDE)
        data = self.file.read(start - size, start) if beside > 0 else self.file.read(stop, stop + size)
        near = data[-FILL:] if beside > 0 else data[:FILL]
        numbers = struct.unpack_from(f"<{len(data) // 4}f", data)
        return bool(near.strip(near[:1])) and all(n == 0 or F32[0] < abs(n) < F32[1] for n in numbers)

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


def joint_of(record: Record, file: Searched) -> Joint:
    """Return the joint of a record's header."""
    return Joint(record.start, record.header.ljust(record.data - record.start, b"\0"), record, file)


def shifts_of(joints: Sequence[Joint], shift: int, final: int | None = None) -> list[int | None]:
    """Return for each joint by how many bytes it is moved; None if it is not found.

    The search goes on from `shift`. `final` is the shift of the end of the file, and so of a NULL before it.
    """
    found: list[int | None] = []
    matches, last = _matches(joints, shift)
    while len(found) < len(joints):
        index = len(found)
        if matches[index]:
            found.append(shift)
            continue
        moved = None if index < last else _search(joints, index, shift, final)
        if moved is not None:
            later, shift = moved
            found += [None] * (later - index)
            matches, last = _matches(joints, shift)
        else:
            found.append(None)
    return found


def _matches(joints: Sequence[Joint], shift: int) -> tuple[list[bool], int]:
    """Return which joints are found with a shift, and the last of them that is not a NULL; -1 if there is none."""
    matches = [joint.matches(shift) for joint in joints]
    return matches, max((at for at, found in enumerate(matches) if found and not joints[at].is_null), default=-1)


def last_of(shifts: Sequence[int | None], shift: int) -> int:
    """Return the last shift that is known; another if none is."""
    return next((known for known in reversed(shifts) if known is not None), shift)


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
